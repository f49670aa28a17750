"""Names and hashes of variable trees: 'params/res3/block02/...' -> array."""

from __future__ import annotations

import hashlib
from typing import Any

import flax
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def flatten(tree: Any) -> dict[str, Any]:
  """Returns the leaves of nested dicts by their names, joined by '/'."""
  return flax.traverse_util.flatten_dict(tree, sep="/")


def unflatten(leaves: dict[str, Any]) -> Any:
  """Returns the nested dicts whose `flatten` these are."""
  return flax.traverse_util.unflatten_dict(leaves, sep="/")


def shapes(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
  """Returns name -> (shape, type) of each leaf."""
  return {
    name: (tuple(leaf.shape), np.dtype(leaf.dtype).name)
    for name, leaf in flatten(tree).items()
  }


def digest(tree: Any) -> str:
  """Returns the sha256 over the sorted names, types, shapes and bytes.

  An array that is split over several hosts is gathered: all of them call this.
  """
  total = hashlib.sha256()
  for name, leaf in sorted(flatten(tree).items()):
    array = np.ascontiguousarray(jax.device_get(_whole(leaf)))
    total.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
    total.update(array.tobytes())
  return total.hexdigest()


def _whole(leaf: Any) -> Any:
  """Returns an array that this process sees all numbers of."""
  if (
    not isinstance(leaf, jax.Array)
    or leaf.is_fully_addressable
    or leaf.is_fully_replicated
  ):
    return leaf
  mesh = leaf.sharding.mesh  # type: ignore[attr-defined]
  return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec()))
