"""The table of chips against figures copied by hand and against libtpu."""

import importlib.util
import subprocess
import sys

import pytest

from p3d_jax.train import chips
from tests import small

# As published: TFLOP/s (bfloat16, dense), GiB, GB/s, Gbit/s of the links in
# one direction, chips and vCPUs of a machine.
PUBLISHED = {
  "v4": (275, 32, 1228, 2400, 4, 240),
  "v5e": (197, 16, 819, 1600, 4, 112),
  "v5p": (459, 96, 2765, 4800, 4, 208),
  "v6e": (918, 32, 1638, 3200, 4, 180),
  "a100-40": (312, 40, 1555, 2400, 8, 96),
  "a100-80": (312, 80, 2039, 2400, 8, 96),
  "h100": (989.4, 80, 3350, 3600, 8, 208),
  "h200": (989.4, 141e9 / 2**30, 4800, 3600, 8, 224),
}


def test_each_row_is_what_its_maker_publishes() -> None:
  assert [row.name for row in chips.CHIPS] == list(PUBLISHED)
  for row in chips.CHIPS:
    tera, gib, giga, links, count, cores = PUBLISHED[row.name]
    assert row.peak_flops == pytest.approx(tera * 1e12)
    assert row.hbm_bytes == pytest.approx(gib * 2**30)
    assert row.hbm_bandwidth == giga * 1e9
    assert row.interconnect_bandwidth == links * 1e9 / 8
    assert (row.host_chips, row.host_cores) == (count, cores)
    assert row.source


@pytest.mark.parametrize(
  ("kind", "name"),
  [
    # What jax 0.10.2 with libtpu calls the devices of a topology.
    ("TPU v4", "v4"),
    ("TPU v5 lite", "v5e"),
    ("TPU v5", "v5p"),
    ("TPU v6 lite", "v6e"),
    # What NVIDIA's driver calls them.
    ("NVIDIA A100-SXM4-40GB", "a100-40"),
    ("NVIDIA A100-SXM4-80GB", "a100-80"),
    ("NVIDIA H100 80GB HBM3", "h100"),
    ("NVIDIA H200", "h200"),
  ],
  ids=lambda text: text.replace(" ", "_"),
)
def test_a_device_kind_is_found(kind: str, name: str) -> None:
  found = chips.chip(kind)
  assert found is not None
  assert found.name == name
  assert found == chips.named(name)


@pytest.mark.parametrize(
  "kind", ["cpu", "", "TPU v4 lite", "NVIDIA H100 PCIe"],
  ids=["cpu", "empty", "lite", "pcie"],
)  # fmt: skip
def test_a_chip_that_is_not_known_is_not_guessed(kind: str) -> None:
  assert chips.chip(kind) is None
  with pytest.raises(ValueError, match="not one of v4, v5e, v5p, v6e, a100"):
    chips.named(kind)


def test_devices_are_not_chips() -> None:
  assert chips.named("v5e").count(256) == 256
  assert chips.named("v4").count(8) == 8  # a device is both cores
  assert chips.named("v4").count(8, cores=1) == 4  # as topologies list it


LIMITS = """
import re
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
# Of v4 both cores as one device, as on a machine.
options = {"v4:2x2x1": {"chip_config_name": "megacore"}}
for topology in ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"):
  described = topologies.get_topology_desc(
    topology, "tpu", **options.get(topology, {})
  )
  device = described.devices[0]
  one = SingleDeviceSharding(device)
  large = jax.ShapeDtypeStruct((2**35,), jnp.float32, sharding=one)
  try:
    jax.jit(lambda x: 2 * jnp.sin(x)).lower(large).compile()
  except jax.errors.JaxRuntimeError as error:
    limit = re.search(r"available HBM \\(([0-9.]+)G\\)", str(error)).group(1)
    name = topology.partition(":")[0]
    print(name, device.num_cores, limit, device.device_kind, sep=",")
"""


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
def test_libtpu_knows_the_kinds_and_the_memory() -> None:
  done = subprocess.run(
    [sys.executable, "-c", LIMITS],
    capture_output=True,
    text=True,
    check=True,
    # Two processes may use libtpu at once if neither has a chip.
    env=small.environment() | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"},
  )
  lines = [line.split(",") for line in done.stdout.splitlines()]
  assert [name for name, *_ in lines] == ["v4", "v5e", "v5p", "v6e"]
  for name, cores, limit, kind in lines:
    row = chips.chip(kind)
    assert row is not None
    assert row.name == name
    assert int(cores) == row.cores
    # The compiler prints two digits after the point; another version of it,
    # another last one.
    assert row.hbm_usable is not None
    assert row.hbm_usable / 2**30 == pytest.approx(float(limit), abs=0.02)


def test_no_jax_for_the_table() -> None:
  code = "import sys, p3d_jax.train.chips; assert 'jax' not in sys.modules"
  subprocess.run(
    [sys.executable, "-c", code], check=True, env=small.environment()
  )
