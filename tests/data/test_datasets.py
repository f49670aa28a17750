"""Every dataset from its own layout to a built set, with real videos.

The trees have the folders, names and lists of the releases, and the traps in:
what a list names and the folder lacks, what no list names, other spellings,
names with spaces, commas and accents, files of 0 bytes, cut off and of sound
alone, one frame, uneven times, two labels. The videos have all another number
of frames, which tells that the right file came to stand under an id.
"""

import dataclasses
import json
import pathlib
import re
from typing import Any

import numpy as np
import pytest
import scipy.io
from lookalikes import broken, uneven, video, write_tree

from p3d_jax.cli import main
from p3d_jax.data.builders import build, dynamic_scene, yupenn
from p3d_jax.data.builders.table import DATASETS
from p3d_jax.data.sets import open_set
from p3d_jax.data.store import TooManyBrokenError
from tests.small import p3d_command


@dataclasses.dataclass(frozen=True)
class Case:
  """A tree, and what must come of it.

  Attributes:
    videos: path -> content.
    texts: path -> content of a list.
    records: id -> (names of the labels, number of frames, source id), in the
      order that they are stored in.
    lists: name -> ids, in order.
    missing: as reported.
    broken: paths of the files that a list names and nobody can read.
    extra: as reported.
    notes: parts of lines that must be there.
    options: of the dataset.
  """

  videos: dict[str, bytes]
  texts: dict[str, str | bytes]
  records: dict[str, tuple[tuple[str, ...], int, str]]
  lists: dict[str, list[str]]
  missing: list[str]
  broken: list[str]
  extra: list[str]
  notes: list[str] = dataclasses.field(default_factory=list)
  options: dict[str, Any] = dataclasses.field(default_factory=dict)

  def write(self, root: pathlib.Path) -> pathlib.Path:
    write_tree(root, (), {**self.texts, **self.videos})
    return root


APPLY, HAND = "v_ApplyEyeMakeup_", "v_HandStandPushups_"
EYE = f"UCF-101/ApplyEyeMakeup/{APPLY}"
UCF101 = Case(
  videos={
    f"{EYE}g01_c01.avi": video(3, "avi"),
    f"{EYE}g01_c02.avi": video(1, "avi"),
    f"{EYE}g08_c01.mp4": uneven(),
    f"{EYE}g09_c01.avi": broken("zero"),
    f"{EYE}g09_c02.avi": broken("cut", "avi"),
    f"{EYE}g09_c03.avi": broken("audio"),
    f"UCF-101/HandstandPushups/{HAND}g01_c01.avi": video(4, "avi"),
    "UCF-101/Été, 2016/home video.avi": video(7, "avi"),
    f"copy/{APPLY}g01_c01.avi": video(8, "avi"),
  },
  texts={
    "ucfTrainTestlist/classInd.txt": (
      "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n"
    ),
    "ucfTrainTestlist/trainlist01.txt": "".join(
      f"ApplyEyeMakeup/{APPLY}{clip}.avi 1\n"
      for clip in ("g08_c01", "g08_c02", "g09_c01", "g09_c02")
    ),
    "ucfTrainTestlist/testlist01.txt": (
      f"ApplyEyeMakeup/{APPLY}g01_c02.avi\nApplyEyeMakeup/{APPLY}g09_c03.avi\n"
      f"HandStandPushups/v_HandstandPushups_g01_c01.avi\n"
      f"ApplyEyeMakeup/{APPLY}g01_c01.avi\n"
    ),
    "ucfTrainTestlist/trainlist02.txt": (
      f"HandstandPushups/{HAND}g01_c01.avi 2\n"
    ),
  },
  records={
    f"{APPLY}g08_c01": (("ApplyEyeMakeup",), 5, f"{APPLY}g08"),
    f"{APPLY}g01_c02": (("ApplyEyeMakeup",), 1, f"{APPLY}g01"),
    f"{HAND}g01_c01": (("HandstandPushups",), 4, f"{HAND}g01"),
    f"{APPLY}g01_c01": (("ApplyEyeMakeup",), 3, f"{APPLY}g01"),
  },
  lists={
    "train1": [f"{APPLY}g08_c01"],
    "test1": [f"{APPLY}g01_c02", f"{HAND}g01_c01", f"{APPLY}g01_c01"],
    "train2": [f"{HAND}g01_c01"],
  },
  missing=[f"ApplyEyeMakeup/{APPLY}g08_c02.avi"],
  broken=[f"{EYE}g09_c0{k}.avi" for k in (1, 2, 3)],
  extra=["UCF-101/Été, 2016/home video.avi", f"copy/{APPLY}g01_c01.avi"],
  notes=[
    "classes in the lists: 2; the release has 101",
    "no list for test2, train3, test3",
    "spelled in several ways by the lists and on disk: 1 video",
    f"another file: 1 file, such as copy/{APPLY}g01_c01.avi of {APPLY}g01_c01",
  ],
)

