"""Tables 4 to 6 on look-alikes: numbers worked out by hand."""

import pathlib

import pytest

from tests.paper import looks
from tests.paper.looks import ALL, BLUE, GREEN, RED, p3d

FAST = ("--clips", 1, "--batch", 8)


def test_table4_by_hand(tmp_path: pathlib.Path) -> None:
  """A is red, B is green and C blue, but for one red video that is B.

  Of the validation videos 3 red are A, 1 red is B, and 3 green are B; none is
  C. All red videos are one video, so they have the same scores:
  A: the 4 red come first, together, and 3 of them are A: AP = 3/4.
  B: 3 green, all B; then blue is not there, and 4 red with the last B: the
    recall rises by 3/4 at precision 1 and by 1/4 at 4/7: AP = 25/28.
  mAP = (3/4 + 25/28) / 2 = 23/28 = 82.14. Top-1: 6 of 7. Of three classes all
  are within the first three.
  """
  films = {
    **{f"trainA_{k}____"[:11]: ("training", "A", RED) for k in range(3)},
    **{f"trainB_{k}____"[:11]: ("training", "B", GREEN) for k in range(3)},
    **{f"trainC_{k}____"[:11]: ("training", "C", BLUE) for k in range(3)},
    **{f"redA_{k}______"[:11]: ("validation", "A", RED) for k in range(3)},
    "redB_______": ("validation", "B", RED),
    **{f"greenB_{k}____"[:11]: ("validation", "B", GREEN) for k in range(3)},
  }
  root = {"nodeId": 0, "nodeName": "Root", "parentId": None, "parentName": None}
  leaves = [
    {"nodeId": k + 1, "nodeName": n, "parentId": 0, "parentName": "Root"}
    for k, n in enumerate("ABC")
  ]
  database = {}
  for name, (subset, label, colour) in films.items():
    looks.put(tmp_path / "source", f"v_{name}.mp4", colour)
    database[name] = {
      "duration": 0.5,
      "subset": subset,
      "url": f"https://www.youtube.com/watch?v={name}",
      "annotations": [{"label": label, "segment": [0.0, 0.5]}],
    }
  document = {
    "version": "VERSION 1.3",
    "taxonomy": [root, *leaves],
    "database": database,
  }
  looks.write(tmp_path / "source", "activity_net.v1-3.min.json", document)
  looks.built("activitynet", tmp_path / "source", tmp_path / "sets")
  words = ("--data", tmp_path / "sets", "--out", tmp_path / "out", *FAST)
  assert p3d("paper", "table4", *words, "--checkpoint", looks.checkpoint()) == 0
  found = looks.result(tmp_path / "out", "table4")
  assert found["rows"] == [
    ["top-1", "75.12", "85.71"],
    ["top-3", "87.71", "100.00"],
    ["mAP", "78.86", "82.14"],
  ]
  assert found["about"]["ours"]["mean"]["mAP"] == pytest.approx(
    100 * 23 / 28, abs=1e-9
  )


def test_table5_planted(tmp_path: pathlib.Path) -> None:
  """Videos of one colour are the same: every pair is told."""
  lines = ["fold,a,b,same"]
  for fold in range(10):
    one, two = ALL[fold % 7], ALL[(fold + 3) % 7]
    a, b, c, d = range(4 * fold + 1, 4 * fold + 5)
    for name, colour in zip((a, b, c, d), (one, one, two, two), strict=True):
      looks.put(tmp_path / "source", f"{name:04d}.mp4", colour)
    pairs = ((a, b, 1), (c, d, 1), (a, c, 0), (b, d, 0))
    lines += [f"{fold + 1},{x},{y},{same}" for x, y, same in pairs]
  looks.write(tmp_path / "source", "pairs.csv", lines)
  looks.built("aslan", tmp_path / "source", tmp_path / "sets")
  words = ("--data", tmp_path / "sets", "--out", tmp_path / "out", *FAST)
  assert p3d("paper", "table5", *words, "--checkpoint", looks.checkpoint()) == 0
  found = looks.result(tmp_path / "out", "table5")
  assert found["rows"] == [
    ["accuracy", 80.8, 100.0, 0.0],
    ["AUC", 87.9, 100.0, 0.0],
  ]
  assert (
    "40 pairs in 10 folds; 48 similarities of prob, pool5, res5, res4"
    in (found["notes"][0])
  )
  assert "not confirmed" in found["notes"][1]


SCENES = {
  "dynamic_scene": (
    *("Avalanche", "Boiling Water", "Chaotic Traffic", "Forest Fire"),
    *("Fountain", "Iceberg Collapse", "Landslide"),
  ),
  "yupenn": (
    *("Beach", "Elevator", "ForestFire", "Fountain", "Highway"),
    *("LightningStorm", "Ocean"),
  ),
}


def test_table6_planted(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """A scene is a colour; of YUPENN one video has another scene's."""
  words = ["--data", tmp_path / "sets", "--out", tmp_path / "out", *FAST]
  words += ["--checkpoint", looks.checkpoint()]
  for name, classes in SCENES.items():
    for label, colour in zip(classes, ALL, strict=True):
      for k in range(4):
        odd = (name, label, k) == ("yupenn", "Beach", 0)
        film = GREEN if odd else colour
        looks.put(tmp_path / name, f"{label}/video {k}.mp4", film)
    if name == "yupenn":
      assert p3d("paper", "table6", *words) == 2
      said = capsys.readouterr().err.splitlines()
      assert len(said) == 1
      assert (
        "yupenn is not there; `p3d data build yupenn --source DIR" in said[0]
      )
      assert not (tmp_path / "out").exists()
    looks.built(name, tmp_path / name, tmp_path / "sets")
  assert p3d("paper", "table6", *words) == 0
  found = looks.result(tmp_path / "out", "table6")
  # 27 of 28: the odd one is taken for its colour.
  assert found["rows"] == [
    ["Dynamic Scene", 94.6, 100.0, 28],
    ["YUPENN", 99.5, pytest.approx(100 * 27 / 28, abs=1e-9), 28],
  ]
