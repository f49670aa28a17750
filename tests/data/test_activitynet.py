"""ActivityNet v1.3: its json against files, with what is wrong in it."""

import copy
import json
import pathlib
from typing import Any

import pytest
from etils import epath

from p3d_jax.data.builders import activitynet

# The form of the release's file: a leaf has no node that names it as parent.
DOCUMENT: dict[str, Any] = {
  "version": "VERSION 1.3",
  "taxonomy": [
    {"nodeId": 0, "nodeName": "Root", "parentId": None, "parentName": None},
    {"nodeId": 9, "nodeName": "Sports", "parentId": 0, "parentName": "Root"},
    {"nodeId": 2, "nodeName": "Zumba", "parentId": 9, "parentName": "Sports"},
    {"nodeId": 1, "nodeName": "Archery", "parentId": 9, "parentName": "Sports"},
    {
      "nodeId": 5,
      "nodeName": "Making a lemonade",
      "parentId": 0,
      "parentName": "Root",
    },
  ],
  "database": {
    "-1EC1ZP6aC4": {
      "duration": 100.5,
      "subset": "training",
      "resolution": "320x240",
      "url": "https://www.youtube.com/watch?v=-1EC1ZP6aC4",
      "annotations": [
        {"label": "Zumba", "segment": [50.25, 60.0]},
        {"label": "Archery", "segment": [0.01, 10.5]},
        {"label": "Zumba", "segment": [70, 100.5]},
      ],
    },
    "v_under_0abc": {
      "duration": 20.0,
      "subset": "validation",
      "url": "https://www.youtube.com/watch?v=v_under_0abc",
      "annotations": [{"label": "Archery", "segment": [2.0, 3.0]}],
    },
    "TestVideo01": {
      "duration": 33.3,
      "subset": "testing",
      "url": "https://www.youtube.com/watch?v=TestVideo01",
      "annotations": [],
    },
    "IsMissing_1": {
      "duration": 9.0,
      "subset": "validation",
      "url": "https://www.youtube.com/watch?v=IsMissing_1",
      "annotations": [{"label": "Making a lemonade", "segment": [1, 2]}],
    },
  },
}


def put(root: pathlib.Path, *names: str) -> None:
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"a")


def lay(root: pathlib.Path, document: Any) -> activitynet.Layout:
  text = document if isinstance(document, str) else json.dumps(document)
  (root / "json").mkdir(exist_ok=True)
  (root / "json" / activitynet.ANNOTATIONS).write_text(text)
  return activitynet.layout(epath.Path(root))


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
  put(
    tmp_path,
    "v1-3/train_val/v_-1EC1ZP6aC4.mkv",
    "v1-3/train_val/v_under_0abc.mp4",
    "v1-3/test/v_TestVideo01.webm",
  )
  return tmp_path


def changed(video: str, **fields: Any) -> dict[str, Any]:
  document = copy.deepcopy(DOCUMENT)
  document["database"][video] |= fields
  return document


def test_records_segments_and_lists(tree):
  made = lay(tree, DOCUMENT)
  # The leaves by name; "Sports" and "Root" are parents.
  assert made.label_names == ("Archery", "Making a lemonade", "Zumba")
  first, second, third = made.entries
  assert first.path == "v1-3/train_val/v_-1EC1ZP6aC4.mkv"
  assert first.labels == (0, 2)
  assert first.segments == ((50.25, 60.0), (0.01, 10.5), (70.0, 100.5))
  assert first.segment_labels == (2, 0, 2)
  assert (second.id, second.labels) == ("v_under_0abc", (0,))
  assert (third.labels, third.segments, third.segment_labels) == ((), (), ())
  assert made.lists == {
    "train": ("-1EC1ZP6aC4",),
    "validation": ("v_under_0abc",),
    "test": ("TestVideo01",),
  }
  assert made.missing == ("IsMissing_1",)
  assert made.extra == ()
  assert made.files == ("json/activity_net.v1-3.min.json",)
  assert "missing: 1 of validation" in made.notes
  told = " ".join(made.notes)
  assert "min.json: 1 training, 2 validation, 1 testing; the" in told
  assert "classes in the lists: 3; the release has 200" in told
  assert "segment" not in told


@pytest.mark.parametrize(
  ("segment", "kept", "note"),
  [
    # As in the release: video ZZVrH3Hv1fM has [0, 0].
    pytest.param(
      [0, 0], (), "left out that end where they start or before: 1", id="empty"
    ),
    pytest.param(
      [8, 7.5], (), "that end where they start or before: 1", id="reversed"
    ),
    pytest.param(
      [20.0, 21],
      (),
      "left out that lie beyond the video's duration: 1",
      id="after-the-end",
    ),
    pytest.param(
      [-3, 0],
      (),
      "left out that lie beyond the video's duration: 1",
      id="before-the-start",
    ),
    pytest.param(
      [15, 20.26], ((15, 20),), "duration ends or starts: 1", id="over-the-end"
    ),
    pytest.param(
      [-1, 5], ((0, 5),), "duration ends or starts: 1", id="over-the-start"
    ),
    pytest.param([0.01, 0.02], ((0.01, 0.02),), "", id="short-but-usable"),
  ],
)
def test_segments_that_the_video_does_not_have(tree, segment, kept, note):
  document = changed(
    "v_under_0abc", annotations=[{"label": "Zumba", "segment": segment}]
  )
  made = lay(tree, document)
  entry = made.entries[1]
  assert entry.segments == kept
  assert entry.segment_labels == (2,) * len(kept)
  # The video shows what it is annotated with, whatever the segment says.
  assert entry.labels == (2,)
  told = " ".join(made.notes)
  assert note in told
  assert ("count as labelled throughout: 1" in told) == (not kept)
  if not note:
    assert "segments" not in told