ODD = "Brücke, [No 2] & Co_ride_bike_f_cm_np1_le_med_3"
GIRL = "April_09_brush_hair_u_nm_np1_ba_goo_"
HMDB51 = Case(
  videos={
    f"hmdb51_org/brush_hair/{GIRL}0.avi": video(3, "avi"),
    f"hmdb51_org/brush_hair/{GIRL}1.avi": broken("cut", "avi"),
    f"hmdb51_org/brush_hair/{GIRL}2.mkv": video(1, "matroska"),
    f"hmdb51_org/brush_hair/{GIRL}3.avi": broken("audio"),
    f"hmdb51_org/ride_bike/{ODD.upper()}.mp4": uneven(),
    f"hmdb51_org/ride_bike/{GIRL}0.avi": video(7, "avi"),
    "hmdb51_org/ride_bike/zero_ride_bike_1.avi": broken("zero"),
  },
  texts={
    "splits/brush_hair_test_split1.txt": "".join(
      f"{GIRL}{k}.avi {use} \n" for k, use in enumerate((1, 2, 0, 1))
    ),
    "splits/ride_bike_test_split1.txt": (
      f"{ODD}.avi 2 \nzero_ride_bike_1.avi 1 \ngone, é_ride_bike_2.avi 1 \n"
    ),
  },
  records={
    f"brush_hair/{GIRL}0": (("brush_hair",), 3, "April_09"),
    # In no split, and a record.
    f"brush_hair/{GIRL}2": (("brush_hair",), 1, "April_09"),
    f"ride_bike/{ODD}": (("ride_bike",), 5, "Brücke, [No 2] & Co"),
  },
  lists={"train1": [f"brush_hair/{GIRL}0"], "test1": [f"ride_bike/{ODD}"]},
  missing=["ride_bike/gone, é_ride_bike_2.avi"],
  broken=[
    f"hmdb51_org/brush_hair/{GIRL}1.avi",
    f"hmdb51_org/brush_hair/{GIRL}3.avi",
    "hmdb51_org/ride_bike/zero_ride_bike_1.avi",
  ],
  extra=[f"hmdb51_org/ride_bike/{GIRL}0.avi"],
  notes=["composed: 1 video"],
)

# Two ids that part in case alone, and one that looks as if it had times.
A, B, C, D, E = (
  *("-3B32lodo2M", "_dbcJuKJQNs", "abcdefg_1_2", "ABCDEFG_1_2", "0000000000-"),
)
MOP = 'mopping, or sweeping "it"'


