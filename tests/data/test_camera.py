import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from p3d_jax.data import camera
from p3d_jax.data.builders import camera_motion as cm

FOOTAGE_SIZE = (144, 256)
FRAMES = 24


def paths(label: int, count: int) -> list[camera.CameraPath]:
  return [
    camera.camera_path(
      label, FRAMES, FOOTAGE_SIZE, cm.STEP, np.random.default_rng([label, k])
    )
    for k in range(count)
  ]


def blob(x: int, y: int, size: int = 101) -> np.ndarray:
  """A dark picture with one bright spot."""
  rows, columns = np.mgrid[:size, :size]
  spot = 255 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 18)
  return np.repeat(spot[..., None], 3, -1).astype(np.uint8)


def middle_of(picture: np.ndarray) -> tuple[float, float]:
  """The spot's (x, y) from the middle of the view."""
  weight = picture[..., 0].astype(float)
  rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
  half = (picture.shape[0] - 1) / 2
  return (
    float((columns * weight).sum() / weight.sum() - half),
    float((rows * weight).sum() / weight.sum() - half),
  )


def test_view_by_hand() -> None:
  picture = blob(60, 45)

  def see(**pose: float) -> tuple[float, float]:
    return middle_of(
      camera.view(
        picture, 64, 1.0, **{"x": 50, "y": 50, "zoom": 0, "tilt": 0, **pose}
      )
    )

  np.testing.assert_allclose(see(), (10, -5), atol=0.1)
  # The camera 4 pixels to the left: the spot 4 pixels to the right.
  np.testing.assert_allclose(see(x=46), (14, -5), atol=0.1)
  # 3 pixels up: the spot 3 pixels down.
  np.testing.assert_allclose(see(y=47), (10, -2), atol=0.1)
  # Zoomed in by 1.5: that much farther from the middle.
  np.testing.assert_allclose(see(zoom=np.log(1.5)), (15, -7.5), atol=0.1)
  # A quarter turn clockwise of the camera turns (10, -5) counter-clockwise:
  # what was on the right goes up.
  np.testing.assert_allclose(see(tilt=np.pi / 2), (-5, -10), atol=0.1)


def test_view_is_scipy_s_affine_transform() -> None:
  rng = np.random.default_rng(0)
  picture = rng.integers(0, 256, (50, 70, 3)).astype(np.uint8)
  for k in range(20):
    x, y = rng.uniform(-200, 300, 2)
    zoom, tilt = rng.uniform(-0.6, 0.6), rng.uniform(0, 7)
    scale = 0.8 * np.exp(-zoom)
    matrix = scale * np.array(
      [[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]]
    )
    channel = k % 3
    expected = scipy.ndimage.affine_transform(
      picture[..., channel].astype(np.float64),
      matrix,
      np.array([y, x]) - matrix @ [15.5, 15.5],
      output_shape=(32, 32),
      order=1,
      mode="mirror",
    )
    seen = camera.view(picture, 32, 0.8, x, y, zoom, tilt)[..., channel]
    assert np.abs(seen - expected).max() < 0.51


def test_view_reflects_outside_the_picture() -> None:
  picture = np.arange(40, dtype=np.uint8)[None, :, None] * np.ones(
    (40, 40, 3), np.uint8
  )
  row = camera.view(picture, 16, 1.0, x=1.5, y=20, zoom=0, tilt=0)[8, :, 0]
  # Columns -6 to 9, mirrored about the middle of column 0.
  assert row.tolist() == [abs(k) for k in range(-6, 10)]


@pytest.mark.parametrize(
  ("label", "direction"),
  [
    ("pan_left", (1, 0)),
    ("pan_right", (-1, 0)),
    ("pan_up", (0, 1)),
    ("pan_down", (0, -1)),
  ],
)
def test_what_a_pan_sees_moves_the_other_way(
  label: str, direction: tuple[int, int]
) -> None:
  for k in range(6):
    rng = np.random.default_rng(k)
    path = camera.camera_path(
      camera.LABELS.index(label), 9, (301, 301), 0.8, rng
    )
    # A picture of the plane around the middle, so nothing is reflected.
    x, y = path.x[4], path.y[4]
    seen = [
      middle_of(
        camera.view(
          blob(150, 150, 301), 64, 0.8, path.x[t] - x + 150,
          path.y[t] - y + 150, path.zoom[t], path.tilt[t],
        )
      )
      for t in (3, 4, 5)
    ]  # fmt: skip
    moved = np.diff(seen, axis=0)
    speed = moved @ direction
    # Pixels of the view a frame, whatever the zoom and the tilt.
    assert (speed > camera.PAN[0] - 0.1).all()
    assert (speed < camera.PAN[1] + 0.1).all()
    across = moved @ (direction[1], direction[0])
    np.testing.assert_allclose(across, 0, atol=0.1)


def test_zoom_in_enlarges_and_clockwise_turns_the_view_back() -> None:
  for name, sign in (("zoom_in", 1), ("zoom_out", -1)):
    zoom = paths(camera.LABELS.index(name), 1)[0].zoom
    steps = sign * np.diff(zoom)
    assert camera.ZOOM[0] <= steps.min() <= steps.max() <= camera.ZOOM[1]
  for name, sign in (("rotate_clockwise", 1), ("rotate_counterclockwise", -1)):
    tilt = paths(camera.LABELS.index(name), 1)[0].tilt
    steps = sign * np.diff(tilt)
    assert camera.TURN[0] <= steps.min() + 1e-9
    assert steps.max() - 1e-9 <= camera.TURN[1]
  # The camera turns clockwise by 30 degrees: what it sees turns the other way.
  seen = camera.view(blob(70, 50), 64, 1.0, 50, 50, 0, np.radians(30))
  expected = 20 * np.array([np.cos(np.radians(30)), -np.sin(np.radians(30))])
  np.testing.assert_allclose(middle_of(seen), expected, atol=0.1)


