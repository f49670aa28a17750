"""How a linear SVM is trained on features, and its cost chosen.

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

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import (
  FunctionTransformer,
  Normalizer,
  StandardScaler,
)
from sklearn.svm import LinearSVC

from p3d_jax.evaluate.feature_lists import Samples
from p3d_jax.train.metrics import Scores, hits, per_class, summary

COSTS = (0.01, 0.1, 1.0, 10.0, 100.0)
# What is done to features -> what does it.
NORMALIZE = {
  "l2": Normalizer,
  "standard": StandardScaler,
  "none": FunctionTransformer,
}
# Steps of the solvers; Newton's of the primal need tens.
_STEPS = 1000


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
    if not 0 <= self.seed < 2**32:  # scikit-learn takes no other
      raise ValueError(f"seed={self.seed}: must be within 0..{2**32 - 1}")

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


_REMEDY = "one cost (--costs 1), which needs no folds"


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
      fewer = f"--folds {count}, or " if count > 1 else ""
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
        f"{names[lost[0]]!r}: another --folds or --seed, or {_REMEDY}"
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
