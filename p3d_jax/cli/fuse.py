"""`p3d fuse`."""

from __future__ import annotations

import argparse

from p3d_jax.cli import verb


def _arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "files",
    metavar="SCORES.npz",
    nargs="+",
    help="of the same videos, as p3d evaluate writes them: one a stream",
  )
  parser.add_argument(
    "--weights",
    type=float,
    nargs="+",
    metavar="W",
    help="of the streams, in the order of the files (default: equal)",
  )
  verb.hits_argument(parser)
  parser.add_argument("--out", metavar="JSON", help="write the result")
  parser.add_argument("--scores", metavar="NPZ", help="write the fused scores")


def _run(args: argparse.Namespace) -> int:
  from p3d_jax.evaluate.fuse import fuse_files, report

  for file in args.files:
    if args.files.count(file) > 1:
      raise ValueError(f"{file} is named twice: each stream has its own scores")
  result = fuse_files(
    args.files,
    weights=args.weights,
    ks=verb.hits(args),
    out=args.out,
    scores=args.scores,
  )
  verb.told(report(result), args.out, args.scores)
  return 0


FUSE = verb.Verb(
  "mean of the saved scores of several streams, by weights", _arguments, _run
)
