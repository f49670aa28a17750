"""Leave one video out: the protocol of the dynamic scenes, on features.

The paper: Dynamic Scene (13 classes of 10 videos) and YUPENN (14 of 30); each
video in turn is tested by a linear SVM that all others trained. As for the
SVM, see `linear_svm.py`: what the paper does not say is said there.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from etils import epath

from p3d_jax.evaluate.feature_lists import (
  Samples,
  check_unreadable,
  read_features,
  to_samples,
)
from p3d_jax.evaluate.linear_svm import (
  DEFAULT,
  Recipe,
  best_cost,
  check_sources,
  cross_validate,
  decide,
  prepare,
)
from p3d_jax.evaluate.svm import about, counter, how
from p3d_jax.files import check_out, write_json
from p3d_jax.progress import Bar
from p3d_jax.train.metrics import Scores, per_class, summary


def scenes(
  features: epath.PathLike,
  *,
  endpoint: str = "pool5",
  recipe: Recipe = DEFAULT,
  max_missing: int = 0,
  out: epath.PathLike | None = None,
) -> dict[str, Any]:
  """Tests each video of a feature file by an SVM that the others trained.

  Args:
    features: file with a row for each video.
    endpoint: of the network.
    recipe: of the SVM; of several costs, each video's is chosen by a
      cross-validation within the others.
    max_missing: how many videos may have been left out of the file because
      they could not be read. They count nowhere.
    out: JSON file of the result; None writes none.

  Returns:
    "video_hit@1" and "mean_class_accuracy" (percent), "videos", "left_out",
    "shared_sources" (how many videos share a source with another),
    "per_class", "chosen" (how often each cost was taken), "not_converged"
    (how many SVMs), "predictions" (each video's id and class), and how the
    SVMs were made.

  Raises:
    ValueError: an argument or the file is not as it must be, a video has no
      label or several, or a class has one video.
  """
  if out is not None:
    check_out(out)
  found = read_features(features, endpoint)
  check_unreadable(features, found, max_missing)
  samples = to_samples(found, endpoint)
  _check(found.ids, samples, found.label_names, recipe)
  decisions, costs, slow = _each(samples, found.label_names, recipe)
  scores = Scores(
    index=np.arange(len(found.ids)),
    clips=decisions[:, None],
    labels=samples.labels,
    readable=samples.readable,
  )
  # No mAP: decision values of different SVMs are no ranking of videos.
  accuracy = summary(scores, (1,))
  counts = np.bincount(samples.groups)
  result = {
    "video_hit@1": accuracy["video_hit@1"],
    "mean_class_accuracy": accuracy["mean_class_accuracy"],
    "videos": len(found.ids),
    "left_out": len(found.about.get("unreadable", ())),
    "shared_sources": int((counts[samples.groups] > 1).sum()),
    "per_class": per_class(scores, found.label_names),
    "chosen": [
      {"cost": cost, "videos": costs.count(cost)} for cost in recipe.costs
    ],
    "not_converged": slow,
    "predictions": [
      {"id": name, "class": found.label_names[k]}
      for name, k in zip(found.ids, decisions.argmax(1), strict=True)
    ],
    **about(found.about, endpoint, recipe),
  }
  if out is not None:
    write_json(out, result)
  return result


def _check(
  ids: tuple[str, ...],
  samples: Samples,
  names: tuple[str, ...],
  recipe: Recipe,
) -> None:
  """Raises a ValueError if these videos cannot be left out one by one."""
  number = np.count_nonzero(samples.labels >= 0, axis=1)
  odd = np.flatnonzero(number != 1)
  if odd.size:
    raise ValueError(
      f"{odd.size} videos do not have one label, first {ids[odd[0]]!r} with "
      f"{number[odd[0]]}: each is tested as a scene of one class"
    )
  labels = samples.labels.max(axis=1)
  count = np.bincount(labels, minlength=len(names))
  if (count == 1).any():
    alone = int((count == 1).argmax())
    video = ids[int((labels == alone).argmax())]
    raise ValueError(
      f"class {names[alone]!r} has one video, {video!r}: left "
      "out, it leaves none to train on"
    )
  if (count > 0).sum() < 2:
    raise ValueError("all videos are of one class: an SVM needs two")
  for row in range(len(ids)):
    check_sources(samples.take(np.arange(len(ids)) != row), names, recipe)


def _each(
  samples: Samples, names: tuple[str, ...], recipe: Recipe
) -> tuple[np.ndarray, list[float], int]:
  """Leaves each video out once.

  Returns:
    Decision values (videos, classes), the cost taken for each video, and how
    many of the last SVMs did not converge.
  """
  count = len(samples.labels)
  if recipe.normalize != "standard" and samples.x.shape[1] > count:
    # In coordinates of the span of all videos, norms and products are the
    # same, and so is every SVM: several times as fast.
    _, corner = np.linalg.qr(samples.x.T.astype(np.float64))
    samples = dataclasses.replace(samples, x=corner.T)
  decisions = np.empty((count, len(names)))
  costs, slow = [], 0
  with Bar("scenes", count * recipe.fits) as bar:
    done = counter(bar)
    for row in range(count):
      kept = np.arange(count) != row
      rest = samples.take(kept)
      cost = best_cost(cross_validate(rest, names, recipe, done), recipe)
      a, b = prepare(recipe.normalize, rest.x, samples.x[~kept])
      decisions[row], converged = decide(
        a, rest.labels, b, len(names), cost, recipe.seed
      )
      costs.append(cost)
      slow += not converged
      done()
  return decisions, costs, slow


def report(result: dict[str, Any]) -> str:
  """Returns the result as people read it."""
  chosen = ", ".join(
    f"{row['cost']:g} ({row['videos']} videos)"
    for row in result["chosen"]
    if row["videos"]
  )
  by = (
    "by cross-validation within the others" if len(result["costs"]) > 1 else ""
  )
  lines = [
    how(result),
    f"{result['videos']} videos, each left out once",
    f"accuracy {result['video_hit@1']:.1f}   "
    f"mean class accuracy {result['mean_class_accuracy']:.1f}",
    f"cost {chosen} {by}".rstrip(),
  ]
  for name, text in (
    ("left_out", "videos could not be read and count nowhere"),
    ("shared_sources", "videos share a source with another video"),
    ("not_converged", "SVMs did not converge: smaller costs do"),
  ):
    if result[name]:
      lines.append(f"{result[name]} {text}")
  width = max(len(name) for name in result["per_class"])
  for name, row in result["per_class"].items():
    share = row["video_hit@1"]
    shown = "no videos" if share is None else f"{share:5.1f}"
    lines.append(f"  {name:<{width}}  {shown}  of {row['videos']}")
  return "\n".join(lines)
