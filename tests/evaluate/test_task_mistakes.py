"""A mistake on the command line costs no file that is there."""

import dataclasses
import pathlib

import numpy as np
import pytest

from p3d_jax import cli
from p3d_jax.evaluate.feature_file import (
  Features,
  load_features,
  save_features,
)
from p3d_jax.evaluate.feature_lists import check_unreadable, open_task
from p3d_jax.evaluate.scenes import scenes
from p3d_jax.evaluate.score_file import VideoScores, save_scores


@pytest.fixture
def features(tmp_path: pathlib.Path) -> pathlib.Path:
  """Four videos of two classes."""
  path = tmp_path / "features.npz"
  labels = np.array([[0], [0], [1], [1]], np.int32)
  x = np.float32([[1, 0], [2, 1], [0, 1], [1, 2]])
  ids, about = ("a", "b", "c", "d"), {"data": ""}
  save_features(
    path,
    Features(ids, {"pool5": x}, labels, ("A", "B"), ("",) * 4, None, about),
  )
  return path


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
  """Returns the one line that a command ends in."""
  assert cli.main([str(word) for word in words]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  return line


@pytest.mark.parametrize("verb", ["svm", "pca", "scenes", "similarity"])
def test_out_is_never_a_file_of_features(features, capsys, verb):
  before = features.read_bytes()
  line = refused(capsys, verb, features, "--out", features)
  assert line == f"p3d {verb}: --out is {features}: it must end in .json"
  assert features.read_bytes() == before


@pytest.mark.parametrize("verb", ["svm", "pca", "scenes", "similarity"])
def test_fewer_than_none_may_be_missing(features, capsys, verb):
  line = refused(capsys, verb, features, "--max-missing=-2")
  assert line == f"p3d {verb}: --max-missing is -2: it must be >= 0"


def test_fewer_than_none_may_be_missing_in_python(features):
  found = load_features(features)
  for call in (
    lambda: check_unreadable(features, found, -2),
    lambda: open_task(features, features, max_missing=-2),
    lambda: scenes(features, max_missing=-2),
  ):
    with pytest.raises(ValueError, match="^max_missing=-2: must be >= 0$"):
      call()


def test_a_file_that_is_not_there_and_a_folder(features, capsys):
  none, folder = features.parent / "none.npz", features.parent
  line = refused(capsys, "svm", none, features)
  assert line == f"p3d svm: {none}: there is no such file"
  line = refused(capsys, "scenes", folder)
  assert line == f"p3d scenes: {folder}: it is a folder, not a feature file"


def test_features_of_no_known_set(features, capsys, tmp_path):
  lists = ("--train", "train", "--test", "test")
  line = refused(capsys, "svm", features, *lists)
  assert line.endswith(
    "set its videos are of: name it with --data, for its lists"
  )
  found = dataclasses.replace(
    load_features(features), about={"data": str(tmp_path / "gone")}
  )
  save_features(features, found)
  line = refused(capsys, "svm", features, *lists)
  assert line.endswith(
    "gone, which is not there: name the set with --data, for its lists"
  )


@pytest.mark.parametrize(
  "words",
  [
    pytest.param(("svm", "a.npz", "b.npz"), id="svm"),
    pytest.param(("fuse", "a.npz", "b.npz"), id="fuse"),
    pytest.param(("evaluate", "run", "--out", "a.json"), id="evaluate"),
  ],
)
def test_hits_below_one(capsys, words):
  line = refused(capsys, *words, "--hits", 1, 0)
  assert line == f"p3d {words[0]}: --hits has 0: each must be >= 1"


def test_a_stream_named_twice(tmp_path, capsys):
  path = tmp_path / "rgb.npz"
  scores = np.eye(2, dtype=np.float32)
  labels = np.array([[0], [1]], np.int32)
  readable = np.ones(2, bool)
  save_scores(
    path, VideoScores(("a", "b"), scores, labels, ("A", "B"), readable)
  )
  line = refused(capsys, "fuse", path, path)
  assert line.startswith(f"p3d fuse: {path} is named twice")


@pytest.mark.parametrize("timeout", ["-1", "nan"])
@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_a_timeout_that_is_none(capsys, verb, timeout):
  words = {"evaluate": ["--out", "a.json"], "predict": ["a.mp4"]}[verb]
  line = refused(capsys, verb, "run", *words, f"--timeout={timeout}")
  assert line == f"p3d {verb}: --timeout is {timeout}: it must be >= 0"
