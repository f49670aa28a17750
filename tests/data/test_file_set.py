"""Files in the place of a split."""

import pathlib

import numpy as np
import pytest
from video_files import encode_video, number_of, numbered

from p3d_jax.data.clips import Views
from p3d_jax.data.file_set import FileSet
from p3d_jax.data.pipeline import eval_batches
from p3d_jax.preprocess import Preprocessing

WHOLE = Preprocessing(frames=4, resize=None, crop=(64, 96))


def write(path: pathlib.Path, start: int) -> pathlib.Path:
  """A video whose frames show the numbers from `start` on."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(encode_video(numbered(start + 9)[start:]))
  return path


def test_files_are_read_as_a_split_is(tmp_path: pathlib.Path) -> None:
  write(tmp_path / "b" / "späce, x.mp4", 3)
  write(tmp_path / "a.mp4", 20)
  (tmp_path / "b" / "broken.mp4").write_bytes(b"no video")
  (tmp_path / "notes.txt").write_text("no video, and no name of one")
  files = FileSet([tmp_path])
  assert files.ids() == ["a.mp4", "b/broken.mp4", "b/späce, x.mp4"]
  assert [files[k]["id"] for k in range(3)] == files.ids()
  batches = eval_batches(files, WHOLE, views=Views(2), batch=2, labelled=False)
  first, second = batches
  assert first["video"].tolist() == [0, 1]
  assert second["video"].tolist() == [2, -1]
  # Nine frames, clips of four: they start at 0 and at 5.
  for clips, start in ((first["clips"][0], 20), (second["clips"][0], 3)):
    shown = [[number_of(frame) for frame in clip] for clip in clips]
    assert shown == [
      list(range(start, start + 4)),
      list(range(start + 5, start + 9)),
    ]
  # 25 frames a second: the middle of frames 0 to 3, and of 5 to 8.
  np.testing.assert_allclose(first["times"][0], [0.06, 0.26], atol=1e-6)
  assert "broken.mp4" in first["problem"][1]
  assert not first["clips"][1].any()


def test_a_later_start(tmp_path: pathlib.Path) -> None:
  for k in range(5):
    write(tmp_path / f"{k}.mp4", k)
  files = FileSet([tmp_path])
  found = eval_batches(
    files, WHOLE, views=Views(1), batch=2, start=3, labelled=False
  )
  assert [batch["video"].tolist() for batch in found] == [[3, 4]]
  with pytest.raises(ValueError, match=r"^start=6: must be within 0\.\.5$"):
    eval_batches(files, WHOLE, views=Views(1), batch=2, start=6)


def test_files_that_are_named(tmp_path: pathlib.Path) -> None:
  one, other = tmp_path / "x" / "a.mp4", tmp_path / "y" / "a.mp4"
  for path in (one, other):
    write(path, 0)
  assert FileSet([one]).ids() == ["a.mp4"]
  assert FileSet([other, one]).ids() == ["y/a.mp4", "x/a.mp4"]
  with pytest.raises(ValueError, match=r"x/a\.mp4 is named twice$"):
    FileSet([one, tmp_path])
  with pytest.raises(ValueError, match="none: there is no such file$"):
    FileSet([tmp_path / "none"])
  (tmp_path / "z").mkdir()
  with pytest.raises(ValueError, match="z: no videos are there$"):
    FileSet([tmp_path / "z"])
