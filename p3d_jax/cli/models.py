"""`p3d models`."""

from __future__ import annotations

import argparse

from p3d_jax.cli import verb


def _models_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--schedule",
    default="ABC",
    help="letters of A, B, C, S, F in turn, or one string a stage: A,BC,S "
    "(default: ABC)",
  )
  parser.add_argument(
    "--blocks", metavar="MODEL", help="print which block stands where"
  )


def _models(args: argparse.Namespace) -> int:
  from p3d_jax.models import schedule, zoo
  from p3d_jax.models.count import table

  if args.blocks:
    module = zoo.build(args.blocks, num_classes=1, schedule=args.schedule)
    print(schedule.table(module.schedule, module.stages))
  else:
    print(table(args.schedule))
  return 0


MODELS = verb.Verb("list the networks", _models_arguments, _models)
