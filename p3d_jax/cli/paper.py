"""`p3d paper`: tables and figures, each a list of `p3d` commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from p3d_jax.cli import verb

if TYPE_CHECKING:
  from p3d_jax.paper.run import Table


def _paper_arguments(parser: argparse.ArgumentParser) -> None:
  parser.epilog = (
    "Table 1 has its number in the paper; those of the other tables follow the "
    "paper's order and were not confirmed, nor those of figures, which have "
    "names. What is not of the paper's tables: kinetics, and full 3D in table1."
  )
  actions = parser.add_subparsers(dest="action", required=True)
  for name, (text, arguments, _) in ACTIONS.items():
    arguments(
      actions.add_parser(
        name, help=text, description=f"{text}.", allow_abbrev=False
      )
    )


def _paper(args: argparse.Namespace) -> int:
  return ACTIONS[args.action][2](args)


_AGAIN = "The same line goes on with a table that was stopped."


def _table_arguments(
  parser: argparse.ArgumentParser, data: str | None = None
) -> None:
  """Adds what all tables take, and what `data` says of --data."""
  parser.epilog = _AGAIN
  if data is not None:
    parser.add_argument("--data", required=True, help=data)
  parser.add_argument(
    "--out", required=True, metavar="DIR", help="folder of all that is made"
  )
  parser.add_argument(
    "--commands",
    action="store_true",
    help="print the commands that it consists of, and run none",
  )


def _run(table: Table, args: argparse.Namespace) -> int:
  from p3d_jax import cli
  from p3d_jax.paper.run import command_lines, run_table

  if args.commands:
    print(command_lines(table))
  else:
    print(run_table(table, args.out, cli.main), end="")
  return 0


def _table1_arguments(parser: argparse.ArgumentParser) -> None:
  _table_arguments(
    parser,
    "'camera_motion', which is built into DIR first, or a built set of it or "
    "of UCF101, or the folder above it",
  )
  parser.add_argument(
    "--weights",
    metavar="FILE",
    help="of UCF101's networks: a ResNet-50 of ImageNet that `p3d inflate` "
    "reads, or 'none' for random ones",
  )
  parser.add_argument(
    "--seeds",
    type=int,
    nargs="+",
    default=[0, 1, 2],
    help="each makes a run of each network (default: 0 1 2)",
  )
  _training_arguments(parser, "500 on camera_motion, 7,500 on UCF101")


def _training_arguments(parser: argparse.ArgumentParser, steps: str) -> None:
  parser.add_argument(
    "--steps", type=int, help=f"of each run (default: {steps})"
  )
  parser.add_argument(
    "--override",
    nargs="+",
    default=[],
    metavar="FIELD=VALUE",
    help="of all configs, as train.accumulate=4; `p3d config` lists the fields",
  )


def _table1(args: argparse.Namespace) -> int:
  from p3d_jax.paper.table1 import Choices, table1

  choices = Choices(
    args.data,
    args.out,
    args.weights,
    tuple(args.seeds),
    args.steps,
    tuple(args.override),
  )
  return _run(table1(choices), args)


def _root(names: str) -> str:
  return f"folder that `p3d data build` wrote to; {names} is in it"


def _reading_arguments(
  parser: argparse.ArgumentParser, sampling: str, why: str
) -> None:
  parser.add_argument(
    "--clips", type=int, default=20, help="of each video (default: 20)"
  )
  parser.add_argument(
    "--sampling",
    choices=("uniform", "random"),
    default=sampling,
    help=f"of clips (default: {sampling}{why})",
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


def _networks_arguments(parser: argparse.ArgumentParser, steps: str) -> None:
  """What tables of networks take that are trained or given."""
  parser.add_argument(
    "--weights",
    metavar="FILE",
    help="what is not given is trained from: a ResNet-152 of ImageNet that "
    "`p3d inflate` reads, or 'none' for random weights",
  )
  _training_arguments(parser, steps)
  _reading_arguments(parser, "random", ", as the paper's on Sports-1M")


def _networks_choices(
  args: argparse.Namespace, checkpoints: dict[str, str | None]
) -> Any:
  from p3d_jax.paper.networks import Choices

  verb.at_least_one(args, "clips", "batch")
  return Choices(
    args.data,
    args.out,
    {name: path for name, path in checkpoints.items() if path is not None},
    args.weights,
    args.steps,
    tuple(args.override),
    args.clips,
    args.sampling,
    args.batch,
    args.workers,
  )


def _table2_arguments(parser: argparse.ArgumentParser) -> None:
  _table_arguments(parser, _root("sports1m"))
  parser.add_argument(
    "--checkpoint", metavar="WORKDIR", help="of P3D-199, to test and not train"
  )
  parser.add_argument(
    "--frames",
    action="store_true",
    help="the 2D ResNet-152 on frames too (default: P3D alone)",
  )
  parser.add_argument(
    "--frames-checkpoint",
    metavar="WORKDIR",
    help="of that, to test and not train",
  )
  _networks_arguments(parser, "150,000")


def _table2(args: argparse.Namespace) -> int:
  from p3d_jax.paper.networks import table2

  frames = args.frames or args.frames_checkpoint is not None
  checkpoints = {"p3d": args.checkpoint, "frames": args.frames_checkpoint}
  choices = _networks_choices(args, checkpoints)
  return _run(table2(choices, ("p3d", "frames") if frames else ("p3d",)), args)


def _kinetics_arguments(parser: argparse.ArgumentParser) -> None:
  _table_arguments(
    parser,
    "folder that `p3d data build` and `p3d data flow` wrote to; kinetics400 "
    "and kinetics400_flow are in it",
  )
  for flag, stream in (("", "RGB"), ("flow-", "flow")):
    parser.add_argument(
      f"--{flag}checkpoint",
      metavar="WORKDIR",
      help=f"of {stream}, to test and not train",
    )
  parser.add_argument(
    "--fuse",
    type=float,
    nargs=2,
    metavar=("RGB", "FLOW"),
    help="weights of the streams in the mean of both (default: equal)",
  )
  _networks_arguments(parser, "150,000")
  parser.epilog = (
    "The authors' weights come in by `p3d convert FILE --labels NAMES`; in "
    f"which order their classes are is not stated anywhere. {_AGAIN}"
  )


def _kinetics(args: argparse.Namespace) -> int:
  from p3d_jax.paper.networks import kinetics

  checkpoints = {"rgb": args.checkpoint, "flow": args.flow_checkpoint}
  return _run(kinetics(_networks_choices(args, checkpoints), args.fuse), args)


def _benchmark_arguments(
  parser: argparse.ArgumentParser, names: str, *, missing: bool = True
) -> None:
  """What all that reads the features of one network takes."""
  _table_arguments(parser, _root(names))
  parser.add_argument(
    "--checkpoint",
    metavar="WORKDIR",
    required=True,
    help="of the network whose features are taken: the paper's is the P3D-199 "
    "of Sports-1M",
  )
  _reading_arguments(
    parser, "uniform", ": spread evenly over the video; the paper does not say"
  )
  if missing:
    parser.add_argument(
      "--max-missing",
      type=int,
      default=0,
      metavar="N",
      help="videos that may have no features (default: 0)",
    )


def _benchmark_choices(args: argparse.Namespace) -> Any:
  from p3d_jax.paper.benchmarks import Choices

  verb.at_least_one(args, "clips", "batch")
  missing = getattr(args, "max_missing", 0)
  if missing < 0:
    raise ValueError(f"--max-missing is {missing}: it must be >= 0")
  return Choices(
    args.checkpoint,
    args.data,
    args.out,
    args.clips,
    args.sampling,
    args.batch,
    args.workers,
    missing,
  )


def _ucf101_arguments(parser: argparse.ArgumentParser) -> None:
  _benchmark_arguments(parser, "ucf101")


def _activitynet_arguments(parser: argparse.ArgumentParser) -> None:
  _benchmark_arguments(parser, "activitynet")


def _aslan_arguments(parser: argparse.ArgumentParser) -> None:
  _benchmark_arguments(parser, "aslan")
  parser.epilog = (
    "Whole maps are kept: 1 MB of features a video, about 4 GB for ASLAN. "
    + _AGAIN
  )


def _benchmark(name: str) -> Callable[[argparse.Namespace], int]:
  """Returns what runs a table that takes the user's choices alone."""

  def run(args: argparse.Namespace) -> int:
    from p3d_jax.paper import benchmarks, figures

    tables: dict[str, Callable[[Any], Table]] = {
      "table3": benchmarks.table3,
      "table4": benchmarks.table4,
      "table5": benchmarks.table5,
      "pca": figures.pca,
    }
    return _run(tables[name](_benchmark_choices(args)), args)

  return run


