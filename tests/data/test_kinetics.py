import pathlib

import pytest
from lookalikes import labels_of, refused, write_tree

from p3d_jax.data.builders.kinetics import DATASETS

K400, K600, K700 = DATASETS
# YouTube ids begin with "-" and hold "_"; one looks as if it ended in times.
A, B, C, D, E = (
  *("-3B32lodo2M", "_dbcJuKJQNs", "abcdefg_1_2", "ABCDEFG_1_2", "---QUuC4vJs"),
)
TRAIN = (
  "label,youtube_id,time_start,time_end,split,is_cc\n"
  f"abseiling,{A},59,69,train,0\n"
  f'"air drumming",{B},40,50,train,0\n'
  f'"mopping, or sweeping ""it""",{C},1000,1010,train,1\n'
)
VAL = f"label,youtube_id,time_start,time_end,split\nabseiling,{D},0,10,val\n"
TEST = f"youtube_id,time_start,time_end,split\n{E},84,94,test\n"
MOP = 'mopping, or sweeping "it"'
IDS = [
  *(f"{A}_000059_000069", f"{B}_000040_000050", f"{C}_001000_001010"),
  *(f"{D}_000000_000010", f"{E}_000084_000094"),
]
LISTS = {
  "annotations/train.csv": TRAIN,
  "annotations/val.csv": VAL,
  "annotations/test.csv": TEST,
}
FLAT = [
  *(f"train/{name}.mp4" for name in IDS[:3]),
  *(f"val/{IDS[3]}.mp4", f"test/{IDS[4]}.mp4"),
]


def test_the_public_copy(tmp_path: pathlib.Path) -> None:
  layout = K400.layout(write_tree(tmp_path, FLAT, LISTS))
  assert layout.label_names == ("abseiling", "air drumming", MOP)
  assert {e.id: e.labels for e in layout.entries} == dict(
    zip(IDS, [(0,), (1,), (2,), (0,), ()], strict=True)
  )
  assert [e.path for e in layout.entries] == FLAT
  assert [e.source_id for e in layout.entries] == [A, B, C, D, E]
  assert layout.lists == {
    "train": tuple(IDS[:3]),
    "validation": (IDS[3],),
    "test": (IDS[4],),
  }
  assert (layout.missing, layout.extra) == ((), ())
  assert layout.files == tuple(LISTS)
  assert layout.notes == ("classes in the lists: 3; the release has 400",)


LABELS = ["abseiling", "air drumming", "mopping, or sweeping it", "abseiling"]
FORMS = {
  "blanks": [
    *(
      f"{s}/{label}/{i}.mp4"
      for s, label, i in zip(["train"] * 3 + ["val"], LABELS, IDS, strict=False)
    ),
    f"test/{IDS[4]}.mp4",
  ],
  "underscores": [
    f"k400/train_256/{label.replace(' ', '_')}/{i}.mkv"
    for label, i in zip([*LABELS, "test"], IDS, strict=True)
  ],
  "id-alone": [f"videos/{i[:11]}.webm" for i in IDS],
  # Some programs write the times without zeros in front.
  "no-zeros": [
    *(f"{A}_59_69.mp4", f"{B}_40_50.mp4", f"{C}_1000_1010.mp4"),
    *(f"{D}_0_10.mp4", f"{E}_84_94.mp4"),
  ],
}


@pytest.mark.parametrize("form", FORMS)
def test_directory_forms(form: str, tmp_path: pathlib.Path) -> None:
  layout = K400.layout(write_tree(tmp_path, FORMS[form], LISTS))
  assert [e.path for e in layout.entries] == FORMS[form]
  assert [e.id for e in layout.entries] == IDS
  assert (layout.missing, layout.extra) == ((), ())
  told = ["named ID alone and taken as cut already: 5 files"]
  assert list(layout.notes[1:]) == (told if form == "id-alone" else [])