def kinetics(prefix: str) -> Case:
  """The three releases part in the number of classes and in names of lists."""
  head = "label,youtube_id,time_start,time_end,split\n"
  return Case(
    videos={
      f"train/air drumming/{A}_000059_000069.mp4": video(3),
      f"train/mopping_or sweeping/{C}_1_11.mkv": uneven(),
      "train/fête/zero_a_bc_d_000000_000010.mp4": broken("zero"),
      f"val/{D}.mp4": video(1),
      "val/soundonly-1_000000_000010.mp4": broken("audio"),
      "val/cutoff-cut-_000000_000010.mp4": broken("cut"),
      f"replacement/{A}_000059_000069.mp4": video(9),
      f"val/{B.lower()}_000040_000050.mp4": video(7),
      "Été, 2016.mp4": video(8),
    },
    texts={
      f"annotations/{prefix}train.csv": (
        f"{head}air drumming,{A},59,69,train\n"
        f'"mopping, or sweeping ""it""",{C},1,11,train\n'
        "fête,zero_a_bc_d,0,10,train\n"
      ),
      f"annotations/{prefix}val.csv": (
        f"{head}fête,{D},0,10,val\nfête,soundonly-1,0,10,val\n"
        f"fête,{B},40,50,val\nfête,cutoff-cut-,0,10,val\n"
      ),
      f"annotations/{prefix}test.csv": (
        f"youtube_id,time_start,time_end,split\n{E},84,94,test\n"
      ),
    },
    records={
      f"{A}_000059_000069": (("air drumming",), 9, A),
      f"{C}_000001_000011": ((MOP,), 5, C),
      f"{D}_000000_000010": (("fête",), 1, D),
    },
    lists={
      "train": [f"{A}_000059_000069", f"{C}_000001_000011"],
      "validation": [f"{D}_000000_000010"],
      "test": [],
    },
    missing=[f"{B}_000040_000050", f"{E}_000084_000094"],
    broken=[
      "train/fête/zero_a_bc_d_000000_000010.mp4",
      "val/soundonly-1_000000_000010.mp4",
      "val/cutoff-cut-_000000_000010.mp4",
    ],
    extra=[
      f"train/air drumming/{A}_000059_000069.mp4",
      f"val/{B.lower()}_000040_000050.mp4",
      "Été, 2016.mp4",
    ],
    notes=[
      "missing: 1 of validation, 1 of test (all of it)",
      "taken from a folder of replacements: 1 clip",
      "named ID alone and taken as cut already: 1 file",
      f"train/air drumming/{A}_000059_000069.mp4 of {A}_000059_000069",
    ],
  )


URL = "https://www.youtube.com/watch?v="
SPORTS1M = Case(
  videos={
    f"videos/some, folder é/{A}.mp4": video(12),
    f"videos/{B}.mkv": uneven(),
    f"videos/{C}.mp4": video(1),
    "videos/zero_a_bc_d.mp4": broken("zero"),
    "videos/soundonly-1.mp4": broken("audio"),
    "videos/cutoff-cut-.mp4": broken("cut"),
    f"z/{A}.avi": video(8, "avi"),
    f"z/{E}.mp4.part": b"half",
  },
  texts={
    "sports-1m-dataset/labels.txt": "archery\nyağlı güreş\nt'ai chi, etc.\n",
    "sports-1m-dataset/original/train_partition.txt": (
      f"{URL}{A} 2,0\n{URL}{D} 1\n"
    ),
    "sports-1m-dataset/original/test_partition.txt": (
      f"{URL}{B} 1\n{URL}{C} 0\n{URL}zero_a_bc_d 0\n{URL}soundonly-1 0\n"
      f"{URL}cutoff-cut- 0\n"
    ),
  },
  records={
    # 0.12 seconds of 25 frames a second from any moment show 3 or 4 of them.
    f"{A}/0": (("archery", "t'ai chi, etc."), -1, A),
    f"{A}/1": (("archery", "t'ai chi, etc."), -1, A),
    B: (("yağlı güreş",), 5, B),
    C: (("archery",), 1, C),
  },
  lists={"train": [f"{A}/0", f"{A}/1"], "test": [B, C]},
  # The file of C has the name of D but for its case.
  missing=[D],
  broken=[
    f"videos/{i}.mp4" for i in ("zero_a_bc_d", "soundonly-1", "cutoff-cut-")
  ],
  extra=[f"z/{A}.avi"],
  notes=[
    "missing: 1 of train",
    "the lists: 3; the release has 487",
    "files without a suffix of videos, not looked at: 1 .part",
  ],
  options={"shorts": 2, "short_seconds": 0.12},
)


