"""The confusion picture is darkest where the mistakes were planted."""

import pathlib
import warnings

import numpy as np
import pytest

from p3d_jax.evaluate.score_file import VideoScores, save_scores
from p3d_jax.train.metrics import confusion
from p3d_jax.visualize.confusion import (
  DPI,
  confusion_figure,
  confusion_png,
  percent,
)
from p3d_jax.visualize.figure import png
from tests.visualize.drawing import draw, pixels


def names(count: int) -> list[str]:
  return [f"SomeActionOfClass{k}" for k in range(count)]


def cells(matrix: np.ndarray) -> np.ndarray:
  """Returns the colour of each cell near its corner, where no number is."""
  count = len(matrix)
  figure = confusion_figure(matrix, names(count))
  # Uncut, the square fills the picture: cell k begins at k / count.
  shown = pixels(png(figure)).astype(float)
  at = ((np.arange(count) + 0.15) / count * len(shown)).astype(int)
  return shown[at][:, at]


@pytest.mark.parametrize("count", [8, 101])
def test_the_darkest_cells_are_where_planted(count: int) -> None:
  rng = np.random.default_rng(0)
  matrix = rng.integers(0, 3, (count, count))
  planted = rng.permutation(count)
  matrix[np.arange(count), planted] = 40 * count
  dark = cells(matrix).sum(-1)
  assert np.array_equal(dark.argmin(1), planted)


def test_rows_are_percent_of_the_true_class() -> None:
  """By hand: 3 of 4 is 75, though 30 videos of another class are said so."""
  matrix = np.array([[3, 1, 0], [30, 70, 0], [0, 0, 0]])
  found = percent(matrix)
  assert found[:2].tolist() == [[75, 25, 0], [30, 70, 0]]
  assert np.isnan(found[2]).all()
  dark = cells(matrix)
  # Darker is more; what has no videos is grey, 0.85 of 255.
  order = dark[:2].sum(-1).ravel().argsort(kind="stable")
  assert order.tolist()[:4] == [0, 4, 3, 1]
  assert (abs(dark[2] - 0.85 * 255) <= 1).all()
  axes = confusion_figure(matrix, ["a", "b", "c"]).axes[0]
  # The mean of 75 and 70; the class without videos does not count.
  assert axes.get_title() == (
    "Percent of each class's readable videos, 104 in all\n"
    "mean of the diagonal 72.5 (grey: no videos)"
  )
  said = {
    (round(text.get_position()[1]), round(text.get_position()[0])): text
    for text in axes.texts
  }
  assert {at: text.get_text() for at, text in said.items()} == {
    (0, 0): "75", (0, 1): "25", (1, 0): "30", (1, 1): "70",
  }  # fmt: skip


def test_a_decimal_where_it_is_not_whole() -> None:
  """By hand: 37 and 3 of 40, 7 and 1 of 8; halves go up where none fits."""
  for count, said in (
    (2, ["92.5", "7.5", "12.5", "87.5"]),
    (12, ["92.5", "7.5", "12.5", "87.5"]),
    (13, ["93", "8", "13", "88"]),
    (24, ["93", "8", "13", "88"]),
  ):
    matrix = np.zeros((count, count))
    matrix[:2, :2] = [[37, 3], [1, 7]]
    matrix[range(2, count), range(2, count)] = 5
    axes = confusion_figure(matrix, names(count)).axes[0]
    found = [text.get_text() for text in axes.texts]
    assert found == said + ["100"] * (count - 2)


@pytest.mark.parametrize("count", [8, 12, 24])
def test_numbers_do_not_leave_their_cells(count: int) -> None:
  matrix = np.full((count, count), 1.0) + 12.4 * np.eye(count)
  figure = confusion_figure(matrix, names(count))
  figure.canvas.draw()
  cell = DPI * figure.get_figwidth() / count
  widths = [t.get_window_extent().width for t in figure.axes[0].texts]
  assert len(widths) == count * count
  assert max(widths) < 0.9 * cell


