"""Any video -> short-GOP H.264, smaller, upright, or a piece of it."""

import collections
import contextlib
import io
import math
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from p3d_jax.data import decode
from p3d_jax.data.decode import Source, Video, VideoError
from p3d_jax.data.encode import CRF, GOP, h264_options
from p3d_jax.preprocess import SWSCALE, resized

# A frame is on screen at its own time, although neither number is exact.
# Seconds; containers count in ticks of 11 microseconds and more.
_CLOSE = 1e-6

# The part of the frames that a decoder may leave out or mend, the tenth that
# `Video` allows an end to come early: a recording may start within a group of
# pictures, and some codecs store frames that are never shown.
_LOST = 0.1

# Matrices of H.273 -> swscale's number of it, for pixels that come as RGB.
_MATRICES = {
  1: Colorspace.ITU709,
  4: Colorspace.FCC,
  5: Colorspace.ITU601,
  6: Colorspace.ITU601,
  7: Colorspace.SMPTE240M,
  9: Colorspace.BT2020,
}

# Where the colours of a 4:2:0 frame are measured, in the names of FFmpeg:
# (horizontally, vertically), 0 the first of two pixels, 1 between them, 2 the
# second.
_SITINGS = {
  (0, 1): "left",
  (1, 1): "center",
  (0, 0): "topleft",
  (1, 0): "top",
  (0, 2): "bottomleft",
  (1, 2): "bottom",
}


def recode(
  source: Source | Video,
  *,
  side: int | None,
  start: float = 0.0,
  seconds: float | None = None,
  crf: int = CRF,
  gop: int = GOP,
) -> bytes:
  """Encodes a video again, so that any 16 frames of it are quick to decode.

  The result is an mp4 of H.264, 8-bit 4:2:0, limited range, with the matrix
  of the source, without sound, upright. Frames keep their times, counted from
  the first that is kept. There is a frame for each of `Video`'s, one that the
  decoder does not give being the one before it. The bytes are the same every
  time. No more than a few frames are in memory at once.

  Args:
    source: an encoded video, or the path of one, or one that is open.
    side: short side in pixels, even; None, or more than the video has: as it
      is, for nothing is enlarged. The long side becomes the nearest even
      number; an odd side that is kept loses one pixel. The whole picture is
      scaled to that, never cropped.
    start: seconds from the first frame, where the piece begins.
    seconds: length of the piece; None: to the end. The frame on screen at
      `start` is the first, and the last is the last to appear before
      `start + seconds`; each stays as long as it did.
    crf: see `h264_options`.
    gop: see `h264_options`.

  Raises:
    VideoError: it cannot be read, or its frames cannot be decoded.
    ValueError: an argument is out of its range.
  """
  check_side(side)
  options = h264_options(crf, gop)
  video = source if isinstance(source, Video) else Video(source)
  first, last = span(video, start, seconds)
  wanted = video._pts[first:last]
  keys = (k for k, pts in video._keys if video._by_pts and pts <= wanted[0])
  try:
    if near := max(keys, default=0):
      # As `Video.read`: from the keyframe before, else from the first packet.
      with contextlib.suppress(VideoError, av.FFmpegError):
        writer: Any = Writer(video, first, last, side, options)
        if video._pick(wanted, near, writer) and writer.whole == len(wanted):
          return writer.close()
    writer = Writer(video, first, last, side, options)
    video._pick(wanted, 0, writer)
    encoded = writer.close()
  except av.FFmpegError as error:
    raise VideoError(f"{video.name}: {error.strerror or error}") from error
  lost = len(wanted) - writer.whole
  if lost > _LOST * len(wanted):
    raise VideoError(
      f"{video.name}: damaged, {lost} of {len(wanted)} frames of it cannot be "
      "decoded"
    )
  return encoded


def check_side(side: int | None) -> None:
  """Checks the short side of `recode`.

  Raises:
    ValueError: it is not an even number of pixels.
  """
  if side is not None and (type(side) is not int or side < 2 or side % 2):
    raise ValueError(
      f"side={side!r}: must be an even number of pixels, 2 or more"
    )


def span(video: Video, start: float, seconds: float | None) -> tuple[int, int]:
  """Returns the frames [first, last) on screen in [start, start + seconds).

  Args:
    video: which.
    start: seconds from the first frame.
    seconds: None: to the end.

  Raises:
    ValueError: the piece is empty, or begins after the video.
  """
  if not 0 <= start < video.duration - _CLOSE:
    raise ValueError(
      f"start={start!r}: must be from 0 to below {video.duration:.3f}, the "
      f"seconds of {video.name}"
    )
  if seconds is not None and not 0 < seconds < math.inf:
    raise ValueError(f"seconds={seconds!r}: must be > 0 and finite, or None")
  first = int(np.searchsorted(video.times, start + _CLOSE, "right")) - 1
  if seconds is None:
    return first, video.num_frames
  last = int(np.searchsorted(video.times, start + seconds - _CLOSE))
  return first, max(last, first + 1)


