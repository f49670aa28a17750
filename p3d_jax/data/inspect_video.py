"""Decodes every frame of one video, in pieces, and says what is wrong with it.

It runs in a process that can be killed (p3d_jax/data/guard.py), so this module
imports little.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import time
from collections.abc import Iterator
from typing import IO, Any, cast

import av
import numpy as np
from etils import epath

from p3d_jax.data.decode import CONTAINERS, Source, Video, VideoError

# What files of MP4's family may begin with.
_MP4 = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")

# Frame rates that are not odd, frames a second, both ends included.
RATES = (5.0, 120.0)
# A frame is uneven that stays longer or shorter than the median frame by more
# than half of that. So many may be, as a share; phones drop one now and then.
UNEVEN = 0.05
# No frame stays longer than so many median frames.
HOLE = 4.0

# The video that is being decoded: the process looks at one at a time.
_under_way: list[Iterator[dict[str, Any] | None]] = []


def inspect(source: Source | None, seconds: float) -> dict[str, Any]:
  """Begins with a video, or goes on with it.

  A call does a piece of the work, so that a long video that gets on can be
  told from a decoder that hangs.

  Args:
    source: an encoded video, or the path of one; None: go on with the last.
    seconds: after which to return at the next frame.

  Returns:
    {} as long as the end is not reached; then "fault" (a status of
    p3d_jax/data/check.py, "" where every frame was decoded), "why" (a few
    words), "odd" (what is odd about its frame rate, "" nothing), and the
    measures "frames" (decoded), "height", "width" (pixels, as shown), "fps"
    (mean) and "seconds".
  """
  if source is not None:
    _under_way[:] = [_walk(source)]
  stop = time.monotonic() + seconds
  for result in _under_way[0]:
    if result is not None:
      _under_way.clear()
      return result
    if time.monotonic() > stop:
      break
  return {}


class _Whole(Video):
  """A video of which every frame is wanted."""

  def lost(self, decoded: int, first: int | None) -> int:
    """Returns how many frames the decoder did not give.

    Those before the first that it gave are not counted: a film that was cut
    without encoding it again may begin with some that refer to what was cut
    off, and every player leaves them out.

    Args:
      decoded: how many it gave.
      first: time of the first of them, in the stream's units.
    """
    if not self._by_pts or first is None:
      return self.num_frames - decoded
    return sum(pts >= first for pts in self._pts) - decoded


def _walk(source: Source) -> Iterator[dict[str, Any] | None]:
  """Yields None after each frame, then what `inspect` returns."""
  if problem := _unreadable(source):
    yield _result(*problem)
    return
  frames, damaged, first = 0, 0, None
  measures: dict[str, Any] = {}
  try:
    with _complaints() as complaints:
      video = _Whole(source)
    measures = _measures(video)
    for frame in video.frames():
      first = frame.pts if first is None else first
      frames, damaged = frames + 1, damaged + bool(frame.is_corrupt)
      measures["frames"] = frames
      yield None
  except VideoError as error:
    why = str(error).removeprefix(f"{_name(source)}: ")
    if not measures:
      yield _result(*_not_opened(source, why))
    elif frames:
      yield _result("broken", f"after {frames} frames: {why}", measures)
    else:
      yield _result("broken", why, measures)
    return
  lost = video.lost(frames, first)
  faults = []
  if lost > 0:
    faults.append(f"{lost} of {video.num_frames} frames cannot be decoded")
  if complaints and measures["odd"]:
    # Either alone may be harmless: what is damaged has been left out.
    faults.append(f"{complaints[0]}; {measures['odd']}")
  if damaged:
    faults.append(f"{damaged} of {frames} frames are damaged")
  yield _result("broken" if faults else "", ", ".join(faults), measures)


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
  """Gives the errors that FFmpeg prints while a container is read."""
  lines: list[str] = []
  av.logging.set_level(av.logging.ERROR)
  # Else a line may tell how often one of the file before came again.
  av.logging.set_skip_repeated(False)
  try:
    with av.logging.Capture() as log:
      yield lines
      lines += [" ".join(text.split()) for _, _, text in log]
  finally:
    av.logging.set_level(None)


def _name(source: Source) -> str:
  """What `Video` calls it."""
  if isinstance(source, bytes):
    return f"video of {len(source)} bytes"
  return os.fspath(source)


def _result(
  fault: str, why: str, measures: dict[str, Any] | None = None
) -> dict[str, Any]:
  nothing = {"frames": 0, "height": 0, "width": 0, "fps": 0.0, "seconds": 0.0}
  return {"fault": fault, "why": why, "odd": "", **nothing, **(measures or {})}


def _measures(video: Video) -> dict[str, Any]:
  """What the packets say, and the first frame."""
  info = video.info
  steps = np.diff(video.times)
  # Of the frames there are, whatever the header says.
  fps = len(steps) / video.times[-1] if len(steps) else info.fps
  return {
    "odd": _odd(steps, fps),
    "height": info.height,
    "width": info.width,
    "fps": float(fps),
    "seconds": info.duration,
  }


def _odd(steps: np.ndarray, fps: float) -> str:
  """Says what is odd about a frame rate.

  Args:
    steps: (num_frames - 1,) seconds from one frame to the next, each above 0.
    fps: mean rate, frames a second.
  """
  odd = []
  if not RATES[0] <= fps <= RATES[1]:
    odd.append(f"{fps:.3g} frames a second")
  if len(steps):
    middle = np.median(steps)
    uneven = float((np.abs(steps - middle) > 0.5 * middle).mean())
    if uneven > UNEVEN:
      odd.append(f"{uneven:.0%} of the frames stay longer or shorter")
    elif steps.max() > HOLE * middle:
      odd.append(f"a frame stays {steps.max():.2f} seconds")
  return ", ".join(odd)


def _unreadable(source: Source) -> tuple[str, str] | None:
  """Says what the system has against reading a file."""
  if isinstance(source, bytes):
    return None if source else ("empty", "0 bytes")
  try:
    with _file(source) as file:
      return None if file.read(1) else ("empty", "0 bytes")
  except OSError as error:
    return "unreadable", error.strerror or str(error)


def _not_opened(source: Source, why: str) -> tuple[str, str]:
  """Finds out why there is no video to decode."""
  if why.startswith("truncated, "):
    return "truncated", why.removeprefix("truncated, ")
  with _file(source) as file:
    try:
      with av.open(
        file,
        metadata_errors="replace",
        options={"format_whitelist": CONTAINERS},
      ) as container:
        films = [
          stream
          for stream in container.streams.video
          if not stream.disposition & av.stream.Disposition.attached_pic
        ]
    except (av.FFmpegError, OSError):
      if _lacks_moov(file):
        return "truncated", "the table of its frames is missing"
      return "not a video", why
  return ("broken", why) if films else ("no video", "it has no video stream")


def _file(source: Source) -> IO[bytes]:
  if isinstance(source, bytes):
    return io.BytesIO(source)
  return cast(IO[bytes], epath.Path(source).open("rb"))


def _lacks_moov(file: IO[bytes]) -> bool:
  """Whether it begins as an MP4, but has no table of its frames.

  That stands at the end, unless one takes care. An MP4 is a row of boxes, each
  a size (4 bytes; 1: 8 more after the name; 0: all that is left), a name (4
  bytes) and content (ISO/IEC 14496-12, 4.2).
  """
  end = file.seek(0, os.SEEK_END)
  at, known = 0, False
  while at + 8 <= end:
    file.seek(at)
    size, name = struct.unpack(">I4s", file.read(8))
    if size == 1 and at + 16 <= end:
      (size,) = struct.unpack(">Q", file.read(8))
    if name == b"moov" and at + size <= end:
      return False
    known = known or (at == 0 and name in _MP4)
    if size < 8 or not known:
      break
    at += size
  return known
