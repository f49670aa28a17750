"""Writes files so that they are there whole or not at all."""

from __future__ import annotations

import os

from etils import epath


def write_aside(path: epath.PathLike, content: bytes | str) -> None:
  """Writes a file beside its place and moves it there.

  Args:
    path: of the file; one that is there is replaced. gs:// works too.
    content: of the file; text is UTF-8.
  """
  path = epath.Path(path)
  aside = path.parent / f".{path.name}.part"
  if isinstance(content, str):
    content = content.encode()
  aside.write_bytes(content)
  aside.replace(path)


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
