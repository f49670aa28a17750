"""Sets on gs://, read from a copy."""

import fcntl
import os
import pathlib
import pickle
import subprocess
import sys
import time
import types
import uuid
from typing import Any

import numpy as np
import pytest
from etils import epath

from p3d_jax.data import set_cache
from p3d_jax.data.builders import camera_motion
from p3d_jax.data.sets import open_set
from tests import bucket, small


class Stored:
  """A small set in the bucket, and an empty folder for copies of it."""

  def __init__(self, built: epath.PathLike, cache: pathlib.Path) -> None:
    self.buckets = bucket.running()
    self.home = f"test/{uuid.uuid4().hex}/camera"
    self.path = f"gs://{self.home}"
    self.cache = cache
    self.copy = cache / self.home
    for file in pathlib.Path(built).iterdir():
      self.buckets.put(f"{self.home}/{file.name}", file.read_bytes())
    self.names = sorted(file.name for file in pathlib.Path(built).iterdir())

  def read(self) -> list[str]:
    """Names of the files that were read, once for each time."""
    read = self.buckets.done("read", self.home)
    return sorted(name.rpartition("/")[2] for name in read)


@pytest.fixture
def stored(built: Any, tmp_path: pathlib.Path) -> Any:
  made = Stored(built, tmp_path / "cache")
  yield made
  made.buckets.refuse = lambda *_: None


def test_the_records_are_those_of_the_set(stored: Stored, built: Any) -> None:
  """Read by two workers' pickled sets too, which ask the bucket for nothing."""
  videos, own = (
    open_set(stored.path, "test", cache=stored.cache),
    open_set(built, "test"),
  )
  assert str(videos.directory) == stored.path
  assert videos.folder == epath.Path(stored.copy)
  assert videos.label_names == own.label_names
  asked = len(stored.buckets.log)
  again = pickle.loads(pickle.dumps(videos))
  assert len(again) == len(own) == 16
  for k in range(len(own)):
    for name, value in own[k].items():
      assert np.array_equal(again[k][name], value), name
  assert again.ids() == own.ids()
  assert len(stored.buckets.log) == asked


def test_each_file_is_read_once(stored: Stored) -> None:
  open_set(stored.path, "train", cache=stored.cache)
  assert stored.read() == stored.names
  open_set(stored.path, "test", cache=stored.cache)
  open_set(stored.path.rpartition("/")[0], "test", cache=stored.cache)
  assert stored.read() == stored.names
  assert stored.buckets.done("write", stored.home) == []


def test_a_copy_that_was_stopped_goes_on(stored: Stored) -> None:
  """What is half there is read anew, and what is whole is not."""
  broken = next(name for name in stored.names if "train" in name)
  stored.buckets.refuse = lambda method, what, name: (
    403 if what == "read" and name.endswith(broken) else None
  )
  with pytest.raises(OSError):
    open_set(stored.path, "train", cache=stored.cache)
  assert not (stored.copy / broken).exists()
  # The set's description comes last: without it, nothing takes it for a set.
  assert not (stored.copy / "dataset_info.json").exists()
  whole = {path.name for path in stored.copy.iterdir() if path.name[0] != "."}
  assert whole
  stored.buckets.refuse = lambda *_: None
  before = stored.read()
  open_set(stored.path, "train", cache=stored.cache)
  after = stored.read()
  for name in whole:
    assert after.count(name) == before.count(name) == 1
  assert sorted(path.name for path in stored.copy.iterdir()) == stored.names


def test_a_set_that_changed_is_copied_anew(stored: Stored, built: Any) -> None:
  """Of the same size too: an object has the time at which it was written."""
  open_set(stored.path, "test", cache=stored.cache)
  stored.buckets.put(f"{stored.home}/lists/some.json", b"[]")
  open_set(stored.path, "test", cache=stored.cache)
  assert (stored.copy / "lists" / "some.json").read_text() == "[]"
  time.sleep(1.1)  # times are whole seconds
  info = (pathlib.Path(built) / "dataset_info.json").read_bytes()
  other = info.replace(b"virtual camera", b"VIRTUAL CAMERA")
  assert other != info
  stored.buckets.put(f"{stored.home}/dataset_info.json", other)
  del stored.buckets.objects[f"{stored.home}/lists/some.json"]
  open_set(stored.path, "test", cache=stored.cache)
  assert (stored.copy / "dataset_info.json").read_bytes() == other
  assert not (stored.copy / "lists" / "some.json").exists()