_SCENES = ("dynamic_scene", "yupenn")


def _table6_arguments(parser: argparse.ArgumentParser) -> None:
  _benchmark_arguments(parser, " and ".join(_SCENES))
  parser.add_argument(
    "--sets",
    nargs="+",
    choices=_SCENES,
    default=list(_SCENES),
    help="those to run (default: both)",
  )


def _table6(args: argparse.Namespace) -> int:
  from p3d_jax.paper.benchmarks import table6

  names = tuple(dict.fromkeys(args.sets))
  return _run(table6(_benchmark_choices(args), names), args)


def _tsne_arguments(parser: argparse.ArgumentParser) -> None:
  _benchmark_arguments(parser, "ucf101", missing=False)
  parser.add_argument(
    "--count",
    type=int,
    default=10_000,
    help="videos drawn at most (default: 10000, the paper's)",
  )
  parser.add_argument(
    "--perplexity",
    type=float,
    default=30.0,
    help="how many neighbours a video has, about (default: 30)",
  )


def _tsne(args: argparse.Namespace) -> int:
  from p3d_jax.paper.figures import tsne

  verb.at_least_one(args, "count")
  return _run(tsne(_benchmark_choices(args), args.count, args.perplexity), args)


def _classes_arguments(parser: argparse.ArgumentParser) -> None:
  _table_arguments(parser)
  parser.add_argument(
    "--checkpoint",
    metavar="WORKDIR",
    required=True,
    help="of the network: the paper's is the P3D-199 of Sports-1M",
  )
  parser.add_argument(
    "--labels", nargs="+", metavar="NAME", help="classes (default: the first)"
  )
  parser.add_argument(
    "--steps", type=int, default=200, help="of the ascent (default: 200)"
  )


