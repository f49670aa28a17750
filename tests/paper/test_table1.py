"""Table 1 on a look-alike of UCF101 whose answer is planted."""

import json
import pathlib

import pytest

from tests.paper import looks
from tests.paper.looks import GREEN, RED, p3d

NETWORKS = (
  *("2D (S), single frames", "P3D-A", "P3D-B", "P3D-C"),
  *("P3D (A, B, C in turn)", "full 3D (F)"),
)


def ucf101(root: pathlib.Path) -> pathlib.Path:
  """Two classes, each of a colour: one video to train on and one to test."""
  names = {
    f"{label}/v_{label}_g0{g}_c01.avi": (label, g, colour)
    for label, colour in (("Archery", RED), ("Biking", GREEN))
    for g in (1, 2)
  }
  for name, (_, _, colour) in names.items():
    looks.put(root / "source", f"UCF-101/{name[:-4]}.mp4", colour)
  lists = root / "source" / "ucfTrainTestlist"
  looks.write(lists, "classInd.txt", ["1 Archery", "2 Biking"])
  train = [
    f"{n} {1 + (label == 'Biking')}"
    for n, (label, g, _) in names.items()
    if g > 1
  ]
  for k in (1, 2, 3):
    looks.write(lists, f"trainlist0{k}.txt", train)
    test = [n for n, (_, g, _) in names.items() if g == 1]
    looks.write(lists, f"testlist0{k}.txt", test)
  looks.built("ucf101", root / "source", root / "sets")
  return root / "sets"


@pytest.mark.slow
def test_table1_runs_and_goes_on(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  sets, out = ucf101(tmp_path), tmp_path / "out"
  words = ["paper", "table1", "--data", sets, "--out", out, "--seeds", 0]
  words += ["--weights", "none", "--steps", 100, "--override", "train.batch=2"]
  words += ["model.dropout=0.0", "checkpoint.every=100"]
  # Moving statistics of so few steps must forget sooner, and those of weights
  # that still move are not theirs.
  words += ["norm.momentum=0.5", "optim.scratch_learning_rate=0.03"]
  words += ["optim.schedule=cosine"]
  words += ["model.width=4", "model.stages=(1,1,1,1)"]
  words += ["preprocessing.resize=(36,36)", "preprocessing.crop=(32,32)"]
  words += ["log.tensorboard=False"]
  assert p3d(*words) == 0
  found = looks.result(out, "table1")
  assert tuple(row[0] for row in found["rows"]) == NETWORKS
  paper = [looks.row(found, n)["paper: accuracy"] for n in NETWORKS]
  assert paper == [80.8, 83.7, 82.8, 83.0, 84.2, None]
  for row in found["rows"]:
    # A colour is a class, for every network: all clips and all videos; and
    # the mean of one run is its least.
    assert row[4:7] == [100.0, 100.0, 100.0]
  # B has a 3x1x1 more than S in each of the three P3D blocks, and F a 3x3x3
  # for the 1x3x3: widths 4, 8, 16.
  sizes = [looks.row(found, n)["parameters"] for n in NETWORKS]
  count = [int(size.replace(",", "")) for size in sizes]
  squares = 4**2 + 8**2 + 16**2
  assert count[1] == count[2] == count[3] == count[4]
  assert count[1] - count[0] == 3 * squares + 2 * (4 + 8 + 16)
  assert count[5] - count[0] == 2 * 9 * squares

  capsys.readouterr()
  (out / "table1.json").unlink()
  assert p3d(*words) == 0
  said = capsys.readouterr().err
  assert said.count("is done: p3d evaluate") == 6
  assert said.count("nothing to train") == 6
  assert said.count("is done: p3d paper speed") == 1
  again = json.loads((out / "table1.json").read_text())
  assert again == found
