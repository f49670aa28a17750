"""Accuracy against PCA size: planted dimensions, numpy's SVD beside it."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from p3d_jax.cli import tasks
from p3d_jax.evaluate.linear_svm import Recipe
from p3d_jax.evaluate.pca import SIZES, pca, project, report
from p3d_jax.evaluate.svm import svm
from p3d_jax.visualize.pca_curve import load_pca
from tests.evaluate.planted import blobs, refused, run, write

PLAIN = Recipe("none", costs=(1.0,))


def third(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Videos in three dimensions of twenty; only the faintest tells the class."""
  rng = np.random.default_rng(seed)
  y = np.arange(rows) % 2
  plane = np.linalg.qr(np.random.default_rng(9).standard_normal((20, 3)))[0]
  three = np.stack(
    [
      10 * rng.standard_normal(rows),
      5 * rng.standard_normal(rows),
      y - 0.5 + 0.02 * rng.standard_normal(rows),
    ],
    1,
  )
  return three @ plane.T + 1.0, y


@pytest.mark.parametrize("rows", [14, 200], ids=lambda n: f"{n}_videos")
def test_dimensions_are_those_of_an_svd(rows: int) -> None:
  # 14 videos of 20 dimensions, and more videos than dimensions.
  rng = np.random.default_rng(0)
  scale = np.geomspace(10, 0.1, 20)
  train = rng.standard_normal((rows, 20)) * scale + 4
  test = rng.standard_normal((30, 20)) * scale + 4
  a, b, share = project(train, test, "none", 5)
  centre = train.mean(0)
  _, values, axes = np.linalg.svd(train - centre, full_matrices=False)
  # Of rounding: covariances of 100 in float64. An axis may point either way.
  for found, x in ((a, train), (b, test)):
    expected = (x - centre) @ axes[:5].T
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-6)
  np.testing.assert_allclose(
    share, (values**2 / (values**2).sum())[:5], rtol=1e-6
  )


def test_features_are_normalised_before() -> None:
  rng = np.random.default_rng(0)
  train, test = rng.standard_normal((2, 40, 6)) + 1
  a, b, _ = project(train, test, "l2", 6)
  # All six dimensions: distances are those of the unit vectors.
  unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test)]
  for found, expected in ((a, unit[0]), (b, unit[1])):
    np.testing.assert_allclose(
      np.linalg.norm(found[0] - found[1:], axis=1),
      np.linalg.norm(expected[0] - expected[1:], axis=1),
      atol=1e-9,
    )


def test_the_size_that_reaches_the_class(tmp_path: pathlib.Path) -> None:
  train = write(tmp_path / "a.npz", *third(200, 1), names="AB")
  test = write(tmp_path / "b.npz", *third(400, 2), names="AB")
  out = tmp_path / "pca.json"
  result = pca(train, test, sizes=[1, 2, 3], recipe=PLAIN, out=out)
  found = {row["size"]: row["video_hit@1"] for row in result["sizes"]}
  assert [*found] == [3, 2, 1]
  assert found[3] == 100
  # Four deviations of 400 tosses.
  for size in (1, 2):
    assert abs(found[size] - 50) < 100 * 4 * np.sqrt(0.25 / 400)
  whole = result["without_pca"]
  assert (whole["size"], whole["video_hit@1"]) == (20, 100)
  split = result["splits"][0]
  variance = [row["variance"] for row in split["sizes"]]
  assert variance[0] == pytest.approx(1)
  # 100 of 100 + 25 + 1/4, as far as 200 videos tell it.
  assert variance[2] == pytest.approx(100 / 125.25, abs=0.1)
  drawn = load_pca(out)["sizes"]
  assert {row["size"]: row["video_hit@1"] for row in drawn} == found


def test_without_pca_is_the_svm(tmp_path: pathlib.Path) -> None:
  y = np.arange(60) % 3
  train = write(tmp_path / "a.npz", blobs(y, noise=0.6, seed=1), y)
  test = write(tmp_path / "b.npz", blobs(y, noise=0.6, seed=2), y)
  recipe = Recipe(costs=(0.1, 10.0))
  result = pca(train, test, sizes=[12, 1], recipe=recipe)
  whole = svm(train, test, recipe=recipe)["splits"][0]
  split = result["splits"][0]
  assert split["without_pca"] == {
    name: value for name, value in whole.items() if name not in _PAIR
  }
  assert len(split["sizes"][0]["cross_validation"]) == 2
  # Of all dimensions nothing is lost but the place of the bias.
  full = result["sizes"][0]["video_hit@1"]
  assert full == pytest.approx(whole["video_hit@1"], abs=5)
  # Three classes do not fit on a line.
  assert result["sizes"][1]["video_hit@1"] + 10 < whole["video_hit@1"]


_PAIR = ("train", "test", "left_out", "untested", "shared_sources")


def test_sizes_that_are_not_there(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  train = write(tmp_path / "a.npz", *third(40, 1), names="AB")
  test = write(tmp_path / "b.npz", *third(10, 2), names="AB")
  result = pca(train, test, recipe=PLAIN)
  assert [row["size"] for row in result["sizes"]] == [10]
  assert result["left_out_sizes"] == [500, 400, 300, 200, 100, 50, 30]
  assert "left out, as there are not so many" in report(result)

  def sizes(*given: int) -> Any:
    return refused(pca, train, test, recipe=PLAIN, sizes=given)

  assert (
    "sizes: 21 is more than a PCA of 40 training videos of 20 dimensions has: "
    "at most 20"
  ) in sizes(3, 21)
  few = write(tmp_path / "c.npz", *third(8, 1), names="AB")
  assert "at most 8" in refused(pca, few, test, recipe=PLAIN, sizes=[9])
  for wrong in ((0,), (3, 3)):
    assert "each once" in sizes(*wrong)
  out = tmp_path / "out.json"
  words = [train, test, "--sizes", "3", "2", "--normalize", "none"]
  assert run(tasks.PCA, *words, "--costs", 1, "--out", out) == 0
  text = capsys.readouterr().out
  assert "no PCA (20)  100.0" in text
  assert "left out" not in text
  written = json.loads(out.read_text())
  assert [row["size"] for row in written["sizes"]] == [3, 2]
  assert SIZES[0] == 500
  assert SIZES[-1] == 10
