"""Pairs of videos: similarities by hand, folds kept apart, planted answers."""

import argparse
import itertools
import json
import math

import numpy as np
import pytest
from scipy.spatial import distance

from p3d_jax.cli import similarity as cli
from p3d_jax.data.builders import build
from p3d_jax.data.builders.table import DATASETS
from p3d_jax.data.encode import encode
from p3d_jax.evaluate import similarities, similarity
from p3d_jax.evaluate.feature_file import Features, save_features
from tests import small

OF = {row.name: row.of for row in similarities.SIMILARITIES}

# x = (1, 4, 0, 9), y = (4, 1, 0, 0), worked out on paper.
BY_HAND = {
  "product": 8,
  "root_product": math.sqrt(8),
  "affinity": 2 + 2,
  "root_affinity": 2,
  "cosine": 8 / math.sqrt(98 * 17),
  "intersection": 1 + 1,
  "ruzicka": 2 / (4 + 4 + 9),
  "manhattan": 3 + 3 + 9,
  "euclidean": math.sqrt(9 + 9 + 81),
  "hellinger": math.sqrt(1 + 1 + 9),
  "chi_square": 9 / 5 + 9 / 5 + 81 / 9,
  # m = (2.5, 2.5, 0, 4.5)
  "jensen_shannon": math.log(0.4) + 4 * math.log(1.6) + 4.5 * math.log(2),
}


def test_there_are_twelve_each_worked_out_here():
  assert len(OF) == 12
  assert list(OF) == list(BY_HAND)


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
  x, y = np.array([1.0, 4, 0, 9]), np.array([4.0, 1, 0, 0])
  # 1e-14: a few roundings of float64.
  assert OF[name](x, y) == pytest.approx(BY_HAND[name], rel=1e-14)


def test_against_scipy():
  rng = np.random.default_rng(0)
  for x, y in rng.uniform(size=(5, 2, 50)) * (
    rng.uniform(size=(5, 2, 50)) > 0.3
  ):
    p, q = x / x.sum(), y / y.sum()
    expected = {
      "cosine": 1 - distance.cosine(x, y),
      "manhattan": distance.cityblock(x, y),
      "euclidean": distance.euclidean(x, y),
      "hellinger": distance.euclidean(np.sqrt(x), np.sqrt(y)),
      # |x - y| = x + y - 2 min(x, y)
      "intersection": (x.sum() + y.sum()) * (1 - distance.braycurtis(x, y)) / 2,
    }
    for name, value in expected.items():
      assert OF[name](x, y) == pytest.approx(value, rel=1e-12), name
    # scipy's takes the root, of distributions.
    js = distance.jensenshannon(p, q) ** 2
    assert OF["jensen_shannon"](p, q) == pytest.approx(js, rel=1e-12)


@pytest.mark.parametrize("name", BY_HAND)
def test_symmetric(name):
  x, y = np.random.default_rng(1).exponential(size=(2, 30, 40))
  np.testing.assert_array_equal(OF[name](x, y), OF[name](y, x))


@pytest.mark.parametrize("name", BY_HAND)
def test_zeros_are_defined(name):
  nothing, some = np.zeros((2, 3)), np.array([[0.0, 2, 0], [0, 0, 0]])
  with np.errstate(all="raise"):
    np.testing.assert_array_equal(OF[name](nothing, nothing), [0, 0])
    assert np.isfinite(OF[name](nothing, some)).all()
    assert np.isfinite(OF[name](some, nothing)).all()


def test_blocks_change_nothing(monkeypatch):
  rng = np.random.default_rng(2)
  # 200 * 200 of many numbers is past float16's 65,504.
  maps = rng.uniform(0, 200, (6, 2, 3, 4)).astype(np.float16)
  first, second = rng.integers(0, 6, (2, 11))
  whole = similarities.compare(maps, first, second)
  done: list[int] = []
  monkeypatch.setattr(similarities, "_BLOCK", 3 * 24)
  parts = similarities.compare(maps, first, second, progress=done.append)
  np.testing.assert_array_equal(parts, whole)
  assert done == [3, 6, 9, 11]
  for k, (a, b) in enumerate(zip(first, second, strict=True)):
    x, y = (maps[i].astype(np.float64).ravel() for i in (a, b))
    # 1e-12: sums of 24 numbers in another order.
    assert whole[k, 0] == pytest.approx(math.fsum(x * y), rel=1e-12)
    cosine = math.fsum(x * y) / (math.hypot(*x) * math.hypot(*y))
    assert whole[k, 4] == pytest.approx(cosine, rel=1e-12)
    assert whole[k, 8] == pytest.approx(math.dist(x, y), rel=1e-12)


