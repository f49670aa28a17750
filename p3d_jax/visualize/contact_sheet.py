"""A picture of random clips with their labels, as the network sees them."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from etils import epath
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from p3d_jax.data import example as examples
from p3d_jax.data.clips import Augment
from p3d_jax.data.flow import flow_color
from p3d_jax.data.guard import Guard
from p3d_jax.data.pipeline import check_channels, eval_example, train_example
from p3d_jax.data.sets import VideoSet
from p3d_jax.files import write_aside
from p3d_jax.preprocess import Preprocessing

# Pixels: around everything, between frames, from one line of text to the next.
MARGIN, GAP, LINE = 16, 4, 20
# Frames smaller than this are enlarged by a whole number, pixels.
SMALL = 96
# The text needs some width, whatever that of the frames is, pixels.
WIDTH = 800
# Share of the width that the labels of a clip may take; the id has the rest.
LABELS = 0.6
UNKNOWN = "\u25a1"  # a white square, for what the font does not have

_FONT = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans")
_BLACK, _GREY, _RED = (20, 20, 20), (110, 110, 110), (190, 0, 0)


@dataclasses.dataclass(frozen=True)
class Shown:
  """One clip on the sheet.

  Attributes:
    clip: uint8 (time, height, width, channels), as the pipeline gives it.
    labels: (labels,), indices into the names.
    id: of the record.
    replaced: how many videos could not be read before this one was taken.
    problem: why there is no clip to show; "" where there is.
  """

  clip: np.ndarray
  labels: np.ndarray
  id: str
  replaced: int = 0
  problem: str = ""


@dataclasses.dataclass(frozen=True)
class Grid:
  """Where everything stands on the sheet, in pixels.

  Attributes:
    rows: clips.
    columns: frames of each.
    size: (height, width) of a frame, as the network sees it.
    lines: of text at the top.
  """

  rows: int
  columns: int
  size: tuple[int, int]
  lines: int

  @property
  def scale(self) -> int:
    """How often each pixel is drawn, down and across."""
    return max(-(-SMALL // max(self.size)), 1)

  @property
  def shape(self) -> tuple[int, int]:
    """(height, width) of the sheet."""
    across = self.columns * (self.size[1] * self.scale + GAP) - GAP
    bottom = self.corner(self.rows - 1, 0)[0] + self.size[0] * self.scale
    return bottom + MARGIN, 2 * MARGIN + max(across, WIDTH)

  def caption(self, row: int) -> int:
    """Returns the top of the text over a row."""
    step = LINE + self.size[0] * self.scale + MARGIN
    return MARGIN + self.lines * LINE + MARGIN // 2 + row * step

  def corner(self, row: int, column: int) -> tuple[int, int]:
    """Returns (top, left) of a frame."""
    left = MARGIN + column * (self.size[1] * self.scale + GAP)
    return self.caption(row) + LINE, left


def contact_sheet(
  videos: VideoSet,
  preprocessing: Preprocessing,
  augment: Augment | None,
  *,
  out: epath.PathLike,
  count: int = 8,
  frames: int = 8,
  seed: int = 0,
  segments: bool = False,
  timeout: float = 60.0,
  decoder: str | None = None,
) -> epath.Path:
  """Draws random clips, a row each, as a PNG.

  With `augment` they are the first clips that training with this seed reads;
  without, the middle clip of videos drawn at random, as evaluation crops it.
  Colours are those of the video, also where the network is fed BGR; pixels are
  drawn as they are, or enlarged by a whole number, before scale, mean and std.

  Args:
    videos: the split.
    preprocessing: what the network expects of pixels.
    augment: what training varies; None: as in evaluation.
    out: path of the picture.
    count: clips; a split of fewer videos is shown whole.
    frames: of each, spread evenly over it, its first and last among them; a
      shorter clip is drawn whole.
    seed: of what is drawn at random.
    segments: as the pipeline's.
    timeout: seconds that decoding one video may take.
    decoder: as the pipeline's.

  Returns:
    The path.

  Raises:
    ValueError: an argument is out of its range, or the set does not hold such
      pixels.
  """
  file = epath.Path(out).expanduser()
  for name, value, least in (
    ("count", count, 1),
    ("frames", frames, 1),
    ("seed", seed, 0),
  ):
    if value < least:
      raise ValueError(f"{name}={value}: must be >= {least}")
  if file.suffix.lower() != ".png":
    raise ValueError(f"out={os.fspath(out)!r}: must end in .png")
  if not file.parent.is_dir():
    raise ValueError(f"out={os.fspath(out)!r}: its folder is not there")
  check_channels(videos, preprocessing.channels)
  count = min(count, len(videos))
  with Guard(timeout) as guard:

    def call(name: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
      function = f"{examples.__name__}:{name}"
      return guard.call(function, *args, decoder=decoder, **kwargs)

    if augment is None:
      shown = _evaluated(videos, preprocessing, count, seed, call)
    else:
      shown = _trained(
        videos, preprocessing, augment, count, seed, segments, call
      )
  columns = columns_of(preprocessing.frames, frames)
  head = header(videos, preprocessing, augment, columns, seed)
  write_aside(file, _draw(shown, columns, head, videos.label_names))
  return file


class _Noted:
  """A set that notes which record was read last."""

  def __init__(self, videos: VideoSet) -> None:
    self._videos = videos
    self.id = ""

  def __getattr__(self, name: str) -> Any:
    return getattr(self._videos, name)

  def __len__(self) -> int:
    return len(self._videos)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self._videos[index]
    self.id = record["id"]
    return record


def _trained(
  videos: VideoSet,
  preprocessing: Preprocessing,
  augment: Augment,
  count: int,
  seed: int,
  segments: bool,
  call: Any,
) -> list[Shown]:
  """Reads the first clips that training reads."""
  noted: Any = _Noted(videos)
  shown = []
  for index in range(count):
    read = train_example(
      noted, preprocessing, augment, seed, index, segments=segments, call=call
    )
    labels = read["labels"][read["labels"] >= 0]
    # Where a video could not be read, the last that was tried is shown.
    shown.append(Shown(read["clips"], labels, noted.id, int(read["replaced"])))
  return shown


def _evaluated(
  videos: VideoSet,
  preprocessing: Preprocessing,
  count: int,
  seed: int,
  call: Any,
) -> list[Shown]:
  """Reads the middle clip of videos drawn at random."""
  noted: Any = _Noted(videos)
  chosen = np.random.default_rng(seed).permutation(len(videos))[:count]
  shown = []
  for video in chosen:
    read = eval_example(noted, preprocessing, 1, int(video), call=call)
    labels = read["labels"][read["labels"] >= 0]
    problem = str(read["problem"])
    shown.append(Shown(read["clips"][0], labels, noted.id, problem=problem))
  return shown


def columns_of(time: int, frames: int) -> np.ndarray:
  """Returns which frames of a clip are drawn, int64 (at most `frames`,)."""
  if frames == 1:
    return np.array([0])
  count = min(time, frames)
  # Whole numbers, to the nearest; a clip of one frame has but that.
  steps = max(count - 1, 1)
  return (2 * np.arange(count) * (time - 1) + steps) // (2 * steps)


def header(
  videos: VideoSet,
  preprocessing: Preprocessing,
  augment: Augment | None,
  columns: Sequence[int] | np.ndarray,
  seed: int,
) -> list[str]:
  """Says in lines what is drawn, and what was done to it."""
  name = "/".join(os.fspath(videos.directory).split("/")[-3:])
  view = "as in evaluation" if augment is None else "as in training"
  return [
    f"{name}, split {videos.split}: {len(videos)} videos; {view}, seed {seed}",
    _in_time(preprocessing, columns),
    _in_space(preprocessing, augment),
    _in_numbers(preprocessing),
  ]


def _in_time(p: Preprocessing, columns: Sequence[int] | np.ndarray) -> str:
  """Says which frames a clip has, and which of them are drawn."""
  rate = "" if p.fps is None else f" at {p.fps:g} frames a second"
  nth = {2: "2nd", 3: "3rd"}.get(p.stride, f"{p.stride}th")
  stride = "" if p.stride == 1 else f", every {nth}"
  drawn = ", ".join(str(column) for column in columns)
  return f"clips of {p.frames} frames{stride}{rate}; drawn: {drawn}"


def _in_space(p: Preprocessing, augment: Augment | None) -> str:
  """Says what was done to the pictures."""
  if p.resize is None:
    resized = "not resized"
  elif isinstance(p.resize, tuple):
    resized = f"resized to {p.resize[0]}x{p.resize[1]} (height x width)"
  else:
    resized = f"resized to short side {p.resize}"
  crop = f"{p.crop_size[0]}x{p.crop_size[1]}"
  if augment is None:
    return f"{resized}, crop {crop} from the centre"
  words = [resized]
  where = "anywhere" if augment.random_crop else "from the centre"
  if augment.scales:
    scales = ", ".join(f"{scale:g}" for scale in augment.scales)
    words.append(f"crops of {scales} of the largest {where}, to {crop}")
  else:
    words.append(f"crop {crop} {where}")
  if augment.flip:
    words.append("half mirrored")
  for name, value in zip(
    ("brightness", "contrast", "saturation"), augment.jitter, strict=True
  ):
    if value:
      words.append(f"{name} \u00b1{value:g}")
  return ", ".join(words)


def _in_numbers(p: Preprocessing) -> str:
  """Says what the network is fed."""
  mean, std = (
    "(" + ", ".join(f"{x:.4g}" for x in xs) + ")" for xs in (p.mean, p.std)
  )
  text = f"fed as {p.channels}: (pixel x {p.scale:.4g} - {mean}) / {std}"
  return text + (", flow painted by direction" if p.channels == "flow" else "")


def caption(shown: Shown, names: Sequence[str]) -> tuple[str, str]:
  """Returns what stands over a clip on the left, and on the right."""
  left = " + ".join(f"[{label}] {names[label]}" for label in shown.labels)
  if shown.replaced:
    return left, f"in place of {shown.replaced} unreadable: {shown.id}"
  return left, shown.id


def drawable(text: str) -> str:
  """Returns a text in what the font has: a square for other characters."""
  known = _characters()
  return "".join(
    (c if ord(c) in known else UNKNOWN) if c.isprintable() else " "
    for c in text
  )


@functools.cache
def _characters() -> frozenset[int]:
  return frozenset(FT2Font(f"{_FONT}.ttf").get_charmap())


def fitting(text: str, font: Any, width: float) -> str:
  """Cuts a text to a width in pixels, with an ellipsis."""
  if font.getlength(text) <= width:
    return text
  while text and font.getlength(text + "\u2026") > width:
    text = text[:-1]
  return text + "\u2026"


def _draw(
  shown: Sequence[Shown],
  columns: np.ndarray,
  head: Sequence[str],
  names: Sequence[str],
) -> bytes:
  """Returns the PNG."""
  captions = [caption(one, names) for one in shown]
  lines = list(head)
  said = [text for pair in captions for text in pair]
  if any(drawable(text).count(UNKNOWN) > text.count(UNKNOWN) for text in said):
    lines.append(f"{UNKNOWN} stands for a character that the font lacks")
  size = shown[0].clip.shape[1:3]
  grid = Grid(len(shown), len(columns), (size[0], size[1]), len(lines))
  sheet = Image.new("RGB", grid.shape[::-1], (255, 255, 255))
  text = _Text(sheet)
  for k, line in enumerate(lines):
    at, color = MARGIN + k * LINE, _GREY if k else _BLACK
    text.write(at, line, color, bold=not k)
  for row, (one, (left, right)) in enumerate(zip(shown, captions, strict=True)):
    top = grid.caption(row)
    used = text.write(top, left, _BLACK, share=LABELS, bold=True)
    color = _RED if one.problem or one.replaced else _GREY
    text.write(top, right, color, share=1 - used, right=True)
    if one.problem:
      text.write(grid.corner(row, 0)[0], one.problem, _RED)
    else:
      _paste(sheet, grid, row, one.clip[columns])
  buffer = io.BytesIO()
  sheet.save(buffer, format="png")
  return buffer.getvalue()


class _Text:
  """Writes lines between the margins of a sheet."""

  def __init__(self, sheet: Image.Image) -> None:
    self._pen = ImageDraw.Draw(sheet)
    self._width = sheet.width - 2 * MARGIN
    # Not raqm, which is not everywhere: the same picture on every machine.
    self._plain, self._bold = (
      ImageFont.truetype(file, 13, layout_engine=ImageFont.Layout.BASIC)
      for file in (f"{_FONT}.ttf", f"{_FONT}-Bold.ttf")
    )

  def write(
    self,
    top: int,
    text: str,
    color: tuple[int, int, int],
    *,
    share: float = 1.0,
    bold: bool = False,
    right: bool = False,
  ) -> float:
    """Writes a line, cut to a share of the width.

    Returns:
      The share that it takes, with a margin.
    """
    font = self._bold if bold else self._plain
    text = fitting(drawable(text), font, share * self._width)
    at = MARGIN + (self._width if right else 0), top
    self._pen.text(at, text, color, font, anchor="ra" if right else "la")
    return (font.getlength(text) + MARGIN) / self._width


def _paste(
  sheet: Image.Image, grid: Grid, row: int, frames: np.ndarray
) -> None:
  """Puts the frames of a clip into a row."""
  if frames.shape[-1] == 2:
    frames = flow_color(frames)
  large = frames.repeat(grid.scale, axis=1).repeat(grid.scale, axis=2)
  for column, picture in enumerate(large):
    top, left = grid.corner(row, column)
    sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (left, top))