def even_size(side: int | None, height: int, width: int) -> tuple[int, int]:
  """Returns the (height, width) that `recode` makes of a frame's, in pixels."""
  if side is None or side >= min(height, width):
    # A single pixel is the one that must grow: 4:2:0 has no side of 0.
    return max(height // 2 * 2, 2), max(width // 2 * 2, 2)
  # In units of two pixels the nearest whole number is the nearest even one.
  half = resized(side // 2, height, width)
  return 2 * half[0], 2 * half[1]


class Writer:
  """Frames, one after the other, to an mp4 in memory."""

  def __init__(
    self,
    video: Video,
    first: int,
    last: int,
    side: int | None,
    options: dict[str, str],
  ):
    """Plans the file; it is opened when the first frame is there.

    Args:
      video: where the frames [first, last) are from.
      first: the first frame.
      last: the frame after the last.
      side: see `recode`.
      options: of the encoder.
    """
    # Frames that were decoded, and not made up by the decoder.
    self.whole = 0
    self._size = even_size(side, video.info.height, video.info.width)
    self._options = options
    self._base, self._ticks = _ticks(video, first, last)
    self._last: tuple[av.VideoFrame, av.VideoFrame] | None = None
    self._reformatter, self._scaler = VideoReformatter(), VideoReformatter()
    self._pictures = decode.Pictures(1, self._size, None)
    self._durations: collections.deque[int] = collections.deque()
    self._file = io.BytesIO()
    self._out: Any = None
    self._stream: Any = None

  def put(self, at: int, frame: av.VideoFrame) -> None:
    """Encodes a frame as number `at`, which comes after those before."""
    if self._last is None or self._last[0] is not frame:
      self.whole += not frame.is_corrupt
      self._last = frame, self._picture(frame)
    picture = self._last[1]
    if self._out is None:
      self._open(picture)
    picture.pts, picture.time_base = self._ticks[at], self._base
    self._durations.append(self._ticks[at + 1] - self._ticks[at])
    self._mux(self._stream.encode(picture))

  def close(self) -> bytes:
    """Ends the file and returns it."""
    self._mux(self._stream.encode(None))
    self._out.close()
    return self._file.getvalue()

  def _mux(self, packets: list[Any]) -> None:
    for packet in packets:
      # The encoder knows when the next frame comes, but not of the last one.
      packet.duration = self._durations.popleft()
      self._out.mux(packet)

  def _picture(self, frame: av.VideoFrame) -> av.VideoFrame:
    """Returns the frame upright, as 4:2:0, at its size."""
    height, width = self._size
    matrix = None
    if frame.format.is_rgb or frame.format.has_palette:
      matrix = Colorspace.ITU601
    if frame.interlaced_frame or "DISPLAYMATRIX" in frame.side_data:
      # 4:2:0 has its colours where turning moves them from, and fields have
      # colours of their own.
      rgb = np.ascontiguousarray(self._pictures.rgb(frame))
      matrix = matrix or _MATRICES.get(frame.colorspace)
      frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
    picture = self._scaler.reformat(
      frame, width, height, "yuv420p",
      dst_colorspace=matrix, dst_color_range=ColorRange.MPEG,
      interpolation=SWSCALE, threads=1,
    )  # fmt: skip
    # What it was in the source: the encoder would make it a keyframe again.
    picture.pict_type = 0
    return picture

  def _open(self, picture: av.VideoFrame) -> None:
    """Opens the file for frames like this one."""
    options = {"chroma_sample_location": _siting(picture), **self._options}
    self._out = av.open(self._file, "w", format="mp4")
    seconds = self._ticks[-1] * self._base
    rate = ((len(self._ticks) - 1) / seconds).limit_denominator(1001)
    stream = self._out.add_stream("libx264", rate=rate or 1, options=options)
    stream.height, stream.width = picture.height, picture.width
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base = self._base
    # One thread: the bytes depend on how many there are.
    context.thread_count = 1
    context.color_range = ColorRange.MPEG
    context.colorspace = picture.colorspace
    context.color_primaries = picture.color_primaries
    context.color_trc = picture.color_trc
    self._stream = stream


def _ticks(video: Video, first: int, last: int) -> tuple[Fraction, list[int]]:
  """Returns the seconds of a tick, and the ticks of frames and of their end."""
  pts = video._pts[first:last]
  ticks = video._pts[-1] - video._pts[0]
  base = video.times[-1] / ticks if ticks else video.duration
  # The time base again, which the video keeps as a float; FFmpeg's parts of a
  # fraction are below 2^31.
  exact = Fraction(base).limit_denominator(2**31 - 1)
  end = video._pts[0] + round(video.duration / base)
  if last < video.num_frames:
    end = video._pts[last]
  return exact, [at - pts[0] for at in (*pts, max(end, pts[-1] + 1))]


def _siting(picture: av.VideoFrame) -> str:
  """Finds where swscale takes the colours of a frame to be measured.

  Containers and codecs disagree on it, and PyAV does not tell; half a pixel
  off is more than the loss of the codec. So a frame with the same properties
  is made, with an edge in the colours, and looked at where it comes out.

  Args:
    picture: of 4:2:0.
  """
  side = 8 if picture.width != 8 else 16
  probe = VideoReformatter().reformat(
    picture, side, side, "yuv420p", interpolation=SWSCALE, threads=1
  )
  for plane, axis in ((probe.planes[1], 1), (probe.planes[2], 0)):
    levels = np.zeros((plane.height, plane.line_size), np.uint8)
    edge = np.where(np.arange(side // 2) < side // 4, 64, 192)
    levels[:, : side // 2] = edge if axis else edge[:, None]
    plane.update(levels.tobytes())
  full = VideoReformatter().reformat(
    probe, format="yuv444p", interpolation=SWSCALE, threads=1
  )
  _, across, down = full.to_ndarray()
  middle = slice(side // 2 - 1, side // 2 + 1)
  # Pixels on both sides of the edge: 128 and 192 if the colours are of the
  # first pixel of two, 96 and 160 between them, 64 and 128 of the second.
  means = across[side // 2, middle].mean(), down[middle, side // 2].mean()
  x, y = (int(np.digitize(-mean, (-144, -112))) for mean in means)
  if (x, y) not in _SITINGS:
    raise RuntimeError(f"colours measured at {(x, y)}: no such siting")
  return _SITINGS[x, y]
