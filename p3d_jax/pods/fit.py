"""What would make a step fit that does not: tried by compiling, not guessed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from p3d_jax.models import p3d
from p3d_jax.pods import compiled, plan
from p3d_jax.pods.compiled import Step, TooBigError, compile_step
from p3d_jax.pods.topology import Topology
from p3d_jax.progress import Bar

MOST = 6  # compilations
# Bytes a parameter that fsdp can split: float32 weights, their averages and
# AdamW's two moments.
_STATE = 16


@dataclasses.dataclass(frozen=True)
class Try:
  """A change of the config, and what it needs.

  Attributes:
    changes: field -> value.
    needs: bytes a chip; None where the compiler does not say.
    step: what was compiled; None: it does not fit.
  """

  changes: dict[str, Any]
  needs: int | None
  step: Step | None


def check(step: Step, topology: Topology) -> Step:
  """Returns a step that fits.

  Raises:
    TooBigError: it takes more than its chip has.
  """
  has = plan.usable(topology)
  if has is not None and step.memory.total > has:
    raise TooBigError(step.memory.total, has)
  return step


def search(
  config: ConfigDict,
  topology: Topology,
  num_classes: int,
  error: TooBigError,
) -> list[Try]:
  """Tries changes of a config that does not fit, a few of them, in order.

  Args:
    config: of the run.
    topology: that it is to run on.
    num_classes: of the data.
    error: by how much it does not fit.
  """
  tried: list[Try] = []
  options = candidates(config, topology, error)
  with Bar("tried", len(options)) as bar:
    for done, changes in enumerate(options, 1):
      # More of what fits already, or besides it, need not be known.
      if not any(
        one.step and one.changes.keys() <= changes.keys() for one in tried
      ):
        bar.note(flags(changes), line=True)
        tried.append(_try(config, changes, topology, num_classes))
      bar.update(done, line=None)
  return tried


def _try(
  config: ConfigDict,
  changes: dict[str, Any],
  topology: Topology,
  num_classes: int,
) -> Try:
  config = changed(config, changes)
  try:
    step = check(compile_step(config, topology, num_classes), topology)
  except TooBigError as error:
    return Try(changes, error.needs, None)
  return Try(changes, step.memory.total, step)


def candidates(
  config: ConfigDict, topology: Topology, error: TooBigError
) -> list[dict[str, Any]]:
  """Returns the changes to try: one field first, then two.

  What arithmetic alone rules out is left out: fsdp saves no more than the state
  of the parameters, and a batch must divide. More parts leave the recipe as it
  is, but for live batch norms, which see one part; so they come before fewer
  clips a step.
  """
  has = error.has or 1
  needs = error.needs or 2 * has
  parts = list(_parts(config, topology, needs / has))
  parts = parts or list(_smaller(config, topology, needs / has))
  options: list[dict[str, Any]] = []
  if not config.model.remat:
    options.append({"model.remat": True})
  options += parts[:2]
  if needs - has < _STATE * _parameters(config, topology):
    options += _fsdp(config, topology)[:1]
  if not config.model.remat:
    options += [{"model.remat": True} | one for one in parts[-2:]]
  return [o for o in options if _runs(config, topology, o)][:MOST]


def _parameters(config: ConfigDict, topology: Topology) -> int:
  recipe = compiled.recipe_of(config, topology, num_classes=2)
  channels = len(recipe.preprocessing.mean)
  variables = p3d.abstract_variables(recipe.module, channels)
  return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def _parts(
  config: ConfigDict, topology: Topology, ratio: float
) -> Iterator[dict[str, Any]]:
  """The batch in more parts, from as many as the memory's excess asks for.

  Where a device has one clip at a time, two devices share it.
  """
  devices = len(topology.devices)
  space = config.mesh.space
  accumulate = config.train.accumulate
  more = 2
  while more < min(ratio, 1024):
    more *= 2
  for _ in range(3):
    changes: dict[str, Any] = {"train.accumulate": accumulate * more}
    wider = space
    while not _runs(config, topology, changes) and wider < devices:
      wider *= 2
      changes = {"train.accumulate": accumulate * more, "mesh.space": wider}
      changes |= _gathered(config, topology, changes)
    if _runs(config, topology, changes):
      yield changes
    more *= 2


def _smaller(
  config: ConfigDict, topology: Topology, ratio: float
) -> Iterator[dict[str, Any]]:
  """Fewer clips a step, where they cannot be cut into more parts."""
  train, space = config.train, config.mesh.space
  multiple = train.accumulate * (len(topology.devices) // space)
  batch = int(train.batch / ratio) // multiple * multiple
  while batch >= multiple:
    changes = {"train.batch": batch}
    if _runs(config, topology, changes):
      yield changes
    batch = batch // 2 // multiple * multiple


def _gathered(
  config: ConfigDict, topology: Topology, changes: dict[str, Any]
) -> dict[str, Any]:
  """The first stage whose height does not divide, if there is one."""
  for stage in (None, "res5", "res4", "res3", "res2"):
    if _runs(config, topology, changes | {"mesh.gather": stage}):
      return {} if stage is None else {"mesh.gather": stage}
  return {}


def _fsdp(config: ConfigDict, topology: Topology) -> list[dict[str, Any]]:
  return [
    {"mesh.fsdp": fsdp}
    for fsdp in (16, 8, 4, 2)
    if fsdp > config.mesh.fsdp and _runs(config, topology, {"mesh.fsdp": fsdp})
  ]


def _runs(
  config: ConfigDict, topology: Topology, changes: dict[str, Any]
) -> bool:
  """Says whether a changed config can be run at all."""
  new = changed(config, changes)
  try:
    compiled.check(new, topology)
    if any(name.startswith("mesh.") for name in changes):
      compiled.recipe_of(new, topology, num_classes=2)
  except ValueError:
    return False
  return True


def changed(config: ConfigDict, changes: dict[str, Any]) -> ConfigDict:
  """Returns a copy of a config with some fields set."""
  copy = config.copy_and_resolve_references()
  for field, value in changes.items():
    section, name = field.split(".")
    copy[section][name] = value
  return copy


def flags(changes: dict[str, Any]) -> str:
  """Returns the changes as they are typed."""
  return " ".join(f"--config.{name}={value}" for name, value in changes.items())