READ = """
import sys
from p3d_jax.data.sets import open_set
videos = open_set(sys.argv[1], "test", cache=sys.argv[2])
print(len(videos), videos[15]["id"])
"""


def test_processes_copy_once(stored: Stored, built: Any) -> None:
  """Three start together; two wait for the one that copies."""
  stored.buckets.refuse = lambda method, what, name: (
    time.sleep(0.5) if what == "read" else None
  )
  begun = [
    subprocess.Popen(
      [sys.executable, "-c", READ, stored.path, str(stored.cache)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env=small.environment() | stored.buckets.environment,
    )
    for _ in range(3)
  ]
  said = [process.communicate(timeout=120) for process in begun]
  last = open_set(built, "test")[15]["id"]
  assert [out for out, _ in said] == [f"16 {last}\n"] * 3, said
  assert stored.read() == stored.names
  copies = sum("files, " in err for _, err in said)
  waits = sum("another process copies" in err for _, err in said)
  assert (copies, waits <= 2) == (1, True), said


def test_one_that_does_not_get_on(stored: Stored) -> None:
  """A process that holds the lock and copies nothing is named."""
  stored.copy.parent.mkdir(parents=True)
  lock = stored.copy.parent / ".camera.lock"
  with lock.open("w") as file:
    file.write("process 12345")
    file.flush()
    fcntl.flock(file, fcntl.LOCK_EX)
    os.utime(lock, (0, 0))
    began = time.monotonic()
    with pytest.raises(
      ValueError,
      match=f"^config.data.cache: process 12345 .* {stored.path}, .* in 0.5 s",
    ):
      set_cache.local_copy(stored.path, stored.cache, patience=0.5)
    assert 0.4 < time.monotonic() - began < 5
  set_cache.local_copy(stored.path, stored.cache, patience=0.5)


@pytest.mark.parametrize(
  ("cache", "message"),
  [
    ("", "^config.data.cache is empty: gs://.* P3D_CACHE$"),
    ("gs://test/cache", "^config.data.cache is 'gs://test/cache': .*machine$"),
    ("FILE", "^config.data.cache is '.*': File exists$"),
  ],
  ids=["empty", "store", "file"],
)
def test_folders_that_cannot_take_it(
  stored: Stored,
  cache: str,
  message: str,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.delenv("P3D_CACHE", raising=False)
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match=message):
    open_set(
      stored.path, "test", cache=cache.replace("FILE", f"{tmp_path}/file")
    )
  assert stored.read() == []


def test_a_disk_without_room(
  stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(
    set_cache.shutil,
    "disk_usage",
    lambda path: types.SimpleNamespace(free=1000),
  )
  with pytest.raises(ValueError, match=r"^config.data.cache .* 0.000 GB are f"):
    open_set(stored.path, "test", cache=stored.cache)
  assert stored.read() == []


def test_the_environment_names_a_folder(
  stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv("P3D_CACHE", str(stored.cache))
  assert open_set(stored.path, "test").folder == epath.Path(stored.copy)


def test_sets_that_are_not_there(stored: Stored) -> None:
  for path in (f"{stored.path}/no", "gs://test/none"):
    with pytest.raises(ValueError, match="no built set is there"):
      open_set(path, "test", cache=stored.cache)


def test_sets_are_not_built_in_a_bucket(footage_folder: Any) -> None:
  buckets = bucket.running()
  before = len(buckets.log)
  with pytest.raises(
    ValueError, match="^out='gs://test/new': must be a folder of this machine; "
  ):
    camera_motion.build_camera_motion("gs://test/new", footage_folder)
  assert len(buckets.log) == before
