"""Accuracy against the number of PCA dimensions, as `p3d pca` finds it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from p3d_jax.files import absolute, reading_as
from p3d_jax.visualize.figure import png

# Dimensions between which the paper shows UCF101.
PAPER = (10, 500)
METRIC = "video_hit@1"


def load_pca(path: epath.PathLike) -> dict[str, Any]:
  """Reads a file that `p3d pca` wrote, as far as it is drawn.

  Raises:
    ValueError: there is no such file, or it is of something else.
  """
  file = absolute(path)
  if file.is_dir():
    raise ValueError(f"{os.fspath(path)}: it is a folder, not a file")
  if not file.is_file():
    raise ValueError(f"{os.fspath(path)}: there is no such file")
  with reading_as(path, "result of `p3d pca`"):
    found = _json(file.read_bytes())
    return {
      "sizes": [_row(row) for row in found["sizes"]],
      "without_pca": _row(found["without_pca"]),
    }


def _json(content: bytes) -> dict[str, Any]:
  """Reads what is drawn; a ValueError says what is wrong with it."""
  try:
    found = json.loads(content.decode())
  except ValueError:
    # Of a file of other bytes, the reason may be long and says nothing.
    raise ValueError("it is no JSON") from None
  if not isinstance(found, dict):
    raise ValueError("it is no JSON object")
  _check(found, "it", "sizes", "without_pca")
  return found


def _check(found: Mapping[str, Any], what: str, *names: str) -> None:
  if missing := [name for name in names if name not in found]:
    raise ValueError(f"{what} has no {', '.join(missing)}")


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
  _check(row, "a size", "size", METRIC)
  return {"size": int(row["size"]), METRIC: float(row[METRIC])}


def pca_png(result: Mapping[str, Any]) -> bytes:
  """Draws video hit@1 over the number of dimensions, logarithmic.

  Args:
    result: as `evaluate.pca` returns it: "sizes", for each "size" (dimensions)
      and "video_hit@1" (percent), and "without_pca", the same of whole
      features.

  Returns:
    A PNG.

  Raises:
    ValueError: there are no sizes, or one is below 1.
  """
  return png(pca_figure(result))


def pca_figure(result: Mapping[str, Any]) -> Figure:
  """Draws what `pca_png` says."""
  found = sorted((row["size"], row[METRIC]) for row in result["sizes"])
  if not found or found[0][0] < 1:
    raise ValueError("sizes: there must be some, each >= 1")
  sizes, hits = np.array(found).T
  figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
  axes = figure.subplots()
  axes.plot(sizes, hits, marker="o", markersize=5, label="after PCA")
  _write_hits(axes, found)
  whole = result["without_pca"]
  axes.axhline(
    whole[METRIC],
    color="0.4",
    linestyle="--",
    linewidth=1,
    label=f"all {whole['size']:,} dimensions: {whole[METRIC]:.1f}",
  )
  axes.set_xscale("log")
  axes.set_xlim(min(PAPER[0], sizes[0]) / 1.15, max(PAPER[1], sizes[-1]) * 1.15)
  axes.xaxis.set_minor_locator(NullLocator())
  axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
  axes.set(
    xlabel="dimensions after PCA (the paper: 500 down to 10)",
    ylabel="video hit@1 (%)",
  )
  axes.margins(y=0.15)
  axes.grid(alpha=0.25)
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(loc="lower right", frameon=False)
  return figure


def _write_hits(axes: Axes, found: Sequence[tuple[int, float]]) -> None:
  """Writes each accuracy over its point."""
  for size, hit in found:
    axes.annotate(
      f"{hit:.1f}",
      (size, hit),
      xytext=(0, 7),
      textcoords="offset points",
      ha="center",
      fontsize=9,
      # Readable where a line crosses it.
      bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5},
    )
