import pathlib
from typing import Any

import pytest
from etils import epath
from lookalikes import labels_of, refused, write_tree

from p3d_jax.data.builders.ucf101 import DATASET

# The class numbers of the release go by the alphabet, and so do these.
CLASSES = "1 Archery\n2 BoxingSpeedBag\n3 HandstandPushups\n"
VIDEOS = {
  "Archery": ["v_Archery_g01_c01", "v_Archery_g08_c01", "v_Archery_g08_c02"],
  "BoxingSpeedBag": ["v_BoxingSpeedBag_g01_c01", "v_BoxingSpeedBag_g25_c07"],
  # As in the release: the folder has a small s, the videos a capital one.
  "HandstandPushups": [
    "v_HandStandPushups_g01_c01",
    "v_HandStandPushups_g09_c01",
  ],
}
FILES = [f"UCF-101/{c}/{v}.avi" for c, of in VIDEOS.items() for v in of]
TRAIN1 = (
  "Archery/v_Archery_g08_c01.avi 1\r\nArchery/v_Archery_g08_c02.avi 1\r\n"
  "BoxingSpeedBag/v_BoxingSpeedBag_g25_c07.avi 2\r\n"
  "HandstandPushups/v_HandStandPushups_g09_c01.avi 3\r\n"
)
TEST1 = (
  "Archery/v_Archery_g01_c01.avi\n"
  "BoxingSpeedBag/v_BoxingSpeedBag_g01_c01.avi\n"
  "HandstandPushups/v_HandStandPushups_g01_c01.avi\n"
)
TRAIN2 = (
  "Archery/v_Archery_g01_c01.avi 1\n"
  "BoxingSpeedBag/v_BoxingSpeedBag_g01_c01.avi 2\n"
)
TEST2 = (
  "Archery/v_Archery_g08_c01.avi\n"
  "HandstandPushups/v_HandStandPushups_g09_c01.avi\n"
)
L = "ucfTrainTestlist/"
LISTS: dict[str, Any] = {
  L + "classInd.txt": CLASSES,
  L + "trainlist01.txt": TRAIN1,
  L + "testlist01.txt": TEST1,
  L + "trainlist02.txt": TRAIN2,
  L + "testlist02.txt": TEST2,
  L + "trainlist03.txt": TRAIN2,
  L + "testlist03.txt": TEST2,
}


def test_the_release(tmp_path: pathlib.Path) -> None:
  source = write_tree(tmp_path, FILES, LISTS)
  layout = DATASET.layout(source)
  assert layout.label_names == (
    "Archery",
    "BoxingSpeedBag",
    "HandstandPushups",
  )
  assert {e.id: e.labels for e in layout.entries} == {
    video: (k,) for k, of in enumerate(VIDEOS.values()) for video in of
  }
  assert sorted(e.path for e in layout.entries) == sorted(FILES)
  assert list(layout.lists) == [
    *("train1", "test1", "train2", "test2", "train3", "test3")
  ]
  assert layout.lists["train1"] == (
    *("v_Archery_g08_c01", "v_Archery_g08_c02"),
    *("v_BoxingSpeedBag_g25_c07", "v_HandStandPushups_g09_c01"),
  )
  assert layout.lists["test2"] == (
    *("v_Archery_g08_c01", "v_HandStandPushups_g09_c01"),
  )
  assert (layout.missing, layout.extra) == ((), ())
  # Clips of one group are cut from the same footage.
  groups = {e.id: e.source_id for e in layout.entries}
  assert groups["v_Archery_g08_c01"] == "v_Archery_g08"
  assert groups["v_Archery_g08_c02"] == "v_Archery_g08"
  assert groups["v_BoxingSpeedBag_g25_c07"] == "v_BoxingSpeedBag_g25"
  assert set(layout.files) == set(LISTS)
  assert layout.notes == ("classes in the lists: 3; the release has 101",)


FLAT = [file.rpartition("/")[2] for file in FILES]


@pytest.mark.parametrize(
  ("files", "folder"),
  [
    ([f"UCF101/{f}" for f in FILES], "UCF101/UCF-101/"),
    ([f.replace("UCF-101", "ucf101/videos") for f in FILES], "splits/x/"),
    ([f"all/{f}" for f in FLAT], ""),
    ([f.replace(".avi", ".mp4") for f in FILES], L),
  ],
  ids=["lists-inside", "lists-deep", "no-class-folders", "mp4"],
)
def test_other_forms(
  files: list[str], folder: str, tmp_path: pathlib.Path
) -> None:
  lists = {name.replace(L, folder): text for name, text in LISTS.items()}
  layout = DATASET.layout(write_tree(tmp_path, files, lists))
  assert sorted(e.path for e in layout.entries) == sorted(files)
  assert (layout.missing, layout.extra) == ((), ())
  assert [len(of) for of in layout.lists.values()] == [4, 3, 2, 2, 2, 2]
  assert len(layout.notes) == 1


