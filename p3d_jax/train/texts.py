"""Texts from host to host: devices know numbers, so as those of characters."""

from __future__ import annotations

import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from p3d_jax.data.pipeline import TEXT

# Characters of a long text that are shown, and of those before the difference.
SHOWN, BEFORE = 100, 20


def coded(texts: np.ndarray) -> np.ndarray:
  """Maps texts (rows,) of one width to uint32 (rows, width)."""
  return texts.view(np.uint32).reshape(len(texts), -1)


def decoded(numbers: np.ndarray) -> np.ndarray:
  """Undoes `coded`."""
  numbers = np.ascontiguousarray(numbers, np.uint32)
  return numbers.view(f"<U{numbers.shape[1]}")[:, 0]


def gathered(texts: Sequence[str], most: int) -> list[str]:
  """Returns the texts of all processes, without empty ones.

  All processes must call it, with the same `most`.

  Args:
    texts: of this process; what is longer than a batch's texts is cut.
    most: how many a process can have.
  """
  own = np.zeros(most, f"<U{TEXT}")
  own[: len(texts)] = list(texts)
  if jax.process_count() > 1:
    numbers = multihost_utils.process_allgather(coded(own), tiled=True)
    own = decoded(np.asarray(numbers))
  return [str(text) for text in own if text]


def gathered_whole(text: str) -> list[str]:
  """Returns a text of each process, of any length.

  All processes must call it.

  Args:
    text: of this process.
  """
  if jax.process_count() == 1:
    return [text]
  size = np.asarray([len(text)], np.int32)
  width = int(multihost_utils.process_allgather(size, tiled=True).max())
  own = np.asarray([text], f"<U{max(1, width)}")
  numbers = multihost_utils.process_allgather(coded(own), tiled=True)
  return [str(found) for found in decoded(np.asarray(numbers))]


def apart(one: str, other: str) -> tuple[str, str]:
  """Returns what to show of two texts: long ones where they differ."""
  same = len(os.path.commonprefix([one, other]))
  start = same - BEFORE if same > SHOWN - BEFORE else 0
  return _part(one, start), _part(other, start)


def _part(text: str, start: int) -> str:
  end = start + SHOWN
  before, after = "..." * (start > 0), "..." * (end < len(text))
  return f"{before}{text[start:end]}{after}"
