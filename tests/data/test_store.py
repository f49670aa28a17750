"""Sets written shard by shard, stopped and gone on with."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from p3d_jax.data import store
from p3d_jax.data.decode import VideoError
from p3d_jax.data.guard import CrashError, HangError
from p3d_jax.data.sets import open_set

SET = store.Description(
  name="my_set",
  text="Numbers.",
  label_names=("even", "odd"),
  max_labels=2,
  metadata={"side": None},
)


def record(k: int) -> store.Record:
  """Item k: k bytes of k, of two labels if it divides by 5."""
  return {
    "video": bytes([k]) * k,
    "labels": [0, 1] if k % 5 == 0 else [k % 2],
    "segments": np.array([[0, k / 2], [k / 2, k]], np.float32),
    "segment_labels": [k % 2, 1],
    "id": f"vidéo {k}, \n",
    "source_id": f"source {k // 2}",
    "num_frames": k + 1,
  }


def write(folder: pathlib.Path, make: Any = record, **more: Any) -> None:
  arguments: dict[str, Any] = {
    "lists": {"odd": [f"vidéo {k}, \n" for k in range(1, 21, 2)], "none": []},
    "documents": {"pairs": [{"a": "é", "same": True}]},
    "report": lambda written: {"records": len(written.ids)},
    "workers": 2,
    "progress": False,
  }
  names = [f"file {k}" for k in range(21)]
  store.write_set(epath.Path(folder), SET, names, make, **{**arguments, **more})


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  """Everything in a folder, by name."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(store, "SHARD", 4)


def test_what_is_read_is_what_was_written(tmp_path: pathlib.Path) -> None:
  write(tmp_path)
  videos = open_set(tmp_path, "all")
  assert len(videos) == 21
  for k in range(21):
    expected, got = record(k), videos[k]
    assert got.keys() == expected.keys()
    for name, value in expected.items():
      if name in ("labels", "segments", "segment_labels"):
        assert np.array_equal(got[name], np.asarray(value)), name
      else:
        assert got[name] == value
  assert videos.label_names == ("even", "odd")
  assert videos.max_labels == 2
  assert videos.channels == "RGB"
  assert videos.document("pairs") == [{"a": "é", "same": True}]
  report = json.loads((tmp_path / "report.json").read_text())
  assert report.pop("bytes") > sum(range(21))
  assert report == {"records": 21, "broken": []}


def test_tfds_reads_it_without_us(tmp_path: pathlib.Path) -> None:
  write(tmp_path)
  builder = tfds.builder_from_directory(tmp_path)
  assert builder.info.splits["videos"].num_examples == 21
  assert builder.info.splits["videos"].shard_lengths == [3, 4, 3, 4, 3, 4]
  source: Any = builder.as_data_source("videos")
  assert [int(source[k]["num_frames"]) for k in range(21)] == list(range(1, 22))


def test_any_number_of_workers_writes_the_same(tmp_path: pathlib.Path) -> None:
  def slow(k: int) -> store.Record:
    time.sleep(0.02 * (k % 3))  # they finish in another order
    return record(k)

  for workers in (1, 2, 7):
    write(tmp_path / str(workers), slow, workers=workers)
  one, two, seven = (contents(tmp_path / str(k)) for k in (1, 2, 7))
  assert len(one) == 6 + 4 + 3 + 1  # shards, TFDS's and report, lists, document
  assert one == two == seven


def test_all_workers_work_at_once(tmp_path: pathlib.Path) -> None:
  barrier = threading.Barrier(3)  # breaks if there are never three

  def together(k: int) -> store.Record:
    barrier.wait(30)
    return record(k)

  write(tmp_path, together, workers=3)


