"""Do two videos show the same action? ASLAN's protocol, on features.

The paper: features of four endpoints, each averaged over the clips of a video;
12 similarities of the two videos of a pair for each, so 48 numbers; these
L2-normalised, and a linear SVM over the benchmark's 10 folds, trained on nine
and tested on one. It reports an accuracy of 80.8 and an AUC of 87.9.

Which 12 similarities: see `similarities.py`. The benchmark's list was NOT
CONFIRMED, so a number from here stands beside the paper's with that difference.

What the papers do not say, and what is done here:

- Features are taken as they stand in the file, not normalised before.
- "L2-normalised": each pair's 48 numbers are divided by their norm. Numbers of
  large maps are then most of it. `normalize="standard"` is what C3D did in the
  same protocol (Tran et al., ICCV 2015): each of the 48 to mean 0 and
  deviation 1 over the training pairs.
- The SVM is scikit-learn's LinearSVC (squared hinge, L2). Its cost is the one
  of `COSTS` with the best mean accuracy when each of the nine training folds
  in turn is left out; the smallest of equals. No fold is ever parted.
- The accuracy is the mean over folds, its standard error the deviation over
  folds (of n - 1) by the root of n. AUC is the mean over folds of the area
  under each fold's ROC; its deviation is that over folds (of n - 1).
"""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import sklearn
from etils import epath
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.svm import LinearSVC

from p3d_jax.data.sets import open_set
from p3d_jax.evaluate.feature_file import Features, load_features
from p3d_jax.evaluate.similarities import SIMILARITIES, SOURCE, compare, over
from p3d_jax.files import check_out, write_json
from p3d_jax.progress import Bar
from p3d_jax.train import logs

# The paper's prob, pool5, res5c and res4b35: here a stage is named, not its
# last block.
ENDPOINTS = ("prob", "pool5", "res5", "res4")
# Far up: where a norm divides all 48 numbers, what tells pairs apart is small.
COSTS = (1e-2, 1e-1, 1.0, 10.0, 1e2, 1e3, 1e4, 1e5)

# Newton steps of LinearSVC; those of 48 numbers need tens.
_STEPS = 10_000


def _l2(vectors: np.ndarray, train: np.ndarray) -> np.ndarray:
  del train  # a pair's own numbers are all that it takes
  return over(
    vectors,
    np.broadcast_to(
      np.linalg.norm(vectors, axis=1, keepdims=True), vectors.shape
    ),
  )


def _standard(vectors: np.ndarray, train: np.ndarray) -> np.ndarray:
  mean, spread = vectors[train].mean(0), vectors[train].std(0)
  return (vectors - mean) / np.where(spread > 0, spread, 1)


# How the numbers of pairs are normalised: takes (pairs, numbers) and which
# pairs are trained on, bool (pairs,).
NORMALIZE: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
  "l2": _l2,
  "standard": _standard,
}


class Fold(NamedTuple):
  """What came of one fold, tested on after training on all others.

  Attributes:
    fold: its number.
    pairs: how many it has.
    accuracy: percent.
    auc: area under its ROC, percent.
    cost: of the SVM, chosen without this fold.
  """

  fold: int
  pairs: int
  accuracy: float
  auc: float
  cost: float


