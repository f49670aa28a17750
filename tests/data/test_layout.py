import inspect
import os
import pathlib
import unicodedata

import pytest
from etils import epath
from lookalikes import write_tree

from p3d_jax.data import decode
from p3d_jax.data.builders import folder, layout, lists
from p3d_jax.data.builders.table import DATASETS


def test_videos_under(tmp_path: pathlib.Path) -> None:
  source = write_tree(
    tmp_path,
    ["b/a, b.MP4", "b/c/d.avi", "a.webm", "._a.mp4", ".cache/x.mp4"],
    {"notes.txt": "", "b/list.csv": "", "b/mp4": ""},
  )
  assert layout.videos_under(source) == ["a.webm", "b/a, b.MP4", "b/c/d.avi"]


# Suffix -> FFmpeg's name of the container; of some, that is the suffix.
CONTAINERS = {
  **{".3g2": "3g2", ".3gp": "3gp", ".asf": "asf", ".avi": "avi"},
  **{".divx": "avi", ".f4v": "mov", ".flv": "flv", ".gif": "gif"},
  **{".m2ts": "mpegts", ".m2v": "mpegvideo", ".m4v": "mov", ".mkv": "matroska"},
  **{".mov": "mov", ".mp4": "mp4", ".mpeg": "mpeg", ".mpg": "mpeg"},
  **{".mts": "mpegts", ".mxf": "mxf", ".ogg": "ogg", ".ogv": "ogg"},
  **{".ts": "mpegts", ".vob": "mpeg", ".webm": "webm", ".wmv": "asf"},
}


def test_suffixes_are_of_containers_that_are_opened() -> None:
  assert set(CONTAINERS) == layout.SUFFIXES
  assert set(CONTAINERS.values()) <= set(decode.CONTAINERS.split(","))


def test_other_files_are_told_by_every_layout(tmp_path: pathlib.Path) -> None:
  names = ["a/1.mp4.part", "a/2.f137.MP4.part-Frag7", "3.webm.crdownload"]
  names += ["a/n.TXT", "b.txt", "c.txt", "a/README", "Dr. Who, the film"]
  names += [".hidden", "x.jpg", "4.tmp", "5.ytdl", "l.csv", "m.csv"]
  source = write_tree(
    tmp_path, ["a/1.mp4", "b/2.MP4"], dict.fromkeys(names, "a/1.mp4,x\n")
  )
  made = folder.DATASET.layout(source, csv="l.csv")
  # The list that was read is not among them, and no dot file.
  assert made.notes[-1] == (
    "files without a suffix of videos, not looked at: 2 .part, 1 .crdownload, "
    "1 .ytdl, 3 .txt, 1 .csv, 1 .jpg, 1 .tmp, 2 without"
  )
  many = layout.Tree(source, (), tuple(f"1.{c}" for c in "abcdefghij"))
  (note,) = lists.other_notes(many, ())
  assert note.endswith(" 1 .g, 1 .h, 2 of other suffixes")
  assert lists.other_notes(many, many.others) == []


@pytest.mark.parametrize("name", DATASETS)
def test_no_dataset_passes_over_other_files(name: str) -> None:
  function = DATASETS[name].layout
  function = getattr(function, "func", function)  # kinetics sets the classes
  # What is wrapped takes a tree, and what wraps it tells of its files.
  assert next(iter(inspect.signature(function).parameters)) == "tree"
  assert function.__code__ is folder.layout.__code__


def test_videos_under_follows_links(tmp_path: pathlib.Path) -> None:
  write_tree(tmp_path / "disk", ["Archery/x.avi"])
  source = write_tree(tmp_path / "data")
  os.symlink(tmp_path / "disk", tmp_path / "data" / "videos")
  os.symlink(tmp_path / "disk" / "Archery", tmp_path / "data" / "again")
  os.symlink(tmp_path / "nowhere", tmp_path / "data" / "lost.mp4")
  # A folder may be seen twice; it is not in itself for that. What leads
  # nowhere is named, to be found broken.
  assert layout.videos_under(source) == [
    "again/x.avi",
    "lost.mp4",
    "videos/Archery/x.avi",
  ]


