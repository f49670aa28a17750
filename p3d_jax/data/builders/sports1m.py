"""Sports-1M: 1,133,158 videos of YouTube with 487 labels, often several each.

The release is lists of addresses; the videos are downloaded by the user. A
training video becomes a few short pieces drawn at random, as in the paper.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from p3d_jax.data.builders import lists
from p3d_jax.data.builders.layout import (
  Cut,
  Dataset,
  Entry,
  Layout,
  Option,
  Tree,
)

# Lines of the release's labels.txt.
CLASSES = 487
LABELS = "labels.txt"
PARTITIONS = {
  "train": ("train_partition.txt", "train_partition.txt.gz"),
  "test": ("test_partition.txt", "test_partition.txt.gz"),
}
_LINE = re.compile(
  r"https?://(?:www\.)?youtube\.com/watch\?v=([0-9A-Za-z_-]+)\s+"
  r"([0-9]+(?:,[0-9]+)*)\s*"
)


# How a video's file is named.
FORM = "ID.mp4, 'TITLE [ID].mp4' or TITLE-ID.mp4"


@dataclasses.dataclass(frozen=True, slots=True)
class _Line:
  """A line of a partition; there are a million."""

  partition: str
  path: str
  number: int
  video: str
  labels: tuple[int, ...]

  @property
  def where(self) -> str:
    """FILE:LINE, for notes."""
    return f"{self.path}:{self.number}"


@dataclasses.dataclass(frozen=True)
class _Release:
  """The lists: partition -> (id, labels), and what to tell of them."""

  label_names: tuple[str, ...]
  partitions: Mapping[str, Sequence[tuple[str, tuple[int, ...]]]]
  files: tuple[str, ...]
  notes: tuple[str, ...]


@lists.of_tree
def layout(
  tree: Tree,
  *,
  shorts: int = 5,
  short_seconds: float = 5.0,
  seed: int = 0,
  validation_share: float = 0.0,
) -> Layout:
  """Lays the downloaded videos against the release's partitions.

  Args:
    tree: folder with the lists and the videos anywhere in it.
    shorts: pieces of a training video; 0 keeps whole videos.
    short_seconds: length of a piece, in seconds.
    seed: of where the pieces begin.
    validation_share: share of the training videos that make the list
      `validation`, whole; which ones depends on their id alone.

  Returns:
    A record a video, and `shorts` records "ID/0", "ID/1", ... of a training
    video.

  Raises:
    ValueError: an option is out of its range, a list is not there or has a
      line that is not of its form, or none of the videos is there.
  """
  _check(shorts, short_seconds, seed, validation_share)
  release = _read(tree)
  labels = {v: of for part in release.partitions.values() for v, of in part}
  matches, told = lists.match_ids(labels, tree.videos)
  lists.check_found(tree, matches.found, matches.missing, FORM)

  def part(name: str, video: str) -> str:
    held = name == "train" and _number(video) < validation_share * 2**64
    return "validation" if held else name

  def make(name: str, video: str, path: str) -> list[Entry]:
    whole = Entry(video, path, labels[video], source_id=video)
    if name != "train" or not shorts:
      return [whole]
    return _pieces(whole, shorts, short_seconds, seed)

  gathered = lists.gather(
    ("train", "test", *["validation"] * bool(validation_share)),
    ((part(n, v), v) for n, of in release.partitions.items() for v, _ in of),
    matches.found,
    make,
  )
  notes = [*release.notes, *gathered.notes, *told]
  notes += lists.further_notes(matches.further)
  return Layout(
    entries=gathered.entries,
    label_names=release.label_names,
    lists=gathered.lists,
    missing=matches.missing,
    extra=lists.extra(tree, gathered.entries),
    notes=tuple(notes),
    files=release.files,
  )


def _check(
  shorts: int, short_seconds: float, seed: int, validation_share: float
) -> None:
  if shorts < 0:
    raise ValueError(f"shorts={shorts}: must be >= 0; 0 keeps whole videos")
  if not 0 < short_seconds < math.inf:
    raise ValueError(f"short_seconds={short_seconds}: must be > 0 and finite")
  if seed < 0:
    raise ValueError(f"seed={seed}: must be >= 0")
  if not 0 <= validation_share < 1:
    raise ValueError(
      f"validation_share={validation_share}: must be >= 0 and < 1"
    )


def _read(tree: Tree) -> _Release:
  names = (LABELS, *sum(PARTITIONS.values(), ()))
  found = lists.find(tree, lists.named(*names))
  labels_file = lists.need(tree, found, LABELS)
  paths = {
    name: lists.need(tree, found, *names) for name, names in PARTITIONS.items()
  }
  files = (labels_file, *paths.values())
  notes = lists.unread_notes(found, files)
  label_names = _labels(tree, labels_file)
  notes += lists.class_notes(tree, len(label_names), CLASSES)
  first, told = _first(
    line
    for name, path in paths.items()
    for line in _partition(tree, name, path, len(label_names))
  )
  partitions = {
    name: [(of.video, of.labels) for of in first if of.partition == name]
    for name in paths
  }
  return _Release(label_names, partitions, files, (*notes, *told))


def _labels(tree: Tree, path: str) -> tuple[str, ...]:
  """Reads a name a line; the line's number less one is the label."""
  names: list[str] = []
  for number, line in lists.lines(tree, path):
    if number != len(names) + 1:
      raise ValueError(
        f"{path}:{number - 1}: must be the name of label {number - 2}, "
        "and is blank"
      )
    names.append(line.strip())
  return tuple(names)


