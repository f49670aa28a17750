"""The mesh, and where arrays live on it.

A mesh has three axes. Clips are split over `data` and `fsdp`; parameters and
the optimiser's state over `fsdp`; the height of the frames over `space`, whose
devices work on the same clips (XLA exchanges the rows of pixels that their
convolutions share). What a step computes is the same on every mesh.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "space")
ROWS = ("data", "fsdp")  # what the clips of a batch are split over

# (pattern in the name of a parameter, axis of it that `fsdp` splits). The first
# that fits counts; the optimiser's arrays are named after their parameters.
RULES: tuple[tuple[str, int | None], ...] = (
  (r"(^|/)conv/kernel$", -1),  # the channels that come out
  (r"(^|/)fc/kernel$", 0),  # the features: classes can be any number
  # Scales, shifts, statistics, fc's bias, the step: few numbers each.
  (r"", None),
)


def mesh(
  devices: Sequence[jax.Device] | None = None,
  *,
  data: int | None = None,
  fsdp: int = 1,
  space: int = 1,
) -> Mesh:
  """Returns a mesh of the axes `data`, `fsdp` and `space`.

  The devices of a host stand beside each other, `space` next to each other: a
  host then reads whole clips, that follow one another.

  Args:
    devices: all by default.
    data: devices on the axis; None: those that are left.
    fsdp: likewise.
    space: likewise.

  Raises:
    ValueError: the product is not the number of devices, or the devices of
      `space` are neither of one host nor of some whole hosts.
  """
  found = sorted(
    devices or jax.devices(), key=lambda d: (d.process_index, d.id)
  )
  sizes = mesh_sizes(len(found), data=data, fsdp=fsdp, space=space)
  hosts = len({device.process_index for device in found})
  local = len(found) // hosts
  if space % local and local % space:
    raise ValueError(
      f"mesh.space is {space}: it must divide the {local} devices of a host, "
      "or be a multiple of them"
    )
  return Mesh(np.asarray(found).reshape(sizes), AXES)


def mesh_sizes(
  devices: int, *, data: int | None = None, fsdp: int = 1, space: int = 1
) -> tuple[int, int, int]:
  """Returns how many of the devices stand on each axis.

  Raises:
    ValueError: there is no such mesh.
  """
  for name, size in (("data", data), ("fsdp", fsdp), ("space", space)):
    if size is not None and size < 1:
      raise ValueError(f"mesh.{name} is {size}: it must be at least 1")
  left, rest = divmod(devices, fsdp * space)
  if rest or data not in (None, left):
    raise ValueError(
      f"mesh is data={data}, fsdp={fsdp}, space={space}: data x fsdp x space "
      f"must be the {devices} devices"
      + ("" if rest else f"; data=None takes the {left} that are left")
    )
  return left, fsdp, space


def rows_split(mesh: Mesh) -> int:
  """Returns how many parts the clips of a batch are split into."""
  return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch(batch: int, mesh: Mesh) -> None:
  """Raises a ValueError if a batch cannot be split evenly over a mesh."""
  parts = rows_split(mesh)
  if batch < 1 or batch % parts:
    raise ValueError(
      f"batch is {batch}: it must be a multiple of the {parts} devices; take "
      f"{max(-(-batch // parts), 1) * parts}"
    )


def share(mesh: Mesh) -> tuple[int, int]:
  """Says which rows of a batch this process reads.

  Returns:
    (share, shares): it reads the share-th of so many equal parts, that follow
    one another. Processes whose devices have the same clips, on `space`, read
    the same.
  """
  owners = mesh.devices.reshape(rows_split(mesh), -1)
  own = [
    row
    for row, devices in enumerate(owners)
    if any(d.process_index == jax.process_index() for d in devices)
  ]
  assert own == list(range(own[0], own[-1] + 1)), own
  return own[0] // len(own), len(owners) // len(own)


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on each device."""
  return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh) -> NamedSharding:
  """The first axis split: labels, and whatever has a row for each clip."""
  return NamedSharding(mesh, PartitionSpec(ROWS))


def framed(mesh: Mesh, rank: int) -> NamedSharding:
  """Clips (rows, ..., height, width, channels): rows and height are split."""
  between = (None,) * (rank - 4)
  return NamedSharding(mesh, PartitionSpec(ROWS, *between, "space"))


