"""Compares a checkpoint with what another program computed of the same clips.

    comparison = verify("runs/mine", "x.npy", "y.npz")
    print(comparison.text())

The error of an endpoint is max|a - b| / max|b|, a ours and b expected. Products
are computed at the highest precision, in float32 also where the network
itself computes in bfloat16: it is the weights and the arithmetic of the layers
that are compared, not the rounding of a faster mode.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from p3d_jax.checkpoint import model
from p3d_jax.models import zoo
from p3d_jax.models.p3d import P3D, endpoint_names

_CHUNK = 8  # clips computed at once

# How .npy and .npz files begin.
_NPY, _ZIP = b"\x93NUMPY", b"PK"


class Row(NamedTuple):
  """How one endpoint compares.

  Attributes:
    endpoint: its name.
    error: max|a - b| / max|b| over all clips.
    ok: whether that is within the tolerance.
  """

  endpoint: str
  error: float
  ok: bool


@dataclasses.dataclass(frozen=True)
class Comparison:
  """How the endpoints compare, in the order of the network.

  Attributes:
    rows: one an endpoint.
    tolerance: the largest error of one that agrees.
    notes: what the input has that the weights do not expect.
  """

  rows: tuple[Row, ...]
  tolerance: float
  notes: tuple[str, ...] = ()

  @property
  def first(self) -> str | None:
    """The first endpoint that does not agree; None if all do."""
    return next((row.endpoint for row in self.rows if not row.ok), None)

  def text(self) -> str:
    """Returns a table and a sentence about it."""
    width = max(len("endpoint"), *(len(row.endpoint) for row in self.rows))
    lines = [f"{'endpoint':<{width}}  max|a - b| / max|b|"]
    for row in self.rows:
      mark = "" if row.ok else "  beyond the tolerance"
      lines.append(f"{row.endpoint:<{width}}  {row.error:.1e}{mark}")
    notes = [f"note: {note}" for note in self.notes]
    return "\n".join([*lines, *notes, *self._verdict()])

  def _verdict(self) -> list[str]:
    index = next((i for i, row in enumerate(self.rows) if not row.ok), None)
    bound, names = f"{self.tolerance:.1e}", [row.endpoint for row in self.rows]
    if index is None:
      if len(names) == 1:
        return [f"{names[0]} agrees to {bound}"]
      return [f"all {len(names)} endpoints agree to {bound}"]
    error = f"{self.rows[index].error:.1e} (tolerance {bound})"
    if len(names) == 1:
      line = f"{names[0]} does not agree: {error}"
      hint = (
        "one endpoint cannot say where: give an .npz of several (stem, res2, "
        "res3/block02, ...), or see whether the rule, the stem_pool and the "
        "preprocessing in `p3d info` are those of the other program"
      )
      return [line, hint]
    if index == 0:
      return [f"they part from the first one compared, {names[0]}: {error}"]
    last = self.rows[index - 1]
    return [
      f"they first part at {names[index]}: {error}; {last.endpoint}, the last "
      f"before it, is at {last.error:.1e}"
    ]


def verify(
  path: epath.PathLike,
  inputs: epath.PathLike,
  expected: epath.PathLike,
  *,
  endpoint: str = "logits",
  channels_first: bool = False,
  tolerance: float = 1e-4,
  step: int | str = "last",
) -> Comparison:
  """Compares what a checkpoint computes with a file of what it should.

  Args:
    path: a checkpoint folder or a workdir.
    inputs: .npy of uint8 frames (batch, time, height, width, channels), RGB or
      flow, which get the checkpoint's preprocessing; or of floating clips of
      that shape, which are preprocessed already.
    expected: .npy of one endpoint, or .npz of several by name, floating, 5-D
      ones (batch, time, height, width, channels); without time, it is one step.
    endpoint: the one that an .npy holds.
    channels_first: whether the 5-D and 4-D arrays of both files are (batch,
      channels, [time,] height, width).
    tolerance: the largest error of an endpoint that agrees.
    step: of a workdir, as in `checkpoint.model.load`.

  Raises:
    ValueError: if a file is not there or not such arrays, or an array is not
      one of this network; nothing is computed then.
  """
  if not 0 < tolerance < math.inf:
    raise ValueError(f"tolerance is {tolerance}: it must be positive")
  folder = model.find(path, step)
  record = model.read_record(folder)
  clips = _clips(inputs, record, channels_first)
  wanted = _expected(expected, endpoint, record, channels_first)
  wanted = _shaped(wanted, record, clips, channels_first)
  module, variables, _ = model.load(folder)
  errors = _errors(module, variables, clips, wanted)
  rows = (
    Row(name, error, error <= tolerance) for name, error in errors.items()
  )
  return Comparison(tuple(rows), tolerance, _notes(clips, record))


def _notes(clips: np.ndarray, record: model.Record) -> tuple[str, ...]:
  """What may explain that endpoints part."""
  pixels, notes = record.preprocessing, []
  usual = (pixels.frames, *pixels.crop_size)
  if clips.shape[1:4] != usual:
    given, expected = ("x".join(map(str, n)) for n in (clips.shape[1:4], usual))
    notes.append(
      f"the clips are of {given}, those of the weights of {expected} (frames, "
      "height, width)"
    )
  largest = float(np.abs(clips).max())
  low, high = (
    pixels.normalize(np.full((1, len(pixels.mean)), n)) for n in (0, 255)
  )
  bound = float(np.maximum(np.abs(low), np.abs(high)).max())
  if largest > 2 * bound or largest < bound / 20:
    notes.append(
      f"the largest number of the input is {largest:.3g}, and preprocessed "
      f"pixels of the weights reach {bound:.3g}: floating input is taken as "
      "preprocessed"
    )
  return tuple(notes)


def _clips(
  path: epath.PathLike, record: model.Record, channels_first: bool
) -> np.ndarray:
  """Reads the inputs: float32 clips as the network takes them."""
  clips = _read(path, "input")
  if not isinstance(clips, np.ndarray):
    raise ValueError(f"input is {path}: it must be one array, an .npy file")
  kind = f"input is {clips.dtype} {clips.shape}"
  uint8 = clips.dtype == np.uint8
  if clips.ndim != 5 or not (uint8 or np.issubdtype(clips.dtype, np.floating)):
    raise ValueError(
      f"{kind}: it must be 5-D, uint8 frames or floating point clips"
    )
  if 0 in clips.shape:
    raise ValueError(f"{kind}: there must be at least one clip and one frame")
  found = _channels_last(clips) if channels_first else clips
  takes = record.preprocessing.channels
  if uint8 and takes == "BGR":
    takes = "RGB"  # frames are; the preprocessing turns them
  if found.shape[-1] != record.channels:
    raise ValueError(
      f"{kind}: axis {1 if channels_first else 4} must be the "
      f"{record.channels} channels ({takes})"
      + _other_order(clips.shape, record.channels, channels_first)
    )
  if uint8:
    return record.preprocess(found)
  _check_finite(found, "input")
  return found.astype(np.float32)


def _other_order(
  shape: Sequence[int], channels: int, channels_first: bool
) -> str:
  """What to say if an array fits with its channels at the other end."""
  if shape[4 if channels_first else 1] != channels:
    return ""
  order = (
    "last: leave out --channels-first"
    if channels_first
    else "first: add --channels-first"
  )
  return f"; they seem to stand {order}"


def _expected(
  path: epath.PathLike,
  endpoint: str,
  record: model.Record,
  channels_first: bool,
) -> dict[str, np.ndarray]:
  """Reads what is expected: name -> array, in the order of the network."""
  found = _read(path, "expected")
  if isinstance(found, np.ndarray):
    found = {endpoint: found}
  elif endpoint != "logits":
    raise ValueError(
      f"endpoint is {endpoint!r}: expected is an .npz, which names its own"
    )
  names = endpoint_names(record.model["stages"], record.model["num_classes"])
  for name, array in found.items():
    if name not in names:
      raise ValueError(_unknown(name, names))
    if not np.issubdtype(array.dtype, np.floating):
      raise ValueError(
        f"expected {name} is {array.dtype}: it must be floating point"
      )
    _check_finite(array, f"expected {name}")
  ordered = {name: found[name] for name in names if name in found}
  if not ordered:
    raise ValueError(f"expected is {path}: it holds no array")
  if channels_first:
    ordered = {
      name: _channels_last(array) if array.ndim > 3 else array
      for name, array in ordered.items()
    }
  return ordered


def _unknown(name: str, names: Sequence[str]) -> str:
  near = difflib.get_close_matches(name, names, n=4)
  kinds = "stem, res2 to res5, blocks such as res3/block00, pool5"
  if "logits" in names:
    kinds += ", logits, prob"
  told = f"near are {', '.join(near)}" if near else f"there are {kinds}"
  return f"the network has no endpoint {name!r}: {told}"


def _shaped(
  wanted: Mapping[str, np.ndarray],
  record: model.Record,
  clips: np.ndarray,
  channels_first: bool,
) -> dict[str, np.ndarray]:
  """Gives arrays their endpoints' shapes.

  Raises:
    ValueError: if one has another.
  """
  apply = _apply(zoo.from_fields(record.model), tuple(wanted))
  shape = jax.ShapeDtypeStruct(clips.shape, clips.dtype)
  outputs = jax.eval_shape(apply, model.abstract_variables(record), shape)
  shaped = dict(wanted)
  for name, array in wanted.items():
    there, right, hint = array.shape, outputs[name].shape, ""
    if there == right:
      continue
    # res5 is 2D elsewhere, where 16 frames leave it one step.
    if len(right) == 5 and there == (*right[:1], *right[2:]) and right[1] == 1:
      shaped[name] = array[:, None]
      continue
    if len(right) == 5:
      hint = " (batch, time, height, width, channels)"
      if not channels_first and right == (*there[:1], *there[2:], *there[1:2]):
        hint += "; its channels seem to stand first: add --channels-first"
    raise ValueError(
      f"expected {name} is {there}: the network's is {right}{hint}"
    )
  return shaped


def _apply(module: P3D, names: tuple[str, ...]) -> Any:
  """Makes (variables, clips) -> endpoint -> array."""
  module = module.clone(
    precision=jax.lax.Precision.HIGHEST,
    dtype=jnp.promote_types(module.dtype, jnp.float32),
  )

  def apply(variables: Any, clips: jax.Array) -> dict[str, jax.Array]:
    outputs: Any = module.apply(variables, clips, endpoints=names)
    return outputs[1]

  return apply


def _errors(
  module: P3D,
  variables: Any,
  clips: np.ndarray,
  wanted: Mapping[str, np.ndarray],
) -> dict[str, float]:
  """Returns max|a - b| / max|b| of each endpoint, in float64."""
  apply = jax.jit(_apply(module, tuple(wanted)))
  apart = dict.fromkeys(wanted, 0.0)
  for start in range(0, len(clips), _CHUNK):
    part = slice(start, start + _CHUNK)
    outputs = jax.device_get(apply(variables, clips[part]))
    for name, b in wanted.items():
      _check_finite(outputs[name], f"the network's {name}")
      distance = outputs[name].astype(np.float64) - b[part].astype(np.float64)
      apart[name] = max(apart[name], float(np.abs(distance).max()))
  return {name: _ratio(apart[name], wanted[name]) for name in wanted}


def _ratio(apart: float, b: np.ndarray) -> float:
  largest = float(np.abs(b).max())
  if largest == 0:
    return math.inf if apart else 0.0
  return apart / largest


def _channels_last(array: np.ndarray) -> np.ndarray:
  return np.moveaxis(array, 1, -1)


def _check_finite(array: np.ndarray, what: str) -> None:
  bad = array.size - int(np.isfinite(array).sum())
  if bad:
    raise ValueError(f"{what}: {bad} of {array.size} numbers are not finite")


def _read(
  path: epath.PathLike, name: str
) -> np.ndarray | dict[str, np.ndarray]:
  """Reads the array of an .npy file, or those of an .npz; never unpickles."""
  file = epath.Path(path).expanduser()
  if not file.exists():
    raise ValueError(f"{name} is {path}: there is no such file")
  if file.is_dir():
    raise ValueError(f"{name} is {path}: that is a folder")
  try:
    with file.open("rb") as opened:
      start = opened.read(len(_NPY))
      if not start.startswith((_NPY, _ZIP)):
        raise ValueError("it is neither an .npy nor an .npz file")
      opened.seek(0)
      return _loaded(np.load(opened, allow_pickle=False))
  except (
    ValueError,
    OSError,
    EOFError,
    RuntimeError,  # zip files with a password, or packed in a rare way
    zipfile.BadZipFile,
    zlib.error,
  ) as error:
    why = " ".join(str(error).split())
    if "allow_pickle" in why:
      why = "it holds Python objects, which are never unpickled"
    raise ValueError(f"{name} is {path}: {why}") from error


def _loaded(content: Any) -> np.ndarray | dict[str, np.ndarray]:
  if isinstance(content, np.ndarray):
    return content
  arrays = {key: content[key] for key in content.files}
  for key, array in arrays.items():
    if not isinstance(array, np.ndarray):  # such as those of a PyTorch file
      raise ValueError(f"{key!r} in it is no array")
  return arrays
