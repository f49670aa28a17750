"""A picture of random clips with their labels, as the network sees them."""

from __future__ import annotations

import contextlib
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

from p3d_jax.data.clips import Augment, Views
from p3d_jax.data.flow import BOUND, flow_color, flow_of, pixels_of
from p3d_jax.data.pipeline import (
  Decoding,
  Reading,
  check_channels,
  eval_example,
  train_example,
)
from p3d_jax.data.sets import VideoSet
from p3d_jax.files import absolute, check_out, write_aside
from p3d_jax.preprocess import Preprocessing

# Pixels: around everything, between frames, from one line of text to the next.
MARGIN, GAP, LINE = 16, 4, 20
# Frames smaller than this are enlarged by a whole number, pixels.
SMALL = 96
# The text needs some width, whatever that of the frames is, pixels.
WIDTH = 800
# Share of the width that the labels of a clip may take; the id has the rest.
LABELS = 0.6
# Lines of text that the wheel of flow's colours takes, with a word above it and
# one below; and what the words beside it take, pixels.
WHEEL, BESIDE = 6, 40
# Pixels a frame that are painted in full colour, at least: less is noise.
LEAST_MOTION = 0.5
UNKNOWN = "\u25a1"  # a white square, for what the font does not have

_FONT = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans")
_BLACK, _GREY, _RED = (20, 20, 20), (110, 110, 110), (190, 0, 0)
_LINE = (200, 200, 200)


@dataclasses.dataclass(frozen=True)
class Shown:
  """One clip on the sheet.

  Attributes:
    clip: uint8 (time, height, width, channels), as the pipeline gives it.
    labels: (labels,), indices into the names.
    id: of the record.
    replaced: how many videos could not be read before this one was taken.
    problem: why there is no clip to show; "" where there is.
    scale: of flow, pixels a frame that are painted in full colour; 0: no flow.
  """

  clip: np.ndarray
  labels: np.ndarray
  id: str
  replaced: int = 0
  problem: str = ""
  scale: float = 0.0


