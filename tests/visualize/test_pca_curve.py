"""The curve of PCA is the numbers of its file."""

import json
import pathlib

import numpy as np
import pytest

from p3d_jax.visualize.pca_curve import load_pca, pca_figure, pca_png
from tests.visualize.drawing import draw, pixels

SIZES = (500, 400, 300, 200, 100, 50, 30, 10)
RESULT = {
  "sizes": [
    {"size": size, "video_hit@1": 90.0 - 200 / size, "video_hit@5": 99.0}
    for size in SIZES
  ],
  "without_pca": {"size": 2048, "video_hit@1": 88.6},
  "splits": [],
}


def test_the_line_is_the_numbers() -> None:
  axes = pca_figure(RESULT).axes[0]
  curve, whole = axes.lines
  x, y = curve.get_data()
  assert list(x) == sorted(SIZES)
  # By hand: 90 - 200/10, ..., 90 - 200/500.
  assert y[0] == 70
  assert y[-1] == pytest.approx(89.6)
  assert set(whole.get_ydata()) == {88.6}
  assert [text.get_text() for text in axes.get_legend().texts] == [
    "after PCA",
    "all 2,048 dimensions: 88.6",
  ]
  ticks = [text.get_text() for text in axes.get_xticklabels()]
  assert ticks == [str(size) for size in sorted(SIZES)]
  # The paper's axis is there whole, also for fewer sizes.
  axes = pca_figure(RESULT | {"sizes": RESULT["sizes"][3:5]}).axes[0]
  low, high = axes.get_xlim()
  assert low < 10 < 500 < high
  assert [text.get_text() for text in axes.texts] == ["88.0", "89.0"]


def test_names_of_sizes_do_not_overlap() -> None:
  figure = pca_figure(RESULT)
  figure.canvas.draw()
  boxes = [t.get_window_extent() for t in figure.axes[0].get_xticklabels()]
  for left, right in zip(boxes, boxes[1:], strict=False):
    assert left.x1 < right.x0


def test_the_verb(tmp_path: pathlib.Path) -> None:
  file, out = tmp_path / "pca.json", tmp_path / "pca.png"
  file.write_text(json.dumps(RESULT))
  assert draw("pca", file, "--out", out) == 0
  assert out.read_bytes() == pca_png(RESULT)
  shown = pixels(out.read_bytes())
  assert shown.shape == (540, 840, 3)
  assert (np.abs(shown.astype(int) - (31, 119, 180)).max(-1) < 9).sum() > 500


@pytest.mark.parametrize(
  "text",
  ["[]", "{", "3", '{"sizes": [{"size": 3}]}', '{"sizes": []}'],
  ids=["list", "cut", "number", "no-hit", "no-whole"],
)
def test_other_files_are_refused(tmp_path: pathlib.Path, text: str) -> None:
  (tmp_path / "pca.json").write_text(text)
  with pytest.raises(ValueError, match="pca.json is no result of `p3d pca`"):
    load_pca(tmp_path / "pca.json")


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    (b"PK\x03\x04\xff" * 9999, "it is no JSON"),
    (b"PK\x03\x04" * 9999, "it is no JSON"),
    (b"[]", "it is no JSON object"),
    (b'{"splits": [], "mean": {}}', "it has no sizes, without_pca"),
    (
      b'{"sizes": [{"size": 3}], "without_pca": 0}',
      "a size has no video_hit@1",
    ),
  ],
  ids=["bytes", "text", "list", "svm", "no-hit"],
)
def test_why_they_are_refused(
  tmp_path: pathlib.Path, content: bytes, reason: str
) -> None:
  """In a line that holds neither the file nor the name of an exception."""
  path = tmp_path / "pca.json"
  path.write_bytes(content)
  with pytest.raises(ValueError) as error:
    load_pca(path)
  assert str(error.value) == (
    f"{path} is no result of `p3d pca`, or not whole: {reason}"
  )


def test_mistakes(tmp_path: pathlib.Path) -> None:
  with pytest.raises(ValueError, match="there is no such file"):
    load_pca(tmp_path / "none.json")
  with pytest.raises(ValueError, match="it is a folder, not a file"):
    load_pca(tmp_path)
  for sizes in ([], [{"size": 0, "video_hit@1": 5.0}]):
    with pytest.raises(ValueError, match="sizes: there must be some"):
      pca_png(RESULT | {"sizes": sizes})
