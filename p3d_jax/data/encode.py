"""Frames -> bytes of an encoded video."""

import io
from collections.abc import Sequence

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from p3d_jax.preprocess import SWSCALE

# Visually close to lossless, and frames from one keyframe to the next. Short
# groups of pictures decode 2.2 times faster from the middle for a third more
# bytes (experiments/benchmarks/recode.py).
CRF = 20
GOP = 8


def h264_options(crf: int = CRF, gop: int = GOP) -> dict[str, str]:
  """Returns the options of libx264 that every video we write has.

  Args:
    crf: constant rate factor, 0 (lossless) to 51; less is better and larger.
    gop: frames from one keyframe to the next, at most.

  Raises:
    ValueError: one is out of its range.
  """
  if type(crf) is not int or not 0 <= crf <= 51:
    raise ValueError(f"crf={crf!r}: must be a whole number from 0 to 51")
  if type(gop) is not int or gop < 1:
    raise ValueError(f"gop={gop!r}: must be a whole number >= 1")
  # The preset decides before what stands after it, as x264 reads them.
  options = {"crf": str(crf), "preset": "veryfast", "bf": "0", "g": str(gop)}
  # x264 shares out bits over the frames to come with code that reads memory
  # which nobody wrote; one encoding in 10 to 150 came out with other bytes.
  return options | {"mbtree": "0"}


def encode(frames: Sequence[np.ndarray], fps: int) -> bytes:
  """Returns an mp4 of H.264, a keyframe every 8 frames, the same every time.

  Args:
    frames: uint8 (height, width, 3) each, RGB, even sides.
    fps: frames a second.
  """
  file = io.BytesIO()
  with av.open(file, "w", format="mp4") as container:
    stream = container.add_stream("libx264", rate=fps, options=h264_options())
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt = "yuv420p"
    # One thread: the bytes depend on how many there are.
    stream.codec_context.thread_count = 1
    reformatter = VideoReformatter()
    for k, picture in enumerate(frames):
      frame = reformatter.reformat(
        av.VideoFrame.from_ndarray(picture, "rgb24"),
        format="yuv420p",
        interpolation=SWSCALE,
        threads=1,
      )
      frame.pts = k
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return file.getvalue()
