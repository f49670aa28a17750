"""Table 2 and Kinetics on look-alikes: planted networks, hits by hand."""

import math
import pathlib

import pytest

from p3d_jax.data.flow_set import make_flow_set
from tests.paper import looks
from tests.paper.looks import GREEN, RED, p3d

# A clip of four frames, twice in a video of eight: each half is one clip.
FAST = ("--clips", 2, "--sampling", "uniform")
SPORTS = tuple(f"sport {k}" for k in range(7))
URL = "https://www.youtube.com/watch?v="


def sports1m(root: pathlib.Path) -> pathlib.Path:
  """Six test videos; returns the folder above the set."""
  test = {
    "allred_lab0": ((RED, RED), "0"),
    "allred_lab4": ((RED, RED), "4"),
    "allred_lab5": ((RED, RED), "5"),
    "turns1_lab0": ((RED, GREEN), "0"),
    "turns_lab63": ((RED, GREEN), "6,3"),
    "turns2_lab0": ((RED, GREEN), "0"),
  }
  source = root / "source"
  for name, (colours, _) in test.items():
    looks.put(source, f"{name}.mp4", *colours)
  looks.put(source, "training_01.mp4", RED)
  looks.write(source, "labels.txt", SPORTS)
  lines = [f"{URL}{name} {labels}" for name, (_, labels) in test.items()]
  looks.write(source, "original/test_partition.txt", lines)
  looks.write(source, "original/train_partition.txt", [f"{URL}training_01 0"])
  looks.built("sports1m", source, root / "sets")
  return root / "sets"


