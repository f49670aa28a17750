"""A network as a program: StableHLO by `jax.export`, with its numbers inside.

    exported = jax.export.deserialize(bytearray(open("net.hlo", "rb").read()))
    logits = exported.call(clips)

That needs jax, and neither this package nor flax. `net.hlo.json` beside it says
what clips must be: {"input", "output", "platforms", "record"}. Such a file is
for deployment, not for keeping: jax promises to read those that a jax of half a
year ago wrote, and refuses older ones. The checkpoint is what to keep.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import export as jax_export

from p3d_jax.checkpoint.model import Record
from p3d_jax.models import convs
from p3d_jax.models.p3d import P3D

PLATFORMS = ("cpu", "cuda", "tpu")
BATCH = "batch"  # the size that the file leaves open


def serialize(
  module: P3D, variables: Any, record: Record
) -> tuple[bytearray, dict[str, Any], list[str]]:
  """Makes the file of a network in evaluation.

  Args:
    module: the network.
    variables: {"params": ..., "batch_stats": ...}; they become constants.
    record: of the checkpoint; its preprocessing gives the clips' time, height
      and width. The products have the precision of each platform's default, as
      those of `module` have.

  Returns:
    The bytes; what they expect and give, in JSON types; and lines to print.

  Raises:
    ValueError: if the record's clips are none for the network.
  """
  exported = trace(module, variables, record)
  about: dict[str, Any] = {
    "input": _array(exported.in_avals[0]),
    "output": _array(exported.out_avals[0]),
    "platforms": list(exported.platforms),
    "record": record.to_json(),
  }
  shape = ", ".join(map(str, exported.in_avals[0].shape))
  lines = [
    f"takes float32 clips ({shape}), preprocessed as the .json says; runs on "
    f"{', '.join(PLATFORMS)}"
  ]
  # `convs` chooses how to compute by the platform that jax is on *now*, so the
  # file holds one form for all. Both forms are plain products and convolutions
  # that each platform has, and their values agree (tests/models/test_convs.py):
  # on another platform the file is right, but not as fast as it could be.
  here = jax.default_backend()
  lines.append(
    f"convolutions are in the form that is fastest on {here} "
    f"({convs.default_form()}); for speed elsewhere, export there"
  )
  return exported.serialize(), about, lines


def trace(module: P3D, variables: Any, record: Record) -> jax_export.Exported:
  """Returns clips (batch, time, height, width, channels) -> logits, exported.

  Args:
    module: the network; a trunk gives pool5 instead.
    variables: of the network.
    record: whose preprocessing gives all sizes but the batch's.
  """

  def logits(clips: jax.Array) -> Any:
    return module.apply(variables, clips)

  sizes = (record.preprocessing.frames, *record.preprocessing.crop_size)
  (batch,) = jax_export.symbolic_shape(BATCH)
  shape = (batch, *sizes, record.channels)
  clips = jax.ShapeDtypeStruct(shape, jnp.float32)
  return jax_export.export(jax.jit(logits), platforms=PLATFORMS)(clips)


def _array(aval: Any) -> dict[str, Any]:
  """The shape and type of an argument; the open size by its name."""
  shape = [n if isinstance(n, int) else str(n) for n in aval.shape]
  return {"shape": shape, "dtype": str(aval.dtype)}