def cross_validate(
  vectors: np.ndarray,
  same: np.ndarray,
  folds: np.ndarray,
  *,
  costs: Sequence[float] = COSTS,
  normalize: str = "l2",
  progress: Callable[[int], None] = lambda trained: None,
) -> list[Fold]:
  """Tests on each fold a linear SVM of all others.

  Args:
    vectors: (pairs, numbers).
    same: bool (pairs,).
    folds: int (pairs,), the fold of each pair; three folds or more.
    costs: to choose from; ascending.
    normalize: "l2", "standard": see the top of this file.
    progress: called with how many sets of folds have been trained on, out of
      `trainings(number of folds)`.

  Returns:
    A result for each fold, in order.
  """
  names = np.unique(folds)
  within = {fold: np.zeros(len(costs)) for fold in names}
  # Without folds a and b: tested on b it is a choice for a, and on a for b.
  for done, (a, b) in enumerate(itertools.combinations(names, 2), 1):
    train = ~np.isin(folds, (a, b))
    scaled = NORMALIZE[normalize](vectors, train)
    for k, cost in enumerate(costs):
      svm = _trained(scaled[train], same[train], cost)
      for of, tested in ((a, b), (b, a)):
        rows = folds == tested
        within[of][k] += svm.score(scaled[rows], same[rows])
    progress(done)
  results = []
  for fold in names:
    # Sums of the same accuracies may part in the last digit.
    cost = costs[int(np.argmax(within[fold].round(9)))]
    results.append(_test(vectors, same, folds, fold, cost, normalize))
    progress(trainings(len(names)) - len(names) + len(results))
  return results


def trainings(folds: int) -> int:
  """Returns how many sets of folds `cross_validate` trains on."""
  return math.comb(folds, 2) + folds


def _test(
  vectors: np.ndarray,
  same: np.ndarray,
  folds: np.ndarray,
  fold: int,
  cost: float,
  normalize: str,
) -> Fold:
  """Trains on all other folds, and tests on this."""
  train, rows = folds != fold, folds == fold
  scaled = NORMALIZE[normalize](vectors, train)
  svm = _trained(scaled[train], same[train], cost)
  margin = svm.decision_function(scaled[rows])
  return Fold(
    fold=int(fold),
    pairs=int(rows.sum()),
    accuracy=100 * float(np.mean((margin > 0) == same[rows])),
    auc=100 * float(roc_auc_score(same[rows], margin)),
    cost=float(cost),
  )


def _trained(vectors: np.ndarray, same: np.ndarray, cost: float) -> LinearSVC:
  """Trains an SVM; the primal is solved by Newton steps, without chance."""
  svm = LinearSVC(C=cost, dual=False, max_iter=_STEPS)
  with warnings.catch_warnings():
    warnings.simplefilter("error", ConvergenceWarning)
    try:
      return svm.fit(vectors, same)
    except ConvergenceWarning:
      raise ArithmeticError(
        f"costs: the SVM of cost {cost:g} did not converge in {_STEPS} steps; "
        "take smaller ones"
      ) from None


class _Pairs(NamedTuple):
  """The pairs that there are features of.

  Attributes:
    first: int (pairs,), rows of the feature file.
    second: of the other video of each pair.
    same: bool (pairs,).
    folds: int (pairs,).
    missing: ids of videos of pairs that have no features.
    left_out: how many pairs have such a video.
  """

  first: np.ndarray
  second: np.ndarray
  same: np.ndarray
  folds: np.ndarray
  missing: list[str]
  left_out: int


