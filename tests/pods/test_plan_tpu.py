"""Plans for TPUs, compiled by libtpu; a process each, as it prints and locks.

16 clips a chip: with fewer, libtpu folds pixels into the batch of a convolution
and computes some padding, 4 to 10 percent more.
"""

import functools
import json
import math
import re
import subprocess
import sys

import pytest

from tests import small
from tests.pods.test_plan import (
  CLASSES,
  CLIP,
  GIB,
  command,
  network,
  valid_multiply_adds,
)

pytest.importorskip("libtpu", reason="the TPU's compiler compiles")

CHIPS, BATCH = 4, 64
# Nothing is folded into the lanes, as it would be of four frames, and
# statistics are of results, as of several groups: each product is counted.
PLAIN = (
  f"--batch={BATCH}",
  "--config.preprocessing.frames=6",
  f"--config.norm.group={BATCH // CHIPS}",
)


@functools.cache
def planned(*words: object):
  """What `p3d plan` writes for four chips of v5e."""
  file = small.folder() / "plan.json"
  done = small.p3d_command(
    *command(file, "--topology=v5e:2x2", f"--classes={CLASSES}", *words)
  )
  assert done.returncode == 0, done.stderr
  assert done.stderr == ""  # nothing of libtpu's
  return json.loads(file.read_text()), done.stdout


