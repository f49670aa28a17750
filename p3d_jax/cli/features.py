"""`p3d features`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from p3d_jax.cli import verb

if TYPE_CHECKING:
  from p3d_jax.data.clips import Views
  from p3d_jax.data.pipeline import Reading


def _arguments(parser: argparse.ArgumentParser) -> None:
  verb.checkpoint_arguments(parser)
  parser.add_argument(
    "source",
    metavar="SOURCE",
    nargs="+",
    help="a built set, whose labels go into the file; or folders of videos, "
    "and files",
  )
  parser.add_argument(
    "--out",
    metavar="FILE",
    required=True,
    help="ends in .npz, .parquet or .arrow; the same command goes on with a "
    "run that was killed",
  )
  parser.add_argument(
    "--split", help="of a built set, or one of its lists (default: all)"
  )
  _what(parser)
  verb.views_arguments(parser)
  _how(parser)


def _what(parser: argparse.ArgumentParser) -> None:
  """Which features."""
  parser.add_argument(
    "--endpoint",
    metavar="NAME",
    nargs="+",
    default=["pool5"],
    help="of the network: prob, logits, pool5, stem, res2 to res5, or a block "
    "as res4/block05 (default: pool5)",
  )
  parser.add_argument(
    "--pool",
    choices=("mean", "none"),
    default="mean",
    help="maps: their mean over time and space, or whole (default: mean)",
  )
  parser.add_argument(
    "--per-clip",
    action="store_true",
    help="a row for each clip; without it, the mean over a video's clips",
  )
  parser.add_argument(
    "--dtype",
    choices=("float32", "float16"),
    default="float32",
    help="in the file (default: float32)",
  )


def _how(parser: argparse.ArgumentParser) -> None:
  """How the work is done."""
  verb.reading_arguments(parser)
  verb.hosts_arguments(parser)
  parser.add_argument(
    "--overwrite",
    action="store_true",
    help="make a file anew that is there, of other features or of these",
  )


def _features(args: argparse.Namespace) -> int:
  # What the command line says is checked before the hosts meet.
  views, reading = verb.views(args), verb.reading(args)
  return verb.together(args, lambda: _features_together(args, views, reading))


def _features_together(
  args: argparse.Namespace, views: Views, reading: Reading
) -> int:
  from p3d_jax.evaluate.features import features, report

  verb.keep_compiled()
  written = features(
    args.checkpoint,
    args.source,
    args.out,
    split=args.split,
    endpoints=args.endpoint,
    pool=args.pool,
    per_clip=args.per_clip,
    views=views,
    dtype=args.dtype,
    step=verb.step(args),
    batch=args.batch,
    reading=reading,
    overwrite=args.overwrite,
  )
  if verb.first_host():
    print(report(written))
  return int(bool(written.problems))


FEATURES = verb.Verb(
  "what a network says inside of videos, to a file", _arguments, _features
)
