"""Which frames of a video, which part of a frame; numpy in, numpy out."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from p3d_jax.preprocess import CROPS, resize_frames

# Weights of red, green and blue in the grey of ITU-R BT.601; saturation is the
# distance from that grey.
GREY = np.array([0.299, 0.587, 0.114], np.float32)


def random_clip(
  num_frames: int, frames: int, stride: int, rng: np.random.Generator
) -> np.ndarray:
  """Draws the frames of one training clip.

  Every start at which the clip fits is equally likely. A video shorter than
  the clip is taken from its first frame, and its last frame is held.

  Args:
    num_frames: frames of the video.
    frames: frames of the clip.
    stride: frames of the video from one frame of the clip to the next.
    rng: where the draw comes from.

  Returns:
    int64 (frames,), ascending indices into the video.
  """
  span = _span(num_frames, frames, stride)
  start = rng.integers(max(num_frames - span, 0) + 1)
  steps = start + stride * np.arange(frames)
  return np.minimum(steps, num_frames - 1)


def uniform_clips(
  num_frames: int, frames: int, stride: int, clips: int
) -> np.ndarray:
  """Spreads the clips of one test video evenly over it.

  The first clip starts at frame 0 and the last ends at the last frame; one
  clip stands in the middle. Clips overlap where the video is too short for
  them all, and a video shorter than a clip has its last frame held.

  Args:
    num_frames: frames of the video.
    frames: frames of a clip.
    stride: frames of the video from one frame of a clip to the next.
    clips: how many.

  Returns:
    int64 (clips, frames), ascending indices into the video.
  """
  if clips < 1:
    raise ValueError(f"clips={clips}: must be >= 1")
  room = max(num_frames - _span(num_frames, frames, stride), 0)
  if clips == 1:
    starts = np.array([room // 2])
  else:
    # Whole numbers, to the nearest: no machine rounds them another way.
    starts = (2 * np.arange(clips) * room + clips - 1) // (2 * (clips - 1))
  steps = starts[:, None] + stride * np.arange(frames)
  return np.minimum(steps, num_frames - 1)


SAMPLINGS = ("uniform", "random")


@dataclasses.dataclass(frozen=True)
class Views:
  """Which clips and crops of a video test it.

  The paper's are 20 random clips and the centre crop (Sports-1M).

  Attributes:
    clips: of each video.
    sampling: "uniform", spread evenly over the video; or "random", each start
      at which a clip fits equally likely, and clips may overlap.
    crops: of each clip: 1, the centre; 3, both ends of the longer side besides
      (`Preprocessing.crops`).
    seed: of random clips.
  """

  clips: int = 20
  sampling: str = "uniform"
  crops: int = 1
  seed: int = 0

  def __post_init__(self) -> None:
    if self.clips < 1:
      raise ValueError(f"clips={self.clips}: must be >= 1")
    if self.sampling not in SAMPLINGS:
      raise ValueError(
        f"sampling={self.sampling!r}: must be one of {', '.join(SAMPLINGS)}"
      )
    if self.crops not in CROPS:
      raise ValueError(f"crops={self.crops}: must be 1 or 3")
    if self.seed < 0:
      raise ValueError(f"seed={self.seed}: must be >= 0")

  @property
  def count(self) -> int:
    """How many views a video has: clips times crops."""
    return self.clips * self.crops

  def choose(
    self, num_frames: int, frames: int, stride: int, name: str
  ) -> np.ndarray:
    """Returns the frames of each clip.

    Args:
      num_frames: frames of the video.
      frames: frames of a clip.
      stride: frames of the video from one frame of a clip to the next.
      name: of the video. Its random clips are a function of it and of the
        seed: the same in every split, and whatever stands beside it.

    Returns:
      int64 (clips, frames), ascending indices into the video.
    """
    if self.sampling == "uniform":
      return uniform_clips(num_frames, frames, stride, self.clips)
    digest = hashlib.sha256(name.encode()).digest()
    own = int.from_bytes(digest[:8], "big")
    # 3 is a stream of its own: data/pipeline.py has 0 to 2.
    rng = np.random.default_rng(
      np.random.SeedSequence(self.seed, spawn_key=(3, own))
    )
    return np.stack(
      [random_clip(num_frames, frames, stride, rng) for _ in range(self.clips)]
    )

  def told(self) -> str:
    """Returns the clips and crops in words, for reports."""
    clips = f"{self.clips} clip{'s' * (self.clips > 1)}"
    drawn = f"{clips} at random (seed {self.seed})"
    sampled = drawn if self.sampling == "random" else f"{clips} each"
    crop = "centre crop" if self.crops == 1 else f"{self.crops} crops"
    return f"{sampled}, {crop}"


def _span(num_frames: int, frames: int, stride: int) -> int:
  """Frames of the video from the first to the last of a clip, both counted."""
  for name, value in (
    ("num_frames", num_frames),
    ("frames", frames),
    ("stride", stride),
  ):
    if value < 1:
      raise ValueError(f"{name}={value}: must be >= 1")
  return (frames - 1) * stride + 1


@dataclasses.dataclass(frozen=True)
class Augment:
  """What is done at random to a training clip, all its frames alike.

  Attributes:
    random_crop: the crop stands anywhere; False: in the centre.
    scales: sides of the crop, as parts of the largest crop of its shape that
      fits the frame; each is equally likely, and what is cut is resized to
      the crop. Empty: the crop is cut at its own size.
    flip: mirror left and right, every second time. Labels follow where the
      set declares how.
    jitter: (brightness, contrast, saturation); each is multiplied by a factor
      drawn from 1 - x to 1 + x.
  """

  random_crop: bool = True
  scales: tuple[float, ...] = ()
  flip: bool = False
  jitter: tuple[float, float, float] = (0.0, 0.0, 0.0)

  def __post_init__(self) -> None:
    object.__setattr__(self, "scales", tuple(self.scales))
    object.__setattr__(self, "jitter", tuple(self.jitter))
    if not all(0 < scale <= 1 for scale in self.scales):
      raise ValueError(f"scales={self.scales}: each must be in (0, 1]")
    if len(self.jitter) != 3 or not all(0 <= x < 1 for x in self.jitter):
      raise ValueError(
        f"jitter={self.jitter}: must be (brightness, contrast, saturation), "
        "each in [0, 1)"
      )

  def __call__(
    self,
    clip: np.ndarray,
    crop: tuple[int, int],
    rng: np.random.Generator,
  ) -> tuple[np.ndarray, bool]:
    """Crops, mirrors and colours one clip.

    Args:
      clip: uint8 (time, height, width, channels).
      crop: (height, width) in pixels of the result.
      rng: where every draw comes from.

    Returns:
      uint8 (time, crop height, crop width, channels), and whether it was
      mirrored.

    Raises:
      ValueError: the frames are smaller than the crop.
    """
    window = self._draw(clip.shape[1:3], crop, rng)
    return self._finish(window.cut(clip), window, crop, rng), window.flipped

  def read(
    self,
    video: Any,
    indices: Sequence[int] | np.ndarray,
    resize: int | tuple[int, int] | None,
    crop: tuple[int, int],
    rng: np.random.Generator,
  ) -> tuple[np.ndarray, bool]:
    """Reads one clip of a video and does as calling this does, but faster.

    Only what is in the crop leaves the decoder; the pixels are the same.

    Args:
      video: a `decode.Video`, or what reads like one.
      indices: of the frames, (time,), ascending.
      resize: as `Preprocessing.resize`.
      crop: (height, width) in pixels of the result.
      rng: where every draw comes from.

    Returns:
      uint8 (time, crop height, crop width, channels), and whether it was
      mirrored.

    Raises:
      ValueError: it cannot be read, or its frames are smaller than the crop.
    """
    drawn: list[Window] = []

    def cut(picture: np.ndarray) -> np.ndarray:
      if not drawn:
        drawn.append(self._draw(picture.shape[:2], crop, rng))
      return drawn[0].cut(picture)

    clip = video.read(indices, resize, cut)
    return self._finish(clip, drawn[0], crop, rng), drawn[0].flipped

  def _draw(
    self,
    size: Sequence[int],
    crop: tuple[int, int],
    rng: np.random.Generator,
  ) -> "Window":
    """Draws what is cut from frames of a size, (height, width)."""
    box = draw_box(size, crop, self.scales, self.random_crop, rng)
    flipped = self.flip and bool(rng.integers(2))
    return Window(*box, flipped)

  def _finish(
    self,
    clip: np.ndarray,
    window: "Window",
    crop: tuple[int, int],
    rng: np.random.Generator,
  ) -> np.ndarray:
    """Resizes and colours what was cut."""
    if window.flipped and clip.shape[-1] == 2:
      clip = turn(clip)
    clip = resize_frames(clip, crop)
    if any(self.jitter):
      factors = [1 + x * rng.uniform(-1, 1) for x in self.jitter]
      clip = color(clip, *factors)
    return np.ascontiguousarray(clip)


@dataclasses.dataclass(frozen=True)
class Window:
  """What is cut from every frame of a clip, and whether it is mirrored.

  Attributes:
    top: first row.
    left: first column.
    height: in pixels.
    width: in pixels.
    flipped: left and right change places.
  """

  top: int
  left: int
  height: int
  width: int
  flipped: bool

  def cut(self, frames: np.ndarray) -> np.ndarray:
    """Returns a view of frames (..., height, width, channels)."""
    rows = slice(self.top, self.top + self.height)
    frames = frames[..., rows, self.left : self.left + self.width, :]
    return frames[..., ::-1, :] if self.flipped else frames


def draw_box(
  size: Sequence[int],
  crop: tuple[int, int],
  scales: Sequence[float],
  random_crop: bool,
  rng: np.random.Generator,
) -> tuple[int, int, int, int]:
  """Draws what is cut from a frame.

  Args:
    size: (height, width) of the frame in pixels.
    crop: (height, width) in pixels of what the network sees.
    scales: see `Augment`.
    random_crop: see `Augment`.
    rng: where the draws come from.

  Returns:
    (top, left, height, width) in pixels.
  """
  height, width = crop
  if scales:
    largest = min(size[0] / height, size[1] / width)
    scale = largest * scales[int(rng.integers(len(scales)))]
    # The 1e-9 keeps 0.75 * 64 from becoming 47 by rounding.
    height = max(int(height * scale + 1e-9), 1)
    width = max(int(width * scale + 1e-9), 1)
  if height > size[0] or width > size[1]:
    raise ValueError(
      f"frames of {size[0]}x{size[1]} pixels (height x width) are smaller than "
      f"the crop, {height}x{width}: give `resize`"
    )
  if not random_crop:
    return (size[0] - height) // 2, (size[1] - width) // 2, height, width
  top = int(rng.integers(size[0] - height + 1))
  left = int(rng.integers(size[1] - width + 1))
  return top, left, height, width


def turn(flow: np.ndarray) -> np.ndarray:
  """Changes the sign of x in a clip of optical flow that is mirrored.

  What moved to the left moves to the right in the mirror.

  Args:
    flow: uint8 (time, height, width, 2), x then y, about 128.

  Returns:
    uint8 of the same shape.
  """
  flow = flow.copy()
  # -128 has no opposite in 0..255 about 128: 0 becomes 255, not 256.
  flow[..., 0] = np.minimum(256 - flow[..., 0].astype(np.int32), 255)
  return flow


def color(
  clip: np.ndarray, brightness: float, contrast: float, saturation: float
) -> np.ndarray:
  """Multiplies brightness, then contrast, then saturation of an RGB clip.

  Contrast is the distance from the clip's mean grey, so that a clip does not
  flicker; saturation is the distance of a pixel from its own grey.

  Args:
    clip: uint8 (time, height, width, 3).
    brightness: factor; 1 changes nothing.
    contrast: factor; 1 changes nothing.
    saturation: factor; 1 changes nothing.

  Returns:
    uint8 (time, height, width, 3), rounded to the nearest and clipped.
  """
  if clip.shape[-1] != 3:
    raise ValueError(
      f"jitter needs RGB clips; these have {clip.shape[-1]} channels"
    )
  x = clip.astype(np.float32) * np.float32(brightness)
  mean = np.float32((x @ GREY).mean(dtype=np.float64))
  x = (x - mean) * np.float32(contrast) + mean
  grey = (x @ GREY)[..., None]
  x = (x - grey) * np.float32(saturation) + grey
  return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def resample(times: np.ndarray, duration: float, fps: float) -> np.ndarray:
  """Returns the frames that a video shows at an even rate.

  Args:
    times: (num_frames,) seconds at which each frame appears, ascending from 0.
    duration: seconds from the first frame to the end of the last.
    fps: frames a second of the result.

  Returns:
    int64 indices into the video, ascending, at least one: entry k is the frame
    on screen at k / fps seconds. A lower rate drops frames, a higher one
    repeats them.
  """
  count = max(int(round(duration * fps)), 1)
  # Timestamps are rounded (mkv to 1 ms); half a millisecond late is on time.
  at = np.arange(count) / fps + 5e-4
  return np.maximum(np.searchsorted(times, at, side="right") - 1, 0)
