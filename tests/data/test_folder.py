import os
import pathlib
import unicodedata

import pytest
from etils import epath
from lookalikes import labels_of, refused, write_tree

from p3d_jax.data.builders.folder import DATASET
from p3d_jax.data.builders.layout import Layout

NFC = unicodedata.normalize("NFC", "café crème")
NFD = unicodedata.normalize("NFD", "café crème")


def test_class_folders(tmp_path: pathlib.Path) -> None:
  files = [
    *(f"jump, high/{k}.mp4" for k in range(10)),
    *("run/a.mp4", "run/day 1/take #2/a.mov", "run/day 1/b.AVI"),
    f"{NFC}/ü.webm",
    "zoom.mp4",
  ]
  source = write_tree(tmp_path, files, {"run/notes.txt": "", "empty/x": ""})
  layout = DATASET.layout(source)
  assert layout.label_names == (NFC, "jump, high", "run")
  assert labels_of(layout) == {
    file: (file.split("/")[0],) for file in files if "/" in file
  }
  assert [e.path for e in layout.entries] == [e.id for e in layout.entries]
  assert (layout.missing, layout.extra) == ((), ("zoom.mp4",))
  # A fifth of ten is two, of three one; a single video is not held out.
  assert _held_out(layout) == {"jump, high": 2, "run": 1}
  assert sorted(layout.lists["train"] + layout.lists["test"]) == sorted(
    files[:-1]
  )


def _held_out(layout: Layout) -> dict[str, int]:
  labels = labels_of(layout)
  held: dict[str, int] = {}
  for video in layout.lists.get("test", ()):
    for label in labels[video]:
      held[label] = held.get(label, 0) + 1
  return held


@pytest.mark.parametrize(
  ("share", "held"),
  [
    (0.0, {}),
    (0.01, {"a": 1, "b": 1}),
    (0.25, {"a": 3, "b": 1}),  # 2.5 of ten, to the nearest, halves up
    (0.5, {"a": 5, "b": 1}),
    (0.99, {"a": 9, "b": 1}),  # a class never gives its last video
  ],
)
def test_shares(
  share: float, held: dict[str, int], tmp_path: pathlib.Path
) -> None:
  files = [f"a/{k}.mp4" for k in range(10)] + ["b/0.mp4", "b/1.mp4", "c/0.mp4"]
  source = write_tree(tmp_path, files)
  layout = DATASET.layout(source, test_share=share)
  assert _held_out(layout) == held
  assert list(layout.lists) == (["train", "test"] if share else ["train"])
  assert len(layout.lists["train"]) == 13 - sum(held.values())


HELD = {"a/2.mp4", "a/à.mp4"}


def test_what_is_held_out_is_a_function_of_the_names(
  tmp_path: pathlib.Path,
) -> None:
  files = [f"a/{name}.mp4" for name in ("0", "1", "2", "3", "à")]
  first = DATASET.layout(write_tree(tmp_path / "x", files), test_share=0.4)
  # What sha256sum says of "a/0.mp4" and so on begins so: 2 with 1d25, à with
  # 2bc3 (with a944 where the accent is apart), 1 with 84b5, 3 with bec5, 0
  # with e9ce.
  assert set(first.lists["test"]) == HELD
  apart = [unicodedata.normalize("NFD", file) for file in files[::-1]]
  second = DATASET.layout(write_tree(tmp_path / "y", apart), test_share=0.4)
  assert {
    unicodedata.normalize("NFC", name) for name in second.lists["test"]
  } == HELD


def test_split_folders(tmp_path: pathlib.Path) -> None:
  files = [
    *("Train/run/a.mp4", f"Train/{NFC}/b/c.mp4", f"val/{NFD}/a.mp4"),
    *("test/run/a.mp4", "test/loose.mp4", "unlabelled/x/a.mp4", "b.mp4"),
  ]
  layout = DATASET.layout(write_tree(tmp_path, files))
  # macOS and others write one class in two ways; it is one.
  assert layout.label_names == (NFC, "run")
  assert layout.lists == {
    "train": (f"Train/{NFC}/b/c.mp4", "Train/run/a.mp4"),
    "validation": (f"val/{NFD}/a.mp4",),
    "test": ("test/run/a.mp4",),
  }
  assert {e.id: e.labels for e in layout.entries} == {
    files[0]: (1,),
    files[1]: (0,),
    files[2]: (0,),
    files[3]: (1,),
  }
  assert layout.extra == ("b.mp4", "test/loose.mp4", "unlabelled/x/a.mp4")
  assert layout.notes == ("folders that are taken as splits: Train, test, val",)