def test_a_stopped_build_goes_on_where_it_was(tmp_path: pathlib.Path) -> None:
  write(tmp_path / "undisturbed")
  made: list[int] = []

  def stops(k: int) -> store.Record:
    made.append(k)
    if k == 12:
      raise KeyboardInterrupt
    return record(k)

  folder = tmp_path / "stopped"
  with pytest.raises(KeyboardInterrupt):
    write(folder, stops, workers=1)
  with pytest.raises(ValueError, match="the set is not finished"):
    open_set(folder, "all")
  assert not list(folder.glob(".*"))

  again: list[int] = []

  def counts(k: int) -> store.Record:
    again.append(k)
    return record(k)

  write(folder, counts)
  # Shards hold items 0-2, 3-6, 7-9, 10-13, ...: three were whole.
  assert sorted(again) == list(range(10, 21))
  assert contents(folder) == contents(tmp_path / "undisturbed")
  again.clear()
  write(folder, counts)
  assert not again


KILLED = """
import os, sys, time
sys.path[:0] = {path!r}
from p3d_jax.data import store
store.SHARD = 4
import test_store
def make(k):
  if k == 15:
    print("at work", flush=True)
    time.sleep(60)
  return test_store.record(k)
test_store.write({folder!r}, make)
"""


def test_a_killed_build_goes_on_where_it_was(tmp_path: pathlib.Path) -> None:
  write(tmp_path / "undisturbed")
  folder = tmp_path / "killed"
  path = [os.path.dirname(__file__), *sys.path]
  process = subprocess.Popen(
    [sys.executable, "-c", KILLED.format(path=path, folder=str(folder))],
    stdout=subprocess.PIPE,
  )
  assert process.stdout is not None
  assert process.stdout.readline() == b"at work\n"
  time.sleep(0.5)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert list(folder.glob(".*.part"))  # it was in the middle of a shard
  write(folder)
  # Records are maps of protobuf, which each process writes in an order of its
  # own; so shards are compared by what is read from them.
  before, after = contents(tmp_path / "undisturbed"), contents(folder)
  assert before.keys() == after.keys()
  for name in before:
    assert "array_record" in name or before[name] == after[name]
  one, two = open_set(tmp_path / "undisturbed", "all"), open_set(folder, "all")
  for k in range(21):
    assert repr(one[k]) == repr(two[k])


def breaks(*which: int) -> Any:
  def make(k: int) -> store.Record:
    if k in which:
      raise VideoError(f"reason {k}")
    return record(k)

  return make


def test_broken_items_are_counted_and_more_than_allowed_are_an_error(
  tmp_path: pathlib.Path,
) -> None:
  # 7, 8 and 9 are a whole shard, which is then empty.
  make = breaks(2, 7, 8, 9, 20)
  with pytest.raises(
    store.TooManyBrokenError,
    match="5 videos cannot be read, 4 may be: file 2: reason 2; file 7: .*; ",
  ):
    write(tmp_path, make, max_broken=4)
  with pytest.raises(ValueError, match="not finished"):
    open_set(tmp_path, "all")

  def never(k: int) -> store.Record:
    raise AssertionError("what was made is not made again")

  write(tmp_path, never, max_broken=5)
  videos = open_set(tmp_path, "all")
  left = [k for k in range(21) if k not in (2, 7, 8, 9, 20)]
  assert videos.ids() == [record(k)["id"] for k in left]
  assert [videos[i]["num_frames"] - 1 for i in range(len(left))] == left
  odd = open_set(tmp_path, "odd")
  assert [odd[i]["num_frames"] - 1 for i in range(len(odd))] == [
    k for k in left if k % 2
  ]
  told = json.loads((tmp_path / "report.json").read_text())["broken"]
  assert told == [[f"file {k}", f"reason {k}"] for k in (2, 7, 8, 9, 20)]
  # A finished set does not hide what is broken in it from a stricter call.
  with pytest.raises(store.TooManyBrokenError, match="5 videos"):
    write(tmp_path, never, max_broken=4)


