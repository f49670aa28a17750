"""The table of an mp4, against what FFmpeg's demuxer reads."""

import io
import struct
from typing import Any

import av
import numpy as np
import pytest
from video_files import encode_video, number_of, numbered

from p3d_jax.data import decode, mp4
from p3d_jax.data.encode import encode

FRAMES = numbered(40)


def by_ffmpeg(data: bytes) -> tuple[list[Any], Any]:
  container: Any = av.open(io.BytesIO(data))
  with container:
    stream = container.streams.video[0]
    packets = [
      (p.pts, p.pos, p.size, p.is_keyframe, bytes(p))
      for p in container.demux(stream)
      if p.size
    ]
    about = (
      stream.time_base,
      stream.codec_context.extradata,
      stream.average_rate,
      stream.duration,
    )
  return packets, about


@pytest.mark.parametrize("fps", [1, 24, 25, 30, 50])
@pytest.mark.parametrize("count", [1, 7, 40])
def test_a_video_of_a_set_is_as_ffmpeg_reads_it(count: int, fps: int) -> None:
  data = encode(list(FRAMES[:count]), fps)
  table = mp4.read_table(data)
  assert table is not None
  packets, (base, extradata, rate, duration) = by_ffmpeg(data)
  assert [p[0] for p in packets] == [k * table.step for k in range(count)]
  assert table.offsets.tolist() == [p[1] for p in packets]
  assert table.sizes.tolist() == [p[2] for p in packets]
  assert table.keys.tolist() == [k for k, p in enumerate(packets) if p[3]]
  for offset, size, packet in zip(
    table.offsets, table.sizes, packets, strict=True
  ):
    assert data[offset : offset + size] == packet[4]
  assert table.extradata == extradata
  assert 1 / base == table.rate
  assert duration == count * table.step
  if count > 1:
    assert rate == fps


