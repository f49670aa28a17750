"""The confusion matrix as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from p3d_jax.visualize.figure import plain, png

# Inches a class: the largest, and the least at which a line of 5.5 points fits.
LARGEST, LEAST = 0.7, 0.085
SIDE = 6.5  # inches of the square, unless the least asks for more
NUMBERS = 24  # with more classes a cell has no room for its number
DECIMALS = 12  # with more, it has none for a decimal
DPI = 120


def confusion_png(matrix: np.ndarray, names: Sequence[str]) -> bytes:
  """Draws how often videos of each class are taken for which.

  Args:
    matrix: (classes, classes), readable videos: a row a true class, a column a
      class that the network says, as `metrics.confusion` counts them. A row
      becomes percent of its sum; one without videos is drawn grey.
    names: of the classes.

  Returns:
    A PNG; it grows with the classes, so that their names can be read.

  Raises:
    ValueError: the matrix is not a square of such numbers, or has no videos.
  """
  return png(confusion_figure(matrix, names), tight=True)


def percent(matrix: np.ndarray) -> np.ndarray:
  """Returns rows as percent of their sums, float64; a row of none is NaN."""
  matrix = np.asarray(matrix, np.float64)
  total = matrix.sum(1, keepdims=True)
  return np.divide(
    100 * matrix, total, out=np.full_like(matrix, np.nan), where=total > 0
  )


def confusion_figure(matrix: np.ndarray, names: Sequence[str]) -> Figure:
  """Draws what `confusion_png` says."""
  matrix, count = np.asarray(matrix), len(names)
  if matrix.shape != (count, count):
    raise ValueError(
      f"matrix is {matrix.shape}: it must be (classes, classes) of the "
      f"{count} names"
    )
  if not (np.isfinite(matrix).all() and (matrix >= 0).all() and matrix.any()):
    raise ValueError("matrix: it must be of finite numbers >= 0, not all 0")
  shares = percent(matrix)
  side = min(max(SIDE, LEAST * count), LARGEST * count)
  font = min(72 * 0.9 * side / count, 10)
  figure = Figure(figsize=(side, side), dpi=DPI)
  axes = figure.add_axes((0, 0, 1, 1))  # png() makes room for the words
  axes.set_facecolor("0.85")
  # Without numbers, what is rare would not be seen on a linear scale.
  norm = PowerNorm(1 if count <= NUMBERS else 0.5, vmin=0, vmax=100)
  image = axes.imshow(shares, cmap="Blues", norm=norm)
  shown = [plain(name) for name in names]
  ticks = range(count)
  axes.set_yticks(ticks, shown, fontsize=font)
  axes.set_xticks(
    ticks,
    shown,
    fontsize=font,
    rotation=90 if count > NUMBERS else 45,
    ha="right",
    va="center",
    rotation_mode="anchor",
  )
  axes.tick_params(length=0)
  axes.set(ylabel="true class", xlabel="what the network says")
  axes.spines[:].set_visible(False)
  if count <= NUMBERS:
    _write_numbers(axes, shares, font)
  else:
    _mark_tens(axes, count)
  found = np.diagonal(shares)
  axes.set_title(
    # Shares of videos of several labels add up to whole ones, but for rounding.
    f"Percent of each class's readable videos, {round(matrix.sum()):,} in all\n"
    f"mean of the diagonal {np.nanmean(found):.1f}"
    + (" (grey: no videos)" if np.isnan(found).any() else "")
  )
  # Of one width and at one distance, in inches, however large the square is.
  bar = axes.inset_axes((1 + 0.15 / side, 0, 0.18 / side, min(1, 6 / side)))
  figure.colorbar(image, cax=bar).outline.set_visible(False)
  return figure


def _write_numbers(axes: Axes, shares: np.ndarray, font: float) -> None:
  """Writes what is at least half a percent into the cells."""
  digits = 1 if len(shares) <= DECIMALS else 0
  for (row, column), share in np.ndenumerate(shares):
    if share >= 0.5:
      axes.text(
        column,
        row,
        _rounded(share, digits),
        ha="center",
        va="center",
        fontsize=font * 0.9,
        color="white" if share > 55 else "0.2",
      )


def _rounded(share: float, digits: int) -> str:
  """Returns a share with a decimal only where it is not 0; halves go up."""
  return f"{math.floor(share * 10**digits + 0.5) / 10**digits:g}"


def _mark_tens(axes: Axes, count: int) -> None:
  """Draws thin lines that lead from a name to its cells."""
  for k in range(10, count, 10):
    axes.axhline(k - 0.5, color="0.75", linewidth=0.4)
    axes.axvline(k - 0.5, color="0.75", linewidth=0.4)