@pytest.mark.parametrize(
  ("link", "target", "shown"),
  [
    pytest.param("a/b/up", "..", "a/b/up", id="parent"),
    pytest.param("a/b/here", ".", "a/b/here", id="itself"),
    # Up to the folder above the source, and down to it again.
    pytest.param("a/out", "../..", "a/out/data", id="above-the-source"),
    pytest.param("a/c", "../d", "a/c/a", id="two-links"),
  ],
)
def test_a_link_that_leads_back_is_refused(
  link: str, target: str, shown: str, tmp_path: pathlib.Path
) -> None:
  root = tmp_path / "x" / "data"
  source = write_tree(root, ["a/b/1.mp4", "d/2.mp4"])
  os.symlink("../a", root / "d" / "a")
  assert "d/a/b/1.mp4" in layout.videos_under(source)
  os.symlink(target, root / link)
  with pytest.raises(ValueError, match="leads back to a folder") as error:
    layout.read_tree(source)
  assert "\n" not in str(error.value)
  if link != "a/c":  # which of the two is met first is the disk's
    assert shown in str(error.value)


def test_a_store_s_listing_gives_what_a_disk_s_does(
  tmp_path: pathlib.Path,
) -> None:
  source = write_tree(
    tmp_path, ["b/x.MP4", "b/.y.mp4", ".z/y.mp4", "a.avi"], {"b/c/l.txt": ""}
  )
  # No store is here: its code reads a folder.
  assert sorted(layout._walk(source)) == ["a.avi", "b/c/l.txt", "b/x.MP4"]
  assert sorted(layout._scan(source, "", ())) == sorted(layout._walk(source))


def test_no_folder_is_refused(tmp_path: pathlib.Path) -> None:
  with pytest.raises(ValueError, match="source='.*none': must be a folder"):
    layout.videos_under(epath.Path(tmp_path / "none"))


def test_a_name_that_is_not_utf8_is_refused(tmp_path: pathlib.Path) -> None:
  (tmp_path / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"video")
  with pytest.raises(ValueError, match=r"caf\\udce9.mp4' is not UTF-8"):
    layout.videos_under(epath.Path(tmp_path))


def test_match_prefers_the_exact_name() -> None:
  matches = layout.match(["x/A.avi"], ["x/a.avi", "x/A.avi", "x/B.avi"])
  assert matches == layout.Matches(
    {"x/A.avi": "x/A.avi"}, (), 0, {"x/A.avi": ("x/a.avi",)}
  )


def test_match_respells_case_and_unicode() -> None:
  composed = unicodedata.normalize("NFC", "café.avi")
  apart = unicodedata.normalize("NFD", "café.avi")
  assert composed != apart
  matches = layout.match(
    [composed, "HandStand.avi", "c"], [apart, "Handstand.avi"]
  )
  assert matches.found == {composed: apart, "HandStand.avi": "Handstand.avi"}
  assert (matches.missing, matches.respelled) == (("c",), 2)


@pytest.mark.parametrize(
  ("names", "files", "missing"),
  [
    (["A.avi", "a.avi"], ["a.avi"], ("A.avi",)),
    (["a.avi", "A.avi"], ["a.avi"], ("A.avi",)),
    (["a.avi", "A.avi"], ["A.avi", "a.avi"], ()),
    (["AB.avi", "Ab.avi"], ["ab.avi"], ("Ab.avi",)),
    (["AB.avi", "Ab.avi"], ["ab.avi", "aB.avi"], ()),
  ],
  ids=["exact-last", "exact-first", "both", "one-for-two", "two-for-two"],
)
def test_no_file_is_matched_twice(
  names: list[str], files: list[str], missing: tuple[str, ...]
) -> None:
  matches = layout.match(names, files)
  assert matches.missing == missing
  assert len(set(matches.found.values())) == len(names) - len(missing)


def test_match_by_key_takes_a_name_once() -> None:
  matches = layout.match(
    ["x", "x", "y"], ["1/x.mp4", "2/x.mp4"], lambda file: file[2:-4]
  )
  assert matches == layout.Matches(
    {"x": "1/x.mp4"}, ("y",), 0, {"x": ("2/x.mp4",)}
  )


def test_further_files_are_those_that_no_other_name_has() -> None:
  files = ["1/a.mp4", "1/b.mp4", "2/A.mp4", "2/a.mp4", "3/B.mp4", "4/B.mp4"]
  matches = layout.match(["A", "a", "B", "c"], files, lists.stem)
  assert matches.found == {"A": "2/A.mp4", "a": "1/a.mp4", "B": "3/B.mp4"}
  assert matches.further == {
    "a": ("2/a.mp4",),
    "B": ("4/B.mp4", "1/b.mp4"),  # its own spelling goes first
  }
  assert (matches.missing, matches.respelled) == (("c",), 0)


