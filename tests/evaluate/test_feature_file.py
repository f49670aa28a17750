"""Files of features: what goes in comes out, and nothing else is read."""

import pathlib
import pickle
import sys
import tracemalloc
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from p3d_jax.evaluate import feature_file
from p3d_jax.evaluate.feature_file import (
  Features,
  load_features,
  read_about,
  save_features,
)
from p3d_jax.evaluate.score_file import VideoScores, save_scores

SUFFIXES = (".npz", ".parquet", ".arrow")


def made(**fields: Any) -> Features:
  """Four rows: two endpoints, a video of two labels, one of none."""
  rng = np.random.default_rng(0)
  maps = rng.standard_normal((4, 2, 3, 1, 5)).astype(np.float16)
  pool = rng.standard_normal((4, 5)).astype(np.float32)
  # What does not survive by way of a text, or a narrower type.
  pool[0, :3] = np.float32(np.pi), np.finfo(np.float32).tiny, -0.0
  given: dict[str, Any] = {
    "ids": ("tennis/ä b.mp4", "b", "c,d", "日本"),
    "arrays": {"pool5": pool, "res4/block05": maps},
    "labels": np.array([[0, 2], [1, -1], [-1, -1], [2, -1]], np.int32),
    "label_names": ("x", "ÿ", "z"),
    "sources": ("film", "", "", "film"),
    "clip": None,
    "about": {"data": "", "views": {"clips": 20}, "pool": "none"},
  }
  return Features(**given | fields)


def assert_same(a: Features, b: Features) -> None:
  for name in ("ids", "label_names", "sources", "about"):
    assert getattr(a, name) == getattr(b, name), name
  assert list(a.arrays) == list(b.arrays)
  pairs = [(a.arrays[name], b.arrays[name]) for name in a.arrays]
  pairs.append((a.labels, b.labels))
  assert (a.clip is None) == (b.clip is None)
  if a.clip is not None and b.clip is not None:
    pairs.append((a.clip, b.clip))
  for x, y in pairs:
    assert (x.dtype, x.shape) == (y.dtype, y.shape)
    assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rows", [4, 0])
