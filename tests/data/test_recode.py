import io
import os
import pathlib
import subprocess
import sys
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from video_files import encode_video, number_of, numbered

from p3d_jax.data.decode import Video, VideoError
from p3d_jax.data.encode import h264_options
from p3d_jax.data.recode import even_size, recode
from p3d_jax.preprocess import SWSCALE

FRAMES = numbered(70)
GREY = [0.299, 0.587, 0.114]


def numbers(encoded: bytes) -> list[int]:
  video = Video(encoded)
  return [number_of(frame) for frame in video.read(range(video.num_frames))]


def packets(encoded: bytes) -> list[av.Packet]:
  with av.open(io.BytesIO(encoded)) as container:
    return [packet for packet in container.demux(video=0) if packet.size]


# Long groups of pictures with B-frames, and what starts in the middle of one.
SOURCES: dict[str, dict[str, Any]] = {
  "mp4": {"gop": 30, "bframes": 3},
  "open gop": {
    "gop": 20,
    "bframes": 3,
    "options": {"x264-params": "open-gop=1"},
  },
  "intra refresh": {
    "gop": 20,
    "options": {"x264-params": "intra-refresh=1"},
  },
  "avi": {"container": "avi", "codec": "mpeg4", "gop": 30, "bframes": 2},
  "raw h264": {"container": "h264", "gop": 30, "bframes": 3},
  "webm": {"container": "webm", "codec": "libvpx-vp9", "gop": 30},
}


@pytest.fixture(scope="module", params=list(SOURCES))
def source(request: pytest.FixtureRequest) -> bytes:
  return encode_video(FRAMES, **SOURCES[request.param])


@pytest.mark.parametrize(
  ("start", "seconds", "first", "end"),
  [
    (0.0, None, 0, 70),
    (0.4, 0.8, 10, 30),  # exactly on frames: the end is not part of it
    (0.41, 0.8, 10, 31),  # frame 10 is on screen at 0.41, 30 comes at 1.2
    (1.0, 0.01, 25, 26),  # shorter than a frame
    (2.7, 5.0, 67, 70),  # more than there is
  ],
)
def test_a_piece_is_the_frames_on_screen(
  source: bytes, start: float, seconds: float | None, first: int, end: int
) -> None:
  encoded = recode(source, side=None, start=start, seconds=seconds)
  assert numbers(encoded) == list(range(first, end))
  video = Video(encoded)
  # 25 frames a second, each with its own length, the last one too.
  expected = np.arange(end - first) / 25
  np.testing.assert_allclose(video.times, expected, atol=1e-9)
  assert video.duration == pytest.approx((end - first) / 25)


def test_uneven_times_are_kept() -> None:
  times = [0, 100, 500, 600, 650, 1700, 1733]
  source = encode_video(FRAMES[:7], times=times, container="matroska")
  video = Video(recode(source, side=None))
  np.testing.assert_allclose(video.times, np.array(times) / 1000, atol=1e-9)
  # The frame shown at 0.3 s came at 0.1 s; the one at 0.65 s lasts to 1.7 s.
  encoded = recode(source, side=None, start=0.3, seconds=0.5)
  assert numbers(encoded) == [1, 2, 3, 4]
  video = Video(encoded)
  np.testing.assert_allclose(video.times, [0, 0.4, 0.5, 0.55], atol=1e-9)
  assert video.duration == pytest.approx(1.6)


def test_a_rate_that_is_no_decimal_number_is_kept() -> None:
  rate = Fraction(24000, 1001)
  source = encode_video(FRAMES[:30], rate=rate, gop=30, bframes=2)
  with av.open(io.BytesIO(recode(source, side=None, start=0.2))) as container:
    assert container.streams.video[0].average_rate == rate


def test_edit_list() -> None:
  """Frames that the container says are not shown are not part of the video."""
  file = io.BytesIO()
  whole = io.BytesIO(encode_video(FRAMES, gop=10, bframes=2))
  # Times below zero are written as a list that begins at the frame of zero.
  options = {"avoid_negative_ts": "disabled"}
  with (
    av.open(whole) as read,
    av.open(file, "w", format="mp4", options=options) as out,
  ):
    stream = out.add_stream_from_template(read.streams.video[0])
    for packet in read.demux(video=0):
      if packet.dts is None or packet.pts is None:
        continue
      step = round(13 / 25 / packet.time_base)
      packet.pts, packet.dts = packet.pts - step, packet.dts - step
      packet.stream = stream
      out.mux(packet)
  encoded = file.getvalue()
  assert numbers(recode(encoded, side=None)) == list(range(13, 70))
  piece = recode(encoded, side=None, start=0.4, seconds=0.4)
  assert numbers(piece) == list(range(23, 33))


