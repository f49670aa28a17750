"""What is wrong with which video."""

import io
import json
import os
import pathlib
from typing import Any

import av
import numpy as np
import pytest
from video_files import encode_video, numbered

from p3d_jax.data import check as module
from p3d_jax.data.check import check
from p3d_jax.data.exclude import read_excluded
from p3d_jax.data.guard import GuardError
from p3d_jax.data.inspect_video import inspect

FRAMES = 40


@pytest.fixture(scope="module")
def moving() -> np.ndarray:
  """A texture that moves by 3 pixels a frame: every frame takes some bytes."""
  rng = np.random.default_rng(0)
  tiles = rng.integers(0, 256, (12, 60, 3)).astype(np.uint8)
  wide = np.kron(tiles, np.ones((8, 8, 1), np.uint8))
  return np.stack([wide[:64, 3 * k : 3 * k + 96] for k in range(FRAMES)])


def sound(cover: bool = False) -> bytes:
  """An mp4 of a second of silence, with the picture of a cover or without."""
  file = io.BytesIO()
  with av.open(file, "w", format="mp4") as out:
    stream: Any = out.add_stream("aac", rate=16000)
    if cover:
      picture: Any = out.add_stream("png", rate=1)
      picture.height, picture.width, picture.pix_fmt = 16, 16, "rgb24"
      picture.disposition = av.stream.Disposition.attached_pic
      black = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))
      black.pts = 0
      out.mux(picture.encode(black))
      out.mux(picture.encode(None))
    for _ in range(16):
      silence = av.AudioFrame.from_ndarray(
        np.zeros((1, 1024), np.float32), "fltp", "mono"
      )
      silence.sample_rate = 16000
      out.mux(stream.encode(silence))
    out.mux(stream.encode(None))
  return file.getvalue()


def flipped(video: bytes, start: float, length: int) -> bytes:
  """Turns every bit of a piece round; `start` is a share of the video."""
  at = int(start * len(video))
  piece = bytes(255 - byte for byte in video[at : at + length])
  return video[:at] + piece + video[at + length :]


