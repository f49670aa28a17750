"""`p3d features`."""

from __future__ import annotations

import argparse

from p3d_jax.cli import verb


def _arguments(parser: argparse.ArgumentParser) -> None:
  verb.checkpoint_arguments(parser)
  parser.add_argument(
    "source",
    metavar="SOURCE",
    nargs="+",
    help="a built set, or folders of videos and files, without labels or with",
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
  parser.add_argument(
    "--batch", type=int, default=8, help="videos at once (default: 8)"
  )
  parser.add_argument(
    "--workers",
    type=int,
    default=0,
    help="processes that read and decode; 0: threads of this one (default: 0)",
  )
  verb.timeout_argument(parser)
  parser.add_argument(
    "--overwrite",
    action="store_true",
    help="replace a file of other features",
  )


def _features(args: argparse.Namespace) -> int:
  from p3d_jax.data.pipeline import Reading
  from p3d_jax.evaluate.features import features, report

  verb.at_least_one(args, "batch")
  written = features(
    args.checkpoint,
    args.source,
    args.out,
    split=args.split,
    endpoints=args.endpoint,
    pool=args.pool,
    per_clip=args.per_clip,
    views=verb.views(args),
    dtype=args.dtype,
    step=args.step,
    batch=args.batch,
    reading=Reading(workers=args.workers, timeout=args.timeout or None),
    overwrite=args.overwrite,
  )
  print(report(written))
  return int(bool(written.problems))


FEATURES = verb.Verb(
  "what a network says inside of videos, to a file", _arguments, _features
)
