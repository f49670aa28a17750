"""What a verb is, and the arguments that several take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple


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
