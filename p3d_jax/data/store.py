"""Writes a set of records, on all cores, and goes on after a stop.

The folder has the layout of a TFDS set, and TFDS writes what describes it. It
is no `GeneratorBasedBuilder`'s, because TFDS begins again after a stop, and
takes its examples from one process. While a set is written it has a folder
`building`; without it, it is complete.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from p3d_jax.data.decode import VideoError
from p3d_jax.data.guard import CrashError, HangError
from p3d_jax.files import on_store, write_aside
from p3d_jax.progress import Bar

VERSION = "1.0.0"
# Of TFDS, to which "all" means all splits; ours are lists of ids over it.
SPLIT = "videos"
# Records of a shard, which is what a stopped build loses at most. A set of
# millions has longer ones, so that no reader opens tens of thousands of files.
SHARD = 128
MOST_SHARDS = 1024
# Broken videos beyond those allowed after which a build does not go on to list
# them: the disk may be gone.
TOO_MANY = 100
# Items from one line of progress to the next, where there is no terminal.
LINE_EVERY = 500
# Next to the shards while they are written: a JSON file for each that is done.
BUILDING = "building"

FEATURES = tfds.features.FeaturesDict(
  {
    "video": tfds.features.Tensor(shape=(), dtype=np.bytes_),
    "labels": tfds.features.Sequence(np.int64),
    "segments": tfds.features.Tensor(shape=(None, 2), dtype=np.float32),
    "segment_labels": tfds.features.Sequence(np.int64),
    "id": tfds.features.Text(),
    "source_id": tfds.features.Text(),
    "num_frames": np.int64,
  }
)

Record = dict[str, Any]


class TooManyBrokenError(ValueError):
  """More videos are missing or broken than the user allows."""


@dataclasses.dataclass(frozen=True)
class Description:
  """What a set is.

  Attributes:
    name: of the dataset, as "ucf101".
    text: a line or more for people.
    label_names: a name for each label.
    max_labels: of one record; at least 1.
    channels: "RGB", or "flow" for videos of optical flow.
    metadata: besides, JSON.
  """

  name: str
  text: str
  label_names: tuple[str, ...]
  max_labels: int = 1
  channels: str = "RGB"
  metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Written:
  """What came of the items.

  Attributes:
    ids: of the records, in the order they are stored in.
    broken: (name, reason) of the items that gave no record; a name once,
      though several items, such as pieces of a video, may have it.
    num_bytes: of all records.
  """

  ids: tuple[str, ...]
  broken: tuple[tuple[str, str], ...]
  num_bytes: int


def check_place(out: epath.PathLike) -> None:
  """Refuses a bucket, into which ArrayRecord cannot write.

  Raises:
    ValueError: it is of a store.
  """
  if on_store(out):
    raise ValueError(
      f"out={os.fspath(out)!r}: must be a folder of this machine; the finished "
      "set can be copied to a bucket as it is"
    )


def write_set(
  folder: epath.Path,
  description: Description,
  names: Sequence[str],
  make: Callable[[int], Record],
  *,
  lists: Mapping[str, Sequence[str]],
  documents: Mapping[str, Any],
  report: Callable[[Written], dict[str, Any]],
  workers: int,
  needs: Mapping[str, Sequence[Sequence[str]]] | None = None,
  max_broken: int = 0,
  progress: bool = True,
  title: str = "build",
) -> None:
  """Makes every record and writes the set, or goes on where it was stopped.

  Args:
    folder: of the set. Whoever calls names it after all that decides the
      records, as what is there already is taken as it is.
    description: of the set.
    names: of the items, for people; item k is the k-th.
    make: item -> record, called in `workers` threads; a VideoError says that
      the item is broken, anything else ends the build.
    lists: name of a split -> ids; those without a record are left out.
    documents: name -> JSON kept with the set.
    report: what report.json says; "bytes" and "broken" are added to it.
    workers: how many items are made at once.
    needs: see `whole`.
    max_broken: how many may be broken.
    progress: show a bar.
    title: of the bar.

  Raises:
    TooManyBrokenError: more are broken. What is written stays, and the same
      call with a larger `max_broken` takes it; what hung or crashed is tried
      again.
    ValueError: `workers` is below 1, another build writes the set, or two
      records have one id.
    OSError: it cannot be written.
  """
  if workers < 1:
    raise ValueError(f"workers={workers}: must be >= 1")
  if is_complete(folder):
    _found(folder, report, max_broken)
    return
  (folder / BUILDING).mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    stack.enter_context(_alone(folder))
    if is_complete(folder, building=not any(_notes(folder))):
      (folder / BUILDING).rmtree()  # another build has just finished it
      _found(folder, report, max_broken)
      return
    shards = _shards(folder, description.name, len(names))
    done = sum(len(s.items) for s in shards if s.is_done())
    bar = Bar(title, len(names), done)
    if progress:
      stack.enter_context(bar)
    _write_shards(shards, names, make, workers, max_broken, bar, progress)
    written = _written(shards)
    if len(written.broken) > max_broken:
      raise TooManyBrokenError(_broken_text(written.broken, max_broken))
    if not written.ids:
      raise TooManyBrokenError(_broken_text(written.broken, len(names) - 1))
    _write_lists(folder, written, lists, documents, needs or {})
    _write_report(folder, report, written)
    _finish(folder, description, shards)


def _found(
  folder: epath.Path,
  report: Callable[[Written], dict[str, Any]],
  max_broken: int,
) -> None:
  """Takes a set that is there; raises if it lacks more than is allowed now.

  Its report is written anew: what is left over in a source may have changed.
  """
  then = json.loads((folder / "report.json").read_text())
  ids = json.loads((folder / "ids.json").read_text())
  broken = tuple((name, reason) for name, reason in then["broken"])
  if len(broken) > max_broken:
    raise TooManyBrokenError(_broken_text(broken, max_broken))
  _write_report(folder, report, Written(tuple(ids), broken, then["bytes"]))


def _write_report(
  folder: epath.Path,
  report: Callable[[Written], dict[str, Any]],
  written: Written,
) -> None:
  known = {"bytes": written.num_bytes, "broken": written.broken}
  text = json.dumps(report(written) | known, indent=2, ensure_ascii=False)
  file = folder / "report.json"
  # A set that is found may be somebody else's, to be read only.
  if not file.exists() or file.read_text() != text + "\n":
    write_aside(file, text + "\n")


@contextlib.contextmanager
def _alone(folder: epath.Path) -> Iterator[None]:
  """Keeps other builds out of a folder of this machine."""
  if "://" in os.fspath(folder):
    yield
    return
  with open(folder / BUILDING / "lock", "w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(
        f"{folder}: another build is writing this set; wait for it, and give "
        "the command again"
      ) from None
    except OSError:
      pass  # a file system without locks
    yield


def whole(
  documents: Mapping[str, Any],
  needs: Mapping[str, Sequence[Sequence[str]]],
  ids: Sequence[str],
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
  """Parts the documents from those items that are about what is not stored.

  Args:
    documents: name -> JSON.
    needs: name of a document that is a list -> the ids each item is about.
    ids: of the records.

  Returns:
    The documents, and name -> the items left out of it; () where none is.
  """
  stored = set(ids)
  kept = dict(documents)
  lost = {}
  for name, wanted in needs.items():
    items = list(zip(documents[name], wanted, strict=True))
    kept[name] = [item for item, of in items if stored.issuperset(of)]
    lost[name] = [item for item, of in items if not stored.issuperset(of)]
  return kept, lost


def _notes(folder: epath.Path) -> Iterator[epath.Path]:
  """Returns the notes of the shards that are written."""
  return (folder / BUILDING).glob("*.json")


def is_complete(folder: epath.Path, *, building: bool = False) -> bool:
  """Whether the set in a folder is there as a whole.

  Args:
    folder: of the set.
    building: whether it may have the folder of a build.
  """
  files = ("dataset_info.json", "report.json", "ids.json")
  there = all((folder / file).exists() for file in files)
  return there and (building or not (folder / BUILDING).exists())


@dataclasses.dataclass(frozen=True)
class _Shard:
  """Some items, the file of their records, and the note that it is whole."""

  items: range
  file: epath.Path
  note: epath.Path

  def is_done(self) -> bool:
    return self.note.exists() and not self.read_note()["again"]

  def read_note(self) -> dict[str, Any]:
    return json.loads(self.note.read_text())


def _shards(folder: epath.Path, name: str, count: int) -> list[_Shard]:
  """Deals the items to shards, in order, as evenly as it goes."""
  number = min(max(-(-count // SHARD), 1), MOST_SHARDS)
  edges = [count * k // number for k in range(number + 1)]
  return [
    _Shard(
      range(edges[k], edges[k + 1]),
      folder / f"{name}-{SPLIT}.array_record-{k:05d}-of-{number:05d}",
      folder / BUILDING / f"{k:05d}.json",
    )
    for k in range(number)
  ]


def _write_shards(
  shards: Sequence[_Shard],
  names: Sequence[str],
  make: Callable[[int], Record],
  workers: int,
  max_broken: int,
  bar: Bar,
  progress: bool,
) -> None:
  """Writes the shards that are not there; items are made ahead of writing."""
  todo = [shard for shard in shards if not shard.is_done()]
  items = itertools.chain.from_iterable(shard.items for shard in todo)
  at = sum(len(shard.items) for shard in shards if shard.is_done())
  broken = sum(len(s.read_note()["broken"]) for s in shards if s.is_done())
  with contextlib.closing(_made(items, make, workers)) as made:
    for shard in todo:
      with _Writer(shard) as writer:
        for item in shard.items:
          made_of_it = next(made)
          if not isinstance(made_of_it, VideoError):
            writer.add(made_of_it)
          else:
            writer.lacks(names[item], made_of_it)
            broken += 1
            if broken >= max_broken + TOO_MANY:
              raise TooManyBrokenError(
                _broken_text(writer.broken, max_broken, so_far=broken)
              )
          at += 1
          if progress:
            line = at % LINE_EVERY == 0 or at == len(names)
            bar.update(at, {"broken": str(broken)} if broken else {}, line=line)


def _made(
  items: Iterator[int], make: Callable[[int], Record], workers: int
) -> Generator[Record | VideoError, None, None]:
  """Makes items in threads; gives, in order, records or why there is none."""

  def attempt(item: int) -> Record | VideoError:
    try:
      return make(item)
    except VideoError as error:
      return error

  pool = concurrent.futures.ThreadPoolExecutor(workers)
  ahead: collections.deque[Any] = collections.deque()
  try:
    for item in items:
      ahead.append(pool.submit(attempt, item))
      # Videos may be long: no more of them wait than keep the workers busy.
      if len(ahead) > 2 * workers:
        yield ahead.popleft().result()
    while ahead:
      yield ahead.popleft().result()
  finally:
    pool.shutdown(wait=False, cancel_futures=True)


class _Writer:
  """Writes one shard aside; it appears when it is whole."""

  def __init__(self, shard: _Shard) -> None:
    self._shard = shard
    # Two builds at a time do not write into one file.
    self._aside = shard.file.parent / f".{shard.file.name}.{os.getpid()}.part"
    self._ids: list[str] = []
    self._bytes = 0
    self._again = False
    self.broken: list[tuple[str, str]] = []

  def __enter__(self) -> _Writer:
    # Encoded video does not get smaller by compressing it.
    self._out = ArrayRecordWriter(
      os.fspath(self._aside), "group_size:1,uncompressed"
    )
    return self

  def add(self, record: Record) -> None:
    """Writes a record."""
    content = FEATURES.serialize_example(FEATURES.encode_example(record))
    with self._full_disk():
      self._out.write(content)
    self._ids.append(record["id"])
    self._bytes += len(content)

  def lacks(self, name: str, error: VideoError) -> None:
    """Notes an item without a record."""
    self.broken.append((name, str(error)))
    # What hangs or crashes may do so for reasons of the machine.
    self._again = self._again or isinstance(error, HangError | CrashError)

  def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
    try:
      with self._full_disk():
        self._out.close()
    except OSError:
      self._aside.unlink()
      if kind is None:
        raise
      return
    if kind is not None:
      self._aside.unlink()
      return
    self._aside.replace(self._shard.file)
    note = {
      "ids": self._ids,
      "bytes": self._bytes,
      "broken": self.broken,
      "again": self._again,
    }
    write_aside(self._shard.note, json.dumps(note))

  @contextlib.contextmanager
  def _full_disk(self) -> Iterator[None]:
    """Turns what ArrayRecord raises into an error of the file."""
    try:
      yield
    except RuntimeError as error:
      # It goes on with where in its code, and ends in a stack.
      reason = str(error).split("; ")[0].splitlines()[0]
      raise OSError(f"{self._shard.file}: {reason}") from error


def _written(shards: Sequence[_Shard]) -> Written:
  notes = [shard.read_note() for shard in shards]
  ids = tuple(i for note in notes for i in note["ids"])
  if len(set(ids)) < len(ids):
    twice, _ = collections.Counter(ids).most_common(1)[0]
    raise ValueError(f"id={twice!r}: two records have it")
  return Written(
    ids=ids,
    broken=tuple({n: r for note in notes for n, r in note["broken"]}.items()),
    num_bytes=sum(note["bytes"] for note in notes),
  )


def _broken_text(
  broken: Sequence[tuple[str, str]], allowed: int, so_far: int | None = None
) -> str:
  """One line: how many, the first of them, and what can be done."""
  first = "; ".join(f"{name}: {reason}" for name, reason in broken[:3])
  number = f"{len(broken)} video{'s' * (len(broken) != 1)}"
  if so_far is not None:
    number = f"{so_far} videos so far"
  return (
    f"{number} cannot be read, {allowed} may be: {first}"
    f"{'; ...' if len(broken) > 3 else ''}"
  )


def _write_lists(
  folder: epath.Path,
  written: Written,
  lists: Mapping[str, Sequence[str]],
  documents: Mapping[str, Any],
  needs: Mapping[str, Sequence[Sequence[str]]],
) -> None:
  """Writes the ids, the lists of them, and the documents."""
  stored = set(written.ids)
  contents: dict[str, Any] = {"ids.json": list(written.ids)}
  for name, ids in lists.items():
    contents[f"lists/{name}.json"] = [i for i in ids if i in stored]
  kept, _ = whole(documents, needs, written.ids)
  contents |= {f"documents/{name}.json": value for name, value in kept.items()}
  # For sets that are made of this one, and may lose more.
  for name, wanted in needs.items():
    left = [of for of in wanted if stored.issuperset(of)]
    contents[f"needs/{name}.json"] = left
  for file, content in contents.items():
    (folder / file).parent.mkdir(exist_ok=True)
    write_aside(folder / file, json.dumps(content, ensure_ascii=False))


def _finish(
  folder: epath.Path, description: Description, shards: Sequence[_Shard]
) -> None:
  """Has TFDS describe the shards, and takes the notes away."""
  notes = [shard.read_note() for shard in shards]
  split = tfds.core.SplitInfo(
    name=SPLIT,
    shard_lengths=[len(note["ids"]) for note in notes],
    num_bytes=sum(note["bytes"] for note in notes),
    filename_template=tfds.core.ShardedFileTemplate(
      data_dir=folder,
      dataset_name=description.name,
      split=SPLIT,
      filetype_suffix="array_record",
    ),
  )
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=FEATURES,
    split_infos=[split],
    version=VERSION,
    check_data=False,
    description=description.text,
    metadata=tfds.core.MetadataDict(
      label_names=list(description.label_names),
      max_labels=description.max_labels,
      channels=description.channels,
      **description.metadata,
    ),
  )
  for left in folder.glob(".*.part"):
    left.unlink()  # of a build that was killed
  (folder / BUILDING).rmtree()
