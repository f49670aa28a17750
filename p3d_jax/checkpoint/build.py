"""`p3d_jax.build`: a network by its name, or that of a checkpoint."""

from __future__ import annotations

import os
from types import EllipsisType
from typing import Any

from etils import epath

from p3d_jax.models import zoo
from p3d_jax.models.p3d import P3D


def build(
  name: str | os.PathLike[str] | None = None,
  *,
  num_classes: int | None | EllipsisType = ...,
  flavour: str | None = None,
  **fields: Any,
) -> P3D:
  """Builds a network, without its weights; `p3d_jax.load` returns both.

  Args:
    name: a row of `zoo.MODELS`; or a converted or inflated folder, a workdir
      or a step of one, whose network it is then; None takes the fields alone
      (`stages`, `width`). A folder with the name of a row is "./p3d63".
    num_classes: number of logits; None gives the trunk. Left out, it is that
      of the checkpoint.
    flavour: a row of `zoo.FLAVOURS`: block rule, pool1, stride and epsilon
      together. Left out, it is "released", or what the checkpoint has.
    **fields: of `P3D`; they win over the rows and the checkpoint.

  Returns:
    A linen module; `module.apply(variables, clips)` takes preprocessed clips
    (batch, time, height, width, channels).

  Raises:
    ValueError: if the name is neither, or a flavour or a field is unknown or
      impossible.
  """
  if name is not None and name not in zoo.MODELS:
    recorded = _recorded(name)
    if flavour is not None:
      row = zoo.FLAVOURS.get(flavour, {})
      recorded = {k: v for k, v in recorded.items() if k not in row}
    classes = recorded.pop("num_classes")
    num_classes = classes if num_classes is ... else num_classes
    name, fields = None, recorded | fields
  if num_classes is ...:
    raise ValueError(
      "num_classes is left out: it must be a number of classes, or None for "
      "the trunk"
    )
  return zoo.build(
    None if name is None else str(name),
    num_classes=num_classes,
    flavour="released" if flavour is None else flavour,
    **fields,
  )


def _recorded(name: str | os.PathLike[str]) -> dict[str, Any]:
  """Returns the fields that a checkpoint records of its network."""
  path = epath.Path(name).expanduser()
  if not os.fspath(name) or not path.exists():
    raise ValueError(
      f"name is {os.fspath(name)!r}: it must be one of "
      f"{', '.join(zoo.MODELS)}, or the folder of a checkpoint"
    )
  # Orbax takes a second to import, and a name does without it.
  from p3d_jax.checkpoint import model

  return dict(model.read_record(model.find(path)).model)