@pytest.mark.parametrize(
  ("files", "labels", "splits"),
  [
    (["train/x/1.mp4", "bus/x/1.mp4"], ("bus", "train"), ["train"]),
    (["train/x/1.mp4", "train/y/1.mp4"], ("x", "y"), ["train"]),
    (["val/x/1.mp4", "val/y/1.mp4"], ("x", "y"), ["validation"]),
    (["train/x/1.mp4", "testing/y/1.mp4"], ("x", "y"), ["train", "test"]),
    (
      ["training/x/1.mp4", "validation/x/1.mp4", "valid/x/1.mp4"],
      ("x",),
      ["train", "validation"],
    ),
  ],
  ids=["class-train", "train-alone", "val-alone", "testing", "two-names"],
)
def test_what_is_a_split(
  files: list[str],
  labels: tuple[str, ...],
  splits: list[str],
  tmp_path: pathlib.Path,
) -> None:
  layout = DATASET.layout(write_tree(tmp_path, files))
  assert layout.label_names == labels
  assert list(layout.lists) == splits
  assert sum(map(len, layout.lists.values())) == len(files)


def test_labels_that_are_numbers(tmp_path: pathlib.Path) -> None:
  files = [f"{k}/{n}.mp4" for k in range(12) for n in "ab"]
  layout = DATASET.layout(write_tree(tmp_path, files))
  assert layout.label_names == tuple(str(k) for k in range(12))
  for entry in layout.entries:
    assert entry.labels == (int(entry.path.split("/")[0]),)


def test_labels_that_are_alike_are_told(tmp_path: pathlib.Path) -> None:
  files = ["Run/a.mp4", "run/b.mp4", "jump up/a.mp4", "jump  up/b.mp4"]
  layout = DATASET.layout(write_tree(tmp_path, files))
  assert len(layout.label_names) == 4
  assert layout.notes == (
    "the labels 'Run', 'run' differ in case or blanks alone",
    "the labels 'jump  up', 'jump up' differ in case or blanks alone",
  )


def test_one_class_and_untrained_classes_are_told(
  tmp_path: pathlib.Path,
) -> None:
  deep = ["videos/a/1.mp4", "videos/2.mp4"]
  one = DATASET.layout(write_tree(tmp_path / "1", deep))
  assert one.notes == ("there is but one class, 'videos'",)
  files = ["train/a/1.mp4", "val/a/1.mp4", "val/b/1.mp4"]
  two = DATASET.layout(write_tree(tmp_path / "2", files))
  assert two.notes[1] == "classes without a video for training: 'b'"


# Names with what people and systems put into them.
ODD = ['a, b "c".mp4', "line\nbreak.mp4", " blank .mp4", "d/ünï/漢字 🎬.mp4"]
CSV = (
  'path,label\n"a, b ""c"".mp4","say ""hi"", twice"\n'
  '"line\nbreak.mp4",run\n blank .mp4,run\n'
  f"./d//ünï/漢字 🎬.mp4,{NFC}\n"
  "d/ünï/漢字 🎬.mp4,run\n"
)


