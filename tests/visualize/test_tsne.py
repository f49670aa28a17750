"""t-SNE keeps planted clusters together, and draws them in their colours."""

import pathlib
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree

from p3d_jax.evaluate.feature_file import Features, save_features
from p3d_jax.visualize.tsne import draw_rows, embed, tsne_figure, tsne_png
from tests.visualize.drawing import draw, pixels


def clusters(
  rows: int = 120, classes: int = 4, dims: int = 64
) -> tuple[np.ndarray, np.ndarray]:
  """Returns clusters whose centres are 20 deviations and more apart."""
  rng = np.random.default_rng(0)
  centres = rng.standard_normal((classes, dims))
  centres *= 40 / np.linalg.norm(centres, axis=1, keepdims=True)
  labels = rng.permutation(np.arange(rows) % classes)
  noise = rng.standard_normal((rows, dims)) / np.sqrt(dims)
  return (centres[labels] + noise).astype(np.float32), labels


# Wider than 50 go through PCA.
@pytest.mark.parametrize("dims", [64, 20, 2])
def test_neighbours_are_of_the_same_cluster(dims: int) -> None:
  features, labels = clusters(dims=dims)
  points = embed(features, perplexity=10)
  assert points.shape == (120, 2)
  # scipy's tree: the nearest five of each, without itself.
  near = cKDTree(points).query(points, 6)[1][:, 1:]
  assert (labels[near] == labels[:, None]).all()


