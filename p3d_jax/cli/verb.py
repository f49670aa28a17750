"""What a verb is, and the arguments that several take."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
  from p3d_jax.data.clips import Views
  from p3d_jax.data.pipeline import Reading


class Verb(NamedTuple):
  """One command.

  Attributes:
    help: a line.
    arguments: adds its arguments to a parser.
    run: does it; returns the exit status. It imports what it needs itself, so
      that `p3d --help` is there at once.
  """

  help: str
  arguments: Callable[[argparse.ArgumentParser], None]
  run: Callable[[argparse.Namespace], int]


def _step(text: str) -> int | str:
  if text in ("last", "best"):
    return text
  if not text.isdigit():
    raise argparse.ArgumentTypeError(
      f"{text!r} must be a number of steps, 'last' or 'best'"
    )
  return int(text)


def checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds which checkpoint is meant."""
  parser.add_argument(
    "checkpoint", metavar="WORKDIR", help="a workdir or a checkpoint folder"
  )
  parser.add_argument(
    "--step",
    type=_step,
    default="last",
    help="of a workdir: a number, 'last' or 'best' (default: last)",
  )


def step(args: argparse.Namespace) -> int | str:
  """Returns the step of a workdir that is meant, the same on all hosts.

  "last" and "best" are looked up once, by the first host: a run that goes on
  may have another one a moment later.
  """
  import jax
  import numpy as np
  from jax.experimental import multihost_utils

  from p3d_jax.checkpoint import model
  from p3d_jax.files import absolute
  from p3d_jax.hosts import together

  folder = model.find(args.checkpoint, args.step)
  if folder.parent != absolute(args.checkpoint) / model.CHECKPOINTS:
    return args.step  # it is one checkpoint, and no workdir
  if jax.process_count() > 1:
    together.wait()  # an hour at most
  return int(multihost_utils.broadcast_one_to_all(np.int32(folder.name)))


def at_least_one(args: argparse.Namespace, *names: str) -> None:
  """Raises a ValueError if a number on the command line is below one."""
  _at_least(1, args, names)


def at_least_zero(args: argparse.Namespace, *names: str) -> None:
  """Raises a ValueError if a number on the command line is below zero."""
  _at_least(0, args, names)


def _at_least(
  least: int, args: argparse.Namespace, names: Sequence[str]
) -> None:
  for name in names:
    given = getattr(args, name)
    if given < least:
      flag = name.replace("_", "-")
      raise ValueError(f"--{flag} is {given}: it must be >= {least}")


def views_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds which clips and crops of a video are taken; `views` reads them."""
  parser.add_argument(
    "--clips", type=int, default=20, help="clips of each video (default: 20)"
  )
  parser.add_argument(
    "--sampling",
    choices=("uniform", "random"),
    default="uniform",
    help="clips spread evenly over the video, or at random as the paper's "
    "(default: uniform)",
  )
  parser.add_argument(
    "--crops",
    type=int,
    choices=(1, 3),
    default=1,
    help="of each clip: the centre, or both ends of the longer side besides "
    "(default: 1)",
  )
  parser.add_argument(
    "--seed", type=int, default=0, help="of random clips (default: 0)"
  )


def views(args: argparse.Namespace) -> Views:
  """Returns the clips and crops that the command line asks for."""
  from p3d_jax.data.clips import Views

  at_least_one(args, "clips")
  return Views(args.clips, args.sampling, args.crops, args.seed)


def hits(args: argparse.Namespace) -> list[int]:
  """Returns the k of hit@k that the command line asks for."""
  if min(args.hits) < 1:
    raise ValueError(f"--hits has {min(args.hits)}: each must be >= 1")
  found: list[int] = args.hits
  return found


def hits_argument(parser: argparse.ArgumentParser) -> None:
  """Adds the k of hit@k."""
  parser.add_argument(
    "--hits",
    type=int,
    nargs="+",
    default=[1, 5],
    metavar="K",
    help="the k of video hit@k (default: 1 5)",
  )


def reading_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds how videos are read, and how many; `reading` reads them."""
  parser.add_argument(
    "--batch", type=int, default=8, help="videos at once (default: 8)"
  )
  parser.add_argument(
    "--workers",
    type=int,
    default=0,
    help="processes that read and decode; 0: threads of this one (default: 0)",
  )
  timeout_argument(parser)


def reading(args: argparse.Namespace) -> Reading:
  """Returns how the command line wants videos to be read."""
  from p3d_jax.data.pipeline import Reading

  at_least_one(args, "batch")
  return Reading(workers=args.workers, timeout=timeout(args))


def json_out(args: argparse.Namespace) -> None:
  """Raises a ValueError if --out is no JSON file.

  It would be written over whatever has that name, features too.
  """
  if args.out is not None and not args.out.endswith(".json"):
    raise ValueError(f"--out is {args.out}: it must end in .json")


def told(text: str, *files: object) -> None:
  """Prints a result, and which files it is in; None is none."""
  print(text)
  for file in files:
    if file is not None:
      print(f"written to {file}")


def timeout_argument(parser: argparse.ArgumentParser) -> None:
  """Adds how long decoding a video may take."""
  parser.add_argument(
    "--timeout",
    type=float,
    default=60.0,
    metavar="SECONDS",
    help="that decoding one video may take; 0: any number (default: 60)",
  )


def timeout(args: argparse.Namespace) -> float | None:
  """Returns how many seconds decoding a video may take; None: any number."""
  if not args.timeout >= 0:  # nor nan
    raise ValueError(f"--timeout is {args.timeout:g}: it must be >= 0")
  return float(args.timeout) or None


def hosts_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds how the processes of a run find each other; `together` reads them."""
  hosts = parser.add_argument_group(
    "several hosts",
    "found by itself on a TPU pod and in SLURM; else the first three",
  )
  hosts.add_argument(
    "--coordinator",
    metavar="HOST:PORT",
    help="of process 0; the port above it is taken too",
  )
  hosts.add_argument(
    "--processes", type=int, metavar="N", help="of all hosts; 1: this one alone"
  )
  hosts.add_argument(
    "--process", type=int, metavar="I", help="the number of this one, from 0"
  )
  hosts.add_argument(
    "--wait",
    type=float,
    default=300.0,
    metavar="SECONDS",
    help="that all of them have to come (default: 300)",
  )


def together(args: argparse.Namespace, work: Callable[[], int]) -> int:
  """Does a verb's work together with the other processes of a run.

  Args:
    args: with those of `hosts_arguments`.
    work: what is done; returns the exit status.
  """
  from p3d_jax.hosts.meeting import Meeting, join

  meeting = Meeting(args.coordinator, args.processes, args.process, args.wait)
  with join(meeting):
    return work()


def keep_compiled() -> None:
  """Has this process keep what it compiles, and look there first.

  To be called when the processes of a run have met. `train` does so itself.
  """
  from p3d_jax.train.compile_cache import compile_cache

  compile_cache()


def first_host() -> bool:
  """Whether this is the process that prints what all have found."""
  import jax

  return jax.process_index() == 0


def left(status: int) -> int:
  """Returns the exit status of a verb that has failed.

  One of several processes ends here: at its own end Python would wait for the
  others.
  """
  if "p3d_jax.hosts.meeting" not in sys.modules:
    return status  # it has met nobody
  from p3d_jax.hosts.meeting import leave

  return leave(status)