def test_without_a_loose_look_case_is_another_name() -> None:
  files = ["a.mp4", "b.mp4"]
  matches = layout.match(["A", "b"], files, lists.stem, loose=False)
  assert matches == layout.Matches({"b": "b.mp4"}, ("A",))
  matches = layout.match(["a"], files, lambda f: None if f[0] == "a" else f)
  assert matches == layout.Matches({}, ("a",))


def test_rows_as_rfc_4180(tmp_path: pathlib.Path) -> None:
  text = '\ufeffa,"b, c"\r\n\r\n"d\ne","f ""g"""\r\n h , i\x85j\u2028k'
  write_tree(tmp_path, (), {"x.csv": text})
  source = epath.Path(tmp_path)
  # The third row begins on line 3 and goes on on line 4.
  assert lists.rows(layout.read_tree(source), "x.csv") == [
    ("x.csv:1", ["a", "b, c"]),
    ("x.csv:3", ["d\ne", 'f "g"']),
    ("x.csv:5", [" h ", " i\x85j\u2028k"]),
  ]


ROWS = [["a", "b,c"], ["d;e", "f"], ["g", ""]]


@pytest.mark.parametrize("mark", [";", "\t"], ids=["semicolons", "tabs"])
@pytest.mark.parametrize("code", ["utf-8-sig", "utf-16"])
def test_rows_as_spreadsheets_write_them(
  mark: str, code: str, tmp_path: pathlib.Path
) -> None:
  text = f'\r\na{mark}"b,c"\r\n"d;e"{mark}f\r\n{mark}\r\n{mark} \r\ng{mark}\r\n'
  source = write_tree(tmp_path, (), {"x.csv": text.encode(code)})
  read = lists.rows(layout.read_tree(source), "x.csv")
  assert [cells for _, cells in read] == ROWS
  assert [where for where, _ in read] == ["x.csv:2", "x.csv:3", "x.csv:6"]


@pytest.mark.parametrize(
  ("text", "cells"),
  [
    ("a;b,c", ["a;b", "c"]),
    ('"a\nb, c";d\n', ["a\nb, c", "d"]),
    ("a\tb;c\td\n,", ["a", "b;c", "d"]),
    ("a b\n1;2", ["a b"]),
  ],
  ids=["comma", "comma-in-quotes", "most", "later"],
)
def test_what_parts_cells(
  text: str, cells: list[str], tmp_path: pathlib.Path
) -> None:
  source = write_tree(tmp_path, (), {"x.csv": text})
  assert lists.rows(layout.read_tree(source), "x.csv")[0] == ("x.csv:1", cells)


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b'a;b\n"c"d;e\n', "x.csv:2: .*split by semicolons"),
    (b'a,b\n"c"d,e\n', "x.csv:2: .*quotes"),
    (b'a,b\nc,"d\n', "x.csv:2: .*quotes"),
    (b"a,b\nc,\xe9\n", "x.csv:2: must be UTF-8; save it as CSV UTF-8"),
    (b"\xff\xfea\0,\0b", "x.csv:1: must be UTF-8"),
    (b"\n", "x.csv: the list is empty"),
  ],
  ids=["semicolons", "after-quote", "open-quote", "latin-1", "utf-16", "empty"],
)
def test_broken_csv_is_refused(
  data: bytes, message: str, tmp_path: pathlib.Path
) -> None:
  source = write_tree(tmp_path, (), {"x.csv": data})
  with pytest.raises(ValueError, match=message):
    lists.rows(layout.read_tree(source), "x.csv")


def test_more_classes_than_the_dataset_has() -> None:
  tree = layout.Tree(epath.Path("d"), (), ())
  assert lists.class_notes(tree, 101, 101) == []
  assert lists.class_notes(tree, 3, 101) == [
    "classes in the lists: 3; the release has 101"
  ]
  with pytest.raises(ValueError, match="source='d'.*600 classes.*400.*another"):
    lists.class_notes(tree, 600, 400)


@pytest.mark.parametrize("name", DATASETS)
def test_rows_of_datasets_fit_a_terminal(name: str) -> None:
  dataset = DATASETS[name]
  assert dataset.name == name
  for text in (dataset.title, *dataset.expects.split("\n")):
    assert text
    assert len(text) <= 80
  assert "\n" not in dataset.known_from + dataset.lists