@pytest.mark.parametrize(
  "names",
  [
    ("train.csv", "validate.csv", "test.csv"),
    ("kinetics_train.csv", "kinetics_val.csv", "kinetics_test.csv"),
    *(
      tuple(f"x/{start}{split}.csv" for split in ("train", "val", "test"))
      for start in ("kinetics-400_", "kinetics_400_", "kinetics400-", "k400_")
    ),
    ("kinetics700_2020/train.csv", "kinetics700_2020/validate.csv", "test.csv"),
    ("k700-2020_train.csv", "kinetics700_2020_validation.csv", "Test.CSV"),
  ],
  ids=lambda names: names[0].rpartition("/")[2] + names[1][-8:],
)
def test_names_of_lists(names: tuple[str, ...], tmp_path: pathlib.Path) -> None:
  lists = dict(zip(names, LISTS.values(), strict=True))
  # Lists of other datasets over the same videos are not read.
  lists |= {"countix_train.csv": "video_id\n", "ava_val_v2.2.csv": "x\n"}
  layout = K700.layout(write_tree(tmp_path, FLAT, lists))
  assert [e.id for e in layout.entries] == IDS
  assert layout.files == names


def test_columns_in_another_order(tmp_path: pathlib.Path) -> None:
  lists = {
    **LISTS,
    "annotations/train.csv": (
      "\ufeffSplit, time_end,time_start,is_cc,youtube_id,label\r\n"
      f"train,69.0,59.0,0,{A},abseiling\r\n"
    ),
    # The later editions publish the labels for testing too.
    "annotations/test.csv": (
      "label,youtube_id,time_start,time_end,split\n"
      f"abseiling,{E},84,94,test\n,{B},40,50,test\n"
    ),
  }
  layout = K600.layout(write_tree(tmp_path, FLAT, lists))
  assert labels_of(layout) == {
    IDS[0]: ("abseiling",),
    IDS[3]: ("abseiling",),
    IDS[4]: ("abseiling",),
    IDS[1]: (),
  }
  assert layout.extra == (FLAT[2],)


def test_missing_and_extra_are_counted(tmp_path: pathlib.Path) -> None:
  files = [
    # Another clip of the same video, and an id that differs in case alone.
    *(f"train/{A}_000060_000070.mp4", f"val/{D.lower()}_000000_000010.mp4"),
    *FLAT[1:3],
  ]
  layout = K400.layout(write_tree(tmp_path, files, LISTS))
  assert layout.missing == (IDS[0], IDS[3], IDS[4])
  assert layout.extra == tuple(files[:2])
  assert layout.lists == {
    "train": tuple(IDS[1:3]),
    "validation": (),
    "test": (),
  }
  assert layout.notes[1:] == (
    "missing: 1 of train, 1 of validation (all of it), 1 of test (all of it)",
  )


@pytest.mark.parametrize(
  "replacement", [IDS[0], f"{A}_000058_000069", A], ids=["same", "times", "id"]
)
def test_replacements_go_first(
  replacement: str, tmp_path: pathlib.Path
) -> None:
  new = f"replacement/replacement_for_corrupted_k400/{replacement}.mp4"
  layout = K400.layout(write_tree(tmp_path, [*FLAT, new], LISTS))
  assert layout.entries[0].path == new
  assert layout.entries[0].id == IDS[0]
  assert [e.path for e in layout.entries[1:]] == FLAT[1:]
  # What it replaces is not used, and is told.
  assert layout.extra == (FLAT[0],)
  assert "taken from a folder of replacements: 1 clip" in layout.notes


def test_a_replacement_of_another_clip_is_not_taken(
  tmp_path: pathlib.Path,
) -> None:
  lists = {
    **LISTS,
    "annotations/train.csv": f"{TRAIN}abseiling,{A},100,110,train,0\n",
  }
  new = f"replacement/{A}_000100_000110.mp4"
  layout = K400.layout(write_tree(tmp_path, [*FLAT, new], lists))
  path = {e.id: e.path for e in layout.entries}
  assert path[IDS[0]] == FLAT[0]
  assert path[f"{A}_000100_000110"] == new


