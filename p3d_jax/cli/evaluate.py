"""`p3d evaluate` and `p3d predict`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from p3d_jax.cli import verb


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
  verb.checkpoint_arguments(parser)
  parser.add_argument("--data", help="a built set; default: the run's own")
  parser.add_argument("--split", help="default: the run's evaluation split")
  verb.views_arguments(parser)
  parser.add_argument(
    "--hits",
    type=int,
    nargs="+",
    default=[1, 5],
    metavar="K",
    help="the k of video hit@k (default: 1 5)",
  )
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
    "--out",
    metavar="JSON",
    help="default: evaluation-STEP-SPLIT.json in the workdir; each video's "
    "scores are written beside it, to the same name with .npz",
  )


def _evaluate(args: argparse.Namespace) -> int:
  from p3d_jax.data.pipeline import Reading
  from p3d_jax.evaluate.evaluate import default_out, evaluate, report

  verb.at_least_one(args, "batch")
  out = args.out or default_out(args.checkpoint, args.step, args.split)
  result = evaluate(
    args.checkpoint,
    data=args.data,
    split=args.split,
    step=args.step,
    views=verb.views(args),
    ks=args.hits,
    batch=args.batch,
    reading=Reading(workers=args.workers, timeout=args.timeout or None),
    out=out,
  )
  print(report(result))
  if out:
    print(f"written to {out}")
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

  verb.at_least_one(args, "clips", "top")
  if args.timeline and len(args.videos) > 1:
    raise ValueError(
      f"--timeline draws one video: {len(args.videos)} were given"
    )
  if args.timeline and not os.path.isdir(os.path.dirname(args.timeline) or "."):
    raise ValueError(f"--timeline is {args.timeline}: its folder must exist")
  failed = False
  for prediction in predict(
    args.checkpoint,
    args.videos,
    clips=args.clips,
    step=args.step,
    timeout=args.timeout or None,
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
