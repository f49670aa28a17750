import io
import pathlib
from typing import Any

import av
import numpy as np
import pytest
from video_files import encode_video, number_of, numbered, sound_only

from p3d_jax.data import decode
from p3d_jax.data.clips import Augment, Views
from p3d_jax.data.decode import (
  Video,
  VideoError,
  probe,
  read_clips,
  read_frames,
)
from p3d_jax.preprocess import SWSCALE, Preprocessing

FRAMES = numbered(70)
# A long group of pictures with B-frames: what seeking gets wrong.
FORMATS: dict[str, dict[str, Any]] = {
  "mp4": {"container": "mp4", "gop": 30, "bframes": 3},
  "mkv": {"container": "matroska", "gop": 30, "bframes": 3},
  "open gop": {
    "container": "mp4",
    "gop": 20,
    "bframes": 3,
    "options": {"x264-params": "open-gop=1"},
  },
  "intra refresh": {
    "container": "mp4",
    "gop": 20,
    "options": {"x264-params": "intra-refresh=1"},
  },
  "avi": {"container": "avi", "codec": "mpeg4", "gop": 30, "bframes": 2},
  "mpegts": {"container": "mpegts", "gop": 30, "bframes": 3},
  "raw h264": {"container": "h264", "gop": 30, "bframes": 3},
  "webm": {"container": "webm", "codec": "libvpx-vp9", "gop": 30},
  "fragmented": {
    "container": "mp4",
    "gop": 30,
    "bframes": 3,
    "container_options": {"movflags": "frag_keyframe+empty_moov"},
  },
}


@pytest.fixture(scope="module", params=list(FORMATS))
def encoded(request: pytest.FixtureRequest) -> bytes:
  return encode_video(FRAMES, **FORMATS[request.param])


def test_every_frame_once_and_in_order(encoded: bytes) -> None:
  frames = read_frames(encoded)
  assert frames.shape == (70, 64, 96, 3)
  assert [number_of(frame) for frame in frames] == list(range(70))
  info = probe(encoded)
  assert (info.num_frames, info.height, info.width) == (70, 64, 96)
  assert info.fps == pytest.approx(25)
  assert info.duration == pytest.approx(70 / 25, abs=0.002)


def test_any_frames_are_those_of_sequential_decoding(encoded: bytes) -> None:
  # PyAV alone, from the first frame to the last.
  with av.open(io.BytesIO(encoded)) as container:
    planes = [
      frame.to_ndarray()
      for frame in sorted(
        container.decode(video=0), key=lambda frame: frame.pts or 0
      )
    ]
  video = decode.Video(encoded)
  all_of_them = video.read(range(70))
  rng = np.random.default_rng(0)
  for _ in range(25):
    wanted = np.sort(rng.integers(rng.integers(70), 70, 5))
    frames = video.read(wanted)
    assert [number_of(frame) for frame in frames] == wanted.tolist()
    assert np.array_equal(frames, all_of_them[wanted])
  # Brightness of the decoder's own picture, away from our conversion.
  for k in (0, 29, 31, 69):
    luma = planes[k][:64].astype(float)
    grey = all_of_them[k] @ [0.299, 0.587, 0.114]
    assert np.abs((luma - 16) * 255 / 219 - grey).mean() < 2


def test_path_and_bytes_are_the_same(
  encoded: bytes, tmp_path: pathlib.Path
) -> None:
  path = tmp_path / "a film, mit Ümlaut.video"
  path.write_bytes(encoded)
  wanted = [3, 3, 40, 69]
  from_path = read_frames(path, wanted)
  assert np.array_equal(from_path, read_frames(encoded, wanted))
  assert np.array_equal(from_path[0], from_path[1])
  assert np.array_equal(from_path, read_frames(str(path), wanted, threads=0))
  assert probe(path) == probe(encoded)


