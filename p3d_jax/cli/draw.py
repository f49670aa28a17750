"""`p3d draw`: pictures of features, classes, runs, mistakes and PCA."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from p3d_jax.cli import verb

# Classes drawn if none are named: each takes minutes with a large network.
_CLASSES = 8


def _draw_arguments(parser: argparse.ArgumentParser) -> None:
  actions = parser.add_subparsers(dest="action", required=True)
  for name, (text, arguments, _) in ACTIONS.items():
    action = actions.add_parser(
      name, help=text, description=f"{text}.", allow_abbrev=False
    )
    arguments(action)
    action.add_argument(
      "--out", metavar="PNG", required=True, help="the picture, ends in .png"
    )


def _draw(args: argparse.Namespace) -> int:
  from p3d_jax.files import check_out, write_aside

  if not args.out.lower().endswith(".png"):
    raise ValueError(f"out={args.out!r}: must end in .png")
  check_out(args.out)
  write_aside(args.out, ACTIONS[args.action][2](args))
  print(f"written to {args.out}")
  return 0


def _seed_argument(parser: argparse.ArgumentParser, text: str) -> None:
  parser.add_argument(
    "--seed", type=int, default=0, help=f"of {text} (default: 0)"
  )


def _tsne_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "features", metavar="FEATURES", help="file that `p3d features` wrote"
  )
  parser.add_argument(
    "--endpoint", default="pool5", help="of the network (default: pool5)"
  )
  parser.add_argument(
    "--count",
    type=int,
    default=10_000,
    help="rows at most, drawn at random; the paper's picture has 10,000 videos "
    "(default: 10000)",
  )
  parser.add_argument(
    "--perplexity",
    type=float,
    default=30.0,
    help="how many neighbours a row has, about (default: 30)",
  )
  _seed_argument(parser, "t-SNE, and of which rows are drawn")


def _tsne(args: argparse.Namespace) -> bytes:
  from p3d_jax.evaluate.feature_file import load_features
  from p3d_jax.visualize.tsne import check_perplexity, draw_rows, tsne_png

  verb.at_least_one(args, "count")
  _check_seed(args)
  found = load_features(args.features)
  features = found.endpoint(args.endpoint)
  rows = draw_rows(len(features), args.count, args.seed)
  check_perplexity(args.perplexity, len(rows))
  if len(rows) < len(features):
    _say(f"{len(rows)} of {len(features)} rows, drawn with seed {args.seed}")
  if (found.labels[rows, 1:] >= 0).any():
    _say("rows of several labels have the colour of the first")
  _say("t-SNE runs: seconds for hundreds of rows, minutes for 10,000")
  return tsne_png(
    features[rows].reshape(len(rows), -1),
    found.labels[rows, 0] if found.labels.shape[1] else _no_labels(len(rows)),
    found.label_names,
    seed=args.seed,
    perplexity=args.perplexity,
  )


def _no_labels(rows: int) -> Any:
  import numpy as np

  return np.full(rows, -1)


def _check_seed(args: argparse.Namespace) -> None:
  # scikit-learn takes no other.
  if not 0 <= args.seed < 2**32:
    raise ValueError(f"--seed is {args.seed}: it must be in 0..{2**32 - 1}")


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


def _classes_arguments(parser: argparse.ArgumentParser) -> None:
  verb.checkpoint_arguments(parser)
  parser.add_argument(
    "--labels",
    metavar="NAME",
    nargs="+",
    help=f"classes to draw (default: the first {_CLASSES})",
  )
  parser.add_argument(
    "--steps", type=int, default=200, help="of the ascent (default: 200)"
  )
  _seed_argument(parser, "the noise that it starts from")


def _classes(args: argparse.Namespace) -> bytes:
  import numpy as np

  from p3d_jax.checkpoint import model
  from p3d_jax.evaluate.predict import classifier
  from p3d_jax.visualize.class_pictures import (
    class_clips,
    class_pictures_png,
    scores_of,
  )

  verb.at_least_one(args, "steps")
  _check_seed(args)
  verb.keep_compiled()
  folder = classifier(args.checkpoint, args.step, flow=True)
  names = model.read_record(folder).labels
  labels = _labels(names, args.labels)
  module, variables, record = model.load(folder)
  clips = class_clips(
    module, variables, record, labels, steps=args.steps, seed=args.seed
  )
  scores = scores_of(module, variables, record, clips)
  shown = [names[label] for label in labels]
  width = max(len(name) for name in shown)
  print("score of each picture for its class, and the highest of the others:")
  for name, label, row in zip(shown, labels, scores, strict=True):
    other = np.delete(row, label).max(initial=0)
    print(f"  {name:<{width}}  {100 * row[label]:5.1f}  {100 * other:5.1f}")
  return class_pictures_png(clips, shown)


def _labels(names: tuple[str, ...], wanted: list[str] | None) -> list[int]:
  """Returns the classes that are named, or the first."""
  if wanted is None:
    if len(names) > _CLASSES:
      _say(
        f"the first {_CLASSES} of {len(names)} classes: --labels names others"
      )
    return list(range(min(len(names), _CLASSES)))
  for name in wanted:
    if name not in names:
      more = ", ..." if len(names) > 8 else ""
      raise ValueError(
        f"--labels has {name!r}: the classes are {', '.join(names[:8])}{more}"
      )
  return [names.index(name) for name in dict.fromkeys(wanted)]


def _curves_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "workdirs", metavar="WORKDIR", nargs="+", help="of runs, 10 at most"
  )


def _curves(args: argparse.Namespace) -> bytes:
  from p3d_jax.visualize.curves import curves_png

  return curves_png(args.workdirs)


def _confusion_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "scores", metavar="SCORES.npz", help="file that `p3d evaluate` wrote"
  )


def _confusion(args: argparse.Namespace) -> bytes:
  from p3d_jax.evaluate.score_file import load_scores
  from p3d_jax.train.metrics import confusion
  from p3d_jax.visualize.confusion import confusion_png

  found = load_scores(args.scores)
  if lost := int((~found.readable).sum()):
    _say(
      f"{lost} of {len(found.ids)} videos could not be read and are not in the "
      "picture; `p3d evaluate` counts them as missed"
    )
  return confusion_png(confusion(found.to_scores()), found.label_names)


def _pca_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "result", metavar="PCA.json", help="file that `p3d pca` wrote"
  )


def _pca(args: argparse.Namespace) -> bytes:
  from p3d_jax.visualize.pca_curve import load_pca, pca_png

  return pca_png(load_pca(args.result))


# action -> (a line of help, adds its arguments, returns the PNG)
ACTIONS: dict[str, tuple[str, Any, Any]] = {
  "tsne": ("features as points of a plane, by t-SNE", _tsne_arguments, _tsne),
  "classes": (
    "clips that a network takes for a class most of all",
    _classes_arguments,
    _classes,
  ),
  "curves": (
    "loss, accuracy and learning rate of runs",
    _curves_arguments,
    _curves,
  ),
  "confusion": (
    "which classes are taken for which",
    _confusion_arguments,
    _confusion,
  ),
  "pca": (
    "accuracy against the number of PCA dimensions",
    _pca_arguments,
    _pca,
  ),
}

DRAW = verb.Verb(
  "a picture of features, classes, runs, mistakes or PCA",
  _draw_arguments,
  _draw,
)