def test_table2_by_hand(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """Red is sports 0, 1, ..., 6 in this order; green, less surely, 6, ..., 0.

  | video | its labels | clips right of 2 | rank of the label, from 0 |
  |---|---|---|---|
  | red | 0 | 2 | 0 |
  | red | 4 | 0 | 4 |
  | red | 5 | 0 | 5 |
  | red, then green | 0 | 1 | 0, as red is surer |
  | red, then green | 6 and 3 | 1 | 1, of 6 |
  | red, then green | 0 | 1 | 0 |

  Red's softmax gives 0.865 to sport 0 and green's 0.632 to sport 6, and less
  than 0.002 to the other's. Clips: 5 of 12. Hit@1: 3 of 6. Hit@5: 5 of 6.
  """
  sets, out = sports1m(tmp_path), tmp_path / "out"
  answers = {
    RED: [2.0 * (6 - k) for k in range(7)],
    GREEN: [1.0 * k for k in range(7)],
  }
  words = ("paper", "table2", "--data", sets, "--out", out)
  p3d_199 = looks.planted(SPORTS, answers)
  assert p3d(*words, *FAST, "--checkpoint", p3d_199) == 0
  found = looks.result(out, "table2")
  assert looks.row(found, "P3D ResNet") == {
    "network": "P3D ResNet",
    "paper: clip hit@1": 47.9,
    "paper: video hit@1": 66.4,
    "paper: video hit@5": 87.4,
    "ours: clip hit@1": pytest.approx(100 * 5 / 12),
    "ours: video hit@1": 50,
    "ours: video hit@5": pytest.approx(100 * 5 / 6),
  }
  assert looks.row(found, "ResNet-152, 2D")["ours: clip hit@1"] is None
  assert found["notes"] == ["6 videos of test, 2 clips each, centre crop."]

  # It is done, but not for another network.
  capsys.readouterr()
  assert p3d(*words, *FAST, "--checkpoint", p3d_199) == 0
  assert "[1/1] is done: p3d evaluate" in capsys.readouterr().err
  other = looks.planted(SPORTS, {}, bias=[0, 0, 0, 0, 1, 0, 0])
  # The paper's clips are the default.
  assert p3d(*words, "--checkpoint", other) == 0
  found = looks.result(out, "table2")
  assert found["notes"] == [
    "6 videos of test, 20 clips at random (seed 0), centre crop."
  ]
  ours = looks.row(found, "P3D ResNet")["ours: clip hit@1"]
  assert ours == pytest.approx(100 / 6)  # sport 4 alone


def log(*shares: float) -> list[float]:
  return [math.log(share) for share in shares]


def test_kinetics_by_hand(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """RGB says (0.6, 0.3, 0.1) of red and (0.2, 0.1, 0.7) of green.

  Flow says (0.1, 0.8, 0.1) of everything. Equal weights: red (0.35, 0.55, 0.1),
  green (0.15, 0.45, 0.4), so class 1 always. By 3 to 1: red (0.475, 0.425,
  0.1), class 0, and green (0.175, 0.275, 0.55), class 2, as RGB alone.

  | video | class | RGB | flow | equal | 3 to 1 |
  |---|---|---|---|---|---|
  | red | 0 | right | | | right |
  | red | 1 | | right | right | |
  | green | 1 | | right | right | |
  | green | 2 | right | | | right |
  | green | 2 | right | | | right |
  """
  source, sets, out = (tmp_path / n for n in ("source", "sets", "out"))
  classes = ("abseiling", "archery", "yoga")
  videos = [(RED, 0), (RED, 1), (GREEN, 1), (GREEN, 2), (GREEN, 2)]
  lists = {"train": [], "validate": []}
  train = [(RED, label) for label in range(len(classes))]
  for k, (colour, label) in enumerate([*videos, *train]):
    split = "validate" if k < len(videos) else "train"
    name = f"{k}__________"
    looks.put(source, f"{split}/{name}_000000_000001.mp4", colour, colour)
    lists[split].append(f"{classes[label]},{name},0,1,{split}")
  for split, lines in lists.items():
    head = "label,youtube_id,time_start,time_end,split"
    looks.write(source, f"{split}.csv", [head, *lines])
  words = ["paper", "kinetics", "--data", sets, "--out", out, *FAST]
  words += ["--checkpoint"]
  words += [
    looks.planted(classes, {RED: log(0.6, 0.3, 0.1), GREEN: log(0.2, 0.1, 0.7)})
  ]
  words += ["--flow-checkpoint"]
  words += [
    looks.planted(
      classes,
      {},
      bias=log(0.1, 0.8, 0.1),
      channels="flow",
      mean=(128.0, 128.0),
      std=(1.0, 1.0),
    )
  ]
  rgb = looks.built("kinetics400", source, sets)
  assert p3d(*words) == 2
  said = capsys.readouterr().err.splitlines()
  assert len(said) == 1
  assert f"`p3d data flow {sets}/kinetics400 --out {sets}` makes it" in said[0]
  make_flow_set(rgb, sets, method="dis", workers=1, progress=False)
  for weights, right in (((), 2), (("--fuse", 3, 1), 3)):
    assert p3d(*words, *weights) == 0
    found = looks.result(out, "kinetics")
    ours = [row[2] for row in found["rows"]]
    assert ours == pytest.approx([100 * n / 5 for n in (3, 2, right)])
    assert [row[1] for row in found["rows"]] == [72.1, 61.2, None]
  assert found["rows"][2][0] == "both, by 0.75 and 0.25"


def test_what_is_to_be_trained_needs_weights(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  words = ("paper", "kinetics", "--data", tmp_path, "--out", tmp_path / "out")
  assert p3d(*words, "--checkpoint", looks.checkpoint()) == 2
  said = capsys.readouterr().err.splitlines()
  assert len(said) == 1
  assert "--flow-checkpoint or --weights is missing" in said[0]
  assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_table2_trains(tmp_path: pathlib.Path) -> None:
  """From random weights, two steps: the mechanics alone."""
  sets, out = sports1m(tmp_path), tmp_path / "out"
  words = ["paper", "table2", "--data", sets, "--out", out, *FAST]
  words += ["--weights", "none", "--steps", 2, "--override", "train.batch=2"]
  words += ["model.width=4", "model.stages=(1,1,1,1)"]
  words += ["preprocessing.resize=(36,36)", "preprocessing.crop=(32,32)"]
  words += ["log.tensorboard=False"]
  assert p3d(*words) == 0
  found = looks.result(out, "table2")
  assert looks.row(found, "P3D ResNet")["ours: video hit@5"] is not None
  assert (out / "runs" / "sports1m_p3d199" / "checkpoints" / "2").is_dir()