def test_copies_are_told(tmp_path: pathlib.Path) -> None:
  copy = f"videos/train/abseiling/{IDS[0]}.mp4"
  layout = K400.layout(write_tree(tmp_path, [*FLAT, copy], LISTS))
  assert layout.entries[0].path == FLAT[0]
  assert layout.extra == (copy,)
  assert layout.notes[1] == (
    "extra because their video is taken from another file: 1 file, such as "
    f"{copy} of {IDS[0]}"
  )


def test_a_row_twice_is_one_record(tmp_path: pathlib.Path) -> None:
  lists = {
    **LISTS,
    "annotations/val.csv": VAL + VAL.partition("\n")[2],
  }
  layout = K400.layout(write_tree(tmp_path, FLAT, lists))
  assert layout.lists["validation"] == (IDS[3],)
  assert "rows that are repeated in a list, and count once: 1" in layout.notes


def test_only_some_lists(tmp_path: pathlib.Path) -> None:
  lists = {"annotations/val.csv": VAL}
  layout = K400.layout(write_tree(tmp_path, FLAT, lists))
  assert list(layout.lists) == ["validation"]
  assert layout.notes[1] == "no list for train, test"
  assert layout.label_names == ("abseiling",)
  assert len(layout.extra) == 4


HEADER = "label,youtube_id,time_start,time_end,split\n"
BROKEN = {
  "no-header": (
    f"abseiling,{A},59,69,train\n",
    "train.csv:1: the header 'abseiling,-3B32lodo2M,59,69,train' must have "
    "label, youtube_id, time_start, time_end once each",
  ),
  "no-label-column": (TEST, "train.csv:1: the header 'youtube_id"),
  "comma-unquoted": (
    f"{HEADER}mopping, floor,{A},59,69,train\n",
    "train.csv:2: 6 cells, and the header has 5",
  ),
  "time": (
    f"{HEADER}abseiling,{A},1:02,69,train\n",
    "train.csv:2: time_start='1:02' must be a whole number of seconds",
  ),
  "backwards": (
    f"{HEADER}abseiling,{A},69,59,train\n",
    "train.csv:2: time_end=59 must be > time_start=69",
  ),
  "no-label": (
    f"{HEADER},{A},59,69,train\n",
    "train.csv:2: label is empty",
  ),
  "no-id": (f"{HEADER}abseiling,,5,6,train\n", "2: youtube_id is empty"),
  "split": (
    f"{HEADER}abseiling,{A},59,69,validate\n",
    "train.csv:2: split='validate', and the name of the file says train",
  ),
  "unknown-label": (
    f"{HEADER}archery,{A},59,69,train\n",
    "val.csv:2: the list for training has no label 'abseiling'",
  ),
  "header-alone": (HEADER, "train.csv:1: there is no row below the header"),
  "empty": ("", "train.csv: the list is empty"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_lists_are_refused(case: str, tmp_path: pathlib.Path) -> None:
  text, message = BROKEN[case]
  source = write_tree(tmp_path, FLAT, {**LISTS, "annotations/train.csv": text})
  assert message in refused(K400, source)


def test_of_rows_that_contradict_the_first_counts(
  tmp_path: pathlib.Path,
) -> None:
  rows = f"archery,{A},59,69,train\n" * 2 + f"abseiling,{D},0,10,train\n"
  lists = {
    **LISTS,
    "annotations/train.csv": f"{HEADER}abseiling,{A},59,69,train\n{rows}",
  }
  layout = K400.layout(write_tree(tmp_path, FLAT, lists))
  # D is in the lists for training and for validation.
  assert labels_of(layout) == {
    IDS[0]: ("abseiling",),
    IDS[3]: ("abseiling",),
    IDS[4]: (),
  }
  assert layout.lists == {
    "train": (IDS[0], IDS[3]),
    "validation": (),
    "test": (IDS[4],),
  }
  assert layout.missing == ()
  assert layout.notes[1] == (
    "rows left out, as one before has the clip with another label or in "
    f"another list: 3, such as {IDS[0]}, 'abseiling' at "
    "annotations/train.csv:2 and 'archery' at annotations/train.csv:3"
  )


K = "xnC3nngvLCo"
TWO = (
  f"{HEADER}cracking knuckles,{K},60,70,train\ncracking neck,{K},9,19,train\n"
)
KNUCKLES, NECK = f"{K}_000060_000070", f"{K}_000009_000019"
UNCLEAR = (
  "missing, as a file named ID alone may be any of several clips of its "
)


@pytest.mark.parametrize(
  ("files", "found", "unclear"),
  [
    pytest.param(
      [f"train/cracking_knuckles/{K}.mp4", f"train/Cracking Neck/{K}.mp4"],
      {KNUCKLES: 0, NECK: 1},
      0,
      id="each",
    ),
    pytest.param(
      [f"train/cracking_neck/{K}.mp4"], {NECK: 0}, 0, id="the-second"
    ),
    pytest.param([f"train/{K}.mp4"], {}, 2, id="no-class"),
    pytest.param(
      [f"cracking neck/cracking knuckles/{K}.mp4"], {}, 2, id="both"
    ),
    pytest.param(
      [f"{K}_60_70.mp4", f"{K}.mp4"], {KNUCKLES: 0}, 1, id="one-has-times"
    ),
  ],
)
def test_id_alone_with_two_clips(
  files: list[str], found: dict[str, int], unclear: int, tmp_path: pathlib.Path
) -> None:
  lists = {"train.csv": f"{TWO}other,{A},0,10,train\n"}
  source = write_tree(tmp_path, [*files, f"{A}.mp4"], lists)
  layout = K600.layout(source)
  paths = {entry.id: entry.path for entry in layout.entries}
  assert paths.pop(f"{A}_000000_000010") == f"{A}.mp4"
  assert paths == {clip: files[k] for clip, k in found.items()}
  assert set(layout.missing) == {KNUCKLES, NECK} - set(found)
  assert set(layout.extra) == set(files) - set(paths.values())
  told = [note for note in layout.notes if note.startswith(UNCLEAR)]
  assert len(told) == bool(unclear)
  for note in told:
    assert f"video: {unclear} clip" in note
    assert f"put {files[-1]} in a folder of its class or name it ID_ST" in note


def test_id_alone_with_two_clips_of_one_class(tmp_path: pathlib.Path) -> None:
  lists = {
    "train.csv": f"{HEADER}a,{A},59,69,train\na,{A},0,10,train\n"
    f"a,{B},0,10,train\n"
  }
  files = [f"train/a/{A}.mp4", f"train/a/{B}.mp4"]
  layout = K600.layout(write_tree(tmp_path, files, lists))
  assert layout.missing == (IDS[0], f"{A}_000000_000010")
  assert layout.extra == (files[0],)


def test_too_many_labels(tmp_path: pathlib.Path) -> None:
  rows = [f"l{k},{A},{k},{k + 10},train\n" for k in range(401)]
  lists = {"train.csv": HEADER + "".join(rows)}
  files = [f"{A}_{k:06d}_{k + 10:06d}.mp4" for k in range(401)]
  source = write_tree(tmp_path, files, lists)
  assert "have 401 classes, and the dataset has 400" in refused(K400, source)
  assert len(K600.layout(source).label_names) == 401


def test_two_lists_for_one_split(tmp_path: pathlib.Path) -> None:
  source = write_tree(tmp_path, FLAT, {**LISTS, "validate.csv": VAL})
  message = refused(K400, source)
  assert "annotations/val.csv and validate.csv are two lists" in message


def test_no_lists(tmp_path: pathlib.Path) -> None:
  source = write_tree(tmp_path, FLAT, {"labels.csv": TRAIN})
  message = refused(K400, source)
  assert "no train.csv, val.csv, validate.csv or test.csv in it" in message
  assert "kinetics-400_train.csv" in message


def test_no_videos(tmp_path: pathlib.Path) -> None:
  message = refused(K400, write_tree(tmp_path, ["train/film.mp4"], LISTS))
  assert "none of the videos that the lists name is in it" in message
  assert IDS[0] in message
  assert "a video's file is ID_START_END.mp4 or ID.mp4, in any" in message
