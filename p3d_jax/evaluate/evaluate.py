"""Evaluates a checkpoint on a split: clip hit@1 beside video hit@1 and more."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from p3d_jax.checkpoint import model
from p3d_jax.data import set_cache
from p3d_jax.data.clips import Views
from p3d_jax.data.pipeline import DEFAULT, Reading, check_channels
from p3d_jax.data.sets import VideoSet, open_set
from p3d_jax.evaluate.predict import classifier
from p3d_jax.evaluate.score_file import VideoScores, save_scores
from p3d_jax.files import absolute, check_bucket, check_out, write_json
from p3d_jax.hosts.roll import current
from p3d_jax.progress import Bar
from p3d_jax.train import logs, sharding
from p3d_jax.train.metrics import Scores, check_ks, per_class, summary
from p3d_jax.train.score import STALL, Scorer


def evaluate(
  path: epath.PathLike,
  *,
  data: epath.PathLike | None = None,
  split: str | None = None,
  step: int | str = "last",
  views: Views | None = None,
  ks: Sequence[int] = (1, 5),
  batch: int = 8,
  reading: Reading = DEFAULT,
  out: epath.PathLike | None = None,
) -> dict[str, Any]:
  """Scores each video of a split by the mean over its clips.

  It runs on all devices of all processes; the first process writes.

  Args:
    path: a workdir, or a checkpoint folder.
    data: folder of a built set; None takes the one that the run trained on.
    split: of the set; None takes the run's evaluation split.
    step: of a workdir: a number, "last" or "best".
    views: clips and crops of each video; None: 20 uniform clips, centre crop.
    ks: of video hit@k.
    batch: videos at once, over all devices.
    reading: how videos are read.
    out: JSON file of the result, which ends in .json; the score of each video
      is written beside it, to the same name with .npz (`load_scores`). None
      writes neither.

  Returns:
    What `metrics.summary` gives ("clip_hit@1", "video_hit@1", ..., percent;
    "videos", "clips_per_video", "unreadable": how many could not be read, which
    count as missed), "per_class", "problems" (why), and what was evaluated on
    what, by which "views".

  Raises:
    ValueError: if there is no such checkpoint or set, their classes differ,
      the network has no classes, or `out` cannot be written.
    ArithmeticError: if the network's scores are not finite.
  """
  views = views or Views()
  check_ks(ks)
  if out is not None:
    _check_names(epath.Path(out))
  mesh = sharding.mesh()
  sharding.check_batch(batch, mesh)
  folder = classifier(path, step, flow=True)
  module, variables, record = model.load(folder)
  videos = _open(folder, record, data, split)
  check_channels(videos, record.preprocessing.channels)
  scorer = Scorer(module, record.preprocessing, record.scores, mesh)
  bar = Bar("evaluate", len(videos), host=jax.process_index())
  with current().watch(STALL), bar:
    scores = scorer.videos(
      variables,
      videos,
      views=views,
      batch=batch,
      reading=reading,
      progress=lambda done: bar.update(done, line=None),
    )
  result = {
    **summary(scores, ks),
    "views": dataclasses.asdict(views),
    "per_class": per_class(scores, record.labels),
    "problems": list(scores.problems),
    "checkpoint": str(folder),
    "data": str(videos.directory),
    "split": videos.split,
    "sha256": record.sha256,
    "versions": logs.versions(),
  }
  if out is not None and jax.process_index() == 0:
    _write(epath.Path(out), result, scores, videos, record.scores)
  return result


def _write(
  out: epath.Path,
  result: dict[str, Any],
  scores: Scores,
  videos: VideoSet,
  scored: str,
) -> None:
  """Writes the result, and before it the score of each video beside it."""
  about = {
    name: result[name]
    for name in ("checkpoint", "sha256", "data", "split", "views", "versions")
  } | {"scores": scored}
  save_scores(
    out.with_suffix(".npz"),
    VideoScores(
      ids=tuple(videos.ids()),
      scores=scores.videos.astype(np.float32),
      labels=scores.labels,
      label_names=tuple(videos.label_names),
      readable=scores.readable,
      about=about,
    ),
  )
  write_json(out, result)


def _check_names(out: epath.Path) -> None:
  """Refuses files that could not be written in the end."""
  check_out(out)
  if out.suffix != ".json":
    raise ValueError(f"out={str(out)!r}: it must end in .json")
  check_out(out.with_suffix(".npz"))


def default_out(
  path: epath.PathLike,
  step: int | str = "last",
  split: str | None = None,
  views: Views | None = None,
) -> epath.Path | None:
  """Returns where `p3d evaluate` writes if it is not told.

  Args:
    path: a workdir, or a checkpoint folder.
    step: of a workdir: a number, "last" or "best".
    split: that is evaluated; None: the run's evaluation split.
    views: clips and crops of each video; None: uniform clips, centre crop.

  Returns:
    <workdir>/evaluation-<step>-<split>.json, with "-random<seed>" and "-3crops"
    before the dot where clips and crops are such, so that evaluations of
    different kinds do not write over each other; None, no file, for a folder
    that is no workdir.

  Raises:
    ValueError: if there is no such checkpoint.
  """
  folder = model.find(path, step)
  workdir = absolute(path)
  if folder.parent != workdir / model.CHECKPOINTS:
    return None
  split = split or _recorded_split(model.read_record(folder))
  # train[:10%] is a split, and no name for a file.
  name = re.sub(r"[^\w+-]", "_", split or "")
  views = views or Views()
  if views.sampling == "random":
    name += f"-random{views.seed}"
  if views.crops > 1:
    name += f"-{views.crops}crops"
  return workdir / f"evaluation-{folder.name}-{name}.json"


def _recorded_split(record: model.Record) -> str | None:
  """The evaluation split of the run that made a checkpoint."""
  return record.provenance.get("config", {}).get("data", {}).get("eval_split")


def cache_of(record: model.Record) -> str:
  """The folder for copies of sets: this machine's, else the run's."""
  config = record.provenance.get("config", {})
  return set_cache.named(config.get("data", {}).get("cache", ""))


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
  if not data:
    check_bucket(recorded, f"the data of {folder}")
  if not data and not (absolute(recorded) / "dataset_info.json").exists():
    raise ValueError(
      f"{folder} was trained on {recorded}, and no built set is there: name it "
      "with --data"
    )
  videos = open_set(
    data or recorded, split, cache=cache_of(record), name="data"
  )
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


def report(result: dict[str, Any]) -> str:
  """Returns the result as people read it."""
  hits = [name for name in result if "hit@" in name]
  lines = [
    f"{result['videos']} videos of {result['split']}, "
    f"{Views(**result['views']).told()}",
    "   ".join(f"{name.replace('_', ' ')} {result[name]:.1f}" for name in hits),
    f"mean class accuracy {result['mean_class_accuracy']:.1f}   "
    f"mAP {result['mAP']:.1f}",
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
