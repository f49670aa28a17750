"""The picture of scores over time."""

import pathlib
import subprocess
import sys

import matplotlib.image
import numpy as np

from p3d_jax.visualize.timeline import timeline
from tests import small


def test_a_picture_is_drawn(tmp_path: pathlib.Path) -> None:
  path = tmp_path / "out.png"
  times = np.linspace(0, 10, 8)
  rng = np.random.default_rng(0)
  pictures = []
  for _ in range(2):  # a second time over the first
    scores = rng.dirichlet(np.ones(7), size=8)
    labels = [f"class {k}" for k in range(7)]
    timeline(path, times, scores, labels, title="some video.mp4")
    pictures.append(matplotlib.image.imread(path))
  assert pictures[0].shape == (432, 1080, 4)  # 3.6 and 9 inches at 120 dots
  assert pictures[0][..., :3].std() > 0.02
  assert not np.array_equal(*pictures)
  assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_it_leaves_the_backend_alone() -> None:
  code = (
    "import sys, p3d_jax.visualize.timeline; "
    "assert 'matplotlib.pyplot' not in sys.modules"
  )
  words = [sys.executable, "-c", code]
  subprocess.run(words, check=True, env=small.environment())
