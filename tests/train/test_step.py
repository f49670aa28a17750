"""One step against the same thing written out plainly."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from p3d_jax.checkpoint import tree
from p3d_jax.train import sharding, step
from p3d_jax.train.state import TrainState
from tests import small

RATE = 0.1


def distance(a: Any, b: Any) -> float:
  """Largest difference of two trees, relative to the largest number."""
  pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
  most = max(float(jnp.abs(x - y).max()) for x, y in pairs)
  return most / max(float(jnp.abs(y).max()) for _, y in pairs)


# Losses of logits and labels, worked out by hand.

LOGITS = np.log(np.array([[0.5, 0.25, 0.25]], np.float32))


@pytest.mark.parametrize(
  ("labels", "smoothing", "expected"),
  [
    ([0], 0.0, np.log(2)),
    ([1, -1], 0.0, np.log(4)),  # -1 is padding
    ([0, 1], 0.0, 1.5 * np.log(2)),  # half on each
    ([0], 0.3, 0.8 * np.log(2) + 0.2 * np.log(4)),  # 0.7 + 0.1, 0.1, 0.1
  ],
)
def test_softmax_loss(
  labels: list[int], smoothing: float, expected: float
) -> None:
  loss = step.loss_of(LOGITS, jnp.array([labels]), "softmax", smoothing)
  np.testing.assert_allclose(loss, [expected], rtol=1e-6)


def test_sigmoid_loss() -> None:
  # sigmoid(log 3) is 3/4, sigmoid(0) is 1/2.
  logits = jnp.array([[np.log(3.0), 0.0, 0.0]])
  two = step.loss_of(logits, jnp.array([[0, 2, -1]]), "sigmoid", 0.0)
  np.testing.assert_allclose(two, [np.log(4 / 3) + 2 * np.log(2)], rtol=1e-6)
  none = step.loss_of(logits, jnp.array([[-1, -1]]), "sigmoid", 0.0)
  np.testing.assert_allclose(none, [np.log(4) + 2 * np.log(2)], rtol=1e-6)
  smooth = step.loss_of(logits, jnp.array([[0, 2]]), "sigmoid", 0.2)
  # Targets 0.9, 0.1, 0.9.
  first = 0.9 * np.log(4 / 3) + 0.1 * np.log(4)
  np.testing.assert_allclose(smooth, [first + 2 * np.log(2)], rtol=1e-6)


def test_a_label_given_twice_counts_once() -> None:
  hot = step.multi_hot(jnp.array([[1, 1, -1], [-1, -1, -1]]), 3)
  np.testing.assert_array_equal(hot, [[0, 1, 0], [0, 0, 0]])


# Whole steps.


class Slim(nn.Module):
  """Means of the frames, batch norm, dropout, classes: compiles at once."""

  dropout: float = 0.0
  frozen: bool = False
  norm_group: int | None = None

  @nn.compact
  def __call__(
    self, clips: Any, train: bool = False, places: Any = None
  ) -> Any:
    x = clips.mean((2, 3)).reshape(clips.shape[0], -1)
    x = nn.BatchNorm(use_running_average=self.frozen or not train)(x)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(3)(x)


def slim_state(at: int = 0) -> TrainState:
  v = Slim().init(jax.random.key(1), jnp.zeros((1, 4, 32, 32, 3)))
  return TrainState(
    step=jnp.asarray(at, jnp.int32),
    params=v["params"],
    batch_stats=v["batch_stats"],
    opt_state=optax.sgd(RATE).init(v["params"]),
    ema=jax.tree.map(jnp.zeros_like, v["params"]),
  )


def slim_step(
  fields: dict[str, Any], at: int = 0, **recipe: Any
) -> tuple[Any, Any]:
  """Takes a step of `Slim` on 12 clips, from the same state each time."""
  batch = {"clips": small.pixels(12), "labels": np.arange(12)[:, None] % 3}
  module: Any = Slim(**fields)
  made = step.Recipe(module, optax.sgd(RATE), small.PREPROCESSING, **recipe)
  taken = jax.jit(step.train_step, static_argnums=0)
  return taken(made, slim_state(at), batch)


def test_a_step_is_plain_gradient_descent() -> None:
  """Loss, gradient, statistics and averages, written out."""
  before = slim_state(3)
  after, metrics = slim_step({"dropout": 0.5}, 3, ema=0.75)
  pixels = small.pixels(12)[..., ::-1].astype(np.float32)
  clips = (pixels - np.float32([120, 125, 130])) / np.float32([60, 64, 68])
  labels = np.arange(12) % 3
  key = jax.random.fold_in(jax.random.key(0), 3)

  def loss(params: Any) -> Any:
    logits, new = Slim(dropout=0.5).apply(
      {"params": params, "batch_stats": before.batch_stats},
      clips,
      train=True,
      mutable=["batch_stats"],
      rngs={"dropout": key},
    )
    logs = logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True))
    return -logs[np.arange(12), labels].mean(), (new["batch_stats"], logits)

  (value, (stats, logits)), grads = jax.value_and_grad(loss, has_aux=True)(
    before.params
  )
  np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
  hit = (np.argmax(logits, -1) == labels).mean()
  assert float(metrics["accuracy"]) == pytest.approx(hit)
  expected = jax.tree.map(lambda p, g: p - RATE * g, before.params, grads)
  assert distance(after.params, expected) < 1e-6
  assert distance(after.batch_stats, stats) < 1e-6
  norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
  np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
  assert int(after.step) == 4
  # A quarter of the new and three of the old, which are zeros.
  quarter = jax.tree.map(lambda p: 0.25 * p, after.params)
  assert distance(after.ema, quarter) < 1e-6
  assert after.variables["params"] is after.ema


def test_the_norm_is_of_what_learns() -> None:
  """Half of the parameters frozen: the squares of both halves add up."""
  names = set(tree.flatten(slim_state().params))
  head = {name for name in names if name.startswith("Dense")}
  assert head
  assert names - head
  whole, only_head, rest = (
    float(slim_step({}, frozen=frozenset(frozen))[1]["gradient_norm"])
    for frozen in ((), names - head, head)
  )
  assert min(only_head, rest) > 0
  np.testing.assert_allclose(whole**2, only_head**2 + rest**2, rtol=1e-5)
  none = slim_step({}, frozen=frozenset(names))[1]["gradient_norm"]
  assert float(none) == 0


def test_dropout_is_a_function_of_seed_and_step() -> None:
  def loss(seed: int, at: int) -> float:
    return float(slim_step({"dropout": 0.5}, at, seed=seed)[1]["loss"])

  first = loss(0, 7)
  assert loss(0, 7) == first
  assert loss(0, 8) != first
  assert loss(1, 7) != first


@pytest.mark.parametrize("parts", [2, 3])
def test_accumulation_is_the_whole_batch_when_norms_are_frozen(
  parts: int,
) -> None:
  whole, metrics = slim_step({"frozen": True})
  apart, apart_metrics = slim_step({"frozen": True}, accumulate=parts)
  # Only the order of additions differs.
  assert distance(apart.params, whole.params) < 1e-6
  for name, value in metrics.items():
    np.testing.assert_allclose(apart_metrics[name], value, rtol=1e-6)
  live, _ = slim_step({})
  apart, _ = slim_step({}, accumulate=parts)
  assert distance(apart.params, live.params) > 1e-4  # statistics of a part


def test_accumulation_leaves_frozen_statistics_to_the_bit() -> None:
  """Five times a number by five is not always that number."""
  module = small.network(freeze_norm="all")
  params, stats = (
    small.variables(module)[name] for name in ("params", "batch_stats")
  )
  tx = optax.sgd(0.01)
  state = TrainState(jnp.zeros((), jnp.int32), params, stats, tx.init(params))
  batch = {
    "clips": jnp.asarray(small.pixels(5)),
    "labels": jnp.zeros((5, 1), jnp.int32),
  }
  recipe = step.Recipe(module, tx, small.PREPROCESSING, accumulate=5)
  after, _ = jax.jit(functools.partial(step.train_step, recipe))(state, batch)
  jax.tree.map(np.testing.assert_array_equal, after.batch_stats, stats)


def test_accumulation_takes_the_mean_of_live_statistics() -> None:
  whole, _ = slim_step({})
  apart, _ = slim_step({}, accumulate=2)
  x = small.PREPROCESSING.normalize(small.pixels(12)).mean((2, 3))
  # flax.linen.BatchNorm keeps 0.99 of the old value, here 0. The mean over
  # two equal parts is the mean over all.
  mean = 0.01 * x.reshape(12, -1).mean(0)
  for state in (whole, apart):
    got = state.batch_stats["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(got, mean, atol=1e-7)
  x = x.reshape(12, -1)
  parts = (x[0::2].var(0) + x[1::2].var(0)) / 2
  for state, var in ((whole, x.var(0)), (apart, parts)):
    got = state.batch_stats["BatchNorm_0"]["var"]
    np.testing.assert_allclose(got, 0.99 + 0.01 * var, atol=1e-6)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_is_the_whole_batch_of_ghost_norms_and_dropout(
  parts: int,
) -> None:
  """The recipe stays where fewer chips take a batch in more parts."""

  def taken(accumulate: int, group: int | None) -> tuple[Any, Any]:
    module: Any = small.network(
      schedule="ABC", dropout=0.5, norm_group=group, dtype=jnp.float64
    )
    v = jax.tree.map(lambda x: x.astype(np.float64), small.variables(module))
    tx = optax.sgd(RATE)
    recipe = step.Recipe(module, tx, small.PREPROCESSING, accumulate=accumulate)
    state = TrainState(
      step=jnp.asarray(7, jnp.int32),
      params=v["params"],
      batch_stats=v["batch_stats"],
      opt_state=tx.init(v["params"]),
    )
    batch = {"clips": small.pixels(8), "labels": np.arange(8)[:, None] % 3}
    return jax.jit(step.train_step, static_argnums=0)(recipe, state, batch)

  with jax.enable_x64(True):
    whole, metrics = taken(1, 2)
    apart, apart_metrics = taken(parts, 2)
    # Float64 but for the moving statistics and the loss, which are float32.
    assert distance(apart.params, whole.params) < 1e-9
    assert distance(apart.batch_stats, whole.batch_stats) < 1e-6
    for name, value in metrics.items():
      np.testing.assert_allclose(apart_metrics[name], value, rtol=1e-6)
    # Groups that were mixed otherwise would be seen.
    other, _ = taken(1, 4)
    assert distance(other.params, whole.params) > 1e-4


def test_several_labels() -> None:
  _, metrics = slim_step({}, loss="sigmoid", label_smoothing=0.1)
  assert 3 * 0.3 < float(metrics["loss"]) < 3 * 3


def test_split_takes_every_kth_row() -> None:
  rows = sharding.split({"a": jnp.arange(6)}, 2)["a"]
  np.testing.assert_array_equal(rows, [[0, 2, 4], [1, 3, 5]])


def test_split_keeps_groups_together() -> None:
  rows = sharding.split({"a": jnp.arange(8)}, 2, group=2)["a"]
  np.testing.assert_array_equal(rows, [[0, 1, 4, 5], [2, 3, 6, 7]])


def test_norms_frozen_but_the_first() -> None:
  module: Any = small.network(freeze_norm="all_but_first")
  v = small.variables(module)
  tx = optax.sgd(RATE)
  state = TrainState(
    step=jnp.asarray(0, jnp.int32),
    params=v["params"],
    batch_stats=v["batch_stats"],
    opt_state=tx.init(v["params"]),
  )
  batch = {"clips": small.pixels(2), "labels": np.zeros((2, 1), np.int32)}
  recipe = step.Recipe(module, tx, small.PREPROCESSING)
  after, _ = jax.jit(step.train_step, static_argnums=0)(recipe, state, batch)
  before, now = tree.flatten(state.batch_stats), tree.flatten(after.batch_stats)
  changed = {n for n in before if not np.array_equal(before[n], now[n])}
  assert changed == {"stem/bn/mean", "stem/bn/var"}


def test_all_norms_frozen_keep_their_statistics() -> None:
  state, _ = slim_step({"frozen": True})
  np.testing.assert_array_equal(state.batch_stats["BatchNorm_0"]["mean"], 0)


def test_eval_step_is_the_network_without_dropout() -> None:
  module = Slim(dropout=0.9)
  clips = small.pixels(2, 3)
  v = module.init(jax.random.key(1), jnp.zeros((1, 4, 32, 32, 3)))
  scores = jax.jit(step.eval_step, static_argnums=(0, 1, 2))
  soft = scores(module, small.PREPROCESSING, "softmax", v, clips)
  assert soft.shape == (2, 3, 3)
  np.testing.assert_allclose(soft.sum(-1), 1, rtol=1e-6)
  exp = np.exp(module.apply(v, small.PREPROCESSING.normalize(clips[1])))
  np.testing.assert_allclose(soft[1], exp / exp.sum(-1)[:, None], rtol=2e-5)
  sigmoid = scores(module, small.PREPROCESSING, "sigmoid", v, clips)
  np.testing.assert_allclose(sigmoid[1], exp / (1 + exp), rtol=2e-5)
