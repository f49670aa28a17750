"""Fusion of streams, worked by hand."""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from p3d_jax.cli.fuse import FUSE
from p3d_jax.evaluate.fuse import fuse, fuse_files
from p3d_jax.evaluate.score_file import VideoScores, load_scores, save_scores


def stream(
  ids: Sequence[str],
  scores: list[list[float]],
  labels: list[list[int]],
  **fields: Any,
) -> VideoScores:
  made = VideoScores(
    ids=tuple(ids),
    scores=np.asarray(scores, np.float32),
    labels=np.asarray(labels, np.int32),
    label_names=("run", "swim", "jump"),
    readable=np.ones(len(ids), bool),
  )
  return dataclasses.replace(made, **fields)


# In fractions that floats hold exactly, so results are compared exactly.
RGB = stream(
  "abcd",
  [[1, 0, 0], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0, 0.5, 0.5]],
  [[0], [1], [2], [1]],
  about={"channels": "RGB"},
)
# The same videos in another order: c, a, d, b; with more padding.
FLOW = stream(
  "cadb",
  [[0.25, 0, 0.75], [0, 0.5, 0.5], [0.25, 0.75, 0], [1, 0, 0]],
  [[2, -1], [0, -1], [1, -1], [1, -1]],
  about={"channels": "flow"},
)
ONE_TO_THREE = [
  [0.25, 0.375, 0.375],  # a: 1/4 of 1 0 0, 3/4 of 0 1/2 1/2
  [0.8125, 0.125, 0.0625],  # b
  [0.3125, 0.0625, 0.625],  # c
  [0.1875, 0.6875, 0.125],  # d
]


def test_the_weighted_mean_whatever_the_order() -> None:
  found = fuse([RGB, FLOW], [1, 3])
  assert found.ids == ("a", "b", "c", "d")
  assert found.scores.tolist() == ONE_TO_THREE
  assert found.scores.dtype == np.float32
  assert found.labels.tolist() == [[0], [1], [2], [1]]
  assert found.readable.all()
  assert found.about == {
    "fused": [
      {"weight": 0.25, "about": {"channels": "RGB"}},
      {"weight": 0.75, "about": {"channels": "flow"}},
    ]
  }
  turned = fuse([FLOW, RGB], [6, 2])
  assert turned.ids == ("c", "a", "d", "b")
  assert turned.scores.tolist() == [ONE_TO_THREE[k] for k in (2, 0, 3, 1)]


def test_weights_are_equal_by_default() -> None:
  found = fuse([RGB, FLOW])
  assert found.scores[0].tolist() == [0.5, 0.25, 0.25]
  three = fuse([RGB, FLOW, RGB])
  # of a: (1 + 0 + 1) / 3, ...; float32 rounds at 6e-8
  np.testing.assert_allclose(three.scores[0], [2 / 3, 1 / 6, 1 / 6], atol=1e-7)