@pytest.mark.parametrize("count", [2, 8, 24, 25, 101])
def test_names_do_not_overlap(count: int) -> None:
  figure = confusion_figure(np.eye(count), names(count))
  axes, least = figure.axes[0], 5.0
  for labels, side in (
    (axes.get_yticklabels(), "height"),
    (axes.get_xticklabels(), "width"),
  ):
    assert [text.get_text() for text in labels] == names(count)
    assert labels[0].get_fontsize() >= least  # points: 8 pixels
    if labels[0].get_rotation() == 45:
      # Slanted lines part by a cell's width times the sine; 1.2 is a line.
      cell = 72 * figure.get_figwidth() / count
      assert cell * np.sin(np.pi / 4) > 1.2 * labels[0].get_fontsize()
      continue
    boxes = [text.get_window_extent() for text in labels[:12]]
    step = DPI * figure.get_figwidth() / count
    # A box has room for letters that hang; the letters themselves, 0.9.
    assert max(getattr(box, side) for box in boxes) * 0.9 <= step


def test_the_picture_grows_and_holds_the_names() -> None:
  small, large = (
    pixels(confusion_png(np.eye(count), names(count))) for count in (8, 101)
  )
  assert large.shape[0] > small.shape[0] > 8 * 0.7 * DPI
  assert large.shape[1] > 101 * 0.085 * DPI
  # Left of the square stand the names: black on white.
  assert (small[:, :120].min(-1) < 60).any()
  long = confusion_png(np.eye(2), ["x" * 500, "$a_b$ 打"])
  assert pixels(long).shape[1] < 900


def test_mistakes() -> None:
  for matrix in (np.eye(3), np.ones((2, 3)), np.ones(2)):
    with pytest.raises(ValueError, match=r"must be \(classes, classes\)"):
      confusion_png(matrix, ["a", "b"])
  for matrix in (np.zeros((2, 2)), -np.eye(2), np.full((2, 2), np.nan)):
    with pytest.raises(ValueError, match="finite numbers >= 0, not all 0"):
      confusion_png(matrix, ["a", "b"])


def test_the_verb(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """Of a scores file in which every class is taken for the next one."""
  labels = np.arange(12, dtype=np.int32)[:, None] % 4
  scores = np.eye(4, dtype=np.float32)[(labels[:, 0] + 1) % 4]
  save_scores(
    tmp_path / "s.npz",
    VideoScores(
      ids=tuple(f"v{k}" for k in range(12)),
      scores=scores,
      labels=labels,
      label_names=("a", "b", "c", "d"),
      readable=np.ones(12, bool),
    ),
  )
  out = tmp_path / "m.png"
  assert draw("confusion", tmp_path / "s.npz", "--out", out) == 0
  wanted = np.roll(3 * np.eye(4), 1, axis=1)
  assert out.read_bytes() == confusion_png(wanted, ["a", "b", "c", "d"])
  assert capsys.readouterr().err == ""
  with pytest.raises(ValueError, match="no such file"):
    draw("confusion", tmp_path / "none.npz", "--out", out)


def test_what_could_not_be_read_is_told(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """Two of three videos are right, and the third could not be read."""
  found = VideoScores(
    ids=("a", "b", "c"),
    scores=np.eye(3, 2, dtype=np.float32),
    labels=np.array([[0], [1], [1]], np.int32),
    label_names=("A", "B"),
    readable=np.array([True, True, False]),
  )
  save_scores(tmp_path / "s.npz", found)
  assert draw("confusion", tmp_path / "s.npz", "--out", tmp_path / "m.png") == 0
  assert capsys.readouterr().err.startswith(
    "1 of 3 videos could not be read and are not in the picture"
  )
  matrix = confusion(found.to_scores())
  axes = confusion_figure(matrix, found.label_names).axes[0]
  assert axes.get_title() == (
    "Percent of each class's readable videos, 2 in all\n"
    "mean of the diagonal 100.0"
  )


def test_nothing_is_warned_of() -> None:
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    confusion_png(np.eye(3), ["_hidden", "打太极拳", r"a\b$"])
