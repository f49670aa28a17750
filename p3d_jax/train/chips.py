"""What accelerators can do, as their makers publish it.

The planner's bounds and the share of the peak in a run's metrics come from
here. An accelerator that is not in the table has no share of the peak:
nothing is guessed.
"""

from __future__ import annotations

import dataclasses

GIB = 2**30
_TPU = "docs.cloud.google.com/tpu/docs/"
_NVIDIA = "www.nvidia.com/en-us/data-center/"
_MACHINES = "docs.cloud.google.com/compute/docs/accelerator-optimized-machines"


@dataclasses.dataclass(frozen=True)
class Chip:
  """An accelerator: a TPU chip or a GPU.

  Attributes:
    name: for people, and of a topology: "v5e:16x16".
    kinds: what jax's `device_kind` calls it.
    cores: TensorCores of a TPU chip; jax lists a v4 chip as one device or, as
      ahead-of-time topologies do, each of its cores as one. 1 for a GPU.
    peak_flops: bfloat16 FLOP/s, dense (no structured sparsity).
    hbm_bytes: its memory.
    hbm_usable: bytes of it that a program may have (the limit that libtpu
      0.0.42.1 names when one does not fit); None where that was not measured.
    hbm_bandwidth: of its memory, bytes/s.
    interconnect_bandwidth: bytes/s that it can send to its neighbours over
      all its links together; it can receive as much at the same time.
    links: that it has to its neighbours; 4 span a 2D torus, 6 a 3D one, and
      1 stands for a switch.
    host_chips: chips of one machine of a pod.
    host_cores: vCPUs of that machine: threads, two of which share a core.
    source: the public pages that the figures are from, or which others quote.
  """

  name: str
  kinds: tuple[str, ...]
  cores: int
  peak_flops: float
  hbm_bytes: int
  hbm_usable: int | None
  hbm_bandwidth: float
  interconnect_bandwidth: float
  links: int
  host_chips: int
  host_cores: int
  source: str

  def count(self, devices: int, cores: int | None = None) -> float:
    """Returns how many chips so many devices are.

    Args:
      devices: of this kind.
      cores: TensorCores a device; None: all of its chip's.
    """
    return devices * (self.cores if cores is None else cores) / self.cores


