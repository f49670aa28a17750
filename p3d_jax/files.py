"""Files that are there whole or not at all, and what foreign ones raise.

A path may be of an object store, as gs://bucket/run. There are no folders, and
nothing is renamed or appended to: an object appears whole, at its own place,
when its writing ends, and replaces the one that was there.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import io
import json
import logging
import lzma
import os
import pathlib
import socket
import sys
import threading
import time
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import IO, Any

from etils import epath

# What reading another program's file, or a damaged one, can raise.
_DAMAGE = (
  ValueError,
  TypeError,
  AttributeError,
  LookupError,
  EOFError,
  OSError,
  MemoryError,  # a header may claim any size
  RuntimeError,  # it is encrypted, or packed in an unknown way
  zipfile.BadZipFile,
  zlib.error,
  lzma.LZMAError,
)

# Seconds between two writings of an object that grows. The service takes one a
# second of the same name: https://cloud.google.com/storage/quotas#objects
EVERY = 30.0

# Seconds in which a store must have been reached when it is first asked for.
# gcsfs itself goes on for 50 s: 16 s until it has found no credentials, then
# six requests with pauses that double. A name that is looked up anew and a
# route that changes are there again within 15 s; what comes later in a run is
# tried as long as before.
REACH = 15.0

# Where gs:// is.
_GOOGLE = "storage.googleapis.com"

# What a full disk, a used up quota or a limit of the shell is.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UnreachableError(OSError):
  """A store does not answer, through no fault of the path: try again later."""


def is_outage(error: BaseException) -> bool:
  """Whether an error, or one that it came of, is a store that does not answer.

  It is what gcsfs, which has tried for a minute then, calls retriable (429,
  5xx, a lost connection), and what TensorStore, which reads arrays, says so of.
  """
  seen: set[int] = set()
  at: BaseException | None = error
  while at is not None and id(at) not in seen:
    if isinstance(at, UnreachableError) or _says_try_again(at):
      return True
    seen.add(id(at))
    at = at.__cause__ or at.__context__
  return False


def _says_try_again(error: BaseException) -> bool:
  retry = sys.modules.get("gcsfs.retry")
  if retry is not None and retry.is_retriable(error):
    return True
  return str(error).startswith(("UNAVAILABLE", "DEADLINE_EXCEEDED"))


def on_store(path: epath.PathLike) -> bool:
  """Whether a path is of an object store: gs://bucket/name."""
  return "://" in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
  """Returns a path that means the same in every folder.

  For all paths of users: epath's own `absolute()` takes gs://bucket for a
  relative path of this machine.

  Args:
    path: of a file or a folder; ~ is the user's home.

  Raises:
    ValueError: if it is gs://, and names no bucket, or nothing is installed
      that reads it.
  """
  if not on_store(path):
    return epath.Path(path).expanduser().absolute()
  if not _bucket(path):  # epath makes gs://runs of gs:///runs
    raise ValueError(f"{os.fspath(path)!r}: it has no bucket")
  if os.fspath(path).startswith("gs://"):
    _prepare_gcsfs(os.fspath(path))
  return epath.Path(path)


def _prepare_gcsfs(path: str) -> None:
  """Makes epath see at once what others write to gs://."""
  modules = ("gcsfs", "tensorflow")  # epath takes the latter where it is
  if not any(importlib.util.find_spec(module) for module in modules):
    raise ValueError(
      f"{path}: reading gs:// takes gcsfs: pip install 'p3d_jax[gcs]'"
    )
  _silence()
  _forget_listings()


@functools.cache
def _silence() -> None:
  """Leaves out what gcsfs logs of each failure: it is raised as well."""
  if "GCSFS_DEBUG" in os.environ:  # gcsfs' own: somebody wants to see it
    return
  for name in ("gcsfs", "fsspec", "google.auth"):
    if logging.getLogger(name).level == logging.NOTSET:
      logging.getLogger(name).setLevel(logging.CRITICAL)


@functools.cache
def _forget_listings() -> None:
  # 0.1 s to import, which local paths need not pay.
  from fsspec import config

  # gcsfs lists a folder once in a process. What TensorStore, another host or
  # `p3d evaluate` writes there later would not be there.
  config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)


def write_aside(path: epath.PathLike, content: bytes | str) -> None:
  """Writes a file beside its place and moves it there.

  Args:
    path: of the file; one that is there is replaced. gs:// works too.
    content: of the file; text is UTF-8.
  """
  if isinstance(content, str):
    content = content.encode()
  with open_aside(path) as file:
    file.write(content)


