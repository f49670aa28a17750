"""Evaluates a checkpoint on a split: clip hit@1 beside video hit@1 and @5."""

from __future__ import annotations

import json
from typing import Any

from etils import epath

from p3d_jax.checkpoint import model
from p3d_jax.data.sets import open_set
from p3d_jax.files import write_aside
from p3d_jax.train import logs, sharding
from p3d_jax.train.metrics import per_class, summary
from p3d_jax.train.progress import Bar
from p3d_jax.train.score import Scorer


def evaluate(
  path: epath.PathLike,
  *,
  data: epath.PathLike | None = None,
  split: str | None = None,
  step: int | str = "last",
  clips: int = 20,
  batch: int = 8,
  workers: int = 0,
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
    workers: processes that decode; 0: threads of this one.
    out: JSON file of the result; None writes none.

  Returns:
    "clip_hit@1", "video_hit@1" and "video_hit@5" (percent), "videos",
    "clips_per_video", "per_class", and what was evaluated on what.

  Raises:
    ValueError: if there is no such checkpoint or set, or their classes differ.
  """
  folder = model.find(path, step)
  module, variables, record = model.load(folder)
  config = record.provenance.get("config", {}).get("data", {})
  data = data or record.provenance.get("data")
  split = split or config.get("eval_split")
  if not data or not split:
    raise ValueError(
      f"{folder} does not say what data it was trained on: name --data and "
      "--split"
    )
  videos = open_set(data, split)
  if tuple(videos.label_names) != record.labels:
    raise ValueError(
      f"the classes of {videos.directory} are not those of {folder}: "
      f"{list(videos.label_names)} and {list(record.labels)}"
    )
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
      workers=workers,
      progress=lambda done: bar.update(done, line=done == len(videos)),
    )
  result = {
    **summary(scores),
    "per_class": per_class(scores, record.labels),
    "checkpoint": str(folder),
    "data": str(videos.directory),
    "split": split,
    "sha256": record.sha256,
    "versions": logs.versions(),
  }
  if out is not None:
    write_aside(out, json.dumps(result, indent=2) + "\n")
  return result


def report(result: dict[str, Any]) -> str:
  """Returns the result as people read it."""
  lines = [
    f"{result['videos']} videos of {result['split']}, "
    f"{result['clips_per_video']} clips each, centre crop",
    f"clip hit@1 {result['clip_hit@1']:.1f}   "
    f"video hit@1 {result['video_hit@1']:.1f}   "
    f"video hit@5 {result['video_hit@5']:.1f}",
  ]
  width = max(len(name) for name in result["per_class"])
  for name, row in result["per_class"].items():
    share = row["video_hit@1"]
    shown = "no videos" if share is None else f"{share:5.1f}"
    lines.append(f"  {name:<{width}}  {shown}  of {row['videos']}")
  return "\n".join(lines)
