"""Kinetics-400, 600 and 700: YouTube clips of some 10 seconds, csv lists."""

import collections
import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from p3d_jax.data.builders import lists
from p3d_jax.data.builders.layout import (
  Dataset,
  Entry,
  Layout,
  Tree,
  plainly,
)

# The usual names: train.csv, kinetics_val.csv, kinetics-400_test.csv,
# k700-2020_validate.csv. Lists of other datasets over the same videos, such as
# countix_train.csv, are none of them.
LIST = (
  r"(?:k(?:inetics)?[-_]?(?:[467]00)?(?:[-_]2020)?[-_])?"
  r"(train|val|validate|validation|test)\.csv"
)
SPLITS = {
  "train": "train",
  "val": "validation",
  "validate": "validation",
  "validation": "validation",
  "test": "test",
}
COLUMNS = ("youtube_id", "time_start", "time_end")
# Clips that replace damaged ones lie in a folder whose name begins so.
REPLACEMENT = "replacement"


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of a list.

  Attributes:
    where: FILE:LINE, for messages.
    split: "train", "validation" or "test".
    video: the YouTube id.
    start: of the clip, in seconds of the video.
    end: of the clip, in seconds of the video.
    label: "" where the list for testing has none.
    id: the name of the clip's file, as most copies have it.
  """

  where: str
  split: str
  video: str
  start: int
  end: int
  label: str
  id: str


@dataclasses.dataclass(frozen=True)
class Files:
  """Files by name: ID, or the triple of ID, start and end.

  Attributes:
    given: those that stand for themselves.
    replacing: those in a folder of replacements; by ID whatever their times.
  """

  given: dict[str | tuple[str, int, int], list[str]]
  replacing: dict[str | tuple[str, int, int], list[str]]


@lists.of_tree
def layout(tree: Tree, *, classes: int) -> Layout:
  """Lays a folder of Kinetics against the csv lists below it.

  Clips are known by the name of their file, wherever below the folder and in
  whatever container. Letters of YouTube ids differ in case, so case counts.

  Args:
    tree: the folder.
    classes: how many the release has.
  """
  files = _find_lists(tree)
  read = {split: _read_list(tree, split, files[split]) for split in files}
  rows, notes = _unique(row for of in read.values() for row in of)
  names = _label_names(rows)
  found, told = _match(rows, tree.videos)
  missing = tuple(row.id for row in rows if row.id not in found)
  lists.check_found(tree, found, missing, "ID_START_END.mp4 or ID.mp4")
  label = {name: k for k, name in enumerate(names)}
  row_of = {row.id: row for row in rows}

  def make(_: str, clip: str, path: str) -> list[Entry]:
    row = row_of[clip]
    labels = (label[row.label],) if row.label else ()
    return [Entry(clip, path, labels, source_id=row.video)]

  gathered = lists.gather(
    read, ((row.split, row.id) for row in rows), found, make
  )
  return Layout(
    entries=gathered.entries,
    label_names=names,
    lists=gathered.lists,
    missing=missing,
    extra=lists.extra(tree, gathered.entries),
    notes=(
      *lists.class_notes(tree, len(names), classes),
      *lists.absent_notes(dict.fromkeys(SPLITS.values()), read),
      *notes,
      *gathered.notes,
      *told,
    ),
    files=tuple(files.values()),
  )


def _find_lists(tree: Tree) -> dict[str, str]:
  """Returns the list of each split there is."""
  found: dict[str, str] = {}
  for path, parts in lists.find(tree, LIST).values():
    split = SPLITS[parts[1].lower()]
    first = found.setdefault(split, path)
    if first != path:
      raise ValueError(
        f"{lists.of(tree)}: {first} and {path} are two lists for {split}; "
        "keep one"
      )
  if not found:
    raise ValueError(
      f"{lists.of(tree)}: no train.csv, val.csv, validate.csv or "
      "test.csv in it, also looked for as kinetics_train.csv, "
      "kinetics-400_train.csv, k400_train.csv and the like"
    )
  return {s: found[s] for s in ("train", "validation", "test") if s in found}


def _read_list(tree: Tree, split: str, path: str) -> list[Row]:
  """Reads a csv with a header; its columns may stand in any order."""
  (where, header), *rest = lists.rows(tree, path)
  columns = [cell.strip().lower() for cell in header]
  needed = COLUMNS if split == "test" else ("label", *COLUMNS)
  for name in needed:
    if columns.count(name) != 1:
      raise ValueError(
        f"{where}: the header {','.join(header)!r} must have "
        f"{', '.join(needed)} once each"
      )
  found = []
  for where, cells in rest:
    if len(cells) != len(columns):
      raise ValueError(
        f"{where}: {len(cells)} cells, and the header has {len(columns)}"
      )
    cell = dict(zip(columns, (cell.strip() for cell in cells), strict=True))
    found.append(_row(where, split, cell))
  if not found:
    raise ValueError(f"{where}: there is no row below the header")
  return found


def _row(where: str, split: str, cell: dict[str, str]) -> Row:
  for name in ("time_start", "time_end"):
    # Some copies were written with a fraction, 10.0.
    if not re.fullmatch(r"\d+(\.0*)?", cell[name]):
      raise ValueError(
        f"{where}: {name}={cell[name]!r} must be a whole number of seconds"
      )
  start, end = (int(float(cell[name])) for name in ("time_start", "time_end"))
  if end <= start:
    raise ValueError(f"{where}: time_end={end} must be > time_start={start}")
  if not cell["youtube_id"]:
    raise ValueError(f"{where}: youtube_id is empty")
  label = cell.get("label", "")
  if not label and split != "test":
    raise ValueError(f"{where}: label is empty; only a test list may do so")
  own = cell.get("split", "")
  if own and SPLITS.get(own.lower()) != split:
    raise ValueError(
      f"{where}: split={own!r}, and the name of the file says {split}"
    )
  video = cell["youtube_id"]
  name = f"{video}_{start:06d}_{end:06d}"
  return Row(where, split, video, start, end, label, name)


def _unique(rows: Iterable[Row]) -> tuple[list[Row], list[str]]:
  """Returns the first row of each clip, and notes on the others.

  None of them is an error: nobody mends a list of half a million by hand.
  """
  first: dict[str, Row] = {}
  repeated = 0
  differ: list[tuple[Row, Row]] = []
  for row in rows:
    before = first.setdefault(row.id, row)
    if (before.split, before.label) != (row.split, row.label):
      differ.append((before, row))
    else:
      repeated += before is not row
  notes = []
  if repeated:
    notes.append(
      f"rows that are repeated in a list, and count once: {repeated}"
    )
  if differ:
    before, row = differ[0]
    notes.append(
      "rows left out, as one before has the clip with another label or in "
      f"another list: {len(differ)}, such as {row.id}, {before.label!r} at "
      f"{before.where} and {row.label!r} at {row.where}"
    )
  return list(first.values()), notes


def _label_names(rows: list[Row]) -> tuple[str, ...]:
  """Returns the labels in alphabetical order; training's, if there is any."""
  known = {row.label for row in rows if row.split == "train"}
  for row in rows:
    if known and row.label and row.label not in known:
      raise ValueError(
        f"{row.where}: the list for training has no label {row.label!r}"
      )
  return tuple(sorted({row.label for row in rows} - {""}))


