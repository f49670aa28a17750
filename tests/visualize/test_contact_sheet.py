"""The contact sheet shows what the pipeline gives, pixel by pixel."""

import copy
import dataclasses
import pathlib
import subprocess
import sys
import warnings
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from p3d_jax.data.clips import Augment, Views
from p3d_jax.data.encode import encode
from p3d_jax.data.pipeline import eval_batches, train_batches
from p3d_jax.preprocess import Preprocessing
from p3d_jax.visualize import contact_sheet as module
from p3d_jax.visualize.contact_sheet import (
  Shown,
  caption,
  columns_of,
  contact_sheet,
  drawable,
  header,
)
from tests import small

PIXELS = Preprocessing(
  frames=5, stride=2, resize=(40, 48), crop=(32, 36), channels="BGR",
  mean=(104, 117, 123),
)  # fmt: skip
VARIED = Augment(flip=True, scales=(1, 0.75), jitter=(0.2, 0.1, 0))


class Films:
  """Stands for a set: random texture that moves, another in each video."""

  directory = "/sets/films/key/1.0.0"
  split = "train"
  channels = "RGB"
  metadata: dict[str, Any] = {}  # noqa: RUF012
  flip_labels: tuple[int, ...] | None = None
  max_labels = 2
  label_names = ("Tai Chi", "打太极拳", "tabs\tand\nlines", "long " * 60)

  def __init__(self) -> None:
    rng = np.random.default_rng(0)
    self.videos = []
    for _ in range(6):
      wide = np.kron(
        rng.integers(0, 256, (6, 20, 3)).astype(np.uint8),
        np.ones((8, 8, 1), np.uint8),
      )
      frames = [wide[:, 3 * t : 3 * t + 64] for t in range(24)]
      self.videos.append(encode(frames, 25))

  def broken(self, *which: int) -> Any:
    """Returns the set with videos that cannot be read."""
    films = copy.copy(self)
    films.videos = [
      b"no" if k in which else video for k, video in enumerate(self.videos)
    ]
    return films

  def __len__(self) -> int:
    return len(self.videos)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {
      "video": self.videos[index],
      "labels": np.array([index % 4, 3][: 1 + index % 2]),
      "id": f"电影 film {index}",
      "source_id": "",
    }


@pytest.fixture(scope="module")
def films() -> Any:
  return Films()


def tiles(
  path: pathlib.Path,
  count: int,
  columns: int,
  scale: int,
  lines: int = 5,  # the ids are Chinese, which takes a line to say
  around: int = 255,
) -> Any:
  """Cuts the frames out of the picture, each pixel once."""
  picture = np.rint(matplotlib.image.imread(path)[..., :3] * 255)
  height, width = PIXELS.crop_size
  grid = module.Grid(count, columns, PIXELS.crop_size, lines)
  assert picture.shape[:2] == grid.shape
  rows = []
  for row in range(count):
    for column in range(columns):
      top, left = grid.corner(row, column)
      large = picture[top : top + scale * height, left : left + scale * width]
      # Each pixel is a square of one colour: nothing was resampled.
      blocks = large.reshape(height, scale, width, scale, 3)
      assert (blocks == blocks[:, :1, :, :1]).all()
      rows.append(blocks[:, 0, :, 0])
      # And it ends there: white on the left, above and below, or a line.
      assert (picture[top : top + scale * height, left - 1] == around).all()
      assert (picture[top - 1, left : left + scale * width] == around).all()
      below = picture[top + scale * height, left : left + scale * width]
      assert (below == around).all()
  return np.array(rows).reshape(count, columns, height, width, 3)


# A side of 36 pixels is drawn 3 times as large, to be at least 96.
SCALE = 3


