"""Videos of a test: the best hits and the worst misses, as cards."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from p3d_jax.checkpoint import model
from p3d_jax.data.clips import Views
from p3d_jax.data.flow import BOUND, flow_color
from p3d_jax.data.pipeline import Decoding, Reading, eval_example
from p3d_jax.data.sets import VideoSet
from p3d_jax.evaluate.score_file import VideoScores
from p3d_jax.models.p3d import P3D
from p3d_jax.train import sharding
from p3d_jax.train.metrics import video_hits
from p3d_jax.train.score import Scorer
from p3d_jax.visualize.contact_sheet import motion_scale
from p3d_jax.visualize.report_html import Html, data_url, joined, tag

# Bytes of an animated picture at most, and how long each of its frames is
# shown, in milliseconds: slower than life, and longer at its end, so that one
# sees where it begins.
LARGEST, FRAME, LAST = 150_000, 100, 600
TOP = 5  # classes with a bar
LINES = 3  # classes in a picture of scores over time

# Of that picture, in its own units.
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 320, 120, 26, 18


@dataclasses.dataclass(frozen=True)
class Shown:
  """One video on the page.

  Attributes:
    id: of the record.
    truth: indices of its labels.
    scores: (classes,), as the evaluation has them.
    frames: uint8 (time, height, width, 3), what the network saw of it, or of
      its middle clip.
    times: (clips,), the middle of each clip in seconds, ascending.
    clips: (clips, classes), the scores of each.
  """

  id: str
  truth: tuple[int, ...]
  scores: np.ndarray
  frames: np.ndarray
  times: np.ndarray
  clips: np.ndarray


def margins(scores: VideoScores) -> np.ndarray:
  """Returns by how much the best label of each video leads all other classes.

  Args:
    scores: of a split.

  Returns:
    (videos,); below 0 another class is ahead. NaN for a video that could not
    be read or has no label.
  """
  classes = np.arange(len(scores.label_names))
  true = (scores.labels[:, :, None] == classes).any(1)
  values = scores.scores.astype(np.float64)
  best = np.where(true, values, -np.inf).max(1)
  rest = np.where(true, -np.inf, values).max(1)
  known = scores.readable & true.any(1)
  return np.where(known, best - np.where(np.isfinite(rest), rest, 0), np.nan)


def choose(scores: VideoScores, count: int) -> tuple[list[int], list[int]]:
  """Chooses the hits of the largest margin and the misses of the smallest.

  Args:
    scores: of a split.
    count: of each, at most.

  Returns:
    Positions of hits, the best first, and of misses, the worst first; of equal
    margins the first of the split. Videos that could not be read are neither.
  """
  lead = margins(scores)
  hit = video_hits(scores.to_scores(), 1)
  known = np.isfinite(lead)
  best = [int(k) for k in np.argsort(-lead, kind="stable") if hit[k] & known[k]]
  worst = [
    int(k) for k in np.argsort(lead, kind="stable") if known[k] & ~hit[k]
  ]
  return best[:count], worst[:count]


def read(
  chosen: Sequence[int],
  scores: VideoScores,
  videos: VideoSet,
  network: tuple[P3D, Any, model.Record],
  views: Views,
  reading: Reading,
  progress: Callable[[int], None] = lambda done: None,
) -> list[Shown]:
  """Reads some videos of a split again, and scores each of their clips.

  Args:
    chosen: positions in the split.
    scores: of the split.
    videos: the split.
    network: what scored it, as `model.load` returns it.
    views: as they were in the evaluation.
    reading: how videos are read.
    progress: called with the number of videos done.

  Raises:
    ValueError: the split is not the one that was evaluated, or a video that
      could be read then cannot be read now.
  """
  module, variables, record = network
  scorer = Scorer(
    module,
    record.preprocessing,
    record.scores,
    # One video is not worth splitting.
    sharding.mesh(sharding.local_device()),
  )
  placed = scorer.place(variables)
  shown = []
  with contextlib.closing(Decoding(reading)) as call:
    for done, k in enumerate(chosen, start=1):
      if len(videos) != len(scores.ids) or videos[k]["id"] != scores.ids[k]:
        raise ValueError(
          f"data: {videos.directory}, split {videos.split!r}, is not what was "
          f"evaluated: video {k} was {scores.ids[k]!r} of {len(scores.ids)}"
        )
      found = eval_example(
        videos, record.preprocessing, views, k, labelled=False, call=call
      )
      if found["problem"]:
        raise ValueError(f"{found['problem']}: it could be read before")
      each = scorer.clips(placed, found["clips"][None])[0]
      shown.append(_shown(k, scores, found, each, views, videos))
      progress(done)
  return shown


def _shown(
  k: int,
  scores: VideoScores,
  found: dict[str, np.ndarray],
  each: np.ndarray,
  views: Views,
  videos: VideoSet,
) -> Shown:
  """Puts together what is shown of a video."""
  # The crops of a clip are one after the other: a clip is their mean.
  each = each.reshape(views.clips, views.crops, -1).mean(1)
  times = found["times"][:: views.crops]
  order = np.argsort(times, kind="stable")
  clips = found["clips"][views.crops // 2 :: views.crops][order]
  # A network of single frames saw a picture of each clip, else its middle one
  # is shown.
  frames = clips[:, 0] if clips.shape[1] == 1 else clips[len(clips) // 2]
  if videos.channels == "flow":
    said = videos.metadata.get("bound")
    bound = BOUND if said is None else float(said)
    frames = flow_color(frames, bound, motion_scale(frames, bound))
  return Shown(
    id=scores.ids[k],
    truth=tuple(int(label) for label in scores.labels[k] if label >= 0),
    scores=scores.scores[k],
    frames=frames,
    times=times[order],
    clips=each[order],
  )


def animation(frames: np.ndarray, largest: int = LARGEST) -> bytes:
  """Returns frames as an animated WebP that begins again and again.

  Where it would be too large, its quality is lowered, then its size halved.

  Args:
    frames: uint8 (time, height, width, 3), RGB.
    largest: bytes.
  """
  while True:
    for quality in (85, 70, 50, 30):
      content = _webp(frames, quality)
      if len(content) <= largest:
        return content
    if min(frames.shape[1:3]) < 2:
      # A clip of that many frames: every second one tells it too.
      frames = frames[::2]
    frames = frames[:, ::2, ::2]


def _webp(frames: np.ndarray, quality: int) -> bytes:
  pictures = [Image.fromarray(frame) for frame in frames]
  buffer = io.BytesIO()
  pictures[0].save(
    buffer,
    "WEBP",
    save_all=True,
    append_images=pictures[1:],
    duration=[FRAME] * (len(pictures) - 1) + [LAST],
    loop=0,
    quality=quality,
    method=4,
  )
  return buffer.getvalue()


def cards(shown: Sequence[Shown], names: Sequence[str]) -> Html:
  """Returns videos side by side, each with its picture and its scores."""
  return tag("div", *(_card(one, names) for one in shown), class_="cards")


def _card(one: Shown, names: Sequence[str]) -> Html:
  truth = " + ".join(names[label] for label in one.truth)
  return tag(
    "article",
    _picture(one, truth),
    tag("h4", truth),
    tag("p", one.id, class_="soft"),
    _bars(one, names),
    _timeline(one, names),
    class_="card",
  )


def _picture(one: Shown, truth: str) -> Html:
  """Returns the frames, still for who does not want motion."""
  still = animation(one.frames[len(one.frames) // 2][None])
  return tag(
    "picture",
    tag(
      "source",
      media="(prefers-reduced-motion: reduce)",
      srcset=data_url(still, "webp"),
    ),
    tag(
      "img",
      src=data_url(animation(one.frames), "webp"),
      alt=f"{len(one.frames)} frames of {one.id}, {truth}",
      width=one.frames.shape[2],
      height=one.frames.shape[1],
    ),
  )


def _role(one: Shown, label: int) -> str:
  """Whether a class is true, wrongly ahead of all others, or neither."""
  if label in one.truth:
    return "true"
  first = int(np.argmax(one.scores))
  return "wrong" if label == first else "other"


def _bars(one: Shown, names: Sequence[str]) -> Html:
  """Returns the highest scores, and those of the labels that are not there."""
  order = [int(k) for k in np.argsort(-one.scores, kind="stable")]
  listed = order[:TOP]
  rows = []
  for k in [*listed, *(k for k in one.truth if k not in listed)]:
    role, share = _role(one, k), float(one.scores[k])
    place = "" if k in listed else f" (place {order.index(k) + 1})"
    bar = tag("i", class_=role, style=f"width:{100 * share:.1f}%")
    rows += [
      tag("span", names[k] + place, class_=role),
      tag("span", bar, class_="bar"),
      tag("span", f"{100 * share:.1f}", class_="value"),
    ]
  return tag("div", *rows, class_="bars")


def _timeline(one: Shown, names: Sequence[str]) -> Html:
  """Returns the scores of the strongest classes over the time of a video."""
  order = [int(k) for k in np.argsort(-one.scores, kind="stable")]
  chosen = list(dict.fromkeys([*one.truth, *order]))
  chosen = chosen[: max(LINES, len(one.truth) + 1)]
  start, end = float(one.times[0]), float(one.times[-1])
  room = _WIDTH - _LEFT - 8

  def across(time: float) -> float:
    share = (time - start) / (end - start) if end > start else 0.5
    return _LEFT + room * share

  def up(score: float) -> float:
    return 6 + (_HEIGHT - _BOTTOM - 8) * (1 - score)

  parts = [_axes(up, across, start, end)]
  # What is true is drawn last, on top.
  for k in reversed(chosen):
    points = [
      (across(float(t)), up(float(s)))
      for t, s in zip(one.times, one.clips[:, k], strict=True)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = [
      tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="2.2") for x, y in points
    ]
    parts.append(
      tag(
        "g",
        tag("title", names[k]),
        tag("polyline", points=line),
        *dots,
        class_=_role(one, k),
      )
    )
  words = ", ".join(names[k] for k in chosen)
  return tag(
    "svg",
    *parts,
    viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
    role="img",
    aria_label=f"scores of {len(one.times)} clips over time: {words}",
  )


def _axes(
  up: Callable[[float], float],
  across: Callable[[float], float],
  start: float,
  end: float,
) -> Html:
  """Returns the lines of 0, 50 and 100 percent, and the times at the ends."""
  parts = []
  for share in (0, 0.5, 1):
    y = f"{up(share):.1f}"
    parts += [
      tag("line", x1=_LEFT, x2=_WIDTH, y1=y, y2=y, class_="axis"),
      tag(
        "text",
        f"{100 * share:.0f}",
        x=_LEFT - 4,
        y=y,
        text_anchor="end",
        dy="4",
      ),
    ]
  for time in sorted({start, end}):
    anchor = "middle" if start == end else "start" if time == start else "end"
    parts.append(
      tag(
        "text",
        f"{time:.2f} s",
        x=f"{across(time):.1f}",
        y=_HEIGHT - 3,
        text_anchor=anchor,
      )
    )
  return joined(parts)
