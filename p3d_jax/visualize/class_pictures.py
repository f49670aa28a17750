"""Class pictures: clips drawn from noise by gradient ascent on a class.

The paper draws them with DeepDraw: from noise on, the clip climbs the logit of
a class. Three things keep it from the fine noise that raises any logit and
shows nothing: a blur that grows weaker, a shift drawn anew in each step, and a
gradient of which slow and coarse waves have the larger share, as in footage.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from p3d_jax.checkpoint.model import Record
from p3d_jax.data.flow import BOUND, flow_color
from p3d_jax.models.p3d import P3D
from p3d_jax.preprocess import Preprocessing
from p3d_jax.progress import Bar
from p3d_jax.visualize.contact_sheet import (
  GAP,
  LINE,
  MARGIN,
  SMALL,
  columns_of,
  drawable,
  fitting,
  motion_scale,
)

# The paper states no numbers. These were chosen by eye, on the demo's network.
STEPS = 200
NOISE = 20.0  # deviation of the first clip from the mean pixel, grey levels
SIZES = (12.0, 3.0)  # of a step at first and at last: rms, grey levels
BLURS = (1.0, 0.3)  # deviation of the blur at first and at last, pixels
# Largest shift in a step: frames, and a share of the side. Without the first, a
# frame that the temporal pools pass over would have no gradient in any step.
SHIFTS = (1, 1 / 12)
FRAMES = 8  # of a clip that are drawn
TEXT = 400  # pixels that the text has, however narrow the frames are
_AT_ONCE = 20  # steps from one sign of life to the next


def class_clips(
  module: P3D,
  variables: Any,
  record: Record,
  labels: Sequence[int],
  *,
  steps: int = STEPS,
  seed: int = 0,
) -> np.ndarray:
  """Draws for each class a clip that raises its logit; shows the progress.

  See `aim` for what of the logit is raised.

  A clip depends on the seed and on its class, not on the other classes.

  Args:
    module: a network with classes.
    variables: of it.
    record: of it: what it expects of pixels.
    labels: the classes.
    steps: of the ascent.
    seed: of the noise that it starts from, and of the shifts.

  Returns:
    uint8 (classes, time, height, width, channels), RGB (or flow x, y).

  Raises:
    ValueError: the network has no classes, a label is none of them, or steps
      or seed is out of its range.
    ArithmeticError: the network's logits are not finite.
  """
  _check(module, labels, steps, seed)
  network = module, record.preprocessing, record.scores
  drawn = []
  with Bar("classes", steps * len(labels)) as bar:
    for k, label in enumerate(labels):
      key = jax.random.fold_in(jax.random.key(seed), label)
      clip = first_clip(record.preprocessing, key)
      for start in range(0, steps, _AT_ONCE):
        stop = min(start + _AT_ONCE, steps)
        part = start, stop, steps
        clip, logit = _climb(*network, variables, clip, label, key, part)
        if not np.isfinite(logit):
          raise ArithmeticError(
            f"the logit of class {label} is {logit}: the network's variables "
            "are not finite, or its dtype is too narrow for them"
          )
        bar.update(k * steps + stop, {"logit": f"{logit:.1f}"}, stop == steps)
      drawn.append(np.asarray(jnp.rint(clip), np.uint8))
  return np.stack(drawn)


def _check(module: P3D, labels: Sequence[int], steps: int, seed: int) -> None:
  """Refuses what cannot be drawn."""
  if module.num_classes is None:
    raise ValueError("the network is a trunk, without classes to draw")
  if not len(labels):
    raise ValueError("labels are none: name a class to draw")
  for label in labels:
    if not 0 <= label < module.num_classes:
      raise ValueError(
        f"labels has {label}: it must be in 0..{module.num_classes - 1}"
      )
  for name, value, least in (("steps", steps, 1), ("seed", seed, 0)):
    if value < least:
      raise ValueError(f"{name} is {value}: it must be >= {least}")


def first_clip(pixels: Preprocessing, key: jax.Array) -> jax.Array:
  """Returns noise around the pixel that the network takes for 0.

  Args:
    pixels: what the network expects.
    key: of the noise.

  Returns:
    float32 (time, height, width, channels), in 0..255, RGB (or flow x, y).
  """
  middle = np.asarray(pixels.mean, np.float32) / pixels.scale
  if pixels.channels == "BGR":
    middle = middle[::-1]
  shape = (pixels.frames, *pixels.crop_size, len(middle))
  noise = NOISE * jax.random.normal(key, shape)
  return jnp.clip(middle + noise, 0, 255)


def aim(logits: jax.Array, label: Any, scores: str) -> jax.Array:
  """Returns what is raised: the logit of a class.

  With softmax it counts from the mean of all logits: what is common to them
  changes no score, and where they are alike the clip would climb just that.

  Args:
    logits: (classes,).
    label: the class.
    scores: "softmax" or "sigmoid".
  """
  common = logits.mean() if scores == "softmax" else 0
  return logits[label] - common


@functools.partial(jax.jit, static_argnames=("module", "pixels", "scores"))
def _climb(
  module: P3D,
  pixels: Preprocessing,
  scores: str,
  variables: Any,
  clip: jax.Array,
  label: Any,
  key: Any,
  steps: Any,
) -> tuple[jax.Array, jax.Array]:
  """Goes some steps up, of `steps` = (first, last + 1, of how many)."""
  start, stop, total = steps

  def height(clip: jax.Array) -> jax.Array:
    logits: Any = module.apply(variables, pixels.normalize(clip[None]))
    return aim(logits[0], label, scores)

  def step(k: Any, carry: Any) -> Any:
    clip, _ = carry
    done = k / jnp.maximum(total - 1, 1)
    shift = _shift(jax.random.fold_in(key, k), pixels.crop_size)
    clip = jnp.roll(blur(clip, _between(BLURS, done)), shift, (0, 1, 2))
    value, slope = jax.value_and_grad(height)(clip)
    slope = coarse(slope)
    rms = jnp.sqrt((slope**2).mean())
    # Where nothing has a slope the clip stays: 0 over 0 would spoil it.
    clip += _between(SIZES, done) * slope / jnp.maximum(rms, 1e-20)
    return jnp.clip(jnp.roll(clip, -shift, (0, 1, 2)), 0, 255), value

  return jax.lax.fori_loop(start, stop, step, (clip, jnp.float32(0)))


def _between(ends: tuple[float, float], done: jax.Array) -> jax.Array:
  """Goes from the first to the last number, as `done` goes from 0 to 1."""
  return ends[0] + (ends[1] - ends[0]) * done


def _shift(key: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Draws how far a clip is shifted: later, down and to the right."""
  sides = [max(int(side * SHIFTS[1]), 1) for side in size]
  most = jnp.asarray([SHIFTS[0], *sides])
  return jax.random.randint(key, (3,), -most, most + 1)


