"""A linear SVM on features of videos: the paper's main use of the network.

The paper: pool5 averaged over 20 clips of a video, and a linear SVM; UCF101
with its three official splits and their mean accuracy, ActivityNet with top-1,
top-3 and mAP on its validation videos.

How the SVM is made, which the paper does not say: see `linear_svm.py`.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sklearn
from etils import epath

from p3d_jax.evaluate.feature_lists import Task, open_task
from p3d_jax.evaluate.linear_svm import DEFAULT, Recipe, folds, train_and_test
from p3d_jax.files import check_out, write_json
from p3d_jax.progress import Bar
from p3d_jax.train.metrics import check_ks
from p3d_jax.version import versions

# What a split's numbers are averaged over the splits by.
_ACCURACIES = ("video_hit@", "video_avg_hit@", "mean_class_accuracy", "mAP")


def svm(
  features: epath.PathLike,
  test_features: epath.PathLike | None = None,
  *,
  train: Sequence[str] = (),
  test: Sequence[str] = (),
  data: epath.PathLike | None = None,
  endpoint: str = "pool5",
  recipe: Recipe = DEFAULT,
  ks: Sequence[int] = (1, 5),
  max_missing: int = 0,
  out: epath.PathLike | None = None,
) -> dict[str, Any]:
  """Trains and tests a linear SVM on features, for each pair of lists.

  Args:
    features: see `open_task`, as for the next four.
    test_features: file of the test videos.
    train: lists of the set, in pairs with `test`.
    test: lists of the set.
    data: folder of the set.
    endpoint: of the network.
    recipe: of the SVM.
    ks: of hit@k.
    max_missing: how many videos may be missing, see `open_task`.
    out: JSON file of the result; None writes none.

  Returns:
    "splits", for each pair what `train_and_test` returns with "train",
    "test", "left_out" and "shared_sources"; "mean" of their accuracies;
    "endpoint", "normalize", "costs", "folds", "seed", "features" (what these
    say of themselves) and "versions".

  Raises:
    ValueError: an argument, a file or a list is not as it must be.
  """
  if out is not None:
    check_out(out)
  check_ks(ks)
  task = open_task(
    features,
    test_features,
    train=train,
    test=test,
    data=data,
    endpoint=endpoint,
    max_missing=max_missing,
  )
  check_folds(task, recipe)
  splits = []
  with Bar("svm", len(task.pairs) * recipe.fits) as bar:
    done = counter(bar)
    for pair in task.pairs:
      found = train_and_test(
        task.samples.take(pair.train_rows),
        task.samples.take(pair.test_rows),
        task.names,
        recipe,
        ks,
        done,
      )
      splits.append(pair.about() | found)
  result = {
    "splits": splits,
    "mean": mean(splits),
    **about(task.about, endpoint, recipe),
  }
  if out is not None:
    write_json(out, result)
  return result


def check_folds(task: Task, recipe: Recipe) -> None:
  """Raises a ValueError if a pair has too few training videos for folds."""
  if len(recipe.costs) > 1:
    for pair in task.pairs:
      # Parted for nothing, and not after an hour on the pair before.
      collections.deque(
        folds(task.samples.take(pair.train_rows), task.names, recipe), 0
      )


def counter(bar: Bar) -> Callable[[], None]:
  """Returns what moves a bar by one."""
  count = 0

  def done() -> None:
    nonlocal count
    count += 1
    bar.update(count, line=None)

  return done


def mean(splits: Sequence[dict[str, Any]]) -> dict[str, float]:
  """Returns the mean of each accuracy over the splits that have it."""
  values: dict[str, list[float]] = {}
  for split in splits:
    for name, value in split.items():
      if name.startswith(_ACCURACIES):
        values.setdefault(name, []).append(value)
  return {name: float(np.mean(found)) for name, found in values.items()}


def about(
  features: dict[str, Any], endpoint: str, recipe: Recipe
) -> dict[str, Any]:
  """Returns what a result is of, and how it was made."""
  names = ("checkpoint", "sha256", "data", "split", "views", "pool")
  return {
    "endpoint": endpoint,
    **dataclasses.asdict(recipe),
    "features": {name: features.get(name) for name in names},
    "versions": versions() | {"scikit-learn": sklearn.__version__},
  }


def report(result: dict[str, Any]) -> str:
  """Returns the result as people read it."""
  lines = [how(result)]
  for split in result["splits"]:
    lines.append(
      f"{split['train']} ({split['train_videos']} videos) -> {split['test']} "
      f"({split['videos']} videos)"
    )
    lines.append(f"  {accuracies(split)}")
    lines += [f"  {line}" for line in remarks(split, result["costs"])]
  if len(result["splits"]) > 1:
    lines.append(f"mean of {len(result['splits'])}")
    lines.append(f"  {accuracies(result['mean'])}")
  return "\n".join(lines)


def how(result: dict[str, Any]) -> str:
  """Returns what the SVM is of, and what was done to the features."""
  done = {
    "l2": "each video's divided by its L2 norm",
    "standard": "each number to mean 0, deviation 1 over the training videos",
    "none": "as they are",
  }
  return f"linear SVM on {result['endpoint']}, {done[result['normalize']]}"


def accuracies(numbers: dict[str, Any]) -> str:
  """Returns the accuracies among some numbers, in a line."""
  return "   ".join(
    f"{name.replace('_', ' ')} {value:.1f}"
    for name, value in numbers.items()
    if name.startswith(_ACCURACIES)
  )


def remarks(split: dict[str, Any], costs: Sequence[float]) -> list[str]:
  """Returns what a reader of a split's accuracy should know, a line each."""
  measured = split["cross_validation"]
  lines = [f"cost {split['cost']:g}, the only one given"]
  if measured:
    row = "  ".join(f"{x['cost']:g}: {x['accuracy']:.1f}" for x in measured)
    lines = [f"cost {split['cost']:g}, by cross-validation  ({row})"]
    if split["cost"] == max(costs):
      lines.append("that is the largest of the costs: larger may be better")
  if not split["converged"]:
    lines.append("the solver did not converge: smaller costs do")
  if split["untrained"]:
    lines.append(
      f"{len(split['untrained'])} classes of test videos have no training "
      f"video, first {split['untrained'][0]}: their videos are missed"
    )
  for name, text in (
    ("unreadable", "test videos without features count as missed"),
    ("unlabelled", "test videos without a label count nowhere"),
    ("left_out", "training videos without features or label left out"),
    ("untested", "test videos could not be read and count nowhere"),
    ("shared_sources", "test videos share a source with training videos"),
  ):
    if split.get(name):
      lines.append(f"{split[name]} {text}")
  return lines
