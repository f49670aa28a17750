"""Training curves of one run or of several, out of their metrics.jsonl."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from p3d_jax.files import absolute, reading_as
from p3d_jax.train import logs
from p3d_jax.visualize.figure import CLEAR, Color, colors, plain, png

# The running mean is over this share of the lines of the longest run, if that
# is not below the least: of few lines it would show no more than they do.
SHARE, LEAST = 20, 5
# Metric of an evaluation -> how its line is drawn. Of one evaluation there is
# no line, so the marks differ: a dot can be seen within a hollow square.
STYLES: dict[str, dict[str, Any]] = {
  "video_hit@1": {"linestyle": "-", "marker": "o", "markersize": 4},
  "clip_hit@1": {
    "linestyle": "--",
    "marker": "s",
    "markersize": 7,
    "markerfacecolor": "none",
  },
}

Lines = list[dict[str, Any]]


def curves_png(workdirs: Sequence[epath.PathLike]) -> bytes:
  """Draws loss, accuracy, learning rate and speed over the steps.

  A run is a colour.

  Args:
    workdirs: of the runs, 1 to 10.

  Returns:
    A PNG.

  Raises:
    ValueError: there are none or too many of them, or one is no run that has
      logged a step.
  """
  return png(curves_figure(workdirs))


def curves_figure(workdirs: Sequence[epath.PathLike]) -> Figure:
  """Draws what `curves_png` says.

  The loss is drawn faint as it was logged, and in full its running mean; of few
  lines it is drawn as logged alone.
  """
  if not 1 <= len(workdirs) <= CLEAR:
    raise ValueError(
      f"workdirs are {len(workdirs)}: 1 to {CLEAR} can be told apart"
    )
  runs = [_read(workdir) for workdir in workdirs]
  names, shades = run_names(workdirs), colors(len(runs))
  rated = any("learning_rate" in line for run in runs for line in run)
  scored = any(line["kind"] == "eval" for run in runs for line in run)
  timed = any("step_seconds_p50" in line for run in runs for line in run)
  rows = {
    "loss": 3.0,
    "hits": 3.0 * scored,
    "rate": 1.5 * rated,
    "seconds": 1.5 * timed,
  }
  rows = {name: height for name, height in rows.items() if height}
  figure = Figure(
    figsize=(9, 1 + sum(rows.values())), dpi=120, layout="constrained"
  )
  grid = figure.subplots(
    len(rows), sharex=True, squeeze=False, height_ratios=list(rows.values())
  )
  for name, axes in zip(rows, grid[:, 0], strict=True):
    _PANELS[name](axes, runs, shades)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.margins(x=0.02)
  grid[-1, 0].set_xlabel("step")
  figure.legend(
    [Line2D([], [], color=shade, linewidth=2) for shade in shades],
    [plain(name) for name in names],
    loc="outside upper center",
    ncols=min(len(names), 4),
    frameon=False,
  )
  return figure


def _read(workdir: epath.PathLike) -> Lines:
  """Reads the lines of training and evaluation of a run."""
  folder = absolute(workdir)
  with reading_as(folder / logs.METRICS, "file of a run's metrics"):
    lines = [
      line for line in logs.read(folder) if line["kind"] in ("train", "eval")
    ]
  if not any(line["kind"] == "train" for line in lines):
    raise ValueError(
      f"workdirs has {os.fspath(workdir)!r}: it must be a workdir of "
      f"`p3d train`, with steps in {logs.METRICS}"
    )
  return lines


def run_names(workdirs: Sequence[epath.PathLike]) -> list[str]:
  """Returns the last folders of paths, as few as tell the runs apart.

  Raises:
    ValueError: one is there twice.
  """
  paths = [absolute(path) for path in workdirs]
  for k, path in enumerate(paths):
    if path in paths[:k]:
      raise ValueError(f"workdirs has {os.fspath(path)!r} twice")
  depth, names = 0, [""]
  while len(set(names)) < len(paths) or not depth:
    depth += 1
    names = ["/".join(path.parts[-depth:]) for path in paths]
  return names


def running_mean(values: np.ndarray, half: int) -> np.ndarray:
  """Returns the mean of each value and of as many before and after it.

  Not of those before it alone: that would lie above a loss that falls.

  Args:
    values: (lines,).
    half: how many before, and how many after; there are fewer at the ends.

  Returns:
    (lines,).
  """
  total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
  place = np.arange(len(values))
  start = np.maximum(place - half, 0)
  end = np.minimum(place + half + 1, len(values))
  return (total[end] - total[start]) / (end - start)


def _column(run: Lines, kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns steps and values of a metric, where a run has it."""
  rows = [
    (line["step"], line[name])
    for line in run
    if line["kind"] == kind and name in line
  ]
  return np.array([r[0] for r in rows]), np.array([r[1] for r in rows])


