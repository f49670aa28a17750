import pathlib
from typing import Any

import av
import pytest

from p3d_jax.data.extract import extract
from p3d_jax.data.sets import VideoSet


class _Named:
  """A set of one video under some ids."""

  split = "test"
  label_names = ("a/b", "c")

  def __init__(self, video: bytes, *ids: str) -> None:
    self._video, self._ids = video, ids

  def __len__(self) -> int:
    return len(self._ids)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {"video": self._video, "labels": [0, 1], "id": self._ids[index]}


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
    assert file.name == f"{index:06d}-{label}-{record['id']}.mp4"
    with av.open(str(file)) as container:  # a player can open it
      assert len(list(container.decode(video=0))) == record["num_frames"]


def test_a_name_never_leaves_the_folder(
  train_set: VideoSet, tmp_path: pathlib.Path
) -> None:
  named: Any = _Named(train_set[0]["video"], "../../x y")
  (file,) = extract(named, 1, tmp_path / "out")
  assert file.name == "000000-a_b+c-.._.._x_y.mp4"
  assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_names_that_are_long_or_alike_stay_apart(
  train_set: VideoSet, tmp_path: pathlib.Path
) -> None:
  ids = ("x/y", "x y", "x_y", "l" * 300 + "a", "l" * 300 + "b", "\u00fc" * 190)
  named: Any = _Named(train_set[0]["video"], *ids)
  files = extract(named, len(ids), tmp_path)
  assert len({file.name for file in files}) == len(ids)
  assert len(list(tmp_path.iterdir())) == len(ids)
  for file in files:
    assert len(file.name.encode()) <= 200
    assert file.suffix == ".mp4"


@pytest.mark.parametrize("count", [0, 25])
def test_a_count_that_is_not_there(
  train_set: VideoSet, tmp_path: pathlib.Path, count: int
) -> None:
  with pytest.raises(ValueError, match=f"count={count}: must be between 1 and"):
    extract(train_set, count, tmp_path / "out")
  assert not (tmp_path / "out").exists()