def test_decoding_starts_at_the_nearest_keyframe(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  # 70 frames in groups of 10: frames 45 and 46 are the sixth and seventh of
  # their group.
  encoded = encode_video(FRAMES, gop=10, options={"sc_threshold": "0"})
  video = decode.Video(encoded)
  decoded = []
  original = decode.Video.frames

  def counting(self: Any, start: int = 0) -> Any:
    for frame in original(self, start):
      decoded.append(frame.pts)
      yield frame

  monkeypatch.setattr(decode.Video, "frames", counting)
  assert [number_of(f) for f in video.read([45, 46])] == [45, 46]
  assert len(decoded) == 7


def test_uneven_times() -> None:
  # Milliseconds; the frame before the pause is on screen for 0.4 s.
  times = [0, 100, 500, 600, 650, 700]
  video = decode.Video(encode_video(FRAMES[:6], times=times))
  np.testing.assert_allclose(video.times, np.array(times) / 1000, atol=1e-3)
  assert video.timeline(None).tolist() == list(range(6))
  # It ends 40 ms, a frame at 25 a second, after the last time: 7.4 steps.
  assert video.timeline(10).tolist() == [0, 1, 1, 1, 1, 2, 3]


def test_fps_resamples_before_indices() -> None:
  encoded = encode_video(FRAMES[:50], rate=50)
  frames = read_frames(encoded, fps=10)
  assert [number_of(f) for f in frames] == list(range(0, 50, 5))
  frames = read_frames(encoded, [1, 2], fps=10)
  assert [number_of(f) for f in frames] == [5, 10]
  frames = read_frames(encoded, [1, 2, 3], fps=100)
  assert [number_of(f) for f in frames] == [0, 1, 1]


# A red corner at the top left of the stored 32x64 frame, green at its right.
CORNERS = np.full((32, 64, 3), 20, np.uint8)
CORNERS[:16, :16] = (230, 20, 20)
CORNERS[:16, -16:] = (20, 230, 20)


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_rotation(turn: int, hflip: bool) -> None:
  encoded = encode_video(
    [CORNERS] * 3,
    # Degrees counter-clockwise, then mirrored.
    setup=lambda s: s.set_display_rotation(turn, hflip=hflip),
  )
  expected = np.rot90(CORNERS, turn // 90)
  if hflip:
    expected = expected[:, ::-1]
  frame = read_frames(encoded, [1])[0]
  assert frame.shape == expected.shape
  assert np.abs(frame.astype(int) - expected).mean() < 6
  info = probe(encoded)
  assert (info.height, info.width) == expected.shape[:2]
  if not hflip:
    assert info.rotation == -turn % 360


def test_a_phone_held_upright() -> None:
  # The matrix in the track header of a portrait film: x goes down, y to the
  # left, which is a quarter turn clockwise.
  matrix = [0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30]
  encoded = encode_video(
    [CORNERS] * 2, setup=lambda s: s.set_display_matrix(matrix)
  )
  assert probe(encoded).rotation == 90
  frame = read_frames(encoded, [0])[0].astype(int)
  assert frame.shape == (64, 32, 3)
  assert np.abs(frame[4, -5] - [230, 20, 20]).max() < 25  # red: top right
  assert np.abs(frame[-5, -5] - [20, 230, 20]).max() < 25  # green: bottom


def test_resize_is_of_the_frame_as_shown() -> None:
  encoded = encode_video(
    [CORNERS] * 2, setup=lambda s: s.set_display_rotation(90)
  )
  assert read_frames(encoded, resize=16).shape == (2, 32, 16, 3)
  assert read_frames(encoded, resize=(20, 30)).shape == (2, 20, 30, 3)


def test_resizing_while_decoding_is_resizing_after() -> None:
  rng = np.random.default_rng(0)
  # Not near the ends of the range, where what is clipped depends on when.
  noise = 60 + rng.integers(0, 80, (6, 30, 40, 1)) + rng.integers(0, 40, 3)
  noise = noise.astype(np.uint8)
  encoded = encode_video(np.kron(noise, np.ones((1, 8, 8, 1), np.uint8)))
  record = Preprocessing(frames=6, resize=(91, 121), crop=80)
  during = read_frames(encoded, resize=record.resize)
  one = record.preprocess(during)
  two = record.preprocess(read_frames(encoded))
  assert np.abs(one - two).mean() < 0.3
  assert np.abs(one - two).max() < 12
  # And what read_clips gives is the same frames.
  assert np.array_equal(read_clips(encoded, record, 1)[0], during)


@pytest.mark.parametrize(
  ("resize", "shown"),
  [(40, (40, 60)), ((48, 50), (48, 50)), (None, (64, 96))],
)
@pytest.mark.parametrize("rotation", [0, 90])
def test_preprocess_of_read_clips_is_what_evaluation_feeds(
  resize: Any, shown: tuple[int, int], rotation: int
) -> None:
  """To the bit: a second resize or crop would not be."""
  rng = np.random.default_rng(3)
  noise = rng.integers(0, 256, (30, 16, 24, 3)).astype(np.uint8)
  encoded = encode_video(
    np.kron(noise, np.ones((1, 4, 4, 1), np.uint8)),
    setup=lambda s: s.set_display_rotation(rotation),
  )
  if rotation:
    shown = shown if isinstance(resize, tuple) else shown[::-1]
  record = Preprocessing(
    frames=4, resize=resize, crop=(36, 33), channels="BGR",
    mean=(104.0, 117.0, 123.0), std=(2.0, 3.0, 4.0),
  )  # fmt: skip
  clips = read_clips(encoded, record, 3)
  assert clips.shape == (3, 4, *shown, 3)
  assert clips.dtype == np.uint8
  video = Video(encoded)
  cropped = video.read_clips(video.clip_indices(record, Views(3)), record)
  assert cropped.shape == (3, 4, 36, 33, 3)
  given = record.preprocess(clips)
  assert np.array_equal(given, record.normalize(cropped))


@pytest.mark.parametrize("rotation", [0, 90])
def test_three_crops_are_the_ends_and_the_middle(rotation: int) -> None:
  """Cut by hand from the whole frames, of wide videos and of high ones."""
  rng = np.random.default_rng(3)
  noise = rng.integers(0, 256, (8, 16, 25, 3)).astype(np.uint8)
  encoded = encode_video(
    np.kron(noise, np.ones((1, 4, 4, 1), np.uint8)),
    setup=lambda s: s.set_display_rotation(rotation),
  )
  record = Preprocessing(frames=4, resize=None, crop=40)
  video = Video(encoded)
  indices = video.clip_indices(record, Views(2))
  found = video.read_clips(indices, record, crops=3)
  assert found.shape == (6, 4, 40, 40, 3)
  whole = video.read_clips(indices, record, crops=None)
  for clip in range(2):
    for crop, start in enumerate((0, 30, 60)):  # of 100 pixels
      cut = np.s_[start : start + 40], np.s_[12:52]  # of 64 the middle
      rows, columns = cut if rotation else cut[::-1]
      expected = whole[clip][:, rows, columns]
      assert np.array_equal(found[3 * clip + crop], expected)
  middle = video.read_clips(indices, record)
  assert np.array_equal(found[1::3], middle)


def triangle(size: int, out: int) -> np.ndarray:
  """Weights (out, size) of a triangle filter as wide as the reduction."""
  ratio = size / out
  middle = (np.arange(out) + 0.5) * ratio - 0.5
  far = np.abs(np.arange(size)[None] - middle[:, None])
  weights = np.maximum(1 - far / max(ratio, 1.0), 0)
  return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(182, 242), (240, 320), (300, 400)], ids=str)
