"""Fuses the saved scores of several streams, as RGB and optical flow."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from p3d_jax.evaluate.score_file import VideoScores, load_scores, save_scores
from p3d_jax.files import absolute, check_out, write_json
from p3d_jax.train.metrics import per_class, summary

# A saved score is of a video, so these say nothing.
_OF_CLIPS = ("clip_hit@1", "clips_per_video")


def fuse(
  streams: Sequence[VideoScores], weights: Sequence[float] | None = None
) -> VideoScores:
  """Returns the weighted mean of the scores of the same videos.

  A video that a stream could not read has the mean of the streams that could,
  by their weights; it is unreadable only if none could.

  Args:
    streams: their videos may stand in any order; that of the first is taken.
    weights: one a stream, of any sum; None: all equal.

  Raises:
    ValueError: there are fewer than two streams, they are not of the same
      videos, labels and classes, or the weights do not fit.
  """
  shares = _shares(len(streams), weights)
  first = streams[0]
  rows = [_rows(first, other, k + 1) for k, other in enumerate(streams)]
  total = np.zeros(first.scores.shape)
  weight = np.zeros(len(first.ids))
  for stream, order, share in zip(streams, rows, shares, strict=True):
    readable = stream.readable[order]
    # In float64, so that equal scores stay equal.
    scores = stream.scores[order[readable]].astype(np.float64)
    total[readable] += share * scores
    weight[readable] += share
  readable = weight > 0
  total[readable] /= weight[readable, None]
  return VideoScores(
    ids=first.ids,
    scores=total.astype(np.float32),
    labels=first.labels,
    label_names=first.label_names,
    readable=readable,
    about={
      "fused": [
        {"weight": share, "about": stream.about}
        for share, stream in zip(shares, streams, strict=True)
      ]
    },
  )


def _shares(count: int, weights: Sequence[float] | None) -> list[float]:
  """Returns the weights of so many streams, of sum 1."""
  if count < 2:
    raise ValueError(f"there are scores of {count} stream: fusion needs two")
  given = [1.0] * count if weights is None else [float(w) for w in weights]
  if len(given) != count or not all(w > 0 and math.isfinite(w) for w in given):
    raise ValueError(
      f"weights={given}: they must be {count} numbers > 0, one a stream"
    )
  return [w / math.fsum(given) for w in given]


def _rows(first: VideoScores, other: VideoScores, number: int) -> np.ndarray:
  """Where the first stream's videos stand in another, (videos,) of int.

  Raises:
    ValueError: the other stream, which has this number, is not of the same
      classes, videos or labels.
  """
  if other.label_names != first.label_names:
    raise ValueError(
      f"the classes of stream {number} are not those of stream 1: "
      f"{_difference(other.label_names, first.label_names)}"
    )
  place = {video: row for row, video in enumerate(other.ids)}
  if len(place) < len(other.ids):
    raise ValueError(f"stream {number} has videos of the same id")
  for here, there, has, lacks in (
    (first.ids, place, 1, number),
    (other.ids, set(first.ids), number, 1),
  ):
    missing = [video for video in here if video not in there]
    if missing:
      more = f" and {len(missing) - 1} more" if missing[1:] else ""
      raise ValueError(
        f"stream {lacks} has no video {missing[0]!r}{more}, which stream {has} "
        "has"
      )
  rows = np.asarray([place[video] for video in first.ids], int)
  _check_labels(first, other, rows, number)
  return rows


def _difference(found: Sequence[str], wanted: Sequence[str]) -> str:
  """Names the first class in which two lists part."""
  if len(found) != len(wanted):
    return f"{len(found)}, not {len(wanted)}"
  k = next(k for k, name in enumerate(wanted) if found[k] != name)
  return f"number {k} is {found[k]!r}, not {wanted[k]!r}"


def _check_labels(
  first: VideoScores, other: VideoScores, rows: np.ndarray, number: int
) -> None:
  """Refuses labels that differ by more than their order and padding."""
  for video, one, two in zip(
    first.ids, first.labels.tolist(), other.labels[rows].tolist(), strict=True
  ):
    if set(one) - {-1} != set(two) - {-1}:
      raise ValueError(
        f"the labels of video {video!r} are {two} in stream {number}, and "
        f"{one} in stream 1"
      )


def fuse_files(
  paths: Sequence[epath.PathLike],
  *,
  weights: Sequence[float] | None = None,
  ks: Sequence[int] = (1, 5),
  out: epath.PathLike | None = None,
  scores: epath.PathLike | None = None,
) -> dict[str, Any]:
  """Fuses files of scores, and measures each and what they make together.

  Args:
    paths: of .npz files that `p3d evaluate` wrote, one a stream.
    weights: one a stream, of any sum; None: all equal.
    ks: of video hit@k.
    out: JSON file of the result; None writes none.
    scores: .npz file of the fused scores; None writes none.

  Returns:
    "streams": of each its "scores" (the path), "weight" (of sum 1), the video
    metrics of `metrics.summary`, and "about"; "fused": the video metrics of
    the fused scores, and "per_class".

  Raises:
    ValueError: see `fuse` and `load_scores`; or a file cannot be written.
  """
  _check_written(paths, out, scores)
  _shares(len(paths), weights)
  streams = [load_scores(path) for path in paths]
  fused = fuse(streams, weights)
  result = {
    "streams": [
      {
        "scores": os.fspath(path),
        "weight": entry["weight"],
        **_video_metrics(stream, ks),
        "about": stream.about,
      }
      for path, stream, entry in zip(
        paths, streams, fused.about["fused"], strict=True
      )
    ],
    "fused": {
      **_video_metrics(fused, ks),
      "per_class": per_class(fused.to_scores(), fused.label_names),
    },
  }
  if scores is not None:
    save_scores(scores, fused)
  if out is not None:
    write_json(out, result)
  return result


def _check_written(
  paths: Sequence[epath.PathLike],
  out: epath.PathLike | None,
  scores: epath.PathLike | None,
) -> None:
  """Refuses files that could not, or should not, be written in the end."""
  read = {absolute(path) for path in paths}
  for name, file, suffix in (("out", out, ".json"), ("scores", scores, ".npz")):
    if file is None:
      continue
    if epath.Path(file).suffix != suffix:
      raise ValueError(
        f"{name}={os.fspath(file)!r}: its name must end in {suffix}"
      )
    if absolute(file) in read:
      raise ValueError(
        f"{name}={os.fspath(file)!r}: it is one of the scores to fuse"
      )
    check_out(file)


def _video_metrics(
  scores: VideoScores, ks: Sequence[int]
) -> dict[str, float | int]:
  """The metrics of scores, without those of clips."""
  found = summary(scores.to_scores(), ks)
  return {k: v for k, v in found.items() if k not in _OF_CLIPS}


def report(result: dict[str, Any]) -> str:
  """Returns the result as a table: a row a stream, and one of the fusion."""
  fused = result["fused"]
  accuracies = [k for k, v in fused.items() if isinstance(v, float)]
  rows = [["weight", *(k.replace("_", " ") for k in accuracies), "unreadable"]]
  for row in (*result["streams"], fused):
    weight = f"{row['weight']:.3f}" if "weight" in row else ""
    rows.append(
      [weight, *(f"{row[k]:.1f}" for k in accuracies), str(row["unreadable"])]
    )
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  ends = ["", *(row["scores"] for row in result["streams"]), "fused"]
  lines = [
    "  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True))
    + (f"  {end}" if end else "")
    for row, end in zip(rows, ends, strict=True)
  ]
  return "\n".join([f"{fused['videos']} videos", *lines])
