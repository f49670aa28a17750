"""`p3d report`."""

from __future__ import annotations

import argparse

from p3d_jax.cli import verb


def _report_arguments(parser: argparse.ArgumentParser) -> None:
  verb.checkpoint_arguments(parser)
  parser.add_argument(
    "--out", metavar="HTML", help="default: report.html in the workdir"
  )
  parser.add_argument("--data", help="a built set; default: the run's own")
  parser.add_argument("--split", help="default: the run's evaluation split")
  parser.add_argument(
    "--videos",
    type=int,
    default=3,
    metavar="N",
    help="best hits and worst misses that are shown, each (default: 3)",
  )
  parser.add_argument(
    "--features",
    metavar="FILE",
    help="of `p3d features` of this network: drawn by t-SNE",
  )
  parser.add_argument(
    "--endpoint", default="pool5", help="of the features (default: pool5)"
  )
  parser.add_argument(
    "--class-pictures",
    type=int,
    default=0,
    metavar="N",
    help="clips that the network takes for the purest of a class, of the first "
    "N classes (default: 0)",
  )
  parser.add_argument(
    "--clips",
    type=int,
    help="of each video, where it is not evaluated yet (default: 20)",
  )
  verb.reading_arguments(parser)


def _report(args: argparse.Namespace) -> int:
  from p3d_jax.data.clips import Views
  from p3d_jax.visualize.report import Parts, report

  verb.at_least_zero(args, "videos", "class_pictures")
  verb.keep_compiled()
  file = report(
    args.checkpoint,
    out=args.out,
    step=args.step,
    data=args.data,
    split=args.split,
    parts=Parts(
      videos=args.videos,
      features=args.features,
      endpoint=args.endpoint,
      classes=args.class_pictures,
    ),
    views=None if args.clips is None else Views(clips=args.clips),
    batch=args.batch,
    reading=verb.reading(args),
  )
  print(f"written to {file}")
  return 0


REPORT = verb.Verb(
  "one HTML page of a run: numbers, curves, videos", _report_arguments, _report
)