# The interconnect of TPUs is published as Gbit/s in one direction (older
# pages) or as GB/s in both (newer ones): 1,600 Gbit/s are 400 GB/s both ways,
# and 200 GB/s here. NVLink's GB/s are both ways. A slice that is no torus (v5e
# and v6e below 16x16, v4 and v5p with a side below 4) uses fewer links.
#
# Read on Google's own pages: the figures of its chips, and the vCPUs of v5e,
# v6e and A3 High. Second-hand: NVIDIA's figures, as others quote its sheets and
# white papers; the vCPUs of A2 and A3 Ultra, from lists of machine types.
CHIPS = (
  Chip(
    name="v4",
    kinds=("TPU v4",),
    cores=2,
    peak_flops=275e12,
    hbm_bytes=32 * GIB,
    hbm_usable=123 * GIB // 4,  # as one device; 15.25 GiB as one of its cores
    hbm_bandwidth=1228e9,  # 1,200 in newer pages, 1,228 in older ones
    interconnect_bandwidth=6 * 50e9,  # Table 4 of the paper: 6 links
    links=6,
    host_chips=4,
    host_cores=240,  # ct4p-hightpu-4t; not confirmed
    source=f"{_TPU}v4; arxiv.org/abs/2304.01433, Table 4",
  ),
  Chip(
    name="v5e",
    kinds=("TPU v5 lite", "TPU v5e"),
    cores=1,
    peak_flops=197e12,
    hbm_bytes=16 * GIB,  # "16 GB"
    hbm_usable=63 * GIB // 4,  # 15.75 GiB
    hbm_bandwidth=819e9,
    interconnect_bandwidth=1600e9 / 8,
    links=4,
    # Slices of more than one host are of 4-chip machines; one of 8 chips and
    # 224 vCPUs stands alone.
    host_chips=4,
    host_cores=112,  # ct5lp-hightpu-4t
    source=f"{_TPU}v5e",
  ),
  Chip(
    name="v5p",
    kinds=("TPU v5", "TPU v5p"),
    cores=2,
    peak_flops=459e12,
    hbm_bytes=96 * GIB,  # "95 GB" that users have of it
    hbm_usable=9574 * GIB // 100,  # 95.74 GiB; 95.73 of libtpu 0.0.52
    hbm_bandwidth=2765e9,
    interconnect_bandwidth=4800e9 / 8,
    links=6,
    host_chips=4,
    host_cores=208,  # ct5p-hightpu-4t; not confirmed
    source=f"{_TPU}v5p",
  ),
  Chip(
    name="v6e",
    kinds=("TPU v6 lite", "TPU v6e"),
    cores=1,
    peak_flops=918e12,
    hbm_bytes=32 * GIB,  # "32 GB"
    hbm_usable=125 * GIB // 4,  # 31.25 GiB; 31.24 of libtpu 0.0.52
    hbm_bandwidth=1638e9,
    interconnect_bandwidth=3200e9 / 8,  # 3,584 Gbit/s in older pages
    links=4,
    host_chips=4,  # as for v5e
    host_cores=180,  # ct6e-standard-4t
    source=f"{_TPU}v6e",
  ),
  Chip(
    name="a100-40",
    kinds=("NVIDIA A100-SXM4-40GB",),
    cores=1,
    peak_flops=312e12,
    hbm_bytes=40 * GIB,
    hbm_usable=None,
    hbm_bandwidth=1555e9,
    interconnect_bandwidth=600e9 / 2,
    links=1,
    host_chips=8,
    host_cores=96,  # a2-highgpu-8g
    source=f"{_NVIDIA}a100 (second-hand); {_MACHINES}",
  ),
  Chip(
    name="a100-80",
    kinds=("NVIDIA A100-SXM4-80GB",),
    cores=1,
    peak_flops=312e12,
    hbm_bytes=80 * GIB,
    hbm_usable=None,
    hbm_bandwidth=2039e9,
    interconnect_bandwidth=600e9 / 2,
    links=1,
    host_chips=8,
    host_cores=96,  # a2-ultragpu-8g
    source=f"{_NVIDIA}a100 (second-hand); {_MACHINES}",
  ),
  Chip(
    name="h100",
    kinds=("NVIDIA H100 80GB HBM3",),
    cores=1,
    peak_flops=989.4e12,  # the data sheet's 1,979 are with sparsity
    hbm_bytes=80 * GIB,
    hbm_usable=None,
    hbm_bandwidth=3350e9,
    interconnect_bandwidth=900e9 / 2,
    links=1,
    host_chips=8,
    host_cores=208,  # a3-highgpu-8g
    source=f"{_NVIDIA}h100 (second-hand); {_MACHINES}",
  ),
  Chip(
    name="h200",
    kinds=("NVIDIA H200",),
    cores=1,
    peak_flops=989.4e12,
    hbm_bytes=141 * 10**9,
    hbm_usable=None,
    hbm_bandwidth=4800e9,
    interconnect_bandwidth=900e9 / 2,
    links=1,
    host_chips=8,
    host_cores=224,  # a3-ultragpu-8g
    source=f"{_NVIDIA}h200 (second-hand); {_MACHINES}",
  ),
)


def chip(device_kind: str) -> Chip | None:
  """Returns the chip that jax calls so, or None: it is not in the table."""
  for one in CHIPS:
    if device_kind in one.kinds:
      return one
  return None


def named(name: str) -> Chip:
  """Returns the chip of a name.

  Raises:
    ValueError: if there is none, with the names that there are.
  """
  for one in CHIPS:
    if one.name == name:
      return one
  names = ", ".join(one.name for one in CHIPS)
  raise ValueError(f"chip={name!r}: not one of {names}")
