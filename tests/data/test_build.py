"""Folders of real videos, with every trap in them, to built sets."""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from etils import epath
from lookalikes import audio_only
from video_files import encode_video, footage, number_of, numbered

from p3d_jax.data import store
from p3d_jax.data.builders import build
from p3d_jax.data.builders.layout import (
  Cut,
  Dataset,
  Entry,
  Layout,
  Option,
  match,
  videos_under,
)
from p3d_jax.data.builders.table import DATASETS
from p3d_jax.data.decode import read_frames
from p3d_jax.data.sets import open_set

FOLDER = DATASETS["folder"]
GOOD = encode_video(numbered(20), audio=True)
OLD = encode_video(numbered(40), container="avi", codec="mpeg4")  # 7.7 kB
AUDIO = "audio only.mp4"


# Name -> bytes, and the words of the error or None.
TRAPS: dict[str, tuple[bytes, str | None]] = {
  "plain.mp4": (GOOD, None),
  "blanks, commas; and 'quotes'.mp4": (GOOD, None),
  "日本語 é.mkv": (encode_video(numbered(15), container="matroska"), None),
  "capital.MP4": (GOOD, None),
  "one frame.mp4": (encode_video(numbered(1)), None),
  "uneven.mp4": (
    encode_video(numbered(5), times=[0, 40, 300, 340, 900]), None,
  ),
  "old.avi": (
    encode_video(numbered(9), container="avi", codec="mpeg4"), None,
  ),
  "zero.mp4": (b"", "0 bytes"),
  "cut off.mp4": (GOOD[: len(GOOD) // 2], "holds no video"),
  "cut off.avi": (
    OLD[:6500], "truncated",
  ),
  AUDIO: (audio_only(), "no video"),
  "text.mp4": (b"I am no video.\n" * 20, "Invalid data"),
}  # fmt: skip
BROKEN = sorted(name for name, (_, error) in TRAPS.items() if error)
SOUND = sorted(set(TRAPS) - set(BROKEN))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """One class of all traps, a class of one more, and a video of no class."""
  root = tmp_path_factory.mktemp("source")
  for folder in ("traps", "class, with a comma"):
    (root / folder).mkdir()
  for name, (content, _) in TRAPS.items():
    (root / "traps" / name).write_bytes(content)
  (root / "class, with a comma" / "one.mp4").write_bytes(GOOD)
  (root / "stray.mp4").write_bytes(GOOD)
  (root / "notes.txt").write_text("no video, and not looked at")
  return root


def run(source: pathlib.Path, out: pathlib.Path, **more: Any) -> build.Built:
  arguments = {"workers": 2, "progress": False, **more}
  return build.build_dataset(FOLDER, source, out, **arguments)


def test_every_trap_is_counted(
  source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  with pytest.raises(store.TooManyBrokenError) as caught:
    run(source, tmp_path)
  assert f"{len(BROKEN)} videos cannot be read, 0 may be" in str(caught.value)
  assert "\n" not in str(caught.value)
  with pytest.raises(store.TooManyBrokenError):
    run(source, tmp_path, max_missing=len(BROKEN) - 1)
  built = run(source, tmp_path, max_missing=len(BROKEN))
  report = built.report
  assert report["listed"] == len(TRAPS) + 1
  assert report["records"] == len(SOUND) + 1
  assert report["extra"] == ["stray.mp4"]
  assert report["missing"] == []
  broken = dict(report["broken"])
  assert sorted(broken) == [f"traps/{name}" for name in BROKEN]
  for name in BROKEN:
    expected = TRAPS[name][1]
    assert expected is not None
    with pytest.raises(ValueError, match=expected):
      raise ValueError(broken[f"traps/{name}"])
    assert str(source) not in broken[f"traps/{name}"]
  # What is left is whole: the bytes of the files, each once.
  videos = open_set(built.folder, "all")
  ids = videos.ids()
  assert len(set(ids)) == len(ids) == len(SOUND) + 1
  for k in range(len(videos)):
    record = videos[k]
    file = source / record["id"]
    assert record["video"] == file.read_bytes()
    label = videos.label_names[int(record["labels"][0])]
    assert label == file.parent.name
    if file.name in TRAPS:
      counts = {"one frame.mp4": 1, "uneven.mp4": 5, "old.avi": 9}
      counts["日本語 é.mkv"] = 15
      assert record["num_frames"] == counts.get(file.name, 20)
  # The splits hold every record, and no more.
  both = (
    open_set(built.folder, "train").ids() + open_set(built.folder, "test").ids()
  )
  assert sorted(both) == sorted(ids)


def test_what_is_excluded_is_counted_and_not_missing(
  source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  exclude = tmp_path / "bad.txt"
  exclude.write_text(
    "# a comment\n" + "".join(f"broken\ttraps/{n}\n" for n in BROKEN)
  )
  built = run(source, tmp_path / "out", exclude=exclude)
  assert built.report["excluded"] == [f"traps/{name}" for name in BROKEN]
  assert built.report["broken"] == []
  assert built.report["records"] == len(SOUND) + 1
  # A name that is no listed video is told, and is no error: check lists extra
  # ones too, and people delete what it lists.
  exclude.write_text(
    exclude.read_text() + "broken\tno/such.mp4\nempty\tstray.mp4\n"
  )
  again = run(source, tmp_path / "out", exclude=exclude)
  assert again.folder == built.folder
  exclude.write_text("traps/plain.mp4\nno/such.mp4\n")
  other = run(
    source, tmp_path / "out", exclude=exclude, max_missing=len(BROKEN)
  )
  assert other.report["excluded"] == ["traps/plain.mp4"]
  assert (
    "names of --exclude that are no listed video: 1, such as no/such.mp4"
    in other.report["notes"]
  )


def test_the_set_is_keyed_by_its_source(
  source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  small = tmp_path / "small"
  for name in ("a", "b"):
    (small / name).mkdir(parents=True)
    (small / name / "1.mp4").write_bytes(GOOD)
  first = run(small, tmp_path / "out").folder
  assert run(small, tmp_path / "out").folder == first
  assert run(small, tmp_path / "out", side=32).folder != first
  assert (
    run(small, tmp_path / "out", options={"test_share": 0.0}).folder != first
  )
  moved = tmp_path / "moved"
  os.rename(small, moved)
  assert run(moved, tmp_path / "out").folder == first
  (moved / "b" / "1.mp4").write_bytes(encode_video(footage(3)))
  assert run(moved, tmp_path / "out").folder != first


def test_a_set_that_is_found_reports_the_source_of_now(
  tmp_path: pathlib.Path,
) -> None:
  (tmp_path / "in" / "a").mkdir(parents=True)
  (tmp_path / "in" / "a" / "1.mp4").write_bytes(GOOD)
  first = run(tmp_path / "in", tmp_path / "out")
  assert first.report["extra"] == []
  (tmp_path / "in" / "stray.mp4").write_bytes(GOOD)
  again = run(tmp_path / "in", tmp_path / "out")
  assert again.folder == first.folder
  assert again.report["extra"] == ["stray.mp4"]
  assert again.report["bytes"] == first.report["bytes"] > 0


def test_re_encoding_keeps_frames_and_short_side(
  tmp_path: pathlib.Path,
) -> None:
  (tmp_path / "in" / "a").mkdir(parents=True)
  long = encode_video(numbered(30, 128, 160), gop=250)
  (tmp_path / "in" / "a" / "1.mp4").write_bytes(long)
  built = run(tmp_path / "in", tmp_path / "out", side=64)
  record = open_set(built.folder, "all")[0]
  frames = read_frames(record["video"])
  assert frames.shape == (30, 64, 80, 3)
  # numbered() draws blocks of 16 pixels, which are 8 now.
  large = frames.repeat(2, axis=1).repeat(2, axis=2)
  assert [number_of(frame) for frame in large] == list(range(30))
  assert record["num_frames"] == 30
  assert open_set(built.folder, "all")._builder.info.metadata["side"] == 64


def listed(source: epath.Path, *, shift: int) -> Layout:
  """A dataset whose list names three videos, one of which is not there."""
  videos = videos_under(source)
  found = match(["a.mp4", "b.mp4", "gone.mp4"], videos)
  entries = tuple(
    Entry(
      id=name,
      path=path,
      labels=(0, 1),
      segments=((0.1, 0.4), (0.5, 0.7)),
      segment_labels=(1, 0),
      source_id="film",
      cut=Cut(0.4, (shift, k)) if name == "b.mp4" else None,
    )
    for k, (name, path) in enumerate(found.found.items())
  )
  return Layout(
    entries=entries,
    label_names=("x", "y"),
    lists={"fold01": ("b.mp4", "a.mp4"), "fold02": ("a.mp4",)},
    missing=found.missing,
    extra=tuple(v for v in videos if v not in found.found.values()),
    notes=(f"{found.respelled} respelled",),
    documents={"pairs": [["a.mp4", "b.mp4"]]},
  )


LISTED = Dataset(
  name="listed",
  title="three videos",
  expects="",
  known_from="",
  lists="",
  layout=listed,
  options=(Option("shift", int, 0, "", choices=(0, 1, 2)),),
)


def build_listed(tmp_path: pathlib.Path, **more: Any) -> build.Built:
  source = tmp_path / "in"
  source.mkdir(parents=True, exist_ok=True)
  for name in ("A.mp4", "b.mp4", "more.mp4"):
    (source / name).write_bytes(encode_video(numbered(25)))
  arguments = {"workers": 1, "progress": False, **more}
  return build.build_dataset(LISTED, source, tmp_path / "out", **arguments)


def test_lists_labels_segments_and_pieces(tmp_path: pathlib.Path) -> None:
  with pytest.raises(
    ValueError, match="^1 video missing, --max-missing is 0: gone.mp4$"
  ):
    build_listed(tmp_path)
  assert not (tmp_path / "out").exists()
  built = build_listed(tmp_path, max_missing=1)
  assert built.report["missing"] == ["gone.mp4"]
  assert built.report["extra"] == ["more.mp4"]
  assert built.report["notes"] == ["1 respelled"]
  assert built.report["lists"] == {"fold01": 2, "fold02": 1}
  first, second = (
    open_set(built.folder, "fold01"),
    open_set(built.folder, "fold02"),
  )
  assert first.ids() == ["b.mp4", "a.mp4"]
  whole = second[0]
  assert whole["labels"].tolist() == [0, 1]
  assert whole["segment_labels"].tolist() == [1, 0]
  np.testing.assert_allclose(whole["segments"], [[0.1, 0.4], [0.5, 0.7]])
  assert whole["source_id"] == "film"
  assert whole["num_frames"] == 25
  assert first.max_labels == 2
  assert first.document("pairs") == [["a.mp4", "b.mp4"]]
  # The piece is 0.4 of 1 second: ten frames that follow one another, with the
  # one on screen where it begins.
  piece = [number_of(frame) for frame in read_frames(first[0]["video"])]
  assert piece == list(range(piece[0], piece[0] + len(piece)))
  assert len(piece) in (10, 11)
  assert first[0]["num_frames"] == len(piece)
  # Another seed, another piece; the same seed, the same.
  pieces = [
    read_frames(
      open_set(
        build_listed(
          tmp_path / str(k), max_missing=1, options={"shift": shift}
        ).folder,
        "fold01",
      )[0]["video"]
    )
    for k, shift in enumerate((1, 1, 2))
  ]
  assert np.array_equal(pieces[0], pieces[1])
  assert pieces[0].shape != pieces[2].shape or (pieces[0] != pieces[2]).any()


def test_broken_ones_count_with_the_missing(tmp_path: pathlib.Path) -> None:
  build_listed(tmp_path, max_missing=1)
  (tmp_path / "in" / "b.mp4").write_bytes(b"broken")

  def again(max_missing: int) -> build.Built:
    return build.build_dataset(
      LISTED, tmp_path / "in", tmp_path / "out", workers=1, progress=False,
      max_missing=max_missing,
    )  # fmt: skip

  with pytest.raises(
    store.TooManyBrokenError,
    match="1 video cannot be read, 0 may be: b.mp4: .*Missing besides: 1;",
  ):
    again(1)
  built = again(2)
  assert built.report["records"] == 1
  assert built.report["lists"] == {"fold01": 1, "fold02": 1}
  told = build.summary(built)
  assert "1 record of 3, 2 classes" in told
  assert "1 missing: gone.mp4" in told
  assert "1 broken: b.mp4: " in told
  assert "1 extra: more.mp4" in told
  assert "splits: all 1, fold01 1, fold02 1" in told


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"workers": 0}, "workers=0: must be >= 1"),
    ({"max_missing": -1}, "max_missing=-1: must be >= 0"),
    ({"side": 33}, "side=33: must be an even number of pixels"),
    ({"timeout": 0.0}, "timeout=0.0"),
    ({"options": {"colour": 1}}, "listed has no option 'colour'; it has shift"),
    ({"options": {"shift": 7}}, "shift=7: must be one of 0, 1, 2"),
    ({"exclude": "/no/such/file"}, "exclude='/no/such/file'"),
  ],
  ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_argument_errors(
  arguments: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
  with pytest.raises((ValueError, OSError), match=message):
    build_listed(tmp_path, **arguments)
  assert not (tmp_path / "out").exists()


def test_a_source_that_is_none(tmp_path: pathlib.Path) -> None:
  for source in (tmp_path / "none", tmp_path / "file"):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="source=.*must be a folder"):
      run(source, tmp_path / "out")


def test_a_video_that_hangs_is_broken(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """The process is killed, and the build goes on."""
  calls: list[str] = []
  true_call: Callable[..., Any] = build.Guards.call

  def call(self: Any, function: str, path: str, **kwargs: Any) -> Any:
    calls.append(path)
    if path.endswith("b.mp4"):
      return true_call(self, "guarded:sleeps")
    return true_call(self, function, path, **kwargs)

  monkeypatch.setattr(build.Guards, "call", call)
  built = build_listed(tmp_path, max_missing=2, timeout=3.0)
  assert len(calls) == 2
  (((name, reason),)) = built.report["broken"]
  assert name == "b.mp4"
  assert reason == (
    "it was not done after 3 seconds, and its process was killed"
  )
  assert built.report["records"] == 1


def test_report_is_json_with_names_as_they_are(
  source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  built = run(source, tmp_path, max_missing=len(BROKEN))
  text = (built.folder / "report.json").read_text()
  assert "日本語" not in text  # it is not broken, so not named
  assert "stray.mp4" in text
  assert json.loads(text) == built.report
