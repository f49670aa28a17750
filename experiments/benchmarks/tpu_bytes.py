"""Counts the bytes that a training step moves on a TPU, by its compiler.

    python -m experiments.benchmarks.tpu_bytes

Three rows of numbers for each network and chip: a plain flax twin of the
network (linen's Conv with 3D kernels, BatchNorm and max_pool), the network of
this package as it is traced for a TPU, and a bound. All train with live batch
norm, bfloat16 and plain SGD on 16x160x160, without a loop over blocks. Nothing
is run: libtpu compiles for chips that are not there
(`pip install 'p3d_jax[tpu]'`). On two cores P3D-63 takes some 4 minutes a chip,
P3D-199 a quarter of an hour.

The bytes are counted twice: by p3d_jax/pods/cost.py, whole tiles that cross
the chip's main memory; and by XLA's cost analysis, elements in all memories.
The bound: the clip is read; the result of each convolution is written once, for
the backward pass, and read once there, in bfloat16 and without padding; each
parameter is read and written once. Live batch norm needs a result whole before
it can be used, and so does its gradient: five passes where the bound has two.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmarks import timing
from p3d_jax.models import convs, p3d, schedule, zoo
from p3d_jax.pods import cost, hlo, topology
from p3d_jax.preprocess import PREPROCESSINGS

Array = jax.Array

CLASSES = 101
CLIP = (16, 160, 160, 3)
LEARNING_RATE = 0.01
GIB = 2**30


class PlainUnit(nn.Module):
  """A 3D convolution and its normalisation, linen's own."""

  features: int
  taps: tuple[int, int, int]
  stride: int = 1
  dtype: Any = jnp.bfloat16

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps (batch, time, height, width, in) to as many steps of `features`."""
    x = nn.Conv(
      self.features,
      self.taps,
      (1, self.stride, self.stride),
      padding=[(n // 2, n // 2) for n in self.taps],
      use_bias=False,
      dtype=self.dtype,
      name="conv",
    )(x)
    return nn.BatchNorm(
      use_running_average=False, momentum=0.9, dtype=self.dtype, name="bn"
    )(x)


class PlainBlock(nn.Module):
  """A bottleneck of the released network."""

  letter: str
  width: int
  stride: int
  dtype: Any = jnp.bfloat16

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns relu(shortcut x + expand(mix(relu(reduce x))))."""

    def unit(name: str, taps: tuple, wide: int = 1, stride: int = 1) -> Any:
      return PlainUnit(wide * self.width, taps, stride, self.dtype, name=name)

    y = nn.relu(unit("reduce", (1, 1, 1), stride=self.stride)(x))
    s = nn.relu(unit("spatial", (1, 3, 3))(y))
    if self.letter == "A":
      s = nn.relu(unit("temporal", (3, 1, 1))(s))
    elif self.letter == "B":
      s = nn.relu(s + unit("temporal", (3, 1, 1))(y))
    elif self.letter == "C":
      s = nn.relu(0.5 * s + 0.5 * unit("temporal", (3, 1, 1))(s))
    y = unit("expand", (1, 1, 1), 4)(s)
    if x.shape != y.shape:
      x = unit("shortcut", (1, 1, 1), 4, self.stride)(x)
    return nn.relu(x + y)


class PlainStage(nn.Module):
  """Bottlenecks, the first with the stride."""

  letters: str
  width: int
  stride: int
  dtype: Any = jnp.bfloat16

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps clips to clips of 4 width channels."""
    for i, letter in enumerate(self.letters):
      stride = self.stride if i == 0 else 1
      name = f"block{i:02d}"
      x = PlainBlock(letter, self.width, stride, self.dtype, name=name)(x)
    return x


class PlainStem(nn.Module):
  """1x7x7 of stride 2, and max 2x3x3 in ceil mode."""

  width: int
  dtype: Any = jnp.bfloat16

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps clips to a quarter of their size and half of their steps."""
    # The names of a unit, without one of its own.
    unit = PlainUnit(self.width, (1, 7, 7), 2, self.dtype)
    nn.share_scope(self, unit)
    return _ceil_pool(nn.relu(unit(x)), (2, 3, 3), (2, 2, 2))


