"""Metrics of videos, by the names of the field; numpy in, numbers out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Scores:
  """The scores of some videos.

  Attributes:
    index: position of each video in its split.
    clips: (videos, clips, classes).
    labels: (videos, max labels), padded with -1.
    readable: (videos,) of bool; one that could not be read counts as missed,
      whatever stands in its scores.
    problems: of those that could not be read, a line each.
  """

  index: np.ndarray
  clips: np.ndarray
  labels: np.ndarray
  readable: np.ndarray
  problems: tuple[str, ...] = ()

  @property
  def videos(self) -> np.ndarray:
    """Mean over the clips (videos, classes): the paper's video score."""
    return self.clips.mean(axis=1)


# The rank of what is no label, or was not read: no k reaches it.
_NEVER = np.iinfo(np.int64).max


def hits(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
  """Whether one of the k highest scores is one of the labels.

  Of equal scores the lower class index counts as higher, so a network that
  gives all classes the same score is not right everywhere.

  Args:
    scores: (rows, classes).
    labels: (rows, max labels), padded with -1.
    k: how many of the highest scores count.

  Returns:
    (rows,) of bool.
  """
  return np.any(_ranks(scores, labels) < k, axis=1)


def _ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """How many classes stand above each label, (rows, max labels)."""
  ranks = np.full(labels.shape, _NEVER)
  classes = np.arange(scores.shape[1])
  for column, label in enumerate(labels.T):
    own = np.take_along_axis(scores, np.maximum(label, 0)[:, None], 1)
    above = np.count_nonzero(scores > own, 1)
    tied = (scores == own) & (classes < label[:, None])
    ranks[:, column] = above + np.count_nonzero(tied, 1)
  return np.where(labels >= 0, ranks, _NEVER)


def summary(scores: Scores, ks: Sequence[int] = (1, 5)) -> dict[str, float]:
  """Returns the accuracies of a split, in percent, and what they are of.

  A video that could not be read counts as missed. One without a label counts
  in no accuracy, as there is nothing that it could be right in. An accuracy
  of nothing is nan.

  Args:
    scores: of the split.
    ks: of hit@k.

  Returns:
    "clip_hit@1": share of the clips whose highest score is a label.
    "video_hit@K" for each K: share of the videos with a label among the K
      highest scores (Sports-1M's hit@k and ActivityNet's "Hit@k").
    "video_avg_hit@K", only where a video has several labels: mean over the
      videos of the share of their labels that is among the K highest scores
      (ActivityNet's "Avg Hit@k").
    "mean_class_accuracy": video hit@1 of each class, see `per_class`; its
      mean over the classes that have videos.
    "mAP": mean of `average_precisions` over the same classes.
    "videos", "clips_per_video", and "unreadable", how many of the videos
      could not be read. "unlabelled", only where there are some: how many of
      the videos have no label.

  Raises:
    ValueError: a k is below one.
  """
  check_ks(ks)
  videos, labels = scores.videos, _distinct(scores.labels)
  labelled = (labels >= 0).any(1)
  ranks = _ranks(videos, labels)
  ranks[~scores.readable] = _NEVER
  found = {
    "clip_hit@1": _percent(_clip_hits(scores)[labelled]),
    **_hits_at(ranks[labelled], (labels[labelled] >= 0).sum(1), ks),
  }
  right, count = _by_class(np.any(ranks < 1, axis=1), labels, videos.shape[1])
  precisions = _average_precisions(videos, labels, scores.readable)
  found |= {
    "mean_class_accuracy": _percent(right[count > 0] / count[count > 0]),
    "mAP": _percent(precisions[count > 0]),
    "videos": len(videos),
    "clips_per_video": scores.clips.shape[1],
    "unreadable": int((~scores.readable).sum()),
  }
  if not labelled.all():
    found["unlabelled"] = int((~labelled).sum())
  return found


def check_ks(ks: Sequence[int]) -> None:
  """Raises a ValueError if a k of hit@k is below one."""
  if not all(k >= 1 for k in ks):
    raise ValueError(f"ks={tuple(ks)}: each k of hit@k must be >= 1")


def _hits_at(
  ranks: np.ndarray, labels: np.ndarray, ks: Sequence[int]
) -> dict[str, float]:
  """The hit@k of labelled videos, from their labels' ranks and number."""
  within = {k: (ranks < k).sum(1) for k in ks}
  found = {f"video_hit@{k}": _percent(n > 0) for k, n in within.items()}
  if (labels > 1).any():
    for k, n in within.items():
      found[f"video_avg_hit@{k}"] = _percent(n / labels)
  return found


def _percent(shares: np.ndarray) -> float:
  """The mean of shares in 0..1, in percent; nan if there are none."""
  return 100 * float(shares.mean()) if shares.size else float("nan")


def _distinct(labels: np.ndarray) -> np.ndarray:
  """Labels with padding in place of a video's label that it has already."""
  labels = labels.copy()
  for column in range(1, labels.shape[1]):
    again = (labels[:, :column] == labels[:, column, None]).any(1)
    labels[again, column] = -1
  return labels


def _clip_hits(scores: Scores) -> np.ndarray:
  """Whether each clip's highest score is a label, (videos, clips) of bool.

  No ranks here: a split has twenty times as many clips as videos.
  """
  top = scores.clips.argmax(-1)  # of equal scores the first, as in `hits`
  right = (top[:, :, None] == scores.labels[:, None]).any(-1)
  return right & scores.readable[:, None]


def _by_class(
  hit: np.ndarray, labels: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
  """How many videos of each class are right, and how many there are."""
  row, column = np.nonzero(labels >= 0)
  label = labels[row, column]
  right = np.bincount(label, hit[row], minlength=classes)
  return right, np.bincount(label, minlength=classes)


def video_hits(scores: Scores, k: int) -> np.ndarray:
  """Whether each video is right within k, (videos,) of bool."""
  return hits(scores.videos, scores.labels, k) & scores.readable


def per_class(scores: Scores, names: tuple[str, ...]) -> dict[str, dict]:
  """Returns video hit@1 (percent) and the number of videos, by class name.

  A video of several labels counts for each of them. A class without videos
  has the hit@1 None.
  """
  hit = video_hits(scores, 1)
  table = {}
  for index, name in enumerate(names):
    rows = (scores.labels == index).any(1)
    share = 100 * float(hit[rows].mean()) if rows.any() else None
    table[name] = {"video_hit@1": share, "videos": int(rows.sum())}
  return table


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
  """Returns the interpolated average precision of one class.

  As of VOC 2011 and ActivityNet: the precision at a recall is the highest at
  that recall or a higher one, and is summed where the recall rises. They rank
  videos of equal scores as the sort happens to leave them; here these enter
  together, so the order of the videos does not matter.

  Args:
    scores: (videos,) of this class; of one that was not scored -inf. If it is
      positive it is never found, and it is never a false alarm.
    positive: (videos,) of bool, whether the class is one of its labels.

  Returns:
    It, in 0..1; nan if no video is positive.
  """
  if not positive.any():
    return float("nan")
  scored = scores > -np.inf
  # Only where the recall rises, at a positive's score, can a term stand.
  steps, rises = np.unique(scores[scored & positive], return_counts=True)
  ranked = np.sort(scores[scored])
  taken = len(ranked) - np.searchsorted(ranked, steps, "left")
  found = np.cumsum(rises[::-1])[::-1]
  # `steps` rise, so the recall falls along them.
  best = np.maximum.accumulate(found / taken)
  return float((best * rises).sum() / positive.sum())


def average_precisions(scores: Scores) -> np.ndarray:
  """Returns the average precision of each class, (classes,) in 0..1.

  A video of several labels is positive for each. One that could not be read
  is a positive that is never found, and no false alarm for other classes, as
  if no prediction of it were handed in to ActivityNet. One without a label is
  left out: it is not known to be negative. nan for a class without videos;
  the mean over the others is mAP.
  """
  return _average_precisions(
    scores.videos, _distinct(scores.labels), scores.readable
  )


def _average_precisions(
  videos: np.ndarray, labels: np.ndarray, readable: np.ndarray
) -> np.ndarray:
  """As `average_precisions`, of (videos, classes) and distinct labels."""
  labelled = (labels >= 0).any(1)
  # A class becomes a row: sorting along memory is faster than across it.
  labels = np.array(labels[labelled].T, order="C")
  table = np.array(videos[labelled].T, order="C")
  table[:, ~readable[labelled]] = -np.inf
  return np.asarray(
    [
      average_precision(row, (labels == index).any(0))
      for index, row in enumerate(table)
    ]
  )


def confusion(scores: Scores) -> np.ndarray:
  """Returns which classes are taken for which, (classes, classes).

  A row is a label and a column the highest video score. A video of one label
  counts 1. One of several counts 1 where row and column are the prediction if
  it is right, else in equal shares in the rows of its labels. So the sum is
  the number of videos that have a label and could be read.
  """
  videos, labels = scores.videos, _distinct(scores.labels)
  table = np.zeros((videos.shape[1], videos.shape[1]))
  top = videos.argmax(1)
  right = (labels == top[:, None]).any(1)
  hit = top[right & scores.readable]
  np.add.at(table, (hit, hit), 1)
  missed = (labels >= 0) & (~right & scores.readable)[:, None]
  row, column = np.nonzero(missed)
  share = 1 / (labels >= 0).sum(1)[row]
  np.add.at(table, (labels[row, column], top[row]), share)
  return table