def test_a_stream_that_could_not_read_a_video_has_no_say() -> None:
  """RGB could not read a and b, flow not b and c."""
  rgb = dataclasses.replace(RGB, readable=np.array([False, False, True, True]))
  flow = dataclasses.replace(
    FLOW,
    scores=np.where([[True], [False], [False], [True]], np.nan, FLOW.scores),
    readable=np.array([False, True, True, False]),
  )
  found = fuse([rgb, flow], [1, 3])
  assert found.readable.tolist() == [True, False, True, True]
  assert found.scores[0].tolist() == [0, 0.5, 0.5]  # flow's alone
  assert found.scores[2].tolist() == [0.5, 0.25, 0.25]  # RGB's alone
  assert found.scores[3].tolist() == ONE_TO_THREE[3]
  assert np.isfinite(found.scores).all()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      {"ids": ("c", "x", "d", "b")},
      "stream 2 has no video 'a', which stream 1",
    ),
    (
      {"ids": ("x", "y", "d", "b")},
      "stream 2 has no video 'a' and 1 more, whi",
    ),
    ({"ids": ("c", "a", "a", "b")}, "stream 2 has videos of the same id"),
    (
      {"label_names": ("run", "jump", "swim")},
      "classes of stream 2 .*: number 1 is 'jump', not 'swim'",
    ),
    (
      {"labels": np.array([[2, -1], [0, 1], [1, -1], [1, -1]], np.int32)},
      r"labels of video 'a' are \[0, 1\] in stream 2, and \[0\] in stream 1",
    ),
  ],
  ids=["missing", "two-missing", "twice", "classes", "labels"],
)
def test_streams_that_do_not_match(
  change: dict[str, Any], message: str
) -> None:
  with pytest.raises(ValueError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
    fuse([RGB, dataclasses.replace(FLOW, **change)])


def test_a_video_too_many_is_no_match_either() -> None:
  more = stream("abcde", [[1, 0, 0]] * 5, [[0], [1], [2], [1], [1]])
  with pytest.raises(ValueError, match="stream 1 has no video 'e', which str"):
    fuse([RGB, more])
  four = dataclasses.replace(
    FLOW, label_names=("run", "swim", "jump", "x"), scores=np.ones((4, 4), "f4")
  )
  with pytest.raises(ValueError, match="classes of stream 2 .*: 4, not 3$"):
    fuse([RGB, four])


@pytest.mark.parametrize(
  "weights",
  [[1.0], [1.0, 2.0, 3.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")]],
  ids=["one", "three", "zero", "negative", "nan"],
)
def test_weights_that_do_not_fit(weights: list[float]) -> None:
  with pytest.raises(ValueError, match=r"^weights=\[.*must be 2 numbers > 0"):
    fuse([RGB, FLOW], weights)


def test_fusion_needs_two() -> None:
  with pytest.raises(ValueError, match="scores of 1 stream: fusion needs two"):
    fuse([RGB])


def run(*words: object) -> int:
  parser = argparse.ArgumentParser()
  FUSE.arguments(parser)
  return FUSE.run(parser.parse_args([str(word) for word in words]))


def test_the_command(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """Hits by hand, of a run, b swim, c jump, d swim (of ties the lower wins).

  RGB:   a run, b swim, c run, d swim: 3 of 4; classes 1, 2/2, 0.
  Flow:  a swim, b run, c jump, d swim: 2 of 4; classes 0, 1/2, 1.
  Fused: a swim, b run, c jump, d swim: 2 of 4.
  """
  rgb, flow = tmp_path / "rgb.npz", tmp_path / "flow.npz"
  save_scores(rgb, RGB)
  save_scores(flow, FLOW)
  out, fused = tmp_path / "fused.json", tmp_path / "fused.npz"
  words = (rgb, flow, "--weights", 2, 6, "--hits", 1, 2)
  assert run(*words, "--out", out, "--scores", fused) == 0
  told = capsys.readouterr().out.splitlines()
  result = json.loads(out.read_text())
  assert [row["weight"] for row in result["streams"]] == [0.25, 0.75]
  assert [row["scores"] for row in result["streams"]] == [str(rgb), str(flow)]
  rows = [*result["streams"], result["fused"]]
  assert [row["video_hit@1"] for row in rows] == [75.0, 50.0, 50.0]
  # second of RGB: c's jump is third, tied; of flow: a's run is third, b's
  # swim second; of both: a's run third, b's swim second
  assert [row["video_hit@2"] for row in rows] == [75.0, 75.0, 75.0]
  assert [row["mean_class_accuracy"] for row in rows] == pytest.approx(
    [200 / 3, 50.0, 50.0]
  )
  # of both, by class: run: a is third of four; swim: d first, a false, b
  # second and third; jump: c first
  assert rows[2]["mAP"] == pytest.approx(
    100 * (1 / 3 + (1 + 2 / 3) / 2 + 1) / 3
  )
  assert not any("clip" in name for row in rows for name in row)
  assert result["fused"]["per_class"]["swim"]["video_hit@1"] == 50.0
  assert load_scores(fused).scores.tolist() == ONE_TO_THREE
  assert told[0] == "4 videos"
  head = "weight video hit@1 video hit@2 mean class accuracy mAP unreadable"
  assert told[1].split() == head.split()
  assert told[2].split() == [
    "0.250",
    "75.0",
    "75.0",
    "66.7",
    *told[2].split()[4:],
  ]
  assert told[2].endswith(f"  {rgb}")
  assert told[3].split()[:4] == ["0.750", "50.0", "75.0", "50.0"]
  assert told[4].split() == ["50.0", "75.0", "50.0", "72.2", "0", "fused"]
  assert told[5:] == [f"written to {out}", f"written to {fused}"]


def test_mistakes_come_before_any_file(tmp_path: pathlib.Path) -> None:
  rgb, flow = tmp_path / "rgb.npz", tmp_path / "flow.npz"
  save_scores(rgb, RGB)
  save_scores(flow, FLOW)
  before = {file: file.read_bytes() for file in tmp_path.iterdir()}
  for fields, message in (
    (
      {"out": tmp_path / "x.txt"},
      r"^out='.*x.txt': its name must end in .json",
    ),
    (
      {"scores": tmp_path / "x.json"},
      r"^scores='.*: its name must end in .npz",
    ),
    ({"scores": rgb}, r"^scores='.*rgb.npz': it is one of the scores to fuse"),
    ({"out": tmp_path / "no" / "x.json"}, "there is no such folder"),
    ({"scores": tmp_path / "no" / "x.npz"}, "there is no such folder"),
    ({"weights": [1]}, "^weights="),
    ({"ks": (0,)}, "^ks="),
  ):
    given: dict[str, Any] = {"out": tmp_path / "y.json", **fields}
    with pytest.raises(ValueError, match=message):
      fuse_files([rgb, flow], **given)
  with pytest.raises(ValueError, match=r"none.npz: there is no such file"):
    fuse_files([rgb, tmp_path / "none.npz"], out=tmp_path / "y.json")
  assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_equal_scores_stay_equal() -> None:
  """All pairs of eighths, in thirds: sums of float32 would part equal ones."""
  eighths = np.arange(9) / 8
  pairs = [(a, b) for a in eighths for b in eighths]
  ids = [str(k) for k in range(len(pairs))]
  streams = [
    stream(ids, [[pair[k], 0, 0] for pair in pairs], [[0]] * len(pairs))
    for k in range(2)
  ]
  found = fuse(streams, [1, 2]).scores[:, 0]
  # 24 times the mean, which is whole.
  exact = np.asarray([round(8 * a + 16 * b) for a, b in pairs])
  for value in np.unique(exact):
    assert len(np.unique(found[exact == value])) == 1