@pytest.mark.parametrize("header", [True, False], ids=["header", "no-header"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_csv(header: bool, end: str, tmp_path: pathlib.Path) -> None:
  text = CSV if header else CSV.partition("\n")[2]
  text = text.replace(",run\n", f",run{end}").replace("label\n", f"label{end}")
  source = write_tree(tmp_path, [*ODD, "e.mp4"], {"my list.csv": text})
  layout = DATASET.layout(source, csv="my list.csv", test_share=0.0)
  say = 'say "hi", twice'
  assert layout.label_names == (NFC, "run", say)
  assert labels_of(layout) == {
    ODD[0]: (say,),
    ODD[1]: ("run",),
    ODD[2]: ("run",),
    ODD[3]: (NFC, "run"),  # two rows, two labels
  }
  assert [e.path for e in layout.entries] == ODD
  assert (layout.missing, layout.extra) == ((), ("e.mp4",))
  assert layout.lists == {"train": tuple(ODD)}
  assert layout.files == ("my list.csv",)
  assert layout.notes == ()


def test_csv_with_splits(tmp_path: pathlib.Path) -> None:
  text = (
    "\ufeffSplit,who,Label,Path\nTrain,me,run,a.mp4\nval,me,run,b.mp4\n"
    "test,you,jump,c.mp4\ntrain,you,jump,a.mp4\n"
  )
  source = write_tree(
    tmp_path, ["a.mp4", "b.mp4", "c.mp4"], {"x/list.csv": text}
  )
  layout = DATASET.layout(source, csv="x/list.csv")
  assert layout.lists == {
    "train": ("a.mp4",),
    "validation": ("b.mp4",),
    "test": ("c.mp4",),
  }
  assert labels_of(layout)["a.mp4"] == ("jump", "run")
  assert layout.notes == ("columns that are not used: 'who'",)


def test_csv_elsewhere(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  source = write_tree(tmp_path / "videos", ["a.mp4", "x/b.mp4"])
  write_tree(tmp_path / "lists", (), {"l.csv": "a.mp4,run\nx/b.mp4,run\n"})
  monkeypatch.chdir(tmp_path)
  path = str(tmp_path / "lists" / "l.csv")
  for given in (path, os.path.join("lists", "l.csv")):
    layout = DATASET.layout(source, csv=given)
    assert [e.path for e in layout.entries] == ["a.mp4", "x/b.mp4"]
    assert layout.files == (path,)
  assert "csv='none.csv': must be a file, as it is given or from" in refused(
    DATASET, source, csv="none.csv"
  )


def test_csv_missing_extra_and_spelling(tmp_path: pathlib.Path) -> None:
  files = ["A.MP4", f"{NFD}.mp4", "c.mp4", "d.mp4"]
  text = f"a.mp4,run\n{NFC}.mp4,run\ngone.mp4,run\ngone.mp4,jump\nd.mp4,jump\n"
  source = write_tree(tmp_path, files, {"l.csv": text})
  layout = DATASET.layout(source, csv="l.csv")
  assert layout.missing == ("gone.mp4",)
  assert layout.extra == ("c.mp4",)
  assert [e.id for e in layout.entries] == ["A.MP4", f"{NFD}.mp4", "d.mp4"]
  assert layout.notes[0].endswith("letters are composed: 2 videos")


def test_a_csv_holds_out_a_video_for_every_label(
  tmp_path: pathlib.Path,
) -> None:
  # "rare" is second in every row that has it; ten videos of "all" besides.
  rows = [f"{k}.mp4,all\n" for k in range(10)]
  rows += ["0.mp4,rare\n", "1.mp4,rare\n", "2.mp4,once\n", "1.mp4,twice\n"]
  source = write_tree(
    tmp_path, [f"{k}.mp4" for k in range(10)], {"l.csv": "".join(rows)}
  )
  layout = DATASET.layout(source, csv="l.csv", test_share=0.3)
  # 1.mp4 is all there is of "twice", so 0.mp4 stands for "rare".
  assert "0.mp4" in layout.lists["test"]
  assert _held_out(layout) == {"all": 3, "rare": 1}


BROKEN = {
  "absolute": ("a.mp4,x\n/etc/a.mp4,x\n", "l.csv:2: path='/etc/a.mp4' must go"),
  "drive": ("C:\\v\\a.mp4,x\n", r"l.csv:1: path='C:\\v\\a.mp4' must go from"),
  "share": ("\\\\host\\a.mp4,x\n", "l.csv:1: path="),
  "out": ("x/../../a.mp4,x\n", "l.csv:1: path='x/../../a.mp4' must not lead"),
  "out-windows": ("..\\a.mp4,x\n", "must not lead out by '..'"),
  "other-header": (
    "file,class\na.mp4,x\n",
    "l.csv:1: path='file' must end like a video, such as .mp4; a header must "
    "name path and label",
  ),
  "one-cell": ("a.mp4\n", "l.csv:1: 1 cell; each row must have 2"),
  "blanks-for-commas": ("a.mp4 0\nb.mp4 1\n", "l.csv:1: 1 cell; "),
  "ragged": ("a.mp4,x\nb, c.mp4,x\n", "l.csv:2: 3 cells; each row must have 2"),
  "four-cells": (
    "a.mp4,x,train,9\n",
    "l.csv:1: 4 cells; a csv without the header path,label[,split] has two or",
  ),
  "no-label": ("a.mp4,x\nb.mp4, \n", "l.csv:2: the label of 'b.mp4' is empty"),
  "split": (
    "path,label,split\na.mp4,x,trian\n",
    "l.csv:2: split='trian' must be one of train, training, val,",
  ),
  "no-split": ("a.mp4,x,train\nb.mp4,x,\n", "l.csv:2: split='' must be one"),
  "two-splits": (
    "a.mp4,x,train\nb.mp4,x,test\na.mp4,y,test\n",
    "l.csv:3: 'a.mp4' is in test, and in train at l.csv:1",
  ),
  "column-twice": ("path,label,label\n", "l.csv:1: the column 'label' stands"),
  "header-alone": ("path,label\n", "l.csv: no row below the header"),
  "empty": ("", "l.csv: the list is empty"),
  "quoting": ('a.mp4,x\n"b"b.mp4,x\n', "l.csv:2: "),
  "latin-1": (
    "a.mp4,café\n".encode("latin-1"),
    "l.csv:1: must be UTF-8; save it as CSV UTF-8",
  ),
  "none-there": (
    '"q\nr.mp4",x\n',
    r"none of the videos that the lists name is in it, such as 'q\nr.mp4'",
  ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_csv_is_refused(case: str, tmp_path: pathlib.Path) -> None:
  text, message = BROKEN[case]
  source = write_tree(tmp_path, ["a.mp4", "b.mp4"], {"l.csv": text})
  assert message in refused(DATASET, source, csv="l.csv")


def test_csv_as_spreadsheets_write_it(tmp_path: pathlib.Path) -> None:
  # Semicolons, a byte order mark, columns and rows without anything in them.
  text = "\ufeffpath;label;;\r\nx, y.mp4;run, fast;;\r\n;;;\r\nb.mp4;jump;;\r\n"
  source = write_tree(tmp_path, ["x, y.mp4", "b.mp4"], {"l.csv": text})
  layout = DATASET.layout(source, csv="l.csv")
  assert labels_of(layout) == {
    "x, y.mp4": ("run, fast",),
    "b.mp4": ("jump",),
  }
  assert layout.notes == ()
  (tmp_path / "l.csv").write_bytes(text[1:].replace(";", "\t").encode("utf-16"))
  assert DATASET.layout(source, csv="l.csv") == layout


def test_blanks_around_cells(tmp_path: pathlib.Path) -> None:
  text = "path, label\n a.mp4 , run\n b.mp4,run \nb.mp4,jump\n C.mp4,jump\n"
  files = ["a.mp4", " b.mp4", "b.mp4", "c.mp4"]
  source = write_tree(tmp_path, files, {"l.csv": text})
  layout = DATASET.layout(source, csv="l.csv")
  # A file whose own name begins with a blank goes before one without.
  assert labels_of(layout) == {
    "a.mp4": ("run",),
    " b.mp4": ("run",),
    "b.mp4": ("jump",),
    "c.mp4": ("jump",),
  }
  assert (layout.missing, layout.extra) == ((), ())


def test_absolute_paths_into_the_source(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  source = write_tree(tmp_path / "own", ["run/a.mp4", "own/run/a.mp4", "b.mp4"])
  (tmp_path / "link").symlink_to(tmp_path / "own")
  text = f"{source}/run/a.mp4,x\n{tmp_path}/link/b.mp4,y\nown/run/a.mp4,z\n"
  write_tree(tmp_path / "own", (), {"l.csv": text})
  monkeypatch.chdir(tmp_path)
  # By the name it is given, and by what that leads to.
  layout = DATASET.layout(epath.Path("link"), csv="l.csv")
  assert labels_of(layout) == {
    "run/a.mp4": ("x",),
    "b.mp4": ("y",),
    "own/run/a.mp4": ("z",),
  }
  message = refused(DATASET, source, csv="l.csv")
  assert "l.csv:2: path=" in message
  assert message.endswith("not from another root; did you mean 'b.mp4'?")


@pytest.mark.parametrize(
  ("path", "ending"),
  [
    ("own/running/x y.mp4", "; did you mean 'running/x y.mp4'?"),
    ("running\\x y.mp4", "; did you mean 'running/x y.mp4'?"),
    (".\\own\\Running\\X y.mp4", "; did you mean 'running/x y.mp4'?"),
    ("D:\\v\\running\\x y.mp4", "; did you mean 'running/x y.mp4'?"),
    ("walking/x y.mp4", "'walking/x y.mp4'"),
  ],
  ids=["own-name", "backslash", "both", "drive", "another"],
)
def test_what_a_path_may_mean(
  path: str, ending: str, tmp_path: pathlib.Path
) -> None:
  source = write_tree(
    tmp_path / "own", ["running/x y.mp4"], {"l.csv": f"{path},run\n"}
  )
  message = refused(DATASET, source, csv="l.csv")
  assert ending in message
  assert ("did you mean" in message) == (path != "walking/x y.mp4")


@pytest.mark.parametrize(
  ("files", "below"),
  [
    (["my videos/run/1.mp4", "my videos/jump/1.mp4"], "my videos"),
    (["v/run/1.mp4", "loose.mp4"], "v"),
    (["a/b/run/1.mp4", "a/b/jump/x/1.mp4"], "a/b"),
    (["a/b/run/x/1.mp4", "a/b/run/x/2.mp4"], "a/b/run"),
    (["a/train/run/1.mp4", "a/val/run/1.mp4"], "a"),
  ],
  ids=["classes", "one-class", "two-levels", "one-deep-class", "splits"],
)
def test_a_level_too_high(
  files: list[str], below: str, tmp_path: pathlib.Path
) -> None:
  source = write_tree(tmp_path, files)
  message = refused(DATASET, source)
  assert f"its one folder of videos, {below.split('/')[0]!r}, " in message
  assert message.endswith(f"give --source '{source}/{below}', or a csv")
  DATASET.layout(source / below)


def test_a_row_said_twice_is_told(tmp_path: pathlib.Path) -> None:
  source = write_tree(
    tmp_path, ["a.mp4", "b.mp4"], {"l.csv": "a.mp4,x\nb.mp4,y\na.mp4,x\n"}
  )
  layout = DATASET.layout(source, csv="l.csv")
  assert [e.labels for e in layout.entries] == [(0,), (1,)]
  assert layout.notes[0] == "rows that say again what another has said: 1"


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_out_of_range(share: float, tmp_path: pathlib.Path) -> None:
  source = write_tree(tmp_path, ["a/a.mp4"])
  message = refused(DATASET, source, test_share=share)
  assert message == f"test_share={share}: must be >= 0 and < 1"


def test_no_class_folders(tmp_path: pathlib.Path) -> None:
  source = write_tree(tmp_path / "1", ["a.mp4", "b.mp4"])
  message = refused(DATASET, source)
  assert "none of its 2 videos is in a folder of a class" in message
  source = write_tree(tmp_path / "2", ["train/a.mp4", "test/b.mp4"])
  message = refused(DATASET, source)
  assert "CLASS/VIDEO in its train, validation and test folders" in message


def test_no_videos(tmp_path: pathlib.Path) -> None:
  message = refused(DATASET, write_tree(tmp_path, [], {"run/a.txt": ""}))
  assert message.endswith("there is no video in it")
