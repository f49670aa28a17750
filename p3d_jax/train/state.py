"""What a training run carries from step to step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from p3d_jax.checkpoint import tree
from p3d_jax.models import p3d
from p3d_jax.train import sharding


class TrainState(struct.PyTreeNode):
  """The state of a run; the step is also its position in the data.

  Attributes:
    step: steps done.
    params: parameters, float32.
    batch_stats: moving means and variances, float32.
    opt_state: of the optimiser.
    ema: averaged parameters, or None.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  ema: Any = None

  @property
  def variables(self) -> dict[str, Any]:
    """What evaluation uses: the averaged parameters where there are some."""
    params = self.params if self.ema is None else self.ema
    return {"params": params, "batch_stats": self.batch_stats}


def _variables(module: p3d.P3D, channels: int, seed: int) -> Any:
  # Neither the parameters nor the statistics depend on the clips' size.
  clips = jnp.zeros((1, 1, p3d.MIN_SIZE, p3d.MIN_SIZE, channels))
  return module.init(jax.random.key(seed), clips)


def create(
  module: p3d.P3D,
  tx: optax.GradientTransformation,
  mesh: Mesh,
  *,
  channels: int,
  seed: int,
  ema: bool,
  weights: Any = None,
  abstract: bool = False,
) -> TrainState:
  """Makes the state of step 0, each array where it will live.

  Args:
    module: the network.
    tx: the optimiser.
    mesh: of the run.
    channels: of the clips.
    seed: of the initialisation.
    ema: whether averaged parameters are kept.
    weights: variables on the host that take the place of drawn ones, see
      `init.Start`; None draws all.
    abstract: make shapes, types and shardings only, to restore a checkpoint to.
  """

  def init(weights: Any) -> TrainState:
    variables = _variables(module, channels, seed)
    if weights is not None:
      # What they replace is never drawn: XLA drops what nothing uses.
      given = tree.flatten(jax.tree.map(jnp.copy, weights))
      variables = tree.unflatten(tree.flatten(variables) | given)
    params = variables["params"]
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      batch_stats=variables["batch_stats"],
      opt_state=tx.init(params),
      ema=jax.tree.map(jnp.copy, params) if ema else None,
    )

  shapes = jax.eval_shape(init, weights)
  shardings = sharding.of_tree(shapes, mesh)
  if abstract:
    return jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      shapes,
      shardings,
    )
  options = {}
  if mesh.devices.flat[0].platform == "cpu":
    # It runs once. Optimising the random numbers of each kernel took 16 s for
    # four blocks on a CPU core, and 2.5 s as this.
    options["xla_backend_optimization_level"] = 0
  made = jax.jit(init, out_shardings=shardings, compiler_options=options)
  return made(weights)
