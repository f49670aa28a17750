"""The strict merge: everything is used, filled or listed, or an error."""

import ml_dtypes
import numpy as np
import pytest

from p3d_jax.weights.merge import Row, WeightsError, merge


def identity(array):
  return array


ROWS = {"a": Row(("x",), identity), "b/var": Row(("y", "z"), np.add)}
LEAVES = {"a": (2,), "b/var": (3,)}


def arrays(**changed):
  made = {"x": np.ones(2), "y": np.ones(3), "z": np.full(3, 2.0)}
  return {k: v for k, v in {**made, **changed}.items() if v is not None}


def test_all_that_fits_is_used_and_listed():
  given = arrays(count=np.int64(3))
  filled, report = merge(ROWS, given, LEAVES, {"count": "no use for counts"})
  np.testing.assert_array_equal(filled["b/var"], [3, 3, 3])
  assert {v.dtype for v in filled.values()} == {np.dtype(np.float32)}
  assert report.used == {"a": ("x",), "b/var": ("y", "z")}
  assert report.unused == {"no use for counts": ["count"]}


@pytest.mark.parametrize(
  ("changed", "match"),
  [
    ({"x": None}, "^1 arrays are missing: x$"),
    ({"w": np.ones(1)}, "^1 arrays are of no use: w$"),
    ({"x": np.ones(3)}, r"^1 arrays do not fit: x \(3,\) is no a \(2,\)$"),
    ({"y": np.ones((2, 2))}, r"y \(2, 2\) is no b/var \(3,\)"),
    ({"y": np.full(3, -9.0)}, "y holds negative variances"),
    ({"z": np.array([1, np.nan, 1])}, "z holds numbers that are not finite"),
    ({"z": np.array([1, np.inf, 1])}, "z holds numbers that are not finite"),
    ({"x": np.full(2, 1 / 3)}, "x is float64, with numbers that float32"),
    ({"x": np.full(2, 1e300)}, "x is float64, with numbers that float32"),
    ({"x": np.ones(2, int)}, "x is int64, and must be one of float32"),
    ({"x": None, "w": np.ones(1)}, "missing: x; 1 arrays are of no use: w"),
  ],
  ids=str,
)
def test_anything_else_is_an_error(changed, match):
  with pytest.raises(WeightsError, match=match):
    merge(ROWS, arrays(**changed), LEAVES, {})


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_taken_to_the_bit(kind):
  """Every float16 and every bfloat16 is a float32."""
  half = np.random.default_rng(0).standard_normal(2).astype(kind)
  filled, _ = merge(ROWS, arrays(x=half), LEAVES, {})
  np.testing.assert_array_equal(filled["a"], half)


def test_what_is_made_is_finite_too():
  """As a variance that is divided by a factor of almost nothing."""
  rows = {"b/var": Row(("y",), lambda y: y * np.inf)}
  with pytest.raises(WeightsError, match="y makes b/var that is not finite"):
    merge(rows, {"y": np.ones(3)}, {"b/var": (3,)}, {})


def test_one_line_for_what_two_leaves_need():
  rows = {"a": ROWS["a"], "c": ROWS["a"]}
  with pytest.raises(WeightsError, match="^1 arrays are missing: x$"):
    merge(rows, {}, {"a": (2,), "c": (2,)}, {})
  bad = {"x": np.full(2, np.nan)}
  with pytest.raises(WeightsError, match="^1 arrays do not fit: x holds"):
    merge(rows, bad, {"a": (2,), "c": (2,)}, {})


def test_long_lists_are_cut_in_the_message_alone():
  extra = {f"n{i:03d}": np.ones(1) for i in range(100)}
  with pytest.raises(WeightsError, match="100 arrays .*n007 and 92 more$") as e:
    merge(ROWS, arrays(**extra), LEAVES, {})
  assert e.value.unknown == tuple(extra)
