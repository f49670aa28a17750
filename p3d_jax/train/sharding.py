"""The mesh, and where arrays live on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Returns a mesh of one axis, "data", over the devices (all by default)."""
  return Mesh(np.asarray(devices or jax.devices()), ("data",))


def check_batch(batch: int, mesh: Mesh) -> None:
  """Raises a ValueError if a batch cannot be split evenly over a mesh."""
  if batch < 1 or batch % mesh.size:
    raise ValueError(
      f"batch is {batch}: it must be a multiple of the {mesh.size} devices"
    )


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on each device: parameters, statistics, optimiser."""
  return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh) -> NamedSharding:
  """The first axis split over the devices: clips, labels."""
  return NamedSharding(mesh, PartitionSpec("data"))


def put(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Makes global arrays of the rows that this host has read.

  Args:
    batch: name -> (rows of this host, ...).
    mesh: that the global batch is split over.
  """
  sharding = batched(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, rows)
    for name, rows in batch.items()
  }


def split(batch: Any, parts: int) -> Any:
  """Cuts each (rows, ...) into (parts, rows / parts, ...) for accumulation.

  Part k takes rows k, k + parts, ...: each device then keeps its own rows.
  """
  return jax.tree.map(
    lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch
  )


def local_device() -> list[jax.Device]:
  """Returns the first device of this process, for work that is not split."""
  return jax.local_devices()[:1]
