import pathlib
import unicodedata

import pytest
from lookalikes import labels_of, refused, write_tree

from p3d_jax.data.builders.hmdb51 import DATASET

# Names as the release has them, with what they hold of brackets and signs.
BRUSH = "April_09_brush_hair_u_nm_np1_ba_goo_"
CARTWHEEL = "(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_0"
ODD = "Smith & Co, [No 2] #1; a+b_cartwheel_f_cm_np1_le_med_3"
FILES = [
  f"hmdb51_org/brush_hair/{BRUSH}0.avi",
  f"hmdb51_org/brush_hair/{BRUSH}1.avi",
  f"hmdb51_org/brush_hair/{BRUSH}2.avi",
  f"hmdb51_org/cartwheel/{CARTWHEEL}.avi",
  f"hmdb51_org/cartwheel/{ODD}.avi",
]
IDS = [f"brush_hair/{BRUSH}{k}" for k in range(3)]
IDS += [f"cartwheel/{CARTWHEEL}", f"cartwheel/{ODD}"]
S = "testTrainMulti_7030_splits/"
# The lines of the release end in a blank.
LISTS = {
  f"{S}brush_hair_test_split1.txt": (
    f"{BRUSH}0.avi 1 \n{BRUSH}1.avi 2 \n{BRUSH}2.avi 0 \n"
  ),
  f"{S}brush_hair_test_split2.txt": (
    f"{BRUSH}0.avi 2 \n{BRUSH}1.avi 1 \n{BRUSH}2.avi 0 \n"
  ),
  f"{S}brush_hair_test_split3.txt": (
    f"{BRUSH}0.avi 1\r\n{BRUSH}1.avi 1\r\n{BRUSH}2.avi 0\r\n"
  ),
  f"{S}cartwheel_test_split1.txt": f"{CARTWHEEL}.avi 1 \n{ODD}.avi 2 \n",
  f"{S}cartwheel_test_split2.txt": f"{CARTWHEEL}.avi 2 \n{ODD}.avi 1 \n",
  f"{S}cartwheel_test_split3.txt": f"{CARTWHEEL}.avi 0 \n{ODD}.avi 2 \n",
}


def test_the_release(tmp_path: pathlib.Path) -> None:
  layout = DATASET.layout(write_tree(tmp_path, FILES, LISTS))
  assert layout.label_names == ("brush_hair", "cartwheel")
  # The third video of brush_hair is in no split, and is a record.
  assert {e.id: e.labels for e in layout.entries} == dict(
    zip(IDS, [(0,), (0,), (0,), (1,), (1,)], strict=True)
  )
  assert [e.path for e in layout.entries] == FILES
  assert layout.lists == {
    "train1": (IDS[0], IDS[3]),
    "test1": (IDS[1], IDS[4]),
    "train2": (IDS[1], IDS[4]),
    "test2": (IDS[0], IDS[3]),
    "train3": (IDS[0], IDS[1]),
    "test3": (IDS[4],),
  }
  assert [e.source_id for e in layout.entries] == [
    *["April_09"] * 3,
    "(Rad)Schlag_die_Bank!",
    "Smith & Co, [No 2] #1; a+b",
  ]
  assert (layout.missing, layout.extra) == ((), ())
  assert layout.files == tuple(LISTS)
  assert layout.notes == ("classes in the lists: 2; the release has 51",)


@pytest.mark.parametrize(
  ("old", "new"),
  [
    ("hmdb51_org/", "hmdb51/videos/"),
    # Each class's .rar unpacked into a folder of the archive's name.
    ("hmdb51_org/cartwheel/", "hmdb51_org/cartwheel/cartwheel/"),
    ("hmdb51_org/", ""),
    (".avi", ".mp4"),
  ],
  ids=["videos", "rar-folders", "no-folder", "mp4"],
)
def test_other_forms(old: str, new: str, tmp_path: pathlib.Path) -> None:
  files = [file.replace(old, new) for file in FILES]
  layout = DATASET.layout(write_tree(tmp_path, files, LISTS))
  assert [e.id for e in layout.entries] == IDS
  assert [e.path for e in layout.entries] == files
  assert (layout.missing, layout.extra) == ((), ())


def test_missing_and_extra_are_counted(tmp_path: pathlib.Path) -> None:
  # A video in the folder of another class is not that video.
  moved = f"hmdb51_org/cartwheel/{BRUSH}0.avi"
  files = [moved, *FILES[1:], "hmdb51_org/wave/x_wave_0.avi"]
  layout = DATASET.layout(write_tree(tmp_path, files, LISTS))
  assert layout.missing == (f"brush_hair/{BRUSH}0.avi",)
  assert layout.extra == (moved, "hmdb51_org/wave/x_wave_0.avi")
  assert list(labels_of(layout)) == IDS[1:]
  assert layout.lists["train1"] == (IDS[3],)
  assert layout.lists["test2"] == (IDS[3],)