@pytest.mark.parametrize("clips", [False, True], ids=["videos", "clips"])
def test_what_goes_in_comes_out(
  tmp_path: pathlib.Path, suffix: str, rows: int, clips: bool
) -> None:
  features = made()
  if clips:
    clip = np.array([0, 1, 0, 1], np.int32)
    features = made(ids=("a", "a", "b", "b"), clip=clip)
  features = features.take(
    features.ids[:rows] if not clips else ["b", "a"][:rows]
  )
  path = tmp_path / f"f{suffix}"
  save_features(path, features)
  assert_same(load_features(path), features)
  assert read_about(path) == features.about
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_some_rows_at_a_time(
  tmp_path: pathlib.Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  """A table is written in groups: here, of one row and of three."""
  each = 5 * 4 + 30 * 2  # bytes of a row
  for rows in (1, 3):
    monkeypatch.setattr(feature_file, "_CHUNK", rows * each)
    path = tmp_path / f"{rows}{suffix}"
    save_features(path, made())
    assert_same(load_features(path), made())
  if suffix == ".parquet":
    groups = [parquet.ParquetFile(tmp_path / f"{n}.parquet") for n in (1, 3)]
    assert [file.num_row_groups for file in groups] == [4, 2]


def test_others_read_them_without_us(tmp_path: pathlib.Path) -> None:
  """numpy and pyarrow find the columns by their names."""
  features = made()
  for suffix in SUFFIXES:
    save_features(tmp_path / f"f{suffix}", features)
  with np.load(tmp_path / "f.npz", allow_pickle=False) as read:
    np.testing.assert_array_equal(read["pool5"], features.arrays["pool5"])
    assert read["id"].tolist() == list(features.ids)
  with pa.ipc.open_file(tmp_path / "f.arrow") as read:
    arrow = read.read_all()
  for table in (arrow, parquet.read_table(tmp_path / "f.parquet")):
    assert table["id"].to_pylist() == list(features.ids)
    assert table["labels"].to_pylist() == [[0, 2], [1], [], [2]]
    pool = features.arrays["pool5"].tolist()
    assert table["pool5"].to_pylist() == pool
    maps = features.arrays["res4/block05"].reshape(4, -1)
    assert table["res4/block05"].to_pylist() == maps.tolist()


def test_rows_are_taken_by_the_ids() -> None:
  features = made()
  taken = features.take(["日本", "b"])
  assert taken.ids == ("日本", "b")
  assert taken.sources == ("film", "")
  assert taken.labels.tolist() == [[2, -1], [1, -1]]
  np.testing.assert_array_equal(
    taken.endpoint("pool5"), features.arrays["pool5"][[3, 1]]
  )
  with pytest.raises(ValueError, match=r"of 2 of 3 videos \(q, r\)$"):
    features.take(["q", "b", "r"])
  with pytest.raises(ValueError, match="are of pool5, res4/block05$"):
    features.endpoint("prob")
  clips = made(ids=("a", "b", "a", "b"), clip=np.array([0, 0, 1, 1], np.int32))
  taken = clips.take(["b", "a"])
  assert taken.ids == ("b", "b", "a", "a")
  assert taken.clip is not None
  assert taken.clip.tolist() == [0, 1, 0, 1]
  np.testing.assert_array_equal(
    taken.arrays["pool5"], clips.arrays["pool5"][[1, 3, 0, 2]]
  )


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"ids": ("a", "b", "c", "a")}, "two rows of features are of the same"),
    ({"sources": ("a",)}, "sources has 1 rows: there are 4 ids"),
    ({"arrays": {"pool5": np.zeros((3, 2), np.float32)}}, "pool5 has 3 rows"),
    ({"arrays": {"pool5": np.zeros((4, 2))}}, "pool5 is float64"),
    ({"arrays": {"id": np.zeros((4, 2), np.float32)}}, "cannot be named 'id'"),
    ({"labels": np.zeros(4, np.int32)}, "labels: they must be int32"),
    ({"labels": np.full((4, 1), 9, np.int32)}, "labels are 9 to 9: they must"),
  ],
  ids=["twice", "sources", "rows", "float64", "name", "labels", "no class"],
)
def test_parts_that_do_not_fit(fields: dict[str, Any], message: str) -> None:
  with pytest.raises(ValueError, match=message):
    made(**fields)


class Trap:
  """Leaves a trace if it is unpickled."""

  sprung = False

  def __reduce__(self) -> Any:
    return setattr, (Trap, "sprung", True)


def foreign(path: pathlib.Path, kind: str) -> None:
  """Writes a file that is no file of features."""
  columns = {"id": ["a"], "pool5": [[1.0]]}
  if kind == "a pickle":
    path.write_bytes(pickle.dumps(Trap()))
  elif kind == "a pickled array":
    with path.open("wb") as file:
      np.savez(file, id=np.array([Trap()], object), about=np.array([Trap()]))
  elif kind == "other arrays":
    with path.open("wb") as file:
      np.savez(file, pool5=np.zeros((1, 2), np.float32))
  elif kind == "a table":
    parquet.write_table(pa.table(columns), path)
  elif kind == "an arrow table":
    with pa.ipc.new_file(path, pa.table(columns).schema) as writer:
      writer.write_table(pa.table(columns))
  elif kind == "half of it":
    save_features(path, made())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  else:
    path.write_bytes(b"" if kind == "empty" else b"id,pool5\na,1\n")


