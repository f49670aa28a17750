"""What weights expect of pixels, and the arithmetic that gives it to them."""

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

# Bilinear, with the triangle as wide as the reduction (so it does not alias).
# The other flags make every pixel get its own chroma and the result the same
# on every processor; without them a frame differs from the exact one by 1 to 2
# grey levels on average, with them by 0.1.
SWSCALE = (
  Interpolation.BILINEAR
  | Interpolation.ACCURATE_RND
  | Interpolation.BITEXACT
  | Interpolation.FULL_CHR_H_INT
  | Interpolation.FULL_CHR_H_INP
)

# channels -> how many; "BGR" and "RGB" are both read from RGB frames.
CHANNELS = {"RGB": 3, "BGR": 3, "flow": 2}

# How many crops of a frame may test it.
CROPS = (1, 3)

_LARGEST = float(np.finfo(np.float32).max)


def _require(ok: bool, name: str, value: object, rule: str) -> None:
  if not ok:
    raise ValueError(f"{name}={value!r}: must be {rule}")


def _is_count(value: object) -> bool:
  """Whether it is a whole number from 1 on; JSON's true is an int of Python."""
  return type(value) is int and value >= 1


def _is_number(value: Any) -> bool:
  """Whether it is a number, and finite in the float32 that it is used in."""
  real = isinstance(value, numbers.Real) and not isinstance(value, bool)
  return real and bool(abs(value) <= _LARGEST)


def _numbers(name: str, value: Any, channels: str) -> tuple[float, ...]:
  """Checks numbers of which each channel has one."""
  count = CHANNELS[channels]
  values = tuple(value) if np.iterable(value) else (value,)
  _require(
    len(values) == count and all(_is_number(v) for v in values),
    name,
    value,
    f"{count} finite numbers, one for each channel of {channels}",
  )
  return tuple(float(v) for v in values)