def _loss(axes: Axes, runs: list[Lines], shades: list[Color]) -> None:
  found = [_column(run, "train", "loss") for run in runs]
  window = max(len(steps) for steps, _ in found) // SHARE
  half = window // 2 if window >= LEAST else 0
  for (steps, values), shade in zip(found, shades, strict=True):
    # One value is a dot: a line would not be seen.
    mark = "o" if len(steps) == 1 else ""
    axes.plot(steps, values, color=shade, alpha=0.3 if half else 1, marker=mark)
    if half:
      axes.plot(steps, running_mean(values, half), color=shade)
  said = "as logged"
  if half:
    said = f"faint: as logged; full: mean of {2 * half + 1} lines around"
  axes.set_ylabel("training loss")
  axes.set_title(said, loc="right", fontsize=9, color="0.4")


def _hits(axes: Axes, runs: list[Lines], shades: list[Color]) -> None:
  drawn = set()
  for run, shade in zip(runs, shades, strict=True):
    for name, style in STYLES.items():
      steps, values = _column(run, "eval", name)
      if len(steps):
        drawn.add(name)
        axes.plot(steps, values, color=shade, **style)
  axes.set(ylabel="evaluation (%)", ylim=(0, 102))
  styles = {name: style for name, style in STYLES.items() if name in drawn}
  axes.legend(
    [Line2D([], [], color="0.3", **style) for style in styles.values()],
    [name.replace("_", " ") for name in styles],
    loc="lower right",
    frameon=False,
  )


def _rate(axes: Axes, runs: list[Lines], shades: list[Color]) -> None:
  for run, shade in zip(runs, shades, strict=True):
    steps, values = _column(run, "train", "learning_rate")
    mark = "o" if len(steps) == 1 else ""
    axes.plot(steps, values, color=shade, marker=mark)
  axes.set_ylabel("learning rate")
  axes.set_ylim(bottom=0)


def _seconds(axes: Axes, runs: list[Lines], shades: list[Color]) -> None:
  for run, shade in zip(runs, shades, strict=True):
    steps, half = _column(run, "train", "step_seconds_p50")
    _, most = _column(run, "train", "step_seconds_p99")
    mark = "o" if len(steps) == 1 else ""
    axes.plot(steps, half, color=shade, marker=mark)
    axes.fill_between(steps, half, most, color=shade, alpha=0.2, linewidth=0)
  axes.set_ylabel("seconds a step")
  axes.set_ylim(bottom=0)
  said = "median; shade: up to the 99th percentile"
  if len(runs) == 1:
    axes.set_title(speed(runs[0]), loc="left", fontsize=9, color="0.4")
  axes.set_title(said, loc="right", fontsize=9, color="0.4")


def speed(run: Lines) -> str:
  """Tells a run's speed in a line: of each number what it has.

  Args:
    run: its lines; clips a second and the share of the chips' peak are the
      medians of the lines, waiting is their mean, memory their highest.
  """
  numbers: list[tuple[str, Callable[..., Any], str]] = [
    ("clips_per_second", np.median, "{:,.4g} clips/s"),
    ("clips_per_second_chip", np.median, "{:,.4g} a chip"),
    ("data_wait", lambda shares: 100 * np.mean(shares), "{:.0f}% waiting"),
    ("peak_share", np.median, "{:.0f}% of the peak"),
    ("device_memory_bytes", lambda used: np.max(used) / 2**30, "{:.1f} GiB"),
  ]
  told = []
  for name, of, text in numbers:
    _, values = _column(run, "train", name)
    if len(values):
      told.append(text.format(of(values)))
  return ", ".join(told)


_PANELS = {"loss": _loss, "hits": _hits, "rate": _rate, "seconds": _seconds}