def put(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Makes global arrays of the rows that this process has read.

  Args:
    batch: name -> (rows of this process, ...); "clips" are (rows, ..., height,
      width, channels).
    mesh: that the global batch is split over.
  """
  place, shares = share(mesh)
  found = {}
  for name, rows in batch.items():
    kind = framed(mesh, rows.ndim) if name == "clips" else batched(mesh)
    found[name] = _put(rows, kind, place * len(rows), shares)
  return found


def _put(
  rows: np.ndarray, kind: NamedSharding, first: int, shares: int
) -> jax.Array:
  def part(index: Any) -> np.ndarray:
    start, stop, _ = index[0].indices(len(rows) * shares)
    return rows[(slice(start - first, stop - first), *index[1:])]

  shape = (len(rows) * shares, *rows.shape[1:])
  return jax.make_array_from_callback(shape, kind, part)


def gathered(tree: Any, mesh: Mesh) -> Any:
  """Returns arrays, of this process or of a mesh, whole on each device."""
  return jax.device_put(tree, replicated(mesh))


def split_axis(name: str) -> int | None:
  """Returns the axis of a parameter that `fsdp` splits; None: it is whole."""
  return next(axis for pattern, axis in RULES if re.search(pattern, name))


def of_tree(tree: Any, mesh: Mesh) -> Any:
  """Returns the sharding of each leaf of a state, or of variables.

  Args:
    tree: with leaves that have a shape.
    mesh: that they live on.

  Raises:
    ValueError: an axis that is to be split does not divide.
  """

  def of(path: Any, leaf: Any) -> NamedSharding:
    name = "/".join(_key(entry) for entry in path)
    axis = split_axis(name)
    if axis is None or mesh.shape["fsdp"] == 1:
      return replicated(mesh)
    size = leaf.shape[axis]
    if size % mesh.shape["fsdp"]:
      raise ValueError(
        f"mesh.fsdp is {mesh.shape['fsdp']}: it must divide the {size} "
        f"channels of {name}"
      )
    spec: list[str | None] = [None] * len(leaf.shape)
    spec[axis] = "fsdp"
    return NamedSharding(mesh, PartitionSpec(*spec))

  return jax.tree_util.tree_map_with_path(of, tree)


def _key(entry: Any) -> str:
  for name in ("key", "name", "idx"):
    if hasattr(entry, name):
      return str(getattr(entry, name))
  return str(entry)


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where the arrays inside of a step live.

  Attributes:
    mesh: of the run.
    gather: first stage ("res2" to "res5") whose frames stand whole on each
      device again; None: their height is split in all.
  """

  mesh: Mesh
  gather: str | None = None

  def stage(self, name: str, x: jax.Array) -> jax.Array:
    """Places the clips (rows, time, height, width, channels) a stage takes."""
    whole = self.gather is not None and name >= self.gather
    kind = batched(self.mesh) if whole else framed(self.mesh, x.ndim)
    return jax.lax.with_sharding_constraint(x, kind)

  def whole(self, tree: Any) -> Any:
    """Gathers what `fsdp` splits."""
    return jax.lax.with_sharding_constraint(tree, replicated(self.mesh))

  def split(self, tree: Any) -> Any:
    """Splits parameters, or their gradients, over `fsdp` again."""
    return jax.lax.with_sharding_constraint(tree, of_tree(tree, self.mesh))

  def parts(self, tree: Any) -> Any:
    """Places (parts, rows, ...): each part is split as a batch is."""
    kind = NamedSharding(self.mesh, PartitionSpec(None, ROWS))
    return jax.lax.with_sharding_constraint(tree, kind)


def split(batch: Any, parts: int, group: int = 1) -> Any:
  """Cuts each (rows, ...) into (parts, rows / parts, ...) for accumulation.

  Part k takes the groups k, k + parts, ...: each device then keeps its own
  rows, and the clips of a group stay together.

  Args:
    batch: a tree of arrays (rows, ...).
    parts: how many.
    group: rows that follow one another and stay together.
  """

  def cut(x: jax.Array) -> jax.Array:
    grouped = x.reshape(-1, parts, group, *x.shape[1:])
    return grouped.swapaxes(0, 1).reshape(parts, -1, *x.shape[1:])

  return jax.tree.map(cut, batch)


def local_device() -> list[jax.Device]:
  """Returns the first device of this process, for work that is not split."""
  return jax.local_devices()[:1]