def _sizes(
  name: str, value: int | tuple[int, int] | None
) -> int | tuple[int, int] | None:
  """Checks a size in pixels: None, a side, or a pair."""
  if value is None:
    return None
  sides = tuple(value) if np.iterable(value) else (value, value)
  _require(
    len(sides) == 2 and all(_is_count(side) for side in sides),
    name,
    value,
    "a side in pixels or (height, width)",
  )
  return value if isinstance(value, int) else (sides[0], sides[1])


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """What weights expect of pixels: `(pixel * scale - mean) / std`.

  Attributes:
    frames: frames in a clip.
    stride: frames from one frame of a clip to the next.
    fps: rate (frames a second) the video is resampled to before frames are
      taken; None takes the file's own frames.
    resize: short side in pixels, or exactly (height, width); None leaves the
      frames as they are.
    crop: side, or (height, width), in pixels, of what the network sees; cut
      from the centre in evaluation.
    channels: "RGB", "BGR" or "flow" (x, y).
    scale: factor on the 0..255 pixel, before mean and std.
    mean: subtracted, in the order of `channels`.
    std: divided by, in the order of `channels`.
  """

  frames: int = 16
  stride: int = 1
  fps: float | None = None
  resize: int | tuple[int, int] | None = (182, 242)
  crop: int | tuple[int, int] = 160
  channels: str = "RGB"
  scale: float = 1.0
  mean: tuple[float, ...] = (0.0, 0.0, 0.0)
  std: tuple[float, ...] = (1.0, 1.0, 1.0)

  def __post_init__(self) -> None:
    for name in ("frames", "stride"):
      value = getattr(self, name)
      _require(_is_count(value), name, value, "a whole number >= 1")
    for name in ("fps", "scale"):
      value = getattr(self, name)
      optional = name == "fps" and value is None
      _require(
        optional or (_is_number(value) and value > 0),
        name,
        value,
        "a finite number > 0" + " or None" * (name == "fps"),
      )
    _require(
      isinstance(self.channels, str) and self.channels in CHANNELS,
      "channels",
      self.channels,
      f"one of {', '.join(CHANNELS)}",
    )
    for name in ("mean", "std"):
      values = _numbers(name, getattr(self, name), self.channels)
      object.__setattr__(self, name, values)
    _require(min(self.std) > 0, "std", self.std, "> 0")
    for name in ("resize", "crop"):
      object.__setattr__(self, name, _sizes(name, getattr(self, name)))
    _require(self.crop is not None, "crop", self.crop, "a size in pixels")
    if self.resize is not None:
      least = np.broadcast_to(self.resize, 2)
      _require(
        bool(np.all(least >= self.crop_size)),
        "crop",
        self.crop,
        f"at most the resize, {self.resize}",
      )

  @property
  def crop_size(self) -> tuple[int, int]:
    """The crop as (height, width), in pixels."""
    height, width = np.broadcast_to(np.asarray(self.crop), 2)
    return int(height), int(width)

  def resized(self, height: int, width: int) -> tuple[int, int]:
    """Returns the (height, width) that frames of this size are resized to."""
    return resized(self.resize, height, width)

  def center_crop(self, frames: Any) -> Any:
    """Cuts the crop from the centre.

    Args:
      frames: numpy or jax array (..., height, width, channels).

    Returns:
      (..., crop height, crop width, channels). Where the margin is odd, the
      smaller half is above and on the left.

    Raises:
      ValueError: the frames are smaller than the crop.
    """
    crop_height, crop_width = self.crop_size
    height, width = frames.shape[-3:-1]
    if height < crop_height or width < crop_width:
      raise ValueError(
        f"frames of {height}x{width} pixels (height x width) are smaller than "
        f"the crop, {crop_height}x{crop_width}: give `resize`"
      )
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return frames[..., top : top + crop_height, left : left + crop_width, :]

  def crops(self, frames: Any, count: int) -> list[Any]:
    """Cuts the crop from one place, or from three.

    Args:
      frames: numpy or jax array (..., height, width, channels).
      count: 1: the centre. 3: along the longer side (the width where both are
        equal) its start, its middle and its end; in the middle of the other.

    Returns:
      `count` views (..., crop height, crop width, channels).

    Raises:
      ValueError: the frames are smaller than the crop.
    """
    if count == 1:
      return [self.center_crop(frames)]
    band = self.band(frames)
    crop_height, crop_width = self.crop_size
    height, width = band.shape[-3:-1]
    if width >= height:
      starts = (0, (width - crop_width) // 2, width - crop_width)
      return [band[..., x : x + crop_width, :] for x in starts]
    starts = (0, (height - crop_height) // 2, height - crop_height)
    return [band[..., y : y + crop_height, :, :] for y in starts]

  def band(self, frames: Any) -> Any:
    """Cuts what the three crops are cut from: the shorter side's middle."""
    centre = self.center_crop(frames)  # refuses what is too small
    height, width = frames.shape[-3:-1]
    if width >= height:
      top = (height - centre.shape[-3]) // 2
      return frames[..., top : top + centre.shape[-3], :, :]
    left = (width - centre.shape[-2]) // 2
    return frames[..., left : left + centre.shape[-2], :]

  def normalize(self, clips: Any) -> Any:
    """Maps pixels to what the network reads.

    Args:
      clips: numpy or jax array (..., channels), 0..255, RGB (or flow x, y).

    Returns:
      float32 of the same shape, channels in the order of `channels`.
    """
    count = CHANNELS[self.channels]
    if clips.shape[-1] != count:
      raise ValueError(
        f"clips have {clips.shape[-1]} channels; {self.channels} needs {count}"
      )
    if self.channels == "BGR":
      clips = clips[..., ::-1]
    mean = np.asarray(self.mean, np.float32)
    std = np.asarray(self.std, np.float32)
    return (clips.astype(np.float32) * np.float32(self.scale) - mean) / std

  def preprocess(self, frames: np.ndarray) -> np.ndarray:
    """Resizes if needed, crops the centre, normalises.

    Args:
      frames: uint8 (..., time, height, width, channels), RGB (or flow x, y).

    Returns:
      float32 (..., time, crop height, crop width, channels).
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8:
      raise ValueError(
        f"frames are {frames.dtype}; preprocess takes uint8, 0..255"
      )
    size = self.resized(*frames.shape[-3:-1])
    return self.normalize(self.center_crop(resize_frames(frames, size)))

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields as JSON types."""
    return {
      key: list(value) if isinstance(value, tuple) else value
      for key, value in dataclasses.asdict(self).items()
    }

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> "Preprocessing":
    """Reads what `to_dict` gave.

    Raises:
      ValueError: it is no mapping, or a key is unknown or missing.
    """
    if not isinstance(fields, Mapping):
      raise ValueError(
        f"preprocessing record: it is {type(fields).__name__}, not an object "
        "of all fields"
      )
    names = {field.name for field in dataclasses.fields(cls)}
    if set(fields) != names:
      raise ValueError(
        "preprocessing record: unknown keys "
        f"{sorted(set(fields) - names)}, missing keys "
        f"{sorted(names - set(fields))}"
      )
    values: dict[str, Any] = {
      key: tuple(value) if isinstance(value, list) else value
      for key, value in fields.items()
    }
    return cls(**values)


# 104, 117, 123 are the mean blue, green and red of ImageNet; the authors'
# networks subtract them and do not divide (deploy prototxts).
_CAFFE = Preprocessing(channels="BGR", mean=(104.0, 117.0, 123.0))

PREPROCESSINGS: dict[str, Preprocessing] = {
  # The authors' Sports-1M and Kinetics RGB weights; 182x242 and the 160 crop
  # are those of the paper's UCF101 study.
  "released_rgb": _CAFFE,
  # The authors' Kinetics flow weights: TV-L1 flow, rescaled to 0..255.
  "released_flow": Preprocessing(
    channels="flow", mean=(128.0, 128.0), std=(1.0, 1.0)
  ),
  # What the PyTorch port declares (ImageNet's mean and deviation of RGB in
  # 0..1). Its weights were converted from the authors' files, which were
  # trained on "released_rgb".
  "port": Preprocessing(
    scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
  ),
  # torchvision's, timm's and transformers' ResNets, frame by frame: short side
  # 256, centre 224.
  "torchvision": Preprocessing(
    frames=1,
    resize=256,
    crop=224,
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
  ),
  # Caffe's ResNets on frames; the size is that of the paper's 2D baseline
  # (240x320, crop 224).
  "caffe": dataclasses.replace(_CAFFE, frames=1, resize=(240, 320), crop=224),
}


def resized(
  resize: int | tuple[int, int] | None, height: int, width: int
) -> tuple[int, int]:
  """Returns the (height, width) that `resize` makes of a frame's.

  Args:
    resize: short side in pixels (the long one follows, rounded to the
      nearest), exactly (height, width), or None for no change.
    height: of the frame, in pixels.
    width: of the frame, in pixels.
  """
  if resize is None:
    return height, width
  if isinstance(resize, tuple):
    return resize
  short = min(height, width)
  # Whole numbers only: floor((2 a + b) / (2 b)) is a / b to the nearest.
  long = (2 * max(height, width) * resize + short) // (2 * short)
  return (resize, long) if height <= width else (long, resize)


def resize_frames(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes frames with the filter that `data.decode` uses.

  A frame decoded at its own size and resized here is within a rounding of the
  colours (0.2 grey levels on average) of the same frame resized as it is
  decoded.

  Args:
    frames: uint8 (..., height, width, channels).
    size: (height, width) in pixels.

  Returns:
    uint8 (..., height, width, channels).
  """
  *lead, height, width, channels = frames.shape
  if (height, width) == tuple(size):
    return frames
  reformatter = VideoReformatter()
  pictures = np.moveaxis(frames, -1, -3).reshape(-1, height, width)
  out = np.empty((len(pictures), *size), np.uint8)
  for k, picture in enumerate(pictures):
    # Each channel is a grey picture of its own: swscale takes RGB through YUV.
    grey = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "gray")
    grey = reformatter.reformat(
      grey, size[1], size[0], interpolation=SWSCALE, threads=1
    )
    out[k] = grey.to_ndarray()
  return np.moveaxis(out.reshape(*lead, channels, *size), -3, -1)
