"""Measures how cost grows, against the work: a table and a picture.

    python -m experiments.benchmarks.growth --out growth.png

From P3D-63 on 2 clips of 16x160x160, one thing at a time is changed: frames,
size, batch, depth, width; the forward pass of `p3d evaluate` and the training
step of `p3d train`. Work is the operations that models/count.py counts, those
of a training step three times as many. A row is marked where time grew faster
than work between it and the base, by more than 15 %.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from experiments.benchmarks import timing
from p3d_jax.files import write_aside
from p3d_jax.models.count import count
from p3d_jax.progress import Bar
from p3d_jax.train import config as configs
from p3d_jax.train import recipe as recipes
from p3d_jax.train import sharding, step
from p3d_jax.train import state as states
from p3d_jax.train.score import inference
from p3d_jax.visualize.figure import colors, png

CLASSES = 101
FASTER = 1.15  # times the work, that time may grow

BASE: dict[str, Any] = {
  "frames": 16,
  "size": 160,  # pixels, height and width
  "batch": 2,  # clips
  "depth": "p3d63",
  "width": 64,  # channels of conv1
}
# What fits 24 GiB, and ten minutes: a training step keeps its activations.
VALUES: dict[str, dict[str, tuple[Any, ...]]] = {
  "forward": {
    "frames": (8, 16, 32, 64),
    "size": (112, 160, 224, 320),
    "batch": (1, 2, 4, 8),
    "depth": ("p3d63", "p3d131", "p3d199"),
    "width": (16, 32, 64, 128),
  },
  "training": {
    "frames": (8, 16, 32),
    "size": (112, 160, 224),
    "batch": (1, 2, 4),
    "depth": ("p3d63", "p3d131", "p3d199"),
    "width": (32, 64, 96),
  },
}


@dataclasses.dataclass(frozen=True)
class Point:
  """What is measured once, for all the axes that it is on.

  Attributes:
    kind: "forward" or "training".
    fields: (axis, value) of all axes.
  """

  kind: str
  fields: tuple[tuple[str, Any], ...]


@dataclasses.dataclass
class Cost:
  """What a point costs.

  Attributes:
    flops: of one run.
    seconds: of each round.
  """

  flops: float
  seconds: list[float] = dataclasses.field(default_factory=list)

  @property
  def median(self) -> float:
    """Seconds of the rounds."""
    return statistics.median(self.seconds)


def at(kind: str, axis: str, value: Any) -> Point:
  """Returns the base with another value on an axis."""
  return Point(kind, tuple({**BASE, axis: value}.items()))


def prepared(point: Point) -> tuple[float, Callable[[], Any]]:
  """Compiles a point; returns its operations, and what runs it."""
  fields = dict(point.fields)
  config = configs.default()
  config.model.name = fields["depth"]
  config.model.width = fields["width"]
  config.preprocessing.frames = fields["frames"]
  config.preprocessing.resize = ()
  config.preprocessing.crop = (fields["size"], fields["size"])
  mesh = sharding.mesh()
  recipe = recipes.recipe(config, CLASSES, mesh)
  pixels, module = recipe.preprocessing, recipe.module
  batch = fields["batch"]
  shape = (batch, pixels.frames, *pixels.crop_size, len(pixels.mean))
  flops = 2.0 * count(module, shape).multiply_adds
  rng = np.random.default_rng(0)
  clips = rng.integers(0, 256, shape).astype(np.uint8)
  state = drawn(
    states.create(
      module,
      recipe.tx,
      mesh,
      channels=shape[-1],
      seed=0,
      ema=False,
      abstract=True,
    ),
    rng,
  )
  if point.kind == "forward":
    net, place = inference(module, mesh)
    folded = place(state.variables)
    forward = step.jit_eval_step(net, pixels, "softmax", mesh)
    # One clip of each of so many videos.
    taken = sharding.put({"clips": clips[:, None]}, mesh)["clips"]
    return flops, lambda: forward(folded, taken)
  train = step.jit_train_step(recipe, state)
  labels = rng.integers(0, CLASSES, (batch, 1)).astype(np.int32)
  rows = sharding.put({"clips": clips, "labels": labels}, mesh)
  held = [state]

  def run() -> Any:
    held[0], metrics = train(held[0], rows)
    return metrics

  return 3 * flops, run


def drawn(shapes: Any, rng: np.random.Generator) -> Any:
  """Makes a state of random kernels; XLA would compile for drawing them."""

  def leaf(path: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
    name = jax.tree_util.keystr(path)
    if "kernel" in name and "opt_state" not in name:
      size = math.prod(like.shape[:-1]) ** -0.5
      value = size * rng.standard_normal(like.shape, np.float32)
    else:
      value = np.full(like.shape, "scale" in name or "var" in name)
    return jax.device_put(value.astype(like.dtype), like.sharding)

  return jax.tree_util.tree_map_with_path(leaf, shapes)


def measure(points: Sequence[Point], rounds: int) -> dict[Point, Cost]:
  """Compiles all points, then runs them in turn, round by round."""
  found, runs = {}, []
  with Bar("compile", len(points)) as bar:
    for done, point in enumerate(points, 1):
      flops, run = prepared(point)
      jax.block_until_ready(run())
      found[point] = Cost(flops)
      runs.append((point, run))
      bar.update(done, line=None)
  with Bar("measure", rounds) as bar:
    for done in range(1, rounds + 1):
      for point, run in runs:
        start = time.perf_counter()
        jax.block_until_ready(run())
        found[point].seconds.append(time.perf_counter() - start)
      bar.update(done)
  return found


def relative(cost: Cost, base: Cost) -> tuple[float, float]:
  """Returns work and time as shares of the base's."""
  return cost.flops / base.flops, cost.median / base.median


