from typing import Any

import numpy as np
import pytest

from p3d_jax.data.clips import (
  Augment,
  Views,
  color,
  draw_box,
  random_clip,
  resample,
  uniform_clips,
)


def test_random_clip_takes_every_start_equally_often() -> None:
  rng = np.random.default_rng(0)
  # 10 frames, a clip of 3 with stride 2 spans 5: starts 0 to 5.
  clips = [random_clip(10, 3, 2, rng) for _ in range(6000)]
  starts = np.bincount([clip[0] for clip in clips], minlength=6)
  assert len(starts) == 6
  # 1000 expected, deviation 29.
  assert np.abs(starts - 1000).max() < 120
  assert all((np.diff(clip) == 2).all() for clip in clips)


@pytest.mark.parametrize(
  ("num_frames", "expected"),
  [(3, [0, 2, 2, 2]), (1, [0, 0, 0, 0]), (5, [0, 2, 4, 4]), (7, [0, 2, 4, 6])],
)
def test_a_short_video_holds_its_last_frame(
  num_frames: int, expected: list[int]
) -> None:
  rng = np.random.default_rng(0)
  assert random_clip(num_frames, 4, 2, rng).tolist() == expected
  for clip in uniform_clips(num_frames, 4, 2, 3):
    assert clip.tolist() == expected


@pytest.mark.parametrize(
  ("num_frames", "clips", "starts"),
  [
    (16, 1, [0]),
    (31, 1, [7]),  # in the middle of 0..15
    (36, 3, [0, 10, 20]),
    (26, 5, [0, 3, 5, 8, 10]),  # 2.5 and 7.5 go up
    (17, 4, [0, 0, 1, 1]),
  ],
)
def test_uniform_clips_by_hand(
  num_frames: int, clips: int, starts: list[int]
) -> None:
  out = uniform_clips(num_frames, 16, 1, clips)
  assert out.shape == (clips, 16)
  assert out[:, 0].tolist() == starts
  assert (np.diff(out, axis=1) == 1).all()


def test_random_views_take_every_start_equally_often() -> None:
  # 10 frames, a clip of 3 with stride 2 spans 5: starts 0 to 5.
  views = Views(clips=20, sampling="random")
  clips = np.concatenate(
    [views.choose(10, 3, 2, f"video {k}") for k in range(300)]
  )
  starts = np.bincount(clips[:, 0], minlength=6)
  assert len(starts) == 6
  # 1000 expected, deviation 29.
  assert np.abs(starts - 1000).max() < 120
  assert (np.diff(clips, axis=1) == 2).all()


def test_random_views_are_of_the_seed_and_the_video_alone() -> None:
  views = Views(sampling="random", seed=1)
  one = views.choose(100, 16, 1, "a")
  assert np.array_equal(one, views.choose(100, 16, 1, "a"))
  assert not np.array_equal(one, views.choose(100, 16, 1, "b"))
  other = Views(sampling="random", seed=2)
  assert not np.array_equal(one, other.choose(100, 16, 1, "a"))
  # The first of many clips are the clips of fewer.
  few = Views(clips=3, sampling="random", seed=1)
  assert np.array_equal(one[:3], few.choose(100, 16, 1, "a"))


def test_uniform_views_do_not_draw() -> None:
  found = Views(clips=5, crops=3, seed=7)
  assert found.count == 15
  expected = uniform_clips(26, 16, 1, 5)
  assert np.array_equal(found.choose(26, 16, 1, "a"), expected)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"clips": 0}, "^clips=0: must be >= 1$"),
    ({"sampling": "dense"}, "^sampling='dense': must be one of uniform, ran"),
    ({"crops": 2}, "^crops=2: must be 1 or 3$"),
    ({"seed": -1}, "^seed=-1: must be >= 0$"),
  ],
  ids=["clips", "sampling", "crops", "seed"],
)
def test_views_that_are_refused(fields: dict[str, Any], message: str) -> None:
  with pytest.raises(ValueError, match=message):
    Views(**fields)


