"""Files on gs://, against a server that has no folders and no renaming."""

import errno
import gzip
import importlib.util
import pathlib
import re
import subprocess
import sys
import uuid
from typing import Any

import numpy as np
import pytest
from etils import epath
from tensorboard.backend.event_processing import event_file_loader

from p3d_jax import files
from p3d_jax.data.builders.layout import read_tree
from p3d_jax.data.file_set import FileSet
from p3d_jax.data.sets import open_set
from p3d_jax.evaluate.evaluate import default_out
from p3d_jax.evaluate.features import features, open_source
from p3d_jax.evaluate.predict import classifier
from p3d_jax.train import config_file
from p3d_jax.train.compile_cache import compile_cache
from p3d_jax.train.config import ConfigError
from p3d_jax.train.events import EventFile
from tests import bucket, small


@pytest.fixture
def buckets() -> Any:
  """The server, which takes all requests again after the test."""
  served = bucket.running()
  yield served
  served.refuse = lambda *_: None


@pytest.fixture
def home() -> str:
  """bucket/folder of one test."""
  return f"test/{uuid.uuid4().hex}"


def test_an_object_is_written_in_its_place(
  buckets: bucket.Buckets, home: str
) -> None:
  """There is never another name, so nothing has to be renamed."""
  files.write_json(f"gs://{home}/a.json", {"b": 1})
  files.write_aside(f"gs://{home}/a.json", "new")
  assert buckets.objects[f"{home}/a.json"] == b"new"
  assert buckets.done("write", home) == [f"{home}/a.json"] * 2
  assert [name for name in buckets.objects if home in name] == [
    f"{home}/a.json"
  ]


def test_one_that_fails_changes_nothing(
  buckets: bucket.Buckets, home: str
) -> None:
  """A file of gcsfs that is closed on the way would stand there, cut short."""
  files.write_aside(f"gs://{home}/a", "old")

  def write() -> None:
    with files.open_aside(f"gs://{home}/a") as file:
      file.write(b"x" * 20_000_000)  # more than gcsfs sends at once
      raise RuntimeError("full")

  with pytest.raises(RuntimeError, match="full"):
    write()
  assert buckets.objects[f"{home}/a"] == b"old"


@pytest.mark.parametrize("often", ["once", "always"])
def test_an_upload_that_breaks_off_leaves_no_part(
  buckets: bucket.Buckets, home: str, often: str
) -> None:
  """Closing a file of gcsfs ends it, even if writing to it has failed."""
  files.write_aside(f"gs://{home}/a", "old")
  before = len(buckets.done("write", home))

  def refuse(method: str, what: str, name: str) -> int | None:
    tried = len(buckets.done("write", home)) - before
    late = tried == 2 if often == "once" else tried >= 2
    return 403 if what == "write" and late else None

  buckets.refuse = refuse
  new = b"y" * 12_000_000  # sent in several parts
  with pytest.raises(OSError):
    files.write_aside(f"gs://{home}/a", new)
  assert len(buckets.done("write", home)) - before >= 2
  assert buckets.objects[f"{home}/a"] in (b"old", new)


@pytest.mark.parametrize("kind", ["store", "folder"])
def test_lines_go_on_behind_what_is_there(
  buckets: bucket.Buckets, home: str, kind: str, tmp_path: pathlib.Path
) -> None:
  path = epath.Path(f"gs://{home}/log" if kind == "store" else tmp_path / "log")
  path.write_text("one\n")
  lines = files.Lines(path, every=3600.0)
  lines.add("two\n")
  lines.add("thr€e\n")
  # An object is written anew at most once in that time; a file is appended to.
  seen = "one\n" if kind == "store" else "one\ntwo\nthr€e\n"
  assert path.read_text() == seen
  lines.sync()
  assert path.read_text() == "one\ntwo\nthr€e\n"
  lines.add("four\n")
  lines.close()
  assert path.read_text() == "one\ntwo\nthr€e\nfour\n"
  if kind == "store":
    assert len(buckets.done("write", home)) == 3  # the first, sync and close
  lines = files.Lines(path, every=0.0)
  lines.add("five\n")
  assert path.read_text().endswith("four\nfive\n")
  lines.close()


def test_event_files(buckets: bucket.Buckets, home: str) -> None:
  """TensorBoard's own reader finds them, before and after the end."""

  def read() -> list[tuple[int, str, float]]:
    (name,) = [name for name in buckets.objects if home in name]
    copy = small.folder() / name.rpartition("/")[2]
    copy.write_bytes(buckets.objects[name])
    loader = event_file_loader.LegacyEventFileLoader(str(copy))
    return [
      (event.step, value.tag, round(value.simple_value, 6))
      for event in loader.Load()
      for value in event.summary.value
    ]

  events = EventFile(f"gs://{home}/tensorboard", 0)
  events.add(3, {"train/loss": 0.5})
  events.sync()
  assert read() == [(3, "train/loss", 0.5)]
  events.add(4, {"train/loss": 0.25, "eval/hit": 7.0})
  events.close()
  assert read()[1:] == [(4, "train/loss", 0.25), (4, "eval/hit", 7.0)]


