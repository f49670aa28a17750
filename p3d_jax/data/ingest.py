"""One file of a source folder -> what a built set stores of it."""

from typing import Any

import numpy as np
from etils import epath

from p3d_jax.data import recode as recode_lib
from p3d_jax.data.builders.layout import Cut
from p3d_jax.data.decode import Video, VideoError


def ingest(path: str, *, cut: Cut | None, side: int | None) -> dict[str, Any]:
  """Measures a video, and encodes it again if it is cut or made smaller.

  Args:
    path: of the video.
    cut: the piece to take; None: all of it.
    side: see `recode`; None: the frames keep their size.

  Returns:
    video: what to store; None: the bytes of the file, whose first frame and
      packets have been looked at, not more.
    num_frames, height, width (pixels), fps, seconds (duration): of what is
      stored, measured on it.
    start: seconds of the file at which the stored video begins: the time of
      its first frame, which was on screen at the moment drawn.

  Raises:
    VideoError: it cannot be read or decoded; where it is encoded again, that
      is every frame of what is taken.
    ValueError: an argument is out of its range.
  """
  recode_lib.check_side(side)
  file = epath.Path(path)
  if file.exists() and not file.is_dir() and file.stat().length == 0:
    raise VideoError(f"{path}: it is empty, a file of 0 bytes")
  video = Video(path)
  if cut is None and side is None:
    return _about(video, None, 0.0)
  start = draw(cut, video.duration) if cut else 0.0
  seconds = cut.seconds if cut else None
  first, last = recode_lib.span(video, start, seconds)
  encoded = recode_lib.recode(video, side=side, start=start, seconds=seconds)
  stored = Video(encoded)
  if stored.num_frames != last - first:
    raise RuntimeError(
      f"{path}: {stored.num_frames} frames were stored of {last - first}"
    )
  return _about(stored, encoded, float(video.times[first]))


def draw(cut: Cut, duration: float) -> float:
  """Draws where a piece begins, every moment where it fits equally likely.

  Args:
    cut: how long, and the seed.
    duration: of the video, in seconds.

  Returns:
    Seconds from the first frame; 0 if the video is not longer than the piece.
  """
  room = max(duration - cut.seconds, 0.0)
  return room * float(np.random.default_rng(cut.seed).uniform())


def _about(video: Video, encoded: bytes | None, start: float) -> dict[str, Any]:
  info = video.info
  return {
    "video": encoded,
    "num_frames": info.num_frames,
    "start": start,
    "seconds": info.duration,
    "height": info.height,
    "width": info.width,
    "fps": info.fps,
  }