def test_training_shows_its_first_clips(
  films: Any, tmp_path: pathlib.Path
) -> None:
  out = tmp_path / "sheet.png"
  returned = contact_sheet(
    films, PIXELS, VARIED, out=out, count=4, frames=3, seed=7
  )
  assert str(returned) == str(out)
  batch = next(
    train_batches(
      films, PIXELS, VARIED, batch=4, seed=7, start_step=0, stop_step=1
    )
  )
  # Frames 0, 2 and 4 of 5; true colours though the network is fed BGR.
  expected = batch["clips"][:, [0, 2, 4]]
  assert np.array_equal(tiles(out, 4, 3, SCALE), expected)
  assert len({row.tobytes() for row in expected.reshape(12, -1)}) == 12
  assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_evaluation_shows_centre_clips(
  films: Any, tmp_path: pathlib.Path
) -> None:
  out = tmp_path / "sheet.png"
  contact_sheet(films, PIXELS, None, out=out, count=99, frames=9, seed=1)
  batch = next(eval_batches(films, PIXELS, views=Views(1), batch=6))
  shown = tiles(out, 6, 5, SCALE, 6)  # a clip has but 5 frames
  order = [
    next(k for k in range(6) if np.array_equal(row, batch["clips"][k, 0]))
    for row in shown
  ]
  # All of them, in an order drawn from the seed.
  assert sorted(order) == list(range(6))
  contact_sheet(films, PIXELS, None, out=out, count=6, frames=9, seed=2)
  assert not np.array_equal(tiles(out, 6, 5, SCALE), shown)


