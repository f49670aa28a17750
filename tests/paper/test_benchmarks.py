"""Tables 3 to 6 and the figures, on look-alikes whose answer is known."""

import json
import pathlib
import shutil
from collections.abc import Sequence

import matplotlib.image
import numpy as np
import pytest
import scipy.stats

from p3d_jax.checkpoint import model
from p3d_jax.paper import figures, sets
from tests.paper import looks
from tests.paper.looks import BLUE, GREEN, RED, Colour, p3d

FAST = ("--clips", 2, "--batch", 8)
CLASSES = ("Archery", "Biking", "Diving")
COLOURS = (RED, GREEN, BLUE)
GROUPS = 9  # of each class, cut from one film each; three a split for testing


def ucf101(root: pathlib.Path, colours: Sequence[Colour]) -> pathlib.Path:
  """The release's lists over 3 x 9 videos; returns the folder above the set.

  Args:
    root: folder for it.
    colours: of the videos, class by class.
  """
  names = [
    f"{c}/v_{c}_g{g + 1:02d}_c01.avi" for c in CLASSES for g in range(GROUPS)
  ]
  for name, colour in zip(names, colours, strict=True):
    looks.put(root / "source", f"UCF-101/{name[:-4]}.mp4", colour)
  lists = root / "source" / "ucfTrainTestlist"
  looks.write(
    lists, "classInd.txt", [f"{k + 1} {c}" for k, c in enumerate(CLASSES)]
  )
  for split in range(3):
    test = [n for k, n in enumerate(names) if k % GROUPS // 3 == split]
    train = [n for n in names if n not in test]
    looks.write(lists, f"testlist0{split + 1}.txt", test)
    looks.write(
      lists,
      f"trainlist0{split + 1}.txt",
      [f"{n} {CLASSES.index(n.split('/')[0]) + 1}" for n in train],
    )
  looks.built("ucf101", root / "source", root / "sets")
  return root / "sets"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A class is a colour."""
  colours = [c for c in COLOURS for _ in range(GROUPS)]
  return ucf101(tmp_path_factory.mktemp("planted"), colours)


@pytest.fixture(scope="module")
def first(
  planted: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """The folder of table3 on that, once it has run."""
  out = tmp_path_factory.mktemp("first") / "out"
  words = ("paper", "table3", "--data", planted, "--out", out, *FAST)
  assert p3d(*words, "--checkpoint", looks.checkpoint()) == 0
  return out


@pytest.fixture
def out(first: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
  """A copy, which a test may change."""
  return pathlib.Path(shutil.copytree(first, tmp_path / "copy"))


def test_table3_planted(first: pathlib.Path) -> None:
  found = looks.result(first, "table3")
  assert looks.row(found, "P3D ResNet") == {
    "network": "P3D ResNet",
    "paper: mean of 3 splits": 88.6,
    "ours: mean": 100.0,
    **{f"ours: split {k}": 100.0 for k in (1, 2, 3)},
  }
  theirs = {row[0]: row[1] for row in found["rows"]}
  assert (theirs["C3D"], theirs["ResNet-152, 2D"]) == (82.3, 83.5)
  assert "mean of 2 clips each, centre crop" in found["notes"][0]
  assert "test2: 9 videos, 18 to train on; 0 could not" in found["notes"][1]


def test_sets_are_found(planted: pathlib.Path, tmp_path: pathlib.Path) -> None:
  there = sets.find_set(planted, "ucf101", ("all", "train1", "test3"))
  assert (pathlib.Path(there) / "dataset_info.json").exists()
  # The set's own folder, or one between.
  assert sets.find_set(there, "ucf101") == there
  assert sets.find_set(planted / "ucf101", "ucf101") == there
  with pytest.raises(ValueError, match="split='train4'"):
    sets.find_set(planted, "ucf101", ("train4",))
  with pytest.raises(ValueError, match="yupenn is not there; `p3d data build"):
    sets.find_set(there, "yupenn")
  shutil.copytree(planted, tmp_path / "two")
  shutil.copytree(there, tmp_path / "two" / "ucf101" / "OTHER" / "1.0.0")
  with pytest.raises(ValueError, match="2 sets are there, name one"):
    sets.find_set(tmp_path / "two", "ucf101")


def test_nothing_is_done_twice(
  planted: pathlib.Path, out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  words = ("paper", "table3", "--data", planted, "--out", out, *FAST)
  table = (out / "table3.json").read_text()
  assert p3d(*words, "--checkpoint", looks.checkpoint()) == 0
  printed = capsys.readouterr()
  assert printed.err.count("is done:") == 2
  assert printed.out == (out / "table3.md").read_text()
  found = json.loads(table)
  assert looks.result(out, "table3")["about"] == found["about"]


@pytest.mark.parametrize("kind", ["sha256", "source", "views"])
def test_features_of_other_work_are_not_taken(
  planted: pathlib.Path,
  out: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
  kind: str,
) -> None:
  """Another checkpoint; the same videos in another set; other clips."""
  data, checkpoint, more = planted, looks.checkpoint(), []
  if kind == "sha256":
    checkpoint = looks.checkpoint(seed=1)
  elif kind == "source":
    data = ucf101(tmp_path, [c for c in COLOURS for _ in range(GROUPS)])
  else:
    more = ["--sampling", "random"]
  features = (out / "features-ucf101.npz").read_bytes()
  words = ("paper", "table3", "--data", data, "--out", out, *FAST)
  assert p3d(*words, "--checkpoint", checkpoint, *more) == 2
  said = capsys.readouterr().err.splitlines()
  assert len(said) == 1
  assert f"features-ucf101.npz holds other features, by {kind}:" in said[0]
  # Hours of work are not written over.
  assert (out / "features-ucf101.npz").read_bytes() == features


def test_an_svm_of_other_features_is_made_again(
  planted: pathlib.Path, out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """The features were removed, and those of another network are there now."""
  (out / "features-ucf101.npz").unlink()
  words = ("paper", "table3", "--data", planted, "--out", out, *FAST)
  assert p3d(*words, "--checkpoint", looks.checkpoint(seed=1)) == 0
  assert capsys.readouterr().err.count("is done:") == 0
  record = model.read_record(model.find(looks.checkpoint(seed=1)))
  ours = looks.result(out, "table3")["about"]["ours"]
  assert ours["features"]["sha256"] == record.sha256


def test_shuffled_labels_give_chance(tmp_path: pathlib.Path) -> None:
  """Colours that say nothing of the class, one a video.

  27 test videos over the three splits, each right by chance in one of three:
  fewer than 2 or more than 17 are right once in 1,000 times.
  """
  rng = np.random.default_rng(0)
  colours = [tuple(rng.integers(0, 256, 3).tolist()) for _ in range(27)]
  data = ucf101(tmp_path, colours)
  words = ("paper", "table3", "--data", data, "--out", tmp_path / "out")
  assert p3d(*words, *FAST, "--checkpoint", looks.checkpoint()) == 0
  found = looks.row(looks.result(tmp_path / "out", "table3"), "P3D ResNet")
  chance = scipy.stats.binom(27, 1 / 3)
  assert chance.cdf(1) + chance.sf(17) < 1 / 1000
  assert 1.5 < found["ours: mean"] * 27 / 100 < 17.5


def test_figures_share_the_features(
  planted: pathlib.Path, out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  words = ("--data", planted, "--out", out, *FAST)
  words = (*words, "--checkpoint", looks.checkpoint())
  assert p3d("paper", "pca", *words) == 0
  assert "[1/3] is done: p3d features" in capsys.readouterr().err
  found = looks.result(out, "pca")
  # Of 500 to 10 dimensions 18 training videos allow 10; three points of the
  # plane are apart in it.
  assert found["rows"] == [["128, no PCA", 100.0], [10, 100.0]]
  assert matplotlib.image.imread(out / "pca.png").std() > 0

  words = ("paper", "tsne", *words, "--perplexity", 5)
  assert p3d(*words) == 0
  assert "[1/2] is done: p3d features" in capsys.readouterr().err
  found = looks.result(out, "tsne")
  assert found["rows"] == [["t-SNE of pool5", 10_000, 27]]
  assert matplotlib.image.imread(out / "tsne.png").std() > 0
  assert p3d(*words) == 0
  assert "[2/2] is done: p3d draw tsne" in capsys.readouterr().err
  (out / "tsne.png").write_bytes(b"another picture")
  assert p3d(*words) == 0
  assert "[2/2] p3d draw tsne" in capsys.readouterr().err


def test_classes_are_drawn_once(tmp_path: pathlib.Path) -> None:
  out = tmp_path / "out"
  words = ("paper", "classes", "--out", out, "--steps", 2, "--labels", "c", "a")
  assert p3d(*words, "--checkpoint", looks.checkpoint()) == 0
  assert matplotlib.image.imread(out / "classes.png").std() > 0

  def done(seed: int, steps: int) -> bool:
    table = figures.classes(looks.checkpoint(seed), str(out), ("c", "a"), steps)
    return table.commands[0].done()

  assert done(seed=0, steps=2)
  assert not done(seed=1, steps=2)
  assert not done(seed=0, steps=3)
  (out / "classes.png").write_bytes(b"another picture")
  assert not done(seed=0, steps=2)
