"""How the benchmarks measure, and on what."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def machine() -> str:
  """Returns the processor, the devices and the versions, in one line."""
  device = jax.devices()[0]
  cores = len(os.sched_getaffinity(0))
  return (
    f"{_processor()}, {cores} cores; {jax.device_count()} x "
    f"{device.device_kind}; jax {jax.__version__}, Python "
    f"{platform.python_version()}"
  )


def _processor() -> str:
  with open("/proc/cpuinfo") as file:
    for line in file:
      if line.startswith("model name"):
        return line.split(":", 1)[1].strip()
  return platform.machine()


def seconds(run: Callable[[], Any], rounds: int) -> list[float]:
  """Returns the seconds of each round, after one that compiles."""
  jax.block_until_ready(run())
  found = []
  for _ in range(rounds):
    start = time.perf_counter()
    jax.block_until_ready(run())
    found.append(time.perf_counter() - start)
  return found


def median(run: Callable[[], Any], rounds: int) -> float:
  """Returns the median seconds of a round."""
  return statistics.median(seconds(run, rounds))
