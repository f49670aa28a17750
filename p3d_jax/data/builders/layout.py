"""What a dataset looks like on disk, laid against its lists.

Each dataset is a file beside this one with a function that reads a source
folder and returns a `Layout`, and a row, `DATASET`, that says what the folder
must look like and where that is known from. Nothing is decoded here.
"""

from __future__ import annotations

import dataclasses
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from p3d_jax.files import names_below

# Files with these suffixes are videos; others beside them are not looked at.
# `decode.CONTAINERS` has what they hold.
SUFFIXES = frozenset(
  (".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".gif", ".m2ts")
  + (".m2v", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf")
  + (".ogg", ".ogv", ".ts", ".vob", ".webm", ".wmv")
)
# What browsers and download programs call a file that they have not finished,
# or what they know of it.
UNFINISHED = (".part", ".crdownload", ".ytdl")


@dataclasses.dataclass(frozen=True)
class Cut:
  """A piece of a video, drawn at random.

  Attributes:
    seconds: length; a video shorter than it is taken whole.
    seed: of the draw, which is a function of it alone.
  """

  seconds: float
  seed: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
  """One record to make.

  Attributes:
    id: of the record; no other has it.
    path: of the video, from the source folder on, with "/".
    labels: indices into the names, ascending, each once; () where the
      dataset does not publish them.
    segments: (start, end) in seconds of what is labelled; () the whole video.
    segment_labels: the label of each segment; () if there are no segments.
    source_id: the footage that the video is from, which others may share; ""
      takes the id.
    cut: the piece to take; None: all of it.
  """

  id: str
  path: str
  labels: tuple[int, ...] = ()
  segments: tuple[tuple[float, float], ...] = ()
  segment_labels: tuple[int, ...] = ()
  source_id: str = ""
  cut: Cut | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
  """What a source folder holds.

  Attributes:
    entries: the records to make, in the order they are stored in.
    label_names: a name for each label.
    lists: name of a split or fold -> ids of its records, in order. An id may
      stand in several; "all" is every record and is not listed.
    missing: what the lists name and the folder lacks.
    extra: videos of the folder, as paths, that no list names.
    notes: what else is to be told, a line each.
    files: the lists that were read, as paths; the built set is keyed by them.
    documents: name -> JSON that is kept with the set, such as ASLAN's pairs.
    needs: name of a document that is a list -> the ids that each item of it
      is about; an item of which one is not stored is left out and counted.
  """

  entries: tuple[Entry, ...]
  label_names: tuple[str, ...]
  lists: Mapping[str, tuple[str, ...]]
  missing: tuple[str, ...] = ()
  extra: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()
  files: tuple[str, ...] = ()
  documents: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  needs: Mapping[str, tuple[tuple[str, ...], ...]] = dataclasses.field(
    default_factory=dict
  )


@dataclasses.dataclass(frozen=True)
class Option:
  """An argument of one dataset.

  Attributes:
    name: with "_" between words; "--" and "-" on the command line.
    type: of the value: int, float or str.
    default: None: it need not be given.
    help: a line.
    choices: the values that it may have; () any.
  """

  name: str
  type: Callable[[str], Any]
  default: Any
  help: str
  choices: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A dataset that `p3d data build` makes.

  Attributes:
    name: as it is called on the command line.
    title: a line.
    expects: what the source folder must look like, a tree of lines.
    known_from: where that is known from, or that it is assumed; a sentence.
    lists: the names of its splits and folds, for people.
    layout: reads the source folder, given as an `epath.Path`, with the
      options as keywords; raises a ValueError of one line.
    options: beside the source.
  """

  name: str
  title: str
  expects: str
  known_from: str
  lists: str
  layout: Callable[..., Layout]
  options: tuple[Option, ...] = ()


@dataclasses.dataclass(frozen=True)
class Tree:
  """The files of a folder and of those in it; read once for a layout.

  Attributes:
    source: the folder.
    videos: paths from `source` on, with "/", sorted.
    others: the same of what is no video, such as lists.
  """

  source: epath.Path
  videos: tuple[str, ...]
  others: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Matches:
  """Names of a list, laid against the files there are.

  Attributes:
    found: name -> file, in the order of the names.
    missing: names without a file, in their order.
    respelled: how many were found under another case or Unicode form.
    further: name -> the other files that have it, where there are some.
  """

  found: Mapping[str, str]
  missing: tuple[str, ...]
  respelled: int = 0
  further: Mapping[str, tuple[str, ...]] = dataclasses.field(
    default_factory=dict
  )


def read_tree(source: epath.Path) -> Tree:
  """Reads which files a folder and those in it have.

  Links are followed, to folders and to files; one that leads nowhere is a
  file, so that a video behind it is found broken and not passed over. What
  begins with a dot is left out: it is a file system's or a copying program's
  own. 650,000 files in 700 folders take about 2 seconds on a local disk.

  Args:
    source: the folder, here or in a store that epath knows (gs://).

  Raises:
    ValueError: it is no folder, the name of a video is not UTF-8, or a link
      leads to a folder that it lies in.
  """
  if not source.is_dir():
    raise ValueError(f"source={os.fspath(source)!r}: must be a folder")
  remote = "://" in os.fspath(source)
  videos, others = [], []
  for name in _walk(source) if remote else _scan(source, "", ()):
    if os.path.splitext(name)[1].lower() in SUFFIXES:
      _check_utf8(source, name)
      videos.append(name)
    else:
      others.append(name)
  return Tree(source, tuple(sorted(videos)), tuple(sorted(others)))


def videos_under(source: epath.Path) -> list[str]:
  """Returns the videos of a folder and of those in it, as `read_tree` does."""
  return list(read_tree(source).videos)


def _check_utf8(source: epath.Path, name: str) -> None:
  try:
    name.encode()
  except UnicodeEncodeError:
    raise ValueError(
      f"source={os.fspath(source)!r}: the name {ascii(name)} is not UTF-8; "
      "rename the file"
    ) from None


def _scan(
  source: epath.Path, below: str, above: tuple[tuple[int, int], ...]
) -> Iterator[str]:
  """Yields the files of a local folder; `above` are those that it lies in."""
  # The listing says what is a folder: no file is asked for by itself.
  folder = os.path.join(source, below)
  stat = os.stat(folder)
  here = (stat.st_dev, stat.st_ino)
  if here in above:
    raise ValueError(
      f"source={os.fspath(source)!r}: {below.rstrip('/')} leads back to a "
      "folder that it lies in; remove the link"
    )
  with os.scandir(folder) as entries:
    for entry in entries:
      if entry.name.startswith("."):
        continue
      if entry.is_dir():
        yield from _scan(source, f"{below}{entry.name}/", (*above, here))
      else:
        yield below + entry.name


def _walk(source: epath.Path) -> Iterator[str]:
  """Yields the files of a folder in a store, which has no links."""
  for name in names_below(source):
    if not any(part.startswith(".") for part in name.split("/")):
      yield name


def match(
  names: Iterable[str],
  files: Iterable[str],
  key: Callable[[str], str | None] = lambda file: file,
  *,
  loose: bool = True,
) -> Matches:
  """Finds the file of each name of a list.

  A name that no file has letter by letter is looked for once more without
  regard to case and to how Unicode composes letters: UCF101 writes one class
  both HandStand and Handstand, and macOS decomposes what it stores. No file is
  given to two names. Of several files with one name the first is taken, those
  with the name letter by letter before the others.

  Args:
    names: of a list; one that comes twice is taken once.
    files: paths from the source on, sorted.
    key: maps a file to the name it would have in the list, or to None: none.
    loose: whether to look once more; case tells ids of YouTube apart.
  """
  first: dict[str, str] = {}
  more: dict[str, list[str]] = {}
  for file in files:
    if (name := key(file)) is None:
      continue
    if first.setdefault(name, file) != file:
      more.setdefault(name, []).append(file)
  wanted = dict.fromkeys(names)
  others: dict[str, list[str]] = {}
  if loose:
    for name in first:
      if name not in wanted:
        others.setdefault(loosely(name), []).append(name)
  taken: dict[str, str] = {}  # name -> as it is spelled on disk
  missing = []
  for name in wanted:
    if name in first:
      taken[name] = name
    elif left := others.get(loosely(name)):
      taken[name] = left.pop(0)
    else:
      missing.append(name)
  further: dict[str, tuple[str, ...]] = {}
  for name, spelled in taken.items():
    again = more.get(spelled, [])
    for other in others.pop(loosely(name), ()) if others else ():
      again = [*again, first[other], *more.get(other, ())]
    if again:
      further[name] = tuple(again)
  return Matches(
    found={name: first[spelled] for name, spelled in taken.items()},
    missing=tuple(missing),
    respelled=sum(name != spelled for name, spelled in taken.items()),
    further=further,
  )


def loosely(name: str) -> str:
  """Returns what is the same for all spellings of a name, as `match` sees."""
  return unicodedata.normalize("NFC", name).casefold()


def plainly(name: str) -> str:
  """Returns a class's name without case, blanks and signs."""
  return "".join(c for c in name.casefold() if c.isalnum())
