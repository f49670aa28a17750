"""Networks small enough to run in a moment, and variables for any network."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np

from p3d_jax.models import p3d, zoo

# One shape for most tests: operations are then compiled once a process.
SHAPE = (2, 5, 33, 36, 3)


def net(**fields) -> p3d.P3D:
  """Four blocks, B, C, A and a 2D one, 8 channels wide."""
  slim = {
    "stages": (1, 1, 1, 1),
    "width": 8,
    "schedule": "BCA",
    "num_classes": 5,
    "precision": "highest",
  }
  return zoo.build(**{**slim, **fields})


def flat(tree):
  """Leaves by names with slashes."""
  return flax.traverse_util.flatten_dict(tree, sep="/")


def error(a, b):
  """max|a - b| / max|b|."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  assert a.shape == b.shape
  return np.abs(a - b).max() / np.abs(b).max()


def clips(*shape: int, seed: int = 0) -> np.ndarray:
  """Clips (batch, time, height, width, channels) of unit variance."""
  rng = np.random.default_rng(seed)
  return rng.standard_normal(shape or SHAPE).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("net", "endpoints"))
def apply(net, variables, clips, endpoints=()):
  """What evaluation returns, compiled once for equal nets and shapes."""
  return net.apply(variables, clips, endpoints=endpoints)


@functools.partial(jax.jit, static_argnames="net")
def train_apply(net, variables, clips, seed=0):
  """Returns logits and new statistics of a training step."""
  logits, new = net.apply(
    variables,
    clips,
    train=True,
    rngs={"dropout": jax.random.key(seed)},
    mutable="batch_stats",
  )
  return logits, new["batch_stats"]


def variables(module, shape=SHAPE, seed=0):
  """Draws float32 variables, statistics away from 0 and 1, with numpy."""
  return _variables(module, tuple(shape), seed)


@functools.cache
def _variables(module, shape, seed):
  rng = np.random.default_rng(seed)
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  tree = jax.eval_shape(module.init, jax.random.key(0), x)

  def draw(path, leaf):
    match path[-1]:
      case "kernel":
        fan_in = np.prod(leaf.shape[:-1])
        value = rng.standard_normal(leaf.shape) * np.sqrt(2 / fan_in)
      case "scale":
        value = rng.uniform(0.5, 1.5, leaf.shape)
      case "var":
        value = rng.uniform(0.3, 2, leaf.shape)
      case "bias" | "mean":
        value = 0.3 * rng.standard_normal(leaf.shape)
    return value.astype(np.float32)

  return flax.traverse_util.path_aware_map(draw, tree)
