r"""A run on one machine with several GPUs.

    python -m experiments.launch.gpus --workdir runs/my-run --restarts 5 \
      --config experiments/configs/sports1m_p3d199.py --dry-run \
      -- --config.data.dir=sets/sports1m

One process has all GPUs: JAX computes on all devices of a process, and nothing
is gained by more. `--processes` starts more all the same, each with its share,
as on several machines. Either way `p3d launch local` starts the run again:
always after status 75 (preempted), `--restarts` times after 76 (a process was
lost) or a death by a signal.

Processes and their devices: https://docs.jax.dev/en/latest/multi_process.html.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from experiments.launch import commands as shared
from experiments.launch.commands import Command
from p3d_jax.pods.launch_local import visible_gpus


def parser() -> shared.Parser:
  """Makes the parser."""
  made = shared.Parser("gpus", __doc__)
  made.add_argument("--workdir", required=True, help="of the run")
  made.add_argument(
    "--processes", type=int, default=1, help="that share the GPUs (default: 1)"
  )
  made.add_argument(
    "--restarts", type=int, default=5, help="of the run (default: 5)"
  )
  return made


def check(args: argparse.Namespace) -> None:
  """Raises a ValueError for what cannot be run."""
  try:
    devices = len(visible_gpus())
  except ValueError:
    devices = None  # a dry run elsewhere; `p3d launch` refuses the real one
  shared.check(args, devices)
  for name, least in (("processes", 1), ("restarts", 0)):
    if getattr(args, name) < least:
      raise ValueError(
        f"--{name} is {getattr(args, name)}: it must be >= {least}"
      )


def commands(args: argparse.Namespace) -> list[Command]:
  """Returns the command."""
  _, *train = shared.train(args, shared.config_file(args), args.workdir)
  launch = ["p3d", "launch", "local", "--gpus", f"--processes={args.processes}"]
  return [[*launch, f"--restarts={args.restarts}", "--", *train]]


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the exit status."""
  args = parser().parse_args(argv)

  def show() -> str:
    check(args)
    return shared.lines(commands(args))

  return shared.main(
    "gpus", lambda: shared.become(*commands(args)), show, args.dry_run
  )


if __name__ == "__main__":
  sys.exit(main())
