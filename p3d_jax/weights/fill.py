"""Source -> variables of the network that it has the arrays of."""

from __future__ import annotations

from typing import Any

from p3d_jax.checkpoint import tree
from p3d_jax.models import p3d, zoo
from p3d_jax.weights import caffe_net, choices, merge, rows
from p3d_jax.weights.merge import Report, WeightsError
from p3d_jax.weights.source import KINDS, Source


def network(found: Source, **fields: Any) -> p3d.P3D:
  """Builds the network that a source has the arrays of.

  Raises:
    WeightsError: if a stage has no blocks.
  """
  if 0 in found.stages:
    raise WeightsError(
      f"{found.path} has {found.stages} blocks in res2 to res5: each must have "
      "one at least"
    )
  return zoo.build(
    None,
    num_classes=found.classes,
    stages=found.stages,
    width=found.width,
    **fields,
  )


def fill(found: Source, module: p3d.P3D) -> tuple[dict[str, Any], Report]:
  """Returns the variables of a network from the arrays of a source.

  Raises:
    WeightsError: if an array is missing, of no use or of another shape.
  """
  expected = leaf_shapes(module, found.channels)
  naming, present = found.naming, found.arrays
  unused = rows.tracked(naming, present, expected).values()
  try:
    filled, report = merge.merge(
      rows.rows(naming, present, expected),
      present,
      expected,
      dict.fromkeys(unused, rows.TRACKED),
    )
  except WeightsError as error:
    raise WeightsError(
      f"{found.path}, {choices.depth(found)}: {error}",
      error.missing,
      error.unknown,
      error.wrong,
    ) from error
  return tree.unflatten(filled), report


def layer_facts(found: Source, check_layers: bool) -> caffe_net.Facts:
  """Checks what the layers of a Caffe file say; of other files, nothing.

  Args:
    found: the source, whose arrays fit.
    check_layers: False takes the arrays alone, and notes it.

  Raises:
    WeightsError: if they say another network than is computed here.
  """
  if found.container != "caffe":
    return caffe_net.Facts({})
  if not check_layers:
    return caffe_net.Facts({}, ("what the layers say was not looked at",))
  return caffe_net.facts(found.path, found.layers, found.naming, found.stages)


def title(found: Source) -> str:
  """Says in a line what a source is."""
  return (
    f"{found.name}: {KINDS[found.kind].what}, {len(found.arrays)} arrays, "
    f"{choices.depth(found)}, sha256 {found.sha256[:12]}"
  )


def leaf_shapes(module: p3d.P3D, channels: int) -> dict[str, merge.Shape]:
  """Returns the shape of each leaf of a network's variables."""
  shapes = tree.shapes(p3d.abstract_variables(module, channels))
  return {name: shape for name, (shape, _) in shapes.items()}


def batches_tracked(
  found: Source, module: p3d.P3D
) -> int | dict[str, int] | None:
  """Returns the counts of batches that a file holds, to write them back.

  Returns:
    The number, if all batch norms have the same; the number by batch norm of
    ours, if not; None where there are none.
  """
  leaves = leaf_shapes(module, found.channels)
  counts = {}
  for norm, name in rows.tracked(found.naming, found.arrays, leaves).items():
    array = found.arrays[name]
    if array.size != 1 or array.dtype.kind != "i" or array.item() < 0:
      raise WeightsError(
        f"{found.path}: {name} is {array.dtype.name} {array.shape}: it must be "
        "one whole number of batches"
      )
    counts[norm] = int(array.item())
  values = set(counts.values())
  norms = sum(leaf.endswith("/bn/scale") for leaf in leaves)
  if len(values) == 1 and len(counts) == norms:
    return values.pop()
  return counts or None
