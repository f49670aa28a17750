import io
import sys
from typing import Any

import av
import numpy as np
import pytest
from scipy import ndimage
from video_files import encode_video, footage

from p3d_jax.data import flow
from p3d_jax.data.clips import Augment, Views
from p3d_jax.data.decode import Video, VideoError
from p3d_jax.data.flow import (
  METHODS,
  FlowVideo,
  computing,
  encode_flow,
  flow_color,
  flow_of,
  pixels_of,
)
from p3d_jax.data.flow_file import FlowWriter
from p3d_jax.preprocess import PREPROCESSINGS, Preprocessing

HEIGHT, WIDTH = 96, 128
# As good as lossless: what the source's codec does is not the matter here.
FINE = {"qp": "0"}
# Pixels to the right and down from each frame to the next.
STEPS = [(1, 0), (-1, 0), (0, 2), (0, -2), (0.5, -1.5), (-2.5, 0.5)]
INSIDE = (slice(16, -16), slice(16, -16))


def moving(steps: Any, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
  """A smooth texture that moves by the steps, exactly: by a shift in Fourier.

  It goes round at the borders, so only the inside shows the motion.
  """
  noise = np.random.default_rng(0).standard_normal((height, width))
  texture = ndimage.gaussian_filter(noise, 2, mode="wrap")
  spectrum = np.fft.fft2(128 + 40 * texture / texture.std())
  at = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
  frames = [
    np.fft.ifft2(ndimage.fourier_shift(spectrum, (y, x))).real for x, y in at
  ]
  grey = np.clip(np.rint(frames), 0, 255).astype(np.uint8)
  return np.repeat(grey[..., None], 3, axis=-1)


def write(
  flow: np.ndarray, times: Any = None, **options: Any
) -> tuple[bytes, FlowVideo]:
  """Encodes flow, uint8 (time, height, width, 2), and opens it."""
  if times is None:
    times = np.arange(len(flow) + 1) / 25
  writer = FlowWriter(times, **options)
  for frame in flow:
    writer.write(frame)
  encoded = writer.close()
  return encoded, FlowVideo(encoded)


def decoded_by_av(encoded: bytes) -> np.ndarray:
  """Brightness of every frame, uint8 (time, height, width), even sizes."""
  with av.open(io.BytesIO(encoded)) as container:
    frames = list(container.decode(video=0))
  return np.stack([f.to_ndarray()[: f.height] for f in frames])


@pytest.fixture(scope="module")
def smooth() -> np.ndarray:
  """Flow as it is: smooth, with an edge, motion to 15 pixels; uint8."""
  rng = np.random.default_rng(1)
  motion = ndimage.gaussian_filter(
    rng.standard_normal((12, 60, 80, 2)), (0, 6, 6, 0)
  )
  motion *= 3 / motion.std()
  motion[:, 20:40, 30:50] += [6, -5]
  return pixels_of(motion)


@pytest.mark.parametrize("method", list(METHODS))
def test_planted_motion_is_found(method: str) -> None:
  encoded = encode_video(moving(STEPS), options=FINE)
  made = encode_flow(encoded, method, bound=8)
  assert made["num_frames"] == len(STEPS)
  assert made["seconds"] == pytest.approx(len(STEPS) / 25)
  motion = flow_of(FlowVideo(made["video"]).read(range(len(STEPS))), bound=8)
  assert motion.shape == (len(STEPS), HEIGHT, WIDTH, 2)
  inside = motion[:, *INSIDE]
  # Both methods are within 0.04 pixels of the truth; a pixel's step is 0.06.
  np.testing.assert_allclose(np.median(inside, (1, 2)), STEPS, atol=0.08)
  error = np.abs(inside - np.array(STEPS)[:, None, None])
  assert np.percentile(error, 95) < 0.15


def test_side_is_of_the_frames_that_move() -> None:
  # Half the side: half the pixels of motion.
  encoded = encode_video(moving([(4, -2)] * 2), options=FINE)
  made = encode_flow(encoded, "dis", bound=8, side=48)
  video = FlowVideo(made["video"])
  assert (video.info.height, video.info.width) == (48, 64)
  inside = flow_of(video.read([0, 1]), bound=8)[:, 8:-8, 8:-8]
  np.testing.assert_allclose(np.median(inside, (1, 2)), [(2, -1)] * 2, atol=0.1)


@pytest.mark.parametrize("method", list(METHODS))
def test_what_stands_still_is_128(method: str) -> None:
  made = encode_flow(encode_video(moving([(0, 0)] * 2), options=FINE), method)
  assert np.all(FlowVideo(made["video"]).read([0, 1]) == 128)


def test_numbers_by_hand() -> None:
  # Bound 20: 127 steps of 20 / 127 pixels to each side of 128.
  motion = [0, 20, -20, 100, -100, 10, -10, 0.157, -0.157, 0.07]
  pixels = [128, 255, 1, 255, 1, 192, 64, 129, 127, 128]
  assert pixels_of(np.array(motion), 20).tolist() == pixels
  np.testing.assert_allclose(
    flow_of(np.array([128, 255, 1, 129], np.uint8), 20),
    [0, 20, -20, 20 / 127],
    rtol=1e-6,
  )


def test_motion_beyond_the_bound_is_clipped() -> None:
  encoded = encode_video(moving([(3, -3)] * 2), options=FINE)
  made = encode_flow(encoded, "dis", bound=2)
  inside = FlowVideo(made["video"]).read([0, 1])[:, *INSIDE]
  assert np.median(inside[..., 0]) >= 254
  assert np.median(inside[..., 1]) <= 2


def test_mirrored_video_is_mirrored_flow() -> None:
  frames = moving([(1.5, -1), (-2, 0.5)])
  flows = [
    FlowVideo(encode_flow(encode_video(x, options=FINE), "dis", 8)["video"])
    for x in (frames, frames[:, :, ::-1])
  ]
  straight, mirrored = (flow.read([0, 1]) for flow in flows)
  augment = Augment(random_crop=False, flip=True)
  for seed in range(20):
    rng = np.random.default_rng(seed)
    there, flipped = augment(straight, (HEIGHT, WIDTH), rng)
    if flipped:
      break
  assert flipped
  difference = there.astype(int) - mirrored
  # DIS lays its patches from the left, so it is not quite symmetric: a pixel's
  # step is 0.06 pixels of motion.
  assert np.percentile(np.abs(difference[:, *INSIDE]), 95) <= 2
  # And not because there is nothing to mirror.
  assert np.abs(straight[:, *INSIDE].astype(int) - 128).mean() > 10


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_frames_are_upright(turn: int) -> None:
  # The shown picture moves to the right and is higher than wide.
  shown = moving([(2, 0)], HEIGHT, 80)
  stored = [np.rot90(frame, -turn // 90) for frame in shown]
  encoded = encode_video(
    stored,
    options=FINE,
    setup=lambda stream: stream.set_display_rotation(turn),
  )
  video = FlowVideo(encode_flow(encoded, "dis", bound=8)["video"])
  assert video.info.rotation == 0
  (motion,) = flow_of(video.read([0]), bound=8)
  assert motion.shape == (HEIGHT, 80, 2)
  np.testing.assert_allclose(
    np.median(motion[INSIDE], (0, 1)), (2, 0), atol=0.08
  )


def test_uneven_times_are_kept() -> None:
  times = [0, 100, 500, 600, 650, 700]
  made = encode_flow(encode_video(footage(0, 6), times=times), "dis")
  video = FlowVideo(made["video"])
  np.testing.assert_allclose(video.times, np.array(times[:-1]) / 1000)
  # The last flow ends when the last frame appears.
  assert video.duration == pytest.approx(0.7)
  assert made["seconds"] == pytest.approx(0.7)
  # What is on screen at 0, 0.1, ... 0.6 seconds.
  assert video.timeline(10).tolist() == [0, 1, 1, 1, 1, 2, 3]


@pytest.mark.parametrize("rate", [24, 25, 30, 60])
def test_frame_rates_are_kept(rate: int) -> None:
  encoded = encode_video(footage(0, 9), rate=rate)
  video = FlowVideo(encode_flow(encoded, "dis")["video"])
  assert video.info.fps == pytest.approx(rate)
  np.testing.assert_allclose(video.times, np.arange(8) / rate, atol=6e-6)


def test_one_frame_is_one_frame_that_stands_still() -> None:
  made = encode_flow(encode_video(footage(0, 1), rate=10), "dis")
  video = FlowVideo(made["video"])
  assert (made["num_frames"], video.num_frames) == (1, 1)
  assert video.duration == pytest.approx(0.1)
  assert np.array_equal(video.read([0]), np.full((1, 96, 128, 2), 128))


@pytest.mark.parametrize(
  "size", [(16, 24), (15, 17), (1, 3), (7, 2)], ids=lambda s: f"{s[0]}x{s[1]}"
)
def test_lossless_is_bit_exact(size: tuple[int, int]) -> None:
  rng = np.random.default_rng(0)
  flow = rng.integers(0, 256, (5, *size, 2)).astype(np.uint8)
  flow[0, 0, 0] = 0, 255
  _, video = write(flow, qp=0)
  assert (video.info.height, video.info.width) == size
  assert np.array_equal(video.read(range(5)), flow)


def test_error_and_size_of_the_encoding(smooth: np.ndarray) -> None:
  import cv2

  encoded, video = write(smooth)
  error = np.abs(video.read(range(12)).astype(float) - smooth) * 20 / 127
  # flow_file.py says 0.07 of flow that is nowhere flat; 0.47 was the largest.
  assert error.mean() < 0.08
  assert error.max() < 0.7
  jpegs = [
    cv2.imencode(".jpg", plane, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    for frame in smooth
    for plane in np.moveaxis(frame, -1, 0)
  ]
  assert len(encoded) < 0.65 * sum(len(jpeg) for jpeg in jpegs)


def test_error_does_not_depend_on_the_rate(smooth: np.ndarray) -> None:
  slow, fast = (
    write(smooth, np.arange(13) / fps)[1].read(range(12)) for fps in (2, 200)
  )
  assert np.array_equal(slow, fast)


def test_frames_closer_than_a_tick_stay_apart(smooth: np.ndarray) -> None:
  times = [0.0, 0.04, 0.040001, 0.040002, 0.08]
  _, video = write(smooth[:4], times)
  # Ticks of 1/90000 of a second: 3600, 3601, 3602.
  np.testing.assert_allclose(video.times * 90_000, [0, 3600, 3601, 3602])
  assert video.duration == pytest.approx(0.08)


def test_every_frame_is_a_keyframe(smooth: np.ndarray) -> None:
  encoded, _ = write(smooth)
  with av.open(io.BytesIO(encoded)) as container:
    keys = [packet.is_keyframe for packet in container.demux() if packet.size]
  assert keys == [True] * 12


def test_same_bytes_every_time() -> None:
  encoded = encode_video(moving(STEPS[:2]))
  first = encode_flow(encoded, "dis", 20.0, 48)
  assert encode_flow(encoded, "dis", 20.0, 48)["video"] == first["video"]
  assert encode_flow(encoded, "dis", 10.0, 48)["video"] != first["video"]


def test_read_is_x_above_y(smooth: np.ndarray) -> None:
  encoded, video = write(smooth)
  planes = decoded_by_av(encoded)
  expected = np.stack([planes[:, :60], planes[:, 60:]], axis=-1)
  wanted = [0, 3, 3, 11]
  assert np.array_equal(video.read(wanted), expected[wanted])
  cut = video.read(wanted, crop=lambda frame: frame[5:25, 7:70])
  assert np.array_equal(cut, expected[wanted, 5:25, 7:70])


def triangle(size: int, out: int) -> np.ndarray:
  """Bilinear reduction, (out, size): weights fall from 1 to 0 over a step."""
  step = size / out
  centers = (np.arange(out) + 0.5) * step - 0.5
  distance = np.abs(np.arange(size) - centers[:, None]) / max(step, 1)
  weights = np.maximum(1 - distance, 0)
  return weights / weights.sum(axis=1, keepdims=True)


def test_resize_is_of_each_plane_and_keeps_the_values(
  smooth: np.ndarray,
) -> None:
  encoded, video = write(smooth)
  planes = decoded_by_av(encoded).astype(float)
  stack = np.stack([planes[:, :60], planes[:, 60:]], axis=-1)
  expected = np.einsum(
    "ah,bw,thwc->tabc", triangle(60, 30), triangle(80, 40), stack
  )
  small = video.read(range(12), 30)
  assert small.shape == (12, 30, 40, 2)
  # The scaler's weights are of 14 bits, and it rounds twice.
  assert np.abs(small - expected).max() <= 1.01
  assert np.abs(small - expected).mean() < 0.4
  # Away from the borders, where the mean is of what is there.
  flat = np.full((1, 60, 80, 2), 200, np.uint8)
  assert np.all(write(flat, qp=0)[1].read([0], (30, 50)) == 200)


def test_clips_are_those_of_any_video(smooth: np.ndarray) -> None:
  _, video = write(smooth)
  record = Preprocessing(
    frames=4,
    stride=2,
    resize=(40, 50),
    crop=32,
    channels="flow",
    mean=(128.0, 128.0),
    std=(1.0, 1.0),
  )
  indices = video.clip_indices(record, Views(3))
  # 7 frames for a clip: starts at 0, 2.5 rounded up, and 5.
  assert indices.tolist() == [[0, 2, 4, 6], [3, 5, 7, 9], [5, 7, 9, 11]]
  cut = video.read_clips(indices, record)
  whole = video.read_clips(indices, record, crops=None)
  assert whole.shape == (3, 4, 40, 50, 2)
  # (40 - 32) / 2 and (50 - 32) / 2 pixels are left out before the crop.
  assert np.array_equal(cut, whole[:, :, 4:36, 9:41])
  np.testing.assert_array_equal(record.preprocess(whole), cut - 128.0)


def test_released_weights_see_zero_where_nothing_moves() -> None:
  record = PREPROCESSINGS["released_flow"]
  still = np.full((1, 2, 160, 160, 2), 128, np.uint8)
  assert np.all(record.normalize(still) == 0)


def grey_video(height: int, color_range: int, setup: Any = None) -> bytes:
  """Two grey frames, 16 pixels wide."""
  file = io.BytesIO()
  with av.open(file, "w", format="matroska") as out:
    stream: Any = out.add_stream("ffv1", rate=25)
    stream.height, stream.width, stream.pix_fmt = height, 16, "yuv444p"
    stream.codec_context.color_range = color_range
    for k in range(2):
      picture = np.full((3, height, 16), 128, np.uint8)
      picture[0] = 100 + k
      frame = av.VideoFrame.from_ndarray(picture, "yuv444p")
      frame.color_range = color_range
      out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
  return file.getvalue()


def turned_flow() -> bytes:
  encoded, _ = write(np.full((2, 16, 16, 2), 128, np.uint8))
  file = io.BytesIO()
  with av.open(io.BytesIO(encoded)) as source:
    stored = source.streams.video[0]
    with av.open(file, "w", format="mp4") as out:
      stream: Any = out.add_stream_from_template(stored)
      stream.set_display_rotation(90)
      for packet in source.demux(stored):
        if packet.size:
          packet.stream = stream
          out.mux(packet)
  return file.getvalue()


NO_FLOW = {
  "film": (lambda: encode_video(footage(0, 3)), "full range"),
  "limited range": (lambda: grey_video(16, 1), "full range"),
  "odd height": (lambda: grey_video(15, 2), "height, 15, is odd"),
  "turned": (turned_flow, "turns it"),
  "colours": (
    lambda: encode_video(
      footage(0, 3),
      setup=lambda stream: setattr(stream.codec_context, "color_range", 2),
    ),
    "colours",
  ),
  "rgb": (
    lambda: encode_video(
      footage(0, 3),
      container="matroska",
      codec="ffv1",
      setup=lambda stream: setattr(stream, "pix_fmt", "bgr0"),
    ),
    "bgr0, not grey",
  ),
}


@pytest.mark.parametrize("kind", list(NO_FLOW))
def test_other_videos_are_refused(kind: str) -> None:
  make, reason = NO_FLOW[kind]
  video = FlowVideo(make())
  for read in (lambda: video.read([0]), lambda: video.info):
    with pytest.raises(VideoError, match=reason) as error:
      read()
    assert "\n" not in str(error.value)
    assert "no video of optical flow" in str(error.value)


def test_grey_full_range_by_others_is_read() -> None:
  video = FlowVideo(grey_video(16, 2))
  assert np.array_equal(video.read([1]), np.full((1, 8, 16, 2), 101))


def test_flow_color_by_hand() -> None:
  # To the right, left, down and up at the bound; still; right at a quarter of
  # it; and beyond the bound, down to the right.
  pixels = [
    ((255, 128), (255, 0, 0)),
    ((1, 128), (0, 255, 255)),
    ((128, 255), (128, 255, 0)),
    ((128, 1), (128, 0, 255)),
    ((128, 128), (255, 255, 255)),
    ((160, 128), (255, 191, 191)),  # 32 / 127 of 255 is 64 less
    ((255, 255), (255, 191, 0)),
  ]
  flow = np.array([pixel for pixel, _ in pixels], np.uint8)
  colors = flow_color(flow.reshape(1, 1, 7, 2))
  assert colors.shape == (1, 1, 7, 3)
  assert colors.dtype == np.uint8
  np.testing.assert_allclose(
    colors[0, 0].astype(int), [color for _, color in pixels], atol=1
  )


def test_flow_color_is_full_at_the_scale() -> None:
  # Bound 8 pixels a frame: these are 2, 1, 4 to the right and 1 up.
  motion = np.array([(2, 0), (1, 0), (4, 0), (0, -1)])
  colors = flow_color(pixels_of(motion, 8), bound=8, scale=2)
  np.testing.assert_allclose(
    colors.astype(int),
    [(255, 0, 0), (255, 128, 128), (255, 0, 0), (191, 128, 255)],
    atol=4,  # a level is 8 / 127 pixels: half of it is 4 of 255
  )
  with pytest.raises(ValueError, match="scale=0: must be > 0 pixels"):
    flow_color(pixels_of(motion, 8), bound=8, scale=0)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"method": "farneback"}, "method='farneback': must be one of tvl1, dis"),
    ({"bound": 0.0}, "bound=0.0: must be a finite number > 0"),
    ({"bound": float("nan")}, "bound=nan: must be a finite number > 0"),
    ({"side": 8}, "side=8: must be >= 16 pixels"),
  ],
  ids=["method", "zero bound", "nan bound", "side"],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
  with pytest.raises(ValueError, match=message):
    encode_flow(b"", **options)


def test_small_frames_are_refused() -> None:
  encoded = encode_video(footage(0, 3)[:, :8])
  with pytest.raises(VideoError, match="frames of 8x128 pixels .*too small"):
    encode_flow(encoded, "dis")


@pytest.mark.parametrize("method", list(METHODS))
def test_least_size_is_enough(method: str) -> None:
  # Long ones too: DIS chooses how far it reduces by the longer side as well.
  for height, width in ((16, 16), (16, 128), (96, 16), (18, 128)):
    encoded = encode_video(footage(0, 3)[:, :height, :width], options=FINE)
    assert encode_flow(encoded, method)["num_frames"] == 2


@pytest.mark.parametrize("what", ["nothing", "no contributed modules"])
def test_without_opencv(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
  plain = type("cv2", (), {"setNumThreads": staticmethod(lambda count: None)})
  monkeypatch.setitem(sys.modules, "cv2", None if what == "nothing" else plain)
  with pytest.raises(ValueError, match=r"pip install 'p3d_jax\[flow\]'") as e:
    computing("tvl1")
  assert "\n" not in str(e.value)


def test_a_broken_video_is_a_video_error() -> None:
  with pytest.raises(VideoError):
    encode_flow(b"no video at all", "dis")


def test_a_frame_left_out_is_the_one_before(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  encoded = encode_video(moving([(1, 0)] * 6), options=FINE)
  original = Video.frames

  def without_the_fourth(self: Video, start: int = 0) -> Any:
    for count, frame in enumerate(original(self, start)):
      if count != 3:
        yield frame

  with monkeypatch.context() as patched:
    patched.setattr(Video, "frames", without_the_fourth)
    made = encode_flow(encoded, "dis", bound=8)
  motion = flow_of(FlowVideo(made["video"]).read(range(6)), bound=8)
  # Frame 3 is frame 2 again, and from there to frame 4 it goes twice as far.
  np.testing.assert_allclose(
    np.median(motion[:, *INSIDE], (1, 2)),
    [(x, 0) for x in (1, 1, 0, 2, 1, 1)],
    atol=0.08,
  )


def test_decoding_may_begin_again() -> None:
  # What `Video.read` does where the nearest keyframe was not enough.
  frames = moving([(1, 0)] * 2)
  source = flow._FlowSource(
    encode_video(frames, options=FINE), computing("dis"), 8, None
  )
  source._comment = ""
  flows = source._pictures(3, None, None)
  decoded = list(source.frames())
  for at, k in [(0, 2), (1, 0), (0, 0), (1, 1), (2, 2)]:
    flows.put(at, decoded[k])
  made = FlowVideo(source._flows.close())
  motion = flow_of(made.read([0, 1]), bound=8)[:, *INSIDE]
  np.testing.assert_allclose(np.median(motion, (1, 2)), [(1, 0)] * 2, atol=0.08)
