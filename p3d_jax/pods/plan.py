"""What a run on a topology needs and can reach, before anything is rented."""

from __future__ import annotations

import dataclasses
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from p3d_jax import files
from p3d_jax.data.sets import open_set
from p3d_jax.pods import roofline
from p3d_jax.pods.compiled import Step
from p3d_jax.pods.cost import Cost
from p3d_jax.pods.topology import Topology
from p3d_jax.train import init, sharding
from p3d_jax.train.config import ConfigError

# CPU time of a clip of 16 frames of 320x240, resized and cropped to 160x160, in
# ms, on an AMD EPYC core: experiments/benchmarks/input.py.
DECODE_MS = 9.1
DECODE_KILLABLE_MS = 10.1  # in a process that can be killed: input.timeout


def labels(config: ConfigDict, classes: int | None) -> tuple[str, ...]:
  """Returns the names of the classes of a run; the data need not be here.

  Args:
    config: of the run.
    classes: how many there are, where config.data.dir cannot be opened.

  Raises:
    ConfigError: neither says how many.
  """
  try:
    if not config.data.dir:
      raise ValueError("config.data.dir is empty")
    if files.on_store(config.data.dir):
      raise ValueError(
        f"config.data.dir={config.data.dir!r}: it would have to be copied here"
      )
    videos = open_set(
      config.data.dir, config.data.train_split, name="config.data.dir"
    )
    found = tuple(videos.label_names)
  except (ValueError, OSError) as error:
    if classes is None:
      raise ConfigError(
        f"{error}; --classes=N says how many classes there are"
      ) from error
    return tuple(f"class {i}" for i in range(classes))
  if classes not in (None, len(found)):
    raise ConfigError(
      f"--classes is {classes}: the set of config.data.dir has {len(found)}"
    )
  return found


def resolved(
  config: ConfigDict, labels: tuple[str, ...]
) -> tuple[ConfigDict, str]:
  """Returns the config with what belongs to its weights, and a remark.

  Weights of `init_from` that are not on this machine are left out: the config's
  own network is planned then.
  """
  if not config.init_from:
    return config, ""
  if not _is_here(config.init_from):
    return config, (
      f"config.init_from is {config.init_from!r}: it is not here, so the "
      "config's own network is planned"
    )
  # The folder of a run that has not begun.
  begun = init.begin(config, epath.Path("/nonexistent/workdir"), labels)
  return begun.config, begun.note


def _is_here(folder: str) -> bool:
  """Whether weights can be read from this machine."""
  try:
    files.check_bucket(folder, "config.init_from")
    return bool(files.absolute(folder).exists())
  except Exception as error:
    if files.is_outage(error):  # this machine need not be on a network
      return False
    raise


def decode_ms(config: ConfigDict) -> float:
  """Returns the measured CPU time of a clip, in ms."""
  return DECODE_KILLABLE_MS if config.input.timeout else DECODE_MS


def numbers(
  config: ConfigDict, topology: Topology, step: Step, decode: float
) -> dict[str, Any]:
  """Returns all that is known of a run, as JSON has it.

  Args:
    config: of the run.
    topology: that it runs on.
    step: compiled for it.
    decode: CPU time that the hosts need for a clip, in ms.
  """
  train, count = config.train, len(topology.devices)
  sizes = sharding.mesh_sizes(
    count,
    data=config.mesh.data,
    fsdp=config.mesh.fsdp,
    space=config.mesh.space,
  )
  found: dict[str, Any] = {
    "topology": topology.name,
    "chip": None if topology.chip is None else topology.chip.name,
    "source": None if topology.chip is None else topology.chip.source,
    "chips": count,
    "hosts": topology.hosts,
    "mesh": dict(zip(sharding.AXES, sizes, strict=True)),
    "batch": train.batch,
    "accumulate": train.accumulate,
    "steps": train.steps,
    "dtype": config.model.dtype,
    "remat": config.model.remat,
    "parameters": step.parameters,
    "gflop_a_clip": {
      "forward": step.forward_flop / 1e9,
      "training": step.cost.flop * count / train.batch / 1e9,
    },
    "chip_and_step": _work(step),
    "loops": step.cost.loops,
    "collectives": collectives(step.cost),
    "memory": _memory(step, topology),
    "compile_seconds": round(step.seconds, 1),
  }
  return found | _bounds(config, topology, step, decode)


def _work(step: Step) -> dict[str, float]:
  return {
    "gflop": step.cost.flop / 1e9,
    "bytes_moved": step.cost.bytes,
    "bytes_sent": sum(one.sent for one in step.cost.collectives),
    "xla_gflop_loops_once": step.xla_flop / 1e9,
    "xla_bytes_all_memories_loops_once": step.xla_bytes,
  }


def collectives(cost: Cost) -> list[dict[str, Any]]:
  """Adds up the collectives of a kind and of a size of group."""
  rows: dict[tuple[str, int], dict[str, Any]] = {}
  for one in cost.collectives:
    row = rows.setdefault(
      (one.kind, one.group),
      {
        "kind": one.kind,
        "group": one.group,
        "count": 0,
        "bytes": 0,
        "sent": 0.0,
      },
    )
    row["count"] += one.times
    row["bytes"] += one.times * one.bytes
    row["sent"] += one.sent
  return sorted(rows.values(), key=lambda row: -row["sent"])


def usable(topology: Topology) -> int | None:
  """Returns the bytes of a chip that a program may have; None: not known."""
  chip = topology.chip
  return None if chip is None else chip.hbm_usable or chip.hbm_bytes


def _memory(step: Step, topology: Topology) -> dict[str, Any]:
  return {
    **dataclasses.asdict(step.memory),
    "total": step.memory.total,
    "usable": usable(topology),
  }


def _bounds(
  config: ConfigDict, topology: Topology, step: Step, decode: float
) -> dict[str, Any]:
  """What needs the figures of a chip; empty where it is not known."""
  if topology.chip is None or topology.cores is None:
    return {"bounds": None, "decode": None, "days": None}
  passes = 1
  if config.model.dtype == "float32":
    passes = roofline.PASSES[config.model.precision]
  least = roofline.bounds(step.cost, topology.chip, passes)
  batch = config.train.batch
  # A host that shares clips with others, over `space`, reads them too.
  read = step.clips_read / least.step
  cores = read * decode / 1000
  slowed = max(1.0, cores / topology.cores)
  days = config.train.steps * least.step / 86_400
  return {
    "bounds": {
      "compute_ms": 1000 * least.compute,
      "memory_ms": 1000 * least.memory,
      "interconnect_ms": 1000 * least.interconnect,
      "binds": least.binds,
      "passes": passes,
      "clips_a_second": batch / least.step,
      "clips_a_second_a_chip": batch / least.step / len(topology.devices),
    },
    "decode": {
      "ms_a_clip": decode,
      "clips_a_second_a_host": read,
      "cores_needed": cores,
      "cores": topology.cores,
      "clips_a_second": batch / least.step / slowed,
    },
    "days": {"chips": days, "with_decoding": days * slowed},
  }
