"""A picture of scores over the time of a video."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from p3d_jax.files import write_aside


def timeline(
  out: epath.PathLike,
  times: np.ndarray,
  scores: np.ndarray,
  labels: Sequence[str],
  *,
  title: str,
  classes: int = 5,
) -> None:
  """Draws the scores of the strongest classes over time, as a PNG.

  Args:
    out: path of the picture.
    times: (clips,), in seconds, ascending.
    scores: (clips, classes), in 0..1.
    labels: names of the classes.
    title: above the picture.
    classes: how many are drawn: those of the highest mean score.
  """
  chosen = np.argsort(-scores.mean(0), kind="stable")[:classes]
  # Without pyplot: the backend of the program around stays as it is.
  figure = Figure(figsize=(9, 3.6), dpi=120, layout="constrained")
  axes = figure.subplots()
  for index in chosen:
    line = axes.plot(
      times, scores[:, index], marker="o", markersize=3, label=labels[index]
    )[0]
    axes.fill_between(
      times, scores[:, index], alpha=0.1, color=line.get_color()
    )
  axes.set(
    xlabel="middle of the clip (seconds)",
    ylabel="score",
    ylim=(0, 1.02),
    title=title,
  )
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png")
  write_aside(out, buffer.getvalue())