def test_case_and_unicode_are_met(tmp_path: pathlib.Path) -> None:
  name = unicodedata.normalize("NFC", "Die_Brücke_cartwheel_f_cm_np1_le_med_1")
  lists = {path: text.replace(ODD, name) for path, text in LISTS.items()}
  apart = unicodedata.normalize("NFD", name)
  files = [file.replace(ODD, apart) for file in FILES]
  files[0] = files[0].replace("April", "april").replace(".avi", ".AVI")
  layout = DATASET.layout(write_tree(tmp_path, files, lists))
  assert [e.path for e in layout.entries] == files
  # Ids are the lists', whatever the disk makes of the names.
  assert [e.id for e in layout.entries] == [*IDS[:4], f"cartwheel/{name}"]
  assert layout.notes[1] == (
    "spelled otherwise on disk, in case or in how letters are composed: "
    "2 videos"
  )


ONE = f"{S}cartwheel_test_split1.txt"
BROKEN = {
  "no-number": (
    f"{CARTWHEEL}.avi 1\n{ODD}.avi\n",
    f"{ONE}:2: '{ODD}.avi' must be NAME.avi and 1 (train), 2 (test) or 0",
  ),
  "number-3": (f"{CARTWHEEL}.avi 3\n", f"{ONE}:1: "),
  "no-suffix": (f"{CARTWHEEL} 1\n", f"{ONE}:1: "),
  "path": (f"cartwheel/{CARTWHEEL}.avi 1\n", f"{ONE}:1: "),
  "twice": (
    f"{ODD}.avi 2\n{CARTWHEEL}.avi 1\n{ODD}.avi 1\n",
    f"{ONE}:3: {ODD}.avi comes twice; two records would have one id",
  ),
  "cut-short": (
    f"{ODD}.avi 2\n",
    f"{ONE}: it lists 1 of the 2 videos of its class, and not "
    f"cartwheel/{CARTWHEEL}",
  ),
  "empty": (" \n", f"{ONE}: the list is empty"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_lists_are_refused(case: str, tmp_path: pathlib.Path) -> None:
  text, message = BROKEN[case]
  source = write_tree(tmp_path, FILES, {**LISTS, ONE: text})
  assert message in refused(DATASET, source)


def test_a_list_of_a_class_is_not_there(tmp_path: pathlib.Path) -> None:
  lists = {name: text for name, text in LISTS.items() if name != ONE}
  message = refused(DATASET, write_tree(tmp_path, FILES, lists))
  assert message.startswith("cartwheel_test_split1.txt is not there")


def test_one_fold_will_do(tmp_path: pathlib.Path) -> None:
  lists = {name: text for name, text in LISTS.items() if "split2" in name}
  layout = DATASET.layout(write_tree(tmp_path, FILES, lists))
  assert layout.lists == {"train2": (IDS[1], IDS[4]), "test2": (IDS[0], IDS[3])}
  assert len(layout.entries) == 5
  assert layout.notes[1] == "no list for train1, test1, train3, test3"


def test_no_lists(tmp_path: pathlib.Path) -> None:
  message = refused(DATASET, write_tree(tmp_path, FILES))
  assert "no CLASS_test_split1.txt to CLASS_test_split3.txt in it" in message


def test_no_videos(tmp_path: pathlib.Path) -> None:
  message = refused(DATASET, write_tree(tmp_path, [], LISTS))
  assert "none of the videos that the lists name is in it" in message
  assert f"brush_hair/{BRUSH}0.avi" in message


@pytest.mark.parametrize("folder", ["hmdb51_sta", "Stabilized", "x-sta-mp4"])
def test_stabilised_videos_beside_the_others(
  folder: str, tmp_path: pathlib.Path
) -> None:
  stabilised = [file.replace("hmdb51_org", folder) for file in FILES]
  message = refused(
    DATASET, write_tree(tmp_path / "a", [*FILES, stabilised[0]], LISTS)
  )
  pair = " and ".join(map(repr, sorted([FILES[0], stabilised[0]])))
  assert f"{pair} are two videos of one name" in message
  # By themselves they are a set.
  layout = DATASET.layout(write_tree(tmp_path / "b", stabilised, LISTS))
  assert [e.id for e in layout.entries] == IDS


def test_two_files_of_one_video(tmp_path: pathlib.Path) -> None:
  # A class's .rar unpacked twice; "stand" has the letters of "sta".
  copy = FILES[3].replace("hmdb51_org", "standing").replace(".avi", ".mp4")
  layout = DATASET.layout(write_tree(tmp_path, [*FILES, copy], LISTS))
  assert [e.path for e in layout.entries] == FILES
  assert layout.extra == (copy,)
  assert layout.notes[-1].endswith(f"1 file, such as {copy} of {IDS[3]}")


def test_the_lists_lie_beside_the_source(tmp_path: pathlib.Path) -> None:
  source = write_tree(tmp_path / "data", FILES, LISTS)
  message = refused(DATASET, source / FILES[0].split("/")[0])
  assert message.endswith(f"the folder above, --source '{tmp_path / 'data'}'")
