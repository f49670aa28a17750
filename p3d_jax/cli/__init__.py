"""`p3d VERB ...`: a table of verbs, each one call away.

A mistake of the user ends in one line on standard error and status 2 (with
P3D_DEBUG=1 in the environment, in a traceback). Status 1 is an answer: a video
that could not be read, beside others that were, or numbers that part. 75 and 76
ask to be started again: see hosts/ends.py.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import absl.logging

from p3d_jax.cli import (
  checkpoint,
  data,
  draw,
  evaluate,
  features,
  fuse,
  launch,
  models,
  paper,
  plan,
  report,
  similarity,
  tasks,
  train,
  verb,
  weights,
)
from p3d_jax.cli.verb import Verb
from p3d_jax.files import is_outage
from p3d_jax.hosts import ends
from p3d_jax.version import __version__

VERBS: dict[str, Verb] = {
  "models": models.MODELS,
  "data": data.DATA,
  "train": train.TRAIN,
  "config": train.CONFIG,
  "plan": plan.PLAN,
  "launch": launch.LAUNCH,
  "evaluate": evaluate.EVALUATE,
  "predict": evaluate.PREDICT,
  "fuse": fuse.FUSE,
  "features": features.FEATURES,
  "svm": tasks.SVM,
  "scenes": tasks.SCENES,
  "pca": tasks.PCA,
  "similarity": similarity.SIMILARITY,
  "draw": draw.DRAW,
  "report": report.REPORT,
  "paper": paper.PAPER,
  "inflate": weights.INFLATE,
  "convert": weights.CONVERT,
  "verify": weights.VERIFY,
  "export": weights.EXPORT,
  "info": checkpoint.INFO,
}


# Those that a config's fields can follow, as --config.train.batch=64.
TAKES_FIELDS = ("train", "plan")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command line.

  Args:
    argv: the words after `p3d`; those of this process by default.

  Returns:
    The exit status.
  """
  args, rest = parser().parse_known_args(argv)
  if rest and args.verb not in TAKES_FIELDS:
    print(f"p3d {args.verb}: unknown argument {rest[0]!r}", file=sys.stderr)
    return 2
  args.rest = rest
  # What libraries log is not for users; what they raise is told in one line.
  absl.logging.set_verbosity(absl.logging.FATAL)
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  try:
    return VERBS[args.verb].run(args)
  except (ValueError, ArithmeticError, OSError, ends.EndedError) as error:
    if os.environ.get("P3D_DEBUG"):
      raise
    text, status = " ".join(str(error).split()), ends.status_of(error)
  except KeyboardInterrupt as error:
    text, status = "interrupted", ends.status_of(error)
  # What gcsfs raises is of no common kind.
  except Exception as error:
    if os.environ.get("P3D_DEBUG") or not is_outage(error):
      raise
    text, status = " ".join(str(error).split()), ends.status_of(error)
  print(f"p3d {args.verb}: {text}", file=sys.stderr)
  return verb.left(status)


class _Parser(argparse.ArgumentParser):
  """Tells a mistake in one line, without the usage; so do its verbs."""

  def error(self, message: str) -> NoReturn:
    """Ends the process with status 2."""
    self.exit(2, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
  """Makes the parser of all verbs."""
  top = _Parser(
    prog="p3d", description="Pseudo-3D networks for video.", allow_abbrev=False
  )
  top.add_argument(
    "--version", action="version", version=f"p3d_jax {__version__}"
  )
  verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
  for name, each in VERBS.items():
    each.arguments(
      verbs.add_parser(
        name, help=each.help, description=each.help, allow_abbrev=False
      )
    )
  return top