def faster(work: float, seconds: float) -> bool:
  """Whether time grew faster than work, from the less work to the more."""
  return seconds / work > FASTER if work > 1 else work / seconds > FASTER


def table(costs: dict[Point, Cost], kind: str) -> str:
  """Returns the rows of a pass, as a Markdown table."""
  lines = [
    f"| {kind} | value | GFLOP | ms | range | GFLOP/s | work | time "
    "| time / work | |",
    "|---|---|---|---|---|---|---|---|---|---|",
  ]
  for axis, values in VALUES[kind].items():
    base = costs[at(kind, axis, BASE[axis])]
    for value in values:
      cost = costs[at(kind, axis, value)]
      work, seconds = relative(cost, base)
      told = "base" if value == BASE[axis] else ""
      lines.append(
        f"| {axis} | {value} | {cost.flops / 1e9:.1f} | "
        f"{1e3 * cost.median:.0f} | {1e3 * min(cost.seconds):.0f} to "
        f"{1e3 * max(cost.seconds):.0f} | "
        f"{cost.flops / cost.median / 1e9:.0f} | "
        f"{work:.2f} | {seconds:.2f} | {seconds / work:.2f} | "
        f"{'faster than work' if faster(work, seconds) else told} |"
      )
  return "\n".join(lines)


def figure(costs: dict[Point, Cost], about: str) -> Figure:
  """Draws time over work, a picture an axis, both as shares of the base's."""
  made = Figure(figsize=(3.2 * len(BASE), 4), dpi=130, layout="constrained")
  for axis, (name, base) in zip(
    made.subplots(1, len(BASE)), BASE.items(), strict=True
  ):
    _draw(axis, costs, name)
    axis.set_title(f"{name} (base: {base})", fontsize=11)
    axis.set_xlabel("work, of the base's")
    if not axis.get_subplotspec().colspan.start:
      axis.set_ylabel("time, of the base's")
      axis.legend(loc="lower right", fontsize=9, frameon=False)
  made.suptitle(
    f"Time against work: on the line they grow alike\n{about}", fontsize=10
  )
  return made


def _draw(axis: Axes, costs: dict[Point, Cost], name: str) -> None:
  """Draws both passes along one axis, as far as it goes."""
  drawn = {}
  for kind, values in VALUES.items():
    base = costs[at(kind, name, BASE[name])]
    drawn[kind] = [
      relative(costs[at(kind, name, value)], base) for value in values[name]
    ]
  seen = [share for points in drawn.values() for point in points
          for share in point]  # fmt: skip
  ends = (min(seen) / 1.5, max(seen) * 1.5)
  axis.plot(ends, ends, color="0.6", linewidth=1, linestyle="--")
  for (kind, points), color in zip(drawn.items(), colors(2), strict=True):
    axis.plot(*zip(*points, strict=True), "o-", color=color, label=kind)
    for value, point in zip(VALUES[kind][name], points, strict=True):
      # Forward above the line, training below it.
      above = kind == "forward"
      axis.annotate(
        str(value).removeprefix("p3d"),
        point,
        xytext=(-5, 4) if above else (5, -4),
        textcoords="offset points",
        ha="right" if above else "left",
        va="bottom" if above else "top",
        color=color,
        fontsize=8,
      )
  for set_scale in (axis.set_xscale, axis.set_yscale):
    set_scale("log", base=2)
  for side in (axis.xaxis, axis.yaxis):
    side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    side.set_minor_locator(NullLocator())
  axis.set_xlim(ends)
  axis.set_ylim(ends)
  axis.set_box_aspect(1)
  axis.grid(color="0.9")


def main() -> None:
  """Prints the tables and the machine, and draws the picture."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
  parser.add_argument("--out", metavar="PNG", help="of the picture")
  parser.add_argument("--rounds", type=int, default=3)
  args = parser.parse_args()
  points = dict.fromkeys(
    at(kind, axis, value)
    for kind, axes in VALUES.items()
    for axis, values in axes.items()
    for value in values
  )
  costs = measure(list(points), args.rounds)
  machine = timing.machine()
  print(machine)
  print(
    f"Base: {BASE['depth']}, batch {BASE['batch']}, {BASE['frames']} frames of "
    f"{BASE['size']}x{BASE['size']}, width {BASE['width']}, float32; medians "
    f"of {args.rounds} rounds in turn. Work, time: of the base's."
  )
  for kind in VALUES:
    print(f"\n{table(costs, kind)}")
  if args.out:
    write_aside(args.out, png(figure(costs, machine)))
    print(f"written to {args.out}", file=sys.stderr)


if __name__ == "__main__":
  main()
