"""Leave one video out: planted answers, and scikit-learn by itself."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import LinearSVC

from p3d_jax.cli import tasks
from p3d_jax.evaluate.feature_lists import read_features, to_samples
from p3d_jax.evaluate.linear_svm import Recipe, best_cost, cross_validate
from p3d_jax.evaluate.scenes import report, scenes
from tests.evaluate.planted import LETTERS, blobs, refused, run, write

Y = np.arange(24) % 3
ONE = Recipe(costs=(1.0,))


def test_separable_scenes_give_100(tmp_path: pathlib.Path) -> None:
  path = write(tmp_path / "a.npz", blobs(Y), Y)
  result = scenes(path, recipe=ONE)
  assert result["video_hit@1"] == result["mean_class_accuracy"] == 100
  assert result["videos"] == 24
  assert result["chosen"] == [{"cost": 1.0, "videos": 24}]
  assert result["per_class"]["A"] == {"video_hit@1": 100.0, "videos": 8}
  assert result["per_class"]["D"] == {"video_hit@1": None, "videos": 0}
  text = report(result)
  assert "accuracy 100.0" in text
  assert "cost 1 (24 videos)" in text


def test_the_cost_is_chosen_within_the_others(tmp_path: pathlib.Path) -> None:
  """Cost 1 is too small for seven classes of which four videos are known."""
  y = np.arange(28) % 7
  x = 1 + 0.1 * np.eye(7)[y]
  path = write(tmp_path / "a.npz", x, y, names=[*map(str, range(7))])
  found = scenes(path)
  assert found["video_hit@1"] == 100
  assert sum(row["videos"] for row in found["chosen"]) == 28
  assert all(row["videos"] == 0 for row in found["chosen"] if row["cost"] <= 1)
  assert scenes(path, recipe=ONE)["video_hit@1"] < 100


def test_each_video_is_unknown_to_its_svm(tmp_path: pathlib.Path) -> None:
  # Each video is alone in its direction: an SVM that has seen it is right, and
  # one that has not knows nothing. 60 classes of two: chance is below 2.
  y = np.arange(120) % 60
  path = write(tmp_path / "a.npz", np.eye(120), y, names=[*map(str, range(60))])
  assert scenes(path, recipe=ONE)["video_hit@1"] < 10


def test_accuracies_by_hand(tmp_path: pathlib.Path) -> None:
  # Two of B's four stand where A's eight do.
  red, blue = (1.0, 0.0), (0.0, 1.0)
  path = write(tmp_path / "a.npz", [red] * 10 + [blue] * 2, [0] * 8 + [1] * 4)
  result = scenes(path, recipe=ONE)
  assert result["video_hit@1"] == pytest.approx(100 * 10 / 12)
  assert result["mean_class_accuracy"] == 75
  assert [row["class"] for row in result["predictions"]] == ["A"] * 10 + [
    "B"
  ] * 2


@pytest.mark.parametrize("dims", [6, 60], ids=lambda d: f"{d}_dims")
@pytest.mark.parametrize("normalize", ["l2", "standard", "none"])
def test_is_scikit_learns(
  tmp_path: pathlib.Path, normalize: str, dims: int
) -> None:
  x = blobs(Y, dims, noise=0.6).astype(np.float32)
  x[:, 0] += 3
  path = write(tmp_path / "a.npz", x, Y)
  scaler = {"l2": [Normalizer()], "standard": [StandardScaler()], "none": []}
  plain = make_pipeline(
    *scaler[normalize], LinearSVC(C=1.0, dual=False, tol=1e-10)
  )
  expected = cross_val_predict(plain, x.astype(np.float64), Y, cv=LeaveOneOut())
  found = scenes(path, recipe=Recipe(normalize, costs=(1.0,)))
  assert [row["class"] for row in found["predictions"]] == [
    LETTERS[k] for k in expected
  ]
  assert 30 < found["video_hit@1"] < 100


def test_several_costs_are_chosen_without_the_video(
  tmp_path: pathlib.Path,
) -> None:
  path = write(tmp_path / "a.npz", blobs(Y, 30, noise=0.5), Y, names="ABC")
  recipe = Recipe(costs=(0.01, 1.0, 100.0), folds=2)
  result = scenes(path, recipe=recipe)
  table = to_samples(read_features(path, "pool5"), "pool5")
  costs = []
  for row in range(24):
    rest = table.take(np.arange(24) != row)
    costs.append(best_cost(cross_validate(rest, "ABC", recipe), recipe))
  assert result["chosen"] == [
    {"cost": cost, "videos": costs.count(cost)} for cost in recipe.costs
  ]
  assert len(set(costs)) > 1  # so that the choice is one
  assert "by cross-validation within the others" in report(result)


def test_command(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  sources = ["film", "film", *[""] * 22]
  path = write(tmp_path / "a.npz", blobs(Y), Y, sources=sources)
  out = tmp_path / "out.json"
  assert run(tasks.SCENES, path, "--costs", 1, "--out", out) == 0
  text = capsys.readouterr().out
  assert "accuracy 100.0" in text
  assert "2 videos share a source with another video" in text
  written = json.loads(out.read_text())
  assert (written["costs"], written["normalize"]) == ([1.0], "l2")
  assert run(tasks.SCENES, path, "--costs", 1, 10, "--folds", 2) == 0
  assert "by cross-validation" in capsys.readouterr().out


def test_mistakes_are_one_line(tmp_path: pathlib.Path) -> None:
  def of(name: str, labels: Any, recipe: Recipe = ONE, **about: Any) -> str:
    path = write(tmp_path / f"{name}.npz", blobs(Y), labels, **about)
    return refused(scenes, path, recipe=recipe)

  assert "class 'D' has one video, 'one 5': left out" in of(
    "one", [*Y[:5], 3, *Y[6:]]
  )
  assert "all videos are of one class" in of("same", Y * 0)
  assert "1 videos do not have one label, first 'bare 0' with 0" in of(
    "bare", [-1, *Y[1:]]
  )
  assert "first 'more 0' with 2" in of("more", [(0, 1), *Y[1:]])
  assert "could not be read, first x.mp4" in of(
    "lost", Y, unreadable=["x.mp4: no video"]
  )
  several = Recipe(costs=(1, 10), folds=8)
  told = of("folds", Y, several)
  assert "class 'A' are of 7 sources" in told
  assert ": --folds 7, or one cost" in told
  path = tmp_path / "same.npz"
  assert "out=" in refused(scenes, path, out=tmp_path)