def test_training_videos_without_annotations_are_counted(tree):
  made = lay(tree, changed("-1EC1ZP6aC4", annotations=[]))
  assert made.entries[0].labels == ()
  assert any(
    note.endswith("validation videos without annotations and labels: 1")
    for note in made.notes
  )


def test_names_of_files(tree):
  put(
    tree,
    "a/v_-1EC1ZP6aC4.mp4",  # by path before the one in v1-3/
    "v_v_under_0abc.mp4",
    "v_ismissing_1.mp4",  # another case: another video
    "v_IsMissing_1 (1).mp4",
    "été, 2016/film.mp4",
  )
  made = lay(tree, DOCUMENT)
  assert made.missing == ("IsMissing_1",)
  assert [entry.path for entry in made.entries] == [
    "a/v_-1EC1ZP6aC4.mp4",
    "v1-3/train_val/v_under_0abc.mp4",
    "v1-3/test/v_TestVideo01.webm",
  ]
  assert made.extra == (
    "v1-3/train_val/v_-1EC1ZP6aC4.mkv",
    "v_IsMissing_1 (1).mp4",
    "v_ismissing_1.mp4",
    "v_v_under_0abc.mp4",
    "été, 2016/film.mp4",
  )
  assert any(
    note.endswith(
      ": 2 files, such as v1-3/train_val/v_-1EC1ZP6aC4.mkv of -1EC1ZP6aC4"
    )
    for note in made.notes
  )
  put(tree, "été, 2016/A title [IsMissing_1].webm")
  made = lay(tree, DOCUMENT)
  assert made.missing == ()
  paths = {entry.id: entry.path for entry in made.entries}
  assert paths["IsMissing_1"] == "été, 2016/A title [IsMissing_1].webm"
  put(tree, "IsMissing_1.mp4")
  paths = {entry.id: entry.path for entry in lay(tree, DOCUMENT).entries}
  assert paths["IsMissing_1"] == "IsMissing_1.mp4"


@pytest.mark.parametrize(
  ("document", "message"),
  [
    pytest.param(
      changed("TestVideo01", subset="test"),
      r"video 'TestVideo01': subset must be one of training, .* is 'test'",
      id="subset",
    ),
    pytest.param(
      changed("TestVideo01", duration="33"),
      r"'TestVideo01': duration must be a number of seconds, and is '33'",
      id="duration",
    ),
    pytest.param(
      changed(
        "TestVideo01", annotations=[{"label": "Sports", "segment": [1, 2]}]
      ),
      r"label 'Sports' is no leaf of 'taxonomy'",
      id="label-is-a-parent",
    ),
    pytest.param(
      changed("TestVideo01", annotations=[{"label": "Zumba", "segment": [1]}]),
      r"'TestVideo01': an annotation must have a label and a segment",
      id="segment",
    ),
    pytest.param(
      changed(
        "TestVideo01",
        annotations=[{"label": "Zumba", "segment": [1, float("nan")]}],
      ),
      r"'TestVideo01': an annotation must have",
      id="not-a-number",
    ),
    pytest.param(
      json.dumps(DOCUMENT).replace("IsMissing_1", "TestVideo01"),
      r"min\.json: 'TestVideo01' must come once, comes 2 times",
      id="one-id-two-records",
    ),
    pytest.param(
      json.dumps(DOCUMENT, indent=1)[:-1] + "]",
      r"min\.json:\d+: not JSON",
      id="not-json",
    ),
    pytest.param(
      {"database": {}}, r"'database' and a list 'taxonomy'", id="no-taxonomy"
    ),
    pytest.param(
      {"database": {}, "taxonomy": []}, r"'database' must name", id="empty"
    ),
  ],
)
def test_bad_annotations_are_one_line(tree, document, message):
  with pytest.raises(ValueError, match=message) as error:
    lay(tree, document)
  assert "\n" not in str(error.value)


def test_no_annotations_and_no_videos(tmp_path):
  with pytest.raises(
    ValueError, match=r"no activity_net\.v1-3\.min\.json in it or in a folder"
  ):
    activitynet.layout(epath.Path(tmp_path))
  put(tmp_path, "v_another.mp4")
  with pytest.raises(
    ValueError,
    match=r"none of the videos .* is v_ID.* the lists: 4, of the folder: 1",
  ):
    lay(tmp_path, DOCUMENT)
