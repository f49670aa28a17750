"""`p3d inflate`, `convert`, `verify` and `export`: weights in and out."""

from __future__ import annotations

import argparse

from p3d_jax.cli import verb

_TO = ("torch", "safetensors", "stablehlo")  # what `p3d export` writes


def _source_arguments(parser: argparse.ArgumentParser, source: str) -> None:
  """What inflate and convert both take."""
  parser.add_argument("source", metavar="SOURCE", help=source)
  parser.add_argument(
    "--out", required=True, help="folder to write, which must not exist"
  )
  parser.add_argument(
    "--no-layer-check",
    dest="check_layers",
    action="store_false",
    help="take the arrays of a Caffe file whatever its layers say (default: "
    "refuse a file whose wiring and settings are another network's)",
  )
  parser.add_argument(
    "--model",
    help="name in `p3d models` that it must be of (default: the one that the "
    "source has the blocks of)",
  )


def _preprocessing_argument(
  parser: argparse.ArgumentParser, default: str
) -> None:
  parser.add_argument(
    "--preprocessing",
    metavar="NAME|JSON",
    help="what the weights expect of pixels: released_rgb, released_flow, "
    f"port, torchvision, caffe, or a JSON file of all fields ({default})",
  )


def _labels_argument(parser: argparse.ArgumentParser, default: str) -> None:
  parser.add_argument(
    "--labels",
    metavar="FILE",
    help="names of the classes, one a line, in the order of the logits "
    f"(default: {default})",
  )


def _stem_pool_argument(parser: argparse.ArgumentParser, default: str) -> None:
  parser.add_argument(
    "--stem-pool",
    choices=("ceil", "padded"),
    help=f"where pool1's windows lie (default: {default})",
  )


def _reduce_stride_argument(
  parser: argparse.ArgumentParser, default: str
) -> None:
  parser.add_argument(
    "--reduce-stride",
    choices=("yes", "no"),
    help="whether the first 1x1x1 of a stage has the stride, or the 3x3 "
    f"(default: {default})",
  )


def _reduce_stride(args: argparse.Namespace) -> bool | None:
  return {None: None, "yes": True, "no": False}[args.reduce_stride]


def _inflate_arguments(parser: argparse.ArgumentParser) -> None:
  _source_arguments(
    parser,
    "2D weights: a file of torchvision's, timm's or transformers' ResNets "
    "(.pth, .safetensors), a Caffe one (.caffemodel), or a checkpoint of "
    "schedule S",
  )
  parser.add_argument(
    "--schedule",
    default="ABC",
    help="letters of A, B, C, S, F in turn, or one string a stage: A,BC,S "
    "(default: ABC)",
  )
  parser.add_argument(
    "--rule",
    default="released",
    help="what blocks B and C compute: released, paper or port "
    "(default: released)",
  )
  parser.add_argument(
    "--exact",
    action="store_true",
    help="choose the temporal filters so that a clip of one repeated frame "
    "gives the 2D network's logits (default: draw them)",
  )
  parser.add_argument(
    "--temporal-std",
    type=float,
    help="deviation of the Gaussian that they are drawn from (default: 0.01)",
  )
  parser.add_argument(
    "--flow",
    action="store_true",
    help="read two channels of optical flow (default: what the source reads)",
  )
  parser.add_argument(
    "--num-classes",
    type=int,
    metavar="N",
    help="draw a new head of N classes (default: keep the source's)",
  )
  _labels_argument(parser, "the source's, or their numbers if it has none")
  _reduce_stride_argument(parser, "as in files of this kind")
  _stem_pool_argument(parser, "as in files of this kind")
  _preprocessing_argument(
    parser,
    "default: what stands beside the file, else that of files of this kind",
  )
  parser.add_argument(
    "--seed", type=int, default=0, help="of everything drawn (default: 0)"
  )


