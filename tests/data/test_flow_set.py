import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from video_files import encode_video, footage

from p3d_jax.data import camera, flow, store
from p3d_jax.data.clips import Augment
from p3d_jax.data.flow import FlowVideo, encode_flow, flow_of
from p3d_jax.data.flow_set import make_flow_set
from p3d_jax.data.guard import Guard
from p3d_jax.data.sets import open_set

LISTS = {"train1": ["c/0", "c/2", "c/1"], "test1": ["c/3"]}
DOCUMENTS = {"pairs": [["c/0", "c/3", 1]]}
QUICK: dict[str, Any] = {"method": "dis", "workers": 1, "progress": False}


def build(folder: epath.Path, videos: list[bytes]) -> epath.Path:
  """A set of videos with two lists, a document and two segments each."""

  def make(item: int) -> dict[str, Any]:
    return {
      "video": videos[item],
      "labels": [item % 2],
      "segments": np.array([[0, 0.1], [0.125, 0.2]], np.float32),
      "segment_labels": [item % 2, 1],
      "id": f"c/{item}",
      "source_id": f"film {item // 2}",
      "num_frames": 6,
    }

  folder = folder / "clips" / "0123456789ab" / store.VERSION
  store.write_set(
    folder,
    store.Description(
      name="clips",
      text="Clips of footage.",
      label_names=("still", "moving"),
      max_labels=1,
      metadata={"flip_labels": [0, 1], "side": None},
    ),
    [f"c/{k}.mp4" for k in range(len(videos))],
    make,
    lists=LISTS,
    documents=DOCUMENTS,
    report=lambda written: {"records": len(written.ids)},
    workers=1,
    progress=False,
  )
  return folder


@pytest.fixture(scope="module")
def videos() -> list[bytes]:
  wide = [np.roll(footage(k, 6), 3 * k, axis=2) for k in range(4)]
  return [
    encode_video([np.roll(f, k * t, axis=1) for t, f in enumerate(frames)])
    for k, frames in enumerate(wide)
  ]


