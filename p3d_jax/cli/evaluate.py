"""`p3d evaluate` and `p3d predict`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from p3d_jax.cli import verb

if TYPE_CHECKING:
  from p3d_jax.data.clips import Views
  from p3d_jax.data.pipeline import Reading


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
  verb.checkpoint_arguments(parser)
  parser.add_argument("--data", help="a built set; default: the run's own")
  parser.add_argument("--split", help="default: the run's evaluation split")
  verb.views_arguments(parser)
  verb.hits_argument(parser)
  verb.reading_arguments(parser)
  verb.hosts_arguments(parser)
  parser.add_argument(
    "--out",
    metavar="JSON",
    help="default: evaluation-STEP-SPLIT.json in the workdir, in place of an "
    "earlier one, or none of a checkpoint folder; each video's scores are "
    "written beside it, to the same name with .npz",
  )


def _evaluate(args: argparse.Namespace) -> int:
  # What the command line says is checked before the hosts meet.
  views, ks, reading = verb.views(args), verb.hits(args), verb.reading(args)
  return verb.together(
    args, lambda: _evaluate_together(args, views, ks, reading)
  )


def _evaluate_together(
  args: argparse.Namespace, views: Views, ks: Sequence[int], reading: Reading
) -> int:
  from p3d_jax.evaluate.evaluate import default_out, evaluate, report

  verb.keep_compiled()
  step = verb.step(args)
  out = args.out or default_out(args.checkpoint, step, args.split, views)
  result = evaluate(
    args.checkpoint,
    data=args.data,
    split=args.split,
    step=step,
    views=views,
    ks=ks,
    batch=args.batch,
    reading=reading,
    out=out,
  )
  if verb.first_host():
    verb.told(report(result), out)
  return 1 if result["problems"] else 0


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
  verb.checkpoint_arguments(parser)
  parser.add_argument(
    "videos", metavar="VIDEO", nargs="+", help="files of any size and length"
  )
  parser.add_argument(
    "--clips",
    type=int,
    default=20,
    help="clips of each video, spread evenly over it (default: 20)",
  )
  verb.timeout_argument(parser)
  parser.add_argument(
    "--top", type=int, default=5, help="classes shown (default: 5)"
  )
  parser.add_argument(
    "--json", action="store_true", help="print a line of JSON for each video"
  )
  parser.add_argument(
    "--timeline",
    metavar="PNG",
    help="draw the scores over the time of one video",
  )


def _predict(args: argparse.Namespace) -> int:
  from p3d_jax.evaluate.predict import predict
  from p3d_jax.files import check_out

  verb.at_least_one(args, "clips", "top")
  if args.timeline and len(args.videos) > 1:
    raise ValueError(
      f"--timeline draws one video: {len(args.videos)} were given"
    )
  if args.timeline:
    check_out(args.timeline, "--timeline")
  verb.keep_compiled()
  failed = False
  for prediction in predict(
    args.checkpoint,
    args.videos,
    clips=args.clips,
    step=args.step,
    timeout=verb.timeout(args),
  ):
    failed = failed or prediction.error is not None
    if args.json:
      print(json.dumps(prediction.to_json(args.top)), flush=True)
    elif prediction.error is not None:
      print(f"p3d predict: {prediction.error}", file=sys.stderr)
    else:
      print(prediction.path)
      for name, score in prediction.top(args.top):
        print(f"  {score:.3f}  {name}", flush=True)
    if args.timeline and prediction.error is None:
      _timeline(args.timeline, prediction)
  return int(failed)


def _timeline(out: str, prediction: Any) -> None:
  from p3d_jax.visualize.timeline import timeline

  timeline(
    out,
    prediction.times,
    prediction.clips,
    prediction.labels,
    title=os.path.basename(prediction.path),
  )
  print(f"scores over time: {out}", file=sys.stderr)


EVALUATE = verb.Verb(
  "clip and video accuracy on a split", _evaluate_arguments, _evaluate
)
PREDICT = verb.Verb("classify video files", _predict_arguments, _predict)