def test_one_dimension_and_few_rows() -> None:
  line = np.repeat([0.0, 100.0], 10)[:, None] + np.arange(20)[:, None] / 10
  points = embed(line, perplexity=3)
  near = cKDTree(points).query(points, 3)[1][:, 1:]
  assert (near // 10 == np.arange(20)[:, None] // 10).all()
  # Rows are fewer than the 50 that PCA would leave.
  features, _ = clusters(rows=12, dims=300)
  assert np.isfinite(embed(features, perplexity=3)).all()


def test_the_seed_decides() -> None:
  features, labels = clusters(60)
  names = list("abcd")
  first = tsne_png(features, labels, names, seed=1, perplexity=8)
  assert tsne_png(features, labels, names, seed=1, perplexity=8) == first
  line = features[:, :1]  # begins at random, where others begin with PCA
  one, other = (embed(line, seed=seed, perplexity=8) for seed in (1, 2))
  assert not np.array_equal(one, other)


def test_points_have_the_colour_of_their_class() -> None:
  features, labels = clusters(80)
  labels[:5] = -1
  names = ["pan", "never", "$tilt", "zoom", "turn"]
  labels = np.where(labels > 0, labels + 1, labels)  # none of class 1
  figure = tsne_figure(features, labels, names, 0, 10.0)
  axes = figure.axes[0]
  drawn: list[Any] = list(axes.collections)
  said = [text.get_text() for text in axes.get_legend().texts]
  assert said == ["no label", "pan", r"\$tilt", "zoom", "turn"]
  points = embed(features, perplexity=10)
  for group, label in zip(drawn, (-1, 0, 2, 3, 4), strict=True):
    assert np.array_equal(group.get_offsets(), points[labels == label])
  shades = {tuple(group.get_facecolor()[0][:3]) for group in drawn}
  assert len(shades) == 5
  handles = axes.get_legend().legend_handles
  for handle, group in zip(handles, drawn, strict=True):
    assert np.array_equal(
      handle.get_facecolor()[0][:3], group.get_facecolor()[0][:3]
    )
  assert axes.get_title() == (
    "t-SNE of 80 rows of 64 numbers, by PCA 50; perplexity 10"
  )


def test_many_classes_have_numbers_in_the_picture() -> None:
  features, labels = clusters(202, 101, 40)
  names = [f"SomeAction{k}" for k in range(101)]
  figure = tsne_figure(features, labels, names, 0, 5.0)
  axes = figure.axes[0]
  assert {text.get_text() for text in axes.texts} == set(map(str, range(101)))
  # A number stands at a point of its class.
  points = embed(features, perplexity=5)
  for text in axes.texts:
    mine = points[labels == int(text.get_text())]
    assert (mine == np.float32(text.get_position())).all(1).any()
  said = [text.get_text() for text in axes.get_legend().texts]
  assert said == [f"{k}  SomeAction{k}" for k in range(101)]
  looks = {
    (tuple(group.get_facecolor()[0]), group.get_paths()[0].vertices.tobytes())
    for group in axes.collections
  }
  assert len(looks) == 101
  # The legend is narrower than the picture and stands below it.
  box = axes.get_legend().get_window_extent()
  assert box.width < 1.05 * figure.bbox.width
  assert box.y1 <= 0


def test_rows_are_drawn_without_repetition() -> None:
  rows = draw_rows(1000, 50, seed=3)
  assert len(set(rows.tolist())) == 50
  assert (np.diff(rows) > 0).all()
  assert 0 <= rows[0] <= rows[-1] < 1000
  assert np.array_equal(rows, draw_rows(1000, 50, seed=3))
  assert not np.array_equal(rows, draw_rows(1000, 50, seed=4))
  assert draw_rows(5, 5, 0).tolist() == draw_rows(5, 9, 0).tolist()
  assert draw_rows(5, 9, 0).tolist() == [0, 1, 2, 3, 4]


def test_mistakes() -> None:
  features, labels = clusters(20)
  names = list("abcd")
  for perplexity in (20, 0, -1, float("nan")):
    with pytest.raises(ValueError, match="perplexity is .* below the 20 rows"):
      tsne_png(features, labels, names, perplexity=perplexity)
  with pytest.raises(ValueError, match="all 20 rows are the same"):
    tsne_png(np.ones((20, 3)), labels, names, perplexity=5)
  with pytest.raises(ValueError, match="not finite"):
    tsne_png(np.full((20, 3), np.nan), labels, names, perplexity=5)
  with pytest.raises(ValueError, match=r"must be \(rows, dims\)"):
    embed(np.ones((20, 3, 2)), perplexity=5)
  with pytest.raises(ValueError, match="one for each of the 20 rows"):
    tsne_png(features, labels[:9], names, perplexity=5)
  with pytest.raises(ValueError, match="labels are 0 to 3: .* 3 names"):
    tsne_png(features, labels, names[:3], perplexity=5)


def save(path: pathlib.Path, rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
  features, labels = clusters(rows)
  save_features(
    path,
    Features(
      ids=tuple(f"v{k}" for k in range(rows)),
      arrays={"pool5": features, "res5": features.reshape(rows, 4, 4, 4)},
      labels=np.stack([labels, labels * 0 - 1], 1).astype(np.int32),
      label_names=("a", "b", "c", "d"),
      sources=("",) * rows,
      clip=None,
      about={},
    ),
  )
  return features, labels


def test_the_verb(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  features, labels = save(tmp_path / "f.npz")
  out = tmp_path / "t.png"
  words = ("tsne", tmp_path / "f.npz", "--out", out, "--perplexity", 6)
  assert draw(*words, "--count", 30, "--seed", 2) == 0
  rows = draw_rows(40, 30, 2)
  wanted = tsne_png(features[rows], labels[rows], "abcd", seed=2, perplexity=6)
  assert out.read_bytes() == wanted
  told = capsys.readouterr()
  assert told.out == f"written to {out}\n"
  assert "30 of 40 rows, drawn with seed 2" in told.err
  assert "t-SNE runs" in told.err
  # Maps are taken as one long row of numbers.
  assert draw(*words, "--endpoint", "res5") == 0
  assert out.read_bytes() == tsne_png(features, labels, "abcd", perplexity=6)
  shown = pixels(out.read_bytes())
  # The dot of the first class in the legend is not blended with white.
  assert (shown == (31, 119, 180)).all(-1).sum() > 40


@pytest.mark.parametrize(
  ("words", "rule"),
  [
    (("--perplexity", 40), "perplexity is 40: .* below the 40 rows"),
    (("--count", 5), "perplexity is 30: .* below the 5 rows"),
    (("--count", 0), "--count is 0: it must be >= 1"),
    (("--seed", -1), r"--seed is -1: it must be in 0..4294967295"),
    (("--endpoint", "res9"), "res9.*pool5, res5"),
  ],
  ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_mistakes_of_the_verb(
  tmp_path: pathlib.Path, words: tuple[Any, ...], rule: str
) -> None:
  save(tmp_path / "f.npz")
  out = tmp_path / "t.png"
  with pytest.raises(ValueError, match=rule) as raised:
    draw("tsne", tmp_path / "f.npz", "--out", out, *words)
  assert "\n" not in str(raised.value)
  assert not out.exists()
