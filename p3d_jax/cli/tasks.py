"""`p3d svm`, `p3d scenes` and `p3d pca`: linear SVMs on features."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from p3d_jax.cli import verb

if TYPE_CHECKING:
  from p3d_jax.evaluate.linear_svm import Recipe

# The paper says neither, and whoever reads a number must know.
_ABOUT = """\
The paper states neither the SVM's cost nor how features are normalised. Here
each video's feature is divided by its L2 norm (--normalize), and the cost is
chosen by cross-validation within the training videos (--costs, --folds), with
videos of one source on one side of a fold."""


def _task_arguments(parser: argparse.ArgumentParser) -> None:
  parser.epilog = _ABOUT
  parser.add_argument(
    "features",
    metavar="FEATURES",
    help="file of `p3d features`, a row for each video",
  )
  parser.add_argument(
    "test_features",
    metavar="TEST_FEATURES",
    nargs="?",
    help="file of the test videos; FEATURES are then for training",
  )
  parser.add_argument(
    "--train",
    nargs="+",
    default=[],
    metavar="LIST",
    help="lists of the set to train on, in pairs with --test: "
    "--train train1 train2 train3 --test test1 test2 test3",
  )
  parser.add_argument(
    "--test",
    nargs="+",
    default=[],
    metavar="LIST",
    help="lists of the set to test on",
  )
  parser.add_argument(
    "--data", help="built set with the lists; default: that of the features"
  )
  _recipe_arguments(parser, "0.01 0.1 1 10 100")
  _missing_argument(
    parser,
    "videos of a list that may have no features; in the test they count as "
    "missed (default: 0)",
  )


def _recipe_arguments(parser: argparse.ArgumentParser, costs: str) -> None:
  parser.add_argument(
    "--endpoint", default="pool5", metavar="NAME", help="default: pool5"
  )
  parser.add_argument(
    "--normalize",
    choices=["l2", "standard", "none"],
    default="l2",
    help="l2: each video's feature divided by its norm; standard: each number "
    "to mean 0 and deviation 1 over the training videos (default: l2)",
  )
  parser.add_argument(
    "--costs",
    type=float,
    nargs="+",
    metavar="C",
    help="of the SVM, chosen by cross-validation within the training videos; "
    f"one is taken as it is (default: {costs})",
  )
  parser.add_argument(
    "--folds",
    type=int,
    default=3,
    help="of the cross-validation; each class needs as many sources "
    "(default: 3)",
  )
  parser.add_argument(
    "--seed",
    type=int,
    default=0,
    help="of the folds and the solver (default: 0)",
  )
  parser.add_argument("--out", metavar="JSON", help="default: only printed")


def _missing_argument(parser: argparse.ArgumentParser, text: str) -> None:
  parser.add_argument(
    "--max-missing", type=int, default=0, metavar="N", help=text
  )


def _recipe(args: argparse.Namespace, costs: tuple[float, ...]) -> Recipe:
  from p3d_jax.evaluate.linear_svm import Recipe

  verb.json_out(args)
  verb.at_least_zero(args, "max_missing")
  return Recipe(
    args.normalize, tuple(args.costs or costs), args.folds, args.seed
  )


def _svm_arguments(parser: argparse.ArgumentParser) -> None:
  _task_arguments(parser)
  verb.hits_argument(parser)


def _svm(args: argparse.Namespace) -> int:
  from p3d_jax.evaluate.linear_svm import COSTS
  from p3d_jax.evaluate.svm import report, svm

  result = svm(
    args.features,
    args.test_features,
    train=args.train,
    test=args.test,
    data=args.data,
    endpoint=args.endpoint,
    recipe=_recipe(args, COSTS),
    ks=verb.hits(args),
    max_missing=args.max_missing,
    out=args.out,
  )
  verb.told(report(result), args.out)
  return 0


def _scenes_arguments(parser: argparse.ArgumentParser) -> None:
  parser.epilog = (
    f"{_ABOUT} It is chosen anew for each video, within the others."
  )
  parser.add_argument(
    "features",
    metavar="FEATURES",
    help="file of `p3d features`, a row for each video",
  )
  _recipe_arguments(parser, "0.01 0.1 1 10 100")
  _missing_argument(
    parser,
    "videos that may be left out of the file, as they could not be read "
    "(default: 0)",
  )


def _scenes(args: argparse.Namespace) -> int:
  from p3d_jax.evaluate.linear_svm import COSTS
  from p3d_jax.evaluate.scenes import report, scenes

  result = scenes(
    args.features,
    endpoint=args.endpoint,
    recipe=_recipe(args, COSTS),
    max_missing=args.max_missing,
    out=args.out,
  )
  verb.told(report(result), args.out)
  return 0


def _pca_arguments(parser: argparse.ArgumentParser) -> None:
  _task_arguments(parser)
  parser.add_argument(
    "--sizes",
    type=int,
    nargs="+",
    metavar="N",
    help="dimensions that are left, of the normalised features (default: of "
    "500 400 300 200 100 50 30 10 those that videos and features allow)",
  )


def _pca(args: argparse.Namespace) -> int:
  from p3d_jax.evaluate.linear_svm import COSTS
  from p3d_jax.evaluate.pca import pca, report

  result = pca(
    args.features,
    args.test_features,
    train=args.train,
    test=args.test,
    data=args.data,
    endpoint=args.endpoint,
    sizes=args.sizes,
    recipe=_recipe(args, COSTS),
    max_missing=args.max_missing,
    out=args.out,
  )
  verb.told(report(result), args.out)
  return 0


SVM = verb.Verb(
  "a linear SVM on features: accuracy on lists of a set", _svm_arguments, _svm
)
SCENES = verb.Verb(
  "leave one video out: a linear SVM on features", _scenes_arguments, _scenes
)
PCA = verb.Verb(
  "accuracy of a linear SVM against the PCA size of features",
  _pca_arguments,
  _pca,
)