def test_paths_mean_the_same_everywhere(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", "/home/somebody")
  assert str(files.absolute("gs://b/c/d")) == "gs://b/c/d"
  assert str(files.absolute(epath.Path("gs://b") / "c")) == "gs://b/c"
  assert str(files.absolute("a/b")) == str(tmp_path / "a" / "b")
  assert str(files.absolute("~/a")) == "/home/somebody/a"


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match=r"^gs://b/c: .*p3d_jax\[gcs\]'$"):
    files.absolute("gs://b/c")


def test_what_others_write_is_seen(buckets: bucket.Buckets, home: str) -> None:
  """gcsfs keeps the first listing of a folder, if it is let."""
  folder = files.absolute(f"gs://{home}")
  (folder / "a").write_text("a")
  assert [path.name for path in folder.iterdir()] == ["a"]
  assert not (folder / "b").exists()
  buckets.put(f"{home}/b", b"b")
  assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
  assert (folder / "b").exists()


def test_a_bucket_that_is_not_there(buckets: bucket.Buckets, home: str) -> None:
  files.check_out(f"gs://{home}/x.json")
  files.check_bucket("/nowhere", "workdir")
  with pytest.raises(
    ValueError, match="^workdir='gs://tset/run': gs://tset cannot be read"
  ) as raised:
    files.check_bucket("gs://tset/run", "workdir")
  assert "\n" not in str(raised.value)
  with pytest.raises(ValueError, match="^out='gs://tset/x.json': gs://tset "):
    files.check_out("gs://tset/x.json")


@pytest.mark.parametrize("path", ["gs://", "gs:///runs"])
def test_a_path_without_a_bucket(path: str, tmp_path: pathlib.Path) -> None:
  """It is refused as it was given: epath makes a bucket of the folder."""
  refuse = re.escape(f"={path!r}: it has no bucket")
  for asked in (
    lambda: files.check_bucket(path, "workdir"),
    lambda: files.check_out(path, "--out"),
    lambda: open_set(path, "train", name="config.data.dir"),
    lambda: compile_cache(path),
    lambda: config_file.load(path),
    lambda: classifier(path),
    lambda: default_out(path),
    lambda: features(path, tmp_path, tmp_path / "x.npz", endpoints=("pool5",)),
    lambda: open_source(path),
  ):
    with pytest.raises(
      ValueError,
      match=rf"^(workdir|--out|--config|config\.[a-z.]+|checkpoint|source){refuse}$",
    ):
      asked()
  with pytest.raises(ValueError, match=f"^'{path}': it has no bucket$"):
    files.absolute(path)


# Prints the error and how long it took; what is logged comes beside it.
ASKS = """
import sys, time
from p3d_jax import files
files.REACH = float(sys.argv[2])
began = time.monotonic()
try:
  files.check_bucket(sys.argv[1], "workdir")
except OSError as error:
  print(type(error).__name__, error)
print(time.monotonic() - began)
"""


def asked(path: str, reach: float, url: str) -> tuple[str, float, str]:
  """Asks in a new process for a bucket of a server that may not be there."""
  env = small.environment() | bucket.running().environment
  done = subprocess.run(
    [sys.executable, "-c", ASKS, path, str(reach)],
    capture_output=True,
    text=True,
    env=env | {"STORAGE_EMULATOR_HOST": url},
  )
  *told, seconds = done.stdout.splitlines()
  return "\n".join(told), float(seconds), done.stderr


@pytest.mark.parametrize(
  ("kind", "host", "reason"),
  [
    ("name", "nowhere.invalid", "nowhere.invalid"),  # RFC 2606
    ("port", "127.0.0.1:1", "Connection refused"),
  ],
)
def test_a_store_that_cannot_be_reached(
  kind: str, host: str, reason: str
) -> None:
  """One line, no traceback of gcsfs, and not its 35 s."""
  told, seconds, logged = asked("gs://b/run", 3.0, f"http://{host}")
  assert re.fullmatch(
    "UnreachableError workdir='gs://b/run': the store cannot be reached: "
    f".*{reason}.*",
    told,
  )
  assert logged == ""
  assert seconds < 6  # 3 s, and what importing gcsfs takes


def test_a_slow_store_is_waited_for(buckets: bucket.Buckets) -> None:
  """gcsfs tries again as it did: two refusals take it 1 + 2 s at least."""
  left = [503, 503]
  buckets.refuse = lambda *_: left.pop() if left else None
  told, seconds, logged = asked("gs://test/run", 0.5, buckets.url)
  assert told == ""
  assert logged == ""
  assert not left
  assert seconds > 3


def test_a_store_that_forbids_it(buckets: bucket.Buckets, home: str) -> None:
  """gcsfs has an error of its own for it, which is no OSError."""
  for status in (401, 403):
    buckets.refuse = lambda *_, status=status: status
    with pytest.raises(
      ValueError, match=f"^workdir='gs://{home}': gs://test cannot be read, or "
    ) as raised:
      files.check_bucket(f"gs://{home}", "workdir")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("way", ["flush", "close"])
