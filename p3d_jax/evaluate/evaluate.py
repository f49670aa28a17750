"""Evaluates a checkpoint on a split: clip hit@1 beside video hit@1 and @5."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any

from etils import epath

from p3d_jax.checkpoint import model
from p3d_jax.data.pipeline import DEFAULT, Reading, check_channels
from p3d_jax.data.sets import VideoSet, open_set
from p3d_jax.evaluate.predict import classifier
from p3d_jax.files import write_aside
from p3d_jax.progress import Bar
from p3d_jax.train import logs, sharding
from p3d_jax.train.metrics import per_class, summary
from p3d_jax.train.score import Scorer


def evaluate(
  path: epath.PathLike,
  *,
  data: epath.PathLike | None = None,
  split: str | None = None,
  step: int | str = "last",
  clips: int = 20,
  batch: int = 8,
  reading: Reading = DEFAULT,
  out: epath.PathLike | None = None,
) -> dict[str, Any]:
  """Scores each video of a split by the mean over uniform centre-crop clips.

  Args:
    path: a workdir, or a checkpoint folder.
    data: folder of a built set; None takes the one that the run trained on.
    split: of the set; None takes the run's evaluation split.
    step: of a workdir: a number, "last" or "best".
    clips: a video.
    batch: videos at once, over all devices.
    reading: how videos are read.
    out: JSON file of the result; None writes none.

  Returns:
    "clip_hit@1", "video_hit@1" and "video_hit@5" (percent), "videos",
    "clips_per_video", "per_class", "unreadable" (how many could not be read;
    they count as missed), "problems" (why), and what was evaluated on what.

  Raises:
    ValueError: if there is no such checkpoint or set, their classes differ,
      the network has no classes, or `out` cannot be written.
    ArithmeticError: if the network's scores are not finite.
  """
  if out is not None:
    _check_out(epath.Path(out))
  folder = classifier(path, step, flow=True)
  module, variables, record = model.load(folder)
  videos = _open(folder, record, data, split)
  check_channels(videos, record.preprocessing.channels)
  mesh = sharding.mesh()
  if batch % mesh.size:
    raise ValueError(
      f"batch is {batch}: it must be a multiple of the {mesh.size} devices"
    )
  scorer = Scorer(module, record.preprocessing, record.scores, mesh)
  with Bar("evaluate", len(videos)) as bar:
    scores = scorer.videos(
      variables,
      videos,
      clips=clips,
      batch=batch,
      reading=reading,
      progress=lambda done: bar.update(done, line=done == len(videos)),
    )
  result = {
    **summary(scores),
    "per_class": per_class(scores, record.labels),
    "problems": list(scores.problems),
    "checkpoint": str(folder),
    "data": str(videos.directory),
    "split": videos.split,
    "sha256": record.sha256,
    "versions": logs.versions(),
  }
  if out is not None:
    write_aside(out, json.dumps(result, indent=2) + "\n")
  return result


def default_out(
  path: epath.PathLike, step: int | str = "last", split: str | None = None
) -> epath.Path | None:
  """Returns where `p3d evaluate` writes if it is not told.

  Args:
    path: a workdir, or a checkpoint folder.
    step: of a workdir: a number, "last" or "best".
    split: that is evaluated; None: the run's evaluation split.

  Returns:
    <workdir>/evaluation-<step>-<split>.json, so that two evaluations do not
    write over each other; None, no file, for a folder that is no workdir.

  Raises:
    ValueError: if there is no such checkpoint.
  """
  folder = model.find(path, step)
  workdir = epath.Path(path).expanduser().absolute()
  if folder.parent != workdir / model.CHECKPOINTS:
    return None
  split = split or _recorded_split(model.read_record(folder))
  # train[:10%] is a split, and no name for a file.
  name = re.sub(r"[^\w+-]", "_", split or "")
  return workdir / f"evaluation-{folder.name}-{name}.json"


def _recorded_split(record: model.Record) -> str | None:
  """The evaluation split of the run that made a checkpoint."""
  return record.provenance.get("config", {}).get("data", {}).get("eval_split")


def _open(
  folder: epath.Path,
  record: model.Record,
  data: epath.PathLike | None,
  split: str | None,
) -> VideoSet:
  """Opens the split to evaluate: what is named, else what the run recorded."""
  recorded = record.provenance.get("data")
  split = split or _recorded_split(record)
  if not (data or recorded) or not split:
    missing = [] if data or recorded else ["--data"]
    missing += [] if split else ["--split"]
    raise ValueError(
      f"{folder} does not say what data it was trained on: name "
      f"{' and '.join(missing)}"
    )
  if not data and not (epath.Path(recorded) / "dataset_info.json").exists():
    raise ValueError(
      f"{folder} was trained on {recorded}, and no built set is there: name it "
      "with --data"
    )
  videos = open_set(data or recorded, split)
  if tuple(videos.label_names) != record.labels:
    raise ValueError(
      f"the classes of {videos.directory} are not those of {folder}: "
      f"{_some(videos.label_names)}, not {_some(record.labels)}; convert with "
      "--labels, or train a new head with config.init_from"
    )
  return videos


def _some(labels: Sequence[str]) -> str:
  """Returns how many labels there are, and the first."""
  shown = ", ".join(labels[:3]) + (", ..." if len(labels) > 3 else "")
  return f"{len(labels)} ({shown})"


def _check_out(out: epath.Path) -> None:
  """Refuses a file that could not be written in the end."""
  if "://" in os.fspath(out):
    return  # buckets have no folders, and rights that only writing tells
  if out.is_dir():
    raise ValueError(f"out={os.fspath(out)!r}: it is a folder, not a file")
  if not out.parent.is_dir():
    raise ValueError(f"out={os.fspath(out)!r}: there is no such folder")
  if not os.access(out.parent, os.W_OK | os.X_OK):
    raise ValueError(f"out={os.fspath(out)!r}: the folder cannot be written to")


def report(result: dict[str, Any]) -> str:
  """Returns the result as people read it."""
  lines = [
    f"{result['videos']} videos of {result['split']}, "
    f"{result['clips_per_video']} clips each, centre crop",
    f"clip hit@1 {result['clip_hit@1']:.1f}   "
    f"video hit@1 {result['video_hit@1']:.1f}   "
    f"video hit@5 {result['video_hit@5']:.1f}",
  ]
  if result["problems"]:
    lines.append(
      f"{len(result['problems'])} could not be read and count as missed:"
    )
    lines += [f"  {problem}" for problem in result["problems"]]
  width = max(len(name) for name in result["per_class"])
  for name, row in result["per_class"].items():
    share = row["video_hit@1"]
    shown = "no videos" if share is None else f"{share:5.1f}"
    lines.append(f"  {name:<{width}}  {shown}  of {row['videos']}")
  return "\n".join(lines)
