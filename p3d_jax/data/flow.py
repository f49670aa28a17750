"""Optical flow: computed from a video, as pixels, and as colours to look at.

Flow k is the motion from frame k of a video to frame k + 1, frames upright and
grey: at each pixel of frame k, how many pixels to the right (x) and down (y)
what it shows has moved. It stands at the time of frame k, so a video of n
frames has n - 1 frames of flow. A video of one frame has one frame of flow, all
zeros, as long as the video.
"""

import math
from collections.abc import Callable
from typing import Any

import av
import numpy as np

from p3d_jax.data import clips
from p3d_jax.data.decode import Crop, Pictures, Video, VideoError
from p3d_jax.data.flow_file import FlowVideo, FlowWriter

__all__ = [
  "BOUND",
  "METHODS",
  "FlowVideo",
  "check_options",
  "computing",
  "encode_flow",
  "flow_color",
  "flow_of",
  "pixels_of",
]

# Pixels a frame. The paper does not say at which motion it clips; 20 is what
# the tools that wrote JPEGs for two-stream networks take, and I3D's authors.
BOUND = 20.0
# Changing what is computed below changes the flow sets; say so here, and the
# key of a built set changes with it.
FORMAT = 1
# Pixels. DIS matches patches of 8 pixels in frames of half the size and less;
# of smaller frames OpenCV 5.0 takes the process with it.
SMALLEST = 16

# method -> what OpenCV calls it, and with which settings. "tvl1" is what the
# paper takes: Zach, Pock and Bischof 2007, with OpenCV's own defaults (5 scales
# of 0.8, 5 warps). "dis" is Kroeger et al. 2016, a hundred times faster.
METHODS: dict[str, Callable[[Any], Any]] = {
  "tvl1": lambda cv2: cv2.optflow.DualTVL1OpticalFlow_create(),
  "dis": lambda cv2: cv2.DISOpticalFlow_create(
    cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
  ),
}

Compute = Callable[[np.ndarray, np.ndarray], np.ndarray]


def computing(method: str) -> Compute:
  """Returns the function that computes flow.

  It maps two frames, uint8 (height, width), to the motion from the first to
  the second: float32 (height, width, 2), x then y, in pixels.

  Args:
    method: one of `METHODS`.

  Raises:
    ValueError: the method is unknown, or OpenCV is not installed.
  """
  _check_method(method)
  try:
    import cv2

    algorithm = METHODS[method](cv2)
  except (ImportError, AttributeError) as error:  # none, or without `optflow`
    raise ValueError(
      f"method={method!r}: it needs OpenCV with its contributed modules: "
      "pip install 'p3d_jax[flow]'"
    ) from error
  return lambda first, second: algorithm.calc(first, second, None)


def encode_flow(
  video: bytes,
  method: str = "tvl1",
  bound: float = BOUND,
  side: int | None = None,
) -> dict[str, Any]:
  """Computes the flow of a video, with two frames of it in memory.

  It takes one core: OpenCV is told to, for as long as the process lives, since
  there are as many processes as cores.

  Args:
    video: encoded.
    method: one of `METHODS`.
    bound: motion, in pixels a frame, beyond which it is clipped.
    side: short side, in pixels, to which frames are resized before the flow is
      computed; motion is in pixels of these. None: as they are.

  Returns:
    "video", bytes that `FlowVideo` reads; "num_frames" of flow; "seconds" that
    they last.

  Raises:
    ValueError: an argument is out of its range, or OpenCV is not installed.
    VideoError: the video cannot be read, or its frames are too small.
  """
  check_options(method, bound, side)
  source = _FlowSource(video, computing(method), bound, side)
  import cv2

  cv2.setNumThreads(1)
  # Who finds the file is to know what it is.
  comment = (
    f"optical flow ({method}), x above y; "
    f"pixel = 128 + motion * 127 / {bound:g} pixels a frame"
  )
  encoded = source.encode(comment)
  return {
    "video": encoded,
    "num_frames": len(source.flow_times) - 1,
    "seconds": float(source.flow_times[-1]),
  }


def _check_method(method: str) -> None:
  if method not in METHODS:
    raise ValueError(f"method={method!r}: must be one of {', '.join(METHODS)}")


def check_options(method: str, bound: float, side: int | None) -> None:
  """Raises a ValueError that names the one that is out of its range."""
  _check_method(method)
  if not (math.isfinite(bound) and bound > 0):
    raise ValueError(f"bound={bound!r}: must be a finite number > 0, in pixels")
  if side is not None and (type(side) is not int or side < SMALLEST):
    raise ValueError(f"side={side!r}: must be >= {SMALLEST} pixels, or None")


