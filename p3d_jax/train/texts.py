"""Texts from host to host: devices know numbers, so as those of characters."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from p3d_jax.data.pipeline import TEXT


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