def activity(
  subset: str, *annotations: tuple[str, float, float]
) -> dict[str, Any]:
  return {
    "duration": 10.0,
    "subset": subset,
    "annotations": [
      {"label": label, "segment": [start, end]}
      for label, start, end in annotations
    ],
  }


LEMON = "Making, or drinking, a citron pressé"
ACTIVITYNET = Case(
  videos={
    f"v1-3/train_val/v_{A}.mkv": video(6, "matroska"),
    f"v1-3/train_val/v_{B}.mp4": uneven(),
    "v1-3/train_val/v_zero_a_bc_d.mp4": broken("zero"),
    "v1-3/train_val/v_soundonly-1.mp4": broken("audio"),
    "v1-3/test/v_cutoff-cut-.mp4": broken("cut"),
    f"v1-3/test/{C}.mp4": video(1),
    f"v1-3/train_val/v_{A}.mp4.avi": video(7, "avi"),
    f"v1-4/v_{A}.mp4": video(8),
  },
  texts={
    "activity_net.v1-3.min.json": json.dumps(
      {
        "taxonomy": [
          {"nodeId": 0, "nodeName": "Root", "parentId": None},
          {"nodeId": 1, "nodeName": "Zumba", "parentId": 0},
          {"nodeId": 2, "nodeName": LEMON, "parentId": 0},
        ],
        "database": {
          A: activity(
            "training", ("Zumba", 0.5, 2), (LEMON, 3, 4), ("Zumba", 9, 12)
          ),
          B: activity("validation", (LEMON, 0, 0)),
          C: activity("testing"),
          D: activity("testing"),
          "zero_a_bc_d": activity("training", ("Zumba", 1, 2)),
          "soundonly-1": activity("validation", ("Zumba", 1, 2)),
          "cutoff-cut-": activity("testing"),
        },
      }
    ),
  },
  records={
    A: ((LEMON, "Zumba"), 6, A),
    B: ((LEMON,), 5, B),
    C: ((), 1, C),
  },
  lists={"train": [A], "validation": [B], "test": [C]},
  missing=[D],
  broken=[
    "v1-3/train_val/v_zero_a_bc_d.mp4",
    "v1-3/train_val/v_soundonly-1.mp4",
    "v1-3/test/v_cutoff-cut-.mp4",
  ],
  extra=[f"v1-3/train_val/v_{A}.mp4.avi", f"v1-4/v_{A}.mp4"],
  notes=[
    "missing: 1 of test",
    "segments left out that end where they start or before: 1",
    "segments cut off where the video's duration ends or starts: 1",
    f"another file: 1 file, such as v1-4/v_{A}.mp4 of {A}",
  ],
)


def matlab(rows: list[tuple[int, ...]]) -> bytes:
  """View2.mat of ten folds, each with the pairs of fold 1 put further on."""
  import io

  values = np.array(
    [[(a + 20 * f, b + 20 * f, s, x, y) for a, b, s, x, y in rows]
     for f in range(10)],
    np.float64,
  )  # fmt: skip
  file = io.BytesIO()
  scipy.io.savemat(file, {"action_splits_pairs": values.transpose(1, 2, 0)})
  return file.getvalue()