@dataclasses.dataclass(frozen=True)
class Grid:
  """Where everything stands on the sheet, in pixels.

  Attributes:
    rows: clips.
    columns: frames of each.
    size: (height, width) of a frame, as the network sees it.
    lines: of text at the top, or of what stands there.
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
  Optical flow is painted, in each clip up to its own fastest motion.

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
  file = absolute(out)
  for name, value, least in (
    ("count", count, 1),
    ("frames", frames, 1),
    ("seed", seed, 0),
  ):
    if value < least:
      raise ValueError(f"{name}={value}: must be >= {least}")
  if file.suffix.lower() != ".png":
    raise ValueError(f"out={os.fspath(out)!r}: must end in .png")
  check_out(file)
  check_channels(videos, preprocessing.channels)
  asked, count = count, min(count, len(videos))
  reading = Reading(timeout=timeout, decoder=decoder)
  with contextlib.closing(Decoding(reading)) as call:
    if augment is None:
      shown = _evaluated(videos, preprocessing, count, seed, call)
    else:
      shown = _trained(
        videos, preprocessing, augment, count, seed, segments, call
      )
  columns = columns_of(preprocessing.frames, frames)
  head = header(videos, preprocessing, augment, columns, seed, asked)
  names = videos.label_names
  if videos.channels != "flow":
    write_aside(file, _draw(shown, columns, head, names))
    return file
  said = videos.metadata.get("bound")
  bound = BOUND if said is None else float(said)
  painted = [_painted(one, bound) for one in shown]
  write_aside(file, _draw(painted, columns, head, names, legend(said)))
  return file


def _painted(shown: Shown, bound: float) -> Shown:
  """Returns a clip of flow as colours, and how fast the full ones are."""
  scale = motion_scale(shown.clip, bound)
  clip = flow_color(shown.clip, bound, scale)
  return dataclasses.replace(shown, clip=clip, scale=scale)


def motion_scale(pixels: np.ndarray, bound: float) -> float:
  """Returns the motion of a clip that is painted in full colour.

  It is the 99th percentile, to a tenth of a pixel, and at least half a pixel.

  Args:
    pixels: uint8 (time, height, width, 2).
    bound: as they were made with.

  Returns:
    Pixels a frame.
  """
  motion = flow_of(pixels, bound)
  fast = np.percentile(np.hypot(motion[..., 0], motion[..., 1]), 99)
  return max(round(float(fast), 1), LEAST_MOTION)


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
      noted,
      preprocessing,
      augment,
      seed,
      index,
      segments=segments,
      labelled=False,
      call=call,
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
    read = eval_example(
      noted, preprocessing, Views(1), int(video), labelled=False, call=call
    )
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
  asked: int = 1,
) -> list[str]:
  """Says in lines what is drawn, and what was done to it.

  `asked` is the number of clips that were asked for.
  """
  name = "/".join(os.fspath(videos.directory).split("/")[-3:])
  view = "as in evaluation" if augment is None else "as in training"
  fewer = f"{len(videos)} of the {asked} asked for: the split has no more"
  return [
    f"{name}, split {videos.split}: {len(videos)} videos; {view}, seed {seed}",
    *([fewer] if asked > len(videos) else []),
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
  return f"fed as {p.channels}: (pixel x {p.scale:.4g} - {mean}) / {std}"


def legend(bound: float | None) -> list[str]:
  """Says in lines what the colours of flow mean.

  Args:
    bound: of the set, pixels a frame; None: it does not say.
  """
  if bound is None:
    held = f"the set does not say its bound, {BOUND:g} px is taken for it"
  else:
    held = f"the set holds up to {bound:g} px"
  return [
    "colour: where to, as on the wheel; white: no motion",
    f"full colour: the fastest 1 % of the clip, at least {LEAST_MOTION:g} px",
    f"px: pixels of the set's own frames, from each to the next; {held}",
  ]


def caption(shown: Shown, names: Sequence[str]) -> tuple[str, str]:
  """Returns what stands over a clip on the left, and on the right."""
  left = " + ".join(f"[{label}] {names[label]}" for label in shown.labels)
  left = left or "no label"
  right = shown.id
  if shown.replaced:
    right = f"in place of {shown.replaced} unreadable: {right}"
  if shown.scale and not shown.problem:
    right = f"full colour = {shown.scale:.1f} px   {right}"
  return left, right


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
  colors: Sequence[str] = (),
) -> bytes:
  """Returns the PNG; `colors` says of flow what its colours mean."""
  captions = [caption(one, names) for one in shown]
  lines = list(head)
  said = [text for pair in captions for text in pair]
  if any(drawable(text).count(UNKNOWN) > text.count(UNKNOWN) for text in said):
    lines.append(f"{UNKNOWN} stands for a character that the font lacks")
  size = shown[0].clip.shape[1:3]
  high = len(lines) + (WHEEL if colors else 0)
  grid = Grid(len(shown), len(columns), (size[0], size[1]), high)
  sheet = Image.new("RGB", grid.shape[::-1], (255, 255, 255))
  text = _Text(sheet)
  for k, line in enumerate(lines):
    at, color = MARGIN + k * LINE, _GREY if k else _BLACK
    text.write(at, line, color, bold=not k)
  if colors:
    _legend(sheet, text, MARGIN + len(lines) * LINE, colors)
  for row, (one, (left, right)) in enumerate(zip(shown, captions, strict=True)):
    top = grid.caption(row)
    used = text.write(top, left, _BLACK, share=LABELS, bold=True)
    color = _RED if one.problem or one.replaced else _GREY
    text.write(top, right, color, share=1 - used, right=True)
    if one.problem:
      text.write(grid.corner(row, 0)[0], one.problem, _RED)
    else:
      _paste(sheet, grid, row, one.clip[columns], framed=bool(colors))
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

  def center(self, at: tuple[int, int], text: str) -> None:
    """Writes a word around a point, (left, top) in pixels."""
    self._pen.text(at, text, _GREY, self._plain, anchor="mm")

  def write(
    self,
    top: int,
    text: str,
    color: tuple[int, int, int],
    *,
    share: float = 1.0,
    bold: bool = False,
    right: bool = False,
    indent: int = 0,
  ) -> float:
    """Writes a line, cut to a share of the width, and to what there is.

    Returns:
      The share that it takes, with a margin.
    """
    font = self._bold if bold else self._plain
    room = min(share * self._width, self._width - indent)
    text = fitting(drawable(text), font, room)
    at = MARGIN + (self._width if right else indent), top
    self._pen.text(at, text, color, font, anchor="ra" if right else "la")
    return (font.getlength(text) + MARGIN) / self._width


def _paste(
  sheet: Image.Image,
  grid: Grid,
  row: int,
  frames: np.ndarray,
  *,
  framed: bool,
) -> None:
  """Puts the frames of a clip into a row, with a line around or without."""
  pen = ImageDraw.Draw(sheet)
  large = frames.repeat(grid.scale, axis=1).repeat(grid.scale, axis=2)
  for column, picture in enumerate(large):
    top, left = grid.corner(row, column)
    bottom, right = top + picture.shape[0], left + picture.shape[1]
    if framed:  # what does not move is as white as the sheet
      pen.rectangle((left - 1, top - 1, right, bottom), outline=_LINE)
    sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (left, top))


def wheel(side: int) -> np.ndarray:
  """Paints the motions within a circle, the longest at its edge.

  Args:
    side: of the picture, pixels.

  Returns:
    uint8 (side, side, 3), RGB, white around the circle.
  """
  steps = (2 * np.arange(side) - side + 1) / side  # from -1 to 1
  motion = np.stack(np.meshgrid(steps, steps), axis=-1)
  painted = flow_color(pixels_of(motion, 1), 1)
  painted[np.hypot(motion[..., 0], motion[..., 1]) > 1] = 255
  return painted


def _legend(
  sheet: Image.Image, text: _Text, top: int, lines: Sequence[str]
) -> None:
  """Draws the wheel, a word on each side of it, and the lines beside it."""
  side = (WHEEL - 2) * LINE
  left, above = MARGIN + BESIDE, top + LINE
  sheet.paste(Image.fromarray(wheel(side)), (left, above))
  middle = left + side // 2, above + side // 2
  text.center((middle[0], top + LINE // 2), "up")
  text.center((middle[0], above + side + LINE // 2), "down")
  text.center((MARGIN + BESIDE // 2, middle[1]), "left")
  text.center((left + side + BESIDE // 2, middle[1]), "right")
  beside = 2 * BESIDE + side + MARGIN
  for k, line in enumerate(lines):
    at = middle[1] + (2 * k - len(lines)) * LINE // 2
    text.write(at, line, _GREY, indent=beside)