def test_a_disk_that_is_gone_ends_the_build_early(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(store, "TOO_MANY", 6)
  asked: list[int] = []

  def make(k: int) -> store.Record:
    asked.append(k)
    raise VideoError("gone")

  with pytest.raises(store.TooManyBrokenError, match="8 videos so far cannot"):
    write(tmp_path, make, max_broken=2, workers=1)
  assert len(asked) < 15


def test_a_set_of_nothing_is_an_error(tmp_path: pathlib.Path) -> None:
  with pytest.raises(store.TooManyBrokenError, match="21 videos"):
    write(tmp_path, breaks(*range(21)), max_broken=100)


def test_a_bug_is_no_broken_item(tmp_path: pathlib.Path) -> None:
  def make(k: int) -> store.Record:
    raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    write(tmp_path, make, max_broken=100)


def test_progress_counts_what_was_there(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  with pytest.raises(store.TooManyBrokenError):
    write(tmp_path, breaks(20))
  write(tmp_path, max_broken=1, progress=True)
  assert "build" not in capsys.readouterr().err  # nothing was left to do
  write(tmp_path / "new", breaks(3), max_broken=1, progress=True)
  assert "build 21/21  broken 1" in capsys.readouterr().err


def test_workers_are_one_or_more(tmp_path: pathlib.Path) -> None:
  with pytest.raises(ValueError, match="workers=0: must be >= 1"):
    write(tmp_path, workers=0)
  assert not list(tmp_path.iterdir())


def test_what_hung_or_crashed_is_tried_again(tmp_path: pathlib.Path) -> None:
  def slow(k: int) -> store.Record:
    if k in (5, 12):
      raise HangError("too slow") if k == 5 else CrashError("killed")
    return breaks(19)(k)

  with pytest.raises(store.TooManyBrokenError, match="3 videos"):
    write(tmp_path, slow)
  again: list[int] = []

  def fast(k: int) -> store.Record:
    again.append(k)
    return record(k)

  with pytest.raises(store.TooManyBrokenError, match="1 video cannot be read"):
    write(tmp_path, fast)
  # The shards of 5 and 12, and not that of 19.
  assert sorted(again) == [3, 4, 5, 6, 10, 11, 12, 13]
  write(tmp_path, fast, max_broken=1)
  assert len(open_set(tmp_path, "all")) == 20


def test_one_build_at_a_time(tmp_path: pathlib.Path) -> None:
  """The second is told, and what the first has written stays."""
  told: list[str] = []

  def make(k: int) -> store.Record:
    if k == 9:
      try:
        write(tmp_path, record)
      except ValueError as error:
        told.append(str(error))
    return record(k)

  write(tmp_path, make)
  assert told == [
    f"{tmp_path}: another build is writing this set; wait for it, and give "
    "the command again"
  ]
  assert len(open_set(tmp_path, "all")) == 21


def test_a_full_disk_is_one_line_and_nothing_is_left(
  tmp_path: pathlib.Path,
) -> None:
  text = (
    f"import sys; sys.path[:0] = {[os.path.dirname(__file__), *sys.path]!r}\n"
    "import resource, signal\n"
    "import test_store\n"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
    "big = lambda k: {**test_store.record(k), 'video': bytes(40_000)}\n"
    "try:\n"
    f"  test_store.write({str(tmp_path)!r}, big)\n"
    "except OSError as error:\n"
    "  print(error)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", text], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  (line,) = done.stdout.splitlines()
  assert line.startswith(f"{tmp_path}/my_set-videos.array_record-00000-of-")
  assert not list(tmp_path.glob(".*"))
  write(tmp_path)  # there is room again
  assert len(open_set(tmp_path, "all")) == 21


def test_two_records_of_one_id_are_an_error(tmp_path: pathlib.Path) -> None:
  def make(k: int) -> store.Record:
    return {**record(k), "id": "same" if k in (4, 17) else str(k)}

  with pytest.raises(ValueError, match="id='same': two records have it"):
    write(tmp_path, make)


def test_a_set_that_is_found_is_not_written_to(tmp_path: pathlib.Path) -> None:
  """It may be somebody else's, on a disk that is to be read only."""
  write(tmp_path)
  before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
  time.sleep(0.02)
  write(tmp_path)
  assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_a_set_without_its_report_is_not_finished(
  tmp_path: pathlib.Path,
) -> None:
  write(tmp_path)
  (tmp_path / "report.json").unlink()
  write(tmp_path)
  assert (tmp_path / "report.json").exists()