@pytest.mark.parametrize("where", ["classes", "lists", "folders", "files"])
def test_handstand_is_met(where: str, tmp_path: pathlib.Path) -> None:
  def respell(text: str) -> str:
    return text.replace("HandstandPushups", "HandStandPushups")

  files, lists = list(FILES), dict(LISTS)
  if where == "classes":
    lists[L + "classInd.txt"] = respell(CLASSES)
  elif where == "lists":
    lists[L + "trainlist01.txt"] = respell(TRAIN1)
  elif where == "folders":
    files = [respell(file) for file in FILES]
  else:
    files = [f.replace("v_HandStand", "v_Handstand") for f in FILES]
  layout = DATASET.layout(write_tree(tmp_path, files, lists))
  assert (layout.missing, layout.extra) == ((), ())
  assert len(layout.entries) == 7
  assert [len(of) for of in layout.lists.values()] == [4, 3, 2, 2, 2, 2]
  ids = {e.id for e in layout.entries if e.labels == (2,)}
  assert {i.casefold() for i in ids} == {
    *("v_handstandpushups_g01_c01", "v_handstandpushups_g09_c01")
  }
  assert {i for of in layout.lists.values() for i in of} <= {
    e.id for e in layout.entries
  }
  # trainlist01 has one of the two videos of the class.
  count = "1 video" if where == "lists" else "2 videos"
  assert layout.notes[1].startswith(
    f"spelled in several ways by the lists and on disk: {count}, such as "
  )
  assert "tandPushups" in layout.notes[1]


def test_missing_and_extra_are_counted(tmp_path: pathlib.Path) -> None:
  files = [f for f in FILES if "Archery_g08_c01" not in f]
  files += ["UCF-101/Archery/v_Archery_g24_c01.avi", "UCF-101/clip.avi"]
  layout = DATASET.layout(write_tree(tmp_path, files, LISTS))
  # train1, test2 and test3 name it; it is one video.
  assert layout.missing == ("Archery/v_Archery_g08_c01.avi",)
  assert layout.extra == tuple(files[-2:])
  assert len(layout.entries) == 6
  assert len(layout.lists["train1"]) == 3
  assert len(layout.lists["test2"]) == 1
  assert "v_Archery_g24_c01" not in labels_of(layout)


def test_a_missing_video_of_two_spellings_is_one(
  tmp_path: pathlib.Path,
) -> None:
  files = [f for f in FILES if "HandStandPushups_g09" not in f]
  lists = {
    **LISTS,
    L + "testlist02.txt": TEST2.replace("HandStand", "Handstand"),
  }
  layout = DATASET.layout(write_tree(tmp_path, files, lists))
  assert layout.missing == ("HandstandPushups/v_HandStandPushups_g09_c01.avi",)


def test_one_fold_will_do(tmp_path: pathlib.Path) -> None:
  lists = {n: t for n, t in LISTS.items() if "02" not in n and "03" not in n}
  layout = DATASET.layout(write_tree(tmp_path, FILES, lists))
  assert list(layout.lists) == ["train1", "test1"]
  assert layout.notes[1] == "no list for train2, test2, train3, test3"
  assert (len(layout.entries), layout.extra) == (7, ())


