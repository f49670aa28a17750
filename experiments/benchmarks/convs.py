"""Measures both forms of the convolutions of P3D-63.

    python -m experiments.benchmarks.convs

A row is one kind of convolution at the sizes it has for clips of 16x160x160:
forward, the gradient to the filter and the gradient to the input, folded and
direct. p3d_jax/models/convs.py chooses a form by platform from this table.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.benchmarks import timing
from p3d_jax.models import convs


class Case(NamedTuple):
  """One convolution: input (time, height, width, in), kernel and stride."""

  clip: tuple[int, int, int, int]
  taps: tuple[int, int, int]
  out: int
  stride: int = 1


# Name -> sizes at 16x160x160; S and T stand inside the bottlenecks, and the
# 3x3x3 is what they replace.
CASES = {
  "stem 1x7x7": Case((16, 160, 160, 3), (1, 7, 7), 64, 2),
  "res2 reduce": Case((8, 40, 40, 256), (1, 1, 1), 64),
  "res2 S": Case((8, 40, 40, 64), (1, 3, 3), 64),
  "res2 T": Case((8, 40, 40, 64), (3, 1, 1), 64),
  "res2 expand": Case((8, 40, 40, 64), (1, 1, 1), 256),
  "res2 3x3x3": Case((8, 40, 40, 64), (3, 3, 3), 64),
  "res3 shortcut": Case((4, 40, 40, 256), (1, 1, 1), 512, 2),
  "res3 S": Case((4, 20, 20, 128), (1, 3, 3), 128),
  "res3 T": Case((4, 20, 20, 128), (3, 1, 1), 128),
  "res4 S": Case((2, 10, 10, 256), (1, 3, 3), 256),
  "res4 T": Case((2, 10, 10, 256), (3, 1, 1), 256),
  "res4 expand": Case((2, 10, 10, 256), (1, 1, 1), 1024),
  "res5 S": Case((1, 5, 5, 512), (1, 3, 3), 512),
}
FORMS: tuple[convs.Form, ...] = ("folded", "direct")
QUANTITIES = ("forward", "filter", "input")


def naive(name: str, form: str, quantity: str) -> bool:
  """Whether XLA's CPU backend takes half a minute or more for this one."""
  on_cpu = jax.default_backend() == "cpu"
  stem = name.startswith("stem")
  return on_cpu and stem and form == "direct" and quantity != "forward"


def program(
  case: Case, form: convs.Form, quantity: str, batch: int, dtype: Any
) -> Callable[[], Any]:
  """Returns a compiled call of one of QUANTITIES."""
  keys = jax.random.split(jax.random.key(0), 3)
  shape = (*case.taps, case.clip[-1], case.out)
  kernel = jax.random.normal(keys[0], shape, dtype)
  x = jax.random.normal(keys[1], (batch, *case.clip), dtype)
  pad = tuple(n // 2 for n in case.taps)
  strides = (1, case.stride, case.stride)

  def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return convs.conv(x, kernel, strides, pad, form=form)  # type: ignore[arg-type]

  if quantity == "forward":
    forward = jax.jit(conv, compiler_options=convs.compiler_options())
    return lambda: forward(x, kernel)
  cotangent = jax.random.normal(
    keys[2], jax.eval_shape(conv, x, kernel).shape, dtype
  )

  def gradient(x: jax.Array, kernel: jax.Array, y: jax.Array) -> jax.Array:
    # To one of the two alone; what the other needs is dead code to XLA.
    _, vjp = jax.vjp(conv, x, kernel)
    return vjp(y)[1 if quantity == "filter" else 0]

  backward = jax.jit(gradient, compiler_options=convs.compiler_options())
  return lambda: backward(x, kernel, cotangent)


def main() -> None:
  """Prints the table and the machine."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
  parser.add_argument("--batch", type=int, default=2, help="clips")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument(
    "--all",
    action="store_true",
    help="also the gradients of the direct stem, up to 65 s a round on a CPU",
  )
  args = parser.parse_args()
  print(timing.machine())
  print(
    f"Milliseconds for {args.batch} clips in {args.dtype}, median of "
    f"{args.rounds} rounds.\n"
  )
  heads = [f"{q} {form}" for q in QUANTITIES for form in FORMS]
  print("| convolution | " + " | ".join(heads) + " |")
  print("|---" * (len(heads) + 1) + "|", flush=True)
  for name, case in CASES.items():
    cells = []
    for quantity in QUANTITIES:
      for form in FORMS:
        time = math.nan
        if args.all or not naive(name, form, quantity):
          run = program(case, form, quantity, args.batch, jnp.dtype(args.dtype))
          # One compiling round and one measured are enough of the slow one.
          rounds = 1 if naive(name, form, quantity) else args.rounds
          time = 1e3 * timing.median(run, rounds)
        cells.append("skipped" if math.isnan(time) else f"{time:.1f}")
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
  main()