def test_colours_are_exact_but_for_the_rounding(size: tuple[int, int]) -> None:
  rng = np.random.default_rng(0)
  # Inside the range of RGB, so that nothing is clipped.
  y = rng.integers(60, 180, (240, 320))
  u, v = rng.integers(100, 156, (2, 120, 160))
  planes = np.concatenate([plane.reshape(-1) for plane in (y, u, v)])
  frame = av.VideoFrame.from_ndarray(
    planes.reshape(360, 320).astype(np.uint8), "yuv420p"
  )
  got = decode.Pictures(1, size, None).rgb(frame)
  # BT.601, limited range, in float64; chroma stands in the middle of 2 x 2.
  rows, columns = triangle(240, size[0]), triangle(320, size[1])
  y = (rows @ y @ columns.T - 16) * 255 / 219
  rows, columns = triangle(120, size[0]), triangle(160, size[1])
  u, v = ((rows @ x @ columns.T - 128) * 255 / 224 for x in (u, v))
  kr, kb = 0.299, 0.114
  red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
  green = (y - kr * red - kb * blue) / (1 - kr - kb)
  exact = np.stack([red, green, blue], -1)
  # At the border swscale repeats pixels, where the triangle is cut.
  error = (got - exact)[4:-4, 4:-4]
  # Rounding to whole numbers is 0.25 on average, and 0.5 at most.
  assert np.abs(error).mean() < 0.27
  assert np.abs(error).max() < 1
  assert np.abs(error.mean((0, 1))).max() < 0.03


