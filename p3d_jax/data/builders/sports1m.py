"""Sports-1M: 1,133,158 videos of YouTube with 487 labels, often several each.

The release is lists of addresses; the videos are downloaded by the user. A
training video becomes a few short pieces drawn at random, as in the paper.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping

from etils import epath

from p3d_jax.data.builders import lists
from p3d_jax.data.builders.layout import (
  Cut,
  Dataset,
  Entry,
  Layout,
  Option,
  Tree,
  match,
  read_tree,
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


@dataclasses.dataclass(frozen=True)
class _Release:
  """The lists: partition -> id -> (labels, line), and what to tell of them."""

  label_names: tuple[str, ...]
  partitions: Mapping[str, Mapping[str, tuple[tuple[int, ...], int]]]
  files: tuple[str, ...]
  notes: tuple[str, ...]


def layout(
  source: epath.Path,
  *,
  shorts: int = 5,
  short_seconds: float = 5.0,
  seed: int = 0,
  validation_share: float = 0.0,
) -> Layout:
  """Lays the downloaded videos against the release's partitions.

  Args:
    source: folder with the lists and the videos anywhere in it.
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
      line that is not of its form, a video stands in both partitions, or none
      of the videos is there.
  """
  _check(shorts, short_seconds, seed, validation_share)
  tree = read_tree(source)
  release = _read(tree)
  listed = [video for of in release.partitions.values() for video in of]
  # The case of an id matters.
  matches = match(listed, tree.videos, lists.stem, loose=False)
  lists.check_found(tree, matches.found, matches.missing, "ID.mp4")
  entries: list[Entry] = []
  ids: dict[str, list[str]] = {"train": [], "test": []}
  if validation_share:
    ids["validation"] = []
  missing = dict.fromkeys(ids, 0)
  for name, videos in release.partitions.items():
    for video, (labels, _) in videos.items():
      held = name == "train" and _number(video) < validation_share * 2**64
      part = "validation" if held else name
      if video not in matches.found:
        missing[part] += 1
        continue
      pieces = shorts if part == "train" else 0
      whole = Entry(video, matches.found[video], labels, source_id=video)
      made = _pieces(whole, pieces, short_seconds, seed) if pieces else [whole]
      entries += made
      ids[part] += [entry.id for entry in made]
  notes = [
    *release.notes,
    *lists.missing_notes(missing, ids),
    *lists.further_notes(matches.further),
  ]
  return Layout(
    entries=tuple(entries),
    label_names=release.label_names,
    lists={name: tuple(of) for name, of in ids.items()},
    missing=matches.missing,
    extra=lists.extra(tree, entries),
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
  partitions = {}
  for name, path in paths.items():
    partitions[name], twice = _partition(tree, path, len(label_names))
    if twice:
      notes.append(f"{path}: lines that are repeated, and count once: {twice}")
  _check_apart(partitions, paths)
  return _Release(label_names, partitions, files, tuple(notes))


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
  tree: Tree, path: str, classes: int
) -> tuple[dict[str, tuple[tuple[int, ...], int]], int]:
  """Reads id -> (labels, line), and how many lines are repeated."""
  videos: dict[str, tuple[tuple[int, ...], int]] = {}
  twice = 0
  for number, line in lists.lines(tree, path):
    parts = _LINE.fullmatch(line)
    if parts is None:
      raise ValueError(
        f"{path}:{number}: must be 'https://www.youtube.com/watch?v=ID 12,34', "
        f"the address and the labels, and is {line!r}"
      )
    video = parts[1]
    labels = tuple(sorted({int(label) for label in parts[2].split(",")}))
    if labels[-1] >= classes:
      raise ValueError(
        f"{path}:{number}: label {labels[-1]} must be < {classes}, the number "
        f"of names in {LABELS}"
      )
    if video not in videos:
      videos[video] = labels, number
    elif videos[video][0] == labels:
      twice += 1
    else:
      raise ValueError(
        f"{path}:{number}: video {video} has other labels than in line "
        f"{videos[video][1]}; keep one of the lines"
      )
  return videos, twice


def _check_apart(
  partitions: Mapping[str, Mapping[str, tuple[tuple[int, ...], int]]],
  paths: Mapping[str, str],
) -> None:
  """Fails if a video is trained on and tested."""
  train, test = partitions["train"], partitions["test"]
  both = [video for video in test if video in train]
  if both:
    video = both[0]
    raise ValueError(
      f"in both partitions: {lists.counted(len(both), 'video')}; the first is "
      f"{video}, "
      f"{paths['train']}:{train[video][1]} and {paths['test']}:"
      f"{test[video][1]}; take them out of one"
    )


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
The lists are found in any folder of DIR. The case of an id matters. Of
several files of one video the first by path is taken, and the others are
counted as extra.""",
  known_from=(
    "The lists: the release's own README, which says the form of a line and "
    "that labels count from 0. The release holds no videos; ID.EXT as their "
    "names is assumed, as download programs write them when they are told to "
    "name a file by its id."
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
