"""A linear SVM on features of videos: the paper's main use of the network.

The paper: pool5 averaged over 20 clips of a video, and a linear SVM; UCF101
with its three official splits and their mean accuracy, ActivityNet with top-1,
top-3 and mAP on its validation videos.

The paper states neither the SVM's cost nor how features are normalised. Here:

- Each video's feature is divided by its L2 norm. `normalize="standard"` takes
  each number to mean 0 and deviation 1 over the training videos, "none" takes
  features as they are.
- The SVM is scikit-learn's LinearSVC: one class against the rest, squared
  hinge, L2 penalty (of the bias too). Videos of several labels are positives
  of each.
- The cost is that of `COSTS` with the highest hit@1 in a cross-validation
  within the training videos, the smallest of equals. Videos cut from one
  source are on one side of a fold: clips of one film look alike, and a fold
  that parts them measures memory.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import sklearn
from etils import epath
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import (
  FunctionTransformer,
  Normalizer,
  StandardScaler,
)
from sklearn.svm import LinearSVC

from p3d_jax.evaluate.feature_lists import Samples, Task, open_task
from p3d_jax.files import check_out, write_aside
from p3d_jax.progress import Bar
from p3d_jax.train.metrics import Scores, hits, per_class, summary
from p3d_jax.version import versions

COSTS = (0.01, 0.1, 1.0, 10.0, 100.0)
# What is done to features -> what does it.
NORMALIZE = {
  "l2": Normalizer,
  "standard": StandardScaler,
  "none": FunctionTransformer,
}
# Steps of the solvers; Newton's of the primal need tens.
_STEPS = 1000
# What a split's numbers are averaged over the splits by.
_ACCURACIES = ("video_hit@", "video_avg_hit@", "mean_class_accuracy", "mAP")


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How an SVM is made.

  Attributes:
    normalize: what is done to features: a name of `NORMALIZE`.
    costs: among which a cross-validation chooses; one is taken as it is.
    folds: of the cross-validation.
    seed: of the folds, and of the solver's order of videos.
  """

  normalize: str = "l2"
  costs: tuple[float, ...] = COSTS
  folds: int = 3
  seed: int = 0

  def __post_init__(self) -> None:
    object.__setattr__(self, "costs", tuple(sorted(map(float, self.costs))))
    if self.normalize not in NORMALIZE:
      raise ValueError(
        f"normalize={self.normalize!r}: must be one of {', '.join(NORMALIZE)}"
      )
    fine = all(0 < cost < math.inf for cost in self.costs)
    if not self.costs or not fine or len(set(self.costs)) < len(self.costs):
      raise ValueError(
        f"costs={self.costs}: must be one or more above 0, each once"
      )
    if self.folds < 2:
      raise ValueError(f"folds={self.folds}: must be >= 2")
    if self.seed < 0:
      raise ValueError(f"seed={self.seed}: must be >= 0")

  @property
  def fits(self) -> int:
    """How many SVMs a split takes."""
    count = len(self.costs)
    return count * self.folds + 1 if count > 1 else 1


DEFAULT = Recipe()


