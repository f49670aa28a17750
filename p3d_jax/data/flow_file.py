"""Optical flow as an encoded video: writing it, and reading clips of it.

A frame of such a video is a grey picture of twice the height, x above y. A
pixel is 128 where nothing moves and 128 + 127 at `bound` pixels a frame.

The numbers behind the encoding, of flow on three films at 320x240 pixels with
a bound of 20, so that a step of the pixel is 0.157 pixels of motion and its
rounding alone makes a mean error of 0.04. TV-L1 on the film that comes out
worst, in pixels of motion (of DIS, qp 16 gives 0.025 and 0.63, JPEG 0.012 and
0.94):

                               mean    largest   kB a frame
  JPEG of x and y, quality 95  0.015   1.42       9.4
  lossless (qp 0)              0       0         10.5
  qp 10                        0.009   0.31       7.4
  qp 16                        0.018   0.79       4.2
  qp 16 without CABAC          0.018   0.79       4.5  (taken)
  qp 20                        0.028   1.26       2.9
  crf 12                       0.019   1.26       4.1
  crf 12, a keyframe in 8      0.018   1.26       4.4
  the same and deblocking      0.018   7.24       4.4

So qp 16 adds half of the rounding's error, and 0.07 on made-up flow that is
nowhere flat (JPEG: 0.03), at half of JPEG's size. Flow hardly repeats from
frame to frame: keyframes alone are no larger, and any frame is decoded alone. A
constant rate factor spends by the time that a frame is on screen: the mean
error of crf 12 is 0.004 at one frame a second and 0.029 at 100. The deblocking
filter smears x into y where they meet. Without CABAC a frame is decoded in 0.5
to 0.6 of the time.
"""

import functools
import io
import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter

from p3d_jax.data.decode import (
  Crop,
  Pictures,
  Video,
  VideoError,
  VideoInfo,
)
from p3d_jax.preprocess import SWSCALE, resized

QP = 16
# The usual clock of video: 25, 24, 30 and 30000/1001 frames a second fall on
# its ticks, any other time within 6 microseconds.
CLOCK = 90_000
# What decoders give for grey H.264, and what others may store flow as.
FORMATS = ("gray", "yuv420p", "yuv422p", "yuv444p") + (
  ("yuvj420p", "yuvj422p", "yuvj444p")
)


class FlowWriter:
  """Encodes flow as it comes: an mp4 of H.264, the same every time."""

  def __init__(
    self,
    times: Sequence[float] | np.ndarray,
    comment: str = "",
    *,
    qp: int = QP,
  ) -> None:
    """Opens the video, in memory.

    Args:
      times: seconds at which each frame of flow appears, ascending, and at
        which the last one ends; one more than frames.
      comment: for people, kept in the file.
      qp: quantiser of every frame, 0 (lossless) to 51.
    """
    # Frames of a damaged video may be closer than a tick: each gets its own.
    ticks = [round(time * CLOCK) for time in times]
    later = np.maximum.accumulate(np.array(ticks) - np.arange(len(ticks)))
    self._ticks = (later + np.arange(len(ticks))).tolist()
    # Else the last frame would be as long as the one before it.
    self._durations: dict[int | None, int] = {
      tick: after - tick for tick, after in itertools.pairwise(self._ticks)
    }
    self._file = io.BytesIO()
    self._out = av.open(self._file, "w", format="mp4")
    if comment:
      self._out.metadata["comment"] = comment
    options = {"qp": str(qp), "preset": "veryfast", "tune": "psnr"}
    options |= {"g": "1", "bf": "0", "x264-params": "no-deblock=1:cabac=0"}
    # The rate is a name and no more: each frame brings its own time.
    self._stream = self._out.add_stream("libx264", rate=25, options=options)
    self._stream.pix_fmt = "gray"
    context = self._stream.codec_context
    context.time_base = Fraction(1, CLOCK)
    context.color_range = ColorRange.JPEG
    # One thread: the bytes depend on how many there are.
    context.thread_count = 1
    self._count = 0

  def write(self, flow: np.ndarray) -> None:
    """Adds a frame.

    Args:
      flow: uint8 (height, width, 2), x then y.
    """
    planes = np.concatenate([flow[..., 0], flow[..., 1]])
    if self._count == 0:
      self._stream.height, self._stream.width = planes.shape
    frame = av.VideoFrame.from_ndarray(planes, "gray")
    frame.color_range = ColorRange.JPEG
    frame.pts = self._ticks[self._count]
    frame.time_base = Fraction(1, CLOCK)
    self._count += 1
    self._mux(frame)

  def close(self) -> bytes:
    """Ends the video and returns it."""
    assert self._count == len(self._ticks) - 1
    self._mux(None)
    self._out.close()
    return self._file.getvalue()

  def _mux(self, frame: av.VideoFrame | None) -> None:
    for packet in self._stream.encode(frame):
      packet.duration = self._durations[packet.pts]
      self._out.mux(packet)


