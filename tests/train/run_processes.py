"""A process of a run, as `p3d train` makes one, with what a test needs of it.

    python -m tests.train.run_processes WORKDIR SECTIONS [--stop STEP] [--out F]
        [--hang STEP] [--own-disks] [--own-seed] [--own-sets A B]

The processes find each other as `p3d launch local` tells them. `--stop` has
process 0 be preempted after a step, `--hang` has process 1 stand still as it
reads the next one. `--out` evaluates at the end. With `--own-disks` each has a
workdir of its own, as a folder of a host's disk would be; with `--own-seed` the
config of process k has seed k, and with `--own-sets` it reads the set in the
k-th of these folders. Each process writes the sha256 of every step's
global batch to WORKDIR/batches-PROCESS.json.
"""

import argparse
import hashlib
import json
import os
import pathlib
import signal
import sys
import time
from typing import Any

import jax
import numpy as np

from p3d_jax.data.clips import Views
from p3d_jax.evaluate.evaluate import evaluate
from p3d_jax.hosts import ends, meeting, roll
from p3d_jax.train import loop, sharding, shared
from tests import small


def record_batches(workdir: pathlib.Path) -> None:
  """Has each step's batch, of all hosts, hashed before it is taken."""
  seen: dict[str, str] = {}
  plain = loop.sharding.put

  def put(batch: Any, mesh: Any) -> Any:
    placed = plain(batch, mesh)
    if "notice" in placed and "replaced" in placed:
      total = hashlib.sha256()
      for name in ("clips", "labels"):
        whole = jax.device_put(placed[name], sharding.replicated(mesh))
        total.update(np.asarray(whole).tobytes())
      seen[str(len(seen) + 1)] = total.hexdigest()
      file = workdir / f"batches-{jax.process_index()}.json"
      file.write_text(json.dumps(seen))
    return placed

  loop.sharding.put = put


def preempt_at(step: int) -> None:
  """Sends this process the signal of a preemption after a step."""
  plain = roll.Roll.beat

  def beat(self: Any, doing: str) -> None:
    plain(self, doing)
    if doing == f"step {step}":
      roll.Roll.beat = plain  # type: ignore[method-assign]  # once
      os.kill(os.getpid(), signal.SIGTERM)

  roll.Roll.beat = beat  # type: ignore[method-assign]


def hang_at(step: int) -> None:
  """Has this process wait for ever after a step, as for a disk that is gone."""
  plain = roll.Roll.beat

  def beat(self: Any, doing: str) -> None:
    plain(self, doing)
    if doing == f"reading step {step + 1}":
      time.sleep(1e6)

  roll.Roll.beat = beat  # type: ignore[method-assign]


def main() -> int:
  parser = argparse.ArgumentParser()
  parser.add_argument("workdir", type=pathlib.Path)
  parser.add_argument("sections", type=json.loads)
  parser.add_argument("--stop", type=int)
  parser.add_argument("--hang", type=int)
  parser.add_argument("--out")
  parser.add_argument("--own-disks", action="store_true")
  parser.add_argument("--own-seed", action="store_true")
  parser.add_argument("--own-sets", nargs=2)
  args = parser.parse_args()
  args.workdir.mkdir(parents=True, exist_ok=True)
  try:
    with meeting.join(meeting.Meeting(wait=120)):
      if args.own_disks:
        shared.SEEN = 1
        args.workdir /= str(jax.process_index())
        args.workdir.mkdir()
      record_batches(args.workdir)
      if args.stop and jax.process_index() == 0:
        preempt_at(args.stop)
      if args.hang and jax.process_index() == 1:
        hang_at(args.hang)
      config = small.config(**args.sections)
      if args.own_seed:
        config.seed = jax.process_index()
      if args.own_sets:
        config.data.dir = args.own_sets[jax.process_index()]
      loop.train(config, args.workdir)
      if args.out:
        evaluate(args.workdir, views=Views(3), batch=8, out=args.out)
  except ends.EndedError as error:
    print(error, file=sys.stderr)
    return meeting.leave(error.status)
  return 0


if __name__ == "__main__":
  sys.exit(main())