def test_captions_are_of_the_clips_shown(
  films: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Ids and labels follow a video that was replaced, too."""
  broken = films.broken(0, 3)
  drawn: list[Shown] = []

  def draw(shown: Any, *rest: Any) -> bytes:
    drawn[:] = shown
    return b""

  monkeypatch.setattr(module, "_draw", draw)
  plain = Augment(random_crop=False)
  long = dataclasses.replace(PIXELS, frames=24, stride=1)  # the whole video
  contact_sheet(broken, long, plain, out=tmp_path / "a.png", count=6)
  whole = next(eval_batches(films, long, views=Views(1), batch=6))["clips"][
    :, 0
  ]
  for shown in drawn:
    film = int(shown.id[-1])
    assert np.array_equal(shown.clip, whole[film])
    assert shown.labels.tolist() == [film % 4, 3][: 1 + film % 2]
  assert sum(shown.replaced > 0 for shown in drawn) == 2
  contact_sheet(broken, long, None, out=tmp_path / "a.png", count=6)
  assert sorted(int(shown.id[-1]) for shown in drawn) == list(range(6))
  for shown in drawn:
    film = int(shown.id[-1])
    assert bool(shown.problem) == (film in (0, 3))
    if not shown.problem:
      assert np.array_equal(shown.clip, whole[film])


def test_a_sheet_with_what_cannot_be_read(
  films: Any, tmp_path: pathlib.Path
) -> None:
  out = tmp_path / "sheet.png"
  contact_sheet(films.broken(*range(6)), PIXELS, None, out=out, count=2)
  picture = matplotlib.image.imread(out)[..., :3]
  red = (picture[..., 0] > 0.6) & (picture[..., 1] < 0.3)
  assert red.sum() > 100


def flow_films(
  films: Any, monkeypatch: pytest.MonkeyPatch, clip: np.ndarray
) -> tuple[Any, Preprocessing]:
  """Returns a set of flow of which a clip is read, and its preprocessing."""
  pixels = dataclasses.replace(
    PIXELS, channels="flow", mean=(128, 128), std=(1, 1)
  )
  films = copy.copy(films)
  films.channels = "flow"
  films.metadata = {"bound": 8.0}
  read = {
    "clips": clip[None], "labels": np.array([0, -1]), "problem": np.array(""),
  }  # fmt: skip

  def example(videos: Any, *rest: Any, **more: Any) -> dict[str, Any]:
    videos[0]
    return read

  monkeypatch.setattr(module, "eval_example", example)
  return films, pixels


def test_flow_is_painted(
  films: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  # Bound 8: a level is 8 / 127 pixels, and 32 levels to the right are 2.0. In
  # the first column nothing moves, but for 11 of the 1152 pixels of a frame,
  # less than 1 %, which go up as fast as can be.
  clip = np.full((5, 32, 36, 2), 128, np.uint8)
  clip[..., 0] = 160
  clip[:, :, 0] = 128
  clip[:, :11, 0, 1] = 1
  films, pixels = flow_films(films, monkeypatch, clip)
  out = tmp_path / "sheet.png"
  contact_sheet(films, pixels, None, out=out, count=1)
  painted = np.zeros((5, 32, 36, 3))
  painted[:] = 255, 0, 0
  painted[:, :, 0] = 255
  painted[:, :11, 0] = 128, 0, 255
  shown = tiles(out, 1, 5, SCALE, 5 + module.WHEEL, around=200)
  # 2.0 pixels are full; a level more or less is 4 of 255.
  np.testing.assert_allclose(shown[0], painted, atol=4)
  with pytest.raises(ValueError, match="channels='BGR'"):
    contact_sheet(films, PIXELS, None, out=out, count=1)


def test_flow_says_how_fast_full_colour_is(
  films: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  drawn: list[Any] = []

  def draw(*arguments: Any) -> bytes:
    drawn[:] = arguments
    return b""

  monkeypatch.setattr(module, "_draw", draw)
  # 49 levels of 8 / 127: 3.09 pixels to the right. And what hardly moves.
  for level, text in ((177, "3.1"), (129, "0.5")):
    clip = np.full((5, 32, 36, 2), 128, np.uint8)
    clip[..., 0] = level
    flows, pixels = flow_films(films, monkeypatch, clip)
    contact_sheet(flows, pixels, None, out=tmp_path / "a.png", count=1)
    said = caption(drawn[0][0], Films.label_names)[1]
    assert said.startswith(f"full colour = {text} px   电影 film")
  assert drawn[-1][-1].endswith("the set holds up to 8 px")
  flows.metadata = {}
  contact_sheet(flows, pixels, None, out=tmp_path / "a.png", count=1)
  assert drawn[-1][-1].endswith("its bound, 20 px is taken for it")


def test_the_scale_is_the_99th_percentile() -> None:
  # 0 to 100 levels to the left, each once: 99 levels of 8 / 127 are 6.24.
  clip = np.full((1, 1, 101, 2), 128, np.uint8)
  clip[..., 0] -= np.arange(101, dtype=np.uint8)
  assert module.motion_scale(clip, 8) == 6.2
  assert module.motion_scale(clip[:, :, :5], 8) == 0.5


def test_the_wheel_by_hand() -> None:
  wheel = module.wheel(81).astype(int)
  colors = {
    (40, 80): (255, 0, 0), (40, 0): (0, 255, 255), (80, 40): (128, 255, 0),
    (0, 40): (128, 0, 255), (40, 40): (255, 255, 255), (0, 0): (255, 255, 255),
    (40, 60): (255, 128, 128),
  }  # fmt: skip
  for (row, column), color in colors.items():
    # The middle of the last pixel is 1/81 of the radius within the circle.
    np.testing.assert_allclose(wheel[row, column], color, atol=5)


def test_a_split_without_labels(
  films: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  drawn: list[Shown] = []

  def draw(shown: Any, *rest: Any) -> bytes:
    drawn[:] = shown
    return b""

  class Unlabelled(Films):
    def __getitem__(self, index: int) -> dict[str, Any]:
      return {**super().__getitem__(index), "labels": np.array([], np.int64)}

  monkeypatch.setattr(module, "_draw", draw)
  for augment in (None, VARIED):
    out = tmp_path / "a.png"
    contact_sheet(Unlabelled(), PIXELS, augment, out=out, count=2)  # type: ignore[arg-type]
    assert [caption(one, ())[0] for one in drawn] == ["no label"] * 2
    assert all(one.clip.any() for one in drawn)


def test_text_over_a_clip() -> None:
  names = Films.label_names
  clip = np.zeros((1, 8, 8, 3), np.uint8)
  one = Shown(clip, np.array([1, 0]), "a/b c.mp4")
  assert caption(one, names) == ("[1] 打太极拳 + [0] Tai Chi", "a/b c.mp4")
  one = Shown(clip, np.array([0]), "b", replaced=2)
  assert caption(one, names)[1] == "in place of 2 unreadable: b"
  # DejaVu has Greek, and neither Chinese nor line ends.
  assert drawable("[1] 打太 αβ\tü\n") == "[1] \u25a1\u25a1 αβ ü "


def test_text_at_the_top(films: Any) -> None:
  assert header(films, PIXELS, VARIED, [0, 2, 4], 7) == [
    "films/key/1.0.0, split train: 6 videos; as in training, seed 7",
    "clips of 5 frames, every 2nd; drawn: 0, 2, 4",
    "resized to 40x48 (height x width), crops of 1, 0.75 of the largest "
    "anywhere, to 32x36, half mirrored, brightness ±0.2, contrast ±0.1",
    "fed as BGR: (pixel x 1 - (104, 117, 123)) / (1, 1, 1)",
  ]
  assert header(films, PIXELS, VARIED, [0], 7, asked=6)[1] != (
    few := "6 of the 7 asked for: the split has no more"
  )
  assert header(films, PIXELS, VARIED, [0], 7, asked=7)[1] == few
  rgb = Preprocessing(
    frames=16, stride=4, fps=12.5, resize=182, crop=160, scale=1 / 255,
    std=(0.229, 0.224, 0.225),
  )  # fmt: skip
  assert header(films, rgb, None, [0, 15], 0)[1:] == [
    "clips of 16 frames, every 4th at 12.5 frames a second; drawn: 0, 15",
    "resized to short side 182, crop 160x160 from the centre",
    "fed as RGB: (pixel x 0.003922 - (0, 0, 0)) / (0.229, 0.224, 0.225)",
  ]


@pytest.mark.parametrize(
  ("time", "frames", "expected"),
  [
    (16, 8, [0, 2, 4, 6, 9, 11, 13, 15]),  # 15 k / 7, to the nearest
    (16, 2, [0, 15]),
    (16, 1, [0]),
    (3, 8, [0, 1, 2]),
    (1, 8, [0]),
  ],
)
def test_columns(time: int, frames: int, expected: list[int]) -> None:
  assert columns_of(time, frames).tolist() == expected


def test_long_names_stay_inside_and_nothing_is_said(
  films: Any, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
  out = tmp_path / "sheet.png"
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    contact_sheet(films, PIXELS, None, out=out, count=6)
  assert capfd.readouterr() == ("", "")
  picture = matplotlib.image.imread(out)[..., :3]
  edge = module.MARGIN - 2
  assert (picture[:, -edge:] == 1).all()
  assert (picture[:, :edge] == 1).all()
  # A label of 300 letters leaves the id its place, on a line of its own.
  grid = module.Grid(6, 5, PIXELS.crop_size, 5)
  assert grid.shape == picture.shape[:2]
  for row in range(6):
    line = picture[grid.caption(row) : grid.caption(row) + module.LINE]
    assert (line[:, -100:].min(axis=(0, 2)) < 1).any()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"count": 0}, "count=0: must be >= 1"),
    ({"frames": 0}, "frames=0: must be >= 1"),
    ({"seed": -1}, "seed=-1: must be >= 0"),
    ({"out": "sheet.jpg"}, "out='sheet.jpg': must end in .png"),
    ({"out": "/nowhere/sheet.png"}, "there is no such folder"),
    ({"timeout": 0}, "timeout=0: must be > 0"),
  ],
  ids=["count", "frames", "seed", "suffix", "folder", "timeout"],
)
def test_argument_errors(
  arguments: dict[str, Any], message: str, films: Any, tmp_path: pathlib.Path
) -> None:
  with pytest.raises(ValueError, match=message):
    contact_sheet(
      films, PIXELS, None, **{"out": tmp_path / "sheet.png", **arguments}
    )
  assert list(tmp_path.iterdir()) == []


def test_it_leaves_the_backend_alone() -> None:
  code = (
    "import sys, p3d_jax.visualize.contact_sheet; "
    "assert 'matplotlib.pyplot' not in sys.modules"
  )
  words = [sys.executable, "-c", code]
  subprocess.run(words, check=True, env=small.environment())