def script(text: str) -> dict:
  """Runs a script; returns what it prints as JSON in its last line."""
  done = subprocess.run(
    [sys.executable, "-c", text],
    capture_output=True,
    text=True,
    env=small.environment(),
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


def training_flop() -> float:
  """Of a clip: no gradient to the pixels is asked for."""
  whole, stem = valid_multiply_adds("direct", (6, *CLIP[1:]))
  return 2 * (3 * whole - stem)


def test_flop_are_those_of_the_shapes():
  numbers, _ = planned(*PLAIN)
  assert numbers["parameters"] == network().parameters
  flop = numbers["gflop_a_clip"]["training"]
  assert flop * 1e9 == pytest.approx(training_flop(), rel=1e-9)
  work = numbers["chip_and_step"]
  assert work["gflop"] * 1e9 == pytest.approx(
    training_flop() * BATCH / CHIPS, rel=1e-9
  )
  # XLA's own count has the sums, too: at this width, a fifth.
  assert work["gflop"] < work["xla_gflop_loops_once"] < 1.3 * work["gflop"]


def test_folded_layers_compute_their_zeros():
  """The forward figure is the network's; a chip's step has the zeros too."""
  numbers, _ = planned(f"--batch={BATCH}")
  flop = numbers["gflop_a_clip"]
  assert flop["forward"] == 2 * network().multiply_adds / 1e9
  whole, stem = valid_multiply_adds("direct")
  least = 2 * (3 * whole - stem) / 1e9
  # Twice for two steps, and a quarter of the stem's taps is zeros.
  assert 1.5 * least < flop["training"] < 3 * least


def test_gradients_are_reduced_once():
  """As on CPUs, but a sum that two batch norms share is reduced once.

  Both ends of a shortcut with a projection have the same gradient, so the
  shifts of their batch norms do: 16 + 32 + 64 + 128 channels.
  """
  numbers, _ = planned(*PLAIN)
  (row,) = numbers["collectives"]
  assert (row["kind"], row["group"]) == ("all-reduce", CHIPS)
  counted = network()
  shared = 16 + 32 + 64 + 128
  floats = counted.parameters + counted.statistics - shared + 2
  assert row["bytes"] == 4 * floats
  assert row["sent"] == 2 * 3 / 4 * row["bytes"]


def test_memory_and_bounds():
  numbers, text = planned(f"--batch={BATCH}")
  memory = numbers["memory"]
  counted = network()
  state = 4 * (2 * counted.parameters + counted.statistics)
  least = state + math.prod(CLIP) * BATCH // CHIPS
  # Whole tiles of 8 x 128 numbers: three channels take far more.
  assert least < memory["arguments"] < 16 * least
  assert memory["usable"] == 15.75 * GIB
  bounds = numbers["bounds"]
  work = numbers["chip_and_step"]
  assert bounds["compute_ms"] == pytest.approx(work["gflop"] / 197)
  assert bounds["memory_ms"] == pytest.approx(work["bytes_moved"] / 819e6)
  assert bounds["interconnect_ms"] == pytest.approx(work["bytes_sent"] / 200e6)
  assert bounds["binds"] == "memory"
  assert "memory binds" in text
  assert "cloud.google.com" in numbers["source"]


@pytest.mark.slow
def test_parts_of_a_batch_are_multiplied():
  """Libtpu does not say how often a loop turns; it is read from its counter."""
  one, _ = planned(f"--batch={BATCH}")
  two, _ = planned(f"--batch={2 * BATCH}", "--config.train.accumulate=2")
  assert two["loops"] == [2]
  flop = two["gflop_a_clip"]["training"]
  assert flop == pytest.approx(one["gflop_a_clip"]["training"], rel=1e-9)
  work, single = two["chip_and_step"], one["chip_and_step"]
  assert work["gflop"] == pytest.approx(2 * single["gflop"], rel=1e-9)
  assert work["xla_gflop_loops_once"] < 1.2 * single["xla_gflop_loops_once"]


LOOPS = """
import json
from p3d_jax.pods import cost, hlo, topology
place = topology.find("v5e:2x2")
import jax, numpy as np
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
mesh = Mesh(np.array(place.devices), ("data",))

def loss(w, x):
  def layer(x, _):
    return jnp.tanh(x @ w), None
  def block(x, _):
    return jax.lax.scan(layer, x, None, length=3)[0] * 2, None
  return jax.lax.scan(block, x, None, length=5)[0].sum()

whole, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
step = jax.jit(jax.grad(loss), in_shardings=(whole, rows), out_shardings=whole)
made = step.lower(
  jax.ShapeDtypeStruct((512, 512), jnp.bfloat16),
  jax.ShapeDtypeStruct((1024, 512), jnp.bfloat16),
).compile()
program = hlo.parse(made.as_text())
found = cost.cost(program)
own = made.cost_analysis()
print(json.dumps({
  "flop": found.flop, "loops": found.loops,
  "sent": sum(one.sent for one in found.collectives),
  "bytes": cost.cost(program, once=True, everywhere=True).bytes,
  "xla_bytes": own["bytes accessed"], "xla_flop": own["flops"],
}))
"""


def test_nested_loops_turn_as_often_as_they_do():
  """15 layers, three products of (256, 512) @ (512, 512) each, on a chip."""
  found = script(LOOPS)
  product = 2 * 256 * 512 * 512
  assert found["flop"] == 3 * 15 * product
  assert sorted(found["loops"]) == [3, 3, 5, 5]  # forward and backward
  assert found["xla_flop"] < 4 * product  # what XLA itself counts
  # Each of the five turns reduces a gradient of 512 x 512 in bfloat16.
  assert found["sent"] == 5 * 2 * 3 / 4 * 512 * 512 * 2
  # XLA's own analysis: loops once, the memory on the chip too. Measured: 2%.
  assert found["bytes"] == pytest.approx(found["xla_bytes"], rel=0.05)


CHIPS_OF = """
import json
from p3d_jax.pods import topology
found = {}
for name in NAMES:
  place = topology.find(name)
  found[name] = [
    len(place.devices), place.hosts, place.cores, place.chip.name
  ]
print(json.dumps(found))
"""


def test_a_device_is_a_chip():
  """A v4 chip has two cores, which a TPU VM drives as one device."""
  names = {
    "v5e:1x1": [1, 1, 24, "v5e"],
    "v5e:2x2": [4, 1, 112, "v5e"],
    "v5e:2x4": [8, 1, 224, "v5e"],
    "v5e:16x16": [256, 64, 112, "v5e"],
    "v6e:1x1": [1, 1, 44, "v6e"],
    "v6e:2x4": [8, 1, 180, "v6e"],
    "v6e:4x4": [16, 4, 180, "v6e"],
    "v4:2x2x2": [8, 2, 240, "v4"],
    "v4:4x4x8": [128, 32, 240, "v4"],
    "v5p:2x2x1": [4, 1, 208, "v5p"],
  }
  assert script(CHIPS_OF.replace("NAMES", repr(list(names)))) == names


TOO_BIG = """
import json
from p3d_jax.pods import compiled, topology
place = topology.find("v5e:2x2")
import jax, numpy as np
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
whole = NamedSharding(Mesh(np.array(place.devices), ("data",)), P())

def step(x):
  return jnp.sort(jax.lax.sort(x)[::-1] + jax.lax.sort(-x)) + x

x = jax.ShapeDtypeStruct((7 * 2**28,), jnp.float32)
try:
  compiled._compile(
    jax.jit(step, in_shardings=whole, out_shardings=whole).lower(x), "tpu"
  )
except compiled.TooBigError as error:
  print(json.dumps([error.needs, error.has]))
"""


def test_what_is_too_big_says_by_how_much():
  """7 GiB of floats: 4 such arrays live at once."""
  needs, has = script(TOO_BIG)
  assert has == 15.75 * GIB
  assert needs == 28 * GIB


WIDE = (
  "--config.model.width=32",
  "--config.preprocessing.frames=16",
  "--config.preprocessing.resize=(182, 242)",
  "--config.preprocessing.crop=(160, 160)",
  "--batch=4096",
)


@pytest.mark.slow
def test_what_does_not_fit_says_what_would():
  """Measured: 48.7 GiB, with remat 42.6, in four parts 14.3 of 15.75."""
  file = small.folder() / "plan.json"
  done = small.p3d_command(
    *command(file, "--topology=v5e:2x2", f"--classes={CLASSES}", *WIDE)
  )
  assert done.returncode == 1
  first = done.stderr.splitlines()[0]
  assert first.startswith("p3d plan: the step does not fit: it needs ")
  assert first.endswith("too much")
  found = json.loads(file.read_text())
  assert found["needs"] > found["has"] == 15.75 * GIB
  fits = {
    tuple(one["changes"]): one["fits"] and one["needs"] < found["has"]
    for one in found["tried"]
  }
  assert fits == {("model.remat",): False, ("train.accumulate",): True}
  fits = r"  fits, 1[34]\.\d GiB a chip: --config.train.accumulate=4\n"
  assert re.search(fits, done.stdout)
