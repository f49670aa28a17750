"""Memory that a process shares with a child of its own.

Clips are megabytes: through a socket the system copies each byte twice, in
pieces. Here it is copied in once and out once. Python's own shared memory has
a name, which a process that is killed leaves behind, and the room that
containers give it is small.
"""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np


class Shared:
  """A memory without a name, as large as what was ever laid into it.

  One side lays bytes in, tells the other how many, and waits for it to take
  them; nothing here keeps the two apart.

  Attributes:
    fd: descriptor that the child inherits.
  """

  def __init__(self, fd: int | None = None) -> None:
    """Takes a descriptor that was inherited, or makes a memory."""
    self.fd = _new() if fd is None else fd
    self._bytes = np.empty(0, np.uint8)

  def lay(self, parts: Sequence[Any]) -> list[int]:
    """Writes buffers one after the other; returns their sizes in bytes."""
    views = [_flat(part) for part in parts]
    sizes = [view.nbytes for view in views]
    if sum(sizes) > os.fstat(self.fd).st_size:
      os.ftruncate(self.fd, sum(sizes))
    for view, place in zip(views, self.views(sizes), strict=True):
      place[:] = view
    return sizes

  def views(self, sizes: Sequence[int]) -> list[np.ndarray]:
    """Returns what was laid in, uint8 (size,) each, until more is laid in."""
    total = sum(sizes)
    if total > len(self._bytes):
      # The old map ends with the last view of it.
      there = mmap.mmap(self.fd, os.fstat(self.fd).st_size)
      self._bytes = np.frombuffer(there, np.uint8)
    ends = np.cumsum(sizes, dtype=np.int64).tolist()
    return [
      self._bytes[end - size : end]
      for end, size in zip(ends, sizes, strict=True)
    ]

  def close(self) -> None:
    """Gives the descriptor back."""
    os.close(self.fd)


def _flat(part: Any) -> memoryview:
  """Returns the bytes of a buffer of any shape; an empty one has no place."""
  empty = not memoryview(part).nbytes
  return memoryview(b"") if empty else pickle.PickleBuffer(part).raw()


def _new() -> int:
  if hasattr(os, "memfd_create"):
    return os.memfd_create("p3d", os.MFD_CLOEXEC)
  with tempfile.TemporaryFile() as file:
    return os.dup(file.fileno())
