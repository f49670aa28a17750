"""A copy on this machine of a set in a bucket: ArrayRecord reads files only.

Each file is copied beside its place and renamed, so that one that is there is
whole. It gets the time of the object, which with its size tells whether it is
still the same; so a copy that was stopped goes on, and a set that was built
anew is copied anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, NamedTuple

from etils import epath

from p3d_jax import files
from p3d_jax.progress import Bar

# Files at a time: one stream of a bucket is far from filling a network card.
_THREADS = 8
# Bytes from message to message of a copy: 1 s at 16 MB/s.
_CHUNK = 16 * 1024 * 1024
# Seconds in which the process that copies moves no byte before others give up.
PATIENCE = 300.0
# Of the environment: the folder for copies, where no config says it.
VARIABLE = "P3D_CACHE"


class _File(NamedTuple):
  """A file of a set: its name below the folder, bytes, seconds since 1970."""

  name: str
  size: int
  time: int

  def is_at(self, path: pathlib.Path) -> bool:
    """Whether a copy of it stands at a path."""
    try:
      there = path.stat()
    except (FileNotFoundError, NotADirectoryError):
      return False
    return (there.st_size, int(there.st_mtime)) == (self.size, self.time)


def named(recorded: str = "") -> str:
  """Returns the folder for copies that this machine names.

  Args:
    recorded: what to take if it names none: the folder that a run was given.
  """
  return os.environ.get(VARIABLE, "") or recorded


def local_copy(
  folder: epath.PathLike, cache: epath.PathLike, patience: float = PATIENCE
) -> epath.Path:
  """Copies what is missing of a set, once for all processes of a machine.

  Args:
    folder: of the set, gs://bucket/a/set.
    cache: the folder of this machine for such copies; made if need be.
    patience: seconds to wait for another process that copies the same set and
      does not get on.

  Returns:
    cache/bucket/a/set, which is whole.

  Raises:
    ValueError: `cache` is empty, of a bucket, cannot be written to or has no
      room for the set; another process copies it and has stopped.
  """
  source = os.fspath(folder)
  home = _check_cache(source, cache)
  copy = home / source.partition("://")[2]
  wanted = _listed(epath.Path(source))
  if _missing(wanted, copy):
    _make(home)
    with _alone(copy, source, patience) as lock:
      # Another process may have copied them meanwhile.
      if missing := _missing(wanted, copy):
        _check_room(missing, home)
        _copy(epath.Path(source), missing, copy, lock)
      _remove_others(wanted, copy)
  return epath.Path(copy)


def _check_cache(source: str, cache: epath.PathLike) -> pathlib.Path:
  """Returns the folder for copies, which may not be there yet."""
  given = os.fspath(cache)
  if not given:
    raise ValueError(
      f"config.data.cache is empty: {source} is read from a copy on this "
      f"machine; name a folder for it, there or by the environment's {VARIABLE}"
    )
  if files.on_store(given):
    raise ValueError(
      f"config.data.cache is {given!r}: it must be a folder of this machine"
    )
  return pathlib.Path(given).expanduser().absolute()


def _make(home: pathlib.Path) -> None:
  """Makes the folder for copies."""
  try:
    home.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(
      f"config.data.cache is {str(home)!r}: {error.strerror}"
    ) from error
  if not os.access(home, os.W_OK | os.X_OK):
    raise ValueError(
      f"config.data.cache is {str(home)!r}: the folder cannot be written to"
    )


def _listed(folder: epath.Path) -> list[_File]:
  """Returns the files of a set in a bucket, and in its folders."""

  def described(name: str) -> _File:
    stat = (folder / name).stat()
    return _File(name, int(stat.length), int(stat.mtime))

  with ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(described, sorted(files.names_below(folder))))


def _missing(wanted: Sequence[_File], copy: pathlib.Path) -> list[_File]:
  return [file for file in wanted if not file.is_at(copy / file.name)]


def _check_room(missing: Sequence[_File], home: pathlib.Path) -> None:
  needed, free = sum(f.size for f in missing), shutil.disk_usage(home).free
  if needed > free:
    raise ValueError(
      f"config.data.cache is {str(home)!r}: {needed / 1e9:.3f} GB are missing "
      f"of the set, and {free / 1e9:.3f} GB are free"
    )


@contextlib.contextmanager
def _alone(
  copy: pathlib.Path, source: str, patience: float
) -> Iterator[pathlib.Path]:
  """Waits until no other process of this machine copies the same set.

  Gives the lock's file, whose time tells the others that this one gets on. The
  system takes the lock from a process that dies.
  """
  copy.parent.mkdir(parents=True, exist_ok=True)
  path = copy.parent / f".{copy.name}.lock"
  with path.open("a+") as file:
    if not _locked(file):
      Bar("copy", 1).say(f"copy: another process copies {source}; waiting")
      _wait(file, path, source, patience)
    file.truncate(0)
    file.write(f"process {os.getpid()}")
    file.flush()
    os.utime(path)
    yield path


def _locked(file: IO[str]) -> bool:
  """Whether the lock could be had."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError:
    pass  # a file system without locks
  return True


def _wait(
  file: IO[str], path: pathlib.Path, source: str, patience: float
) -> None:
  """Waits for the lock as long as the one who has it gets on."""
  began = time.time()
  while not _locked(file):
    if time.time() - max(began, path.stat().st_mtime) > patience:
      raise ValueError(
        f"config.data.cache: {path.read_text() or 'a process'} of this machine "
        f"copies {source}, and no byte came in {patience:g} s: stop it, and "
        "give the command again"
      )
    time.sleep(min(1.0, patience / 10))


def _copy(
  source: epath.Path,
  missing: Sequence[_File],
  copy: pathlib.Path,
  lock: pathlib.Path,
) -> None:
  """Copies files, several at a time, behind a bar of megabytes."""
  total = sum(file.size for file in missing)
  done, guard, stopped = 0, threading.Lock(), threading.Event()

  def told(count: int) -> None:
    nonlocal done
    with guard:
      done += count
      os.utime(lock)
      bar.update(done // 10**6, line=None)

  def fetch(file: _File) -> None:
    place = copy / file.name
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f".{place.name}.part")
    with (source / file.name).open("rb") as there, aside.open("wb") as here:
      while chunk := there.read(_CHUNK):
        if stopped.is_set():
          return
        here.write(chunk)
        told(len(chunk))
    if (size := aside.stat().st_size) != file.size:
      raise ValueError(
        f"{source / file.name} has {size} bytes, not {file.size}: it changed "
        "while it was copied; give the command again"
      )
    os.utime(aside, (file.time, file.time))
    aside.replace(place)

  with Bar(f"copy {source.name} (MB)", max(1, total // 10**6)) as bar:
    bar.say(
      f"copy: {len(missing)} files, {total / 1e6:.1f} MB, of {source} to {copy}"
    )
    with ThreadPoolExecutor(_THREADS) as pool:
      # The set's description last: without it, it is no set.
      last = [f for f in missing if f.name == "dataset_info.json"]
      try:
        list(pool.map(fetch, [f for f in missing if f not in last]))
        list(pool.map(fetch, last))
      except BaseException:
        stopped.set()
        raise


def _remove_others(wanted: Sequence[_File], copy: pathlib.Path) -> None:
  """Removes what an older set of the same name, or a stop, has left."""
  names = {copy / file.name for file in wanted}
  for path in copy.rglob("*"):
    if path.is_file() and path not in names:
      path.unlink()
