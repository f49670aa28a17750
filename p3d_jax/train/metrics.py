"""Metrics of videos, by the names of the field; numpy in, numbers out."""

from __future__ import annotations

import dataclasses

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
  top = np.argsort(-scores, axis=-1, kind="stable")[:, :k]
  return (top[:, :, None] == labels[:, None, :]).any((1, 2))


def summary(scores: Scores) -> dict[str, float]:
  """Returns clip hit@1, video hit@1 and video hit@5, in percent.

  Beside them "videos" and "clips_per_video", and "unreadable", how many of the
  videos could not be read; those count as missed.
  """
  videos, clips, classes = scores.clips.shape
  each_clip = scores.clips.reshape(-1, classes)
  labels = np.repeat(scores.labels, clips, axis=0)
  readable = np.repeat(scores.readable, clips)
  return {
    "clip_hit@1": 100 * float((hits(each_clip, labels, 1) & readable).mean()),
    "video_hit@1": 100 * float(video_hits(scores, 1).mean()),
    "video_hit@5": 100 * float(video_hits(scores, 5).mean()),
    "videos": videos,
    "clips_per_video": clips,
    "unreadable": int((~scores.readable).sum()),
  }


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
