"""`p3d similarity`."""

from __future__ import annotations

import argparse

from p3d_jax.cli import verb

# Names stand here again, as help must not wait for scikit-learn.
_ABOUT = """\
Of each pair of the set and each endpoint 12 numbers are taken: product,
root_product, affinity, root_affinity, cosine, intersection, ruzicka,
manhattan, euclidean, hellinger, chi_square, jensen_shannon. The paper takes
those of the ASLAN benchmark (TPAMI 2012, Table 3). That list was not
confirmed: only product, sum(x*y), and affinity, sum(sqrt(x*y)), are known to
be of it; the others are this project's choice."""


def _arguments(parser: argparse.ArgumentParser) -> None:
  parser.epilog = _ABOUT
  parser.add_argument(
    "features",
    metavar="FEATURES",
    help="file of `p3d features` with a row for each video; with --pool none "
    "whole maps are compared, without it their means",
  )
  parser.add_argument(
    "--data", help="built set with the pairs; default: that of the features"
  )
  parser.add_argument(
    "--endpoints",
    nargs="+",
    default=["prob", "pool5", "res5", "res4"],
    metavar="NAME",
    help="compared, 12 numbers each (default: prob pool5 res5 res4)",
  )
  parser.add_argument(
    "--normalize",
    choices=["l2", "standard"],
    default="l2",
    help="of a pair's numbers: l2: divided by their norm, as in the paper; "
    "standard: each to mean 0 and deviation 1 over the training pairs, as C3D "
    "did (default: l2)",
  )
  parser.add_argument(
    "--costs",
    type=float,
    nargs="+",
    default=[1e-2, 1e-1, 1.0, 10.0, 1e2, 1e3, 1e4, 1e5],
    metavar="C",
    help="of the SVM, chosen within the training folds "
    "(default: 0.01 to 100,000 by tens)",
  )
  parser.add_argument(
    "--max-missing",
    type=int,
    default=0,
    metavar="N",
    help="videos of pairs that may have no features; their pairs are left out "
    "(default: 0)",
  )
  parser.add_argument("--out", metavar="JSON", help="default: only printed")


def _similarity(args: argparse.Namespace) -> int:
  from p3d_jax.evaluate.similarity import report, similarity

  verb.json_out(args)
  verb.at_least_zero(args, "max_missing")
  result = similarity(
    args.features,
    data=args.data,
    endpoints=args.endpoints,
    normalize=args.normalize,
    costs=args.costs,
    max_missing=args.max_missing,
    out=args.out,
  )
  verb.told(report(result), args.out)
  return 0


SIMILARITY = verb.Verb(
  "same action or not, of pairs of videos (ASLAN): features to accuracy",
  _arguments,
  _similarity,
)
