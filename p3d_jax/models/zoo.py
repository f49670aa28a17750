"""Name -> fields of the networks: literal tables, and `build`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from p3d_jax.models import p3d

# Blocks of res2 to res5: Table 1 of He et al. 2016 for the 50, 101 and 152
# layers that P3D-63, -131 and -199 stand on; 199 is the authors' release, 63
# and 131 are names of the PyTorch port.
MODELS: dict[str, dict[str, Any]] = {
  "p3d63": {"stages": (3, 4, 6, 3), "width": 64},
  "p3d131": {"stages": (3, 4, 23, 3), "width": 64},
  "p3d199": {"stages": (3, 8, 36, 3), "width": 64},
}

# What weights from each source were trained with; each field can also be set
# alone.
FLAVOURS: dict[str, dict[str, Any]] = {
  # The authors' prototxts (p3d199_layers.csv).
  "released": {
    "rule": "released",
    "stem_pool": "ceil",
    "reduce_stride": True,
    "norm_epsilon": 1e-5,
  },
  # The text of the paper, which differs in C: the plain sum.
  "paper": {
    "rule": "paper",
    "stem_pool": "ceil",
    "reduce_stride": True,
    "norm_epsilon": 1e-5,
  },
  # The PyTorch port; equal to it at 16 frames and sizes of 129 to 160.
  "port": {
    "rule": "port",
    "stem_pool": "padded",
    "reduce_stride": True,
    "norm_epsilon": 1e-5,
  },
  # torchvision's ResNets, for inflated weights.
  "torchvision": {
    "rule": "released",
    "stem_pool": "padded",
    "reduce_stride": False,
    "norm_epsilon": 1e-5,
  },
}

# What a checkpoint records of a network, and builds it from again.
RECORDED = (
  "num_classes",
  "stages",
  "width",
  "schedule",
  "rule",
  "stem_pool",
  "reduce_stride",
  "dropout",
  "norm_epsilon",
  "norm_momentum",
  "dtype",
)


def build(
  name: str | None = None,
  *,
  num_classes: int | None,
  flavour: str = "released",
  **fields: Any,
) -> p3d.P3D:
  """Builds a network.

  Args:
    name: a row of MODELS; None takes the fields alone (`stages`, `width`).
    num_classes: number of logits; None gives the trunk.
    flavour: a row of FLAVOURS: block rule, pool1, stride and epsilon together.
    **fields: of `P3D`; they win over the rows.

  Returns:
    A linen module; `module.apply(variables, clips)` takes preprocessed clips
    (batch, time, height, width, channels).

  Raises:
    ValueError: if a name, a flavour or a field is unknown or impossible.
  """
  if name is not None and name not in MODELS:
    raise ValueError(f"name is {name!r}: it must be one of {', '.join(MODELS)}")
  if flavour not in FLAVOURS:
    raise ValueError(
      f"flavour is {flavour!r}: it must be one of {', '.join(FLAVOURS)}"
    )
  known = {f.name for f in dataclasses.fields(p3d.P3D)} - {"parent", "name"}
  for field in fields:
    if field not in known:
      raise ValueError(
        f"{field!r} is no field of P3D: it must be one of "
        f"{', '.join(sorted(known))}"
      )
  row = MODELS[name] if name else {}
  merged = {**row, **FLAVOURS[flavour], **fields}
  for field in ("stages", "schedule"):
    if isinstance(merged.get(field), list):
      merged[field] = tuple(merged[field])
  return p3d.P3D(num_classes=num_classes, **merged)


def to_fields(module: p3d.P3D) -> dict[str, Any]:
  """Returns the fields that a checkpoint records, in JSON types.

  Raises:
    ValueError: if the network has an injected activation or norm.
  """
  for name in ("activation", "norm"):
    default = p3d.P3D.__dataclass_fields__[name].default
    if getattr(module, name) is not default:
      raise ValueError(
        f"{name} is {getattr(module, name)!r}: a checkpoint cannot record "
        "code, and would build another network; keep such variables yourself"
      )
  fields = {name: getattr(module, name) for name in RECORDED}
  fields["stages"] = list(fields["stages"])
  if not isinstance(fields["schedule"], str):
    fields["schedule"] = list(fields["schedule"])
  return fields | {"dtype": jnp.dtype(module.dtype).name}


def from_fields(fields: Mapping[str, Any]) -> p3d.P3D:
  """Builds the network whose `to_fields` these are.

  Raises:
    ValueError: if a field is missing, unknown or impossible.
  """
  missing, extra = set(RECORDED) - set(fields), set(fields) - set(RECORDED)
  if missing or extra:
    raise ValueError(
      f"model fields: missing {sorted(missing)}, unknown {sorted(extra)}"
    )
  values = dict(fields)
  values["stages"] = tuple(values["stages"])
  if not isinstance(values["schedule"], str):
    values["schedule"] = tuple(values["schedule"])
  return p3d.P3D(**values)
