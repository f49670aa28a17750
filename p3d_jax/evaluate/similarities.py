"""The 12 numbers that ASLAN's protocol takes of a pair of feature vectors.

The paper takes those of the benchmark (Kliper-Gross, Hassner, Wolf: The Action
Similarity Labeling Challenge, TPAMI 34(3), 2012, Table 3), and that list was
NOT CONFIRMED here. The benchmark's own page of results names two of the twelve,
sum(x*y) and sum(sqrt(x*y)), and its ReadMe says that there are similarities and
distances. `SIMILARITIES` has these two and ten of our choice that are usual
between histograms. So a number from here stands beside the paper's with that
difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special

SOURCE = (
  "sum(x*y) and sum(sqrt(x*y)) are named by the ASLAN benchmark's page of "
  "results; the other ten are this project's choice: the benchmark's list of "
  "12 (TPAMI 2012, Table 3) was not confirmed"
)

# Numbers of a feature in one block of pairs: 2 MiB stay in a processor's cache.
_BLOCK = 1 << 18

Compare = Callable[[np.ndarray, np.ndarray], np.ndarray]


def over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
  """Divides; 0/0 is 0."""
  return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


def _dot(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return np.einsum("...i,...i->...", x, y)


def _affinity(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return np.sqrt(x * y).sum(-1)


def _cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return over(_dot(x, y), np.sqrt(_dot(x, x) * _dot(y, y)))


def _intersection(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return np.minimum(x, y).sum(-1)


def _ruzicka(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return over(_intersection(x, y), np.maximum(x, y).sum(-1))


def _euclidean(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return np.linalg.norm(x - y, axis=-1)


def _hellinger(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return np.linalg.norm(np.sqrt(x) - np.sqrt(y), axis=-1)


def _chi_square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return over((x - y) ** 2, x + y).sum(-1)


def _jensen_shannon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  mean = (x + y) / 2
  # rel_entr(p, q) is p log(p/q), and 0 at p = 0.
  return (special.rel_entr(x, mean) + special.rel_entr(y, mean)).sum(-1) / 2


class Similarity(NamedTuple):
  """One number of a pair.

  Attributes:
    name: of the similarity, or of the distance.
    formula: of vectors x and y; m is (x + y)/2, 0/0 is 0, 0 log 0 is 0.
    of: takes two arrays (..., dims) of non-negative float64; returns (...,).
  """

  name: str
  formula: str
  of: Compare


# Of our choice, but for the first and the third: see the top of this file.
SIMILARITIES = (
  Similarity("product", "sum(x*y)", _dot),
  Similarity(
    "root_product", "sqrt(sum(x*y))", lambda x, y: np.sqrt(_dot(x, y))
  ),
  Similarity("affinity", "sum(sqrt(x*y))", _affinity),
  Similarity(
    "root_affinity",
    "sqrt(sum(sqrt(x*y)))",
    lambda x, y: np.sqrt(_affinity(x, y)),
  ),
  Similarity("cosine", "sum(x*y) / sqrt(sum(x*x) * sum(y*y))", _cosine),
  Similarity("intersection", "sum(min(x, y))", _intersection),
  Similarity("ruzicka", "sum(min(x, y)) / sum(max(x, y))", _ruzicka),
  Similarity(
    "manhattan", "sum(abs(x - y))", lambda x, y: np.abs(x - y).sum(-1)
  ),
  Similarity("euclidean", "sqrt(sum((x - y)^2))", _euclidean),
  Similarity("hellinger", "sqrt(sum((sqrt(x) - sqrt(y))^2))", _hellinger),
  Similarity("chi_square", "sum((x - y)^2 / (x + y))", _chi_square),
  Similarity(
    "jensen_shannon",
    "(sum(x*log(x/m)) + sum(y*log(y/m))) / 2",
    _jensen_shannon,
  ),
)


def compare(
  array: np.ndarray,
  first: np.ndarray,
  second: np.ndarray,
  *,
  progress: Callable[[int], None] = lambda pairs: None,
) -> np.ndarray:
  """Compares the rows of pairs, some pairs at a time.

  Args:
    array: (rows, ...) of one endpoint, not negative; a map counts as one
      vector of all its numbers.
    first: int (pairs,), the row of each pair's one video.
    second: int (pairs,), of the other.
    progress: called with how many pairs are done.

  Returns:
    float64 (pairs, 12), in the order of `SIMILARITIES`.
  """
  flat = array.reshape(len(array), -1)
  step = max(_BLOCK // max(flat.shape[1], 1), 1)
  made = np.empty((len(first), len(SIMILARITIES)))
  for start in range(0, len(first), step):
    block = slice(start, start + step)
    x = flat[first[block]].astype(np.float64)
    y = flat[second[block]].astype(np.float64)
    for k, similarity in enumerate(SIMILARITIES):
      made[block, k] = similarity.of(x, y)
    progress(min(start + step, len(first)))
  return made
