"""Decodes every frame of a folder's videos, or of a set's, and finds the bad.

Each video is decoded in a process that is killed if it hangs. What was found
of each is appended to a file at once, so that a check that was stopped goes
on where it was.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from etils import epath

from p3d_jax.data.builders.layout import UNFINISHED, read_tree
from p3d_jax.data.decode import VideoError
from p3d_jax.data.exclude import HEAD, exclude_text, quoted
from p3d_jax.data.guard import (
  CrashError,
  Guard,
  GuardError,
  Guards,
  HangError,
)
from p3d_jax.data.statuses import STATUSES, UNUSABLE, WARNINGS
from p3d_jax.files import write_aside
from p3d_jax.progress import Bar

# Changing what is looked for changes what was found; say so here, and files of
# an earlier check are not taken up.
FORMAT = 1
INSPECT = "p3d_jax.data.inspect_video:inspect"
# Videos from one line of progress to the next, where there is no terminal.
LINE_EVERY = 200
# Rates and sizes that a report shows; it counts the others.
SHOWN = 5

# How the file of what was found begins.
_FIRST = {"p3d data check": FORMAT}

_MEASURES = ("frames", "height", "width", "fps", "seconds")
Found = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Checked:
  """What was found of one video.

  Attributes:
    name: path from the source folder on, or the record's id.
    status: one of STATUSES.
    why: a few words; "" where it is ok.
    frames: that were decoded; until something was wrong, if it was.
    height: of a frame as it is shown, in pixels; 0 if not known.
    width: of a frame as it is shown, in pixels; 0 if not known.
    fps: mean rate, frames a second; 0 if not known.
    seconds: from the first frame to the end of the last; 0 if not known.
  """

  name: str
  status: str
  why: str
  frames: int
  height: int
  width: int
  fps: float
  seconds: float


@dataclasses.dataclass(frozen=True)
class CheckReport:
  """What was found of all videos.

  Attributes:
    videos: in the order of their names, or of the set.
    taken: how many of them an earlier run had looked at.
    listed: how many stand in the file that `p3d data build --exclude` takes.
  """

  videos: tuple[Checked, ...]
  taken: int
  listed: int

  @property
  def unusable(self) -> int:
    """How many cannot be used."""
    return sum(video.status in UNUSABLE for video in self.videos)

  def counts(self) -> dict[str, int]:
    """Returns how many have each status, those that occur."""
    found = collections.Counter(video.status for video in self.videos)
    return {status: found[status] for status in STATUSES if found[status]}

  def lines(self, worst: int = 20) -> list[str]:
    """Returns the report, for people.

    Args:
      worst: how many videos of each status are named.
    """
    counts = self.counts()
    lines = [
      f"{len(self.videos)} videos: "
      + ", ".join(f"{count} {status}" for status, count in counts.items())
    ]
    if self.taken:
      lines[0] += f" ({self.taken} were checked by an earlier run)"
    usable = [v for v in self.videos if v.status not in UNUSABLE]
    if usable:
      lines += _totals(usable)
    for status in (status for status in counts if status != "ok"):
      bad = [video for video in self.videos if video.status == status]
      for video in bad[:worst]:
        lines.append(f"{status}: {quoted(video.name)}: {video.why}")
      if len(bad) > worst:
        lines.append(f"{status}: {len(bad) - worst} more")
    return lines


def check(
  source: epath.PathLike,
  *,
  out: epath.PathLike | None = None,
  workers: int | None = None,
  timeout: float = 60.0,
  min_frames: int = 16,
  also: Collection[str] = (),
  progress: bool = True,
  inspect: str = INSPECT,
) -> CheckReport:
  """Decodes every frame of every video, and sorts each into a status.

  A decoder does not notice all damage (VP8's and VP9's hardly any), and a
  cut-off MPEG stream looks like a short one: "ok" says that decoding found
  nothing wrong.

  Args:
    source: folder, searched with its subfolders; or the folder of a built set,
      or one above it that holds no other, and no videos.
    out: file for the names of what cannot be used, as `p3d data build
      --exclude` takes it; without unfinished downloads, which no build takes.
      What was found of each video is kept beside it, in "<out>.jsonl", and a
      later check with the same `out` decodes only what is new or has changed.
      None: nothing is kept.
    workers: processes that decode; None: one for each core.
    timeout: seconds without progress after which decoding is killed. A long
      video may take longer, as long as its frames come.
    min_frames: fewer are "too short".
    also: warnings whose videos are written to `out` too.
    progress: show a bar.
    inspect: the function that looks at one video; tests have others.

  Raises:
    ValueError: an argument is out of its range, or nothing is there to check.
  """
  workers = os.cpu_count() or 1 if workers is None else workers
  for name, value in (("workers", workers), ("min_frames", min_frames)):
    if value < 1:
      raise ValueError(f"{name}={value}: must be >= 1")
  if not timeout > 0:
    raise ValueError(f"timeout={timeout}: must be > 0 seconds")
  if unknown := sorted(set(also) - set(WARNINGS)):
    raise ValueError(
      f"also={unknown[0]!r}: must be one of {', '.join(WARNINGS)}"
    )
  kept = _Kept(out, timeout)
  items = _items(epath.Path(source).expanduser())
  with contextlib.ExitStack() as stack:
    stack.enter_context(kept)
    bar = stack.enter_context(Bar("check", len(items))) if progress else None
    guards = stack.enter_context(Guards(timeout))
    look = functools.partial(_look, guards, inspect, kept)
    found = _run(items, look, kept, workers, guards, bar)
  videos = tuple(_sorted_in(*pair, min_frames) for pair in found)
  # A build takes no file of such a name: there is nothing to leave out.
  statuses = {*UNUSABLE, *also} - {"unfinished"}
  listed = [v for v in videos if v.status in statuses]
  if kept.out is not None:
    rows = [(v.status, v.name, v.why) for v in listed]
    write_aside(kept.out, exclude_text(rows, statuses))
  return CheckReport(videos, kept.taken, len(listed))


@dataclasses.dataclass(frozen=True)
class _Item:
  """A video to look at.

  Attributes:
    name: path from the source folder on, or the record's id.
    read: returns what `inspect` takes, and a key that changes with it.
    unfinished: whether it is a download that was not finished, which is not
      decoded.
  """

  name: str
  read: Callable[[], tuple[bytes | str, list[int]]]
  unfinished: bool = False


def _items(source: epath.Path) -> list[_Item]:
  """Lists what is in a folder of videos, or in a built set."""
  if (source / "dataset_info.json").exists():
    return list(_records(source))
  tree = read_tree(source)
  # As `open_set` finds a set from above, finished or not.
  marks = {"dataset_info.json", "building"}
  if not tree.videos and any(
    marks & {*name.split("/")} for name in tree.others
  ):
    return list(_records(source))
  unfinished = {
    name
    for name in tree.others
    # yt-dlp keeps pieces as "film.mp4.part-Frag7".
    if re.sub(r"-frag\d+$", "", name.lower()).endswith(UNFINISHED)
  }
  if not tree.videos and not unfinished:
    raise ValueError(
      f"source={os.fspath(source)!r}: no video is there, and no built set"
    )
  return [
    _Item(name, functools.partial(_file, source / name), name in unfinished)
    for name in sorted({*tree.videos, *unfinished})
  ]


def _file(path: epath.Path) -> tuple[str, list[int]]:
  try:
    if "://" in os.fspath(path):
      stat = path.stat()
      key = [stat.length, stat.mtime]
    else:
      here = os.stat(path)
      key = [here.st_size, here.st_mtime_ns]
  except OSError:
    key = [-1, 0]  # `inspect` says why it cannot be read
  return os.fspath(path), key


def _records(folder: epath.Path) -> Iterator[_Item]:
  """Lists the records of all splits of a set, each once."""
  # Only here: to look through a folder, nothing of TFDS is needed.
  from p3d_jax.data.sets import open_set

  videos = open_set(folder, "all")
  for index, name in enumerate(videos.ids()):
    yield _Item(name, functools.partial(_record, videos, index))


def _record(videos: Any, index: int) -> tuple[bytes, list[int]]:
  video = videos[index]["video"]
  return video, [len(video), zlib.crc32(video)]


def _look(
  guards: Guards, inspect: str, kept: _Kept, item: _Item
) -> tuple[Found, bool]:
  """Returns what is known or found of a video, and whether it is new."""
  video, key = item.read()
  if (known := kept.known(item.name, key)) is not None:
    return known, False
  if item.unfinished:
    found = _undecoded("unfinished", UNUSABLE["unfinished"])
    return {"name": item.name, "key": key, **found}, True
  try:
    with guards.borrow() as guard:
      try:
        found = _inspected(guard, inspect, video)
      except CrashError:  # perhaps for a reason of its own: see Guards.call
        found = _inspected(guard, inspect, video)
  except GuardError as error:
    raise GuardError(f"{item.name}: {error}") from error
  except VideoError as error:
    found = _failed(error, guards.timeout)
  return {"name": item.name, "key": key, **found}, True


def _failed(error: VideoError, timeout: float | None) -> Found:
  """Says what became of a video that `inspect` did not return from."""
  if isinstance(error, CrashError):
    return _undecoded("crashes", str(error))
  if isinstance(error, HangError):
    found = _undecoded("hangs", f"no progress in {timeout:g} seconds")
    return {**found, "timeout": timeout}
  return _undecoded("broken", str(error))


def _undecoded(fault: str, why: str) -> Found:
  """Says as much of a video of which nothing was measured."""
  return {"fault": fault, "why": why, "odd": "", **dict.fromkeys(_MEASURES, 0)}


def _inspected(guard: Guard, inspect: str, video: bytes | str) -> Found:
  """Decodes a video piece by piece."""
  assert guard.timeout is not None
  # Time enough for the frame that a piece ends with.
  piece = guard.timeout / 4
  found = guard.call(inspect, video, piece)
  while not found:
    found = guard.call(inspect, None, piece)
  return found


def _run(
  items: Sequence[_Item],
  look: Callable[[_Item], tuple[Found, bool]],
  kept: _Kept,
  workers: int,
  guards: Guards,
  bar: Bar | None,
) -> list[tuple[str, Found]]:
  """Looks at all, several at once; what was found is in the order of items."""
  found: dict[int, Found] = {}
  bad = 0
  pool = concurrent.futures.ThreadPoolExecutor(workers)
  try:
    waiting: dict[concurrent.futures.Future[tuple[Found, bool]], int] = {}
    ahead = iter(enumerate(items))
    while True:
      # Records are bytes: no more of them are read than are decoded.
      for index, item in ahead:
        waiting[pool.submit(look, item)] = index
        if len(waiting) >= 2 * workers:
          break
      if not waiting:
        break
      done, _ = concurrent.futures.wait(
        waiting, return_when=concurrent.futures.FIRST_COMPLETED
      )
      for future in done:
        result, new = future.result()
        found[waiting.pop(future)] = result
        kept.add(result, new)
        bad += bool(result["fault"])
        if bar:
          at = len(found)
          line = at % LINE_EVERY == 0 or at == len(items)
          bar.update(at, {"bad": str(bad)} if bad else {}, line=line)
  finally:
    pool.shutdown(wait=False, cancel_futures=True)
    guards.close()  # after an interrupt nobody waits for what they decode
    pool.shutdown()
  return [(items[k].name, found[k]) for k in range(len(items))]


class _Kept:
  """What earlier runs found, and the file that it is appended to.

  Attributes:
    out: the file for the names, whose neighbour this is; None: nothing is kept.
    taken: how much of what was known has been used.
  """

  def __init__(self, out: epath.PathLike | None, timeout: float) -> None:
    """Reads what is there.

    Raises:
      ValueError: a file is in the way that `check` did not write.
    """
    self.out = None if out is None else epath.Path(out).expanduser()
    self.taken = 0
    self._timeout = timeout
    self._known: dict[str, Found] = {}
    if self.out is None:
      return
    if "://" in os.fspath(self.out):
      raise ValueError(
        f"out={os.fspath(self.out)!r}: must be a local file, since what is "
        "found is appended to one beside it"
      )
    if self.out.is_dir() or not self.out.parent.is_dir():
      raise ValueError(f"out={os.fspath(self.out)!r}: must be in a folder")
    if self.out.exists():
      with self.out.open("rb") as file:
        if not file.read(len(HEAD)) == HEAD.encode():
          raise ValueError(
            f"out={os.fspath(self.out)!r}: the file was not written by a "
            "check, and is not overwritten"
          )
    self._path = self.out.parent / f"{self.out.name}.jsonl"
    self._whole = 0
    if self._path.exists():
      self._read()

  def _read(self) -> None:
    content = self._path.read_bytes()
    # A run that was killed may have left half a line.
    self._whole = content.rfind(b"\n") + 1
    lines = content[: self._whole].splitlines()
    try:
      known = [json.loads(line) for line in lines]
      if known and known[0] != _FIRST:
        raise ValueError("it is of another version")
      self._known = {found["name"]: found for found in known[1:]}
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f"out={os.fspath(self.out or '')!r}: {os.fspath(self._path)} cannot be "
        f"taken up ({error}); delete it to check everything again"
      ) from error

  def __enter__(self) -> _Kept:
    if self.out is not None:
      self._file = self._path.open("a", encoding="utf-8")
      self._file.truncate(self._whole)
      if not self._whole:
        self._file.write(json.dumps(_FIRST) + "\n")
    return self

  def __exit__(self, *error: object) -> None:
    if self.out is not None:
      self._file.close()

  def known(self, name: str, key: list[int]) -> Found | None:
    """Returns what an earlier run found, if it still holds."""
    found = self._known.get(name)
    if found is None or found["key"] != key:
      return None
    # What a system does not let one read today, it may tomorrow; and what
    # hangs may have got too little time.
    again = found["fault"] == "unreadable" or (
      found["fault"] == "hangs" and found["timeout"] < self._timeout
    )
    return None if again else found

  def add(self, found: Found, new: bool) -> None:
    """Keeps what was found of a video."""
    if not new:
      self.taken += 1
    elif self.out is not None:
      self._file.write(json.dumps(found) + "\n")
      self._file.flush()


def _sorted_in(name: str, found: Found, min_frames: int) -> Checked:
  """Gives a video its status."""
  status, why = found["fault"], found["why"]
  if not status and found["frames"] < min_frames:
    status = "too short"
    why = f"{found['frames']} of at least {min_frames} frames"
  elif not status and found["odd"]:
    status, why = "odd frame rate", found["odd"]
  return Checked(name, status or "ok", why, *(found[m] for m in _MEASURES))


def _totals(videos: Sequence[Checked]) -> list[str]:
  """Says how much there is, how fast and how large."""
  seconds = sum(video.seconds for video in videos)
  length = f"{seconds / 3600:.1f} hours"
  if seconds < 3600:
    length = f"{seconds / 60:.1f} minutes"
  frames = sum(video.frames for video in videos)
  rates = collections.Counter(
    f"{video.fps:.2f}".rstrip("0").rstrip(".") for video in videos
  )
  sizes = collections.Counter(f"{v.height}x{v.width}" for v in videos)
  return [
    f"usable: {len(videos)} videos, {length}, {frames} frames",
    f"frames a second: {_most(rates)}",
    f"height x width: {_most(sizes)}",
  ]


def _most(counts: collections.Counter[str]) -> str:
  """Returns the most frequent values, and how many others there are."""
  # Those that are equally frequent stand by value, whatever came first.
  order = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
  parts = [f"{value} ({count})" for value, count in order[:SHOWN]]
  if len(order) > SHOWN:
    others = sum(count for _, count in order[SHOWN:])
    parts.append(f"{len(order) - SHOWN} others ({others})")
  return ", ".join(parts)
