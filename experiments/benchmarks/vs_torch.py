"""Measures our networks against the PyTorch port's, both in turn.

    python -m experiments.benchmarks.vs_torch

Each side is a process of its own that waits while the other computes. Both have
the same threads, weights and clips, and must agree on the logits before
anything is measured. The port is the plain PyTorch twin of tests/reference/, in
its best memory format (channels last). Needs PyTorch: pip install
'.[references]'.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

SIDES = ("ours", "torch", "torch.compile")
# Of float32's logits after 63 to 199 layers, relative to the largest: rounding
# gives 1e-6 to 1e-4, another network gives 1.
AGREE = {"float32": 1e-3, "bfloat16": 0.3}


class Case(NamedTuple):
  """What both sides compute.

  Attributes:
    model: a row of zoo.MODELS.
    what: "forward", "folded" (forward with batch norm folded into the
      convolutions), "train" (live batch norm) or "frozen" (all but the first).
    batch: clips.
    frames: of a clip.
    size: of a clip, in pixels.
    dtype: "float32" or "bfloat16".
  """

  model: str
  what: str
  batch: int
  frames: int = 16
  size: int = 160
  dtype: str = "float32"

  @property
  def trains(self) -> bool:
    """Whether it is a training step."""
    return self.what in ("train", "frozen")

  def clips(self) -> np.ndarray:
    """Returns float32 (batch, frames, size, size, 3), as pixels without mean.

    Spread is that of the images that the twin's statistics were drawn from.
    """
    shape = (self.batch, self.frames, self.size, self.size, 3)
    return np.random.default_rng(0).normal(0, 60, shape).astype(np.float32)


class Side:
  """A process that measures cases when it is asked to."""

  def __init__(self, name: str, folder: str, threads: int) -> None:
    """Starts it; `folder` is where both sides find the weights."""
    module = "ours" if name == "ours" else "port"
    environment = os.environ | {
      "OMP_NUM_THREADS": str(threads),
      "JAX_PLATFORMS": "cpu",
    }
    self.name = name
    self._process = subprocess.Popen(
      [
        sys.executable,
        "-m",
        f"experiments.benchmarks.vs_torch_{module}",
        name,
        folder,
        str(threads),
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=environment,
    )

  def ask(self, **question: Any) -> Any:
    """Sends a question and waits for the answer.

    Raises:
      RuntimeError: the process ended.
    """
    assert self._process.stdin is not None
    assert self._process.stdout is not None
    self._process.stdin.write(json.dumps(question) + "\n")
    self._process.stdin.flush()
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(f"{self.name} ended with {self._process.wait()}")
    return json.loads(line)

  def close(self) -> None:
    """Ends the process."""
    assert self._process.stdin is not None
    self._process.stdin.close()
    self._process.wait()


class Result(NamedTuple):
  """Seconds of each round and peak memory in bytes, by side."""

  seconds: dict[str, list[float]]
  peak: dict[str, int]


def measure(case: Case, sides: list[Side], rounds: int) -> Result:
  """Runs a case on all sides in turn, after one round that compiles.

  Raises:
    ValueError: the sides do not compute the same.
  """
  logits = {}
  for side in sides:
    logits[side.name] = np.array(side.ask(do="begin", case=case))
  first, *others = logits.values()
  for other in others:
    apart = np.abs(first - other).max() / np.abs(other).max()
    if not apart < AGREE[case.dtype]:
      raise ValueError(f"{case}: the logits are {apart:.1e} apart")
  seconds: dict[str, list[float]] = {side.name: [] for side in sides}
  for number in range(rounds):
    # Who begins changes, so that neither always follows the other's heat.
    for side in sides if number % 2 else sides[::-1]:
      seconds[side.name].append(side.ask(do="round"))
  peak = {side.name: side.ask(do="peak") for side in sides}
  for side in sides:
    side.ask(do="end")
  return Result(seconds, peak)


def row(case: Case, result: Result) -> str:
  """Returns a line of the table."""

  def speed(name: str) -> str:
    if name not in result.seconds:
      return "-"
    found = [case.batch / s for s in result.seconds[name]]
    low, high = min(found), max(found)
    return f"{statistics.median(found):.2f} ({low:.2f} to {high:.2f})"

  ours = result.seconds["ours"]
  rivals = {n: s for n, s in result.seconds.items() if n != "ours"}
  best = min(rivals, key=lambda name: statistics.median(rivals[name]))
  # Round by round, so that what slows the machine slows both.
  ratios = [b / a for a, b in zip(ours, rivals[best], strict=True)]
  ratio = statistics.median(rivals[best]) / statistics.median(ours)
  memory = "-"
  if case.trains:
    peaks = (result.peak[name] for name in SIDES if name in result.peak)
    memory = " / ".join(f"{peak / 2**30:.2f}" for peak in peaks)
  cells = [
    case.model,
    case.what,
    case.dtype,
    str(case.batch),
    *(speed(name) for name in SIDES),
    f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
    memory,
  ]
  return "| " + " | ".join(cells) + " |"


def cases(args: argparse.Namespace) -> Iterator[Case]:
  """Returns the cases that the arguments ask for."""
  for model, what, dtype in itertools.product(
    args.models, args.what, args.dtypes
  ):
    trains = what in ("train", "frozen")
    for batch in args.train_batches if trains else args.batches:
      yield Case(model, what, batch, args.frames, args.size, dtype)


def main() -> None:
  """Prints the table and the machine."""
  from experiments.benchmarks import timing  # children start without it

  parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
  whats = ["forward", "folded", "train", "frozen"]
  parser.add_argument("--models", nargs="+", default=["p3d63", "p3d199"])
  parser.add_argument("--what", nargs="+", default=whats, choices=whats)
  parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 8])
  parser.add_argument("--train-batches", nargs="+", type=int, default=[2])
  parser.add_argument("--dtypes", nargs="+", default=["float32"])
  parser.add_argument("--frames", type=int, default=16)
  parser.add_argument("--size", type=int, default=160, help="pixels")
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument(
    "--compile",
    action="store_true",
    help="torch.compile beside eager PyTorch; takes minutes and a C++ compiler",
  )
  args = parser.parse_args()
  os.environ["JAX_PLATFORMS"] = "cpu"  # PyTorch's wheels here are of a CPU
  threads = len(os.sched_getaffinity(0))
  print(timing.machine())
  import torch

  print(
    f"PyTorch {torch.__version__}; {threads} threads each; clips of "
    f"{args.frames}x{args.size}x{args.size}; {args.rounds} rounds in turn, "
    "median (range). Ratio: ours to the faster of PyTorch's.\n"
  )
  print(
    "| model | pass | type | batch | ours, clips/s | torch, clips/s | "
    "torch.compile, clips/s | ratio | peak GiB, in this order |"
  )
  print("|---" * 9 + "|", flush=True)
  names = SIDES if args.compile else SIDES[:2]
  with tempfile.TemporaryDirectory() as folder:
    # The twin draws the weights, so it begins.
    sides = [Side(name, folder, threads) for name in reversed(names)]
    for case in cases(args):
      print(row(case, measure(case, sides, args.rounds)), flush=True)
    for side in sides:
      side.close()


def serve(program: Any) -> None:
  """Answers a parent's questions about a program, one a line.

  Args:
    program: has begin(case) -> logits, round() -> seconds and end().
  """
  # Only answers may reach the parent, whatever libraries print.
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  base = resident("VmRSS")
  for line in sys.stdin:
    question = json.loads(line)
    answer: Any = None
    match question["do"]:
      case "begin":
        answer = program.begin(Case(*question["case"])).tolist()
      case "round":
        answer = program.round()
      case "peak":
        # The highest since now, of the process without what it began with, and
        # without what was freed, as by compilers, and the C library has kept.
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        program.round()
        answer = resident("VmHWM") - base
      case "end":
        program.end()
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def resident(field: str) -> int:
  """Returns a field of this process's memory in bytes: "VmRSS" or "VmHWM"."""
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith(f"{field}:"):
      return int(line.split()[1]) * 1024
  raise ValueError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
  main()