def similarity(
  path: epath.PathLike,
  *,
  data: epath.PathLike | None = None,
  endpoints: Sequence[str] = ENDPOINTS,
  normalize: str = "l2",
  costs: Sequence[float] = COSTS,
  max_missing: int = 0,
  out: epath.PathLike | None = None,
) -> dict[str, Any]:
  """Measures how well features tell whether two videos show the same action.

  Args:
    path: a feature file with a row for each video; as in the paper, of whole
      maps (`p3d features --pool none`).
    data: folder of the built set with the pairs; None: the set that the
      features are of.
    endpoints: whose features are compared.
    normalize: of a pair's numbers, "l2" or "standard": see the top of this
      file.
    costs: of the SVM, to choose from.
    max_missing: how many videos of pairs may have no features; their pairs are
      left out.
    out: JSON file of the result; None writes none.

  Returns:
    "accuracy", "accuracy_standard_error", "auc" and "auc_deviation" (percent),
    "folds", and what was compared how.

  Raises:
    ValueError: a file, a set, an endpoint or a number is not as it must be, or
      more videos have no features than may.
    ArithmeticError: an SVM does not converge.
  """
  costs = _checked(endpoints, normalize, costs, max_missing)
  if out is not None:
    check_out(out)
  features = load_features(path)
  if features.clip is not None:
    raise ValueError(
      f"{os.fspath(path)}: its rows are clips; similarity takes a row for each "
      "video, as `p3d features` writes without --per-clip"
    )
  where = data or features.about.get("data")
  if not where:
    raise ValueError(
      f"{os.fspath(path)} does not say what set it is of: name it with --data"
    )
  pairs = _pairs(features, where, max_missing)
  vectors = _vectors(features, endpoints, pairs)
  count = trainings(len(np.unique(pairs.folds)))
  with Bar("folds", count) as bar:
    folds = cross_validate(
      vectors,
      pairs.same,
      pairs.folds,
      costs=costs,
      normalize=normalize,
      progress=lambda done: bar.update(done, line=done == count),
    )
  result = {
    **summary(folds),
    "pairs": len(pairs.same),
    "endpoints": list(endpoints),
    "numbers": vectors.shape[1],
    "normalize": normalize,
    "costs": list(costs),
    "similarities": [
      {"name": s.name, "formula": s.formula} for s in SIMILARITIES
    ],
    "similarities_source": SOURCE,
    "missing": pairs.missing,
    "pairs_left_out": pairs.left_out,
    "features": os.fspath(path),
    "features_about": features.about,
    "data": os.fspath(where),
    "versions": logs.versions() | {"scikit-learn": sklearn.__version__},
  }
  if out is not None:
    write_json(out, result)
  return result


def summary(folds: Sequence[Fold]) -> dict[str, Any]:
  """Returns the means over folds and what they deviate by, in percent."""
  accuracy = np.array([fold.accuracy for fold in folds])
  auc = np.array([fold.auc for fold in folds])
  return {
    "accuracy": float(accuracy.mean()),
    "accuracy_standard_error": float(
      accuracy.std(ddof=1) / math.sqrt(len(folds))
    ),
    "auc": float(auc.mean()),
    "auc_deviation": float(auc.std(ddof=1)),
    "folds": [fold._asdict() for fold in folds],
  }


def _checked(
  endpoints: Sequence[str],
  normalize: str,
  costs: Sequence[float],
  max_missing: int,
) -> list[float]:
  """Refuses what cannot be; returns the costs, ascending."""
  if not endpoints or len(set(endpoints)) < len(endpoints):
    raise ValueError(
      f"endpoints: {' '.join(endpoints) or 'none'}: name one or more, each once"
    )
  if normalize not in NORMALIZE:
    raise ValueError(
      f"normalize={normalize!r}: it must be {' or '.join(NORMALIZE)}"
    )
  if not costs:
    raise ValueError("costs: name at least one")
  for cost in costs:
    if not 0 < cost < math.inf:
      raise ValueError(f"costs: {cost:g} must be above 0, and finite")
  if max_missing < 0:
    raise ValueError(f"max_missing is {max_missing}: it must be >= 0")
  return sorted(set(costs))


def _pairs(
  features: Features, data: epath.PathLike, max_missing: int
) -> _Pairs:
  """Finds the rows of the set's pairs."""
  videos_of = open_set(data, "all")
  try:
    listed = videos_of.document("pairs")
  except ValueError as error:
    raise ValueError(
      f"{os.fspath(videos_of.directory)} has no pairs: similarity takes a set "
      "with pairs of videos, as ASLAN"
    ) from error
  row = {name: k for k, name in enumerate(features.ids)}
  videos = dict.fromkeys(v for pair in listed for v in (pair["a"], pair["b"]))
  missing = [video for video in videos if video not in row]
  if len(missing) > max_missing:
    raise ValueError(
      f"no features of {len(missing)} of the {len(videos)} videos of pairs, "
      f"first {missing[0]!r}; --max-missing {len(missing)} leaves their pairs "
      "out"
    )
  kept = [pair for pair in listed if pair["a"] in row and pair["b"] in row]
  pairs = _Pairs(
    first=np.array([row[pair["a"]] for pair in kept], np.int64),
    second=np.array([row[pair["b"]] for pair in kept], np.int64),
    same=np.array([pair["same"] for pair in kept], bool),
    folds=np.array([pair["fold"] for pair in kept], np.int64),
    missing=missing,
    left_out=len(listed) - len(kept),
  )
  _check_folds(pairs, data)
  return pairs


