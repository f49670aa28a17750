"""A checkpoint -> a file for other programs: `p3d export`.

`torch` and `safetensors` have the names and layouts of the PyTorch port, our
numbers to the bit, and the record beside them: converted back they are the same
checkpoint. What the port's code makes of them is another matter, and the lines
that `export` returns say so. `stablehlo` is the network itself, see
stablehlo.py.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import json
from collections.abc import Callable, Mapping
from typing import IO, Any, NamedTuple

import numpy as np
import safetensors.numpy
from etils import epath

from p3d_jax.checkpoint import model, tree
from p3d_jax.files import absolute, check_bucket, on_store, open_aside
from p3d_jax.models import schedule, zoo
from p3d_jax.models.p3d import P3D
from p3d_jax.preprocess import PREPROCESSINGS
from p3d_jax.weights import names, stablehlo
from p3d_jax.weights import torch as torch_files
from p3d_jax.weights.content import RECORD
from p3d_jax.weights.merge import WeightsError

_TORCH = "writing a PyTorch file"

Writer = Callable[[IO[bytes]], Any]

# What the port can take: its reshape before res5 and its 5x5 window of pool5.
PORT_FRAMES = (16, 31)
PORT_PIXELS = (129, 160)


class Format(NamedTuple):
  """What `export` can write.

  Attributes:
    endings: of the file's name, one of which it must have; none: any.
    files: suffixes to the name of the file, written together, the main last.
    check: raises a WeightsError if a record's network cannot be written.
    make: (module, variables, record, batches_tracked) -> a writer of each file
      and lines about them.
  """

  endings: tuple[str, ...]
  files: tuple[str, ...]
  check: Callable[[model.Record, str | int], None]
  make: Callable[
    [P3D, Any, model.Record, str | int], tuple[list[Writer], list[str]]
  ]


def export(
  path: epath.PathLike,
  out: epath.PathLike,
  *,
  to: str,
  batches_tracked: str | int = "keep",
  step: str | int = "last",
) -> str:
  """Writes a network for other programs.

  Args:
    path: a checkpoint folder or a workdir, as in `checkpoint.model.load`.
    out: the file to write, which must not exist; its folder must.
    to: a row of FORMATS.
    batches_tracked: `num_batches_tracked` of the port's batch norms, in
      batches: "keep" writes those that the source had, "none" none, a number
      that number for all.
    step: of a workdir: a number of steps, "last" or "best".

  Returns:
    Lines to print: what was written, and what to know of it.

  Raises:
    WeightsError: if the file exists, or the format cannot hold the network.
    CheckpointError: if there is no checkpoint.
  """
  if to not in FORMATS:
    raise WeightsError(f"to is {to!r}: it must be one of {', '.join(FORMATS)}")
  row = FORMATS[to]
  files = _check_out(out, to)
  _check_batches(batches_tracked)
  folder = model.find(path, step)
  row.check(model.read_record(folder), batches_tracked)
  writers, lines = row.make(*model.load(folder), batches_tracked)
  _write(dict(zip(files, writers, strict=True)))
  *beside, main = files
  size = main.stat().length / 1e6
  wrote = " and ".join([f"wrote {main} ({size:.1f} MB)", *map(str, beside)])
  return "\n".join([wrote, *lines])


def _check_out(out: epath.PathLike, to: str) -> list[epath.Path]:
  """Returns the paths to write, of which none exists."""
  path, row = absolute(out), FORMATS[to]
  if row.endings and not path.name.endswith(row.endings):
    raise WeightsError(
      f"out is {out}: a file of {to} must be called *{', *'.join(row.endings)}"
    )
  files = [path.parent / f"{path.name}{suffix}" for suffix in row.files]
  check_bucket(out, "out")
  for file in files:
    if file.exists():
      raise WeightsError(f"out is {file}, which exists: name a new file")
  if not on_store(path) and not path.parent.is_dir():
    raise WeightsError(f"out is {out}: there is no folder {path.parent}")
  return files


def _check_batches(value: str | int) -> None:
  number = isinstance(value, int) and not isinstance(value, bool)
  if value not in ("keep", "none") and not (number and 0 <= int(value) < 2**63):
    raise WeightsError(
      f"batches_tracked is {value!r}: it must be 'keep', 'none' or a number of "
      "batches, at least 0"
    )


def _write(writers: Mapping[epath.Path, Writer]) -> None:
  """Writes files so that all are there, each whole, or none is."""
  # Nothing is renamed on a store: a file there is only seen when it is whole.
  asides = {
    path: path if on_store(path) else path.parent / f".{path.name}.part"
    for path in writers
  }
  begun: list[epath.Path] = []
  try:
    for path, write in writers.items():
      begun.append(asides[path])
      with _opened(asides[path]) as file:
        write(file)
    for path, aside in asides.items():
      if aside != path:
        aside.replace(path)
      begun.append(path)
  except BaseException:
    for path in begun:
      path.unlink(missing_ok=True)
    raise


def _opened(path: epath.Path) -> contextlib.AbstractContextManager[IO[bytes]]:
  """Opens a file; of a store, one that is not there if its writing fails."""
  return open_aside(path) if on_store(path) else path.open("wb")


def state_dict(
  variables: Any, record: model.Record, batches_tracked: str | int = "keep"
) -> dict[str, np.ndarray]:
  """Returns arrays by the port's names, in the port's layouts.

  Args:
    variables: {"params": ..., "batch_stats": ...} of the network.
    record: of the checkpoint; says which `num_batches_tracked` there were.
    batches_tracked: as in `export`.

  Returns:
    float32 arrays that nobody else holds, and int64 numbers of batches.

  Raises:
    WeightsError: if the port has no such layer.
  """
  leaves = tree.flatten(variables)
  arrays = {
    names.port(leaf): port_layout(leaf, np.asarray(array))
    for leaf, array in leaves.items()
  }
  for bn, count in _batches(leaves, record, batches_tracked).items():
    layer, _ = names.port(f"batch_stats/{bn}/mean").rsplit(".", 1)
    arrays[f"{layer}.num_batches_tracked"] = np.array(count, np.int64)
  return dict(sorted(arrays.items()))


def port_layout(leaf: str, array: np.ndarray) -> np.ndarray:
  """Returns a copy of a leaf's numbers in the order of PyTorch.

  Args:
    leaf: its name, "params/res3/block02/spatial/conv/kernel".
    array: a kernel (time, height, width, in, out) becomes (out, in, time,
      height, width), in res5, which is 2D in the port, (out, in, height,
      width); that of fc (in, out) becomes (out, in).
  """
  if array.ndim == 5 and leaf.startswith("params/res5/"):
    array = array[0]
  if array.ndim > 1:
    array = np.moveaxis(array, (-1, -2), (0, 1))
  return np.array(array, order="C")


def _batches(
  leaves: Mapping[str, Any], record: model.Record, choice: str | int
) -> dict[str, int]:
  """Returns name of ours -> batches, of each norm that is to have a number."""
  end, start = "/mean", "batch_stats/"
  norms = [
    leaf.removeprefix(start).removesuffix(end)
    for leaf in leaves
    if leaf.startswith(start) and leaf.endswith(end)
  ]
  if choice == "none":
    return {}
  kept = record.provenance.get("batches_tracked")
  wanted = kept if choice == "keep" else choice
  if wanted is None:
    return {}
  if isinstance(wanted, Mapping):
    return {bn: wanted[bn] for bn in norms if bn in wanted}
  return dict.fromkeys(norms, int(wanted))


def _check_port(record: model.Record, batches_tracked: str | int) -> None:
  """Refuses blocks that the port has no names for."""
  laid = schedule.letters(record.model["schedule"], record.model["stages"])
  other = sorted(set("".join(laid[:3])) - set("ABC"))
  if other:
    raise WeightsError(
      f"schedule is {record.model['schedule']!r}: the PyTorch port has names "
      f"for blocks A, B and C of res2 to res4, not for {', '.join(other)}"
    )


def _check_torch(record: model.Record, batches_tracked: str | int) -> None:
  """Refuses what `_check_port` does, and to go on without PyTorch."""
  _check_port(record, batches_tracked)
  torch_files.require(_TORCH)


def _make_torch(
  module: P3D, variables: Any, record: model.Record, batches_tracked: str | int
) -> tuple[list[Writer], list[str]]:
  torch = torch_files.require(_TORCH)
  arrays = state_dict(variables, record, batches_tracked)
  tensors = collections.OrderedDict(
    (name, torch.from_numpy(array)) for name, array in arrays.items()
  )
  content = {"state_dict": tensors, RECORD: json.dumps(record.to_json())}
  save = functools.partial(torch.save, content)
  return [save], port_notes(record, arrays)


def _make_safetensors(
  module: P3D, variables: Any, record: model.Record, batches_tracked: str | int
) -> tuple[list[Writer], list[str]]:
  arrays = state_dict(variables, record, batches_tracked)
  # "format" tells transformers and timm whose layouts the arrays have.
  about = {"format": "pt", RECORD: json.dumps(record.to_json())}

  def save(file: IO[bytes]) -> None:
    file.write(safetensors.numpy.save(arrays, about))

  return [save], port_notes(record, arrays)


def port_notes(
  record: model.Record, arrays: Mapping[str, np.ndarray]
) -> list[str]:
  """Returns lines: what was written, and where the port's code differs."""
  tracked = sum(name.endswith(".num_batches_tracked") for name in arrays)
  lines = [
    f"{len(arrays) - tracked} arrays by the PyTorch port's names, and "
    f"{tracked} num_batches_tracked"
  ]
  for what, differs in (
    ("computes another network with them", _other_network(record)),
    ("declares other input for them", _other_input(record)),
  ):
    if differs:
      lines.append(f"note: the port's own code {what}: {', '.join(differs)}")
  return lines