def prepare(
  normalize: str, train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Normalises features by what the training videos say.

  Args:
    normalize: a name of `NORMALIZE`.
    train: (videos, dims).
    test: (videos, dims).

  Returns:
    The two in float64.
  """
  scaler = NORMALIZE[normalize]()
  # Exact zeros beside numbers of 1e-8 are no deviation in float32.
  train = scaler.fit_transform(train.astype(np.float64))
  return train, scaler.transform(test.astype(np.float64))


def decide(
  train: np.ndarray,
  labels: np.ndarray,
  test: np.ndarray,
  classes: int,
  cost: float,
  seed: int,
) -> tuple[np.ndarray, bool]:
  """Trains an SVM and asks it about other videos.

  Args:
    train: float64 (videos, dims), normalised.
    labels: of these (videos, max labels), padded with -1; each has one.
    test: float64 (videos, dims).
    classes: how many there are.
    cost: of the SVM.
    seed: of the solver.

  Returns:
    Decision values (test videos, classes), and whether the solver converged.
    A class without training videos has one value for all videos, below all
    others.

  Raises:
    ValueError: all training videos are of one class.
  """
  trained = np.unique(labels[labels >= 0])
  if len(trained) < 2:
    raise ValueError("the training videos are of one class: an SVM needs two")
  if train.shape[1] > len(train):
    # The weights lie in the span of the training videos: in coordinates of it
    # the SVM is the same, and several times as fast.
    basis, corner = np.linalg.qr(train.T)
    train, test = np.ascontiguousarray(corner.T), test @ basis
  several = (labels >= 0).sum(1).max() > 1
  y: np.ndarray = labels.max(axis=1)
  if several:
    # (videos, trained classes): whether it is one of the video's labels.
    y = np.any(labels[:, :, None] == trained, axis=1).astype(np.int64)
  # Both find one optimum. The dual's way is faster where dims are many, and
  # may not arrive where they are few and the cost is high.
  duals = (True, False) if 8 * train.shape[1] > len(train) else (False,)
  for dual in duals:
    svm: Any = LinearSVC(C=cost, dual=dual, random_state=seed, max_iter=_STEPS)
    svm = OneVsRestClassifier(svm) if several else svm
    found, converged = _fit(svm, train, y, test)
    if converged:
      break
  decisions = np.full((len(test), classes), found.min(initial=0) - 1)
  decisions[:, trained] = found
  return decisions, converged


def _fit(
  svm: Any, train: np.ndarray, y: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, bool]:
  """Decision values (videos, trained classes), and whether it converged."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", ConvergenceWarning)
    # A label that all training videos have gets one value for all.
    warnings.filterwarnings("ignore", "Label .* is present in all", UserWarning)
    svm.fit(train, y)
  found = svm.decision_function(test)
  if found.ndim == 1:  # two classes: how much it is the second
    found = np.stack([-found, found], 1)
  slow = [w for w in caught if issubclass(w.category, ConvergenceWarning)]
  return found, not slow


_REMEDY = "give one cost, which needs no folds"


def check_sources(
  samples: Samples, names: Sequence[str], recipe: Recipe
) -> None:
  """Raises a ValueError if a class has fewer sources than there are folds."""
  if len(recipe.costs) == 1:
    return
  labels = samples.labels
  for label in np.unique(labels[labels >= 0]):
    rows = np.any(labels == label, axis=1)
    count = len(np.unique(samples.groups[rows]))
    if count < recipe.folds:
      fewer = f"ask for {count} folds, or " if count > 1 else ""
      raise ValueError(
        f"folds={recipe.folds}: the training videos of class {names[label]!r} "
        f"are of {count} sources, and each fold needs one: {fewer}{_REMEDY}"
      )


