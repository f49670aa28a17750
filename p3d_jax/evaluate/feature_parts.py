"""The parts of a run of `p3d features`, kept until all are there."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from etils import epath

from p3d_jax.data.decode import VideoError
from p3d_jax.data.file_set import FileSet
from p3d_jax.data.sets import VideoSet
from p3d_jax.evaluate.feature_file import (
  Features,
  load_features,
  read_about,
  save_features,
)
from p3d_jax.files import write_json
from p3d_jax.train.score import Rows

# What `Parts.begin` returns where nothing is left to do.
FINISHED = -1

# A part is written when so many bytes of features wait, or `save_every` videos.
PART_BYTES = 1 << 26


def difference(
  about: dict[str, Any], work: dict[str, Any], within: str = ""
) -> str | None:
  """Says what other work the `about` of a file is of; None: the same work."""
  for name, value in work.items():
    other = about.get(name)
    if isinstance(value, dict) and isinstance(other, dict):
      if found := difference(other, value, f"{name}."):
        return found
    elif other != value:
      return f"its {within}{name} is {_short(other)}, not {_short(value)}"
  return None


def _short(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 60 else f"{text[:57]}..."


class Parts:
  """The rows of a run, kept in a folder until all are there.

  A part is a file of features, named by the position of its first video. Its
  `about` says where it starts and stops, and what could not be read.

  Attributes:
    stop: position of the first video that is not in it yet.
  """

  def __init__(
    self,
    out: epath.Path,
    work: dict[str, Any],
    videos: VideoSet | FileSet,
    save_every: int,
  ) -> None:
    self.stop = 0
    self._out, self._work, self._videos = out, work, videos
    self._save_every = save_every
    self._folder = out.parent / f"{out.name}.parts"
    self._file = self._folder / "work.json"
    self._start = 0
    self._rows: list[Features] = []
    self._problems: list[str] = []
    self._ids = videos.ids()
    if len(set(self._ids)) < len(self._ids):
      twice = next(i for i, n in Counter(self._ids).items() if n > 1)
      raise ValueError(f"split={videos.split!r}: {twice!r} is in it twice")

  def begin(self, overwrite: bool) -> int:
    """Finds what is there.

    Returns:
      The position of the first video to do, or FINISHED.

    Raises:
      ValueError: the file or the folder is of other work, or the file holds
        no features: it is not replaced then, whatever `overwrite` says.
    """
    about = self._about()
    if about is not None and not overwrite:
      other = difference(about, self._work)
      if other:
        raise ValueError(
          f"out={os.fspath(self._out)!r}: there are other features ({other}): "
          "name another file, or give --overwrite"
        )
      # What a run that was killed just before its end has left.
      if self._file.exists() and not self._other_parts():
        self._remove()
      return FINISHED
    self._open(overwrite)
    for path in self._paths():
      about = read_about(path)
      if about["start"] != self.stop:
        raise ValueError(
          f"{os.fspath(self._folder)} lacks the part before {path.name}: "
          "remove it and start again"
        )
      self.stop = about["stop"]
    self._start = self.stop
    return self.stop

  def _about(self) -> dict[str, Any] | None:
    """Returns what the file says of itself; None: it is not there."""
    if not self._out.exists():
      return None
    try:
      return read_about(self._out)
    except ValueError as error:
      raise ValueError(
        f"out={os.fspath(self._out)!r}: what is there is not replaced, as it "
        f"holds no features: name another file ({error})"
      ) from error

  def _open(self, overwrite: bool) -> None:
    """Makes the folder, or finds that it is of this work."""
    if not self._file.exists():
      if self._folder.exists() and any(self._folder.glob("[!.]*")):
        raise ValueError(
          f"{os.fspath(self._folder)}: parts of features would be kept there, "
          "and something else is: name another file"
        )
    else:
      other = self._other_parts()
      if other and not overwrite:
        raise ValueError(
          f"{os.fspath(self._folder)} holds parts of other features ({other}): "
          "remove it, name another file, or give --overwrite"
        )
      if not other:
        return
      self._remove()
    self._folder.mkdir(parents=True, exist_ok=True)
    write_json(self._file, self._work)

  def _other_parts(self) -> str | None:
    """Says what other work the folder is of; None: this."""
    return difference(json.loads(self._file.read_text()), self._work)

  def _paths(self) -> list[epath.Path]:
    # Names are numbers of one width; asides begin with a dot.
    return sorted(self._folder.glob("[0-9]*.npz"))

  def add(self, rows: Rows, arrays: dict[str, np.ndarray]) -> bool:
    """Takes a batch.

    Args:
      rows: what `each_video` gave.
      arrays: its features, (videos, ...) or (videos, clips, ...).

    Returns:
      Whether a part was written.
    """
    fine = np.array([not problem for problem in rows.problems])
    self._problems += [problem for problem in rows.problems if problem]
    count = 1
    clip = None
    if self._work["per_clip"]:
      count = self._work["views"]["clips"]
      clip = np.tile(np.arange(count, dtype=np.int32), int(fine.sum()))
      arrays = {n: x.reshape(-1, *x.shape[2:]) for n, x in arrays.items()}
    each = np.repeat(np.arange(len(fine))[fine], count)
    keep = np.repeat(fine, count)
    ids = [self._ids[k] for k in rows.index]
    self._rows.append(
      Features(
        ids=tuple(ids[k] for k in each),
        arrays={name: x[keep] for name, x in arrays.items()},
        labels=rows.labels[each],
        label_names=self._videos.label_names,
        sources=tuple(rows.sources[k] for k in each),
        clip=clip,
        about={},
      )
    )
    self.stop = int(rows.index[-1]) + 1
    size = sum(x.nbytes for part in self._rows for x in part.arrays.values())
    full = self.stop - self._start >= self._save_every or size >= PART_BYTES
    if full or self.stop == len(self._videos):
      self._save()
      return True
    return False

  def _save(self) -> None:
    """Writes what waits as a part."""
    count = sum(len(part.ids) for part in self._rows)
    about = {
      "start": self._start,
      "stop": self.stop,
      "rows": count,
      "unreadable": self._problems,
    }
    part = joined(self._rows, count, about)
    save_features(self._folder / f"{self._start:012d}.npz", part)
    self._start, self._rows, self._problems = self.stop, [], []

  def finish(self, about: dict[str, Any]) -> int:
    """Writes the file and removes the parts; `about` is what it says of itself.

    Returns:
      How many rows it has.

    Raises:
      ValueError: no video could be read.
    """
    said = [read_about(path) for path in self._paths()]
    rows = sum(part["rows"] for part in said)
    unreadable = [line for part in said for line in part["unreadable"]]
    if not rows:
      self._remove()  # the next run tries again
      raise VideoError(f"no video could be read; {unreadable[0]}")
    # One part at a time beside the whole, which is there once.
    parts = (load_features(path) for path in self._paths())
    found = joined(parts, rows, {**about, "unreadable": unreadable})
    shapes = {name: list(x.shape[1:]) for name, x in found.arrays.items()}
    found.about["shapes"] = shapes
    save_features(self._out, found)
    self._remove()
    return rows

  def _remove(self) -> None:
    """Removes the folder; killed on the way, it leaves one that can go on."""
    for path in reversed(self._paths()):
      path.unlink()
    self._folder.rmtree()


def joined(
  parts: Iterable[Features], rows: int, about: dict[str, Any]
) -> Features:
  """Puts parts of so many rows one after the other, each copied once."""
  ids: list[str] = []
  sources: list[str] = []
  labels: list[np.ndarray] = []
  clips: list[np.ndarray] = []
  arrays: dict[str, np.ndarray] = {}
  names: tuple[str, ...] = ()
  for part in parts:
    if not arrays:
      names = part.label_names
      for name, x in part.arrays.items():
        arrays[name] = np.empty((rows, *x.shape[1:]), x.dtype)
    where = slice(len(ids), len(ids) + len(part.ids))
    for name, x in part.arrays.items():
      arrays[name][where] = x
    ids += part.ids
    sources += part.sources
    labels.append(part.labels)
    if part.clip is not None:
      clips.append(part.clip)
  return Features(
    ids=tuple(ids),
    arrays=arrays,
    labels=np.concatenate(labels),
    label_names=names,
    sources=tuple(sources),
    clip=np.concatenate(clips) if clips else None,
    about=about,
  )