def pixels_of(motion: np.ndarray, bound: float = BOUND) -> np.ndarray:
  """Returns motion as pixels, 128 + 127 * motion / bound, rounded and clipped.

  Clipped to 1..255, so that the pixel of the opposite motion is 256 less it.

  Args:
    motion: (...) in pixels a frame.
    bound: motion, in pixels a frame, that becomes 255.

  Returns:
    uint8 of the same shape.
  """
  pixels = np.rint(128 + np.asarray(motion, np.float32) * (127 / bound))
  return np.clip(pixels, 1, 255).astype(np.uint8)


def flow_of(pixels: np.ndarray, bound: float = BOUND) -> np.ndarray:
  """Returns the motion that pixels mean.

  Args:
    pixels: uint8 (...).
    bound: as they were made with.

  Returns:
    float32 of the same shape, in pixels a frame.
  """
  return (np.asarray(pixels, np.float32) - 128) * np.float32(bound / 127)


def flow_color(
  pixels: np.ndarray, bound: float = BOUND, scale: float | None = None
) -> np.ndarray:
  """Paints flow to look at: the hue is the direction, full colour the length.

  To the right is red, down yellow-green (a quarter turn clockwise on the
  picture), left cyan, up violet; halfway between them stand orange, green,
  blue and magenta. What stands still is white, and the colour grows with the
  length, up to `scale`.

  Args:
    pixels: uint8 (..., height, width, 2), x then y.
    bound: as they were made with.
    scale: motion, in pixels a frame, from which on the colour is full; None:
      the bound.

  Returns:
    uint8 (..., height, width, 3), RGB.

  Raises:
    ValueError: `scale` is not > 0.
  """
  scale = bound if scale is None else scale
  if not scale > 0:
    raise ValueError(f"scale={scale}: must be > 0 pixels a frame")
  x, y = np.moveaxis(flow_of(pixels, bound), -1, 0)
  turn = np.arctan2(y, x) / (2 * np.pi)  # y points down: clockwise
  full = np.minimum(np.hypot(x, y) / scale, 1)
  # The hue as a hexagon: each of red, green, blue is full for two of its sides.
  sixths = (6 * turn[..., None] + np.array([0, 4, 2], np.float32)) % 6
  color = np.clip(np.abs(sixths - 3) - 1, 0, 1)
  return np.rint(255 * (1 - full[..., None] * (1 - color))).astype(np.uint8)


class _FlowSource(Video):
  """A video whose frames, as they are read, become flow."""

  def __init__(
    self, video: bytes, compute: Compute, bound: float, side: int | None
  ) -> None:
    super().__init__(video)
    self._compute, self._bound, self._side = compute, bound, side
    # The last flow ends when the last frame appears.
    self.flow_times = self.times
    if self.num_frames == 1:
      self.flow_times = np.array([0.0, self.duration])

  def encode(self, comment: str) -> bytes:
    self._comment = comment
    self.read(self.timeline(None), self._side)
    return self._flows.close()

  def _pictures(
    self, count: int, resize: int | tuple[int, int] | None, crop: Crop | None
  ) -> Pictures:
    def begin() -> FlowWriter:
      return FlowWriter(self.flow_times, self._comment)

    self._flows = _Flows(count, resize, self._flow, begin)
    return self._flows

  def _flow(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    if min(first.shape) < SMALLEST:
      raise VideoError(
        f"{self.name}: frames of {first.shape[0]}x{first.shape[1]} pixels "
        f"(height x width) are too small for flow; {SMALLEST} is the least"
      )
    return pixels_of(self._compute(first, second), self._bound)


class _Flows(Pictures):
  """Takes frames in turn and writes the flow from each to the next."""

  def __init__(
    self,
    count: int,
    resize: int | tuple[int, int] | None,
    flow: Compute,
    begin: Callable[[], FlowWriter],
  ) -> None:
    super().__init__(count, resize, None)
    self._single, self._flow, self._begin = count == 1, flow, begin
    self._before = np.empty((0, 0), np.uint8)

  def put(self, at: int, frame: av.VideoFrame) -> None:
    """Writes the flow from frame `at - 1` to this one."""
    grey = np.rint(self.rgb(frame) @ clips.GREY).astype(np.uint8)
    if at == 0:
      # Decoding may begin again, from an earlier keyframe.
      self._writer = self._begin()
      if self._single:
        self._writer.write(pixels_of(np.zeros((*grey.shape, 2))))
    else:
      self._writer.write(self._flow(self._before, grey))
    self._before = grey

  def close(self) -> bytes:
    return self._writer.close()
