"""Files that are there whole or not at all, and what foreign ones raise."""

from __future__ import annotations

import contextlib
import json
import lzma
import os
import zipfile
import zlib
from collections.abc import Iterator
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

  What was written of one that fails is removed: it may be large.

  Args:
    path: of the file; one that is there is replaced. gs:// works too.
  """
  path = epath.Path(path)
  aside = path.parent / f".{path.name}.part"
  try:
    with aside.open("wb") as file:
      yield file
    aside.replace(path)
  except BaseException:
    aside.unlink(missing_ok=True)
    raise


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


def check_out(out: epath.PathLike, name: str = "out") -> None:
  """Refuses a file that could not be written in the end.

  Args:
    out: path of the file.
    name: of the argument.

  Raises:
    ValueError: it is a folder, or its folder is not there or not writable.
  """
  out = epath.Path(out)
  if "://" in os.fspath(out):
    return  # buckets have no folders, and rights that only writing tells
  if out.is_dir():
    raise ValueError(f"{name}={os.fspath(out)!r}: it is a folder, not a file")
  if not out.parent.is_dir():
    raise ValueError(f"{name}={os.fspath(out)!r}: there is no such folder")
  if not os.access(out.parent, os.W_OK | os.X_OK):
    raise ValueError(
      f"{name}={os.fspath(out)!r}: the folder cannot be written to"
    )