def _match(
  rows: list[Row], videos: Iterable[str]
) -> tuple[dict[str, str], list[str]]:
  """Returns the file of each clip that has one, and what is to be told."""
  clips: dict[str, list[Row]] = collections.defaultdict(list)
  for row in rows:
    clips[row.video].append(row)
  files = _by_name(videos)
  found: dict[str, str] = {}
  further: dict[str, list[str]] = {}
  unclear: dict[str, str] = {}
  for row in rows:
    own = _files_of(row, clips[row.video], files)
    if own:
      found[row.id] = own[0]
    for file in () if own else files.given.get(row.video, ()):
      if len(_in_class(file, clips[row.video])) != 1:
        unclear.setdefault(row.id, file)
    if own[1:]:
      further[row.id] = own[1:]
  plain = sum(
    lists.stem(found[row.id]) == row.video for row in rows if row.id in found
  )
  replaced = sum(map(_replaces, found.values()))
  notes = []
  for what, count, noun in (
    ("named ID alone and taken as cut already", plain, "file"),
    ("taken from a folder of replacements", replaced, "clip"),
  ):
    if count:
      notes.append(f"{what}: {lists.counted(count, noun)}")
  if unclear:
    clip, file = next(iter(unclear.items()))
    notes.append(
      "missing, as a file named ID alone may be any of several clips of its "
      f"video: {lists.counted(len(unclear), 'clip')}, such as {clip}; put "
      f"{file} in a folder of its class or name it ID_START_END"
    )
  return found, notes + lists.further_notes(further)