def folds(
  samples: Samples, names: Sequence[str], recipe: Recipe
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Parts videos so that those of one source stand together.

  Args:
    samples: to be parted, each with a label.
    names: of the classes.
    recipe: says how many folds.

  Yields:
    Positions of the training and of the held-out videos of each fold.

  Raises:
    ValueError: a class has too few sources, or a fold holds all of one.
  """
  check_sources(samples, names, recipe)
  labels = samples.labels
  # Of several labels the rarest is the hardest to spread.
  number = np.bincount(labels[labels >= 0], minlength=len(names))
  rarity = np.where(labels >= 0, number[labels], np.iinfo(np.int64).max)
  rarest = labels[np.arange(len(labels)), rarity.argmin(1)]
  parting = StratifiedGroupKFold(
    recipe.folds, shuffle=True, random_state=recipe.seed
  )
  with warnings.catch_warnings():
    # Labels that are never the rarest: what matters is looked at below.
    warnings.filterwarnings("ignore", "The least populated class", UserWarning)
    parted = list(parting.split(samples.x, rarest, samples.groups))
  for train, held in parted:
    lost = np.setdiff1d(labels[labels >= 0], labels[train])
    if lost.size:
      raise ValueError(
        f"folds={recipe.folds}: one holds all training videos of class "
        f"{names[lost[0]]!r}: ask for another number or seed, or {_REMEDY}"
      )
    yield train, held


def cross_validate(
  samples: Samples,
  names: Sequence[str],
  recipe: Recipe,
  done: Callable[[], None] = lambda: None,
) -> list[dict[str, float]]:
  """Measures each cost within the training videos.

  Args:
    samples: the training videos, each with a label.
    names: of the classes.
    recipe: of the SVM.
    done: called after each SVM.

  Returns:
    "cost" and "accuracy", the hit@1 in percent over the held-out videos of
    all folds, of each cost from the smallest on. Empty for one cost.

  Raises:
    ValueError: the videos are too few for folds.
  """
  if len(recipe.costs) == 1:
    return []
  right = np.zeros((len(recipe.costs), len(samples.labels)), bool)
  for train, held in folds(samples, names, recipe):
    a, b = prepare(recipe.normalize, samples.x[train], samples.x[held])
    for k, cost in enumerate(recipe.costs):
      decisions, _ = decide(
        a, samples.labels[train], b, len(names), cost, recipe.seed
      )
      right[k, held] = hits(decisions, samples.labels[held], 1)
      done()
  return [
    {"cost": cost, "accuracy": 100 * float(row.mean())}
    for cost, row in zip(recipe.costs, right, strict=True)
  ]


def best_cost(measured: list[dict[str, float]], recipe: Recipe) -> float:
  """Returns the cost of the highest accuracy, the smallest of equals."""
  if not measured:
    return recipe.costs[0]
  return max(measured, key=lambda row: (row["accuracy"], -row["cost"]))["cost"]


def train_and_test(
  train: Samples,
  test: Samples,
  names: tuple[str, ...],
  recipe: Recipe,
  ks: Sequence[int] = (1, 5),
  done: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
  """Trains on some videos and tests on others.

  Args:
    train: videos with features and a label each.
    test: videos; those that are not readable count as missed.
    names: of the classes.
    recipe: of the SVM.
    ks: of hit@k.
    done: called after each SVM.

  Returns:
    What `summary` says of the videos, but of clips; "cost",
    "cross_validation" as `cross_validate` returns it, "converged",
    "train_videos", "untrained", the classes of test videos that have no
    training video, and "per_class".

  Raises:
    ValueError: the videos are too few for folds, or of one class.
  """
  measured = cross_validate(train, names, recipe, done)
  cost = best_cost(measured, recipe)
  a, b = prepare(recipe.normalize, train.x, test.x)
  decisions, converged = decide(
    a, train.labels, b, len(names), cost, recipe.seed
  )
  done()
  scores = Scores(
    index=np.arange(len(test.labels)),
    clips=decisions[:, None],
    labels=test.labels,
    readable=test.readable,
  )
  found = summary(scores, ks)
  lost = np.setdiff1d(test.labels[test.labels >= 0], train.labels)
  return {
    **{name: x for name, x in found.items() if not name.startswith("clip")},
    "cost": cost,
    "cross_validation": measured,
    "converged": converged,
    "train_videos": len(train.labels),
    "untrained": [names[label] for label in lost],
    "per_class": per_class(scores, names),
  }


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
    write_aside(out, json.dumps(result, indent=2) + "\n")
  return result


def check_ks(ks: Sequence[int]) -> None:
  """Raises a ValueError if a k of hit@k is below one."""
  if not ks or min(ks) < 1:
    raise ValueError(f"ks={tuple(ks)}: must be one or more, each >= 1")


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
    bar.advance(count)

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
