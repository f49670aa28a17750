"""Reads PyTorch's files and safetensors, without ever unpickling.

PyTorch's files are pickles, programs that can do anything. They are opened with
`weights_only=True`, which builds tensors and plain values and runs nothing; a
file that holds more is refused with what it asked for. Reading them needs
PyTorch; safetensors files need nothing.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from p3d_jax.weights.merge import WeightsError

Path = str | os.PathLike[str]

# Where training scripts put the state dict: beside the epoch and the like.
WRAPPERS = ("state_dict", "model")
# In front of every name, of nn.DataParallel.
PREFIX = "module."


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
  """Reads the arrays of a .safetensors file.

  Raises:
    WeightsError: if the file is damaged, or of a type that numpy does not have.
  """
  try:
    return safetensors.numpy.load_file(path)
  except (safetensors.SafetensorError, KeyError, TypeError) as error:
    raise WeightsError(f"{path} is damaged: {_line(error)}") from error


def read_torch(path: Path) -> dict[str, np.ndarray]:
  """Reads the state dict of a PyTorch file, of the old format or the new.

  Returns:
    Array by name; `module.` is taken off where all names have it, and a state
    dict may stand alone or under one of WRAPPERS.

  Raises:
    WeightsError: if PyTorch is not installed, or the file is damaged or holds
      anything but tensors and plain values.
  """
  content = _load(path)
  for key in WRAPPERS:
    if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
      content = content[key]
      break
  if not isinstance(content, Mapping) or not content:
    raise WeightsError(
      f"{path} holds {type(content).__name__}: it must be a state dict, alone "
      f"or under {' or '.join(map(repr, WRAPPERS))}"
    )
  for name, value in content.items():
    if not (isinstance(name, str) and hasattr(value, "detach")):
      raise WeightsError(
        f"{path} has {name!r}, which is no tensor: it must be a state dict, "
        f"alone or under {' or '.join(map(repr, WRAPPERS))}"
      )
  cut = len(PREFIX) if all(n.startswith(PREFIX) for n in content) else 0
  return {name[cut:]: _numpy(name, value) for name, value in content.items()}


def _load(path: Path) -> Any:
  """Opens a PyTorch file with `weights_only=True`."""
  torch = require(f"reading {path}")
  with torch.serialization.safe_globals(_numpy_scalars(torch)):
    try:
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of formats that are old
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
      raise WeightsError(
        f"{path} is not opened, because it holds more than weights: "
        f"{_reason(error)}"
      ) from error
    except (
      RuntimeError,
      EOFError,
      ValueError,
      KeyError,
      IndexError,
      AttributeError,
      AssertionError,
      TypeError,
      OSError,
    ) as error:
      raise WeightsError(
        f"{path} is damaged, or no PyTorch file: {_line(error)}"
      ) from error


def _numpy_scalars(torch: Any) -> list[Any]:
  """What a numpy number in a pickle asks for, as in 'best_prec1'.

  Under the names of numpy 1 and 2; they make numbers and nothing else.
  """
  scalar = np.float64(0).__reduce__()[0]
  kinds = [
    np.dtype(kind).__class__
    for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "bool")
  ]
  return [
    (scalar, "numpy.core.multiarray.scalar"),
    (scalar, "numpy._core.multiarray.scalar"),
    (np.dtype, "numpy.dtype"),
    *kinds,
  ]


def require(purpose: str) -> Any:
  """Imports PyTorch.

  Raises:
    WeightsError: if it is not installed.
  """
  try:
    import torch
  except ImportError as error:
    raise WeightsError(
      f"{purpose} needs PyTorch: pip install 'p3d_jax[torch]'; .safetensors, "
      "with the same names, needs nothing"
    ) from error
  return torch


def _numpy(name: str, tensor: Any) -> np.ndarray:
  try:
    return tensor.detach().numpy()
  except (TypeError, RuntimeError) as error:  # bfloat16, quantised, sparse
    raise WeightsError(f"{name}: {_line(error)}") from error


def _reason(error: Exception) -> str:
  """What the file asked for, out of PyTorch's page of advice."""
  text = str(error)
  if found := re.search(r"GLOBAL (\S+)", text):
    return f"it asks for {found[1]}"
  if "Unsupported operand 149" in text:  # the first of protocol 4
    return "its pickle is of protocol 4 or above; torch.save writes 2"
  return text.rpartition("WeightsUnpickler error:")[2].strip().split("\n")[0]


def _line(error: Exception) -> str:
  text = str(error.args[0] if error.args else error)
  return (text.splitlines() or [type(error).__name__])[0]