def _partition(
  tree: Tree, name: str, path: str, classes: int
) -> Iterator[_Line]:
  for number, line in lists.lines(tree, path):
    parts = _LINE.fullmatch(line)
    if parts is None:
      raise ValueError(
        f"{path}:{number}: must be 'https://www.youtube.com/watch?v=ID 12,34', "
        f"the address and the labels, and is {line!r}"
      )
    labels = tuple(sorted({int(label) for label in parts[2].split(",")}))
    if labels[-1] >= classes:
      raise ValueError(
        f"{path}:{number}: label {labels[-1]} must be < {classes}, the number "
        f"of names in {LABELS}"
      )
    yield _Line(name, path, number, parts[1], labels)


def _first(read: Iterable[_Line]) -> tuple[list[_Line], list[str]]:
  """Returns the first line of each video, and notes on the others.

  None of them is an error: nobody mends a list of a million lines by hand.
  """
  first: dict[str, _Line] = {}
  repeated = 0
  # A video that is trained on is not tested.
  parted: list[tuple[_Line, _Line]] = []
  differ: list[tuple[_Line, _Line]] = []
  for line in read:
    before = first.setdefault(line.video, line)
    if before.partition != line.partition:
      parted.append((before, line))
    elif before.labels != line.labels:
      differ.append((before, line))
    else:
      repeated += before is not line
  notes = []
  if repeated:
    notes.append(f"lines that are repeated, and count once: {repeated}")
  for what, pairs in (
    ("in both partitions, and taken for training alone", parted),
    ("with other labels in a later line, which does not count", differ),
  ):
    if pairs:
      before, line = pairs[0]
      notes.append(
        f"videos {what}: {len(pairs)}, such as {line.video}, {before.where} "
        f"and {line.where}"
      )
  return list(first.values()), notes


def _pieces(
  whole: Entry, shorts: int, seconds: float, seed: int
) -> list[Entry]:
  number = _number(whole.id)
  return [
    Entry(
      id=f"{whole.id}/{k}",
      path=whole.path,
      labels=whole.labels,
      source_id=whole.id,
      cut=Cut(seconds, (seed, number, k)),
    )
    for k in range(shorts)
  ]


def _number(video: str) -> int:
  """Returns 64 bits that are a function of the id alone, on any machine."""
  return int.from_bytes(hashlib.sha256(video.encode()).digest()[:8], "big")


DATASET = Dataset(
  name="sports1m",
  title="Sports-1M, 487 sports, 1.1 million videos of YouTube (CVPR 2014)",
  expects="""\
DIR/
  sports-1m-dataset/           the release's repository, or just these files
    labels.txt                 487 lines; the first is label 0
    original/
      train_partition.txt      https://www.youtube.com/watch?v=ID 12,34
      test_partition.txt       (or .txt.gz)
  videos/                      what you downloaded, in folders as you like
    ID.mp4                     any container; the name is the id of YouTube
    TITLE [ID].mp4             as yt-dlp names it, if there is no ID.mp4
    TITLE-ID.mp4               as youtube-dl names it
The lists are found in any folder of DIR. The case of an id matters. Of
several files of one video the first by path is taken, and the others are
counted as extra; so are all where several titles end in one id. Of several
lines of one video the first counts, those of training before those of testing,
and a note says so.""",
  known_from=(
    "The lists: the release's own README, which says the form of a line and "
    "that labels count from 0. The release holds no videos; ID.EXT as their "
    "names is assumed, as download programs write them when they are told to "
    "name a file by its id; with titles, they do so by themselves."
  ),
  lists=(
    "train and test are the release's partitions (the paper's own 70/10/20 "
    "split was not released); validation: a share of train, if asked for"
  ),
  layout=layout,
  options=(
    Option("shorts", int, 5, "pieces of a training video; 0: the whole video"),
    Option("short_seconds", float, 5.0, "length of a piece, in seconds"),
    Option("seed", int, 0, "of where the pieces begin"),
    Option(
      "validation_share",
      float,
      0.0,
      "share of the training videos that makes the list validation, whole",
    ),
  ),
)
