"""The examples run, and what they claim is so."""

import functools
import pathlib
import runpy

import jax
import numpy as np
from flax import nnx

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def run(name):
  """Runs an example as an import would and returns what it defines."""
  return runpy.run_path(str(EXAMPLES / name))


def test_p3d_block_in_linen():
  """With a P3D block the order of the frames matters; with a 2D one not."""
  example = run("p3d_block_in_linen.py")
  assert example["order_matters"]("S") < 1e-5
  for letter in "ABCF":
    assert example["order_matters"](letter) > 1e-3, letter


def test_nnx():
  """NNX computes what linen does, and the statistics move as they do."""
  example = run("nnx.py")
  network, clips = example["network"], example["clips"]
  params, stats = example["params"], example["before"]
  logits = network.apply({"params": params, "batch_stats": stats}, clips)
  np.testing.assert_allclose(example["logits"], logits, atol=1e-5)
  # Dropout was on: the same clips and weights, two losses.
  first, second = example["losses"]
  assert abs(first - second) > 1e-3
  # Three training calls moved the statistics three times.
  step = jax.jit(
    functools.partial(network.apply, train=True, mutable="batch_stats")
  )
  for _ in range(3):
    _, new = step(
      {"params": params, "batch_stats": stats},
      clips,
      rngs={"dropout": jax.random.key(0)},
    )
    stats = new["batch_stats"]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3),
    example["statistics"],
    stats,
  )
  assert jax.tree.structure(nnx.to_pure_dict(example["gradients"])) == (
    jax.tree.structure(params)
  )