def test_reading_by_the_table_is_reading_by_ffmpeg(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  data = encode(list(FRAMES), 30)
  fast = decode.Video(data)
  monkeypatch.setattr(mp4, "read_table", lambda data: None)
  slow = decode.Video(data)
  assert fast.info == slow.info
  assert np.array_equal(fast.times, slow.times)
  assert fast.timeline(12.5).tolist() == slow.timeline(12.5).tolist()
  rng = np.random.default_rng(0)
  for _ in range(20):
    wanted = np.sort(rng.integers(0, 40, 4))
    frames = fast.read(wanted, (50, 70))
    assert np.array_equal(frames, slow.read(wanted, (50, 70)))
    assert [number_of(f) for f in fast.read(wanted)] == wanted.tolist()


def test_the_demuxer_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
  def refuse(*args: Any, **kwargs: Any) -> None:
    raise AssertionError

  data = encode(list(FRAMES), 25)
  monkeypatch.setattr(av, "open", refuse)
  frames = decode.Video(data).read([3, 3, 39])
  assert [number_of(frame) for frame in frames] == [3, 3, 39]


OTHERS: dict[str, dict[str, Any]] = {
  "b-frames": {"bframes": 2, "gop": 30},
  "sound": {"audio": True},
  "mkv": {"container": "matroska"},
  "avi": {"container": "avi", "codec": "mpeg4"},
  "another codec": {"codec": "mpeg4"},
  "uneven": {"times": [10 * k * k for k in range(40)]},
  "starts late": {"times": [1000 + 40 * k for k in range(40)]},
  "turned": {"setup": lambda stream: stream.set_display_rotation(90)},
  "fragments": {
    "container_options": {"movflags": "frag_keyframe+empty_moov"},
  },
  "a table and fragments": {
    "container_options": {"movflags": "frag_keyframe"},
  },
}


@pytest.mark.parametrize("name", list(OTHERS))
def test_other_files_are_left_to_ffmpeg(name: str) -> None:
  data = encode_video(FRAMES, **OTHERS[name])
  assert mp4.read_table(data) is None
  frames = decode.read_frames(data)
  if name != "turned":
    assert [number_of(frame) for frame in frames] == list(range(40))


@pytest.mark.parametrize(
  ("old", "new"),
  [
    (b"btrt", b"colr"),  # colours that count for more than those of the H.264
    (b"free", b"moof"),
    (b"stss", b"ctts"),
    (b"avc1", b"hvc1"),
    (b"vide", b"soun"),
    (b"url \0\0\0\1", b"url \0\0\0\0"),  # the frames are in another file
  ],
  ids=lambda name: name[:4].decode(),
)
def test_what_it_does_not_know_is_none(old: bytes, new: bytes) -> None:
  data = encode(list(FRAMES), 25)
  assert mp4.read_table(data) is not None
  at = data.rindex(old) if old != b"free" else data.index(old)
  assert mp4.read_table(data[:at] + new + data[at + len(old) :]) is None


@pytest.mark.parametrize(
  ("at", "number"),
  [(12, 800), (16, 512), (20, 1 << 17)],  # 0.8 s, from the second, fast
  ids=["shorter", "late", "fast"],
)
def test_an_edit_of_the_video_is_left_to_ffmpeg(at: int, number: int) -> None:
  data = encode(list(FRAMES), 25)
  at += data.index(b"elst")
  edited = data[:at] + struct.pack(">I", number) + data[at + 4 :]
  assert mp4.read_table(edited) is None


def test_a_file_that_is_cut_or_damaged_is_none() -> None:
  data = encode(list(FRAMES), 25)
  rng = np.random.default_rng(0)
  for size in [0, 1, 8, len(data) - 1, *rng.integers(0, len(data), 30)]:
    assert mp4.read_table(data[:size]) is None
  moov = data.index(b"moov") - 4
  for _ in range(300):
    # Whatever the table says then, no byte outside the file is asked for.
    damaged = bytearray(data)
    for at in rng.integers(moov, len(data), 3):
      damaged[at] = rng.integers(256)
    table = mp4.read_table(bytes(damaged))
    if table is not None:
      assert table.offsets.min() >= 0
      assert (table.offsets + table.sizes).max() <= len(data)


def test_chunks_by_hand() -> None:
  # Two frames in the first chunk, one in each of the others.
  stco = struct.pack(">5I", 0, 3, 100, 500, 900)
  stsc = struct.pack(">8I", 0, 2, 1, 2, 1, 2, 1, 1)
  data = stco + stsc
  table = {b"stco": (0, 20), b"stsc": (20, 52)}
  sizes = np.array([10, 20, 30, 40])
  offsets = mp4._offsets(data, table, sizes)
  assert offsets.tolist() == [100, 110, 500, 900]


@pytest.mark.parametrize(("width", "height"), [(96, 54), (90, 60), (96, 32)])
def test_a_container_that_shows_less_than_is_coded(
  width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
  """As 1080 of 1088 rows; more than 15 less is not believed by FFmpeg."""
  data = bytearray(encode(list(FRAMES[:9]), 25))
  at = data.index(b"avc1", data.index(b"stsd")) + 4 + 24
  assert struct.unpack_from(">HH", data, at) == (96, 64)
  struct.pack_into(">HH", data, at, width, height)
  assert mp4.read_table(bytes(data)) is not None
  fast = decode.Video(bytes(data)).read(np.arange(9))
  monkeypatch.setattr(mp4, "read_table", lambda data: None)
  slow = decode.Video(bytes(data)).read(np.arange(9))
  assert fast.shape == slow.shape
  assert np.array_equal(fast, slow)


@pytest.mark.parametrize("rate", [0, 1 << 31, 25_001])
def test_a_clock_that_is_none_is_left_to_ffmpeg(rate: int) -> None:
  data = bytearray(encode(list(FRAMES[:5]), 25))
  at = data.index(b"mdhd") + 4 + 12
  (before,) = struct.unpack_from(">I", data, at)
  step = before // 25
  # 25,001 frames a second are too many.
  struct.pack_into(">I", data, at, rate if rate != 25_001 else 1001 * step)
  assert mp4.read_table(bytes(data)) is None
