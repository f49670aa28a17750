"""folder: people's own videos, in folders of classes or listed in a csv."""

import collections
import dataclasses
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from etils import epath

from p3d_jax.data.builders import lists
from p3d_jax.data.builders.layout import (
  SUFFIXES,
  Dataset,
  Entry,
  Layout,
  Option,
  Tree,
  loosely,
  match,
)

# What people call the splits -> what they are called here.
SPLITS = {
  "train": "train",
  "training": "train",
  "val": "validation",
  "valid": "validation",
  "validate": "validation",
  "validation": "validation",
  "test": "test",
  "testing": "test",
}
HEADER = ("path", "label", "split")


@dataclasses.dataclass
class Video:
  """A video and what is said of it.

  Attributes:
    path: from the source on.
    labels: its names.
    split: "" if it is to be drawn.
    where: FILE:LINE that names it first; "" without a csv.
  """

  path: str
  labels: set[str]
  split: str = ""
  where: str = ""


@lists.of_tree
def layout(
  tree: Tree, *, csv: str | None = None, test_share: float = 0.2
) -> Layout:
  """Lays out a folder of anybody's videos.

  Args:
    tree: the folder.
    csv: rows of path,label or path,label,split, with a header or without; as
      it is given, or from the source on. None: folders are the classes.
    test_share: which part of each class to hold out for testing, where
      nothing says what is for testing. 0: none.
  """
  if not 0 <= test_share < 1:
    raise ValueError(f"test_share={test_share}: must be >= 0 and < 1")
  if not tree.videos:
    raise ValueError(f"{lists.of(tree)}: there is no video in it")
  files: tuple[str, ...] = ()
  missing: tuple[str, ...] = ()
  if csv is None:
    found, notes = _of_folders(tree)
  else:
    path = _find_csv(tree, csv)
    files = (path,)
    found, missing, notes = _of_csv(tree, path)
  names = _label_names({label for video in found for label in video.labels})
  if not any(video.split for video in found):
    _draw(found, test_share)
  label = {name: k for k, name in enumerate(names)}
  entries = tuple(
    Entry(
      id=video.path,
      path=video.path,
      labels=tuple(sorted(label[name] for name in video.labels)),
    )
    for video in found
  )
  return Layout(
    entries=entries,
    label_names=names,
    lists={
      split: ids
      for split in dict.fromkeys(SPLITS.values())
      if (ids := tuple(v.path for v in found if v.split == split))
    },
    missing=missing,
    extra=lists.extra(tree, entries),
    notes=(*notes, *_odd_labels(found, names)),
    files=files,
  )


def _of_folders(tree: Tree) -> tuple[list[Video], list[str]]:
  """Takes the folders as classes, or as splits with classes in them."""
  parts = {video: PurePosixPath(video).parts for video in tree.videos}
  tops = {of[0] for of in parts.values() if len(of) > 1}
  named = {top: SPLITS[top.lower()] for top in tops if top.lower() in SPLITS}
  # One folder named train beside others is a class: trains.
  if named and (len(set(named.values())) > 1 or len(named) == len(tops)):
    found = [
      Video(video, {_composed(of[1])}, named[of[0]])
      for video, of in parts.items()
      if of[0] in named and len(of) > 2
    ]
    expected = "CLASS/VIDEO in its train, validation and test folders"
    notes = [f"folders that are taken as splits: {', '.join(sorted(named))}"]
  else:
    found = [
      Video(video, {_composed(of[0])})
      for video, of in parts.items()
      if len(of) > 1
    ]
    expected = "CLASS/VIDEO"
    notes = []
  if not found:
    raise ValueError(
      f"{lists.of(tree)}: none of its {len(tree.videos)} videos is in a folder "
      f"of a class; it must have {expected}, or give a csv"
    )
  if not named:
    _check_level(tree, [of[:-1] for of in parts.values() if len(of) > 1])
  return found, notes


def _check_level(tree: Tree, folders: Sequence[tuple[str, ...]]) -> None:
  """Refuses a source that holds but a folder with the classes in it."""
  below = min(map(len, folders)) - 1
  # A class for each folder is left below those that all are in.
  shared = os.path.commonprefix(folders)[:below]
  if shared:
    raise ValueError(
      f"{lists.of(tree)}: its one folder of videos, {folders[0][0]!r}, holds "
      "nothing but folders of videos; give "
      f"--source {os.fspath(tree.source.joinpath(*shared))!r}, or a csv"
    )


