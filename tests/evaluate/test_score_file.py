"""Files of scores: what is written is read, and nothing else is."""

import dataclasses
import json
import pathlib
import pickle
from typing import Any

import numpy as np
import pytest

from p3d_jax.evaluate.score_file import VideoScores, load_scores, save_scores
from p3d_jax.train import metrics


def scores(**fields: Any) -> VideoScores:
  """Three videos, two of them readable, and four classes."""
  made: dict[str, Any] = {
    "ids": ("v_1", "Zürich/ä b.mp4", "v_3"),
    "scores": np.array(
      [[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0, 0, 0, 0]], np.float32
    ),
    "labels": np.array([[3, -1], [1, 0], [2, -1]], np.int32),
    "label_names": ("a", "b", "c", "d"),
    "readable": np.array([True, True, False]),
    "about": {"split": "test", "views": {"clips": 20}},
  }
  return VideoScores(**made | fields)


def same(one: VideoScores, two: VideoScores) -> None:
  for field in dataclasses.fields(VideoScores):
    a, b = getattr(one, field.name), getattr(two, field.name)
    if isinstance(a, np.ndarray):
      assert (a.dtype, a.shape) == (b.dtype, b.shape)
      np.testing.assert_array_equal(a, b)
    else:
      assert (type(a), a) == (type(b), b)


def test_what_is_written_is_read(tmp_path: pathlib.Path) -> None:
  save_scores(tmp_path / "a.npz", scores())
  same(load_scores(str(tmp_path / "a.npz")), scores())
  assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


def test_no_videos_are_a_file_too(tmp_path: pathlib.Path) -> None:
  none = scores(
    ids=(),
    scores=np.zeros((0, 4), np.float32),
    labels=np.zeros((0, 1), np.int32),
    readable=np.zeros(0, bool),
  )
  save_scores(tmp_path / "a.npz", none)
  same(load_scores(tmp_path / "a.npz"), none)


def test_others_read_it_with_numpy_alone(tmp_path: pathlib.Path) -> None:
  save_scores(tmp_path / "a.npz", scores())
  with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
    assert file["ids"].tolist() == list(scores().ids)
    assert file["label_names"].tolist() == ["a", "b", "c", "d"]
    assert json.loads(str(file["about"])) == scores().about


def test_its_metrics() -> None:
  """Video 1 is right, 2 in its second label, 3 could not be read."""
  found = metrics.summary(scores().to_scores(), ks=(1, 2))
  assert found["video_hit@1"] == pytest.approx(200 / 3)
  assert found["video_avg_hit@1"] == pytest.approx(100 * (1 + 0.5 + 0) / 3)
  assert (found["videos"], found["clips_per_video"]) == (3, 1)
  assert found["unreadable"] == 1


def test_what_could_not_be_read_may_hold_anything() -> None:
  values = scores().scores.copy()
  values[2] = np.nan
  found = metrics.summary(scores(scores=values).to_scores())
  assert found == metrics.summary(scores().to_scores())


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"ids": ("x",)}, r"^scores is float32 \(3, 4\): for 1 ids .* \(1, 4\)$"),
    ({"label_names": ("a",)}, r"^scores .* and 1 classes .* \(3, 1\)$"),
    ({"scores": np.zeros((3, 4))}, r"^scores is float64 .* float32 \(3, 4\)$"),
    ({"labels": np.zeros(3, np.int32)}, r"^labels is \(3,\): it must be"),
    ({"labels": np.zeros((2, 1), np.int32)}, r"^labels is int32 \(2, 1\)"),
    ({"labels": np.full((3, 1), 4, np.int32)}, r"^labels are 4 to 4: .* to 3$"),
    ({"labels": np.full((3, 1), -2, np.int32)}, r"^labels are -2 to -2"),
    ({"readable": np.ones(3, int)}, r"^readable is int64 .* bool \(3,\)$"),
    ({"scores": np.full((3, 4), np.inf, np.float32)}, r"^scores are not fini"),
  ],
  ids=[
    "ids",
    "classes",
    "float64",
    "labels-1d",
    "labels-rows",
    "labels-high",
    "labels-low",
    "readable",
    "infinite",
  ],
)
def test_fields_that_do_not_fit(fields: dict[str, Any], message: str) -> None:
  with pytest.raises(ValueError, match=message):
    scores(**fields)


class Planted:
  """Makes a folder when it is unpickled."""

  def __init__(self, folder: pathlib.Path) -> None:
    self.folder = folder

  def __reduce__(self) -> Any:
    return (pathlib.Path.mkdir, (self.folder,))


def test_nothing_is_unpickled(tmp_path: pathlib.Path) -> None:
  file, planted = tmp_path / "a.npz", tmp_path / "planted"
  save_scores(file, scores())
  with np.load(file) as found:
    arrays = dict(found)
  arrays["ids"] = np.array([Planted(planted)] * 3, dtype=object)
  np.savez(file, **arrays)
  with pytest.raises(ValueError, match=r"^\S*a.npz is no file of .* Object"):
    load_scores(file)
  file.write_bytes(pickle.dumps(Planted(planted)))
  with pytest.raises(ValueError, match=r"a.npz is no file of .* no archive"):
    load_scores(file)
  assert not planted.exists()


def test_files_of_others_are_refused(tmp_path: pathlib.Path) -> None:
  file = tmp_path / "a.npz"
  for change, message in (
    ({"format": np.asarray("other 2")}, "its format is 'other 2', not 'p3d"),
    ({"ids": np.arange(3)}, "its ids are no list of names"),
    ({"about": np.asarray("[1]")}, "its about is no JSON object"),
    ({"about": np.asarray("{")}, "Expecting property name"),
    ({"scores": np.zeros((2, 4), np.float32)}, r"scores is float32 \(2, 4\)"),
  ):
    save_scores(file, scores())
    with np.load(file) as found:
      arrays = dict(found)
    np.savez(file, **arrays | change)
    with pytest.raises(ValueError, match=rf"no file of .*: {message}[^\n]*$"):
      load_scores(file)
  np.savez(file, features=np.ones(3))
  with pytest.raises(ValueError, match="it has no format, ids, scores"):
    load_scores(file)


def test_damaged_files_are_refused_in_one_line(tmp_path: pathlib.Path) -> None:
  file = tmp_path / "a.npz"
  save_scores(file, scores())
  whole = file.read_bytes()
  start = whole.index(scores().scores.tobytes())
  flipped = bytearray(whole)
  flipped[start] ^= 1
  for content in (b"", b"text\n", whole[:-30], whole[:200], bytes(flipped)):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"\A\S*a.npz is no file of [^\n]+\Z"):
      load_scores(file)


def test_names_are_checked(tmp_path: pathlib.Path) -> None:
  with pytest.raises(ValueError, match=r"a.json: a file of scores ends in"):
    save_scores(tmp_path / "a.json", scores())
  with pytest.raises(ValueError, match=r"a.json: a file of scores ends in"):
    load_scores(tmp_path / "a.json")
  with pytest.raises(ValueError, match=r"a.npz: there is no such file"):
    load_scores(tmp_path / "a.npz")
  assert not list(tmp_path.iterdir())