def coarse(slope: jax.Array) -> jax.Array:
  """Divides each wave that a gradient is made of by its frequency.

  Args:
    slope: (time, height, width, channels).

  Returns:
    Of the same shape. The waves longer than the frame count as one as long.
  """
  axes = (0, 1, 2)
  grid = jnp.meshgrid(
    *(jnp.fft.fftfreq(slope.shape[axis]) for axis in axes), indexing="ij"
  )
  frequency = jnp.sqrt(sum(part**2 for part in grid))
  least = 1 / max(slope.shape[1:3])
  waves = jnp.fft.fftn(slope, axes=axes)
  waves /= jnp.maximum(frequency, least)[..., None]
  return jnp.fft.ifftn(waves, axes=axes).real


def blur(clip: jax.Array, deviation: jax.Array | float) -> jax.Array:
  """Blurs each frame by a Gaussian; what lies past its edge is its edge.

  Args:
    clip: (time, height, width, channels).
    deviation: of the Gaussian, in pixels, > 0 and at most 2.

  Returns:
    Of the same shape.
  """
  reach = 6  # three deviations of the largest
  places = jnp.arange(-reach, reach + 1)
  weights = jnp.exp(-0.5 * (places / deviation) ** 2)
  weights /= weights.sum()
  for axis in (1, 2):
    length = clip.shape[axis]
    pad = [(0, 0)] * clip.ndim
    pad[axis] = (reach, reach)
    wide = jnp.pad(clip, pad, mode="edge")
    clip = sum(
      weight * jax.lax.slice_in_dim(wide, k, k + length, axis=axis)
      for k, weight in enumerate(weights)
    )
  return clip