@pytest.mark.parametrize(
  ("suffix", "kind"),
  [
    *((suffix, kind) for suffix in SUFFIXES for kind in ("a pickle", "empty")),
    *((suffix, kind) for suffix in SUFFIXES for kind in ("half of it", "text")),
    (".npz", "a pickled array"),
    (".npz", "other arrays"),
    (".parquet", "a table"),
    (".arrow", "an arrow table"),
  ],
)
def test_files_of_others(
  tmp_path: pathlib.Path, suffix: str, kind: str
) -> None:
  path = tmp_path / f"f{suffix}"
  foreign(path, kind)
  for read in (load_features, read_about):
    with pytest.raises(ValueError, match=r"f\.\w+ is no feature file") as error:
      read(path)
    assert "\n" not in str(error.value)
  assert not Trap.sprung


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_another_format_by_a_wrong_name(
  tmp_path: pathlib.Path, suffix: str
) -> None:
  """numpy would advise to unpickle it."""
  save_features(tmp_path / f"f{suffix}", made())
  path = (tmp_path / f"f{suffix}").rename(tmp_path / "f.npz")
  for read in (load_features, read_about):
    with pytest.raises(ValueError, match="it is no archive of arrays") as error:
      read(path)
    assert "pickle" not in str(error.value)


def test_scores_are_no_features(tmp_path: pathlib.Path) -> None:
  """They too are an archive that says what it is "about"."""
  path = tmp_path / "f.npz"
  scores = np.eye(2, dtype=np.float32)
  labels, readable = np.zeros((2, 1), np.int32), np.ones(2, bool)
  save_scores(
    path, VideoScores(("a", "b"), scores, labels, ("A", "B"), readable)
  )
  for read in (load_features, read_about):
    with pytest.raises(ValueError, match="not whole: it has no id, source$"):
      read(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damage_is_told_and_ends_nothing(
  tmp_path: pathlib.Path, suffix: str
) -> None:
  """A byte that is another one is a feature, or a ValueError of one line.

  Arrow takes a file at its word: of a damaged offset the process would die.
  """
  path = tmp_path / f"f{suffix}"
  save_features(path, made())
  whole = path.read_bytes()
  told = []
  for place in range(0, len(whole), max(len(whole) // 400, 1)):
    path.write_bytes(whole[:place] + b"\x7f" + whole[place + 1 :])
    try:
      load_features(path)
    except ValueError as error:
      told.append(str(error))
  assert len(told) > 40
  assert not any("\n" in line for line in told)


def test_names_of_files(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  with pytest.raises(ValueError, match=r"ends in \.npz, \.parquet, \.arrow$"):
    save_features(tmp_path / "f.csv", made())
  for read in (load_features, read_about):
    with pytest.raises(ValueError, match=r"f\.npz: there is no such file$"):
      read(tmp_path / "f.npz")
    with pytest.raises(ValueError, match="it is a folder, not a feature file$"):
      read(tmp_path)
  # As an import system without pyarrow says it.
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  monkeypatch.setattr(feature_file.importlib.util, "find_spec", lambda _: None)
  save_features(tmp_path / "f.npz", made())
  with pytest.raises(ValueError, match=r"pip install 'p3d_jax\[arrow\]'$"):
    save_features(tmp_path / "f.arrow", made())
  assert [p.name for p in tmp_path.iterdir()] == ["f.npz"]


def test_a_failure_leaves_the_old_file(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  path = tmp_path / "f.npz"
  save_features(path, made())
  before = path.read_bytes()

  def full(*args: Any, **kwargs: Any) -> None:
    raise OSError("no space left")

  monkeypatch.setattr(np, "savez", full)
  with pytest.raises(OSError, match="no space left"):
    save_features(path, made(sources=("q",) * 4))
  assert path.read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == ["f.npz"]


def test_writing_takes_no_second_copy(tmp_path: pathlib.Path) -> None:
  """80 MB are written in blocks of at most 16 MiB (numpy's) or 64 (ours)."""
  rows = 800
  maps = np.zeros((rows, 25, 1000), np.float32)
  features = Features(
    ids=tuple(map(str, range(rows))),
    arrays={"res5": maps},
    labels=np.full((rows, 1), -1, np.int32),
    label_names=(),
    sources=("",) * rows,
    clip=None,
    about={},
  )
  tracemalloc.start()
  try:
    save_features(tmp_path / "f.npz", features)
    wrote = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    load_features(tmp_path / "f.npz")
    read = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert wrote < maps.nbytes / 2
  assert read < 1.5 * maps.nbytes
