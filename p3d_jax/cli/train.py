"""`p3d train` and `p3d config`."""

from __future__ import annotations

import argparse

from p3d_jax.cli import verb


def _train_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--config", required=True, help="a Python config file")
  parser.add_argument(
    "--workdir", required=True, help="of the run; goes on if there is one"
  )
  verb.hosts_arguments(parser)
  parser.epilog = (
    "Any field of the config can follow, as --config.train.batch=64; "
    "`p3d config` lists them."
  )


def _train(args: argparse.Namespace) -> int:
  from p3d_jax.train import config_file
  from p3d_jax.train.loop import train

  config = config_file.load(args.config, args.rest)

  def work() -> int:
    train(config, args.workdir)
    return 0

  return verb.together(args, work)


def _config_arguments(parser: argparse.ArgumentParser) -> None:
  parser.epilog = "Start a file of your own from it: see the README."


def _config(args: argparse.Namespace) -> int:
  import inspect

  from p3d_jax.train import config

  print(inspect.getsource(config.default), end="")
  return 0


TRAIN = verb.Verb("train, or go on training", _train_arguments, _train)
CONFIG = verb.Verb(
  "list all fields of a config with their defaults",
  _config_arguments,
  _config,
)
