"""Writes files so that they are there whole or not at all."""

from __future__ import annotations

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
