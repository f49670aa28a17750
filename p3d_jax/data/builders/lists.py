"""Finds the lists of a dataset in its folder, reads them, and tells of gaps.

A release unpacks its lists wherever it likes, so they are looked for by name
anywhere below the source. No video is touched here.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from p3d_jax.data.builders.layout import Entry, Tree


def find(tree: Tree, pattern: str) -> dict[str, str]:
  """Finds lists by their name, wherever they are below a folder.

  Args:
    tree: the folder.
    pattern: regular expression of the whole name; case does not matter.

  Returns:
    Name in small letters -> path from the source on, sorted by name.

  Raises:
    ValueError: two files have one name: which of them counts is not known.
  """
  found: dict[str, str] = {}
  wanted = re.compile(pattern, re.IGNORECASE)
  for path in tree.others:
    name = path.rpartition("/")[2]
    if wanted.fullmatch(name):
      first = found.setdefault(name.lower(), path)
      if first != path:
        raise ValueError(
          f"{of(tree)}: {first} and {path} are two lists of one name; keep one"
        )
  return dict(sorted(found.items()))


def named(*names: str) -> str:
  """Returns the pattern for `find` of files with these names."""
  return "|".join(map(re.escape, names))


def take(found: Mapping[str, str], *names: str) -> str:
  """Returns the path of the first of these names that was found, or ""."""
  return next((found[n.lower()] for n in names if n.lower() in found), "")


def need(tree: Tree, found: Mapping[str, str], *names: str) -> str:
  """Returns what `take` does; that there is none is an error that says so."""
  if path := take(found, *names):
    return path
  raise ValueError(
    f"{of(tree)}: no {' or '.join(names)} in it or in a folder of it"
  )


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
  text = io.StringIO(_text(tree, path), newline="")
  reader = csv.reader(text, strict=True)
  line = 1
  while True:
    where = f"{path}:{line}"
    try:
      cells = next(reader)
    except StopIteration:
      return
    except csv.Error as error:
      raise ValueError(
        f"{where}: {error}; cells are split by commas, and one that holds a "
        'comma, a quote or a line break stands in "quotes"'
      ) from None
    line = reader.line_num + 1
    if cells and (len(cells) > 1 or cells[0].strip()):
      yield where, cells


def _text(tree: Tree, path: str, errors: str = "strict") -> str:
  data = (tree.source / path).read_bytes()
  if path.lower().endswith(".gz"):
    try:
      data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
      raise ValueError(f"{path}: cannot be unpacked: {error}") from None
  try:
    return data.decode("utf-8-sig", errors)
  except UnicodeDecodeError as error:
    line = data.count(b"\n", 0, error.start) + 1
    raise ValueError(
      f"{path}:{line}: must be UTF-8; save the list as that"
    ) from None


def stem(path: str) -> str:
  """Returns the name of a file without its folders and its suffix."""
  # There are a million: a pure path for each would take as long again.
  return path.rpartition("/")[2].rpartition(".")[0]


def check_found(
  tree: Tree, found: Collection[str], missing: Sequence[str], form: str = ""
) -> None:
  """Refuses a folder that holds none of the videos of its lists.

  Args:
    tree: the folder.
    found: the videos of the lists that it has.
    missing: those that it lacks.
    form: how a file of them is named, if the lists do not say it.
  """
  if missing and not found:
    told = f"; a video's file is {form}, in any container" if form else ""
    raise ValueError(
      f"{of(tree)}: none of the videos that the lists name is in it, such as "
      f"{missing[0]!r}{told}; videos of the lists: {len(missing)}, of the "
      f"folder: {len(tree.videos)}"
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


def unread_notes(found: Mapping[str, str], files: Collection[str]) -> list[str]:
  """Returns a line on lists that another list goes before, if there are."""
  rest = [path for path in found.values() if path not in files]
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
