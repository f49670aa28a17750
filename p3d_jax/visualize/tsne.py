"""Features as points of a plane, by t-SNE: neighbours stay neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from p3d_jax.visualize.figure import CLEAR, colors, markers, plain, png

# Wider features are first reduced to so many dimensions, as the authors of
# t-SNE do (van der Maaten and Hinton 2008 take 30, scikit-learn advises 50).
WIDEST = 50
PERPLEXITY = 30.0  # scikit-learn's; the paper states none
COUNT = 10_000  # videos of UCF101 in the paper's picture
_NONE = (0.7, 0.7, 0.7)


def tsne_png(
  features: np.ndarray,
  labels: np.ndarray,
  names: Sequence[str],
  *,
  seed: int = 0,
  perplexity: float = PERPLEXITY,
) -> bytes:
  """Draws features in two dimensions, a colour a class.

  Args:
    features: (rows, dims); those of more than 50 dims go through PCA first.
    labels: int (rows,), indices into the names; -1 has none and is grey.
    names: of the classes.
    seed: of PCA and t-SNE.
    perplexity: how many neighbours each row has, about; below the rows.

  Returns:
    A PNG.

  Raises:
    ValueError: an argument is not so, or all rows are the same.
  """
  return png(tsne_figure(features, labels, names, seed, perplexity), tight=True)


def embed(
  features: np.ndarray, *, seed: int = 0, perplexity: float = PERPLEXITY
) -> np.ndarray:
  """Maps features (rows, dims) to float32 (rows, 2); see `tsne_png`."""
  features = np.asarray(features, np.float32)
  if features.ndim != 2:
    raise ValueError(
      f"features are {features.shape}: they must be (rows, dims)"
    )
  check_perplexity(perplexity, len(features))
  if not np.isfinite(features).all():
    raise ValueError("features: a row has numbers that are not finite")
  if (features == features[0]).all():
    raise ValueError(f"features: all {len(features)} rows are the same")
  widest = min(WIDEST, len(features))
  if features.shape[1] > widest:
    features = PCA(widest, random_state=seed).fit_transform(features)
  one = features.shape[1] == 1  # PCA, with which t-SNE begins, needs two
  return TSNE(
    perplexity=perplexity, init="random" if one else "pca", random_state=seed
  ).fit_transform(features)


def check_perplexity(perplexity: float, rows: int) -> None:
  """Raises a ValueError if rows are too few for a perplexity."""
  if not 0 < perplexity < rows:
    raise ValueError(
      f"perplexity is {perplexity:g}: it must be > 0 and below the {rows} rows"
    )


def draw_rows(rows: int, count: int, seed: int) -> np.ndarray:
  """Returns which rows are shown, drawn at random, ascending.

  Args:
    rows: that there are.
    count: shown at most.
    seed: of the draw.
  """
  if count >= rows:
    return np.arange(rows)
  chosen = np.random.default_rng(seed).permutation(rows)[:count]
  return np.sort(chosen)


def tsne_figure(
  features: np.ndarray,
  labels: np.ndarray,
  names: Sequence[str],
  seed: int,
  perplexity: float,
) -> Figure:
  """Draws what `tsne_png` says."""
  features, labels = np.asarray(features), np.asarray(labels)
  if labels.shape != features.shape[:1]:
    raise ValueError(
      f"labels are {labels.shape}: there must be one for each of the "
      f"{len(features)} rows"
    )
  if len(labels) and not -1 <= labels.min() <= labels.max() < len(names):
    raise ValueError(
      f"labels are {labels.min()} to {labels.max()}: they must be -1 or an "
      f"index of the {len(names)} names"
    )
  points = embed(features, seed=seed, perplexity=perplexity)
  figure = Figure(figsize=(7.5, 7.5), dpi=120)
  axes = figure.add_axes((0, 0, 1, 1))  # png() makes room for the words
  _scatter(axes, points, labels, names)
  axes.set_title(_title(features, perplexity))
  # The axes of t-SNE have no unit, and their directions no meaning.
  axes.set(xticks=[], yticks=[])
  axes.set_aspect("equal", adjustable="datalim")
  return figure


def _title(features: np.ndarray, perplexity: float) -> str:
  rows, dims = features.shape
  widest = min(WIDEST, rows)
  reduced = f", by PCA {widest}" if dims > widest else ""
  return (
    f"t-SNE of {rows:,} rows of {dims:,} numbers{reduced}; "
    f"perplexity {perplexity:g}"
  )


def _scatter(
  axes: Axes, points: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> None:
  """Draws the points and, beside or below, which class is which."""
  shown = np.unique(labels[labels >= 0])
  many = len(shown) > 2 * CLEAR
  # A point is as large as leaves half of the plane white.
  size = float(np.clip(40_000 / len(points), 4, 40))
  handles, said = [], []
  if (labels < 0).any():
    rest = points[labels < 0]
    handles.append(
      axes.scatter(rest[:, 0], rest[:, 1], s=size, color=_NONE, linewidths=0)
    )
    said.append("no label")
  looks = zip(shown, colors(len(shown)), markers(len(shown)), strict=True)
  for label, color, marker in looks:
    mine = points[labels == label]
    handles.append(
      axes.scatter(
        mine[:, 0],
        mine[:, 1],
        s=size,
        color=color,
        marker=marker,
        alpha=0.8,
        linewidths=0,
      )
    )
    number = f"{label}  " if many else ""
    said.append(number + plain(names[label]))
    if many:
      _write(axes, mine, str(label))
  _legend(axes, handles, said, many)


def _write(axes: Axes, points: np.ndarray, text: str) -> None:
  """Writes at the point of a class that is in its middle."""
  middle = np.median(points, axis=0)
  at = points[np.argmin(((points - middle) ** 2).sum(1))]
  axes.text(
    at[0],
    at[1],
    text,
    fontsize=6,
    ha="center",
    va="center",
    bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.6},
  )


def _legend(axes: Axes, handles: list, said: list[str], many: bool) -> None:
  """Beside the picture if it is short, else in columns below."""
  if not said:
    return
  if many:
    widest = max(len(text) for text in said)
    legend = axes.legend(
      handles,
      said,
      loc="upper center",
      bbox_to_anchor=(0.5, -0.01),
      ncols=max(140 // (widest + 5), 1),
      fontsize=7,
      frameon=False,
      columnspacing=1,
      handletextpad=0.2,
    )
  else:
    legend = axes.legend(
      handles,
      said,
      loc="center left",
      bbox_to_anchor=(1, 0.5),
      frameon=False,
    )
  for handle in legend.legend_handles:
    cast(Any, handle).set(sizes=[25 if many else 45], alpha=1)
