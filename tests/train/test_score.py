"""Scoring: what is compiled, how often, and on which variables."""

import itertools
import pathlib
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from p3d_jax.data.clips import Views
from p3d_jax.data.sets import open_set
from p3d_jax.hosts.ends import PreemptedError
from p3d_jax.models.p3d import P3D
from p3d_jax.train import sharding
from p3d_jax.train.score import Scorer, each_video
from tests import small

# Float32 products in another order, through five stages, of scores in 0..1.
BOUND = 1e-5


def scorer_of(module: P3D) -> Scorer:
  return Scorer(module, small.PREPROCESSING, "sigmoid", sharding.mesh())


def plain(module: P3D, variables: Any, clips: np.ndarray) -> np.ndarray:
  """Scores of clips (videos, clips, ...), by the network as it is."""
  flat = small.PREPROCESSING.normalize(clips.reshape(-1, *clips.shape[2:]))
  logits: Any = jax.jit(module.apply)(variables, flat)
  return np.asarray(jax.nn.sigmoid(logits)).reshape(*clips.shape[:2], -1)


def drawn(module: P3D) -> Any:
  variables = small.variables(module)
  # Else all scores are 0 or 1, however they come about.
  variables["params"]["head"]["fc"]["kernel"] *= 0.01
  return variables


def test_batch_norm_is_folded() -> None:
  """The scores are the network's; its own variables are there afterwards."""
  module = small.network()
  variables, scorer = drawn(module), scorer_of(module)
  expected = plain(module, variables, small.pixels(3, 2))
  placed = scorer.place(variables)
  assert set(placed) == {"params"}
  assert set(placed["params"]["stem"]["bn"]) == {"bias"}
  found = scorer.clips(placed, small.pixels(3, 2))
  assert expected.std() > 0.01
  np.testing.assert_allclose(found, expected, rtol=0, atol=BOUND)
  again = plain(module, variables, small.pixels(3, 2))
  np.testing.assert_array_equal(again, expected)


def test_an_injected_norm_is_run_as_it_is() -> None:
  module = small.network(norm=nn.BatchNorm)
  variables, scorer = drawn(module), scorer_of(module)
  placed = scorer.place(variables)
  jax.tree.map(np.testing.assert_array_equal, placed, variables)
  np.testing.assert_allclose(
    scorer.clips(placed, small.pixels(3, 2)),
    plain(module, variables, small.pixels(3, 2)),
    rtol=0,
    atol=BOUND,
  )


def test_a_second_evaluation_compiles_nothing(
  caplog: pytest.LogCaptureFixture,
) -> None:
  """As those of a run: another step's variables, the same split."""
  module = small.network()
  videos = open_set(small.dataset(), "test")
  scorer = scorer_of(module)

  def compiled(seed: int) -> list[str]:
    variables = small.variables(module, seed)
    caplog.clear()
    with jax.log_compiles():
      scorer.videos(variables, videos, views=Views(2), batch=4)
    said = [record.getMessage() for record in caplog.records]
    return [line for line in said if line.startswith("Compiling ")]

  first = compiled(0)
  assert any("eval_step" in line for line in first), first
  assert compiled(1) == []


def followed(notices: Iterable[bool]) -> tuple[list[str], list[int]]:
  """What happens in which order, two videos a batch, and the videos kept."""
  events, kept, said = [], [], iter(notices)

  def step(variables: Any, clips: jax.Array) -> jax.Array:
    del variables
    events.append("begin")
    return clips.mean((1, 2, 3, 4, 5))

  batches = each_video(
    step,
    {},
    open_set(small.dataset(), "test"),
    small.PREPROCESSING,
    views=Views(1),
    batch=2,
    mesh=sharding.mesh(),
    notice=lambda: next(said),
  )
  try:
    for rows in batches:
      events.append("kept")
      kept += rows.index.tolist()
  except PreemptedError:
    events.append("preempted")
  return events, kept


def test_the_next_batch_is_under_way_while_one_is_kept() -> None:
  count = len(open_set(small.dataset(), "test"))
  assert count > 4
  batches = -(-count // 2)
  events, kept = followed(itertools.repeat(False))
  pairs = ["begin", "kept"] * (batches - 1)
  assert events == ["begin", *pairs, "kept"]
  assert kept == list(range(count))


def test_at_a_notice_what_is_under_way_is_kept() -> None:
  events, kept = followed([False, False, True])
  assert events == ["begin", "begin", "kept", "kept", "preempted"]
  assert kept == [0, 1, 2, 3]
  assert followed([True]) == (["preempted"], [])


SPLIT = """
import jax, numpy as np
from p3d_jax.models.fold import fold_batch_norm
from p3d_jax.train import sharding
from p3d_jax.train.score import Scorer
from tests import small
mesh = sharding.mesh(fsdp=4)
module = small.network()
variables = small.variables(module)
split = jax.device_put(variables, sharding.of_tree(variables, mesh))
kernel = split["params"]["stem"]["conv"]["kernel"]
assert not kernel.is_fully_replicated
scorer = Scorer(module, small.PREPROCESSING, "softmax", mesh)
placed = scorer.place(split)
_, expected = fold_batch_norm(module, variables)
for x, y in zip(*map(jax.tree.leaves, (placed, expected)), strict=True):
  assert x.sharding == sharding.replicated(mesh)
  np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)
# Where they live, a user's own arrays are folded as well.
_, own = fold_batch_norm(module, split)
for x, y in zip(*map(jax.tree.leaves, (own, expected)), strict=True):
  np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)
assert own["params"]["stem"]["conv"]["kernel"].sharding == kernel.sharding
assert scorer.clips(placed, small.pixels(8, 1)).shape == (8, 1, 3)
"""


def test_variables_that_are_split(tmp_path: pathlib.Path) -> None:
  """A state that eight devices share is folded, and left as it is."""
  done = subprocess.run(
    [sys.executable, "-c", SPLIT],
    cwd=tmp_path,
    env=small.environment(8),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