def _classes(args: argparse.Namespace) -> int:
  from p3d_jax.paper.figures import classes

  verb.at_least_one(args, "steps")
  return _run(classes(args.checkpoint, args.out, args.labels, args.steps), args)


def _speed_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "checkpoints", metavar="WORKDIR", nargs="+", help="or checkpoint folders"
  )
  parser.add_argument("--out", required=True, metavar="JSON")
  parser.add_argument(
    "--clips", type=int, default=8, help="at once (default: 8)"
  )
  parser.add_argument(
    "--rounds", type=int, default=7, help="the median counts (default: 7)"
  )


def _speed(args: argparse.Namespace) -> int:
  from p3d_jax.paper.speed import measure, report

  verb.at_least_one(args, "clips", "rounds")
  verb.keep_compiled()
  result = measure(
    args.checkpoints, out=args.out, clips=args.clips, rounds=args.rounds
  )
  print(report(result))
  return 0


ACTIONS: dict[
  str,
  tuple[
    str,
    Callable[[argparse.ArgumentParser], None],
    Callable[[argparse.Namespace], int],
  ],
] = {
  "table1": (
    "size, speed and accuracy of 2D, A, B, C, P3D and full 3D",
    _table1_arguments,
    _table1,
  ),
  "table2": (
    "Sports-1M: clip hit@1, video hit@1 and hit@5",
    _table2_arguments,
    _table2,
  ),
  "table3": (
    "UCF101: pool5 and a linear SVM, three splits",
    _ucf101_arguments,
    _benchmark("table3"),
  ),
  "table4": (
    "ActivityNet: pool5 and a linear SVM; top-1, top-3 and mAP",
    _activitynet_arguments,
    _benchmark("table4"),
  ),
  "table5": (
    "ASLAN: same action or not; accuracy and AUC",
    _aslan_arguments,
    _benchmark("table5"),
  ),
  "table6": (
    "dynamic scenes: pool5 and a linear SVM, leave one video out",
    _table6_arguments,
    _table6,
  ),
  "kinetics": (
    "Kinetics-400: RGB, flow and both, as the authors' release",
    _kinetics_arguments,
    _kinetics,
  ),
  "pca": (
    "figure: accuracy on UCF101 against the PCA size of pool5",
    _ucf101_arguments,
    _benchmark("pca"),
  ),
  "tsne": (
    "figure: t-SNE of the videos of UCF101",
    _tsne_arguments,
    _tsne,
  ),
  "classes": (
    "figure: classes as the network sees them",
    _classes_arguments,
    _classes,
  ),
  "speed": (
    "measure networks in turn, as table1 does",
    _speed_arguments,
    _speed,
  ),
}

PAPER = verb.Verb("the paper's tables and figures", _paper_arguments, _paper)