def scores_of(
  module: P3D, variables: Any, record: Record, clips: np.ndarray
) -> np.ndarray:
  """Scores clips as they are drawn, in whole grey levels, one at a time.

  Args:
    module: a network with classes.
    variables: of it.
    record: of it.
    clips: uint8 (clips, time, height, width, channels).

  Returns:
    (clips, classes), each in 0..1.
  """
  network = module, record.preprocessing, record.scores
  return np.stack([_score(*network, variables, clip[None]) for clip in clips])


@functools.partial(jax.jit, static_argnames=("module", "pixels", "scores"))
def _score(
  module: P3D,
  pixels: Preprocessing,
  scores: str,
  variables: Any,
  clips: jax.Array,
) -> jax.Array:
  """Scores one clip in a batch."""
  logits: Any = module.apply(variables, pixels.normalize(clips))
  turn = jax.nn.softmax if scores == "softmax" else jax.nn.sigmoid
  return turn(logits[0])


def class_pictures_png(clips: np.ndarray, names: Sequence[str]) -> bytes:
  """Draws clips as strips of frames, one below the other, names above them.

  Pixels are drawn as they are, or enlarged by a whole number. Optical flow is
  painted, in each clip up to its own fastest motion.

  Args:
    clips: uint8 (classes, time, height, width, channels), RGB (or flow x, y).
    names: of the classes.

  Returns:
    A PNG.

  Raises:
    ValueError: there is not one name for each clip.
  """
  if len(names) != len(clips) or not len(names):
    raise ValueError(
      f"names are {len(names)}: there must be one for each of the "
      f"{len(clips)} clips"
    )
  columns = columns_of(clips.shape[1], FRAMES)
  strips = [_strip(clip, columns) for clip in clips]
  head = "frames " + ", ".join(str(column) for column in columns)
  if clips.shape[-1] == 2:
    head += "; the hue is the direction of the motion, full at its fastest"
  width = max(strips[0].shape[1], TEXT)
  step = LINE + strips[0].shape[0] + MARGIN
  top = MARGIN + LINE
  size = (2 * MARGIN + width, top + len(strips) * step)
  sheet = Image.new("RGB", size, (255, 255, 255))
  pen, font = ImageDraw.Draw(sheet), _font()
  pen.text((MARGIN, MARGIN), fitting(head, font, width), (110, 110, 110), font)
  for strip, name in zip(strips, names, strict=True):
    text = fitting(drawable(name), font, width)
    pen.text((MARGIN, top), text, (20, 20, 20), font)
    sheet.paste(Image.fromarray(strip), (MARGIN, top + LINE))
    top += step
  buffer = io.BytesIO()
  sheet.save(buffer, format="png")
  return buffer.getvalue()


def _strip(clip: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """Returns frames of a clip beside each other, uint8 (height, width, 3)."""
  if clip.shape[-1] == 2:
    clip = flow_color(clip, BOUND, motion_scale(clip, BOUND))
  scale = max(-(-SMALL // max(clip.shape[1:3])), 1)
  large = clip[columns].repeat(scale, axis=1).repeat(scale, axis=2)
  gap = np.full((len(large), large.shape[1], GAP, 3), 255, np.uint8)
  row = np.concatenate([large, gap], axis=2)
  return np.concatenate(list(row), axis=1)[:, :-GAP]


@functools.cache
def _font() -> Any:
  """Returns the font of the contact sheet."""
  file = os.path.join(
    matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"
  )
  return ImageFont.truetype(file, 13, layout_engine=ImageFont.Layout.BASIC)