def test_only_the_group_before_a_piece_is_decoded(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  source = encode_video(FRAMES, gop=10, options={"sc_threshold": "0"})
  video = Video(source)
  assert video.info.num_frames == 70  # which decodes the first frame
  decoded = []
  original = Video.frames

  def counting(self: Any, start: int = 0) -> Any:
    for frame in original(self, start):
      decoded.append(frame.pts)
      yield frame

  monkeypatch.setattr(Video, "frames", counting)
  recode(video, side=None, start=1.8, seconds=0.2)
  # Frames 45 to 49 of the group that begins at 40.
  assert len(decoded) == 10


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_upright(turn: int, hflip: bool) -> None:
  corners = np.full((32, 64, 3), 20, np.uint8)
  corners[:16, :16] = (230, 20, 20)
  corners[:16, -16:] = (20, 230, 20)
  source = encode_video(
    [corners] * 3,
    # Degrees counter-clockwise, then mirrored.
    setup=lambda s: s.set_display_rotation(turn, hflip=hflip),
  )
  expected = np.rot90(corners, turn // 90)
  if hflip:
    expected = expected[:, ::-1]
  encoded = recode(source, side=None)
  assert Video(encoded).info.rotation == 0
  # By the decoder alone: what a player without rotation would show.
  with av.open(io.BytesIO(encoded)) as container:
    shown = next(container.decode(video=0))
    assert "DISPLAYMATRIX" not in shown.side_data
    picture = shown.to_ndarray(format="rgb24")
  assert picture.shape == expected.shape
  # The edges of saturated colours lose resolution twice.
  assert np.abs(picture.astype(int) - expected).mean() < 8
  small = Video(recode(source, side=16)).info
  assert (small.height, small.width) == ((32, 16) if turn % 180 else (16, 32))


@pytest.mark.parametrize(
  ("side", "shape", "expected"),
  [
    (None, (240, 320), (240, 320)),
    (None, (241, 321), (240, 320)),
    (None, (1, 1), (2, 2)),
    (120, (240, 320), (120, 160)),
    (120, (320, 240), (160, 120)),
    (240, (240, 321), (240, 320)),
    (480, (240, 320), (240, 320)),  # nothing is enlarged
    (240, (241, 319), (240, 318)),  # 317.7
    (180, (720, 1278), (180, 320)),  # 319.5
    (100, (480, 854), (100, 178)),  # 177.9
  ],
)
def test_sizes(side: Any, shape: Any, expected: Any) -> None:
  assert even_size(side, *shape) == expected


def test_odd_sizes_are_scaled_as_a_whole() -> None:
  # White right and bottom edges, which a crop would take away.
  picture = np.zeros((65, 97, 3), np.uint8)
  picture[-4:], picture[:, -4:] = 255, 255
  source = ffv1([picture] * 2, "bgr0")
  frame = Video(recode(source, side=None, crf=1)).read([0])[0]
  assert frame.shape == (64, 96, 3)
  assert frame[-3:].mean() > 245
  assert frame[:, -3:].mean() > 245
  assert frame[:-6, :-6].mean() < 5


def ffv1(pictures: list[np.ndarray], form: str) -> bytes:
  """Pictures, RGB, without loss but that of the pixel format."""
  file = io.BytesIO()
  with av.open(file, "w", format="matroska") as out:
    stream: Any = out.add_stream("ffv1", rate=25)
    stream.height, stream.width = pictures[0].shape[:2]
    stream.pix_fmt = form
    for k, picture in enumerate(pictures):
      frame = av.VideoFrame.from_ndarray(picture, "rgb24")
      frame.pts = k
      out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
  return file.getvalue()


# Colour space by its number in H.273, whether the levels are full range.
TAGS = {
  "BT.709": (1, False, (0.2126, 0.0722)),
  "BT.601": (5, False, (0.299, 0.114)),
  "BT.709, full range": (1, True, (0.2126, 0.0722)),
  "BT.601, full range": (6, True, (0.299, 0.114)),
  "BT.2020": (9, False, (0.2627, 0.0593)),
  "no tag": (2, False, (0.299, 0.114)),
}


@pytest.mark.parametrize("side", [None, 16])
@pytest.mark.parametrize("name", list(TAGS))
def test_matrix_and_range(name: str, side: int | None) -> None:
  """The colour that went in, by the equations of the standards, comes out."""
  code, full, (kr, kb) = TAGS[name]
  colour = np.array([200, 40, 90])
  red, green, blue = colour / 255
  y = kr * red + (1 - kr - kb) * green + kb * blue
  chroma = [(blue - y) / (2 * (1 - kb)), (red - y) / (2 * (1 - kr))]
  low, luma, size = (0, 255, 255) if full else (16, 219, 224)
  levels = [low + luma * y, *(128 + size * level for level in chroma)]
  file = io.BytesIO()
  with av.open(file, "w", format="mp4") as out:
    stream: Any = out.add_stream("libx264", rate=25, options={"crf": "1"})
    stream.height = stream.width = 32
    stream.pix_fmt = "yuvj420p" if full else "yuv420p"
    stream.codec_context.colorspace = code
    planes = [np.full((32, 32), levels[0])]
    planes += [np.full((8, 32), level) for level in levels[1:]]
    picture = np.rint(np.concatenate(planes)).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, stream.pix_fmt)
    frame.colorspace, frame.color_range = code, 1 + full
    out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
  encoded = recode(file.getvalue(), side=side)
  got = Video(encoded).read([0])[0]
  # One rounding more than without: levels to 8 bits, twice.
  assert np.abs(got.astype(int) - colour).max() <= 4
  with av.open(io.BytesIO(encoded)) as container:
    shown = next(container.decode(video=0))
  assert shown.format.name == "yuv420p"
  assert shown.colorspace in ((5, 6) if code in (5, 6) else (code,))


def textured(height: int, width: int) -> np.ndarray:
  """Smooth random colours, 16 pixels from one to the next."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (height // 16, width // 16, 3))
  return VideoReformatter().reformat(
    av.VideoFrame.from_ndarray(coarse.astype(np.uint8), "rgb24"),
    width, height, interpolation="BICUBIC",
  ).to_ndarray()  # fmt: skip


# What is to end in 4:2:0 of 8 bits: encoder, pixel format, container.
KINDS: dict[str, tuple[str, str, str, dict[str, str]]] = {
  "h264": ("libx264", "yuv420p", "mp4", {"crf": "1"}),
  "h264 full range": ("libx264", "yuvj420p", "mp4", {"crf": "1"}),
  "h264 4:4:4": ("libx264", "yuv444p", "mp4", {"crf": "1"}),
  "h264 10 bits": ("libx264", "yuv422p10le", "mp4", {"crf": "1"}),
  "h264 grey": ("libx264", "gray", "mp4", {"crf": "1"}),
  "h264 interlaced": (
    "libx264", "yuv420p", "mp4", {"crf": "1", "x264-params": "interlaced=1"},
  ),
  "mpeg4": ("mpeg4", "yuv420p", "avi", {}),
  "mpeg1": ("mpeg1video", "yuv420p", "mpeg", {}),
  "mjpeg": ("mjpeg", "yuvj420p", "avi", {"qmin": "1"}),
  "vp9": ("libvpx-vp9", "yuv420p", "webm", {"crf": "4"}),
  "rgb": ("ffv1", "bgr0", "matroska", {}),
}  # fmt: skip


@pytest.mark.parametrize("side", [None, 120])
@pytest.mark.parametrize("kind", list(KINDS))
def test_pixels_are_those_of_the_source_resized(
  kind: str, side: int | None
) -> None:
  """What decoding gives, before and after, differs by what 4:2:0 must lose.

  Scaled chroma half a pixel from where it was measured, or fields mixed up,
  are 2 grey levels and more above it.
  """
  codec, form, container, options = KINDS[kind]
  still = av.VideoFrame.from_ndarray(textured(240, 320), "rgb24")
  file = io.BytesIO()
  with av.open(file, "w", format=container) as out:
    stream: Any = out.add_stream(codec, rate=25, options=options)
    stream.height, stream.width, stream.pix_fmt = 240, 320, form
    if "crf" not in options:
      stream.bit_rate = 50_000_000
    for k in range(2):
      frame = still.reformat(
        format=form, dst_color_range=2 if form == "yuvj420p" else None
      )
      frame.pts = k
      out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
  video = Video(file.getvalue())
  size = (240, 320) if side is None else (120, 160)
  expected = video.read([0], size)[0]
  # The same picture to 4:2:0 and back, without a codec: what it must lose.
  least = expected
  for target in ("yuv420p", "rgb24"):
    source_format = "rgb24" if target == "yuv420p" else "yuv420p"
    least = VideoReformatter().reformat(
      av.VideoFrame.from_ndarray(least, source_format),
      format=target, interpolation=SWSCALE,
    ).to_ndarray()  # fmt: skip
  loss = np.abs(least.astype(int) - expected).mean()
  result = Video(recode(video, side=side, crf=1))
  error = result.read([0])[0] - expected.astype(float)
  assert np.abs(error).mean() < loss + 0.6
  assert np.abs(error @ GREY).mean() < 1
  with av.open(io.BytesIO(recode(video, side=side))) as read:
    shown = next(read.decode(video=0))
    assert (shown.format.name, shown.interlaced_frame) == ("yuv420p", False)
    # The quality that is meant to be used.
    error = shown.to_ndarray(format="rgb24") - expected.astype(float)
  assert np.abs(error @ GREY).mean() < 3


def test_short_groups_without_sound_the_same_every_time() -> None:
  source = encode_video(FRAMES, gop=70, bframes=3, audio=True)
  encoded = recode(source, side=32)
  assert encoded == recode(source, side=32)
  with av.open(io.BytesIO(encoded)) as container:
    assert [stream.type for stream in container.streams] == ["video"]
    assert container.streams.video[0].codec_context.codec.name == "h264"
  found = packets(encoded)
  keys = [k for k, packet in enumerate(found) if packet.is_keyframe]
  assert np.diff([*keys, 70]).max() <= 8
  assert all(packet.pts == packet.dts for packet in found)  # no B-frames
  # A source of keyframes only does not make the result one.
  intra = encode_video(FRAMES, gop=1)
  assert sum(p.is_keyframe for p in packets(recode(intra, side=32))) < 20
  longer = recode(source, side=32, gop=35)
  assert sum(p.is_keyframe for p in packets(longer)) < len(keys)
  assert len(recode(source, side=32, crf=40)) < len(encoded)


def test_bytes_do_not_depend_on_what_was_in_memory(
  tmp_path: pathlib.Path,
) -> None:
  """glibc fills new memory with a byte; x264's mbtree shows which it was."""
  rng = np.random.default_rng(0)
  moving = np.tile(numbered(16), (1, 4, 4, 1))[:, :240, :320]
  noise = rng.integers(0, 60, moving.shape[1:]).astype(np.uint8)
  path = tmp_path / "film.mp4"
  path.write_bytes(encode_video(np.minimum(moving, 195) + noise))
  script = (
    "import hashlib, sys\n"
    "from p3d_jax.data.recode import recode\n"
    "for side in (None, 180):\n"
    "  print(hashlib.md5(recode(sys.argv[1], side=side)).hexdigest())"
  )
  found = {
    subprocess.run(
      [sys.executable, "-c", script, str(path)],
      capture_output=True, text=True, check=True,
      env=os.environ | {"MALLOC_PERTURB_": byte},
    ).stdout
    for byte in ("1", "77", "255")
  }  # fmt: skip
  assert len(found) == 1


def test_path_and_bytes_are_the_same(tmp_path: pathlib.Path) -> None:
  source = encode_video(FRAMES, gop=30, bframes=3)
  path = tmp_path / "a film, mit Ümlaut.mp4"
  path.write_bytes(source)
  piece: dict[str, Any] = {"side": 32, "start": 1.5, "seconds": 0.5}
  expected = recode(source, **piece)
  assert recode(path, **piece) == expected
  assert recode(Video(path), **piece) == expected


def test_memory_does_not_grow_with_the_film(tmp_path: pathlib.Path) -> None:
  """500 frames of 640x480, 230 MB if they were kept, in under 50 MB."""
  path = tmp_path / "film.mp4"
  still = [textured(480, 640)] * 500
  path.write_bytes(encode_video(still, options={"preset": "ultrafast"}))
  script = (
    "import resource, sys\n"
    "from p3d_jax.data.recode import recode\n"
    "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    "recode(sys.argv[1], side=None, seconds=1.0)\n"
    "before = peak()\n"
    "recode(sys.argv[1], side=None)\n"
    "print(peak() - before)"
  )
  run = subprocess.run(
    [sys.executable, "-c", script, str(path)],
    capture_output=True, text=True, check=True,
  )  # fmt: skip
  assert int(run.stdout) < 50_000  # kB


def test_one_frame() -> None:
  video = Video(recode(encode_video(FRAMES[:1]), side=32))
  assert video.num_frames == 1
  assert video.duration == pytest.approx(1 / 25)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"side": 241}, "side=241: must be an even number"),
    ({"side": 0}, "side=0: must be an even number"),
    ({"side": 120.0}, r"side=120\.0: must be an even number"),
    ({"start": -1.0}, r"start=-1\.0: must be from 0 to below 2\.800"),
    ({"start": 2.8}, r"start=2\.8: must be from 0"),
    ({"seconds": 0.0}, r"seconds=0\.0: must be > 0"),
    ({"seconds": float("nan")}, "seconds=nan: must be > 0"),
    ({"crf": 52}, "crf=52: must be a whole number"),
    ({"gop": 0}, "gop=0: must be a whole number"),
  ],
)
def test_mistakes_are_one_line(arguments: Any, message: str) -> None:
  source = encode_video(FRAMES, options={"preset": "ultrafast"})
  with pytest.raises(ValueError, match=message) as caught:
    recode(source, **{"side": None, **arguments})
  assert "\n" not in str(caught.value)
  assert not isinstance(caught.value, VideoError)


