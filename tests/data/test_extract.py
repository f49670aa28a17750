import pathlib
from typing import Any

import av
import pytest

from p3d_jax.data.extract import extract
from p3d_jax.data.sets import VideoSet


class _Named:
  """A set of one video whose id would lead out of the folder."""

  split = "test"
  label_names = ("a/b", "c")

  def __init__(self, video: bytes) -> None:
    self._record = {"video": video, "labels": [0, 1], "id": "../../x y"}

  def __len__(self) -> int:
    return 1

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self._record


def test_the_files_are_the_stored_videos(
  train_set: VideoSet, tmp_path: pathlib.Path
) -> None:
  files = extract(train_set, 3, tmp_path / "out")
  assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
    f.name for f in files
  )
  for index, file in enumerate(files):
    record = train_set[index]
    assert file.read_bytes() == record["video"]
    label = train_set.label_names[int(record["labels"][0])]
    assert file.name == f"{label}-{record['id']}.mp4"
    with av.open(str(file)) as container:  # a player can open it
      assert len(list(container.decode(video=0))) == record["num_frames"]


def test_a_name_never_leaves_the_folder(
  train_set: VideoSet, tmp_path: pathlib.Path
) -> None:
  named: Any = _Named(train_set[0]["video"])
  (file,) = extract(named, 1, tmp_path / "out")
  assert file.name == "a_b+c-.._.._x_y.mp4"
  assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("count", [0, 25])
def test_a_count_that_is_not_there(
  train_set: VideoSet, tmp_path: pathlib.Path, count: int
) -> None:
  with pytest.raises(ValueError, match=f"count={count}: must be between 1 and"):
    extract(train_set, count, tmp_path / "out")
  assert not (tmp_path / "out").exists()
