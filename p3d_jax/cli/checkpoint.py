"""`p3d info`."""

from __future__ import annotations

import argparse
import json

from p3d_jax.cli import verb


def _info_arguments(parser: argparse.ArgumentParser) -> None:
  verb.checkpoint_arguments(parser)
  parser.add_argument(
    "--json", action="store_true", help="print model.json instead"
  )


def _info(args: argparse.Namespace) -> int:
  from p3d_jax.checkpoint import describe, model

  folder = model.find(args.checkpoint, args.step)
  if args.json:
    print(json.dumps(model.read_record(folder).to_json(), indent=2))
  else:
    print(describe.describe(folder))
  return 0


INFO = verb.Verb("print what a checkpoint is", _info_arguments, _info)
