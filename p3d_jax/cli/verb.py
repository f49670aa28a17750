"""What a verb is, and the arguments that several take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
  from p3d_jax.data.clips import Views


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


def at_least_one(args: argparse.Namespace, *names: str) -> None:
  """Raises a ValueError if a number on the command line is below one."""
  for name in names:
    if getattr(args, name) < 1:
      raise ValueError(f"--{name} is {getattr(args, name)}: it must be >= 1")


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


def timeout_argument(parser: argparse.ArgumentParser) -> None:
  """Adds how long decoding a video may take."""
  parser.add_argument(
    "--timeout",
    type=float,
    default=60.0,
    metavar="SECONDS",
    help="that decoding one video may take; 0: any number (default: 60)",
  )
