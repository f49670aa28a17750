"""The linear SVM on features: planted answers, and scikit-learn by itself."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from p3d_jax.cli import tasks
from p3d_jax.data.sets import open_set
from p3d_jax.evaluate.feature_lists import (
  Samples,
  open_task,
  read_features,
  to_samples,
)
from p3d_jax.evaluate.linear_svm import (
  NORMALIZE,
  Recipe,
  best_cost,
  cross_validate,
  decide,
  folds,
  prepare,
)
from p3d_jax.evaluate.svm import report, svm
from tests import small
from tests.evaluate.planted import blobs, refused, run, write

ONE = Recipe(costs=(1.0,))


def samples(x: Any, labels: Any, groups: Any = None) -> Samples:
  table = np.asarray(labels, np.int32).reshape(len(x), -1)
  if groups is None:
    groups = np.arange(len(x))
  return Samples(
    np.asarray(x, np.float32), table, np.asarray(groups), np.ones(len(x), bool)
  )


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_separable_features_give_100(
  tmp_path: pathlib.Path, normalize: str
) -> None:
  y = np.arange(40) % 4
  train = write(tmp_path / "train.npz", blobs(y, seed=1), y)
  test = write(tmp_path / "test.npz", blobs(y, seed=2), y)
  result = svm(train, test, recipe=Recipe(normalize))
  split = result["splits"][0]
  for name in ("video_hit@1", "video_hit@5", "mean_class_accuracy", "mAP"):
    assert split[name] == result["mean"][name] == 100
  assert [row["cost"] for row in split["cross_validation"]] == [
    0.01,
    0.1,
    1,
    10,
    100,
  ]
  assert split["cross_validation"][-1]["accuracy"] == 100
  assert split["train_videos"] == split["videos"] == 40
  assert result["normalize"] == normalize


def uneven(normalize: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Videos that only this normalisation makes separable."""
  rng = np.random.default_rng(seed)
  y = np.arange(80) % 2
  if normalize == "l2":
    return blobs(y, 4, seed=seed) * 10 ** rng.uniform(-4, 2, (80, 1)), y
  return np.stack([1e-4 * (2 * y - 1), rng.standard_normal(80)], 1), y


@pytest.mark.parametrize("normalize", ["l2", "standard"])
def test_features_are_normalised(
  tmp_path: pathlib.Path, normalize: str
) -> None:
  train = write(tmp_path / "a.npz", *uneven(normalize, 1), names="AB")
  test = write(tmp_path / "b.npz", *uneven(normalize, 2), names="AB")

  def of(name: str) -> list[float]:
    found = svm(train, test, recipe=Recipe(name, costs=(1.0, 10.0)))
    split = found["splits"][0]
    folds = [row["accuracy"] for row in split["cross_validation"]]
    return [split["video_hit@1"], *folds]

  assert of(normalize) == [100, 100, 100]
  assert max(of("none")) < 98


def test_shuffled_labels_give_chance(tmp_path: pathlib.Path) -> None:
  rng = np.random.default_rng(0)
  y = np.arange(400) % 4
  train = write(tmp_path / "a.npz", blobs(y, seed=1), rng.permutation(y))
  test = write(tmp_path / "b.npz", blobs(y, seed=2), rng.permutation(y))
  found = svm(train, test, recipe=ONE)["mean"]["video_hit@1"]
  # Four deviations of 400 draws of one in four.
  assert abs(found - 25) < 100 * 4 * np.sqrt(0.25 * 0.75 / 400)


def by_numpy(normalize: str, train: np.ndarray, x: np.ndarray) -> np.ndarray:
  if normalize == "l2":
    return x / np.sqrt((x**2).sum(1, keepdims=True))
  if normalize == "standard":
    return (x - train.mean(0)) / train.std(0)
  return x


@pytest.mark.parametrize("dims", [5, 30, 90], ids=lambda d: f"{d}_dims")
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_is_scikit_learns(normalize: str, dims: int) -> None:
  # 90 dims: more than videos; 30: the dual's solver; 5: the primal's.
  rng = np.random.default_rng(0)
  x, test = rng.standard_normal((60, dims)), rng.standard_normal((20, dims))
  x[:, 0] += 5  # so that normalising by mean or norm matters
  y = np.arange(60) % 3
  plain = LinearSVC(C=0.5, dual=False, tol=1e-10, max_iter=10_000)
  plain.fit(by_numpy(normalize, x, x), y)
  a, b = prepare(normalize, x, test)
  found, converged = decide(a, y[:, None], b, 3, 0.5, 0)
  assert converged
  expected = plain.decision_function(by_numpy(normalize, x, test))
  # The solvers stop at gradients of 1e-4: decisions of size 1 differ by less
  # than this, and by tenths where the normalisation is another.
  np.testing.assert_allclose(found, expected, atol=5e-3)