PIXELS = ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuvj444p", "yuv411p"]
PIXELS += ["yuv420p10le", "yuv444p12le", "gray", "gray10le", "nv12", "yuyv422"]
PIXELS += ["rgb24", "bgr0", "gbrp", "gbrp10le", "yuva420p"]


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("size", [None, (61, 83), (64, 54), (90, 60)], ids=str)
def test_planes_are_swscale_s_own_rgb(
  pixels: str, size: tuple[int, int] | None
) -> None:
  """What is read is what PyAV alone gives as rgb24, for any kind of pixel."""
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (90, 108, 3)).astype(np.uint8)
  frame = av.VideoFrame.from_ndarray(noise, "rgb24").reformat(format=pixels)
  height, width = size or (90, 108)
  expected = frame.reformat(
    width, height, "rgb24", interpolation=SWSCALE, threads=1
  ).to_ndarray()
  given = decode.Pictures(1, size, None).rgb(frame)
  assert np.array_equal(given, expected)


def test_planes_with_lines_of_another_length() -> None:
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (2, 36, 50, 3)).astype(np.uint8)
  # Red, green and blue planes, without the padding that swscale gives lines:
  # read as they are, where the other frame is converted.
  planar = av.VideoFrame.from_numpy_buffer(noise[0], "gbrp")
  packed = av.VideoFrame.from_ndarray(noise[1], "rgb24")
  assert planar.planes[0].line_size == 50
  assert packed.reformat(format="gbrp").planes[0].line_size > 50
  pictures = decode.Pictures(2, None, lambda picture: picture[2:30, 5:44])
  for k, frame in enumerate((planar, packed)):
    pictures.put(k, frame)
  assert np.array_equal(pictures.array, noise[:, 2:30, 5:44])


def test_odd_sizes_are_read_as_they_are() -> None:
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (35, 47, 3)).astype(np.uint8)
  frame = av.VideoFrame.from_ndarray(noise, "rgb24")
  assert np.array_equal(decode.Pictures(1, None, None).rgb(frame), noise)
  pictures = decode.Pictures(1, None, lambda picture: picture[3:20, 40:4:-1])
  pictures.put(0, frame.reformat(format="gbrp"))
  assert np.array_equal(pictures.array[0], noise[3:20, 40:4:-1])


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_reading_cropped_is_cropping_what_was_read(
  turn: int, hflip: bool
) -> None:
  rng = np.random.default_rng(1)
  noise = np.kron(
    rng.integers(0, 256, (20, 12, 16, 3)), np.ones((1, 4, 4, 1))
  ).astype(np.uint8)
  video = Video(
    encode_video(
      noise, setup=lambda s: s.set_display_rotation(turn, hflip=hflip)
    )
  )
  wanted = [2, 2, 5, 6, 19]
  seen = set()
  for augment in (
    Augment(flip=True),
    Augment(random_crop=False, jitter=(0.3, 0.2, 0.1)),
    Augment(scales=(1.0, 0.7), flip=True, jitter=(0.0, 0.5, 0.0)),
  ):
    for seed in range(6):
      whole = video.read(wanted, 41)
      rng = np.random.default_rng(seed)
      expected, mirrored = augment(whole, (30, 24), rng)
      after = rng.integers(1 << 30)
      rng = np.random.default_rng(seed)
      clip, flipped = augment.read(video, wanted, 41, (30, 24), rng)
      assert np.array_equal(clip, expected)
      assert clip.flags.c_contiguous
      assert flipped == mirrored
      # As many numbers were drawn.
      assert rng.integers(1 << 30) == after
      seen.add(flipped)
  assert seen == {True, False}


def test_cropped_reading_of_any_container(encoded: bytes) -> None:
  video = Video(encoded)
  cropped = video.read([30, 35], None, lambda picture: picture[:32, 7:])
  assert np.array_equal(cropped, video.read([30, 35])[:, :32, 7:])


def test_frames_smaller_than_a_random_crop() -> None:
  video = Video(encode_video(numbered(3)))
  with pytest.raises(ValueError, match="64x96 pixels.*80x80: give `resize`"):
    Augment().read(video, [0, 1], None, (80, 80), np.random.default_rng(0))