def _inflate(args: argparse.Namespace) -> int:
  from p3d_jax.weights.inflate_file import inflate

  report = inflate(
    args.source,
    args.out,
    model=args.model,
    schedule=args.schedule,
    rule=args.rule,
    exact=args.exact,
    temporal_std=args.temporal_std,
    flow=args.flow,
    num_classes=args.num_classes,
    labels=args.labels,
    reduce_stride=_reduce_stride(args),
    stem_pool=args.stem_pool,
    preprocessing=args.preprocessing,
    seed=args.seed,
    check_layers=args.check_layers,
  )
  print(report.text())
  print(args.out)
  return 0


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
  _source_arguments(
    parser,
    "P3D weights: the authors' (.caffemodel), or a checkpoint of the PyTorch "
    "port (.pth, .safetensors)",
  )
  needed = "no default: a port file does not say, and an authors' one does"
  parser.add_argument(
    "--rule",
    help="what blocks B and C were trained to compute: released, paper or port "
    f"({needed})",
  )
  parser.add_argument(
    "--schedule", help=f"which block stands where, such as ABC ({needed})"
  )
  _stem_pool_argument(parser, "that of the rule")
  _reduce_stride_argument(parser, "yes, as in the port and in the release")
  _preprocessing_argument(parser, needed)
  _labels_argument(parser, "their numbers")


def _convert(args: argparse.Namespace) -> int:
  from p3d_jax.weights.convert import convert

  report = convert(
    args.source,
    args.out,
    model=args.model,
    rule=args.rule,
    schedule=args.schedule,
    stem_pool=args.stem_pool,
    reduce_stride=_reduce_stride(args),
    preprocessing=args.preprocessing,
    labels=args.labels,
    check_layers=args.check_layers,
  )
  print(report.text())
  print(args.out)
  return 0


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
  verb.checkpoint_arguments(parser)
  parser.add_argument(
    "--input",
    required=True,
    metavar="NPY",
    help="uint8 frames (batch, time, height, width, 3), RGB, which are "
    "preprocessed here, or floating point clips that already are",
  )
  parser.add_argument(
    "--expected",
    required=True,
    metavar="NPY|NPZ",
    help="what the other program computed: one endpoint, or an .npz of "
    "several by name: stem, res2, res3/block02, pool5, logits, prob",
  )
  parser.add_argument(
    "--channels-first",
    action="store_true",
    help="arrays of both files are (batch, channels, [time,] height, width)",
  )
  parser.add_argument(
    "--endpoint",
    default="logits",
    help="the one that an .npy holds (default: logits)",
  )
  parser.add_argument(
    "--tolerance",
    type=float,
    default=1e-4,
    help="largest max|a - b| / max|b| of an endpoint that agrees "
    "(default: 1e-4)",
  )
  parser.epilog = "Status 0: all agree. 1: they part. 2: a mistake."


def _verify(args: argparse.Namespace) -> int:
  from p3d_jax.weights.verify import verify

  verb.keep_compiled()
  comparison = verify(
    args.checkpoint,
    args.input,
    args.expected,
    endpoint=args.endpoint,
    channels_first=args.channels_first,
    tolerance=args.tolerance,
    step=args.step,
  )
  print(comparison.text())
  return int(comparison.first is not None)


def _batches(text: str) -> int | str:
  if text in ("keep", "none"):
    return text
  if not text.isdecimal():
    raise argparse.ArgumentTypeError(
      f"{text!r} must be 'keep', 'none' or a number of batches"
    )
  return int(text)


def _export_arguments(parser: argparse.ArgumentParser) -> None:
  verb.checkpoint_arguments(parser)
  parser.add_argument(
    "--to",
    required=True,
    choices=_TO,
    help="torch and safetensors: the PyTorch port's names; stablehlo: the "
    "network as a program",
  )
  parser.add_argument("--out", required=True, help="file to write")
  parser.add_argument(
    "--num-batches-tracked",
    type=_batches,
    default="keep",
    metavar="keep|none|N",
    help="that entry of each batch norm in a PyTorch file: as it was in the "
    "source, left out, or a number (default: keep)",
  )


def _export(args: argparse.Namespace) -> int:
  from p3d_jax.weights.export import export

  lines = export(
    args.checkpoint,
    args.out,
    to=args.to,
    batches_tracked=args.num_batches_tracked,
    step=args.step,
  )
  print(lines)
  return 0


INFLATE = verb.Verb(
  "make a P3D network of a 2D ResNet's weights", _inflate_arguments, _inflate
)
CONVERT = verb.Verb("read published P3D weights", _convert_arguments, _convert)
VERIFY = verb.Verb(
  "compare with another program's numbers, endpoint by endpoint",
  _verify_arguments,
  _verify,
)
EXPORT = verb.Verb(
  "write weights for other programs", _export_arguments, _export
)