def test_l2_is_of_each_pair():
  rows = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]])
  made = similarity.NORMALIZE["l2"](rows, np.array([True, False, False]))
  np.testing.assert_allclose(made, [[0.6, 0.8], [0, 0], [0, -1]], rtol=1e-15)


def test_standard_is_over_the_training_pairs():
  rows = np.array([[1.0, 5.0], [3.0, 5.0], [7.0, 6.0]])
  made = similarity.NORMALIZE["standard"](rows, np.array([True, True, False]))
  np.testing.assert_array_equal(made, [[-1, 0], [1, 0], [5, 1]])


def balanced(folds: int, each: int) -> tuple[np.ndarray, np.ndarray]:
  """Half of the pairs of each fold are the same."""
  same = np.tile(np.arange(each) < each // 2, folds)
  return same, np.repeat(np.arange(1, folds + 1), each)


@pytest.mark.parametrize("normalize", similarity.NORMALIZE)
def test_folds_are_kept_apart(normalize):
  # Each fold has a number of its own that tells its answers, and says nothing
  # in the others: who has seen the fold in training is right always.
  same, folds = balanced(4, 10)
  vectors = np.zeros((40, 4))
  vectors[np.arange(40), folds - 1] = np.where(same, 1, -1)
  results = similarity.cross_validate(vectors, same, folds, normalize=normalize)
  assert [(r.accuracy, r.auc) for r in results] == [(50, 50)] * 4
  seen = similarity._trained(vectors, same, 1.0)
  assert seen.score(vectors, same) == 1


def test_the_cost_is_chosen_without_the_fold():
  # With the answers of a fold turned round, a machine that has not seen them
  # is as often right as it was wrong, and has the cost that it had.
  rng = np.random.default_rng(3)
  same, folds = balanced(5, 24)
  vectors = rng.standard_normal((120, 30)) + 0.4 * same[:, None]
  costs = [1e-4, 1e-2, 1.0, 100.0]
  before = similarity.cross_validate(
    vectors, same, folds, costs=costs, normalize="standard"
  )
  assert len({result.cost for result in before}) > 1
  for k, was in enumerate(before):
    turned = np.where(folds == was.fold, ~same, same)
    now = similarity.cross_validate(
      vectors, turned, folds, costs=costs, normalize="standard"
    )[k]
    assert now.cost == was.cost
    assert now.accuracy == pytest.approx(100 - was.accuracy)
    assert now.auc == pytest.approx(100 - was.auc)


def test_auc_and_accuracy_of_one_number():
  # A line over one number keeps its order, so the AUC is the share of
  # (same, not) couples in the right order, ties by half.
  rng = np.random.default_rng(4)
  same, folds = balanced(5, 20)
  number = rng.integers(0, 12, 100) + 3.0 * same
  results = similarity.cross_validate(
    number[:, None], same, folds, normalize="standard"
  )
  for result in results:
    here = folds == result.fold
    couples = itertools.product(number[here & same], number[here & ~same])
    right = [1.0 * (a > b) + 0.5 * (a == b) for a, b in couples]
    assert result.auc == pytest.approx(100 * np.mean(right), rel=1e-12)
    assert result.pairs == 20
    # A line parts the number at one place: its accuracy is one of these.
    cuts = [np.mean((number[here] > c) == same[here]) for c in range(-1, 16)]
    assert any(result.accuracy == pytest.approx(100 * cut) for cut in cuts)


def test_summary_by_hand():
  folds = [
    similarity.Fold(1, 10, 50.0, 60.0, 1.0),
    similarity.Fold(2, 10, 60.0, 62.0, 1.0),
    similarity.Fold(3, 10, 70.0, 70.0, 1.0),
  ]
  made = similarity.summary(folds)
  assert made["accuracy"] == pytest.approx(60)
  # Deviations -10, 0, 10: sqrt(200/2), by the root of three folds.
  assert made["accuracy_standard_error"] == pytest.approx(10 / math.sqrt(3))
  assert made["auc"] == pytest.approx(64)
  # -4, -2, 6: sqrt(56/2)
  assert made["auc_deviation"] == pytest.approx(math.sqrt(28))


@pytest.mark.parametrize("normalize", similarity.NORMALIZE)
def test_chance(normalize):
  rng = np.random.default_rng(5)
  same, folds = balanced(10, 40)
  features = rng.exponential(size=(800, 16)).astype(np.float32)
  rows = rng.permutation(800).reshape(2, 400)  # each video in one pair
  vectors = similarities.compare(features, *rows)
  made = similarity.summary(
    similarity.cross_validate(vectors, same, folds, normalize=normalize)
  )
  # Of 400 fair coins the share of heads deviates by 2.5 points, the mean AUC
  # of ten folds of 20 and 20 by sqrt(41/4800/10) = 2.9: four of these.
  assert abs(made["accuracy"] - 50) < 10
  assert abs(made["auc"] - 50) < 11.7


FOLDS, VIDEOS = 10, 4


@pytest.fixture(scope="module")
def aslan(tmp_path_factory) -> str:
  """A look-alike: four videos a fold, the first two and the last two alike."""
  source = tmp_path_factory.mktemp("source")
  film = encode([np.zeros((32, 32, 3), np.uint8)] * 2, fps=5)
  lines = []
  for fold in range(FOLDS):
    a, b, c, d = range(fold * VIDEOS + 1, fold * VIDEOS + 5)
    for first, second, same in (
      (a, b, 1), (c, d, 1), (a, c, 0), (b, d, 0), (d, a, 0),
    ):  # fmt: skip
      lines.append(f"{fold + 1},{first},{second},{same}")
  (source / "pairs.csv").write_text("fold,a,b,same\n" + "\n".join(lines))
  for video in range(1, FOLDS * VIDEOS + 1):
    (source / f"{video:04d}.mp4").write_bytes(film)
  built = build.build_dataset(
    DATASETS["aslan"],
    source,
    tmp_path_factory.mktemp("built"),
    workers=1,
    progress=False,
  )
  return str(built.folder)


def features_of(data: str, **changes) -> Features:
  """Videos that show the same have the same features; rows are shuffled."""
  rng = np.random.default_rng(6)
  count = FOLDS * VIDEOS
  order = rng.permutation(count)
  kinds = order // 2
  fields = {
    "ids": tuple(f"{video + 1:04d}" for video in order),
    "arrays": {
      "prob": rng.dirichlet(np.ones(8), count // 2)[kinds].astype(np.float32),
      "pool5": rng.exponential(size=(count // 2, 16))[kinds].astype(np.float16),
      "res5": rng.exponential(size=(count // 2, 2, 3, 3, 4))[kinds].astype(
        np.float32
      ),
      "res4": rng.exponential(size=(count // 2, 2, 6, 6, 2))[kinds].astype(
        np.float32
      ),
    },
    "labels": np.full((count, 1), -1, np.int32),
    "label_names": (),
    "sources": ("",) * count,
    "clip": None,
    "about": {"data": data, "pool": "none"},
  }
  return Features(**(fields | changes))


def run(*words: object) -> int:
  parser = argparse.ArgumentParser()
  cli.SIMILARITY.arguments(parser)
  return cli.SIMILARITY.run(parser.parse_args([*map(str, words)]))


@pytest.mark.parametrize("normalize", similarity.NORMALIZE)
def test_planted_pairs(aslan, tmp_path, capsys, normalize):
  file, out = tmp_path / "f.npz", tmp_path / "out.json"
  save_features(file, features_of(aslan))
  assert run(file, "--normalize", normalize, "--out", out) == 0
  result = json.loads(out.read_text())
  assert (result["accuracy"], result["auc"]) == (100, 100)
  assert (result["accuracy_standard_error"], result["auc_deviation"]) == (0, 0)
  assert [fold["fold"] for fold in result["folds"]] == list(range(1, 11))
  assert {fold["pairs"] for fold in result["folds"]} == {5}
  assert result["numbers"] == 48
  assert result["endpoints"] == ["prob", "pool5", "res5", "res4"]
  assert [row["name"] for row in result["similarities"]] == list(BY_HAND)
  assert "not confirmed" in result["similarities_source"]
  printed = capsys.readouterr().out
  assert printed.startswith(
    "50 pairs, 10 folds, prob pool5 res5 res4 (whole maps): 48 numbers a pair"
  )
  assert "accuracy 100.0 +- 0.0" in printed
  assert "not confirmed" in printed


def test_each_row_is_of_its_own_video(aslan, tmp_path):
  # The same arrays under ids in another order: nothing is alike any more.
  file = tmp_path / "f.npz"
  whole = features_of(aslan)
  ids = tuple(np.random.default_rng(7).permutation(whole.ids).tolist())
  save_features(file, features_of(aslan, ids=ids))
  # 50 pairs, chance is at most the 60 of always "not the same".
  assert similarity.similarity(file)["accuracy"] < 85


def test_data_is_named(aslan, tmp_path):
  file = tmp_path / "f.npz"
  save_features(file, features_of("", about={"data": ""}))
  result = similarity.similarity(file, data=aslan, endpoints=["pool5"])
  assert (result["accuracy"], result["numbers"]) == (100, 12)
  assert "pool5 (pool unknown): 12 numbers" in similarity.report(result)
  result["features_about"] = {"pool": "mean"}
  assert "pool5 (means of maps): 12 numbers" in similarity.report(result)
  with pytest.raises(ValueError, match="name it with --data"):
    similarity.similarity(file)


def test_missing_videos(aslan, tmp_path, capsys):
  file = tmp_path / "f.npz"
  whole = features_of(aslan)
  # 0003 is in (c, d) and (a, c) of fold 1; 0005 in (a, b), (a, c), (d, a) of 2.
  save_features(
    file, whole.take([i for i in whole.ids if i not in ("0003", "0005")])
  )
  with pytest.raises(ValueError, match="no features of 2 of the 40") as error:
    similarity.similarity(file, max_missing=1)
  assert "first '0003'" in str(error.value)
  assert "--max-missing 2" in str(error.value)
  assert run(file, "--max-missing", 2) == 0
  assert "5 pairs left out: no features of 2 videos" in capsys.readouterr().out
  result = similarity.similarity(file, max_missing=2)
  assert [fold["pairs"] for fold in result["folds"]] == [3, 2] + [5] * 8
  assert (result["missing"], result["pairs_left_out"]) == (["0003", "0005"], 5)


def with_clips(whole: Features) -> dict:
  return {"clip": np.zeros(len(whole.ids), np.int32)}


def with_array(name: str, change):
  def fields(whole: Features) -> dict:
    array = change(whole.arrays[name].copy())
    return {"arrays": whole.arrays | {name: array}}

  return fields


MISTAKES = {
  "clips": (with_clips, {}, "rows are clips"),
  "negative": (with_array("pool5", lambda a: a - 50), {}, "must be >= 0"),
  "nan": (with_array("res4", lambda a: a * np.nan), {}, "not finite"),
  "endpoint": (dict, {"endpoints": ["logits"]}, "'logits'.*prob, pool5"),
  "twice": (dict, {"endpoints": ["prob", "prob"]}, "each once"),
  "none": (dict, {"endpoints": []}, "name one or more"),
  "normalize": (dict, {"normalize": "max"}, "'max'.*l2 or standard"),
  "cost": (dict, {"costs": [0.0, 1.0]}, "costs: 0 must be above 0"),
  "costs": (dict, {"costs": []}, "name at least one"),
  "missing": (dict, {"max_missing": -1}, "max_missing is -1"),
  "out": (dict, {"out": "nowhere/at/all.json"}, "nowhere"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(aslan, tmp_path, name):
  fields, arguments, message = MISTAKES[name]
  file = tmp_path / "f.npz"
  whole = features_of(aslan)
  changes = fields(whole) if fields is not dict else {}
  save_features(file, features_of(aslan, **changes))
  with pytest.raises(ValueError, match=message) as error:
    similarity.similarity(file, **arguments)
  assert "\n" not in str(error.value)


def test_a_set_without_pairs_is_refused(aslan, tmp_path):
  file = tmp_path / "f.npz"
  save_features(file, features_of(aslan))
  with pytest.raises(ValueError, match="a set with pairs of videos") as error:
    similarity.similarity(file, data=small.dataset())
  assert "\n" not in str(error.value)
  assert "name=" not in str(error.value)
  # What is no set at all is told as everywhere.
  with pytest.raises(ValueError, match="no built set is there$"):
    similarity.similarity(file, data=tmp_path)


@pytest.mark.parametrize(
  ("kept", "message"),
  [
    pytest.param(range(1, 3), "of 2 folds", id="two folds"),
    pytest.param(range(0, 0), "of 0 folds", id="no pairs"),
  ],
)
def test_too_few_folds(aslan, tmp_path, kept, message):
  file = tmp_path / "f.npz"
  whole = features_of(aslan)
  ids = [i for i in whole.ids if (int(i) - 1) // VIDEOS + 1 in kept]
  save_features(file, whole.take(ids))
  with pytest.raises(ValueError, match=message):
    similarity.similarity(file, max_missing=40)


def test_a_fold_of_one_kind(aslan, tmp_path):
  file = tmp_path / "f.npz"
  whole = features_of(aslan)
  # Without 0002 and 0004, fold 1 has the pair (a, c) alone.
  save_features(
    file, whole.take([i for i in whole.ids if i not in ("0002", "0004")])
  )
  with pytest.raises(ValueError, match="fold 1 are not the same"):
    similarity.similarity(file, max_missing=2)


def test_the_command_line_says_what_the_module_does():
  parser = argparse.ArgumentParser()
  cli.SIMILARITY.arguments(parser)
  args = parser.parse_args(["f.npz"])
  assert tuple(args.endpoints) == similarity.ENDPOINTS
  assert tuple(args.costs) == similarity.COSTS
  text = parser.format_help()
  for name in OF:
    assert name in text
  assert "not\nconfirmed" in text or "not confirmed" in text
