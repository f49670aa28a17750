"""A virtual camera over pictures: how it moves, and what it sees.

The eight motions are the classes of `camera_motion`. One frame says nothing of
them, because each has the same distribution of poses:

  place   uniform over the plane that the footage, mirrored at its edges, tiles.
          A shift leaves a uniform distribution as it is, so every frame of
          every class has the same distribution of place, pans included.
  tilt    uniform over the full turn; the same holds for rotations.
  scale   cannot be uniform over all numbers, and a zoom changes it. A zoom in
          is a zoom out played backwards, so the two pass through the same
          scales; and a class that does not zoom stands still at the scale of
          one frame, drawn at random, of a zoom.

So place, tilt and scale of a frame drawn at random have one distribution in all
classes, independent of one another, and the frame tells nothing.

The names say what the CAMERA does: in "pan_left" the camera moves left and what
it sees moves right; in "rotate_clockwise" the camera turns clockwise, seen from
behind it, and what it sees turns counter-clockwise.
"""

import dataclasses

import numpy as np

LABELS = (
  "pan_left",
  "pan_right",
  "pan_up",
  "pan_down",
  "zoom_in",
  "zoom_out",
  "rotate_clockwise",
  "rotate_counterclockwise",
)
# What each label becomes when the video is mirrored left and right.
FLIP_LABELS = (1, 0, 2, 3, 4, 5, 7, 6)

# Speeds are in pixels, natural logarithms and radians a frame of the clip:
# sixteen frames of the slowest pan pass a third of a 64-pixel view.
PAN = (1.5, 4.0)
ZOOM = (0.02, 0.045)
TURN = (np.radians(2.5), np.radians(7.0))
# The middle of a zoom, natural logarithm, is drawn from -ZOOM_MIDDLE to it.
ZOOM_MIDDLE = 0.2


@dataclasses.dataclass(frozen=True)
class CameraPath:
  """Where the camera is, frame by frame; each field is (frames,).

  Attributes:
    x: right, in pixels of the footage, on the plane its reflections tile.
    y: down, the same.
    zoom: natural logarithm of the magnification.
    tilt: clockwise turn of the camera, in radians.
  """

  x: np.ndarray
  y: np.ndarray
  zoom: np.ndarray
  tilt: np.ndarray


def camera_path(
  label: int,
  frames: int,
  footage: tuple[int, int],
  step: float,
  rng: np.random.Generator,
) -> CameraPath:
  """Draws a camera's path of one class.

  Args:
    label: index into LABELS.
    frames: frames of the video.
    footage: (height, width) in pixels of the footage.
    step: pixels of the footage to a pixel of the view, at zoom 0.
    rng: where the draws come from; every class makes the same ones.
  """
  height, width = footage
  name = LABELS[label]
  # The plane repeats after two pictures, one of them mirrored.
  x = rng.uniform(0, 2 * (width - 1))
  y = rng.uniform(0, 2 * (height - 1))
  tilt = rng.uniform(0, 2 * np.pi)
  middle = rng.uniform(-ZOOM_MIDDLE, ZOOM_MIDDLE)
  pan, zoom, turn = (rng.uniform(*speed) for speed in (PAN, ZOOM, TURN))
  # Frames from the middle, so that backwards is the other sign.
  time = np.arange(frames) - (frames - 1) / 2
  one = np.ones(frames)
  if name.startswith("zoom"):
    zooms = middle + (zoom if name == "zoom_in" else -zoom) * time
  else:
    zooms = (middle + zoom * rng.choice(time)) * one
  tilts: np.ndarray = tilt * one
  if name.startswith("rotate"):
    tilts = tilt + (turn if name == "rotate_clockwise" else -turn) * time
  # Left and up of the view, not of the footage.
  way = {
    "pan_left": (-1, 0),
    "pan_right": (1, 0),
    "pan_up": (0, -1),
    "pan_down": (0, 1),
  }.get(name, (0, 0))
  far = pan * step * np.exp(-zooms) * time
  dx, dy = way[0] * far, way[1] * far
  cos, sin = np.cos(tilts), np.sin(tilts)
  return CameraPath(
    x + cos * dx - sin * dy, y + sin * dx + cos * dy, zooms, tilts
  )


def view(
  picture: np.ndarray,
  size: int,
  step: float,
  x: float,
  y: float,
  zoom: float,
  tilt: float,
) -> np.ndarray:
  """Returns what a camera sees of a picture.

  Args:
    picture: uint8 (height, width, channels).
    size: side of the view, in pixels.
    step: pixels of the picture to a pixel of the view, at zoom 0.
    x: where the middle of the view is, in pixels of the picture.
    y: the same, downwards.
    zoom: natural logarithm of the magnification.
    tilt: clockwise turn of the camera, in radians.

  Returns:
    uint8 (size, size, channels). Outside the picture are its reflections.
  """
  # scipy.ndimage.affine_transform(order=1, mode="mirror") is the same, to a
  # rounding, in nearly twice the time.
  height, width, channels = picture.shape
  scale = step * np.exp(-zoom)
  cos, sin = (np.float32(f(tilt) * scale) for f in (np.cos, np.sin))
  at = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
  # x points right and y down, so turning the camera clockwise takes its x axis
  # towards y.
  rows = _mirrored(np.float32(y) + cos * at[:, None] + sin * at, height)
  columns = _mirrored(np.float32(x) - sin * at[:, None] + cos * at, width)
  top = np.minimum(rows.astype(np.int32), height - 2)
  left = np.minimum(columns.astype(np.int32), width - 2)
  down = (rows - top)[..., None]
  right = (columns - left)[..., None]
  corner = top * width + left
  pixels = picture.reshape(-1, channels)

  def row(first: np.ndarray) -> np.ndarray:
    one, two = (pixels.take(k, axis=0) for k in (first, first + 1))
    return one + right * (two - one.astype(np.float32))

  upper = row(corner)
  seen = upper + down * (row(corner + width) - upper)
  return np.rint(seen).astype(np.uint8)


def _mirrored(at: np.ndarray, side: int) -> np.ndarray:
  """Folds positions on an endless mirrored line into 0..side - 1."""
  period = np.float32(2 * (side - 1))
  at = at - period * np.floor(at / period)  # np.mod takes five times as long.
  return np.minimum(at, period - at)
