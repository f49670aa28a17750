"""Starts the processes of tests/train/run_processes.py, as hosts of one run."""

import json
import pathlib
import subprocess
import sys
from typing import Any

from p3d_jax.pods.launch_local import Share
from p3d_jax.train import logs
from tests import small

# A rate at which the rounding of a step does not grow; no evaluation within.
SECTIONS: dict[str, Any] = {
  "optim": {"learning_rate": 0.0002},
  "eval": {"every": 0, "clips": 1, "batch": 8},
  "checkpoint": {"every": 100},
  "log": {"every": 1, "tensorboard": False},
}


def sections(**changes: dict[str, Any]) -> dict[str, Any]:
  names = set(SECTIONS) | set(changes)
  found = {n: {**SECTIONS.get(n, {}), **changes.get(n, {})} for n in names}
  found["data"] = {"dir": small.dataset(), **found.get("data", {})}
  return found


def started(
  processes: int,
  workdir: pathlib.Path,
  fields: dict[str, Any],
  *flags: object,
  devices: int = 8,
) -> list[subprocess.Popen[str]]:
  """Starts the processes, which have so many devices together."""
  share = Share(processes, devices // processes)
  base = small.environment(1)
  # Each process compiles; it runs a few steps.
  base["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
  words = ["-m", "tests.train.run_processes", workdir, json.dumps(fields)]
  return [
    subprocess.Popen(
      [sys.executable, *map(str, [*words, *flags])],
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    for environment in share.environments(base)
  ]


def ended(
  processes: list[subprocess.Popen[str]], timeout: float = 600
) -> list[tuple[int, str]]:
  """Waits for the processes; returns their statuses and what they said."""
  said = [process.communicate(timeout=timeout)[1] for process in processes]
  return [(p.returncode, text) for p, text in zip(processes, said, strict=True)]


def done(
  processes: int,
  workdir: pathlib.Path,
  fields: dict[str, Any],
  *flags: object,
  devices: int = 8,
  status: int = 0,
) -> list[str]:
  """Runs the processes to their end; returns what they said."""
  found = ended(started(processes, workdir, fields, *flags, devices=devices))
  assert [code for code, _ in found] == [status] * processes, found
  return [text for _, text in found]


def losses(workdir: pathlib.Path) -> dict[int, float]:
  lines = (line for line in logs.read(workdir) if line["kind"] == "train")
  return {line["step"]: line["loss"] for line in lines}


def batches(workdir: pathlib.Path, process: int = 0) -> dict[str, str]:
  """The sha256 of each step's global batch that a process has seen."""
  found: dict[str, str] = json.loads(
    (workdir / f"batches-{process}.json").read_text()
  )
  return found