def test_decisions_of_two_classes_by_hand() -> None:
  # Videos at -1 and 1: by symmetry no bias, and w^2/2 + 2 C (1 - w)^2 is least
  # at w = 4C / (1 + 4C), 0.8 at C = 1.
  x = np.array([[-1.0], [1.0]])
  labels = np.array([[0], [2]])
  found, _ = decide(x, labels, np.array([[2.0], [0.5]]), 3, 1.0, 0)
  np.testing.assert_allclose(found[:, 0], [-1.6, -0.4], atol=1e-3)
  np.testing.assert_allclose(found[:, 2], [1.6, 0.4], atol=1e-3)
  # The class between has no video: below all others, the same for all.
  assert found[0, 1] == found[1, 1] < -1.6


def test_a_video_of_several_labels_is_a_positive_of_each() -> None:
  rng = np.random.default_rng(0)
  x, test = rng.standard_normal((40, 6)), rng.standard_normal((10, 6))
  labels = np.full((40, 2), -1)
  labels[:, 0] = np.arange(40) % 3
  labels[::4, 1] = (labels[::4, 0] + 1) % 3
  found, _ = decide(x, labels, test, 4, 1.0, 0)
  for label in range(3):
    plain = LinearSVC(C=1.0, dual=False, tol=1e-10, max_iter=10_000)
    plain.fit(x, (labels == label).any(1))
    # As above.
    np.testing.assert_allclose(
      found[:, label], plain.decision_function(test), atol=5e-3
    )


def test_a_label_of_all_training_videos_is_the_first_answer() -> None:
  # Class 0 is a label of every video, so no SVM can be trained for it.
  labels = np.array([[0, 1], [0, 2], [0, 1], [0, 2]])
  x = np.array([[1.0, 0], [0, 1], [1, 0], [0, 1]])
  found, converged = decide(x, labels, x, 3, 0.1, 0)
  assert converged
  assert (found.argmax(1) == 0).all()


RED, BLUE = (1.0, 0.0), (0.0, 1.0)


def test_map_by_hand_of_tied_videos(tmp_path: pathlib.Path) -> None:
  train = write(tmp_path / "a.npz", [RED, BLUE] * 3, [0, 1] * 3)
  test = write(tmp_path / "b.npz", [RED] * 4 + [BLUE] * 2, [0, 0, 0, 1, 1, 1])
  result = svm(train, test, recipe=ONE, ks=(1, 2))
  # A: four red videos enter together, three of A: 3/4. B: two blue ones, then
  # the red ones at once, 3 of 6: 2/3 * 1 + 1/3 * 1/2.
  assert result["mean"]["mAP"] == pytest.approx(100 * (3 / 4 + 5 / 6) / 2)
  assert result["mean"]["video_hit@1"] == pytest.approx(100 * 5 / 6)
  assert result["mean"]["video_hit@2"] == 100
  assert result["mean"]["mean_class_accuracy"] == pytest.approx(500 / 6)
  text = report(result)
  assert "mAP 79.2" in text
  assert "L2 norm" in text
  assert "cost 1, the only one given" in text


def test_several_labels_from_file_to_number(tmp_path: pathlib.Path) -> None:
  # Three actions; a video that shows two stands between their axes.
  train_y: list[Any] = [0, 1, 2, (0, 1), (1, 2)] * 6
  x = np.stack([np.eye(3)[np.atleast_1d(y)].mean(0) for y in train_y])
  train = write(tmp_path / "a.npz", x, train_y)
  test = write(tmp_path / "b.npz", x[:5], [0, 1, 2, (0, 1), (0, 2)])
  result = svm(train, test, recipe=Recipe(costs=(100.0,)))
  # The last one shows 1 and 2 and is said to be 0 and 2.
  split = result["splits"][0]
  assert split["per_class"]["A"]["videos"] == 3
  assert split["video_hit@1"] in (80, 100)
  assert split["video_hit@5"] == split["video_avg_hit@5"] == 100


