"""A folder of footage, and a small set built of it."""

from typing import Any

import pytest
from video_files import encode_video, footage

from p3d_jax.data.builders import camera_motion
from p3d_jax.data.sets import VideoSet, open_set


@pytest.fixture(scope="session")
def footage_folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
  """Five videos of footage, one with a space in its name, and a text file."""
  folder = tmp_path_factory.mktemp("footage")
  for k in range(5):
    data = encode_video(footage(k))
    (folder / f"film {k}.mp4").write_bytes(data)
  (folder / "notes.txt").write_text("not a video")
  return folder


@pytest.fixture(scope="session")
def built(footage_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
  """A set of 24 + 16 videos of 12 frames, 32x32 pixels."""
  return camera_motion.build_camera_motion(
    tmp_path_factory.mktemp("sets"),
    footage_folder,
    train_videos=24,
    test_videos=16,
    size=32,
    frames=12,
    progress=False,
  )


@pytest.fixture(scope="session")
def train_set(built: Any) -> VideoSet:
  return open_set(built, "train")


@pytest.fixture(scope="session")
def held_out_set(built: Any) -> VideoSet:
  return open_set(built, "test")