# Of each fold but the first, no video is there.
ASLAN_SAMPLES = [
  20 * fold + k for fold in range(10) for k in (1, 2, 3, 4, 5, 6, 7)
]
ASLAN_PAIRS = [(1, 2, 1, 1, 1), (3, 4, 0, 1, 2), (1, 5, 0, 1, 2)]
ASLAN_PAIRS += [(2, 6, 1, 1, 1), (2, 4, 0, 1, 2), (3, 7, 1, 1, 1)]
ASLAN = Case(
  videos={
    "ASLAN_AVI/0001.avi": video(3, "avi"),
    "ASLAN_AVI/sample, été-0002.avi": video(1, "avi"),
    "ASLAN_AVI/0003.mp4": uneven(),
    "ASLAN_AVI/0004.avi": video(4, "avi"),
    "ASLAN_AVI/0005.avi": broken("zero"),
    "ASLAN_AVI/0006.avi": broken("cut", "avi"),
    "ASLAN_AVI/0007.avi": broken("audio"),
    "ASLAN_MP4/0001.mp4": video(9),
    "ASLAN_MP4/holiday 0002.mp4": video(8),
  },
  texts={
    "Views/View2.mat": matlab(ASLAN_PAIRS),
    "Info/Actions_Ids.txt": "1\tback flip\n2\tWalk, on hands (é)\n",
    "Info/Samples_Details.txt": "".join(
      f"{k}\t{'Walk, on hands (é)' if k % 20 == 4 else 'back flip'}"
      f"\\key-{A}-a title-3-2.5\n"
      for k in ASLAN_SAMPLES
    ),
  },
  records={
    "0001": (("back flip",), 3, A),
    "0002": (("back flip",), 1, A),
    "0003": (("back flip",), 5, A),
    "0004": (("Walk, on hands (é)",), 4, A),
  },
  lists={"fold01": ["0001", "0002", "0003", "0004"]},
  missing=[f"{k:04d}" for k in ASLAN_SAMPLES if k > 7],
  broken=[f"ASLAN_AVI/000{k}.avi" for k in (5, 6, 7)],
  extra=["ASLAN_MP4/0001.mp4", "ASLAN_MP4/holiday 0002.mp4"],
  notes=[
    "pairs left out, as a video of them is missing: 54 of 60",
    "another file: 1 file, such as ASLAN_MP4/0001.mp4 of 0001",
  ],
)


def scenes(
  first: str, second: str, shown: str, each: int, names: tuple[str, ...]
) -> Case:
  """YUPENN and Dynamic Scene: `shown` is how people write the second class."""
  # Half of the classes must be there; these follow the two in any order.
  others = [name for name in names if name not in (first, second)][:5]
  return Case(
    videos={
      f"avi/{first}/a, b é.avi": video(3, "avi"),
      f"avi/{first}/one.mp4": video(1),
      f"avi/{first}/zero.mp4": broken("zero"),
      f"avi/{first}/cut.mp4": broken("cut"),
      f"avi/{shown}/color/uneven.mp4": uneven(),
      f"avi/{shown}/sound.mp4": broken("audio"),
      "avi/loose.mp4": video(7),
      **{f"avi/{name}/1.mp4": video(2) for name in others},
    },
    texts={"avi/readme.txt": "30 videos a class"},
    records=dict(
      sorted(
        {
          f"{first}/a, b é": ((first,), 3, f"{first}/a, b é"),
          f"{first}/one": ((first,), 1, f"{first}/one"),
          f"{second}/uneven": ((second,), 5, f"{second}/uneven"),
          **{f"{n}/1": ((n,), 2, f"{n}/1") for n in others},
        }.items()
      )
    ),
    lists={},
    # Eleven videos are there, broken ones too.
    missing=[""] * (len(names) * each - 11),
    broken=[
      f"avi/{first}/cut.mp4",
      f"avi/{first}/zero.mp4",
      f"avi/{shown}/sound.mp4",
    ],
    extra=["avi/loose.mp4"],
    notes=["files without a suffix of videos, not looked at: 1 .txt"],
  )


FOLDER = Case(
  videos={
    "day 1/run, fast.mp4": video(3),
    "day 1/Été.MP4": video(1),
    "uneven.mkv": uneven(),
    "zero.mp4": broken("zero"),
    "cut.mp4": broken("cut"),
    "sound.mp4": broken("audio"),
    "not listed.mp4": video(7),
  },
  texts={
    "my, list.csv": (
      'path,label,split\n"day 1/run, fast.mp4","running, ""fast""",train\n'
      '"day 1/run, fast.mp4",extérieur,train\nday 1/été.mp4,extérieur,test\n'
      "uneven.mkv,extérieur,train\nzero.mp4,extérieur,train\n"
      "cut.mp4,extérieur,val\nsound.mp4,extérieur,test\ngone.mp4,extérieur,val\n"
    )
  },
  records={
    "day 1/run, fast.mp4": (
      ("extérieur", 'running, "fast"'), 3, "day 1/run, fast.mp4"
    ),
    "day 1/Été.MP4": (("extérieur",), 1, "day 1/Été.MP4"),
    "uneven.mkv": (("extérieur",), 5, "uneven.mkv"),
  },
  lists={
    "train": ["day 1/run, fast.mp4", "uneven.mkv"],
    "validation": [],
    "test": ["day 1/Été.MP4"],
  },
  missing=["gone.mp4"],
  broken=["cut.mp4", "sound.mp4", "zero.mp4"],
  extra=["not listed.mp4"],
  notes=["composed: 1 video"],
  options={"csv": "my, list.csv"},
)  # fmt: skip

