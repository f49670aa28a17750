"""Videos written for the tests."""

import io
import wave
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np

BLOCK = 16


def numbered(count: int, height: int = 64, width: int = 96) -> np.ndarray:
  """Frames that show their number in ten blocks, black 0 and white 1.

  The frame can so be told from its pixels, whatever a codec does to them.
  """
  frames = np.full((count, height, width, 3), 96, np.uint8)
  for number in range(count):
    for bit in range(10):
      row, column = divmod(bit, width // BLOCK)
      frames[
        number,
        row * BLOCK : (row + 1) * BLOCK,
        column * BLOCK : (column + 1) * BLOCK,
      ] = 230 * (number >> bit & 1) + 10
  return frames


def number_of(frame: np.ndarray) -> int:
  """Reads the number that a frame of `numbered` shows."""
  number = 0
  for bit in range(10):
    row, column = divmod(bit, frame.shape[1] // BLOCK)
    y, x = row * BLOCK + BLOCK // 2, column * BLOCK + BLOCK // 2
    number |= int(frame[y, x].mean() > 128) << bit
  return number


def encode_video(
  frames: Sequence[np.ndarray] | np.ndarray,
  *,
  container: str = "mp4",
  codec: str = "libx264",
  gop: int = 12,
  bframes: int = 0,
  rate: int = 25,
  times: Iterable[int] | None = None,
  setup: Callable[[Any], None] | None = None,
  options: dict[str, str] | None = None,
  container_options: dict[str, str] | None = None,
  audio: bool = False,
) -> bytes:
  """Encodes RGB frames; `times` are in milliseconds."""
  file = io.BytesIO()
  with av.open(
    file, "w", format=container, options=container_options or {}
  ) as out:
    stream: Any = out.add_stream(codec, rate=rate, options=options or {})
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.codec_context.gop_size = gop
    stream.codec_context.max_b_frames = bframes
    stream.codec_context.thread_count = 1
    if codec == "mpeg4":
      stream.codec_context.bit_rate = 4_000_000
    if times is not None:
      stream.codec_context.time_base = Fraction(1, 1000)
    if setup:
      setup(stream)
    sound: Any = out.add_stream("aac", rate=16000) if audio else None
    for at, picture in zip(
      times if times is not None else range(len(frames)), frames, strict=True
    ):
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
      frame.pts = at
      frame.time_base = Fraction(1, 1000 if times is not None else rate)
      out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
    if sound is not None:
      silence = av.AudioFrame.from_ndarray(
        np.zeros((1, 1024), np.float32), "fltp", "mono"
      )
      silence.sample_rate = 16000
      out.mux(sound.encode(silence))
      out.mux(sound.encode(None))
  return file.getvalue()


def footage(seed: int, frames: int = 40) -> np.ndarray:
  """Random coarse texture, one tone for each seed, that does not move."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
  still = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
  return np.broadcast_to(still, (frames, *still.shape))


def sound_only() -> bytes:
  """A wav file."""
  file = io.BytesIO()
  with wave.open(file, "wb") as out:
    out.setnchannels(1)
    out.setsampwidth(2)
    out.setframerate(8000)
    out.writeframes(bytes(8000))
  return file.getvalue()