def _by_name(videos: Iterable[str]) -> Files:
  """Sorts the files by what their names say."""
  files = Files(collections.defaultdict(list), collections.defaultdict(list))
  for video in videos:
    stem = lists.stem(video)
    of = files.replacing if _replaces(video) else files.given
    # An id may itself look as if it ended in times, so both readings stand.
    of[stem].append(video)
    if parts := re.fullmatch(r"(.+)_(\d+)_(\d+)", stem):
      of[parts[1], int(parts[2]), int(parts[3])].append(video)
      if _replaces(video):
        of[parts[1]].append(video)
  return files


def _files_of(row: Row, clips: Sequence[Row], files: Files) -> list[str]:
  """Returns the files of a clip, the best first.

  Args:
    row: the clip.
    clips: all of its video.
    files: all there are.
  """
  clip = (row.video, row.start, row.end)
  # A replacement was cut anew, and may have another start or end.
  anew: Sequence[str] = files.replacing.get(row.video, ())
  plain: Sequence[str] = files.given.get(row.video, ())
  if len(clips) > 1:
    anew = ()
    plain = [f for f in plain if _in_class(f, clips) == [row]]
  cut = (*files.replacing.get(clip, ()), *anew, *files.given.get(clip, ()))
  return list(dict.fromkeys((*cut, *plain)))


def _in_class(file: str, clips: Iterable[Row]) -> list[Row]:
  """Returns the clips whose class has the name of a folder of the file."""
  folders = {plainly(name) for name in PurePosixPath(file).parts[:-1]}
  return [row for row in clips if row.label and plainly(row.label) in folders]


def _replaces(video: str) -> bool:
  folders = f"/{video.lower()}".rpartition("/")[0]
  return f"/{REPLACEMENT}" in folders


def _dataset(classes: int, videos: str, folder: str) -> Dataset:
  return Dataset(
    name=f"kinetics{classes}",
    title=f"Kinetics-{classes}: {videos}, {classes} classes",
    expects=f"""\
DIR/
  annotations/                  or any other place below DIR
    train.csv                   label,youtube_id,time_start,time_end,split
    val.csv                     or validate.csv, kinetics_val.csv,
    test.csv                    kinetics-{classes}_val.csv, {folder}_val.csv
  train/
    air drumming/               or air_drumming, or no folders of classes
      -3B32lodo2M_000059_000069.mp4
  val/ test/ replacement/
A list that is not there is a split that is not made. A clip is known by the
name of its file, ID_START_END with any number of zeros, or ID alone; other
folders, and none, will do, as will any container. Of several clips of one video
an ID alone is the one whose class its folder has; else they count as missing.
Of several files of one clip one in replacement/ is taken, else the first by
path, and the others are counted as extra. Columns may stand in any order; a
test list needs no labels. Labels are the names in alphabetical order. Of
several rows of one clip the first counts, and a note says so.""",
    known_from=(
      "The columns are those of the lists of the dataset's own release; names "
      "of files and folders are those of the public copy of the Common Visual "
      "Data Foundation and of its scripts. The alphabetical order of labels is "
      "assumed: the release has none."
    ),
    lists="train, validation, test",
    layout=functools.partial(layout, classes=classes),
  )


# How many clips the lists name differs from one edition to the next.
DATASETS = (
  _dataset(400, "some 300,000 clips", "k400"),
  _dataset(600, "some 480,000 clips", "k600"),
  _dataset(700, "some 650,000 clips", "k700-2020"),
)