CASES = {
  "ucf101": UCF101,
  "hmdb51": HMDB51,
  "kinetics400": kinetics("kinetics-400_"),
  "kinetics600": kinetics("kinetics_600_"),
  "kinetics700": kinetics("k700-2020_"),
  "sports1m": SPORTS1M,
  "activitynet": ACTIVITYNET,
  "aslan": ASLAN,
  "yupenn": scenes("Beach", "Sky-Clouds", "sky clouds", 30, yupenn.CLASSES),
  "dynamic_scene": scenes(
    "Avalanche",
    "Volcanic Eruption",
    "volcano_eruption",
    10,
    dynamic_scene.CLASSES,
  ),
  "folder": FOLDER,
}


def make(name: str, case: Case, root: pathlib.Path, **more: Any) -> build.Built:
  arguments: dict[str, Any] = {"workers": 1, "progress": False, **more}
  return build.build_dataset(
    DATASETS[name], root / "in", root / "out", options=case.options, **arguments
  )


def test_every_dataset_is_here() -> None:
  assert list(CASES) == list(DATASETS)


@pytest.mark.parametrize("name", CASES)
def test_from_the_release_to_a_set(name: str, tmp_path: pathlib.Path) -> None:
  case = CASES[name]
  source = case.write(tmp_path / "in")
  lost = len(case.missing) + len(case.broken)
  # What is missing is told before anything is read, what is broken after.
  with pytest.raises(ValueError, match=rf"\b{len(case.missing)}\b") as error:
    make(name, case, tmp_path)
  assert "\n" not in str(error.value)
  assert not (tmp_path / "out").exists()
  with pytest.raises(TooManyBrokenError, match="3 videos cannot be") as error:
    make(name, case, tmp_path, max_missing=lost - 1)
  assert "\n" not in str(error.value)
  report = (built := make(name, case, tmp_path, max_missing=lost)).report
  if any(case.missing):
    assert report["missing"] == case.missing
  assert len(report["missing"]) == len(case.missing)
  assert sorted(path for path, _ in report["broken"]) == sorted(case.broken)
  assert report["extra"] == case.extra
  assert report["excluded"] == []
  assert report["records"] == len(case.records)
  assert report["listed"] == len(case.records) + lost
  for note in case.notes:
    assert any(note in line for line in report["notes"]), note
  # Each file of the source is a record, broken, or extra: none is passed over.
  videos = open_set(built.folder, "all")
  assert videos.ids() == list(case.records)
  layout = DATASETS[name].layout(build.epath.Path(source), **case.options)
  paths = {entry.id: entry.path for entry in layout.entries}
  seen = {paths[i] for i in case.records} | {*case.broken, *case.extra}
  suffixes = (".mp4", ".MP4", ".avi", ".mkv")
  assert seen == {f for f in case.videos if f.endswith(suffixes)}
  for k, (id_, (labels, frames, footage)) in enumerate(case.records.items()):
    record = videos[k]
    assert record["id"] == id_
    assert record["source_id"] == footage
    assert tuple(videos.label_names[n] for n in record["labels"]) == labels
    if frames == -1:
      assert record["num_frames"] in (3, 4)
    else:
      assert record["num_frames"] == frames
      assert record["video"] == case.videos[paths[id_]]
  assert list(report["lists"]) == list(case.lists)
  for split, ids in case.lists.items():
    assert report["lists"][split] == len(ids)
    if ids:
      assert open_set(built.folder, split).ids() == ids


