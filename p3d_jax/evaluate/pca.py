"""How many dimensions do features need? Accuracy against their PCA.

The paper draws it for UCF101 from 500 dimensions down to 10. Features are
normalised as for the SVM, then the PCA of the training videos (their mean
taken away, nothing whitened, not normalised again) takes all videos to its
first dimensions, and a linear SVM is trained in them; see `linear_svm.py`. Each
size has the cost that a cross-validation chooses. Its folds share the PCA of
all training videos, which knows no labels; test videos have no part in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from sklearn.decomposition import PCA

from p3d_jax.evaluate.feature_lists import Pair, Samples, Task, open_task
from p3d_jax.evaluate.linear_svm import (
  DEFAULT,
  Recipe,
  prepare,
  train_and_test,
)
from p3d_jax.evaluate.svm import (
  about,
  check_folds,
  counter,
  how,
  mean,
  remarks,
)
from p3d_jax.files import check_out, write_json
from p3d_jax.progress import Bar

# The paper draws 500 down to 10; the sizes between are of our choice.
SIZES = (500, 400, 300, 200, 100, 50, 30, 10)


def pca(
  features: epath.PathLike,
  test_features: epath.PathLike | None = None,
  *,
  train: Sequence[str] = (),
  test: Sequence[str] = (),
  data: epath.PathLike | None = None,
  endpoint: str = "pool5",
  sizes: Sequence[int] | None = None,
  recipe: Recipe = DEFAULT,
  max_missing: int = 0,
  out: epath.PathLike | None = None,
) -> dict[str, Any]:
  """Trains and tests a linear SVM on the first dimensions of a PCA.

  Args:
    features: see `open_task`, as for the next four.
    test_features: file of the test videos.
    train: lists of the set, in pairs with `test`.
    test: lists of the set.
    data: folder of the set.
    endpoint: of the network.
    sizes: numbers of dimensions; None: those of `SIZES` that the training
      videos and the features allow.
    recipe: of the SVM.
    max_missing: how many videos may be missing, see `open_task`.
    out: JSON file of the result; None writes none.

  Returns:
    "sizes", for each from the largest on "size" and its accuracies, the mean
    over the pairs; "without_pca", the accuracies of whole features with their
    "size"; "left_out_sizes", of `SIZES` those that are too large; "splits",
    for each pair "train", "test", "sizes" and "without_pca" in full, the
    first with "variance", the share of it that these dimensions hold; and how
    the SVMs were made.

  Raises:
    ValueError: an argument, a file or a list is not as it must be, or a size
      is larger than the number of training videos or of dimensions.
  """
  if out is not None:
    check_out(out)
  task = open_task(
    features,
    test_features,
    train=train,
    test=test,
    data=data,
    endpoint=endpoint,
    max_missing=max_missing,
  )
  taken = _sizes(task, sizes)
  check_folds(task, recipe)
  splits = []
  with Bar("pca", len(task.pairs) * (len(taken) + 1) * recipe.fits) as bar:
    done = counter(bar)
    for pair in task.pairs:
      splits.append(_split(task, pair, taken, recipe, done))
  whole = [split["without_pca"] for split in splits]
  result = {
    "sizes": [
      {"size": size} | mean([split["sizes"][k] for split in splits])
      for k, size in enumerate(taken)
    ],
    "without_pca": {"size": task.samples.x.shape[1]} | mean(whole),
    "left_out_sizes": [] if sizes else sorted({*SIZES} - {*taken})[::-1],
    "splits": splits,
    **about(task.about, endpoint, recipe),
  }
  if out is not None:
    write_json(out, result)
  return result


def _sizes(task: Task, sizes: Sequence[int] | None) -> tuple[int, ...]:
  """Returns the sizes, from the largest on."""
  videos = min(len(pair.train_rows) for pair in task.pairs)
  dims = task.samples.x.shape[1]
  most = min(videos, dims)
  if sizes is None:
    sizes = [size for size in SIZES if size <= most] or [most]
  if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
    raise ValueError(
      f"sizes={tuple(sizes)}: must be one or more >= 1, each once"
    )
  if max(sizes) > most:
    raise ValueError(
      f"sizes: {max(sizes)} is more than a PCA of {videos} training videos of "
      f"{dims} dimensions has: at most {most}"
    )
  return tuple(sorted(sizes, reverse=True))


def _split(
  task: Task,
  pair: Pair,
  sizes: tuple[int, ...],
  recipe: Recipe,
  done: Any,
) -> dict[str, Any]:
  """Every size of one pair, and whole features."""
  train = task.samples.take(pair.train_rows)
  test = task.samples.take(pair.test_rows)
  whole = train_and_test(train, test, task.names, recipe, done=done)
  a, b, variance = project(train.x, test.x, recipe.normalize, sizes[0])
  # The PCA's dimensions are taken as they are.
  plain = dataclasses.replace(recipe, normalize="none")
  found = []
  for size in sizes:
    numbers = train_and_test(
      _first(train, a, size),
      _first(test, b, size),
      task.names,
      plain,
      done=done,
    )
    share = float(variance[:size].sum())
    found.append({"size": size, "variance": share} | numbers)
  return pair.about() | {"without_pca": whole, "sizes": found}


def project(
  train: np.ndarray, test: np.ndarray, normalize: str, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Takes features to the first dimensions of the training videos' PCA.

  Args:
    train: (videos, dims).
    test: (videos, dims).
    normalize: what is done before: a name of `linear_svm.NORMALIZE`.
    size: dimensions of the result.

  Returns:
    The two (videos, size), and the share of the training videos' variance
    that each dimension holds (size,).
  """
  a, b = prepare(normalize, train, test)
  # Neither draws at random, as the solver for large data would.
  solver = "full" if len(a) < a.shape[1] else "covariance_eigh"
  found = PCA(size, svd_solver=solver).fit(a)
  share = found.explained_variance_ratio_
  return found.transform(a), found.transform(b), share


def _first(samples: Samples, x: np.ndarray, size: int) -> Samples:
  return dataclasses.replace(samples, x=x[:, :size])


def report(result: dict[str, Any]) -> str:
  """Returns the result as people read it."""
  splits = result["splits"]
  pairs = ", ".join(f"{split['train']} -> {split['test']}" for split in splits)
  lines = [f"{how(result)}, then PCA", pairs]
  if len(splits) > 1:
    lines.append(f"means of {len(splits)}")
  whole = result["without_pca"]
  lines.append(f"  no PCA ({whole['size']})  {whole['video_hit@1']:5.1f}")
  width = len(f"no PCA ({whole['size']})")
  for row in result["sizes"]:
    lines.append(f"  {row['size']:>{width}}  {row['video_hit@1']:5.1f}")
  if result["left_out_sizes"]:
    sizes = ", ".join(map(str, result["left_out_sizes"]))
    lines.append(
      f"left out, as there are not so many videos or dimensions: {sizes}"
    )
  for split in splits:
    told = {**split["without_pca"], **split}
    # What is said of costs is in the JSON, for each size.
    notes = remarks(told | {"cross_validation": []}, result["costs"])[1:]
    lines += [f"{split['test']}: {note}" for note in notes]
  return "\n".join(lines)