BROKEN: dict[str, tuple[str, str, str]] = {
  "no-number": (
    *("trainlist01.txt", TRAIN1.replace("g08_c02.avi 1", "g08_c02.avi")),
    "trainlist01.txt:2: 'Archery/v_Archery_g08_c02.avi' must be CLASS/VIDEO.avi"
    " NUMBER",
  ),
  "no-class": (
    *("testlist01.txt", "v_Archery_g01_c01.avi\n"),
    "testlist01.txt:1: 'v_Archery_g01_c01.avi' must be CLASS/VIDEO.avi",
  ),
  "test-with-number": (
    *("testlist01.txt", TRAIN1),
    "testlist01.txt:1: 'Archery/v_Archery_g08_c01.avi 1' must be CLASS/VIDEO",
  ),
  "unknown-class": (
    *("testlist01.txt", TEST1 + "\nYoYo/v_YoYo_g01_c01.avi\n"),
    "testlist01.txt:5: 'YoYo' is no class of classInd.txt",
  ),
  "other-number": (
    *("trainlist02.txt", TRAIN2.replace("c01.avi 2", "c01.avi 3")),
    "trainlist02.txt:2: BoxingSpeedBag has the number 3, and 2 in classInd",
  ),
  "two-classes": (
    *("testlist01.txt", TEST1.replace("Archery/", "BoxingSpeedBag/")),
    "BoxingSpeedBag/v_Archery_g01_c01.avi (ucfTrainTestlist/testlist01.txt:1) "
    "have one name and two classes",
  ),
  "train-and-test": (
    *("testlist01.txt", TEST1 + "Archery/v_Archery_g08_c02.avi\n"),
    "testlist01.txt:4: Archery/v_Archery_g08_c02.avi is in train1 already",
  ),
  "twice-in-a-list": (
    *("testlist01.txt", TEST1 + TEST1),
    "testlist01.txt:4: Archery/v_Archery_g01_c01.avi is in test1 already",
  ),
  "gap": ("classInd.txt", CLASSES.replace("2 ", "4 "), "1 to 3; 2 is not"),
  "number-twice": (
    *("classInd.txt", CLASSES.replace("2 ", "1 ")),
    "classInd.txt:2: '1 BoxingSpeedBag': the number or class comes twice",
  ),
  "from-0": ("classInd.txt", "0 Archery\n1 Box\n", "1 to 2; 2 is not there"),
  "no-name": (
    "classInd.txt",
    "1\n",
    "classInd.txt:1: '1' must be NUMBER CLASS",
  ),
  "empty": ("testlist01.txt", "\n", "testlist01.txt: the list is empty"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_lists_are_refused(case: str, tmp_path: pathlib.Path) -> None:
  name, text, message = BROKEN[case]
  source = write_tree(tmp_path, FILES, {**LISTS, L + name: text})
  assert message in refused(DATASET, source)


@pytest.mark.parametrize("left", ["", "classInd.txt", "testlist01.txt"])
def test_no_lists(left: str, tmp_path: pathlib.Path) -> None:
  lists = {L + left: LISTS[L + left]} if left else {}
  message = refused(DATASET, write_tree(tmp_path, FILES, lists))
  assert "no classInd.txt with trainlist01.txt to testlist03.txt" in message
  assert str(tmp_path) in message


def test_no_videos(tmp_path: pathlib.Path) -> None:
  message = refused(DATASET, write_tree(tmp_path, ["x/film.avi"], LISTS))
  assert "none of the videos that the lists name is in it" in message
  assert (
    "'Archery/v_Archery_g08_c01.avi'; videos of the lists: 7, of the folder: 1"
    in message
  )


@pytest.mark.parametrize(
  ("second", "taken"),
  [
    ("a copy/Archery/v_Archery_g01_c01.avi", FILES[0]),
    ("UCF-100/Archery/v_Archery_g01_c01.mp4", None),  # first by path
    ("UCF-100/archery/v_archery_g01_c01.avi", FILES[0]),  # of another spelling
  ],
  ids=["later", "first", "spelling"],
)
def test_two_files_of_one_video(
  second: str, taken: str | None, tmp_path: pathlib.Path
) -> None:
  layout = DATASET.layout(write_tree(tmp_path, [*FILES, second], LISTS))
  path = {e.id: e.path for e in layout.entries}
  assert len(path) == 7
  assert path["v_Archery_g01_c01"] == (taken or second)
  other = second if taken else FILES[0]
  assert layout.extra == (other,)
  assert layout.notes[-1] == (
    "extra because their video is taken from another file: 1 file, such as "
    f"{other} of v_Archery_g01_c01"
  )


def test_lists_twice(tmp_path: pathlib.Path) -> None:
  lists = {**LISTS, "old/classInd.txt": CLASSES}
  message = refused(DATASET, write_tree(tmp_path, FILES, lists))
  assert "old/classInd.txt and ucfTrainTestlist/classInd.txt" in message


def test_the_lists_lie_beside_the_source(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  source = write_tree(tmp_path / "data", FILES, LISTS) / "UCF-101"
  told = f"; or give the folder above, --source '{tmp_path / 'data'}'"
  assert refused(DATASET, source).endswith(told)
  monkeypatch.chdir(source)
  assert refused(DATASET, epath.Path(".")).endswith(told)
  (tmp_path / "data" / L / "classInd.txt").unlink()
  assert refused(DATASET, source).endswith("Task.zip there")
