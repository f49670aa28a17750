"""A run as one HTML page: what it is, what it reaches, what it sees.

The page asks for nothing from anywhere: its style is in it, its pictures are in
it, and it runs no script. It can be mailed, and opened where there is no net.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
from typing import Any

import numpy as np
from etils import epath

from p3d_jax.checkpoint import model
from p3d_jax.data.clips import Views
from p3d_jax.data.pipeline import DEFAULT, Reading
from p3d_jax.data.sets import open_set
from p3d_jax.evaluate import feature_file
from p3d_jax.evaluate.evaluate import cache_of, default_out, evaluate
from p3d_jax.evaluate.predict import classifier
from p3d_jax.evaluate.score_file import VideoScores
from p3d_jax.files import absolute, check_out, write_aside
from p3d_jax.models.p3d import P3D
from p3d_jax.progress import Bar
from p3d_jax.train import logs
from p3d_jax.train.metrics import confusion
from p3d_jax.version import __version__
from p3d_jax.visualize import report_numbers, report_run, report_videos
from p3d_jax.visualize.class_pictures import class_clips, class_pictures_png
from p3d_jax.visualize.confusion import confusion_png
from p3d_jax.visualize.curves import curves_png
from p3d_jax.visualize.report_html import (
  Html,
  drawn,
  folded,
  joined,
  page,
  table,
  tag,
)
from p3d_jax.visualize.tsne import COUNT, PERPLEXITY, draw_rows, tsne_png

# Classes with a bar; of more the best and the worst have one, and the others
# are folded in.
BARS = 40
CONFUSIONS = 10  # pairs of classes that are named
# With more classes a confusion matrix cannot be read at the width of the page.
FITS = 110


@dataclasses.dataclass(frozen=True)
class Parts:
  """What may be on the page besides the numbers.

  Attributes:
    videos: best hits, and as many worst misses.
    features: file of features of this network, for t-SNE; None: none.
    endpoint: of the features.
    classes: class pictures, of so many classes; 0: none.
  """

  videos: int = 3
  features: epath.PathLike | None = None
  endpoint: str = "pool5"
  classes: int = 0

  def __post_init__(self) -> None:
    for name in ("videos", "classes"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name}={getattr(self, name)}: must be >= 0")


@dataclasses.dataclass(frozen=True)
class _Run:
  """A checkpoint of a run with its evaluation."""

  workdir: epath.Path
  folder: epath.Path
  record: model.Record
  result: dict[str, Any]
  scores: VideoScores

  @functools.cached_property
  def network(self) -> tuple[P3D, Any, model.Record]:
    """The network itself, which only some parts of the page need."""
    return model.load(self.folder)


def report(
  workdir: epath.PathLike,
  *,
  out: epath.PathLike | None = None,
  step: int | str = "last",
  data: epath.PathLike | None = None,
  split: str | None = None,
  parts: Parts | None = None,
  views: Views | None = None,
  batch: int = 8,
  reading: Reading = DEFAULT,
) -> epath.Path:
  """Writes the page of a run.

  The numbers are those of `p3d evaluate`, where its files for this checkpoint
  and split are in the workdir; else it is evaluated first, and they are there
  then.

  Args:
    workdir: of the run.
    out: HTML file; None: report.html in the workdir.
    step: a number, "last" or "best".
    data: folder of a built set; None: the one that was evaluated, or else
      trained on.
    split: of the set; None: the run's evaluation split.
    parts: what is on the page besides the numbers.
    views: clips and crops, where it has to be evaluated; None: those of an
      evaluation without scores, or else 20 uniform clips, centre crop.
    batch: videos at once, over all devices.
    reading: how videos are read.

  Returns:
    The path of the page.

  Raises:
    ValueError: there is no such run or set, the features are of another
      network, or `out` cannot be written.
  """
  parts = parts or Parts()
  folder = classifier(workdir, step, flow=True)
  numbers = default_out(workdir, step, split, views)
  if numbers is None:
    raise ValueError(
      f"workdir={os.fspath(workdir)!r}: it is a checkpoint; name the workdir "
      "of its run, and the step by --step"
    )
  home = numbers.parent
  file = home / "report.html" if out is None else absolute(out)
  _check_file(file)
  record = model.read_record(folder)
  features = _features(parts, record)
  result, scores = report_numbers.evaluation(
    numbers,
    record,
    data,
    views,
    lambda chosen: evaluate(
      workdir,
      data=data,
      split=split,
      step=step,
      views=chosen,
      batch=batch,
      reading=reading,
      out=numbers,
    ),
  )
  run = _Run(home, folder, record, result, scores)
  write_aside(file, _page(run, parts, features, data, reading))
  return file


def _check_file(file: epath.Path) -> None:
  if file.suffix != ".html":
    raise ValueError(f"out={os.fspath(file)!r}: it must end in .html")
  check_out(file)


def _features(
  parts: Parts, record: model.Record
) -> feature_file.Features | None:
  """Reads the features, which must be of this network."""
  if parts.features is None:
    return None
  found = feature_file.load_features(parts.features)
  found.endpoint(parts.endpoint)
  if found.about.get("sha256") != record.sha256:
    raise ValueError(
      f"features={os.fspath(parts.features)!r}: they are of another network, "
      f"{found.about.get('checkpoint')}"
    )
  return found


def _page(
  run: _Run,
  parts: Parts,
  features: feature_file.Features | None,
  data: epath.PathLike | None,
  reading: Reading,
) -> str:
  """Returns the page."""
  sections = [("Evaluation", _evaluated(run))]
  if parts.videos:
    sections.append(("Videos", _videos(run, parts, data, reading)))
  sections.append(("Training", _training(run)))
  if features is not None:
    sections.append(("Features", _tsne(features, parts.endpoint)))
  if parts.classes:
    sections.append(("Class pictures", _class_pictures(run, parts)))
  sections += [
    ("Network", report_run.network(run.folder, run.record)),
    ("Config", report_run.config(run.record)),
    ("Starts", report_run.starts(run.workdir)),
  ]
  return page(f"{run.workdir.name}: P3D report", _head(run), sections)


def _head(run: _Run) -> Html:
  """Returns what the run is in a few words, and its numbers."""
  result, views = run.result, report_numbers.views_of(run.result)
  names = [name for name in result if "_hit@" in name]
  names += ["mean_class_accuracy", "mAP"]
  tiles = [
    tag(
      "div",
      tag("b", _percent(result[name])),
      name.replace("_", " "),
      class_="tile",
    )
    for name in names
  ]
  when = time.strftime("%Y-%m-%d", time.gmtime())
  return joined(
    [
      tag("h1", run.workdir.name),
      tag(
        "p",
        f"{report_run.layers(run.record)}. Step {run.folder.name}, tested on "
        f"{result['videos']:,} videos of {result['split']}: {views.told()}. "
        "Accuracies are in percent.",
      ),
      tag("div", *tiles, class_="tiles"),
      tag("p", f"Made on {when} by p3d_jax {__version__}."),
    ]
  )


def _percent(value: float | None) -> str:
  """Returns a number of percent; JSON's NaN and null are of no videos."""
  if value is None or math.isnan(value):
    return "none"
  return f"{value:.1f}"


