"""The evaluation that a page shows: what `p3d evaluate` wrote, if it fits."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from typing import Any

from etils import epath

from p3d_jax.checkpoint import model
from p3d_jax.data.clips import Views
from p3d_jax.data.sets import find_set
from p3d_jax.evaluate.score_file import VideoScores, load_scores
from p3d_jax.train.metrics import summary


def evaluation(
  numbers: epath.Path,
  record: model.Record,
  data: epath.PathLike | None,
  views: Views | None,
  run: Callable[[Views | None], Any],
) -> tuple[dict[str, Any], VideoScores]:
  """Reads what `p3d evaluate` wrote of this very network, or has it written.

  Args:
    numbers: the JSON file.
    record: of the checkpoint.
    data: the set that is asked for; None: any.
    views: likewise.
    run: evaluates.
  """
  found = _read(numbers)
  if found is not None and _fits(found, record, data, views):
    beside = numbers.with_suffix(".npz")
    if beside.exists() and _agree(found, scores := load_scores(beside)):
      return found, scores
    # From before scores were kept, or one of the two is left of another time.
    views = views or views_of(found)
  run(views)
  found = _read(numbers)
  assert found is not None
  return found, load_scores(numbers.with_suffix(".npz"))


def _read(numbers: epath.Path) -> dict[str, Any] | None:
  if not numbers.exists():
    return None
  try:
    return json.loads(numbers.read_text())
  except ValueError as error:
    raise ValueError(
      f"{os.fspath(numbers)} is damaged: {error}; `p3d evaluate` writes it anew"
    ) from error


def _fits(
  found: dict[str, Any],
  record: model.Record,
  data: epath.PathLike | None,
  views: Views | None,
) -> bool:
  """Whether an evaluation is of this network, and of what is asked for."""
  if found.get("sha256") != record.sha256:
    return False
  if data is not None and os.fspath(find_set(data)) != found["data"]:
    return False
  return views is None or views == views_of(found)


def views_of(found: dict[str, Any]) -> Views:
  """Returns the views of an evaluation; older files have clips alone."""
  fields = found.get("views", {"clips": found["clips_per_video"]})
  return Views(**fields)


def _agree(found: dict[str, Any], scores: VideoScores) -> bool:
  """Whether the scores are those that the numbers were computed from.

  A stop between the two files leaves one of them of another time.
  """
  of = ("sha256", "data", "split", "views")
  if any(scores.about.get(name) != found.get(name) for name in of):
    return False
  again = summary(scores.to_scores(), ks=())
  names = ("videos", "unreadable", "mean_class_accuracy", "mAP")
  return all(_same(again[name], found.get(name, -1)) for name in names)


def _same(a: float, b: float) -> bool:
  """Whether two numbers are the same but for rounding; NaN is NaN."""
  return math.isclose(a, b, abs_tol=1e-6) or (math.isnan(a) and math.isnan(b))