def test_segments_of_activitynet(tmp_path: pathlib.Path) -> None:
  ACTIVITYNET.write(tmp_path / "in")
  built = make("activitynet", ACTIVITYNET, tmp_path, max_missing=4)
  first, second, third = (open_set(built.folder, "all")[k] for k in range(3))
  np.testing.assert_array_equal(first["segments"], [[0.5, 2], [3, 4], [9, 10]])
  assert first["segment_labels"].tolist() == [1, 0, 1]
  # [0, 0] is no segment: the whole video is, 900 ms and its last frame.
  (((start, end),)) = second["segments"].tolist()
  assert start == 0
  assert 0.9 < end < 2
  assert second["labels"].tolist() == [0]
  assert third["labels"].tolist() == second["segment_labels"].tolist() == []


def test_pairs_of_aslan(tmp_path: pathlib.Path) -> None:
  ASLAN.write(tmp_path / "in")
  sound = {k: v for k, v in ASLAN.videos.items() if k not in ASLAN.broken}
  case = dataclasses.replace(ASLAN, videos=sound)
  for path in ASLAN.broken:
    (tmp_path / "in" / path).unlink()
  lost = len(ASLAN.missing) + 3
  built = make("aslan", case, tmp_path, max_missing=lost)
  # Three of the six pairs of fold 1 have both their videos.
  assert open_set(built.folder, "fold01").document("pairs") == [
    {"fold": 1, "a": "0001", "b": "0002", "same": True},
    {"fold": 1, "a": "0003", "b": "0004", "same": False},
    {"fold": 1, "a": "0002", "b": "0004", "same": False},
  ]
  assert any("missing: 57 of 60" in note for note in built.report["notes"])


def test_aslan_without_labels(tmp_path: pathlib.Path) -> None:
  texts = {"pairs.csv": "fold,a,b,same\n1,1,2,1\n1,3,4,0\n2,1,4,0\n"}
  videos = {k: v for k, v in ASLAN.videos.items() if k not in ASLAN.broken}
  case = dataclasses.replace(ASLAN, videos=videos, texts=texts)
  case.write(tmp_path / "in")
  built = make("aslan", case, tmp_path)
  assert built.report["classes"] == 0
  assert any("have no labels" in note for note in built.report["notes"])
  videos_ = open_set(built.folder, "fold02")
  assert videos_.ids() == ["0001", "0004"]
  assert videos_.label_names == ()
  assert videos_[0]["labels"].tolist() == []
  assert [pair["fold"] for pair in videos_.document("pairs")] == [1, 1, 2]


def test_pairs_of_broken_and_excluded_videos_are_counted(
  tmp_path: pathlib.Path,
) -> None:
  ASLAN.write(tmp_path / "in")
  (tmp_path / "bad.txt").write_text("broken\tASLAN_AVI/0007.avi\n")
  lost = len(ASLAN.missing) + 2
  built = make(
    "aslan", ASLAN, tmp_path, max_missing=lost, exclude=tmp_path / "bad.txt"
  )
  # Of the six pairs of fold 1, three have 0005, 0006 and 0007 in them.
  kept = open_set(built.folder, "fold01").document("pairs")
  assert [(p["a"], p["b"]) for p in kept] == [
    ("0001", "0002"),
    ("0003", "0004"),
    ("0002", "0004"),
  ]
  assert [(p["a"], p["b"]) for p in built.report["incomplete"]["pairs"]] == [
    ("0001", "0005"),
    ("0002", "0006"),
    ("0003", "0007"),
  ]
  assert (
    "pairs left out, as a video of them is broken or excluded: 3"
    in build.summary(built).splitlines()
  )


def test_a_broken_video_of_several_pieces_counts_once(
  tmp_path: pathlib.Path,
) -> None:
  cut = {f"videos/some, folder é/{A}.mp4": broken("cut")}
  case = dataclasses.replace(SPORTS1M, videos={**SPORTS1M.videos, **cut})
  case.write(tmp_path / "in")
  with pytest.raises(TooManyBrokenError, match="4 videos cannot be read, 3"):
    make("sports1m", case, tmp_path, max_missing=4)
  built = make("sports1m", case, tmp_path, max_missing=5)
  assert sorted(p for p, _ in built.report["broken"]) == sorted(
    [*case.broken, *cut]
  )
  assert built.report["lists"] == {"train": 0, "test": 2}