def _evaluated(run: _Run) -> Html:
  """Returns the accuracies of the classes, and what is taken for what."""
  result, names = run.result, run.record.labels
  rows = [
    (name, row["video_hit@1"], row["videos"])
    for name, row in result["per_class"].items()
  ]
  matrix = confusion(run.scores.to_scores())
  parts = [_unread(result), tag("h3", "Video hit@1 of each class"), _bars(rows)]
  if matrix.any():
    parts += [
      tag("h3", "Confusion"),
      _confused(matrix, names),
      drawn(
        confusion_png(matrix, names),
        f"confusion matrix of {len(names)} classes: a row a true class, a "
        "column a class that the network says, percent of the row",
        natural=len(names) > FITS,
      ),
    ]
  parts.append(
    tag(
      "p",
      f"Evaluated on {result['data']}, split {result['split']}; network "
      f"sha256 {result['sha256']}.",
      class_="soft",
    )
  )
  return joined(parts)


def _unread(result: dict[str, Any]) -> Html:
  """Returns which videos could not be read."""
  problems = result["problems"]
  if not problems:
    return tag("p", f"All {result['videos']:,} videos could be read.")
  return joined(
    [
      tag(
        "p",
        f"{len(problems)} of {result['videos']:,} videos could not be read and "
        "count as missed.",
      ),
      folded("which, and why", tag("ul", *(tag("li", p) for p in problems))),
    ]
  )


def _bars(rows: list[tuple[str, float | None, int]]) -> Html:
  """Returns a bar for each class; of many, for the best and the worst."""
  if len(rows) <= BARS:
    return _bar_rows(rows)
  known = sorted(
    (row for row in rows if row[1] is not None),
    key=lambda row: row[1] or 0.0,
    reverse=True,
  )
  half = BARS // 2
  return joined(
    [
      tag("p", f"The best {half} of {len(rows)} classes"),
      _bar_rows(known[:half]),
      tag("p", f"The worst {half}, the worst last"),
      _bar_rows(known[-half:]),
      folded(f"all {len(rows)} classes", _bar_rows(rows)),
    ]
  )


def _bar_rows(rows: list[tuple[str, float | None, int]]) -> Html:
  cells = []
  for name, share, videos in rows:
    cells += [
      tag("span", name),
      tag("span", tag("i", style=f"width:{share or 0:.1f}%"), class_="bar"),
      tag("span", _percent(share), class_="value"),
      tag("span", f"of {videos:,}", class_="value"),
    ]
  return tag("div", *cells, class_="bars")