def test_options_are_those_of_every_set() -> None:
  assert h264_options() == {
    "crf": "20", "preset": "veryfast", "bf": "0", "g": "8", "mbtree": "0",
  }  # fmt: skip


def noisy() -> bytes:
  rng = np.random.default_rng(1)
  noise = rng.integers(0, 256, (60, 8, 12, 3)).astype(np.uint8)
  frames = noise.repeat(8, axis=1).repeat(8, axis=2)
  return encode_video(frames, gop=30, options={"sc_threshold": "0"})


def damaged(source: bytes, frames: range) -> bytes:
  """Destroys the inside of packets, behind the headers a decoder needs."""
  data = bytearray(source)
  for k, packet in enumerate(packets(source)):
    if k in frames and packet.pos is not None:
      begin = packet.pos + packet.size // 2
      data[begin : packet.pos + packet.size] = np.random.default_rng(k).bytes(
        packet.size - packet.size // 2
      )
  return bytes(data)


def test_damage_is_an_error_and_not_a_shorter_video() -> None:
  source = noisy()
  with pytest.raises(VideoError, match="damaged, [0-9]+ of 60 frames") as error:
    recode(damaged(source, range(35, 60)), side=None)
  assert "\n" not in str(error.value)
  # One frame that the decoder mends is what reading allows, too.
  mended = recode(damaged(source, range(40, 41)), side=None)
  assert Video(mended).num_frames == 60


def test_damage_outside_a_piece_does_not_matter() -> None:
  source = noisy()
  data = damaged(source, range(5, 25))
  expected = Video(source).read(range(30, 60))
  got = Video(recode(data, side=None, start=1.2, crf=1)).read(range(30))
  assert np.abs(got.astype(int) - expected).mean() < 2


# To nine tenths `Video` takes an end that comes early for a rounded header.
@pytest.mark.parametrize("part", [0.3, 0.6, 0.8])
@pytest.mark.parametrize(
  ("container", "codec"), [("matroska", "libx264"), ("avi", "mpeg4")]
)
def test_truncated_streams(container: str, codec: str, part: float) -> None:
  source = encode_video(FRAMES, container=container, codec=codec)
  with pytest.raises(VideoError) as caught:
    recode(source[: int(len(source) * part)], side=None)
  assert "\n" not in str(caught.value)