def _other_network(record: model.Record) -> list[str]:
  """What the port's code does not compute as the record's network does."""
  ours, theirs = record.model, zoo.FLAVOURS["port"]
  differs = [
    f"{field} {value!r} (not {ours[field]!r})"
    for field, value in theirs.items()
    if ours[field] != value
  ]
  stages = tuple(ours["stages"])
  laid = schedule.letters(ours["schedule"], stages)
  if laid != schedule.letters("ABC", stages):
    differs.append(f"schedule 'ABC' (not {ours['schedule']!r})")
  rows = [(row["stages"], row["width"]) for row in zoo.MODELS.values()]
  if (stages, ours["width"]) not in rows:
    differs.append(
      f"{', '.join(zoo.MODELS)} only (not stages {stages} of width "
      f"{ours['width']})"
    )
  return differs


def _other_input(record: model.Record) -> list[str]:
  """Which clips and pixels the port's code does not take as the record says."""
  ours, theirs = record.preprocessing, PREPROCESSINGS["port"]
  differs = [
    f"{field} {getattr(theirs, field)!r} (not {getattr(ours, field)!r})"
    for field in ("channels", "scale", "mean", "std")
    if getattr(ours, field) != getattr(theirs, field)
  ]
  ranges = {"frames": PORT_FRAMES, "height": PORT_PIXELS, "width": PORT_PIXELS}
  sizes = (ours.frames, *ours.crop_size)
  for (name, (least, most)), size in zip(ranges.items(), sizes, strict=True):
    if not least <= size <= most:
      differs.append(f"{name} {least} to {most} (not {size})")
  return differs


def _check_stablehlo(record: model.Record, batches_tracked: str | int) -> None:
  if batches_tracked != "keep":
    raise WeightsError(
      f"batches_tracked is {batches_tracked!r}: a stablehlo file has no such "
      "arrays, leave it out"
    )


def _make_stablehlo(
  module: P3D, variables: Any, record: model.Record, batches_tracked: str | int
) -> tuple[list[Writer], list[str]]:
  program, about, lines = stablehlo.serialize(module, variables, record)

  def text(file: IO[bytes]) -> None:
    file.write(f"{json.dumps(about, indent=2)}\n".encode())

  return [text, lambda file: file.write(program)], lines


FORMATS: dict[str, Format] = {
  "torch": Format(
    (".pth", ".pth.tar", ".pt", ".bin"), ("",), _check_torch, _make_torch
  ),
  "safetensors": Format(
    (".safetensors",), ("",), _check_port, _make_safetensors
  ),
  # The record first: where the program stands, what it expects does too.
  "stablehlo": Format((), (".json", ""), _check_stablehlo, _make_stablehlo),
}
