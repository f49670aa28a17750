import pathlib
from typing import Any

import av
import pytest
from video_files import encode_video, footage

from p3d_jax.data.extract import extract
from p3d_jax.data.sets import VideoSet


class _Named:
  """A set of one video under some ids."""

  split = "test"
  label_names = ("a/b", "c")

  def __init__(self, video: bytes, *ids: str) -> None:
    self._video, self._ids = video, ids
    self.labels = [0, 1]

  def __len__(self) -> int:
    return len(self._ids)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {"video": self._video, "labels": self.labels, "id": self._ids[index]}


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


@pytest.mark.parametrize(
  ("name", "stem"),
  [
    ("l'\u00e9t\u00e9 a", "l_\u00e9t\u00e9_a"),
    ("e\u0301te\u0301", "e\u0301te\u0301"),  # as macOS writes it
    ("\u6253\u592a\u6781", "\u6253\u592a\u6781"),
    ("\u0939\u093f\u0902", "\u0939\u093f\u0902"),  # vowels are marks
    ("\U0001f600 7", "\U0001f600_7"),
    ("a\tb\nc\x00d\u202ee\ud800f", "a_b_c_d_e_f"),
    ('a\\b:c*d?e"f<g>h|i$j`k', "a_b_c_d_e_f_g_h_i_j_k"),
  ],
  ids=[
    "accents", "composed", "Chinese", "Hindi", "emoji", "unseen", "signs",
  ],
)  # fmt: skip
def test_letters_of_any_script_stay(
  train_set: VideoSet, tmp_path: pathlib.Path, name: str, stem: str
) -> None:
  named: Any = _Named(train_set[0]["video"], name)
  (file,) = extract(named, 1, tmp_path)
  assert file.name == f"000000-a_b+c-{stem}.mp4"


@pytest.mark.parametrize(
  ("container", "name", "end"),
  [
    ("mp4", "IMG_0001.MOV", "IMG_0001.MOV"),
    ("mp4", "deep/x.mp4", "deep_x.mp4"),
    ("mp4", "x.m4v", "x.m4v"),
    ("mp4", "v. 1", "v._1.mp4"),
    ("mp4", "x.avi", "x.avi.mp4"),  # it was encoded again
    ("ogg", "x.ogv", "x.ogv"),
    ("mpeg", "x.mpg", "x.mpg"),
    ("mpeg", "x", "x.mpg"),
    ("mpegts", "x", "x.ts"),
    ("matroska", "x.webm", "x.webm"),
    ("matroska", "x", "x.mkv"),
    ("asf", "x", "x.wmv"),
  ],
  ids=lambda value: value,
)
def test_suffixes(
  tmp_path: pathlib.Path, container: str, name: str, end: str
) -> None:
  codecs = {"mpeg": "mpeg2video", "mpegts": "mpeg2video", "ogg": "libvpx"}
  codec = codecs.get(container, "mpeg4")
  video = encode_video(footage(0, 3), container=container, codec=codec)
  named: Any = _Named(video, name)
  (file,) = extract(named, 1, tmp_path)
  assert file.name == f"000000-a_b+c-{end}"


def test_a_video_without_labels(
  train_set: VideoSet, tmp_path: pathlib.Path
) -> None:
  named: Any = _Named(train_set[0]["video"], "x")
  named.labels = []
  (file,) = extract(named, 1, tmp_path)
  assert file.name == "000000-x.mp4"


def test_names_that_are_long_or_alike_stay_apart(
  train_set: VideoSet, tmp_path: pathlib.Path
) -> None:
  ids = ("x/y", "x y", "x_y", "l" * 300 + "a.mp4", "l" * 300 + "b") + tuple(
    "a" * k + "\u6253" * 190 for k in range(3)
  )
  named: Any = _Named(train_set[0]["video"], *ids)
  files = extract(named, len(ids), tmp_path)
  assert len({file.name for file in files}) == len(ids)
  assert len(list(tmp_path.iterdir())) == len(ids)
  for file in files:
    assert len(file.name.encode()) <= 200
    assert file.suffix == ".mp4"
  # Characters of 3 bytes: at most 2 bytes are left, and none is cut through.
  for file in files[-3:]:
    assert len(file.name.encode()) >= 198
    assert set(file.name[:-4].lstrip("0-1234567ab_+c")) == {"\u6253"}


def test_a_split_that_has_fewer_is_written_whole(
  train_set: VideoSet, tmp_path: pathlib.Path
) -> None:
  assert len(extract(train_set, 100, tmp_path)) == len(train_set) == 24


def test_a_count_of_none(train_set: VideoSet, tmp_path: pathlib.Path) -> None:
  with pytest.raises(ValueError, match="count=0: must be >= 1"):
    extract(train_set, 0, tmp_path / "out")
  assert not (tmp_path / "out").exists()