@pytest.mark.parametrize(("space", "code"), [("ITU709", 1), ("ITU601", 5)])
def test_colours_follow_the_colour_space(space: str, code: int) -> None:
  colour = np.array([200, 40, 90])
  red, green, blue = colour / 255
  kr, kb = {"ITU709": (0.2126, 0.0722), "ITU601": (0.299, 0.114)}[space]
  y = kr * red + (1 - kr - kb) * green + kb * blue
  # BT.709 and BT.601, 8 bits, limited range.
  levels = [
    16 + 219 * y,
    128 + 224 * (blue - y) / (2 * (1 - kb)),
    128 + 224 * (red - y) / (2 * (1 - kr)),
  ]
  file = io.BytesIO()
  with av.open(file, "w", format="mp4") as out:
    stream: Any = out.add_stream("libx264", rate=25, options={"crf": "1"})
    stream.height = stream.width = 32
    stream.pix_fmt = "yuv420p"
    stream.codec_context.colorspace = code
    planes = [np.full((32, 32), levels[0])]
    planes += [np.full((8, 32), level) for level in levels[1:]]
    picture = np.rint(np.concatenate(planes)).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, "yuv420p")
    frame.colorspace = code
    out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
  got = read_frames(file.getvalue())[0, 16, 16]
  assert np.abs(got.astype(int) - colour).max() <= 3


RECORD = Preprocessing(frames=8, stride=2, resize=32, crop=24)


def test_read_clips() -> None:
  clips = read_clips(encode_video(FRAMES), RECORD, 3)
  assert clips.shape == (3, 8, 32, 48, 3)
  assert clips.dtype == np.uint8
  whole = Preprocessing(frames=8, stride=2, resize=None, crop=(64, 96))
  clips = read_clips(encode_video(FRAMES), whole, 3)
  numbers = [[number_of(frame) for frame in clip] for clip in clips]
  # A clip spans 15 of 70 frames: starts at 0, 27.5 and 55.
  assert numbers == [list(range(s, s + 16, 2)) for s in (0, 28, 55)]


def test_read_clips_of_a_video_shorter_than_a_clip() -> None:
  whole = Preprocessing(frames=8, stride=2, resize=None, crop=(64, 96))
  clips = read_clips(encode_video(FRAMES[:5]), whole, 2)
  numbers = [[number_of(frame) for frame in clip] for clip in clips]
  assert numbers == [[0, 2, 4, 4, 4, 4, 4, 4]] * 2
  clips = read_clips(encode_video(FRAMES[:1]), whole, 1)
  assert [number_of(frame) for frame in clips[0]] == [0] * 8


def test_read_clips_resamples() -> None:
  whole = Preprocessing(frames=4, fps=5.0, resize=None, crop=(64, 96))
  clips = read_clips(encode_video(FRAMES[:60], rate=30), whole, 1)
  # 2 s at 5 a second are 10 frames; the middle clip starts at the fourth.
  assert [number_of(f) for f in clips[0]] == [18, 24, 30, 36]


def test_frames_smaller_than_the_crop_is_one_line() -> None:
  record = Preprocessing(frames=4, resize=None, crop=80)
  encoded = encode_video(FRAMES[:4])
  with pytest.raises(VideoError, match="64x96 pixels.*80x80: give `resize`"):
    Video(encoded).read_clips(np.arange(4)[None], record)
  with pytest.raises(ValueError, match="64x96 pixels.*80x80: give `resize`"):
    record.preprocess(read_clips(encoded, record, 1))