def _find_csv(tree: Tree, csv: str) -> str:
  """Returns the path from the source on, or elsewhere from the root on."""
  given = epath.Path(csv).expanduser()
  for place in (given, tree.source / csv):
    if place.is_file():
      if place.is_relative_to(tree.source):
        return place.relative_to(tree.source).as_posix()
      return os.fspath(place.resolve())
  raise ValueError(
    f"csv={csv!r}: must be a file, as it is given or from "
    f"{os.fspath(tree.source)!r} on"
  )


def _of_csv(
  tree: Tree, path: str
) -> tuple[list[Video], tuple[str, ...], list[str]]:
  """Returns the videos that a csv lists, those not there, and notes."""
  listed, notes = _read_csv(tree, path)
  matches = match(listed, tree.videos)
  hint = _meant(matches.missing[0], _known(tree)) if matches.missing else ""
  lists.check_found(tree, matches.found, matches.missing, hint=hint)
  found = [
    dataclasses.replace(listed[name], path=file)
    for name, file in matches.found.items()
  ]
  notes += lists.respelled_notes(matches.respelled)
  return found, matches.missing, notes


def _read_csv(tree: Tree, path: str) -> tuple[dict[str, Video], list[str]]:
  """Returns the videos by the path that the csv has, and notes."""
  rows = lists.rows(tree, path)
  columns, notes = _columns(*rows[0])
  if columns is None:
    width = len(rows[0][1])
    columns = {name: k for k, name in enumerate(HEADER[:width])}
  else:
    width = len(rows.pop(0)[1])
  known = _known(tree)
  roots = _roots(tree.source)
  listed: dict[str, Video] = {}
  again = 0
  for where, cells in rows:
    if len(cells) != width or width < 2:
      raise ValueError(
        f"{where}: {lists.counted(len(cells), 'cell')}; each row must have "
        f"{max(width, 2)}: path,label or path,label,split, in quotes where a "
        "name has a comma"
      )
    cell = {name: cells[k] for name, k in columns.items()}
    cell["path"] = _own_path(cell["path"], roots, known)
    row = _video(where, cell, known)
    video = listed.setdefault(row.path, row)
    if video.split != row.split:
      raise ValueError(
        f"{where}: {row.path!r} is in {row.split}, and in {video.split} at "
        f"{video.where}"
      )
    again += video is not row and row.labels <= video.labels
    video.labels |= row.labels
  if not listed:
    raise ValueError(f"{path}: no row below the header")
  if again:
    notes.append(f"rows that say again what another has said: {again}")
  return listed, notes


def _columns(
  where: str, cells: list[str]
) -> tuple[dict[str, int] | None, list[str]]:
  """Returns the columns of a header and notes; None if it is a row."""
  names = [cell.strip().lower() for cell in cells]
  if not {"path", "label"} <= set(names):
    if len(cells) > len(HEADER):
      raise ValueError(
        f"{where}: {len(cells)} cells; a csv without the header "
        "path,label[,split] has two or three"
      )
    return None, []
  for name in HEADER:
    if names.count(name) > 1:
      raise ValueError(f"{where}: the column {name!r} stands twice")
  unused = [name for name in names if name and name not in HEADER]
  notes = (
    [f"columns that are not used: {', '.join(map(repr, unused))}"]
    if unused
    else []
  )
  return {n: k for k, n in enumerate(names) if n in HEADER}, notes


def _known(tree: Tree) -> dict[str, str]:
  """Returns the videos, by what is the same for all their spellings."""
  return {loosely(video): video for video in tree.videos}


def _roots(source: epath.Path) -> tuple[str, ...]:
  """Returns what absolute paths below the source begin with."""
  given = os.fspath(source)
  if "://" in given:
    return (given.rstrip("/") + "/",)
  return tuple(
    os.path.join(root, "")
    for root in (os.path.abspath(given), os.path.realpath(given))
  )


def _own_path(text: str, roots: Iterable[str], known: Mapping[str, str]) -> str:
  """Returns a path from the source on, without blanks that are not its own."""
  for spelled in (text, text.strip()):
    path = spelled
    for root in roots:
      path = path.removeprefix(root)
    if loosely(str(PurePosixPath(path))) in known:
      return path
  return path


def _meant(text: str, known: Mapping[str, str]) -> str:
  """Returns a hint at the video that the end of a path names, or ""."""
  parts = re.split(r"[\\/]+", loosely(text.strip()))
  for k in range(len(parts)):
    if video := known.get("/".join(parts[k:])):
      return f"; did you mean {video!r}?"
  return ""