def write_json(path: epath.PathLike, content: Any) -> None:
  """Writes a file of JSON as `write_aside` does."""
  write_aside(path, json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def open_aside(path: epath.PathLike) -> Iterator[IO[bytes]]:
  """Opens a file beside its place, and moves it there once it is whole.

  What was written of one that fails is removed: it may be large. Of an object
  store the file is kept in memory until it is whole, then written in its place.

  Args:
    path: of the file; one that is there is replaced. gs:// works too.
  """
  if on_store(path):
    with io.BytesIO() as content:
      yield content
      # In one call: closing a file of gcsfs ends it, wherever writing failed.
      absolute(path).write_bytes(content.getvalue())
    return
  path = epath.Path(path)
  aside = path.parent / f".{path.name}.part"
  try:
    with _named(path, _FULL), aside.open("wb") as file:
      yield file
    aside.replace(path)
  except BaseException:
    aside.unlink(missing_ok=True)
    raise


@contextlib.contextmanager
def _named(
  path: epath.PathLike, numbers: tuple[int, ...] = ()
) -> Iterator[None]:
  """Adds the path to an error of the system that has none.

  Opening a file names it; writing to one, as to a full disk, does not.

  Args:
    path: of the file.
    numbers: of the errors that can only be of this file; none: all are.
  """
  try:
    yield
  except OSError as error:
    if error.filename is not None or (numbers and error.errno not in numbers):
      raise
    if error.errno is None or error.strerror is None:
      raise OSError(f"{os.fspath(path)}: {error}") from error
    raise OSError(error.errno, error.strerror, os.fspath(path)) from error


class Growing:
  """A binary file that is written bit by bit, and can be read meanwhile.

  On a file system it is appended to. An object of a store can only be written
  anew, with all that it held: at most every so many seconds, and when `sync` or
  `close` is called. A kill loses what came after that.
  """

  def __init__(self, path: epath.PathLike, every: float = EVERY) -> None:
    """Opens a file, behind what is there.

    Args:
      path: of the file, whose folder must exist; gs:// works too.
      every: seconds at least between two writings of an object.
    """
    self._path, self._every = absolute(path), every
    self._file: IO[bytes] | None = None
    self._content, self._kept = bytearray(), 0
    if not on_store(path):
      self._file = self._path.open("ab")
    elif self._path.exists():
      self._content += self._path.read_bytes()
      self._kept = len(self._content)
    self._written = time.monotonic()

  def write(self, data: bytes) -> None:
    """Takes bytes; `flush` makes them visible."""
    if self._file is None:
      self._content += data
      return
    with _named(self._path):
      self._file.write(data)

  def flush(self) -> None:
    """Makes what was written visible; of an object, if it is time."""
    late = time.monotonic() - self._written >= self._every
    if self._file is not None or late:
      self.sync()

  def sync(self) -> None:
    """Makes what was written visible now."""
    with _named(self._path):
      if self._file is not None:
        self._file.flush()
      elif len(self._content) > self._kept:
        write_aside(self._path, bytes(self._content))
        self._kept = len(self._content)
        self._written = time.monotonic()

  def close(self) -> None:
    """Ends the file."""
    if self._file is None:
      self.sync()
      return
    with _named(self._path):
      self._file.close()  # even if what is left cannot be written


class Lines:
  """A text file that grows line by line; see `Growing`."""

  def __init__(self, path: epath.PathLike, every: float = EVERY) -> None:
    """Opens a file, behind what is there.

    Args:
      path: of the file, whose folder must exist; gs:// works too.
      every: seconds at least between two writings of an object.
    """
    self._file = Growing(path, every)

  def add(self, text: str) -> None:
    """Writes text, as it is: a line ends with a line break."""
    self._file.write(text.encode())
    self._file.flush()

  def sync(self) -> None:
    """Makes all lines visible now, of an object too."""
    self._file.sync()

  def close(self) -> None:
    """Ends the file."""
    self._file.close()


def names_below(folder: epath.Path) -> Iterator[str]:
  """Yields the name of each file in a folder and in those in it: "a/b.mp4".

  Args:
    folder: here or in a store; one that is not there holds nothing.
  """
  root = _bare(folder)
  for above, _, names in folder.walk():
    below = os.path.relpath(_bare(above), root)
    for name in names:
      # What a bucket's own pages make where one asks for a folder has no name.
      if name:
        yield os.path.normpath(os.path.join(below, name))


def _bare(path: epath.Path) -> str:
  """Returns bucket/name of a path in a store: `walk` leaves gs:// out."""
  return os.fspath(path).rpartition("://")[2]


def upload(folder: epath.PathLike, to: epath.PathLike) -> None:
  """Copies the files of a local folder, and of those in it.

  Args:
    folder: of this machine.
    to: the folder that they come to; files there are replaced. gs:// works too.
  """
  here, there = pathlib.Path(folder), absolute(to)
  for file in sorted(path for path in here.rglob("*") if path.is_file()):
    place = there / file.relative_to(here).as_posix()
    place.parent.mkdir(parents=True, exist_ok=True)
    write_aside(place, file.read_bytes())


@contextlib.contextmanager
def reading_as(path: epath.PathLike, kind: str) -> Iterator[None]:
  """Tells in one line that a file cannot be read as what it should be.

  Args:
    path: of the file.
    kind: what it should be, as "feature file".

  Raises:
    ValueError: whatever a file of others, or a damaged one, raises.
  """
  try:
    yield
  except _DAMAGE as error:
    reason = " ".join(str(error).split())
    if not reason or isinstance(error, LookupError):  # whose text is a key
      reason = f"{type(error).__name__} {reason}".rstrip()
    raise ValueError(
      f"{os.fspath(path)} is no {kind}, or not whole: {reason}"
    ) from error


def check_folder(folder: epath.PathLike, name: str) -> None:
  """Refuses a folder that files cannot be made in.

  Args:
    folder: of this machine, that is there; nothing is asked of gs://.
    name: of the argument.

  Raises:
    ValueError: its rights, or those of its file system, do not allow it.
  """
  if not on_store(folder) and not os.access(folder, os.W_OK | os.X_OK):
    raise ValueError(
      f"{name} is {os.fspath(folder)}: the folder cannot be written to"
    )


def check_out(out: epath.PathLike, name: str = "out") -> None:
  """Refuses a file that could not be written in the end.

  Args:
    out: path of the file.
    name: of the argument.

  Raises:
    ValueError: it is a folder, or its folder is not there or not writable, or
      its bucket is not there.
  """
  if on_store(out):
    check_bucket(out, name)
    return  # there are no folders, and rights that only writing tells
  out = epath.Path(out)
  if out.is_dir():
    raise ValueError(f"{name}={os.fspath(out)!r}: it is a folder, not a file")
  if not out.parent.is_dir():
    raise ValueError(f"{name}={os.fspath(out)!r}: there is no such folder")
  if not os.access(out.parent, os.W_OK | os.X_OK):
    raise ValueError(
      f"{name}={os.fspath(out)!r}: the folder cannot be written to"
    )


def check_bucket(path: epath.PathLike, name: str) -> None:
  """Refuses a path of a store whose bucket cannot be read.

  Args:
    path: of a file or a folder, as the user gave it; nothing is asked of one of
      this machine.
    name: of the argument.

  Raises:
    ValueError: it names no bucket, or there is no such bucket, or no right to
      it.
    UnreachableError: the store cannot be connected to.
  """
  if not on_store(path):
    return
  given = f"{name}={os.fspath(path)!r}"
  if not (bucket := _bucket(path)):
    raise ValueError(f"{given}: it has no bucket")
  error = _asked(epath.Path(_root(absolute(path), bucket)))
  if error is None:
    return
  reason = " ".join(str(error).split()) or type(error).__name__
  if isinstance(error, UnreachableError):
    raise UnreachableError(f"{given}: {reason}") from error
  raise ValueError(
    f"{given}: {_root(path, bucket)} cannot be read, or is not there: {reason}"
  ) from error


def _bucket(path: epath.PathLike) -> str:
  """Returns the bucket of a path in a store; "": it names none."""
  return os.fspath(path).partition("://")[2].split("/")[0]


def _root(path: epath.PathLike, bucket: str) -> str:
  return f"{os.fspath(path).partition('://')[0]}://{bucket}"


def _asked(bucket: epath.Path) -> BaseException | None:
  """Asks for the first name in a bucket; returns what that raised.

  Whether a bucket exists may only be asked by those who may list it. gcsfs
  cannot be told when to give up: it is left to itself if there is no way to the
  store. It is waited for if there is one: on a machine without credentials it
  takes longer than `REACH` until a public bucket answers.
  """
  end = time.monotonic() + REACH
  asked = _beside(lambda: next(iter(bucket.iterdir()), None))
  reached = _beside(lambda: _reach(os.fspath(bucket), end - 1.0))
  futures.wait([asked], REACH)
  if asked.done():
    error = asked.exception()
    if error is None or isinstance(error, FileNotFoundError):  # it answered
      return error
  futures.wait([reached], max(0.0, end - time.monotonic()))
  if not reached.done() or reached.exception():
    told = reached.exception() if reached.done() else None
    reason = told or f"no answer within {REACH:g} s"
    return UnreachableError(f"the store cannot be reached: {reason}")
  error = asked.exception()
  code = str(getattr(error, "code", ""))  # of gcsfs' HttpError
  if code == "429" or code.startswith("5"):
    return UnreachableError(f"the store does not answer: {error}")
  return error


def _beside(do: Callable[[], object]) -> futures.Future[None]:
  """Calls a function in a thread that does not hold up the process's end."""
  future: futures.Future[None] = futures.Future()

  def run() -> None:
    try:
      do()
    except Exception as error:  # whoever waits looks at it
      future.set_exception(error)
    else:
      future.set_result(None)

  threading.Thread(target=run, daemon=True).start()
  return future


def _reach(bucket: str, end: float) -> None:
  """Connects to the store of a bucket, as often as there is time.

  Args:
    bucket: nothing is asked of another store than gs://.
    end: by the monotonic clock, in seconds.

  Raises:
    OSError: the last failure.
  """
  if not bucket.startswith("gs://"):
    return
  # As gcsfs reads it.
  at = os.environ.get("STORAGE_EMULATOR_HOST") or "https://" + _GOOGLE
  url = urllib.parse.urlsplit(at if "://" in at else f"http://{at}")
  port = url.port or (443 if url.scheme == "https" else 80)
  while True:
    left = end - time.monotonic()
    try:
      with socket.create_connection((url.hostname, port), max(1.0, left)):
        return
    except OSError as error:
      if left < 1.0:
        raise OSError(f"{url.hostname}: {error}") from error
    time.sleep(1.0)