def _confused(matrix: np.ndarray, names: tuple[str, ...]) -> Html:
  """Returns the pairs of classes that are confused most often."""
  wrong = matrix * ~np.eye(len(matrix), dtype=bool)
  order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
  pairs = [np.unravel_index(int(k), wrong.shape) for k in order]
  rows = [
    (names[i], names[j], f"{wrong[i, j]:g}", f"{100 * wrong[i, j] / total:.1f}")
    for i, j in pairs
    if wrong[i, j] > 0 and (total := matrix[i].sum())
  ]
  if not rows:
    return tag("p", "No class was taken for another.")
  return table(("true", "said", "videos", "% of the class"), rows, "23")


def _videos(
  run: _Run, parts: Parts, data: epath.PathLike | None, reading: Reading
) -> Html:
  """Returns the best hits and the worst misses."""
  best, worst = report_videos.choose(run.scores, parts.videos)
  folder = run.result["data"] if data is None else data
  if not best and not worst:
    return tag("p", "No video could be read.")
  cache = cache_of(run.record)
  videos = open_set(folder, run.result["split"], cache=cache)
  views = report_numbers.views_of(run.result)
  chosen = [*best, *worst]
  with Bar("videos", len(chosen)) as bar:
    shown = report_videos.read(
      chosen,
      run.scores,
      videos,
      run.network,
      views,
      reading,
      lambda done: bar.update(done, line=done == len(chosen)),
    )
  names = run.record.labels
  hits, misses = shown[: len(best)], shown[len(best) :]
  clips = f"{views.clips} clip" + "s" * (views.clips > 1)
  return joined(
    [
      tag(
        "p",
        "What the network saw of a video, slower than life; its highest scores "
        f"(percent); and those of its {clips} over time. Blue is the "
        "true class, orange another one that the network says.",
      ),
      tag("h3", "Best hits"),
      tag("p", "The true class leads all others by the most.", class_="soft"),
      report_videos.cards(hits, names) if hits else tag("p", "None was right."),
      tag("h3", "Worst misses"),
      tag("p", "Another class leads the true one by the most.", class_="soft"),
      report_videos.cards(misses, names)
      if misses
      else tag("p", "None was missed."),
    ]
  )


def _training(run: _Run) -> Html:
  """Returns the curves, the evaluations on the way, and unreadable videos."""
  lines = logs.read(run.workdir)
  if not any(line["kind"] == "train" for line in lines):
    return tag("p", f"The workdir has no steps in {logs.METRICS}.")
  scored = [line for line in lines if line["kind"] == "eval"]
  names = [n for n in (scored[-1] if scored else {}) if "hit@" in n]
  parts = [
    drawn(
      curves_png([run.workdir]),
      "training curves: loss, accuracy in evaluations, and learning rate, "
      "over the steps",
    )
  ]
  if scored:
    heads = ["step", *(name.replace("_", " ") for name in names)]
    rows = [
      (f"{line['step']:,}", *(_percent(line.get(name)) for name in names))
      for line in scored
    ]
    shown = table(heads, rows, "".join(map(str, range(len(heads)))))
    parts += [tag("h3", "Evaluations while it trained"), shown]
  replaced = logs.problems(run.workdir)
  if replaced:
    listed = tag("ul", *(tag("li", problem) for problem in replaced))
    parts.append(
      folded(f"{len(replaced)} times a video could not be read", listed)
    )
  return joined(parts)


def _tsne(features: feature_file.Features, endpoint: str) -> Html:
  """Returns the features as points of a plane."""
  array = features.endpoint(endpoint)
  rows = draw_rows(len(array), COUNT, seed=0)
  labels = features.labels
  first = labels[:, 0] if labels.shape[1] else np.full(len(labels), -1)
  picture = tsne_png(
    array[rows],
    first[rows],
    features.label_names,
    # A third of the rows, where there are too few for the usual number.
    perplexity=min(PERPLEXITY, (len(rows) - 1) / 3),
  )
  what = "videos" if features.clip is None else "clips"
  told = f"{endpoint} of {len(rows):,} {what} by t-SNE, a colour a class"
  return joined([tag("p", f"{told}."), drawn(picture, told)])


def _class_pictures(run: _Run, parts: Parts) -> Html:
  """Returns what the network would like to see of each class."""
  module, variables, record = run.network
  labels = range(min(parts.classes, len(record.labels)))
  names = [record.labels[k] for k in labels]
  clips = class_clips(module, variables, record, labels)
  return joined(
    [
      tag(
        "p",
        "Clips that were noise, and went up the gradient of a class: what the "
        "network takes for the purest of it.",
      ),
      drawn(
        class_pictures_png(clips, names),
        f"class pictures of {', '.join(names)}",
        photo=True,
      ),
    ]
  )
