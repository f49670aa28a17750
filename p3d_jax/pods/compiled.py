"""Compiles the training step of a config for a topology, and reads it.

It is the very step that `p3d train` runs: the same function, state, batch and
shardings, of shapes instead of arrays.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from p3d_jax.models import convs, count
from p3d_jax.pods import cost as costs
from p3d_jax.pods import hlo
from p3d_jax.pods.topology import Topology
from p3d_jax.train import config_check, sharding, step
from p3d_jax.train import recipe as recipes
from p3d_jax.train import state as states
from p3d_jax.train.config import ConfigError

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
# "the total memory required for ... (28.00G) exceeds available HBM (15.75G)":
# arguments are in the first number.
_TOO_BIG = re.compile(
  r"required for [\w ]+\(([\d.]+)([KMGT]?)\) exceeds available HBM "
  r"\(([\d.]+)([KMGT]?)\)"
)


class TooBigError(RuntimeError):
  """A step does not fit into the memory of its devices.

  Attributes:
    needs: bytes a device; None where the compiler does not say.
    has: bytes a device; likewise.
  """

  def __init__(self, needs: int | None, has: int | None) -> None:
    """Takes the two numbers."""
    super().__init__(f"needs {needs} bytes a device, which has {has}")
    self.needs, self.has = needs, has


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of a device's memory while a step runs.

  Attributes:
    arguments: the state and the batch.
    temporaries: activations and what else lives in between.
    outputs: results that do not take the place of arguments.
    program: the compiled code.
  """

  arguments: int
  temporaries: int
  outputs: int
  program: int

  @property
  def total(self) -> int:
    """All of them."""
    return self.arguments + self.temporaries + self.outputs + self.program


@dataclasses.dataclass(frozen=True)
class Step:
  """A compiled training step; numbers are of one device and step.

  Attributes:
    parameters: of the network, those that `optim.freeze` keeps among them.
    forward_flop: of one clip: two a multiply-add, taps on padding counted.
    memory: that it takes.
    cost: what it computes, moves and sends, loops as often as they turn.
    xla_flop: XLA's own count of all operations, with loops once.
    xla_bytes: XLA's own count of bytes in all memories, with loops once.
    clips_read: by the host that reads most.
    seconds: that the compilation took.
  """

  parameters: int
  forward_flop: int
  memory: Memory
  cost: costs.Cost
  xla_flop: float
  xla_bytes: float
  clips_read: int
  seconds: float


def compile_step(
  config: ConfigDict, topology: Topology, num_classes: int
) -> Step:
  """Compiles the training step of a config.

  Args:
    config: of `config.default()`'s fields, resolved.
    topology: that it is to run on.
    num_classes: of the data.

  Raises:
    ConfigError: the config cannot be run on so many devices.
    TooBigError: the compiler says that it does not fit.
  """
  began = time.monotonic()
  recipe = recipe_of(config, topology, num_classes)
  assert recipe.layout is not None
  mesh = recipe.layout.mesh
  with convs.forced(convs.form_of(topology.platform)), _quiet():
    state = states.create(
      recipe.module,
      recipe.tx,
      mesh,
      channels=len(recipe.preprocessing.mean),
      seed=config.seed,
      ema=bool(config.train.ema),
      abstract=True,
    )
    train_step: Any = step.jit_train_step(recipe, state)
    lowered = train_step.lower(state, batch_of(config, recipe, mesh))
  compiled = _compile(lowered, topology.platform)
  seconds = time.monotonic() - began
  analysis = compiled.cost_analysis()
  counted = _count(recipe)
  return Step(
    parameters=counted.parameters,
    forward_flop=2 * counted.multiply_adds,
    memory=_memory(compiled.memory_analysis()),
    cost=costs.cost(hlo.parse(compiled.as_text())),
    xla_flop=analysis["flops"],
    xla_bytes=analysis["bytes accessed"],
    clips_read=_clips_read(config.train.batch, mesh),
    seconds=seconds,
  )


def recipe_of(
  config: ConfigDict, topology: Topology, num_classes: int
) -> step.Recipe:
  """Returns the recipe of a config on a topology.

  Raises:
    ConfigError: the config cannot be run on so many devices.
  """
  check(config, topology)
  mesh = sharding.mesh(topology.devices, **config_check.mesh_sizes(config))
  return recipes.recipe(config, num_classes, mesh)


def check(config: ConfigDict, topology: Topology) -> None:
  """Refuses a config as training does, but for want of data.

  Raises:
    ConfigError: the config cannot be run on so many devices.
  """
  with_data = config.copy_and_resolve_references()
  with_data.data.dir = config.data.dir or "none"
  count = len(topology.devices)
  try:
    config_check.check(with_data, count)
  except ConfigError as error:
    if "devices" not in str(error):
      raise
    mesh = ", ".join(
      f"mesh.{name}={size}"
      for name, size in config_check.mesh_sizes(config).items()
    )
    many = f"{count} device{'s' * (count != 1)}"
    told = f"--topology={topology.name}: {many}, {mesh}"
    raise ConfigError(f"{error} ({told})") from error


def batch_of(
  config: ConfigDict, recipe: step.Recipe, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a global batch, placed as `sharding.put` does."""
  pixels = recipe.preprocessing
  rows = config.train.batch
  clips = (rows, pixels.frames, *pixels.crop_size, len(pixels.mean))
  return {
    "clips": jax.ShapeDtypeStruct(
      clips, jnp.uint8, sharding=sharding.framed(mesh, len(clips))
    ),
    # One label a clip; more would be a few bytes.
    "labels": jax.ShapeDtypeStruct(
      (rows, 1), jnp.int32, sharding=sharding.batched(mesh)
    ),
  }


def _compile(lowered: Any, platform: str) -> Any:
  options = {}
  if platform == "cpu":
    # It will not be run, and what is read does not depend on it.
    options["xla_backend_optimization_level"] = 0
  try:
    return lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    needs, has = too_big(str(error))
    raise TooBigError(needs, has) from error


def too_big(message: str) -> tuple[int | None, int | None]:
  """Reads what a device needs and has, in bytes, from libtpu's message."""
  found = _TOO_BIG.search(message)
  if not found:
    return None, None
  needs, unit, has, other = found.groups()
  return (
    round(float(needs) * 2 ** _UNITS[unit]),
    round(float(has) * 2 ** _UNITS[other]),
  )


def _memory(stats: Any) -> Memory:
  return Memory(
    arguments=stats.argument_size_in_bytes,
    temporaries=stats.temp_size_in_bytes,
    outputs=stats.output_size_in_bytes - stats.alias_size_in_bytes,
    program=stats.generated_code_size_in_bytes,
  )


def _count(recipe: step.Recipe) -> count.Count:
  pixels = recipe.preprocessing
  return count.count(
    recipe.module, (1, pixels.frames, *pixels.crop_size, len(pixels.mean))
  )


def _clips_read(batch: int, mesh: Mesh) -> int:
  """Returns the clips of a batch that the host with most of them reads."""
  owners = mesh.devices.reshape(sharding.rows_split(mesh), -1)
  hosts: dict[int, int] = {}
  for devices in owners:
    for host in {device.process_index for device in devices}:
      hosts[host] = hosts.get(host, 0) + 1
  return batch // len(owners) * max(hosts.values())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps jax from telling that a CPU does not reuse donated memory."""
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*donated buffers")
    yield
