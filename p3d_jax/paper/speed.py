"""How fast networks are, measured beside each other.

A machine is never equally quiet for long, so no network has a time of its own:
each round measures all of them in turn, and the median of the rounds counts.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from p3d_jax.checkpoint import model
from p3d_jax.files import check_out, write_aside
from p3d_jax.progress import Bar
from p3d_jax.train import logs, sharding, step
from p3d_jax.train.score import inference

# A round of one network lasts this long, in seconds: long beside what the
# clock and the scheduler add.
ROUND = 0.5


@dataclasses.dataclass(frozen=True)
class Speed:
  """What was measured of one network.

  Attributes:
    checkpoint: path as it was given.
    sha256: of its variables.
    unit: "clips" or, where a clip is one frame, "frames".
    batch: of them at once.
    rounds: of them per second, in each round.
  """

  checkpoint: str
  sha256: str | None
  unit: str
  batch: int
  rounds: tuple[float, ...]

  def to_json(self) -> dict[str, Any]:
    """Returns the fields and "per_second", the median of the rounds."""
    fields = dataclasses.asdict(self)
    return fields | {"per_second": statistics.median(self.rounds)}


def measure(
  checkpoints: Sequence[epath.PathLike],
  *,
  out: epath.PathLike,
  clips: int = 8,
  rounds: int = 7,
) -> dict[str, Any]:
  """Measures scoring, from uint8 clips in memory to scores, on one device.

  Args:
    checkpoints: workdirs or checkpoint folders.
    out: JSON file of the result.
    clips: at once; of a network on single frames as many frames as a clip of
      the others has, times this.
    rounds: in each of which every network has its turn.

  Returns:
    What is in `out`: "networks", a dict for each, and "machine".

  Raises:
    ValueError: there is no such checkpoint, or `out` has no folder.
  """
  check_out(out)
  folders = [model.find(path) for path in checkpoints]
  pixels = [model.read_record(folder).preprocessing for folder in folders]
  most = max(p.frames for p in pixels)
  batches = [clips * (most if p.frames == 1 else 1) for p in pixels]
  runs = [_run(*pair) for pair in zip(folders, batches, strict=True)]
  repeats = [_repeats(run) for run in runs]
  found: list[list[float]] = [[] for _ in runs]
  with Bar("speed", rounds) as bar:
    for done in range(1, rounds + 1):
      for run, times, batch, rates in zip(
        runs, repeats, batches, found, strict=True
      ):
        rates.append(times * batch / _seconds(run, times))
      bar.update(done, line=done == rounds)
  networks = [
    Speed(
      os.fspath(path),
      model.read_record(folder).sha256,
      "frames" if p.frames == 1 else "clips",
      batch,
      tuple(rates),
    ).to_json()
    for path, folder, p, batch, rates in zip(
      checkpoints, folders, pixels, batches, found, strict=True
    )
  ]
  result = {
    "networks": networks,
    "machine": machine(),
    "versions": logs.versions(),
  }
  write_aside(out, json.dumps(result, indent=2) + "\n")
  return result


def _run(folder: epath.Path, batch: int) -> Callable[[], Any]:
  """Returns the call that scores a batch of one checkpoint."""
  module, variables, record = model.load(folder)
  mesh = sharding.mesh(sharding.local_device())
  # What `p3d evaluate` runs.
  net, place = inference(module, mesh)
  scored = step.jit_eval_step(net, record.preprocessing, record.scores, mesh)
  p = record.preprocessing
  shape = (batch, 1, p.frames, *p.crop_size, record.channels)
  noise = np.random.default_rng(0).integers(0, 256, shape)
  placed = sharding.put({"clips": noise.astype(np.uint8)}, mesh)["clips"]
  there = place(variables)
  return lambda: scored(there, placed)


def _seconds(run: Callable[[], Any], times: int) -> float:
  start = time.perf_counter()
  for _ in range(times):
    result = run()
  jax.block_until_ready(result)
  return time.perf_counter() - start


def _repeats(run: Callable[[], Any]) -> int:
  """How often a call fits into a round; compiles it."""
  _seconds(run, 1)
  return max(1, round(ROUND / _seconds(run, 2) * 2))


def machine() -> str:
  """Returns the processor, the cores and the devices, in one line."""
  device = jax.devices()[0]
  if hasattr(os, "sched_getaffinity"):  # not on macOS
    cores = len(os.sched_getaffinity(0))
  else:
    cores = os.cpu_count() or 1
  return (
    f"{_processor()}, {cores} cores; {jax.device_count()} x "
    f"{device.device_kind}; jax {jax.__version__}"
  )


def _processor() -> str:
  """The name of the processor, as far as the system tells it."""
  if os.path.exists("/proc/cpuinfo"):
    with open("/proc/cpuinfo") as file:
      for line in file:
        if line.startswith("model name"):
          return line.split(":", 1)[1].strip()
  return platform.processor() or platform.machine()


def report(result: dict[str, Any]) -> str:
  """Returns the result as people read it."""
  lines = [result["machine"]]
  for network in result["networks"]:
    rates = network["rounds"]
    lines.append(
      f"{network['per_second']:10.1f} {network['unit']}/s  "
      f"({min(rates):.1f} to {max(rates):.1f})  {network['checkpoint']}"
    )
  return "\n".join(lines)