@pytest.mark.parametrize("kind", ["video", "sound", "text"])
def test_remote_files_are_closed(
  kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  content = {
    "video": encode_video(FRAMES[:4]), "sound": sound_only(), "text": b"hello",
  }[kind]  # fmt: skip
  opened: list[io.BytesIO] = []

  class Remote:
    def __init__(self, path: str):
      assert path == "bucket://a/b.mp4"

    def exists(self) -> bool:
      return True

    def is_dir(self) -> bool:
      return False

    def open(self, mode: str) -> io.BytesIO:
      opened.append(io.BytesIO(content))
      return opened[-1]

  monkeypatch.setattr(decode.epath, "Path", Remote)
  if kind == "video":
    assert len(read_frames("bucket://a/b.mp4")) == 4
  else:
    with pytest.raises(VideoError, match="bucket://a/b.mp4: "):
      read_frames("bucket://a/b.mp4")
  assert opened
  assert all(file.closed for file in opened)


def test_sound_does_not_matter() -> None:
  frames = read_frames(encode_video(FRAMES[:9], audio=True))
  assert [number_of(frame) for frame in frames] == list(range(9))


def moov_first(encoded: bytes) -> bytes:
  """An mp4 with its table in front, as streaming sites write it."""
  at = encoded.index(b"moov") - 4
  size = int.from_bytes(encoded[at : at + 4], "big")
  moov = bytearray(encoded[at : at + size])
  mdat = encoded.index(b"mdat") - 4
  # Chunks move back by the size of the table.
  table = moov.index(b"stco") + 8
  for k in range(int.from_bytes(moov[table : table + 4], "big")):
    entry = slice(table + 4 + 4 * k, table + 8 + 4 * k)
    offset = int.from_bytes(moov[entry], "big") + size
    moov[entry] = offset.to_bytes(4, "big")
  return encoded[:mdat] + bytes(moov) + encoded[mdat:at]


def test_moov_first_is_a_whole_video() -> None:
  frames = read_frames(moov_first(encode_video(FRAMES)))
  assert [number_of(frame) for frame in frames] == list(range(70))


def broken() -> dict[str, bytes]:
  mp4 = encode_video(FRAMES)
  first = moov_first(mp4)
  mkv = encode_video(FRAMES, container="matroska")
  avi = encode_video(FRAMES, container="avi", codec="mpeg4")
  middle = bytearray(mp4)
  middle[len(mp4) // 2 : len(mp4) // 2 + 300] = bytes(300)
  return {
    "empty": b"",
    "text": b"#!/bin/sh\necho hello\n" * 50,
    "noise": np.random.default_rng(0).bytes(4000),
    "mp4 without its end": mp4[: len(mp4) // 2],
    "mp4, table first, cut": first[: len(first) * 3 // 4],
    "mp4, table first, last bytes cut": first[:-9],
    "mkv cut": mkv[: len(mkv) // 2],
    "avi cut": avi[: len(avi) // 2],
    "zeros in the middle": bytes(middle),
    "sound": sound_only(),
  }


@pytest.mark.parametrize("name", list(broken()))
def test_broken_bytes_are_one_line(name: str, tmp_path: pathlib.Path) -> None:
  data = broken()[name]
  with pytest.raises(VideoError) as caught:
    read_frames(data)
  assert "\n" not in str(caught.value)
  path = tmp_path / "broken film.mp4"
  path.write_bytes(data)
  with pytest.raises(VideoError) as caught:
    read_frames(path)
  assert str(caught.value).startswith(f"{path}: ")
  assert "\n" not in str(caught.value)


def test_frames_before_the_damage_can_be_read() -> None:
  data = broken()["zeros in the middle"]
  frames = read_frames(data, [0, 5])
  assert [number_of(frame) for frame in frames] == [0, 5]


def test_missing_file_and_folder(tmp_path: pathlib.Path) -> None:
  with pytest.raises(VideoError, match=r"nowhere\.mp4: no such file"):
    probe(tmp_path / "nowhere.mp4")
  with pytest.raises(VideoError, match="it is a folder"):
    probe(tmp_path)


@pytest.mark.parametrize("indices", [[-1, 3], [3, 70], [5, 4], []])
def test_indices_out_of_range(indices: list[int]) -> None:
  with pytest.raises(ValueError, match="indices="):
    read_frames(encode_video(FRAMES), indices)


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("notes.txt", "a text, which FFmpeg would film on a screen\n" * 20),
    ("list.m3u8", "#EXTM3U\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n"),
    ("list.ffconcat", "ffconcat version 1.0\nfile {video}\n"),
  ],
)
def test_what_is_no_container_is_refused(
  tmp_path: pathlib.Path, name: str, content: str
) -> None:
  video = tmp_path / "other.mp4"
  video.write_bytes(encode_video(FRAMES[:9]))
  file = tmp_path / name
  file.write_text(content.format(video=video))
  with pytest.raises(VideoError, match=name):
    read_frames(file)
  with pytest.raises(VideoError):
    read_frames(file.read_bytes())
