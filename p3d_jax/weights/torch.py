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
import struct
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from p3d_jax.weights.content import RECORD, Content
from p3d_jax.weights.merge import WeightsError

Path = str | os.PathLike[str]

# Where training scripts put the state dict: beside the epoch and the like.
WRAPPERS = ("state_dict", "model")

# safetensors' types that numpy has, with jax's bfloat16.
_TYPES: dict[str, Any] = {
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
  "F32": np.float32,
  "F64": np.float64,
  "I32": np.int32,
  "I64": np.int64,
}


def read_safetensors(path: Path) -> Content:
  """Reads a .safetensors file.

  Raises:
    WeightsError: if the file is damaged, or of a type that no weights are of.
  """
  with open(path, "rb") as file:
    content = file.read()
  try:
    views = safetensors.deserialize(content)
  except safetensors.SafetensorError as error:
    raise WeightsError(f"{path} is damaged: {_line(error)}") from error
  arrays = {}
  for name, view in sorted(views, key=lambda item: item[0]):
    if view["dtype"] not in _TYPES:
      raise WeightsError(
        f"{path}: {name} is of type {view['dtype']}: it must be one of "
        f"{', '.join(_TYPES)}"
      )
    flat = np.frombuffer(view["data"], _TYPES[view["dtype"]])
    arrays[name] = flat.reshape(view["shape"])
  with safetensors.safe_open(path, framework="np") as opened:
    metadata = opened.metadata() or {}
  return Content(arrays, metadata.get(RECORD, ""))


def read_torch(path: Path) -> Content:
  """Reads the state dict of a PyTorch file, of the old format or the new.

  It may stand alone or under one of WRAPPERS.

  Raises:
    WeightsError: if PyTorch is not installed, or the file is damaged or holds
      anything but tensors and plain values.
  """
  content = _load(path)
  arrays = {
    name: _numpy(path, name, value)
    for name, value in _state_dict(path, content).items()
  }
  record = content.get(RECORD, "")
  return Content(arrays, record if isinstance(record, str) else "")


def _state_dict(path: Path, content: Any) -> Mapping[str, Any]:
  """Finds the state dict in what a file holds."""
  rule = (
    "it must be a state dict, alone or under "
    f"{' or '.join(map(repr, WRAPPERS))}"
  )
  if isinstance(content, Mapping):
    dicts = [key for key, v in content.items() if _is_state_dict(v)]
    if len(dicts) > 1:
      raise WeightsError(
        f"{path} holds {len(dicts)} state dicts, {', '.join(map(repr, dicts))}:"
        " save the one that is meant alone"
      )
    if dicts and dicts[0] in WRAPPERS:
      content = content[dicts[0]]
  if not isinstance(content, Mapping) or not content:
    raise WeightsError(f"{path} holds {type(content).__name__}: {rule}")
  for name, value in content.items():
    if not (isinstance(name, str) and hasattr(value, "detach")):
      raise WeightsError(f"{path} has {name!r}, which is no tensor: {rule}")
  return content


def _is_state_dict(value: Any) -> bool:
  """Whether it holds tensors by name, as an optimiser's state does not."""
  return (
    isinstance(value, Mapping)
    and bool(value)
    and all(isinstance(name, str) for name in value)
    and all(hasattr(tensor, "detach") for tensor in value.values())
  )


def _load(path: Path) -> Any:
  """Opens a PyTorch file with `weights_only=True`."""
  torch = require(f"reading {path}")
  _check_zip(path)
  with torch.serialization.safe_globals(_numpy_scalars()):
    try:
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of formats that are old
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnicodeDecodeError as error:
      raise WeightsError(
        f"{path} was written by Python 2, with more than weights: save its "
        "state dict alone (docs/weights.md)"
      ) from error
    except pickle.UnpicklingError as error:
      raise WeightsError(f"{path} {_reason(error)}") from error
    except (
      # A pickle that is cut short, or has a wrong byte, can end in any of them.
      ArithmeticError,
      AssertionError,
      AttributeError,
      EOFError,
      ImportError,
      LookupError,
      MemoryError,
      OSError,
      RuntimeError,
      TypeError,
      ValueError,
      struct.error,
    ) as error:
      raise WeightsError(
        f"{path} is damaged, or no PyTorch file: {_line(error)}"
      ) from error


def _check_zip(path: Path) -> None:
  """Checks what PyTorch does not: the sums in a zip, and TorchScript.

  Raises:
    WeightsError: if a byte is not what was written, or it is a program.
  """
  with open(path, "rb") as file:
    if file.read(2) != b"PK":
      return
  try:
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
      damaged = archive.testzip()
  except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
    raise WeightsError(f"{path} is damaged: {_line(error)}") from error
  if damaged is not None:
    raise WeightsError(
      f"{path} is damaged: {damaged} has another checksum (or it was written "
      "without them)"
    )
  if any(name.endswith("/constants.pkl") for name in names):
    raise WeightsError(
      f"{path} is a TorchScript program: save the state dict of its network"
    )


def _numpy_scalars() -> list[Any]:
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


def _numpy(path: Path, name: str, tensor: Any) -> np.ndarray:
  try:
    if str(tensor.dtype) == "torch.bfloat16":
      tensor = tensor.float()  # numpy has no such type; float32 holds it
    return tensor.detach().numpy()
  except (TypeError, RuntimeError) as error:  # quantised, sparse
    raise WeightsError(f"{path}: {name}: {_line(error)}") from error


def _reason(error: Exception) -> str:
  """Says why PyTorch does not open a file, without its page of advice."""
  text = str(error)
  what = "is not opened, because it holds more than weights: "
  cure = "; save its state dict alone (docs/weights.md)"
  if found := re.search(r"GLOBAL (\S+)", text):
    return f"{what}it asks for {found[1]}{cure}"
  if "Unsupported operand 149" in text:  # the first of protocol 4
    return f"{what}its pickle is of protocol 4 or above{cure}"
  why = text.rpartition("WeightsUnpickler error:")[2].strip().split("\n")[0]
  return f"is damaged, or no PyTorch file: {why}"


def _line(error: Exception) -> str:
  text = str(error.args[0] if error.args else error)
  return (text.splitlines() or [type(error).__name__])[0]