@pytest.fixture(scope="module")
def many(moving: np.ndarray) -> dict[str, tuple[bytes, str, str]]:
  """Name of a file -> its content, its status, and what is said of it."""
  mp4 = encode_video(moving)
  avi = encode_video(moving, container="avi", codec="mpeg4")
  mkv = encode_video(moving, container="matroska")
  # Every tenth frame stays three times as long: 10 % of them.
  jumps = np.cumsum([120 if k % 10 == 5 else 40 for k in range(FRAMES)])
  hole = [40 * k + 400 * (k > 20) for k in range(FRAMES)]
  text = b"This is no video, whatever it is called.\n" * 40
  return {
    "good.mp4": (mp4, "ok", ""),
    "good.avi": (avi, "ok", ""),
    "good.mkv": (mkv, "ok", ""),
    "b frames.mp4": (encode_video(moving, bframes=2), "ok", ""),
    "16 frames.mp4": (encode_video(moving[:16]), "ok", ""),
    "deep/er/two words, comma.MP4": (mp4, "ok", ""),
    "tab\tname.mp4": (mp4[:3000], "truncated", "table of its frames"),
    "line\nname.mp4": (b"", "empty", "0 bytes"),
    "电影 ü.mp4": (b"", "empty", "0 bytes"),
    '"quoted".mp4': (b"", "empty", "0 bytes"),
    "#hash.mp4": (b"", "empty", "0 bytes"),
    " blank.mp4": (b"", "empty", "0 bytes"),
    "text.mp4": (text, "not a video", "Invalid data"),
    "sound.mp4": (sound(), "no video", "no video stream"),
    "cover.mp4": (sound(cover=True), "no video", "no video stream"),
    "cut.avi": (avi[: 2 * len(avi) // 3], "truncated", "last frames"),
    "cut.mkv": (mkv[: 2 * len(mkv) // 3], "truncated", "of 1.60 seconds"),
    "flip.mp4": (flipped(mp4, 0.4, 200), "broken", "frames: Invalid data"),
    "flip.avi": (flipped(avi, 0.4, 20), "broken", "damaged"),
    # A whole cluster of Matroska is left out, and nothing else is amiss.
    "flip.mkv": (flipped(mkv, 0.3, 600), "broken", "a frame stays"),
    "one.mp4": (encode_video(moving[:1]), "too short", "1 of at least 16"),
    "three.mp4": (encode_video(moving[:3]), "too short", "3 of at least 16"),
    "15.mp4": (encode_video(moving[:15]), "too short", "15 of at least 16"),
    "jumps.mp4": (
      encode_video(moving, times=jumps), "odd frame rate", "10% of the frames",
    ),
    "hole.mp4": (
      encode_video(moving, times=hole), "odd frame rate", "stays 0.44 seconds",
    ),
    "slow.mp4": (
      encode_video(moving, rate=4), "odd frame rate", "4 frames a second",
    ),
    "fast.mp4": (
      encode_video(moving, rate=121), "odd frame rate", "121 frames a second",
    ),
    "as fast as can be.mp4": (encode_video(moving, rate=120), "ok", ""),
  }  # fmt: skip


@pytest.fixture(scope="module")
def folder(
  many: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("films")
  for name, (content, _, _) in many.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
  (folder / "gone.mp4").symlink_to(folder / "nowhere.mp4")
  (folder / "notes.txt").write_text("no video, and not called one")
  return folder


@pytest.fixture(scope="module")
def report(
  folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[module.CheckReport, pathlib.Path]:
  out = tmp_path_factory.mktemp("lists") / "bad.txt"
  return check(folder, out=out, workers=2, progress=False), out


def test_each_has_its_status(report: Any, many: dict[str, Any]) -> None:
  found = {video.name: video for video in report[0].videos}
  expected = {name: status for name, (_, status, _) in many.items()}
  expected["gone.mp4"] = "unreadable"
  assert {name: video.status for name, video in found.items()} == expected
  for name, (_, _, why) in many.items():
    assert why in found[name].why, name
  assert list(found) == sorted(found)
  assert report[0].counts() == {
    "empty": 5, "unreadable": 1, "not a video": 1, "no video": 2,
    "truncated": 3, "broken": 3, "too short": 3, "odd frame rate": 4, "ok": 7,
  }  # fmt: skip


def test_measures(report: Any) -> None:
  found = {video.name: video for video in report[0].videos}
  good = found["good.avi"]
  assert (good.frames, good.height, good.width) == (FRAMES, 64, 96)
  assert good.fps == pytest.approx(25)
  assert good.seconds == pytest.approx(1.6)  # 40 frames of 40 ms
  # 39 steps: 35 of 40 ms, 4 of 120 ms; the first frame's time is not a step.
  assert found["jumps.mp4"].fps == pytest.approx(39 / 1.88)
  assert found["slow.mp4"].fps == pytest.approx(4)


def test_the_report_in_lines(report: Any) -> None:
  lines = report[0].lines(worst=2)
  assert lines[0] == (
    "29 videos: 5 empty, 1 unreadable, 1 not a video, 2 no video, 3 truncated, "
    "3 broken, 3 too short, 4 odd frame rate, 7 ok"
  )
  # 10 of 40 frames, and 16, 1, 3 and 15.
  assert lines[1].startswith("usable: 14 videos, ")
  assert lines[1].endswith(f" minutes, {10 * 40 + 16 + 1 + 3 + 15} frames")
  assert lines[2].startswith("frames a second: 25 (9), ")
  assert lines[3] == "height x width: 64x96 (14)"
  assert sum(line.startswith("empty: ") for line in lines) == 3
  assert "empty: 3 more" in lines
  lines = report[0].lines()
  assert 'empty: "line\\nname.mp4": 0 bytes' in lines
  assert all("\n" not in line for line in lines)


def test_the_list_to_exclude(report: Any, many: dict[str, Any]) -> None:
  result, out = report
  bad = {n for n, (_, s, _) in many.items() if s in module.UNUSABLE}
  assert read_excluded(out) == bad | {"gone.mp4"}
  assert result.listed == 15
  text = out.read_text()
  assert "empty\t电影 ü.mp4\t0 bytes\n" in text
  assert 'empty\t"line\\nname.mp4"\t0 bytes\n' in text
  # A person may take a line out, and write names alone.
  edited = "\r\n".join(
    ["# mine", "", "one.mp4", ' "#two\\t.mp4" ', "broken\tthree, 3.mp4", "x"]
  )
  out.with_name("mine.txt").write_bytes(b"\xef\xbb\xbf" + edited.encode())
  assert read_excluded(out.with_name("mine.txt")) == {
    "one.mp4", "#two\t.mp4", "three, 3.mp4", "x",
  }  # fmt: skip


def test_warnings_are_listed_if_asked_for(
  report: Any, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  out = tmp_path / "bad.txt"
  # What the run above found is taken up: nothing but the list is made here.
  known = report[1].with_name("bad.txt.jsonl").read_bytes()
  (tmp_path / "bad.txt.jsonl").write_bytes(known)
  result = check(folder, out=out, also=("too short",), progress=False)
  more = {"one.mp4", "three.mp4", "15.mp4"}
  assert read_excluded(out) == read_excluded(report[1]) | more
  # Another least number of frames needs no decoding either.
  result = check(
    folder, out=out, also=("too short",), min_frames=3, progress=False,
  )  # fmt: skip
  assert result.counts()["too short"] == 1
  assert read_excluded(out) == read_excluded(report[1]) | {"one.mp4"}


@pytest.fixture
def three(tmp_path: pathlib.Path, many: dict[str, Any]) -> pathlib.Path:
  folder = tmp_path / "films"
  folder.mkdir()
  for name in ("a.mp4", "b.mp4", "c.mp4"):
    (folder / name).write_bytes(many["good.mp4"][0])
  return folder


def test_nothing_is_decoded_twice(
  three: pathlib.Path, tmp_path: pathlib.Path, many: dict[str, Any]
) -> None:
  out = tmp_path / "bad.txt"
  first = check(three, out=out, progress=False)
  assert first.taken == 0
  again = check(three, out=out, progress=False, inspect="inspect_fakes:refuse")
  assert again.videos == first.videos
  assert again.taken == 3
  # It does refuse, and names the file: one that has changed, and a new one.
  changed = three / "b.mp4"
  changed.write_bytes(many["flip.mp4"][0])
  with pytest.raises(GuardError, match="b.mp4 is decoded"):
    check(three, out=out, progress=False, inspect="inspect_fakes:refuse")
  third = check(three, out=out, progress=False)
  assert [v.status for v in third.videos] == ["ok", "broken", "ok"]
  assert third.taken == 2
  # The same bytes with another time may be another file.
  stat = changed.stat()
  os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
  assert check(three, out=out, progress=False).taken == 2


def test_a_check_that_was_killed_goes_on(
  three: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  out = tmp_path / "bad.txt"
  whole = check(three, out=out, progress=False)
  notes = tmp_path / "bad.txt.jsonl"
  lines = notes.read_bytes().splitlines(keepends=True)
  assert len(lines) == 4
  # Killed in the middle of the second video's line.
  notes.write_bytes(lines[0] + lines[1] + lines[2][:30])
  out.unlink()
  again = check(three, out=out, progress=False)
  assert again.taken == 1
  assert again.videos == whole.videos
  assert sorted(notes.read_bytes().splitlines(True)) == sorted(lines)


def test_what_could_not_be_read_is_tried_again(
  three: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  (three / "gone.mp4").symlink_to(three / "nowhere.mp4")
  out = tmp_path / "bad.txt"
  assert check(three, out=out, progress=False).counts() == {
    "unreadable": 1, "ok": 3,
  }  # fmt: skip
  with pytest.raises(GuardError, match="gone.mp4 is decoded"):
    check(three, out=out, progress=False, inspect="inspect_fakes:refuse")


def test_decoders_that_hang_and_crash(
  three: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  (three / "a.mp4").rename(three / "hang.mp4")
  (three / "b.mp4").rename(three / "crash.mp4")
  arguments: dict[str, Any] = {
    "out": tmp_path / "bad.txt", "workers": 1, "progress": False,
  }  # fmt: skip
  report = check(three, timeout=3.0, inspect="inspect_fakes:wild", **arguments)
  found = {video.name: video for video in report.videos}
  assert found["hang.mp4"].status == "hangs"
  assert found["hang.mp4"].why == "no progress in 3 seconds"
  assert found["crash.mp4"].status == "crashes"
  assert "SIGABRT" in found["crash.mp4"].why
  assert found["c.mp4"].status == "ok"  # after them, in the same worker
  assert read_excluded(tmp_path / "bad.txt") == {"hang.mp4", "crash.mp4"}
  # What hung is tried again if it gets more time, and only then.
  assert check(three, timeout=0.5, **arguments).taken == 3
  report = check(three, timeout=30, **arguments)
  assert report.taken == 2
  assert report.counts() == {"crashes": 1, "ok": 2}


def test_a_long_video_does_not_hang(three: pathlib.Path) -> None:
  # Eight pieces of a quarter of the time-out: twice as long as it.
  for name in ("b.mp4", "c.mp4"):
    (three / name).unlink()
  report = check(
    three, timeout=1.0, progress=False, inspect="inspect_fakes:slow"
  )
  assert report.counts() == {"ok": 1}


def test_pieces_add_up(many: dict[str, Any]) -> None:
  result = inspect(many["good.mp4"][0], 0.0)
  calls = 1
  while not result:
    result = inspect(None, 0.0)
    calls += 1
  assert calls == FRAMES + 1
  assert result == inspect(many["good.mp4"][0], 1e9)
  assert result["frames"] == FRAMES


def test_leading_frames_of_a_cut_film_are_no_fault(moving: np.ndarray) -> None:
  """From its second keyframe on, B-frames before it miss what is cut off."""
  film = encode_video(
    moving, container="mpegts", codec="mpeg2video", bframes=2, gop=12
  )
  cut = io.BytesIO()
  with (
    av.open(io.BytesIO(film)) as source,
    av.open(cut, "w", format="mpegts") as out,
  ):
    stream = out.add_stream_from_template(source.streams.video[0])
    keys, packets = 0, 0
    for packet in source.demux(video=0):
      keys += packet.is_keyframe
      if keys >= 2 and packet.dts is not None:
        packet.stream = stream
        out.mux(packet)
        packets += 1
  result = inspect(cut.getvalue(), 1e9)
  assert result["frames"] < packets  # so some are missing, and
  assert result["fault"] == ""


def test_a_built_set(built: Any, tmp_path: pathlib.Path) -> None:
  out = tmp_path / "bad.txt"
  arguments: dict[str, Any] = {"out": out, "progress": False}
  report = check(built, **arguments)
  assert report.counts() == {"too short": 40}  # 12 frames each
  names = [f"train{k:06d}" for k in range(24)]
  names += [f"test{k:06d}" for k in range(16)]
  assert {video.name for video in report.videos} == set(names)
  assert {video.frames for video in report.videos} == {12}
  again = check(
    built, min_frames=12, inspect="inspect_fakes:refuse", **arguments
  )
  assert again.taken == 40
  assert again.counts() == {"ok": 40}


def test_a_set_is_found_from_above(
  built: Any, tmp_path: pathlib.Path, many: dict[str, Any]
) -> None:
  above = pathlib.Path(built).parents[1]  # name / config / version
  report = check(above, progress=False)
  assert report.counts() == {"too short": 40}
  # With a video beside it, the folder is one of videos.
  (tmp_path / "sets").symlink_to(above)
  (tmp_path / "a.mp4").write_bytes(many["good.mp4"][0])
  (only,) = check(tmp_path, progress=False).videos
  assert (only.name, only.status) == ("a.mp4", "ok")
  # Of two sets none is taken.
  (tmp_path / "a.mp4").rename(tmp_path / "a.txt")
  (tmp_path / "more").symlink_to(above)
  with pytest.raises(ValueError, match="2 sets are there, name one"):
    check(tmp_path, progress=False)


def test_unfinished_downloads(
  three: pathlib.Path, tmp_path: pathlib.Path, many: dict[str, Any]
) -> None:
  names = [
    "d.mp4.part", "d.mp4.part-Frag7", "d.mp4.ytdl", "deep/e.CRDOWNLOAD",
  ]  # fmt: skip
  (three / "deep").mkdir()
  for name in names:
    # A whole video: it is its name that counts, and nothing is decoded.
    (three / name).write_bytes(many["good.mp4"][0])
  (three / "f.part1.rar").write_bytes(b"of another kind")
  out = tmp_path / "bad.txt"
  report = check(three, out=out, progress=False)
  assert report.counts() == {"unfinished": 4, "ok": 3}
  assert report.unusable == 4
  assert "unfinished: d.mp4.part: a download that was not finished" in (
    report.lines()
  )
  found = [v.name for v in report.videos if v.status == "unfinished"]
  assert found == sorted(names)
  # No build takes them, so they need not be left out; they may be.
  assert (report.listed, read_excluded(out)) == (0, set())
  with out.open("a") as file:
    file.write("unfinished\td.mp4.part\n")
  assert read_excluded(out) == {"d.mp4.part"}
  again = check(three, out=out, progress=False, inspect="inspect_fakes:refuse")
  assert again.videos == report.videos
  assert again.taken == 7
  for name in ("a.mp4", "b.mp4", "c.mp4"):
    (three / name).unlink()
  assert check(three, progress=False).counts() == {"unfinished": 4}


def test_progress_counts_the_bad(
  folder: pathlib.Path,
  report: Any,
  capsys: pytest.CaptureFixture[str],
) -> None:
  check(folder, out=report[1])
  assert "check 29/29  bad 15" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"workers": 0}, "workers=0: must be >= 1"),
    ({"min_frames": 0}, "min_frames=0: must be >= 1"),
    ({"timeout": 0.0}, "timeout=0.0: must be > 0"),
    ({"also": ("broken",)}, "also='broken': must be one of too short, odd"),
    ({"out": "gs://bucket/list.txt"}, "must be a local file"),
    ({"out": "/nowhere/at/all.txt"}, "must be in a folder"),
  ],
  ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_argument_errors(
  arguments: dict[str, Any], message: str, folder: pathlib.Path
) -> None:
  with pytest.raises(ValueError, match=message):
    check(folder, progress=False, **arguments)


def test_files_of_others_are_left_alone(
  three: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  out = tmp_path / "thesis.txt"
  out.write_text("all my work")
  with pytest.raises(ValueError, match="thesis.txt.*not written by a check"):
    check(three, out=out, progress=False)
  out.rename(tmp_path / "list.txt.jsonl")
  for content in ("all my work\n", json.dumps({"p3d data check": 0}) + "\n"):
    (tmp_path / "list.txt.jsonl").write_text(content)
    with pytest.raises(ValueError, match="list.txt.jsonl cannot be taken up"):
      check(three, out=tmp_path / "list.txt", progress=False)
    assert (tmp_path / "list.txt.jsonl").read_text() == content
  assert not (tmp_path / "list.txt").exists()


def test_nothing_to_check(tmp_path: pathlib.Path) -> None:
  with pytest.raises(ValueError, match="no video is there"):
    check(tmp_path, progress=False)
  with pytest.raises(ValueError, match="must be a folder"):
    check(tmp_path / "nowhere", progress=False)


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("bad\tx.mp4", "line 2: 'bad' before the tab is no status"),
    ('"x.mp4', 'line 2: "x.mp4 is no JSON string'),
    ("empty\t \t0 bytes", "line 2: there is no name"),
  ],
  ids=["status", "quotes", "no-name"],
)
def test_lines_that_say_nothing(
  line: str, message: str, tmp_path: pathlib.Path
) -> None:
  file = tmp_path / "list.txt"
  file.write_text(f"a.mp4\n{line}\n")
  with pytest.raises(ValueError, match=message):
    read_excluded(file)
  with pytest.raises(ValueError, match="nowhere.txt'.*No such file"):
    read_excluded(tmp_path / "nowhere.txt")


def test_frames_are_what_they_were(many: dict[str, Any]) -> None:
  # The numbered frames tell that nothing was left out of the count.
  assert inspect(encode_video(numbered(33)), 1e9)["frames"] == 33