def _check_folds(pairs: _Pairs, data: epath.PathLike) -> None:
  """Refuses pairs that no SVM can be trained on, or no AUC be measured of."""
  names = np.unique(pairs.folds)
  if len(names) < 3:
    raise ValueError(
      f"{os.fspath(data)}: its pairs are of {len(names)} folds: they must be "
      "of 3 or more, one to test on and two to choose the cost with"
    )
  for fold in names:
    same = pairs.same[pairs.folds == fold]
    if same.all() or not same.any():
      raise ValueError(
        f"{os.fspath(data)}: all {len(same)} pairs of fold {fold} are "
        f"{'the same' if same.all() else 'not the same'}: a fold must have both"
      )


def _vectors(
  features: Features, endpoints: Sequence[str], pairs: _Pairs
) -> np.ndarray:
  """Returns float64 (pairs, 12 for each endpoint)."""
  arrays = [features.endpoint(name) for name in endpoints]
  rows = np.union1d(pairs.first, pairs.second)
  for name, array in zip(endpoints, arrays, strict=True):
    _check_values(name, array, rows, features.ids)
  parts = []
  count = len(pairs.same)
  with Bar("similarities", count * len(arrays)) as bar:
    for k, array in enumerate(arrays):
      before = k * count

      def show(done: int, before: int = before) -> None:
        bar.advance(before + done)

      parts.append(compare(array, pairs.first, pairs.second, progress=show))
  return np.concatenate(parts, axis=1)


def _check_values(
  name: str, array: np.ndarray, rows: np.ndarray, ids: Sequence[str]
) -> None:
  """Refuses features that have no roots, a video at a time."""
  for row in rows:
    low, high = array[row].min(), array[row].max()
    if not (np.isfinite(low) and np.isfinite(high)):
      raise ValueError(
        f"endpoint {name!r}: the features of {ids[row]!r} are not finite"
      )
    if low < 0:
      raise ValueError(
        f"endpoint {name!r}: {ids[row]!r} has {low:g} in it, and similarities "
        "take roots: features must be >= 0, as prob, pool5, res5 and res4 are"
      )


# How features were pooled -> what is compared.
_POOLS = {"none": "whole maps", "mean": "means of maps"}


def report(result: Mapping[str, Any]) -> str:
  """Returns the result as people read it."""
  pool = result["features_about"].get("pool")
  lines = [
    f"{result['pairs']} pairs, {len(result['folds'])} folds, "
    f"{' '.join(result['endpoints'])} ({_POOLS.get(pool, 'pool unknown')}): "
    f"{result['numbers']} numbers a pair, normalised: {result['normalize']}",
    f"accuracy {result['accuracy']:.1f} +- "
    f"{result['accuracy_standard_error']:.1f} (standard error)   "
    f"AUC {result['auc']:.1f} +- {result['auc_deviation']:.1f} "
    "(deviation over folds)",
  ]
  if result["missing"]:
    lines.append(
      f"{result['pairs_left_out']} pairs left out: no features of "
      f"{len(result['missing'])} videos, first {result['missing'][0]}"
    )
  lines += [
    f"  fold {row['fold']:>2}  accuracy {row['accuracy']:5.1f}  "
    f"AUC {row['auc']:5.1f}  cost {row['cost']:g}  of {row['pairs']}"
    for row in result["folds"]
  ]
  lines.append(f"similarities: {SOURCE}")
  return "\n".join(lines)