@pytest.mark.parametrize("label", [0, 2, 4, 6])
def test_the_opposite_class_is_the_same_path_backwards(label: int) -> None:
  for k in range(20):
    one, two = (
      camera.camera_path(
        which, FRAMES, FOOTAGE_SIZE, cm.STEP, np.random.default_rng(k)
      )
      for which in (label, label + 1)
    )
    for field in ("x", "y", "zoom", "tilt"):
      np.testing.assert_allclose(
        getattr(one, field), getattr(two, field)[::-1], atol=1e-9
      )


def test_one_motion_at_a_time() -> None:
  for label, name in enumerate(camera.LABELS):
    path = paths(label, 1)[0]
    moving = {
      field
      for field in ("x", "y", "zoom", "tilt")
      if np.ptp(getattr(path, field)) > 1e-9
    }
    expected = {"pan": {"x", "y"}, "zoom": {"zoom"}, "rotate": {"tilt"}}
    assert moving == expected[name.split("_")[0]]


def test_a_frame_has_one_distribution_of_pose_in_all_classes() -> None:
  """Place, scale and tilt of a random frame, against a pan to the left."""
  count = 4000
  rng = np.random.default_rng(0)
  samples = []
  for label in range(8):
    drawn = [
      (p.x[t], p.y[t], p.zoom[t], p.tilt[t])
      for p, t in zip(
        paths(label, count), rng.integers(FRAMES, size=count), strict=True
      )
    ]
    pose = np.array(drawn)
    # What is seen repeats with the plane and with the turn.
    pose[:, 0] %= 2 * (FOOTAGE_SIZE[1] - 1)
    pose[:, 1] %= 2 * (FOOTAGE_SIZE[0] - 1)
    pose[:, 3] %= 2 * np.pi
    samples.append(pose)
  p_values = [
    scipy.stats.ks_2samp(samples[0][:, k], pose[:, k]).pvalue
    for pose in samples[1:]
    for k in range(4)
  ]
  # 28 comparisons: chance alone goes below 0.001 once in 36 such tests.
  assert min(p_values) > 0.001
  # Place and tilt also at a given frame, the first, where the travel shows.
  for label in range(8):
    first = np.array([(p.x[0], p.y[0], p.tilt[0]) for p in paths(label, count)])
    first %= (2 * (FOOTAGE_SIZE[1] - 1), 2 * (FOOTAGE_SIZE[0] - 1), 2 * np.pi)
    first /= (2 * (FOOTAGE_SIZE[1] - 1), 2 * (FOOTAGE_SIZE[0] - 1), 2 * np.pi)
    for k in range(3):
      assert scipy.stats.kstest(first[:, k], "uniform").pvalue > 0.001


def test_the_test_of_distributions_sees_a_difference() -> None:
  """A zoom that always began at one scale would be found out."""
  rng = np.random.default_rng(0)
  frames = rng.integers(FRAMES, size=4000)
  zooms = {
    label: np.array(
      [p.zoom[t] for p, t in zip(paths(label, 4000), frames, strict=True)]
    )
    for label in (0, 4)
  }
  moved = zooms[4] + 0.05
  assert scipy.stats.ks_2samp(zooms[0], zooms[4]).pvalue > 0.001
  assert scipy.stats.ks_2samp(zooms[0], moved).pvalue < 0.001


def test_mirroring_maps_the_labels() -> None:
  """Mirrored pixels of a path are those of the label it maps to."""
  rng = np.random.default_rng(3)
  picture = rng.integers(0, 256, (60, 60, 3)).astype(np.uint8)
  mirrored = picture[:, ::-1]
  pose = {"x": 33.3, "y": 21.7, "zoom": 0.1, "tilt": 0.4}
  seen = camera.view(picture, 32, 0.8, **pose)
  # The mirrored scene, from the mirrored place, with the opposite tilt.
  other = camera.view(
    mirrored, 32, 0.8, **{**pose, "x": 59 - pose["x"], "tilt": -pose["tilt"]}
  )
  assert np.abs(seen[:, ::-1].astype(int) - other).max() <= 1
  # So x and tilt change sign, and these labels trade places.
  names = [camera.LABELS[k] for k in camera.FLIP_LABELS]
  assert names == [
    "pan_right", "pan_left", "pan_up", "pan_down", "zoom_in", "zoom_out",
    "rotate_counterclockwise", "rotate_clockwise",
  ]  # fmt: skip
  for label, mirror in enumerate(camera.FLIP_LABELS):
    here, there = (
      camera.camera_path(
        which, FRAMES, FOOTAGE_SIZE, cm.STEP, np.random.default_rng(1)
      )
      for which in (label, mirror)
    )
    np.testing.assert_allclose(
      np.diff(here.tilt), -np.diff(there.tilt), atol=1e-9
    )
    along = [
      np.diff(p.x) * np.cos(p.tilt[1:]) + np.diff(p.y) * np.sin(p.tilt[1:])
      for p in (here, there)
    ]
    np.testing.assert_allclose(along[0], -along[1], atol=1e-9)