class FlowVideo(Video):
  """A video of optical flow: `Video`, with frames of two channels, x then y.

  Frames are resized, each plane for itself, and cropped as those of any video.
  Resizing leaves the values as they are: motion stays in pixels of the frames
  that the flow was computed from.

  A video is taken for one of flow if it is grey, of 8 bits and the full range
  0..255, not turned by its metadata, and of an even height. Reading another is
  a `VideoError`.
  """

  @functools.cached_property
  def info(self) -> VideoInfo:
    """What the video is, with the height of its flow; decodes a frame."""
    first = next(self.frames(), None)
    if first is None:
      raise VideoError(f"{self.name}: no frame of it can be decoded")
    height, width, _ = planes_of(first, self.name).shape
    return VideoInfo(
      num_frames=self.num_frames,
      height=height,
      width=width,
      fps=self._fps,
      rotation=0,
      duration=self.duration,
    )

  def _pictures(
    self, count: int, resize: int | tuple[int, int] | None, crop: Crop | None
  ) -> Pictures:
    return FlowPictures(count, resize, crop, self.name)


class FlowPictures(Pictures):
  """Frames of flow as arrays, resized and cropped, through one scaler."""

  def __init__(
    self,
    count: int,
    resize: int | tuple[int, int] | None,
    crop: Crop | None,
    name: str,
  ) -> None:
    super().__init__(count, resize, crop)
    self._frames, self._crop_to, self._name = count, crop, name
    self._to = resize
    self._scaler = VideoReformatter()
    self._before: tuple[int, av.VideoFrame] | None = None
    self._shape: tuple[int, int] | None = None

  def put(self, at: int, frame: av.VideoFrame) -> None:
    """Writes a frame to `array[at]`, uint8 (height, width, 2)."""
    if self._before is not None and self._before[1] is frame:
      self.array[at] = self.array[self._before[0]]
      return
    flow = self._resized(planes_of(frame, self._name))
    if self._crop_to is not None:
      flow = self._crop_to(flow)
    if not self.array.size:
      self.array = np.empty((self._frames, *flow.shape), np.uint8)
    for k in range(2):  # plane by plane is three times as fast
      self.array[at, ..., k] = flow[..., k]
    self._before = at, frame

  def _resized(self, flow: np.ndarray) -> np.ndarray:
    if self._shape is None:
      # For all: a stream may change its size on the way, its clips may not.
      self._shape = resized(self._to, *flow.shape[:2])
    height, width = self._shape
    if flow.shape[:2] == self._shape:
      return flow
    out = np.empty((height, width, 2), np.uint8)
    for k in range(2):
      plane = np.ascontiguousarray(flow[..., k])
      out[..., k] = self._scaler.reformat(
        av.VideoFrame.from_ndarray(plane, "gray"),
        width,
        height,
        interpolation=SWSCALE,
        threads=1,
      ).to_ndarray()
    return out


def planes_of(frame: av.VideoFrame, name: str) -> np.ndarray:
  """Returns the flow that a decoded frame holds.

  Args:
    frame: of a video of flow.
    name: of the video, for the message.

  Returns:
    uint8 (height, width, 2), x then y: a view of the frame.

  Raises:
    VideoError: it is not a frame of flow.
  """
  if reason := _not_flow(frame):
    raise VideoError(f"{name}: it is no video of optical flow: {reason}")
  planes = _plane(frame, 0).reshape(2, frame.height // 2, frame.width)
  return np.moveaxis(planes, 0, -1)


def _not_flow(frame: av.VideoFrame) -> str:
  """Says why a frame is none of flow; nothing if it is one."""
  kind = frame.format.name
  if kind not in FORMATS:
    return f"its pixels are {kind}, not grey of 8 bits"
  if frame.color_range != ColorRange.JPEG and kind != "gray":
    return "its pixels are not of the full range, 0..255"
  # Decoders give grey H.264 with planes of colour in which nothing is coloured.
  if any(np.any(_plane(frame, k) != 128) for k in range(1, len(frame.planes))):
    return "it has colours"
  if frame.height % 2:
    return f"its height, {frame.height}, is odd"
  if frame.side_data.get("DISPLAYMATRIX") is not None:
    return "its metadata turns it"
  return ""


def _plane(frame: av.VideoFrame, index: int) -> np.ndarray:
  """Returns uint8 (height, width), a view of a plane, without its padding."""
  # PyAV's own to_ndarray refuses odd sizes of these formats.
  plane: Any = frame.planes[index]
  rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
  return rows[: plane.height, : plane.width]