class Plain(nn.Module):
  """The released network of plain linen layers, same names of parameters."""

  letters: tuple[str, ...]
  width: int = 64
  num_classes: int = CLASSES
  dtype: Any = jnp.bfloat16

  @nn.compact
  def __call__(self, x: Array, train: bool = True) -> Array:
    """Scores clips (batch, time, height, width, channels)."""
    assert train
    x = PlainStem(self.width, self.dtype, name="stem")(x.astype(self.dtype))
    for i, letters in enumerate(self.letters):
      x = PlainStage(
        letters, self.width << i, 2 if i else 1, self.dtype, name=f"res{i + 2}"
      )(x)
      if i < 3:
        x = _ceil_pool(x, (2, 1, 1), (2, 1, 1))
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2, 3))
    head = p3d.Head(self.num_classes, name="head")
    return head(x)


def _ceil_pool(x: Array, window: tuple, strides: tuple) -> Array:
  """Max pooling in ceil mode by linen's."""
  ends = []
  for n, size, stride in zip(x.shape[1:4], window, strides, strict=True):
    out = max(-(-(n - size) // stride), 0) + 1
    ends.append((0, max((out - 1) * stride + size - n, 0)))
  return nn.max_pool(x, window, strides, padding=ends)


def plain(name: str, **fields: Any) -> Plain:
  """Returns the plain twin of a row of the zoo."""
  row = zoo.MODELS[name]
  letters = schedule.letters("ABC", row["stages"])
  return Plain(letters, **fields)


def ours(name: str, **fields: Any) -> p3d.P3D:
  """Returns the network of a row of the zoo; dropout needs no draw."""
  options = {"dtype": jnp.bfloat16, "dropout": 0.0} | fields
  return zoo.build(name, num_classes=CLASSES, **options)


def train_step(
  module: nn.Module, variables: Any, clips: Array, labels: Array
) -> tuple[Any, Array]:
  """One step of SGD: variables, uint8 clips, labels -> variables, loss."""
  preprocessing = PREPROCESSINGS["released_rgb"]
  stats = variables["batch_stats"]

  def loss_of(params: Any) -> tuple[Array, Any]:
    logits, new = module.apply(
      {"params": params, "batch_stats": stats},
      preprocessing.normalize(clips),
      train=True,
      mutable=["batch_stats"],
    )
    chances = jax.nn.log_softmax(logits)
    loss = -jnp.take_along_axis(chances, labels[:, None], 1).mean()
    return loss, new["batch_stats"]

  (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(
    variables["params"]
  )
  params = jax.tree.map(
    lambda p, g: p - LEARNING_RATE * g, variables["params"], grads
  )
  return {"params": params, "batch_stats": stats}, loss


class Count(NamedTuple):
  """What a compiled step moves, a chip.

  Attributes:
    hbm: bytes that cross main memory, whole tiles.
    xla: XLA's own count of bytes accessed.
    temporaries: bytes that live in between.
    reduces: all-reduces.
    seconds: that tracing and compiling took.
    text: the compiled program.
  """

  hbm: float
  xla: float
  temporaries: int
  reduces: int
  seconds: float
  text: str


def compiled(module: nn.Module, place: topology.Topology, batch: int) -> Count:
  """Compiles a step of `batch` clips a chip."""
  began = time.perf_counter()
  mesh = Mesh(np.array(place.devices), ("data",))
  whole = NamedSharding(mesh, PartitionSpec())
  rows = NamedSharding(mesh, PartitionSpec("data"))
  many = batch * len(place.devices)
  with convs.forced(convs.form_of(place.platform)):
    shapes = abstract(module)
    step = jax.jit(
      lambda *given: train_step(module, *given),
      in_shardings=(whole, rows, rows),
      out_shardings=whole,
      donate_argnums=0,
    )
    lowered = step.lower(
      shapes,
      jax.ShapeDtypeStruct((many, *CLIP), jnp.uint8),
      jax.ShapeDtypeStruct((many,), jnp.int32),
    )
  made: Any = lowered.compile()
  seconds = time.perf_counter() - began
  text = made.as_text()
  counted = cost.cost(hlo.parse(text))
  own, memory = made.cost_analysis(), made.memory_analysis()
  return Count(
    hbm=counted.bytes,
    xla=own["bytes accessed"],
    temporaries=memory.temp_size_in_bytes,
    reduces=sum(c.kind == "all-reduce" for c in counted.collectives),
    seconds=seconds,
    text=text,
  )


def abstract(module: nn.Module) -> Any:
  """Returns shapes of the variables."""
  clips = jax.ShapeDtypeStruct((1, CLIP[0], 32, 32, 3), jnp.float32)
  return jax.eval_shape(
    lambda key, x: module.init(key, x), jax.random.key(0), clips
  )


def bound(name: str, batch: int) -> int:
  """Returns the bytes of the bound for a step of `batch` clips on a chip."""
  module = plain(name)
  shapes = abstract(module)
  clips = jax.ShapeDtypeStruct((batch, *CLIP), jnp.bfloat16)
  _, kept = jax.eval_shape(
    lambda given, x: module.apply(
      given,
      x,
      mutable=["batch_stats", "intermediates"],
      capture_intermediates=lambda part, _: isinstance(part, nn.Conv),
    ),
    shapes,
    clips,
  )
  results = sum(leaf.size for leaf in jax.tree.leaves(kept["intermediates"]))
  parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
  read = batch * math.prod(CLIP)  # uint8
  return read + 2 * 2 * results + 2 * 4 * parameters


def print_rows(name: str, place: topology.Topology, batch: int) -> None:
  """Prints the three rows of a network on a chip."""
  kind, clips = place.name.partition(":")[0], batch * GIB
  makers: dict[str, Callable[[str], nn.Module]] = {"plain": plain, "ours": ours}
  first = None
  for form, make in makers.items():
    count = compiled(make(name), place, batch)
    first = first or count
    print(
      f"| {name} | {kind} | {form} | {count.hbm / clips:.3f} | "
      f"{count.hbm / first.hbm:.2f} | {count.xla / clips:.3f} | "
      f"{count.xla / first.xla:.2f} | {count.temporaries / clips:.3f} | "
      f"{count.reduces} | {count.seconds:.0f} |",
      flush=True,
    )
  assert first is not None
  least = bound(name, batch)
  print(
    f"| {name} | {kind} | bound | {least / clips:.3f} | "
    f"{least / first.hbm:.2f} | {least / clips:.3f} | "
    f"{least / first.xla:.2f} | | | |",
    flush=True,
  )


def main() -> None:
  """Prints the table and the machine."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
  parser.add_argument(
    "--models", nargs="+", default=["p3d63", "p3d199"], choices=zoo.MODELS
  )
  parser.add_argument("--chips", nargs="+", default=["v5e", "v6e"])
  parser.add_argument("--batch", type=int, default=8, help="clips a chip")
  parser.add_argument(
    "--shape", default="2x2", help="of the chips; 1x1 has no all-reduces"
  )
  args = parser.parse_args()
  # Before jax has computed anything: see topology.find.
  places = [topology.find(f"{kind}:{args.shape}") for kind in args.chips]
  version = importlib.metadata.version("libtpu")
  print(f"{timing.machine()}; libtpu {version}")
  print(
    f"One training step, {args.batch} clips a chip of {args.shape}; GiB a "
    "clip.\n"
  )
  heads = (
    "network",
    "chip",
    "form",
    "main memory",
    "ratio",
    "XLA's count",
    "ratio",
    "temporaries",
    "all-reduces",
    "compiled in s",
  )
  print("| " + " | ".join(heads) + " |")
  print("|---" * len(heads) + "|", flush=True)
  for name in args.models:
    for place in places:
      print_rows(name, place, args.batch)


if __name__ == "__main__":
  main()
