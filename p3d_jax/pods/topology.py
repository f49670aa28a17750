"""The devices of a machine that is not there: `v5e:16x16`, or `cpu:8`.

libtpu, the TPU's compiler, describes them and compiles for them without a TPU
(`pip install 'p3d_jax[tpu]'`). A program can be compiled for them, not run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from p3d_jax.train import chips

# docs.cloud.google.com/tpu/docs/v5e, v6e: what can be rented.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
# .../v4, v5p: these, and any of three multiples of 4.
_SOLID = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
SHAPES = {"v5e": _FLAT, "v6e": _FLAT, "v4": _SOLID, "v5p": _SOLID}
# The largest of each: the same pages, and of v4 its pod of 4,096 chips.
MOST = {"v5e": "16x16", "v6e": "16x16", "v4": "16x16x16", "v5p": "16x16x24"}
# A v4 chip has two cores that a TPU VM drives as one device; libtpu lists two
# unless it is told so. A v5p chip is one device either way.
_OPTIONS: dict[str, dict[str, Any]] = {"v4": {"chip_config_name": "megacore"}}
# A slice of one machine that is not of `chips.Chip.host_chips` chips: what
# libtpu, which takes machines of 2x2, must be told.
_ONE_HOST = {"1x1": (1, 1, 1), "2x4": (2, 4, 1)}
# Its vCPUs: ct5lp-hightpu-1t and -8t, ct6e-standard-1t and -8t, of the same
# pages.
_ITS_CORES = {
  ("v5e", "1x1"): 24,
  ("v5e", "2x4"): 224,
  ("v6e", "1x1"): 44,
  ("v6e", "2x4"): 180,  # not confirmed
}
# libtpu looks for the machine that it is on. Here it need not be on one, must
# not ask the network for it, and leaves the chips of this one to others.
_ENVIRONMENT = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices that a program can be compiled for.

  Attributes:
    name: as "v5e:16x16".
    devices: of jax, one for each chip.
    chip: what each of them is; None where that is not known.
    hosts: machines that they stand in.
    cores: vCPUs of each; None where that is not known.
  """

  name: str
  devices: tuple[jax.Device, ...]
  chip: chips.Chip | None
  hosts: int
  cores: int | None

  @property
  def platform(self) -> str:
    """What jax calls it: "tpu" or "cpu"."""
    return str(self.devices[0].platform)


def known() -> str:
  """Returns the topologies that there are, in a line."""
  flat, solid = ", ".join(_FLAT), ", ".join(_SOLID)
  return (
    f"v5e and v6e: {flat}; v4 and v5p: {solid} and three multiples of 4, as "
    "4x4x8; cpu or cpu:N for N devices of this machine"
  )


def find(name: str) -> Topology:
  """Returns a topology.

  It must be called before jax has computed anything: the process then computes
  on CPUs.

  Args:
    name: "v5e:16x16"; "cpu" for eight devices, "cpu:N" for N.

  Raises:
    ValueError: there is none of that name, or no libtpu.
  """
  kind, _, shape = name.partition(":")
  if kind == "cpu":
    return _cpu(name, shape)
  if not _is_known(kind, shape):
    most = ""
    if _is_large(kind, shape):
      most = f"of {kind} there is at most {MOST[kind]}; "
    raise ValueError(f"--topology is {name!r}: {most}known are {known()}")
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError(
      f"--topology is {name!r}: the TPU's compiler is missing; "
      "pip install 'p3d_jax[tpu]'"
    )
  return _tpu(name, kind, shape)


def _prepare() -> None:
  """Leaves the accelerators of this machine alone."""
  jax.config.update("jax_platforms", "cpu")
  # What comes from a cache is not compiled: it could not be read.
  jax.config.update("jax_enable_compilation_cache", False)


def _is_large(kind: str, shape: str) -> bool:
  """Whether it is of more chips than the largest of its kind."""
  return (
    kind in MOST
    and re.fullmatch(r"\d+(x\d+)+", shape) is not None
    and _count(shape) > _count(MOST[kind])
  )


def _count(shape: str) -> int:
  return math.prod(map(int, shape.split("x")))


def _is_known(kind: str, shape: str) -> bool:
  if shape in SHAPES.get(kind, ()):
    return True
  if _is_large(kind, shape):
    return False
  sizes = re.fullmatch(r"(\d+)x(\d+)x(\d+)", shape)
  return (
    SHAPES.get(kind) == _SOLID
    and sizes is not None
    and all(int(n) > 0 and int(n) % 4 == 0 for n in sizes.groups())
  )


def _tpu(name: str, kind: str, shape: str) -> Topology:
  # What is set for a real machine stays.
  os.environ.update(_ENVIRONMENT | dict(os.environ))
  _prepare()
  options = dict(_OPTIONS.get(kind, {}))
  if shape in _ONE_HOST:
    options["chips_per_host_bounds"] = _ONE_HOST[shape]
  try:
    found = topologies.get_topology_desc(
      platform="tpu", topology_name=name, **options
    )
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(
      f"--topology is {name!r}: {str(error).splitlines()[0]}; known are "
      f"{known()}"
    ) from error
  devices: tuple[Any, ...] = tuple(found.devices)
  count = _count(shape)
  if len(devices) != count:
    raise ValueError(
      f"--topology is {name!r}: libtpu lists {len(devices)} devices for its "
      f"{count} chips; another libtpu is needed"
    )
  chip = chips.chip(devices[0].device_kind)
  hosts = len({device.process_index for device in devices})
  cores = None
  if chip is not None:
    cores = _ITS_CORES.get((kind, shape), chip.host_cores)
  return Topology(name, devices, chip, hosts, cores)


def _cpu(name: str, count: str) -> Topology:
  if count and not (count.isdigit() and int(count) > 0):
    raise ValueError(
      f"--topology is {name!r}: write cpu:N, for N devices of this machine"
    )
  wanted = int(count or 8)
  _prepare()
  with contextlib.suppress(RuntimeError):  # jax has begun: it has what it has
    jax.config.update("jax_num_cpu_devices", wanted)
  devices = tuple(jax.devices("cpu"))
  if len(devices) < wanted:
    raise ValueError(
      f"--topology is {name!r}: jax has begun with {len(devices)} CPU devices; "
      "plan in a process of its own"
    )
  return Topology(name, devices[:wanted], None, 1, None)