def test_a_link_that_leads_nowhere_is_broken(tmp_path: pathlib.Path) -> None:
  FOLDER.write(tmp_path / "in")
  (tmp_path / "in" / "zero.mp4").unlink()
  (tmp_path / "in" / "zero.mp4").symlink_to(tmp_path / "nowhere")
  built = make("folder", FOLDER, tmp_path, max_missing=4)
  assert "zero.mp4" in dict(built.report["broken"])


@pytest.mark.parametrize("name", ["kinetics400", "sports1m", "activitynet"])
def test_a_split_of_which_nothing_is_there(
  name: str, tmp_path: pathlib.Path
) -> None:
  case = CASES[name]
  testing = {
    "kinetics400": [E],
    "sports1m": [B, C, "zero_a_bc_d", "soundonly-1", "cutoff-cut-"],
    "activitynet": [C, D, "cutoff-cut-"],
  }[name]
  kept = {
    path: content
    for path, content in case.videos.items()
    if path not in case.broken and not any(i in path for i in testing)
  }
  dataclasses.replace(case, videos=kept).write(tmp_path / "in")
  with pytest.raises(ValueError, match=f"{E}|{B}|{D}"):
    make(name, case, tmp_path)
  built = make(name, case, tmp_path, max_missing=99)
  assert built.report["lists"]["test"] == 0
  (note,) = (n for n in built.report["notes"] if n.startswith("missing:"))
  assert note.endswith(f"{len(testing)} of test (all of it)")
  assert len(open_set(built.folder, "train")) == len(case.lists["train"])
  with pytest.raises(ValueError, match="split='test': it is empty$"):
    open_set(built.folder, "test")


def test_the_command(tmp_path: pathlib.Path) -> None:
  UCF101.write(tmp_path / "in folder")
  done = p3d_command(
    *("data", "build", "ucf101", "--source", tmp_path / "in folder"),
    *("--out", tmp_path / "out", "--workers", 2, "--max-missing", 4),
  )
  assert done.returncode == 0, done.stderr
  # The folder alone, for $(p3d data build ...).
  (line,) = done.stdout.splitlines()
  assert open_set(line, "test1").ids() == UCF101.lists["test1"]
  assert pathlib.Path(line).is_relative_to(tmp_path / "out" / "ucf101")
  assert "4 records of 8" in done.stderr
  assert f"1 missing: {UCF101.missing[0]}" in done.stderr
  assert f"2 extra: {', '.join(UCF101.extra)}" in done.stderr
  for path in UCF101.broken:
    assert f"{path}: " in done.stderr
  assert "splits: all 4, train1 1, test1 3, train2 1" in done.stderr


def test_the_command_on_another_folder(tmp_path: pathlib.Path) -> None:
  FOLDER.write(tmp_path / "in")
  done = p3d_command(
    "data", "build", "hmdb51", "--source", tmp_path / "in", "--out", tmp_path
  )
  assert (done.returncode, done.stdout) == (2, "")
  (line,) = done.stderr.splitlines()
  assert line.startswith("p3d data: source=")
  assert "no CLASS_test_split1.txt to CLASS_test_split3.txt in it" in line
  assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize("name", CASES)
def test_help_says_what_the_folder_is_to_look_like(
  name: str, capsys: pytest.CaptureFixture[str]
) -> None:
  with pytest.raises(SystemExit) as done:
    main(["data", "build", name, "--help"])
  assert done.value.code == 0
  told = capsys.readouterr().out
  dataset = DATASETS[name]
  assert dataset.expects in told
  # However it is broken into lines.
  assert f"Known from: {dataset.known_from}" in " ".join(told.split())
  for option in dataset.options:
    assert f"--{option.name.replace('_', '-')} " in told
  # Each says where its layout is known from, or what of it is assumed.
  assert re.search("release|assumed|own", dataset.known_from)