def test_a_full_disk_is_named(way: str, tmp_path: pathlib.Path) -> None:
  """/dev/full takes nothing: https://man7.org/linux/man-pages/man4/full.4.html"""
  (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
  if way == "flush":
    lines = files.Lines(tmp_path / "metrics.jsonl")
    with pytest.raises(OSError) as raised:
      lines.add("one\n")
    with pytest.raises(OSError):
      lines.close()
  else:
    growing = files.Growing(tmp_path / "metrics.jsonl")
    growing.write(b"one")
    with pytest.raises(OSError) as raised:
      growing.close()
  assert raised.value.errno == errno.ENOSPC
  assert raised.value.filename == str(tmp_path / "metrics.jsonl")


def test_a_file_written_aside_to_a_full_disk(tmp_path: pathlib.Path) -> None:
  """The shell's limit of a file's size is what a process may set itself."""
  limited = (
    "import resource, signal, sys; from p3d_jax import files\n"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    "files.write_aside(sys.argv[1], b'x' * 2000)"
  )
  done = subprocess.run(
    [sys.executable, "-c", limited, str(tmp_path / "a.json")],
    capture_output=True,
    text=True,
    env=small.environment(),
  )
  last = done.stderr.splitlines()[-1]
  assert last == f"OSError: [Errno 27] File too large: '{tmp_path}/a.json'"
  assert list(tmp_path.iterdir()) == []


def test_upload_copies_a_folder(
  buckets: bucket.Buckets, home: str, tmp_path: pathlib.Path
) -> None:
  contents = {"a.gz": gzip.compress(b"a"), "b/c": b"c", "b/d/empty": b""}
  for name, content in contents.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
  files.upload(tmp_path, f"gs://{home}/to")
  files.upload(tmp_path, tmp_path.parent / "to")
  for name, content in contents.items():
    assert buckets.objects[f"{home}/to/{name}"] == content
    assert (tmp_path.parent / "to" / name).read_bytes() == content


CONFIG = """
def get_config(kind="none"):
  from p3d_jax.train import config as configs
  config = configs.default()
  config.data.dir = kind
  return config
"""


def test_a_config_file(buckets: bucket.Buckets, home: str) -> None:
  """Its name has a colon, and so may what is given to it."""
  file = f"gs://{home}/my.py"
  buckets.put(f"{home}/my.py", CONFIG.encode())
  assert config_file.load(file).data.dir == "none"
  assert config_file.load(f"{file}:gs://b/c").data.dir == "gs://b/c"
  flags = ["--config.train.steps=7"]
  assert config_file.load(f"{file}:x", flags).train.steps == 7
  local = small.folder() / "my.py"
  local.write_text(CONFIG)
  assert config_file.load(f"{local}:gs://b/c").data.dir == "gs://b/c"


def test_a_config_file_that_is_wrong(
  buckets: bucket.Buckets, home: str
) -> None:
  buckets.put(f"{home}/my.py", b"\ndef get_config():\n  return 1 / 0\n")
  with pytest.raises(ConfigError, match=f"^gs://{home}/my.py:3: .*division"):
    config_file.load(f"gs://{home}/my.py")
  with pytest.raises(ConfigError, match=f"'gs://{home}/no.py': there is no"):
    config_file.load(f"gs://{home}/no.py")
  with pytest.raises(ConfigError, match=f"'gs://{home}': there is no"):
    config_file.load(f"gs://{home}")


def test_folders_of_videos(buckets: bucket.Buckets, home: str) -> None:
  """Their ids are paths from the folder that all are in."""
  films = sorted(small.footage().glob("*.mp4"))[:3]
  for k, film in enumerate(films):
    buckets.put(f"{home}/films/{k}/a {k}.mp4", film.read_bytes())
  buckets.put(f"{home}/films/.trash/x.mp4", b"")
  buckets.put(f"{home}/films/0/", b"")  # as the bucket's own pages make one
  names = [f"{k}/a {k}.mp4" for k in range(3)]
  assert list(read_tree(epath.Path(f"gs://{home}/films")).videos) == names
  videos = FileSet([f"gs://{home}/films"])
  assert videos.ids() == names
  assert str(videos.directory) == f"gs://{home}/films"
  with pytest.raises(ValueError, match="this machine and of gs://"):
    FileSet([films[0], f"gs://{home}/films"])


def test_numpy_reads_what_is_there(buckets: bucket.Buckets, home: str) -> None:
  """A zip file is read from its end: ranges have to be right."""
  rng = np.random.default_rng(0)
  numbers = rng.standard_normal(2_000_000)  # 16 MB, several requests
  with files.open_aside(f"gs://{home}/a.npz") as file:
    np.savez(file, numbers=numbers)
  with epath.Path(f"gs://{home}/a.npz").open("rb") as file:
    assert np.array_equal(np.load(file)["numbers"], numbers)