def _video(
  where: str, cell: Mapping[str, str], known: Mapping[str, str]
) -> Video:
  """Reads a row."""
  text = cell["path"]
  path = PurePosixPath(text)
  if path.is_absolute() or re.match(r"[A-Za-z]:[\\/]|\\", text):
    raise ValueError(
      f"{where}: path={text!r} must go from the source folder on, not from "
      f"another root{_meant(text, known)}"
    )
  if ".." in re.split(r"[\\/]", text):
    raise ValueError(f"{where}: path={text!r} must not lead out by '..'")
  if path.suffix.lower() not in SUFFIXES:
    raise ValueError(
      f"{where}: path={text!r} must end like a video, such as .mp4; a header "
      "must name path and label"
    )
  label = _composed(cell["label"].strip())
  if not label:
    raise ValueError(f"{where}: the label of {text!r} is empty")
  split = ""
  if "split" in cell:
    split = SPLITS.get(cell["split"].strip().lower(), "")
    if not split:
      raise ValueError(
        f"{where}: split={cell['split']!r} must be one of {', '.join(SPLITS)}"
      )
  return Video(str(path), {label}, split, where)


def _label_names(labels: set[str]) -> tuple[str, ...]:
  """Sorts the labels: as numbers if all are, else alphabetically."""
  if all(re.fullmatch(r"-?[0-9]+", label) for label in labels):
    return tuple(sorted(labels, key=lambda label: (int(label), label)))
  return tuple(sorted(labels))


def _draw(videos: list[Video], share: float) -> None:
  """Holds out a share of each class by a hash of the paths.

  Rare classes choose first. No class gives its last video away, whatever
  other labels that has.
  """
  order = sorted(videos, key=_hash)
  of_label: dict[str, list[Video]] = collections.defaultdict(list)
  for video in order:
    video.split = "train"
    for label in video.labels:
      of_label[label].append(video)
  left = {label: len(of) for label, of in of_label.items()}
  for label in sorted(of_label, key=lambda name: (left[name], name)):
    count = len(of_label[label])
    # To the nearest, halves up, and one at least.
    wanted = max(int(share * count + 0.5), 1) if share else 0
    for video in of_label[label]:
      if count - left[label] >= wanted:
        break
      if video.split == "train" and all(left[n] > 1 for n in video.labels):
        video.split = "test"
        for name in video.labels:
          left[name] -= 1


def _hash(video: Video) -> bytes:
  # Composed: a copy by way of macOS is held out alike.
  return hashlib.sha256(_composed(video.path).encode()).digest()


def _odd_labels(videos: Iterable[Video], names: tuple[str, ...]) -> list[str]:
  """Returns notes on labels that are hardly meant so."""
  notes = []
  alike: dict[str, list[str]] = collections.defaultdict(list)
  for name in names:
    alike[" ".join(loosely(name).split())].append(name)
  for of in alike.values():
    if len(of) > 1:
      notes.append(
        f"the labels {', '.join(map(repr, of))} differ in case or blanks alone"
      )
  if len(names) == 1:
    notes.append(f"there is but one class, {names[0]!r}")
  trained = {n for v in videos if v.split == "train" for n in v.labels}
  if trained and (rest := sorted(set(names) - trained)):
    notes.append(
      f"classes without a video for training: {', '.join(map(repr, rest[:5]))}"
    )
  return notes


def _composed(text: str) -> str:
  """Returns the text with letters and accents in one, as most systems do."""
  return unicodedata.normalize("NFC", text)


DATASET = Dataset(
  name="folder",
  title="anybody's videos, in folders of classes or listed in a csv",
  expects='''\
DIR/
  CLASS/
    video.mp4                   at any depth below the class
or, with splits:
DIR/
  train/  val/  test/           also training, valid, validation, testing
    CLASS/
      video.mp4
or, with --csv FILE, videos anywhere below DIR and a FILE of
  path,label                    or path,label,split; or without this line
  day 1/run.mp4,running
  "a, b.mp4","say ""hi"""       quoted as RFC 4180 says, UTF-8
  day 1/run.mp4,outdoors        a path again: one more label
Semicolons or tabs may part the cells in place of commas, as the first line has
them. Paths go from DIR on, or are absolute and lead into DIR. Blanks around a
label do not count, nor those around a path that no file has. Labels are in
alphabetical order, or in that of numbers if all are whole numbers. Without
splits --test-share of each class is held out, always the same for the same
paths. Videos in no folder of a class are counted as extra.''',
  known_from=(
    "The layout is this project's own: folders of classes, as image folders "
    "have, and csv as RFC 4180 has it."
  ),
  lists="those there are of train, validation, test",
  layout=layout,
  options=(
    Option("csv", str, None, "file of path,label[,split] rows"),
    Option(
      "test_share",
      float,
      0.2,
      "part of each class to hold out for testing, where there are no splits",
    ),
  ),
)
