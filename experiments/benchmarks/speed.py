"""Measures clips per second of a network, forward and in training.

    python -m experiments.benchmarks.speed

A training step is the loss, its gradient and a step of plain SGD, with live
batch norm and dropout; no data is loaded.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import timing
from p3d_jax.models import convs, zoo
from p3d_jax.models.p3d import P3D

LEARNING_RATE = 1e-9  # the numbers stay what they are, step after step


@functools.partial(
  jax.jit, static_argnums=0, compiler_options=convs.compiler_options()
)
def forward(module: P3D, variables: Any, clips: jax.Array) -> Any:
  """Returns the logits, as in evaluation."""
  return module.apply(variables, clips)


@functools.partial(
  jax.jit,
  static_argnums=0,
  donate_argnums=1,
  compiler_options=convs.compiler_options(),
)
def train(
  module: P3D, variables: Any, clips: jax.Array, labels: jax.Array
) -> Any:
  """Returns the variables after a step."""

  def loss(params: Any) -> tuple[jax.Array, Any]:
    logits, new = module.apply(
      {**variables, "params": params},
      clips,
      train=True,
      rngs={"dropout": jax.random.key(0)},
      mutable="batch_stats",
    )
    scores = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(scores, labels[:, None], axis=1)
    return -picked.mean(), new

  grads, new = jax.grad(loss, has_aux=True)(variables["params"])
  frozen = module.freeze_norm == "all_but_first"

  def update(path: Any, value: jax.Array, grad: jax.Array) -> jax.Array:
    name = "/".join(key.key for key in path)
    if frozen and "/bn/" in name and not name.startswith("stem/"):
      return value  # as in p3d_jax/train/optim.py; nothing needs the gradient
    return value - LEARNING_RATE * grad

  params = jax.tree_util.tree_map_with_path(update, variables["params"], grads)
  return {"params": params, **new}


def report(name: str, batch: int, run: Callable[[], Any], rounds: int) -> None:
  """Prints the median and the range of the rounds."""
  found = [batch / s for s in timing.seconds(run, rounds)]
  print(
    f"| {name} | {statistics.median(found):.2f} | {min(found):.2f} to "
    f"{max(found):.2f} |",
    flush=True,
  )


def main() -> None:
  """Prints the table and the machine."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
  parser.add_argument("--model", default="p3d63", choices=list(zoo.MODELS))
  parser.add_argument("--schedule", default="ABC")
  parser.add_argument("--batch", type=int, default=2, help="clips")
  parser.add_argument("--frames", type=int, default=16)
  parser.add_argument("--size", type=int, default=160, help="pixels")
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--remat", action="store_true")
  parser.add_argument("--rounds", type=int, default=7)
  args = parser.parse_args()
  module = zoo.build(
    args.model,
    num_classes=101,
    schedule=args.schedule,
    dtype=jnp.dtype(args.dtype),
    remat=args.remat,
  )
  shape = (args.batch, args.frames, args.size, args.size, 3)
  clips = jax.random.normal(jax.random.key(0), shape)
  labels = jnp.zeros(args.batch, jnp.int32)
  print(timing.machine())
  print(
    f"{args.model}, {shape} {args.dtype}, {args.rounds} rounds after one that "
    "compiles.\n"
  )
  print("| pass | clips/s, median | range |\n|---|---|---|", flush=True)
  variables = jax.jit(module.init)(jax.random.key(1), clips[:1])
  run = functools.partial(forward, module, variables, clips)
  report("forward", args.batch, run, args.rounds)
  state = [variables]

  def step() -> Any:
    state[0] = train(module, state[0], clips, labels)
    return state[0]

  report("training", args.batch, step, args.rounds)


if __name__ == "__main__":
  main()