def films(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Clips that show their film and nothing else; a film has one class."""
  rng = np.random.default_rng(seed)
  film = np.repeat(np.arange(24), 6)
  x = np.eye(24)[film] + 0.05 * rng.standard_normal((144, 24))
  return x, film % 4, film


def test_clips_of_one_film_are_on_one_side_of_a_fold() -> None:
  x, y, film = films()
  recipe = Recipe(costs=(1.0, 10.0))
  names = "ABCD"
  seen = []
  for train, held in folds(samples(x, y, film), names, recipe):
    assert not set(film[train]) & set(film[held])
    assert set(y[held]) == {0, 1, 2, 3}
    assert sorted([*train, *held]) == list(range(144))
    seen += [*held]
  assert sorted(seen) == list(range(144))
  grouped = cross_validate(samples(x, y, film), names, recipe)
  alone = cross_validate(samples(x, y), names, recipe)
  # Parted by clips the film gives the class away; a new film says nothing of
  # it, and chance is 25.
  assert min(row["accuracy"] for row in alone) > 99
  assert max(row["accuracy"] for row in grouped) < 50


def test_sources_of_a_file_part_the_folds(tmp_path: pathlib.Path) -> None:
  x, y, film = films()
  names = [f"film {k}" for k in film]
  known = write(tmp_path / "known.npz", x, y, sources=names, names="ABCD")
  blank = write(tmp_path / "blank.npz", x, y, names="ABCD")
  other = write(tmp_path / "other.npz", x[:4], y[:4], names="ABCD", data="o")
  found = [
    svm(path, other, recipe=Recipe(costs=(1, 10)))["splits"][0]
    for path in (known, blank)
  ]
  assert found[0]["cross_validation"][0]["accuracy"] < 50
  assert found[1]["cross_validation"][0]["accuracy"] > 99


def test_the_cost_is_chosen_by_groups() -> None:
  # Strong numbers tell something of the class, faint ones the film. A high
  # cost learns the films by heart, which pays only where folds part a film.
  x, y, film = films(1)
  rng = np.random.default_rng(1)
  x += 0.2 * rng.standard_normal(x.shape)
  strong = np.eye(4)[y] + rng.standard_normal((144, 4))
  both = np.concatenate([strong, 0.1 * x], 1)
  recipe = Recipe("none", costs=(0.001, 100.0))
  grouped = cross_validate(samples(both, y, film), "ABCD", recipe)
  alone = cross_validate(samples(both, y), "ABCD", recipe)
  assert best_cost(grouped, recipe) == 0.001
  assert best_cost(alone, recipe) == 100


def test_the_accuracy_of_each_cost_is_scikit_learns() -> None:
  rng = np.random.default_rng(0)
  y = np.arange(90) % 3
  x = blobs(y, 8, noise=0.7, seed=3)
  film = rng.permutation(30).repeat(3)
  table = samples(x, y, film + 30 * y)
  recipe = Recipe(costs=(0.1, 10.0))
  found = cross_validate(table, "ABC", recipe)
  unit = by_numpy("l2", x, x)
  for row in found:
    right = 0
    for train, held in folds(table, "ABC", recipe):
      plain = LinearSVC(C=row["cost"], dual=False, tol=1e-8)
      plain.fit(unit[train], y[train])
      right += (plain.predict(unit[held]) == y[held]).sum()
    # One video on the border may be taken either way.
    assert row["accuracy"] == pytest.approx(100 * right / 90, abs=100 / 90)
  assert 40 < found[0]["accuracy"] < 100


def test_of_equal_costs_the_smallest() -> None:
  rows = [
    {"cost": 0.1, "accuracy": 50.0},
    {"cost": 1.0, "accuracy": 70.0},
    {"cost": 10.0, "accuracy": 70.0},
  ]
  assert best_cost(rows, Recipe(costs=(10, 0.1, 1))) == 1
  assert Recipe(costs=(10, 0.1, 1)).costs == (0.1, 1, 10)


def test_videos_of_a_class_without_training_are_missed(
  tmp_path: pathlib.Path,
) -> None:
  y = np.arange(20) % 2
  train = write(tmp_path / "a.npz", blobs(y), y)
  test = write(tmp_path / "b.npz", blobs([0, 1, 2, 2]), [0, 1, 2, 2])
  result = svm(train, test, recipe=ONE)
  split = result["splits"][0]
  assert split["video_hit@1"] == 50
  assert split["untrained"] == ["C"]
  assert split["per_class"]["C"] == {"video_hit@1": 0.0, "videos": 2}
  # All its scores are tied: 2 of 4.
  assert split["mAP"] == pytest.approx(100 * (1 + 1 + 0.5) / 3)
  assert "first C: their videos are missed" in report(result)


def of_set(
  tmp_path: pathlib.Path, leave_out: int = 0, **about: Any
) -> pathlib.Path:
  """Features of the tiny set's 26 videos that give their class."""
  ids, labels = [], []
  for split in ("train", "test"):
    videos = open_set(small.dataset(), split)
    for k in range(len(videos)):
      ids.append(videos[k]["id"])
      labels.append(int(videos[k]["labels"][0]))
  names = open_set(small.dataset(), "train").label_names
  end = len(ids) - leave_out
  return write(
    tmp_path / "set.npz",
    blobs(labels)[:end],
    labels[:end],
    names=names,
    ids=ids[:end],
    **about,
  )


def test_lists_of_the_set_and_their_mean(tmp_path: pathlib.Path) -> None:
  path = of_set(tmp_path, data=str(small.dataset()))
  train, test = open_set(small.dataset(), "train"), ["test", "train"]
  result = svm(path, train=["train", "test"], test=test, recipe=ONE)
  first, second = result["splits"]
  assert (first["train_videos"], first["videos"]) == (16, 10)
  assert (second["train_videos"], second["videos"]) == (10, 16)
  assert first["video_hit@1"] == 100
  mean = (first["video_hit@1"] + second["video_hit@1"]) / 2
  assert result["mean"]["video_hit@1"] == pytest.approx(mean)
  task = open_task(path, train=["train"], test=["test"])
  rows = task.pairs[0].train_rows
  ids = read_features(path, "pool5").ids
  assert [ids[k] for k in rows] == train.ids()


def test_videos_without_features_are_missed_if_allowed(
  tmp_path: pathlib.Path,
) -> None:
  path = of_set(tmp_path, leave_out=2)
  test = open_set(small.dataset(), "test").ids()
  lists: dict[str, Any] = {
    "data": small.dataset(),
    "train": ["train"],
    "test": ["test"],
  }
  told = refused(svm, path, **lists)
  assert f"lacks 2 of the 10 videos of test, first {test[-2]!r}" in told
  assert "max_missing=0" in told
  result = svm(path, **lists, recipe=ONE, max_missing=2)
  split = result["splits"][0]
  assert split["video_hit@1"] == 80
  assert (split["videos"], split["unreadable"]) == (10, 2)
  assert "2 test videos without features count as missed" in report(result)
  # The other way round they are left out of training.
  lists |= {"train": ["test"], "test": ["train"]}
  split = svm(path, **lists, recipe=ONE, max_missing=2)["splits"][0]
  assert (split["train_videos"], split["left_out"]) == (8, 2)
  assert split["unreadable"] == 0


def test_two_files_lack_what_could_not_be_read(tmp_path: pathlib.Path) -> None:
  y = np.arange(12) % 2
  train = write(tmp_path / "a.npz", blobs(y), y)
  test = write(tmp_path / "b.npz", blobs(y), y, unreadable=["x.mp4: no video"])
  told = refused(svm, train, test, recipe=ONE)
  assert "lacks 1 videos that could not be read, first x.mp4" in told
  result = svm(train, test, recipe=ONE, max_missing=1)
  assert result["splits"][0]["untested"] == 1
  assert "1 test videos could not be read and count nowhere" in report(result)


def test_sources_on_both_sides_are_told(tmp_path: pathlib.Path) -> None:
  y = np.arange(12) % 2
  where = ["film"] * 3 + [""] * 9
  train = write(tmp_path / "a.npz", blobs(y), y, sources=where, data="set")
  test = write(tmp_path / "b.npz", blobs(y), y, sources=where, data="set")
  other = write(tmp_path / "c.npz", blobs(y), y, sources=where, data="other")
  found = svm(train, test, recipe=ONE)
  assert found["splits"][0]["shared_sources"] == 3
  assert "3 test videos share a source" in report(found)
  assert svm(train, other, recipe=ONE)["splits"][0]["shared_sources"] == 0


def test_twice_is_the_same(tmp_path: pathlib.Path) -> None:
  y = np.arange(60) % 3
  train = write(tmp_path / "a.npz", blobs(y, noise=0.8, seed=1), y)
  test = write(tmp_path / "b.npz", blobs(y, noise=0.8, seed=2), y)
  texts = []
  for name in ("1.json", "2.json"):
    svm(train, test, out=tmp_path / name)
    texts.append((tmp_path / name).read_text())
  assert texts[0] == texts[1]
  assert json.loads(texts[0])["splits"][0]["cost"] in Recipe().costs


def test_command(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  y = np.arange(20) % 2
  train = write(tmp_path / "a.npz", blobs(y), y)
  test = write(tmp_path / "b.npz", blobs(y), y)
  out = tmp_path / "out.json"
  words = [train, test, "--costs", "1", "10", "--hits", "1", "3"]
  assert run(tasks.SVM, *words, "--folds", 2, "--out", out) == 0
  text = capsys.readouterr().out
  assert "video hit@1 100.0   video hit@3 100.0" in text
  assert f"written to {out}" in text
  written = json.loads(out.read_text())
  assert (written["costs"], written["folds"]) == ([1, 10], 2)
  assert len(written["splits"][0]["cross_validation"]) == 2


def test_mistakes_are_one_line(tmp_path: pathlib.Path) -> None:
  y = np.arange(12) % 2
  x = blobs(y)
  good = write(tmp_path / "good.npz", x, y)
  test = write(tmp_path / "test.npz", x, y)

  def of(name: str, *args: Any, **kwargs: Any) -> str:
    path = write(tmp_path / f"{name}.npz", *args, **kwargs)
    return refused(svm, path, test, recipe=ONE)

  # One source of B: no folds are made in silence.
  sources = [f"{k}" if k % 2 == 0 else "one" for k in range(12)]
  path = write(tmp_path / "few.npz", x, y, sources=sources)
  assert (
    "folds=3: the training videos of class 'B' are of 1 sources"
  ) in refused(svm, path, test)
  assert refused(svm, path, test).endswith(
    "each fold needs one: one cost (--costs 1), which needs no folds"
  )
  three = write(tmp_path / "three.npz", x[:6], y[:6])
  told = refused(svm, three, test, recipe=Recipe(folds=4))
  assert told.endswith(
    "needs one: --folds 3, or one cost (--costs 1), which needs no folds"
  )
  assert "not finite, first 'nan 1'" in of(
    "nan", np.where(np.arange(12)[:, None] == 1, np.nan, x), y
  )
  assert "fewer than two classes" in of("single", x, np.zeros(12, int))
  assert "have no label to train on, first 'bare 0'" in of(
    "bare", x, [-1, *y[1:]]
  )
  assert "has no labels" in of("none", x, [()] * len(y), names=())
  assert "classes of" in of("classes", x, y, names="XY")
  assert "shapes (5,) and (12,)" in of("dims", x[:, :5], y)
  same = [f"test {k}" for k in range(11, -1, -1)]
  assert "12 videos are in both, first 'test 0'" in of("both", x, y, ids=same)
  assert "name either lists" in refused(svm, good)
  assert "name either lists" in refused(
    svm, good, test, train=["train"], test=["test"]
  )
  assert "in pairs" in refused(svm, good, train=["train"])
  lists: dict[str, Any] = {"train": ["train"], "test": ["test"]}
  assert "does not say which set" in refused(svm, good, **lists)
  gone = write(tmp_path / "gone.npz", x, y, data=str(tmp_path / "gone"))
  assert "which is not there" in refused(svm, gone, **lists)
  assert "classes of" in refused(svm, good, **lists, data=small.dataset())
  assert "endpoint 'res4'" in refused(svm, good, test, endpoint="res4")
  assert "ks=(0,)" in refused(svm, good, test, ks=(0,))
  assert "max_missing=-1" in refused(svm, good, test, max_missing=-1)
  assert "out=" in refused(svm, good, test, out=tmp_path)
  for field in ({"normalize": "l1"}, {"costs": (0,)}, {"costs": (1, 1)}):
    assert f"{[*field][0]}=" in refused(Recipe, **field)
  assert "folds=1" in refused(Recipe, folds=1)
  assert "seed=-1" in refused(Recipe, seed=-1)
  assert "seed=4294967296" in refused(Recipe, seed=2**32)


def test_two_networks_are_not_mixed(tmp_path: pathlib.Path) -> None:
  y = np.arange(12) % 2
  a = write(tmp_path / "a.npz", blobs(y), y, sha256="1")
  b = write(tmp_path / "b.npz", blobs(y), y, sha256="2")
  assert "not of one network: their sha256" in refused(svm, a, b)


def test_maps_become_vectors(tmp_path: pathlib.Path) -> None:
  path = write(tmp_path / "maps.npz", np.zeros((3, 2, 4, 5)), [0, 1, 0])
  assert to_samples(read_features(path, "pool5"), "pool5").x.shape == (3, 40)
