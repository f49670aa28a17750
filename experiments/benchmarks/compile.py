"""Measures how long a network takes to start: tracing, lowering, compiling.

    python -m experiments.benchmarks.compile

Of each network the forward pass of `p3d evaluate` and the training step of
`p3d train`, for batch 2 of 16x160x160: once with an empty folder of compiled
programs, once with the folder that the first start has filled. Each start is a
process of its own, as a user's is; the arrays are shapes only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from experiments.benchmarks import timing
from p3d_jax.models import zoo
from p3d_jax.models.fold import for_inference
from p3d_jax.progress import Bar
from p3d_jax.train import config as configs
from p3d_jax.train import recipe as recipes
from p3d_jax.train import sharding, step
from p3d_jax.train import state as states

CLASSES = 101
PASSES = ("forward", "training")
MODULE = "experiments.benchmarks.compile"


def programs(name: str, batch: int) -> dict[str, Callable[[], Any]]:
  """Returns what traces each pass of a network."""
  config = configs.default()
  config.model.name = name
  mesh = sharding.mesh()
  recipe = recipes.recipe(config, CLASSES, mesh)
  pixels = recipe.preprocessing
  state = states.create(
    recipe.module,
    recipe.tx,
    mesh,
    channels=len(pixels.mean),
    seed=0,
    ema=False,
    abstract=True,
  )
  shape = (batch, pixels.frames, *pixels.crop_size, len(pixels.mean))

  def rows(shape: tuple[int, ...], kind: Any) -> jax.ShapeDtypeStruct:
    place = (
      sharding.framed(mesh, len(shape))
      if kind == jnp.uint8
      else sharding.batched(mesh)
    )
    return jax.ShapeDtypeStruct(shape, kind, sharding=place)

  counts = ("replaced", "notice")
  taken = {count: rows((batch,), jnp.int32) for count in counts}
  taken["clips"] = rows(shape, jnp.uint8)
  taken["labels"] = rows((batch, 1), jnp.int32)
  train: Any = step.jit_train_step(recipe, state)
  net, fold = for_inference(recipe.module)
  folded = jax.eval_shape(fold, state.variables)
  forward: Any = step.jit_eval_step(net, pixels, "softmax", mesh)
  # One clip of each of so many videos.
  videos = rows((batch, 1, *shape[1:]), jnp.uint8)
  return {
    "forward": lambda: forward.trace(folded, videos),
    "training": lambda: train.trace(state, taken),
  }


def equations(jaxpr: core.Jaxpr) -> Iterator[Any]:
  """All equations, those inside of others too."""
  for equation in jaxpr.eqns:
    yield equation
    for inner in core.jaxprs_in_params(equation.params):
      yield from equations(inner)


def start(name: str, kind: str, batch: int) -> dict[str, float]:
  """Starts a program in this process; returns seconds and sizes."""
  trace = programs(name, batch)[kind]
  moments = [time.perf_counter()]
  traced = trace()
  moments.append(time.perf_counter())
  lowered = traced.lower()
  moments.append(time.perf_counter())
  compiled = lowered.compile()
  moments.append(time.perf_counter())
  # A line of HLO is "  %name = type[shape] operation(...)".
  instructions = re.findall(r"^ +(ROOT )?%?\S+ = ", compiled.as_text(), re.M)
  return {
    "trace": moments[1] - moments[0],
    "lower": moments[2] - moments[1],
    "compile": moments[3] - moments[2],
    "equations": sum(1 for _ in equations(traced.jaxpr.jaxpr)),
    "instructions": len(instructions),
  }


def in_process(
  name: str, kind: str, batch: int, folder: str
) -> dict[str, float]:
  """Starts a program in a process of its own, which keeps it in a folder."""
  words = ["--network", name, "--pass", kind, "--batch", str(batch)]
  done = subprocess.run(
    [sys.executable, "-m", MODULE, *words],
    env=os.environ
    | {
      "JAX_COMPILATION_CACHE_DIR": folder,
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    },
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
  return found


def row(name: str, kind: str, batch: int) -> str:
  """Measures a pass of a network; returns its line of the table."""
  with tempfile.TemporaryDirectory() as folder:
    cold = in_process(name, kind, batch, folder)
    kept = sum(entry.stat().st_size for entry in os.scandir(folder))
    warm = in_process(name, kind, batch, folder)
  # From a clean folder what is kept is this program alone.
  return (
    f"| {name} | {kind} | {cold['equations']:,} | {cold['instructions']:,} | "
    f"{cold['trace']:.1f} | {cold['lower']:.1f} | {cold['compile']:.1f} | "
    f"{warm['trace']:.1f} | {warm['lower']:.1f} | {warm['compile']:.1f} | "
    f"{kept / 1e6:.1f} |"
  )


def main() -> None:
  """Prints the table and the machine."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
  parser.add_argument(
    "--networks",
    nargs="+",
    default=["p3d63", "p3d199"],
    choices=list(zoo.MODELS),
  )
  parser.add_argument("--batch", type=int, default=2, help="clips")
  # Of the processes that this one starts.
  parser.add_argument("--network", help=argparse.SUPPRESS)
  parser.add_argument("--pass", dest="kind", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.network:
    print(json.dumps(start(args.network, args.kind, args.batch)))
    return
  print(timing.machine())
  print(
    f"Seconds of a start, batch {args.batch} of 16x160x160, float32; kept: the "
    "size of its compiled program.\n"
  )
  print(
    "| network | pass | equations | HLO instructions | trace | lower | compile "
    "| trace again | lower again | from the folder | kept, MB |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|",
    flush=True,
  )
  cases = [(name, kind) for name in args.networks for kind in PASSES]
  with Bar("compile", len(cases)) as bar:
    for done, (name, kind) in enumerate(cases, 1):
      print(row(name, kind, args.batch), flush=True)
      bar.update(done)


if __name__ == "__main__":
  main()
