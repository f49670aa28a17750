"""`p3d launch`: a run of several processes."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from p3d_jax.cli import verb

if TYPE_CHECKING:
  from p3d_jax.pods.launch_local import Share

# What can share its work between processes.
VERBS = ("train", "evaluate", "features")
_SIGNALS = (
  "SIGTERM to one of the processes is a preemption: all save, and all are "
  "started again. SIGTERM to the launcher itself ends the run: all save, and "
  "none is started again. So does an interrupt (Ctrl-C), but that nothing is "
  "saved. Each one that comes is passed on. The status of a run that a signal "
  "ended is 128 and its number."
)


def _arguments(parser: argparse.ArgumentParser) -> None:
  places = parser.add_subparsers(dest="place", required=True, metavar="PLACE")
  told = "several processes on this machine, as if each were a host"
  local = places.add_parser(
    "local", help=told, description=told, epilog=_SIGNALS, allow_abbrev=False
  )
  local.add_argument("--processes", type=int, required=True, metavar="N")
  local.add_argument(
    "--devices-per-process",
    type=int,
    metavar="D",
    help="fake CPU devices (default: 1), or GPUs (default: all, shared out)",
  )
  local.add_argument(
    "--gpus",
    action="store_true",
    help="give each process its share of the GPUs; else all compute on CPUs",
  )
  local.add_argument(
    "--restarts",
    type=int,
    default=0,
    metavar="R",
    help="of all processes, after a lost one or a death by a signal; a "
    "preempted run is always started again (default: 0)",
  )
  local.add_argument(
    "--grace",
    type=float,
    default=60.0,
    metavar="SECONDS",
    help="from the first bad end until the others are killed (default: 60)",
  )
  local.add_argument(
    "command",
    nargs="+",
    metavar="VERB",
    help=f"after --: {', '.join(VERBS[:-1])} or {VERBS[-1]}, and its arguments",
  )


def _launch(args: argparse.Namespace) -> int:
  from p3d_jax import cli
  from p3d_jax.pods import launch_local

  if args.command[0] not in VERBS:
    raise ValueError(
      f"VERB is {args.command[0]!r}: it must be one of {', '.join(VERBS)}"
    )
  # A mistake is told once, and not by each process.
  cli.parser().parse_known_args(args.command)
  share = _share(args)
  return launch_local.launch(
    [sys.executable, "-m", "p3d_jax.cli", *args.command],
    lambda: share.environments(os.environ),
    restarts=args.restarts,
    grace=args.grace,
  )


def _share(args: argparse.Namespace) -> Share:
  from p3d_jax.pods.launch_local import Share, visible_gpus

  gpus = visible_gpus() if args.gpus else None
  devices = args.devices_per_process
  if devices is None:
    devices = 1
    if gpus is not None and args.processes > 0:
      if len(gpus) % args.processes:
        raise ValueError(
          f"--processes is {args.processes}: it must divide the {len(gpus)} "
          "GPUs, or give --devices-per-process"
        )
      devices = len(gpus) // args.processes
  return Share(args.processes, devices, gpus)


LAUNCH = verb.Verb("start a run of several processes", _arguments, _launch)