@pytest.fixture(scope="module")
def clips(
  videos: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> epath.Path:
  return build(epath.Path(tmp_path_factory.mktemp("clips")), videos)


@pytest.fixture(scope="module")
def flows(
  clips: epath.Path, tmp_path_factory: pytest.TempPathFactory
) -> epath.Path:
  out = tmp_path_factory.mktemp("flows")
  return make_flow_set(clips, out, bound=8, **QUICK)


def test_only_the_videos_are_others(
  clips: epath.Path, flows: epath.Path, videos: list[bytes]
) -> None:
  before, after = open_set(clips, "all"), open_set(flows, "all")
  assert (before.channels, after.channels) == ("RGB", "flow")
  assert after.label_names == ("still", "moving")
  assert after.flip_labels == (0, 1)
  assert len(after) == len(before) == 4
  for k in range(4):
    record, expected = after[k], before[k]
    made = encode_flow(videos[k], "dis", 8)
    assert record.pop("video") == made["video"]
    assert record.pop("num_frames") == 5
    for name in ("video", "num_frames"):
      del expected[name]
    np.testing.assert_equal(record, expected)
  for name, ids in LISTS.items():
    assert open_set(flows, name).ids() == ids
  assert after.document("pairs") == DOCUMENTS["pairs"]


def test_the_set_says_what_it_is(clips: epath.Path, flows: epath.Path) -> None:
  info: Any = tfds.builder_from_directory(flows).info
  assert info.name == "clips_flow"
  assert info.metadata["bound"] == 8
  assert info.metadata["method"] == "dis"
  assert info.metadata["flow_side"] is None
  assert info.description == "Optical flow of: Clips of footage."
  report = json.loads((flows / "report.json").read_text())
  assert (report["listed"], report["records"], report["broken"]) == (4, 4, [])
  assert report["lists"] == {"train1": 3, "test1": 1}
  assert report["source"] == str(clips)


def test_found_again_and_never_for_another(
  clips: epath.Path, flows: epath.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  out = flows.parent.parent.parent
  stamp = (flows / "report.json").stat().mtime
  with monkeypatch.context() as patched:
    # Nothing is computed where it is there.
    patched.setattr("p3d_jax.data.flow_set._record", None)
    assert make_flow_set(clips, out, bound=8, **QUICK) == flows
  assert (flows / "report.json").stat().mtime == stamp
  others = [
    make_flow_set(clips, out, bound=4, **QUICK),
    make_flow_set(clips, out, bound=8, side=48, **QUICK),
  ]
  assert len({flows, *others}) == 3
  assert FlowVideo(open_set(others[1], "all")[0]["video"]).info.height == 48


def test_a_broken_video_is_left_out_if_allowed(
  videos: list[bytes], tmp_path: Any
) -> None:
  source = build(epath.Path(tmp_path), [*videos[:3], b"no video"])
  out = tmp_path / "out"
  with pytest.raises(
    ValueError, match="1 video.* cannot be read, 0 may be: c/3"
  ):
    make_flow_set(source, out, **QUICK)
  with pytest.raises(ValueError, match="not finished"):
    open_set(out, "all")
  made = make_flow_set(source, out, max_broken=1, **QUICK)
  assert open_set(made, "all").ids() == ["c/0", "c/1", "c/2"]
  report = json.loads((made / "report.json").read_text())
  assert [name for name, _ in report["broken"]] == ["c/3"]
  assert report["lists"] == {"train1": 3, "test1": 0}


def test_time_is_for_each_frame(
  clips: epath.Path, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
  given: list[float | None] = []
  true_call = Guard.call

  def call(self: Guard, function: str, *args: Any, **kwargs: Any) -> Any:
    given.append(self.timeout)
    return true_call(self, function, *args, **kwargs)

  monkeypatch.setattr(Guard, "call", call)
  make_flow_set(clips, tmp_path, timeout=50.0, **QUICK)
  videos = open_set(clips, "all")
  frames = [videos[k]["num_frames"] for k in range(len(videos))]
  assert given == [50.0 * count for count in frames]


def test_flow_shows_how_the_camera_moves(built: Any, tmp_path: Any) -> None:
  """A set that TFDS wrote, of camera_motion, whose labels are the motion."""
  made = make_flow_set(built, tmp_path, bound=8, **QUICK)
  train = open_set(made, "train")
  assert train.ids() == open_set(built, "train").ids()
  assert len(open_set(made, "test")) == 16
  assert train.flip_labels == camera.FLIP_LABELS
  # What is seen moves against the camera.
  signs = {
    "pan_left": (0, 1),
    "pan_right": (0, -1),
    "pan_up": (1, 1),
    "pan_down": (1, -1),
  }
  found: dict[str, list[float]] = {name: [] for name in signs}
  for k in range(len(train)):
    record = train[k]
    name = train.label_names[record["labels"][0]]
    if name in signs:
      frames = FlowVideo(record["video"]).read(range(record["num_frames"]))
      axis, sign = signs[name]
      found[name].append(sign * float(np.median(flow_of(frames, 8)[..., axis])))
  # Pans are of 1.5 to 4 pixels; the least is half of it, as some of the view
  # may be flat.
  for name, motions in found.items():
    assert len(motions) == 3, name
    assert min(motions) > 0.75, (name, motions)


def test_mirroring_turns_a_pan_round(built: Any) -> None:
  videos = open_set(built, "train")
  record = next(
    r
    for r in (videos[k] for k in range(len(videos)))
    if camera.LABELS[r["labels"][0]] == "pan_left"
  )
  encoded = encode_flow(record["video"], "dis", 8)["video"]
  frames = FlowVideo(encoded).read(range(11))
  flips = [
    Augment(random_crop=False, flip=True)(
      frames, (32, 32), np.random.default_rng(seed)
    )
    for seed in range(10)
  ]
  medians = {
    flipped: np.median(flow_of(clip, 8)[..., 0]) for clip, flipped in flips
  }
  assert medians[True] == -medians[False] < 0


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"workers": 0}, "workers=0: must be >= 1"),
    ({"max_broken": -1}, "max_broken=-1: must be >= 0"),
    ({"bound": -1.0}, "bound=-1.0: must be a finite number > 0"),
    ({"method": "none"}, "method='none': must be one of"),
    ({"timeout": 0.0}, "timeout=0.0: must be > 0"),
  ],
  ids=["workers", "max_broken", "bound", "method", "timeout"],
)
def test_mistakes_are_named_before_anything_is_written(
  clips: epath.Path, tmp_path: Any, options: dict[str, Any], message: str
) -> None:
  with pytest.raises(ValueError, match=message):
    make_flow_set(clips, tmp_path / "out", **{**QUICK, **options})
  assert not (tmp_path / "out").exists()


def test_flow_of_flow_is_refused(flows: epath.Path, tmp_path: Any) -> None:
  with pytest.raises(ValueError, match="must be a set of videos"):
    make_flow_set(flows, tmp_path, **QUICK)


def test_without_opencv_nothing_is_written(
  clips: epath.Path, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setitem(sys.modules, "cv2", None)
  with pytest.raises(ValueError, match=r"p3d_jax\[flow\]"):
    make_flow_set(clips, tmp_path / "out", **QUICK)
  assert not (tmp_path / "out").exists()


def test_the_child_imports_little() -> None:
  # It starts for each worker, and again after each crash.
  code = f"import sys, {flow.__name__}; print(*sys.modules)"
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  heavy = {"jax", "tensorflow_datasets", "grain", "tensorflow", "cv2", "torch"}
  assert not heavy & set(done.stdout.split())


def test_what_is_about_a_lost_video_is_left_out(
  clips: epath.Path, tmp_path: Any
) -> None:
  """As a pair of ASLAN, of which one video gives no flow."""
  videos = open_set(clips, "all")
  records = [dict(videos[k]) for k in range(len(videos))]
  records[3]["video"] = b"damaged"
  ids = [record["id"] for record in records]
  pairs = [[ids[0], ids[1]], [ids[2], ids[3]]]
  folder = epath.Path(tmp_path / "source")
  store.write_set(
    folder,
    store.Description("pairs", "", videos.label_names),
    ids,
    lambda k: records[k],
    lists={},
    documents={"pairs": pairs},
    needs={"pairs": pairs},
    report=lambda written: {},
    workers=1,
    progress=False,
  )
  assert open_set(folder, "all").document("pairs") == pairs
  made = make_flow_set(folder, tmp_path / "out", max_broken=1, **QUICK)
  assert open_set(made, "all").document("pairs") == pairs[:1]
  report = json.loads((made / "report.json").read_text())
  assert report["incomplete"] == {"pairs": pairs[1:]}
