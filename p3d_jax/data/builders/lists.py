"""Finds the lists of a dataset in its folder, reads them, and tells of gaps.

A release unpacks its lists wherever it likes, so they are looked for by name
anywhere below the source. No video is touched here.
"""

from __future__ import annotations

import codecs
import collections
import csv
import dataclasses
import functools
import gzip
import io
import os
import re
import zlib
from collections.abc import (
  Callable,
  Collection,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Concatenate, NamedTuple, ParamSpec

from etils import epath

from p3d_jax.data.builders.layout import (
  UNFINISHED,
  Entry,
  Layout,
  Matches,
  Tree,
  match,
  read_tree,
)

# Kinds of files that a note names; there may be as many as there are files.
KINDS = 8
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# As yt-dlp names a video, TITLE [ID], and youtube-dl, TITLE-ID.
_TITLED = re.compile(
  r".*\[([0-9A-Za-z_-]{11})\]|.*-([0-9A-Za-z_-]{11})", re.DOTALL
)

_P = ParamSpec("_P")


class Found(NamedTuple):
  """A list, and how its name is made."""

  path: str
  match: re.Match[str]


@dataclasses.dataclass(frozen=True)
class Gathered:
  """The records of what lists name.

  Attributes:
    entries: in the order of the lists.
    lists: list -> ids of its records.
    notes: on what is missing of each.
  """

  entries: tuple[Entry, ...]
  lists: Mapping[str, tuple[str, ...]]
  notes: list[str]


def of_tree(
  lay: Callable[Concatenate[Tree, _P], Layout],
) -> Callable[Concatenate[epath.Path, _P], Layout]:
  """Reads the tree for a layout, and notes the files that it does not know."""

  @functools.wraps(lay)
  def layout(source: epath.Path, *args: _P.args, **kwargs: _P.kwargs) -> Layout:
    tree = read_tree(source)
    made = lay(tree, *args, **kwargs)
    notes = (*made.notes, *other_notes(tree, made.files))
    return dataclasses.replace(made, notes=notes)

  return layout


def other_notes(tree: Tree, files: Collection[str]) -> list[str]:
  """Returns a line on the files that are no videos and no lists, if any are."""
  kinds: collections.Counter[str] = collections.Counter()
  read = set(files)
  for path in tree.others:
    if path not in read:
      name = path.rpartition("/")[2].lower()
      # x.mp4.part-Frag7 is a piece of x.mp4.part.
      suffix = re.search(r"(\.[0-9a-z]{1,12})(-frag\d+)?$", name)
      kinds[suffix[1] if suffix else "without"] += 1
  if not kinds:
    return []
  first = [kind for kind in UNFINISHED if kind in kinds]
  rest = sorted(
    kinds.keys() - {*first, "without"}, key=lambda kind: (-kinds[kind], kind)
  )
  shown = (first + rest)[:KINDS]
  parts = [f"{kinds[kind]} {kind}" for kind in shown]
  if others := (first + rest)[KINDS:]:
    parts.append(f"{sum(kinds[kind] for kind in others)} of other suffixes")
  if "without" in kinds:
    parts.append(f"{kinds['without']} without")
  return [
    "files without a suffix of videos, not looked at: " + ", ".join(parts)
  ]


def find(tree: Tree, pattern: str) -> dict[str, Found]:
  """Finds lists by their name, wherever they are below a folder.

  Args:
    tree: the folder.
    pattern: regular expression of the whole name; case does not matter.

  Returns:
    Name in small letters -> path from the source on, and the match of the
    name, sorted by name.

  Raises:
    ValueError: two files have one name: which of them counts is not known.
  """
  found: dict[str, Found] = {}
  wanted = re.compile(pattern, re.IGNORECASE)
  for path in tree.others:
    name = path.rpartition("/")[2]
    if parts := wanted.fullmatch(name):
      first = found.setdefault(name.lower(), Found(path, parts)).path
      if first != path:
        raise ValueError(
          f"{of(tree)}: {first} and {path} are two lists of one name; keep one"
        )
  return dict(sorted(found.items()))


def named(*names: str) -> str:
  """Returns the pattern for `find` of files with these names."""
  return "|".join(map(re.escape, names))


def take(found: Mapping[str, Found], *names: str) -> str:
  """Returns the path of the first of these names that was found, or ""."""
  return next((found[n.lower()].path for n in names if n.lower() in found), "")


def need(tree: Tree, found: Mapping[str, Found], *names: str) -> str:
  """Returns what `take` does; that there is none is an error that says so."""
  if path := take(found, *names):
    return path
  raise ValueError(
    f"{of(tree)}: no {' or '.join(names)} in it or in a folder of it"
  )


def beside(tree: Tree, pattern: str) -> str:
  """Returns advice if lists of this name lie beside the source, not in it.

  Args:
    tree: the folder.
    pattern: of the name, as shells have them.
  """
  source = tree.source
  if "://" not in os.fspath(source):
    source = epath.Path(os.path.abspath(source))
  if not any(source.parent.glob(f"*/{pattern}")):
    return ""
  return f"; or give the folder above, --source {os.fspath(source.parent)!r}"


def of(tree: Tree) -> str:
  """Returns how a message begins that is about the source."""
  return f"source={os.fspath(tree.source)!r}"


def lines(
  tree: Tree, path: str, *, errors: str = "strict"
) -> Iterator[tuple[int, str]]:
  """Yields the lines of a list that are not blank, numbered from 1.

  Args:
    tree: the folder.
    path: of the list, from the source on; with the suffix .gz it is unpacked.
    errors: what to do with bytes that are not UTF-8, as in `bytes.decode`.

  Raises:
    ValueError: the list cannot be unpacked, is not UTF-8, or has no line.
  """
  empty = True
  # Not splitlines: it also ends a line at marks that titles of videos hold.
  for number, line in enumerate(_text(tree, path, errors).split("\n"), 1):
    if line.strip():
      empty = False
      yield number, line.rstrip("\r")
  if empty:
    raise ValueError(f"{path}: the list is empty")


def rows(tree: Tree, path: str) -> list[tuple[str, list[str]]]:
  """Reads the rows of a csv, quoted as RFC 4180 says.

  Semicolons or tabs part the cells if the first line has them and no comma, as
  spreadsheets write in countries with decimal commas.

  Args:
    tree: the folder.
    path: of the csv, from the source on, or elsewhere from the root on.

  Returns:
    (where, cells) pairs without the rows that are blank; where is
    "FILE:LINE", the line that the row begins on.

  Raises:
    ValueError: it is not UTF-8, the quoting is broken, or it has no row.
  """
  found = list(_rows(tree, path))
  if not found:
    raise ValueError(f"{path}: the list is empty")
  return found


def _rows(tree: Tree, path: str) -> Iterator[tuple[str, list[str]]]:
  whole = _text(tree, path)
  separator = _separator(whole)
  text = io.StringIO(whole, newline="")
  reader = csv.reader(text, strict=True, delimiter=separator)
  line = 1
  while True:
    where = f"{path}:{line}"
    try:
      cells = next(reader)
    except StopIteration:
      return
    except csv.Error as error:
      raise ValueError(
        f"{where}: {error}; cells are split by {SEPARATORS[separator]}, and "
        'one that holds such a sign, a quote or a line break stands in "quotes"'
      ) from None
    line = reader.line_num + 1
    if any(cell.strip() for cell in cells):
      yield where, cells


def _separator(text: str) -> str:
  """Returns what parts the cells of a csv, by its first line."""
  line = re.match(r'(?:[ \t]*\r?\n)*((?:"[^"]*"|[^"\r\n])*)', text)
  bare = re.sub('"[^"]*"', "", line[1]) if line else ""
  if "," in bare or not re.search("[;\t]", bare):
    return ","
  return max(";\t", key=bare.count)


def _text(tree: Tree, path: str, errors: str = "strict") -> str:
  data = (tree.source / path).read_bytes()
  if path.lower().endswith(".gz"):
    try:
      data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
      raise ValueError(f"{path}: cannot be unpacked: {error}") from None
  # The marks that a text begins with which is UTF-16.
  wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
  try:
    return data.decode("utf-16" if wide else "utf-8-sig", errors)
  except UnicodeDecodeError as error:
    line = data.count(b"\n", 0, error.start) + 1
    kind = "CSV UTF-8" if path.lower().endswith(".csv") else "that"
    raise ValueError(
      f"{path}:{line}: must be UTF-8; save it as {kind}"
    ) from None


def stem(path: str) -> str:
  """Returns the name of a file without its folders and its suffix."""
  # There are a million: a pure path for each would take as long again.
  return path.rpartition("/")[2].rpartition(".")[0]


def match_ids(
  ids: Collection[str],
  files: Sequence[str],
  key: Callable[[str], str] = stem,
) -> tuple[Matches, list[str]]:
  """Finds the file of each video of YouTube, by its id.

  A video that has no file of its own name may have one that a program for
  downloads named by title and id. Videos of several titles with one id are
  none's: what ends in 11 letters need not be an id.

  Args:
    ids: of the lists; their case matters.
    files: paths from the source on, sorted.
    key: maps a file to the id that it is named by.

  Returns:
    The matches, in the order of the ids, and notes.
  """
  known = set(ids)
  exact = match(ids, files, key, loose=False)
  left = set(exact.missing)
  titled: dict[str, list[str]] = {}
  for file in files:
    parts = _TITLED.fullmatch(stem(file)) if key(file) not in known else None
    if parts and (video := parts[1] or parts[2]) in left:
      titled.setdefault(video, []).append(file)
  clear = {v: of for v, of in titled.items() if len(set(map(stem, of))) == 1}
  found = {**exact.found, **{video: of[0] for video, of in clear.items()}}
  several = {video: of[1:] for video, of in clear.items() if len(of) > 1}
  matches = Matches(
    found={video: found[video] for video in ids if video in found},
    missing=tuple(video for video in exact.missing if video not in found),
    further={**exact.further, **{v: tuple(of) for v, of in several.items()}},
  )
  return matches, _titled_notes(titled, clear)


def _titled_notes(
  titled: Mapping[str, Sequence[str]], clear: Mapping[str, Sequence[str]]
) -> list[str]:
  notes = []
  if clear:
    notes.append(
      "taken by the id that ends its name, as in 'TITLE [ID]' or 'TITLE-ID': "
      + counted(len(clear), "file")
    )
  unclear = [of for video, of in titled.items() if video not in clear]
  if unclear:
    notes.append(
      "extra because several titles end in one id: "
      f"{counted(sum(map(len, unclear)), 'file')}, such as {unclear[0][0]} and "
      f"{next(f for f in unclear[0] if stem(f) != stem(unclear[0][0]))}"
    )
  return notes


def gather(
  lists: Iterable[str],
  listed: Iterable[tuple[str, str]],
  found: Mapping[str, str],
  make: Callable[[str, str, str], Sequence[Entry]],
) -> Gathered:
  """Makes the records of the videos that are there, and counts the others.

  Args:
    lists: the names of the lists.
    listed: (list, video) in the order of the records.
    found: video -> path of its file.
    make: makes the records of a (list, video, path).
  """
  entries: list[Entry] = []
  ids: dict[str, list[str]] = {name: [] for name in lists}
  missing = dict.fromkeys(ids, 0)
  for name, video in listed:
    if video not in found:
      missing[name] += 1
      continue
    made = make(name, video, found[video])
    entries += made
    ids[name] += [entry.id for entry in made]
  return Gathered(
    tuple(entries),
    {name: tuple(of) for name, of in ids.items()},
    missing_notes(missing, ids),
  )


def check_found(
  tree: Tree,
  found: Collection[str],
  missing: Sequence[str],
  form: str = "",
  hint: str = "",
) -> None:
  """Refuses a folder that holds none of the videos of its lists.

  Args:
    tree: the folder.
    found: the videos of the lists that it has.
    missing: those that it lacks.
    form: how a file of them is named, if the lists do not say it.
    hint: what may be meant by the first that is missing.
  """
  if missing and not found:
    told = f"; a video's file is {form}, in any container" if form else ""
    raise ValueError(
      f"{of(tree)}: none of the videos that the lists name is in it, such as "
      f"{missing[0]!r}{told}; videos of the lists: {len(missing)}, of the "
      f"folder: {len(tree.videos)}{hint}"
    )


def extra(tree: Tree, entries: Iterable[Entry]) -> tuple[str, ...]:
  """Returns the videos that no record is made of."""
  used = {entry.path for entry in entries}
  return tuple(video for video in tree.videos if video not in used)


def counted(count: int, noun: str, nouns: str = "") -> str:
  """Returns "1 video" or "2 videos"."""
  return f"{count:d} {noun if count == 1 else nouns or noun + 's'}"


def further_notes(further: Mapping[str, Sequence[str]]) -> list[str]:
  """Returns a line on videos that have several files, if there are any."""
  if not further:
    return []
  name, paths = next(iter(further.items()))
  count = counted(sum(map(len, further.values())), "file")
  return [
    f"extra because their video is taken from another file: {count}, such as "
    f"{paths[0]} of {name}"
  ]


def respelled_notes(count: int) -> list[str]:
  """Returns a line on names that the disk spells otherwise, if any are."""
  if not count:
    return []
  return [
    "spelled otherwise on disk, in case or in how letters are composed: "
    + counted(count, "video")
  ]


def missing_notes(
  missing: Mapping[str, int], there: Mapping[str, Collection[str]]
) -> list[str]:
  """Returns a line on what is missing of each list, if anything is.

  Args:
    missing: list -> how many of its videos are.
    there: list -> those that are there.
  """
  parts = [
    f"{count} of {name}" + ("" if there[name] else " (all of it)")
    for name, count in missing.items()
    if count
  ]
  return [f"missing: {', '.join(parts)}"] if parts else []


def unread_notes(
  found: Mapping[str, Found], files: Collection[str]
) -> list[str]:
  """Returns a line on lists that another list goes before, if there are."""
  rest = [of.path for of in found.values() if of.path not in files]
  return [f"not read, as another list says it: {', '.join(rest)}"] * bool(rest)


def class_notes(tree: Tree, found: int, official: int) -> list[str]:
  """Returns a line if there are fewer classes than the release has.

  Raises:
    ValueError: there are more: these are lists of another dataset.
  """
  if found > official:
    raise ValueError(
      f"{of(tree)}: the lists have {found} classes, and the dataset has "
      f"{official}; these are lists of another one"
    )
  if found < official:
    return [f"classes in the lists: {found}; the release has {official}"]
  return []


def absent_notes(official: Iterable[str], found: Iterable[str]) -> list[str]:
  """Returns a line on the splits of the release that have no list here."""
  if rest := [split for split in official if split not in set(found)]:
    return [f"no list for {', '.join(rest)}"]
  return []