def test_the_twenty_clips_reach_both_ends() -> None:
  out = uniform_clips(300, 16, 1, 20)
  assert out[0, 0] == 0
  assert out[-1, -1] == 299


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((0, 16, 1), "num_frames=0"),
    ((9, 0, 1), "frames=0"),
    ((9, 16, 0), "stride=0"),
  ],
)
def test_clip_errors(arguments: tuple[int, int, int], message: str) -> None:
  with pytest.raises(ValueError, match=message):
    random_clip(*arguments, np.random.default_rng(0))
  with pytest.raises(ValueError, match=message):
    uniform_clips(*arguments, 2)


def test_resample_of_an_uneven_video() -> None:
  # Frames at 0, 0.1, 0.5, 0.6 s; the last is shown until 1 s.
  times = np.array([0, 0.1, 0.5, 0.6])
  assert resample(times, 1.0, 10).tolist() == [0, 1, 1, 1, 1, 2, 3, 3, 3, 3]
  assert resample(times, 1.0, 2).tolist() == [0, 2]
  assert resample(times, 0.1, 2).tolist() == [0]


def test_resample_halves_and_doubles() -> None:
  times = np.arange(30) / 30
  assert resample(times, 1.0, 15).tolist() == list(range(0, 30, 2))
  assert resample(times, 1.0, 60).tolist() == [k // 2 for k in range(60)]
  # Matroska rounds times to the millisecond.
  rounded = np.round(times, 3)
  assert resample(rounded, 1.0, 30).tolist() == list(range(30))


def positions(height: int, width: int) -> np.ndarray:
  """A clip whose pixels hold their row, column and frame."""
  clip = np.zeros((2, height, width, 3), np.uint8)
  clip[..., 0] = np.arange(height)[:, None]
  clip[..., 1] = np.arange(width)
  clip[1, ..., 2] = 1
  return clip


def test_random_crop_is_one_window_anywhere() -> None:
  rng = np.random.default_rng(0)
  augment = Augment()
  corners = set()
  for _ in range(400):
    out, flipped = augment(positions(10, 9), (8, 8), rng)
    top, left = int(out[0, 0, 0, 0]), int(out[0, 0, 0, 1])
    corners.add((top, left))
    assert not flipped
    assert np.array_equal(
      out, positions(10, 9)[:, top : top + 8, left : left + 8]
    )
  assert corners == {(y, x) for y in range(3) for x in range(2)}


def test_without_random_crop_it_is_the_centre() -> None:
  out, _ = Augment(random_crop=False)(
    positions(10, 9), (8, 8), np.random.default_rng(0)
  )
  assert out[0, 0, 0].tolist() == [1, 0, 0]


def test_flip_mirrors_half_of_the_clips_and_says_so() -> None:
  rng = np.random.default_rng(0)
  flips = 0
  for _ in range(400):
    out, flipped = Augment(random_crop=False, flip=True)(
      positions(8, 8), (8, 8), rng
    )
    columns = out[:, :, :, 1]
    expected = np.arange(8)[::-1] if flipped else np.arange(8)
    assert (columns == expected).all()
    flips += flipped
  assert 160 < flips < 240


def test_mirroring_flow_turns_its_x() -> None:
  flow = np.array([[[[0, 0], [1, 7], [128, 128], [255, 255]]]], np.uint8)
  augment = Augment(random_crop=False, flip=True)
  seen = {}
  for seed in range(20):
    out, flipped = augment(flow, (1, 4), np.random.default_rng(seed))
    seen[flipped] = out[0, 0].tolist()
  # About 128, -127 and 127 change places; -128 becomes the nearest there is,
  # 127. y stays as it is.
  assert seen == {
    False: [[0, 0], [1, 7], [128, 128], [255, 255]],
    True: [[1, 255], [128, 128], [255, 7], [255, 0]],
  }


def test_reading_flow_turns_its_x_once() -> None:
  flow = np.random.default_rng(0).integers(0, 256, (3, 8, 9, 2), np.uint8)

  class Video:
    def read(self, indices: Any, resize: Any, crop: Any) -> np.ndarray:
      return np.stack([crop(frame) for frame in flow[indices]])

  for seed in range(8):
    augment = Augment(flip=True, scales=(1.0, 0.5) if seed % 2 else ())
    rng, other = np.random.default_rng(seed), np.random.default_rng(seed)
    one = augment(flow[[0, 2]], (6, 5), rng)
    two = augment.read(Video(), np.array([0, 2]), None, (6, 5), other)
    assert np.array_equal(one[0], two[0])
    assert one[1] == two[1]
    # One window was drawn, not one for each frame.
    assert rng.integers(1 << 30) == other.integers(1 << 30)


def test_flow_has_no_colours() -> None:
  flow = np.zeros((1, 4, 4, 2), np.uint8)
  augment = Augment(jitter=(0.1, 0, 0))
  with pytest.raises(ValueError, match="jitter needs RGB clips.* 2 channels"):
    augment(flow, (4, 4), np.random.default_rng(0))


def test_scales_cut_parts_of_the_largest_crop() -> None:
  rng = np.random.default_rng(0)
  boxes = [
    draw_box((64, 96), (32, 32), (1.0, 0.75, 0.5), True, rng)
    for _ in range(300)
  ]
  assert {box[2:] for box in boxes} == {(64, 64), (48, 48), (32, 32)}
  for top, left, height, width in boxes:
    assert 0 <= top <= 64 - height
    assert 0 <= left <= 96 - width
  # Each is as likely as the others: 100 expected, deviation 8.
  sides = [box[2] for box in boxes]
  assert all(70 < sides.count(side) < 130 for side in (64, 48, 32))


def test_scaled_crops_are_resized_to_the_crop() -> None:
  # Twice as large, so a column is half of where it was cut.
  out, _ = Augment(random_crop=False, scales=(1.0,))(
    positions(64, 64), (32, 32), np.random.default_rng(0)
  )
  assert out.shape == (2, 32, 32, 3)
  expected = 2 * np.arange(32) + 0.5
  assert np.abs(out[0, 16, 2:-2, 1] - expected[2:-2]).max() <= 1


def test_color_by_hand() -> None:
  clip = np.array([[[[100, 50, 10], [100, 150, 190]]]], np.uint8)
  assert np.array_equal(color(clip, 1, 1, 1), clip)
  # 190 * 1.5 = 285 is clipped.
  assert color(clip, 1.5, 1, 1).reshape(-1).tolist() == [
    150, 75, 15, 150, 225, 255,
  ]  # fmt: skip
  # Greys: 0.299 * 100 + 0.587 * 50 + 0.114 * 10 = 60.39, and 139.61.
  assert color(clip, 1, 1, 0).reshape(-1).tolist() == [60] * 3 + [140] * 3
  # Their mean is 100: halfway to it.
  assert color(clip, 1, 0.5, 1).reshape(-1).tolist() == [
    100, 75, 55, 100, 125, 145,
  ]  # fmt: skip


def test_jitter_is_one_factor_for_the_whole_clip() -> None:
  clip = np.full((4, 8, 8, 3), 100, np.uint8)
  seen = set()
  for seed in range(40):
    out, _ = Augment(jitter=(0.5, 0, 0))(
      clip, (8, 8), np.random.default_rng(seed)
    )
    assert len(np.unique(out)) == 1
    seen.add(int(out.flat[0]))
  assert min(seen) < 70
  assert max(seen) > 130
  assert all(50 <= value <= 150 for value in seen)


def test_the_same_generator_gives_the_same_clip() -> None:
  augment = Augment(scales=(1, 0.8), flip=True, jitter=(0.4, 0.4, 0.4))
  clip = np.random.default_rng(5).integers(0, 256, (3, 20, 30, 3), np.uint8)
  one, _ = augment(clip, (12, 12), np.random.default_rng(7))
  two, _ = augment(clip, (12, 12), np.random.default_rng(7))
  three, _ = augment(clip, (12, 12), np.random.default_rng(8))
  assert np.array_equal(one, two)
  assert not np.array_equal(one, three)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"scales": (1.2,)}, "scales="),
    ({"scales": (0.0,)}, "scales="),
    ({"jitter": (0.1, 0.1)}, "jitter="),
    ({"jitter": (0.1, 0.1, 1.0)}, "jitter="),
  ],
)
def test_augment_errors(fields: dict, message: str) -> None:
  with pytest.raises(ValueError, match=message):
    Augment(**fields)


def test_frames_smaller_than_the_crop() -> None:
  with pytest.raises(ValueError, match="10x9 pixels.*give `resize`"):
    Augment()(positions(10, 9), (16, 16), np.random.default_rng(0))
