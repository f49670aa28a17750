"""Batch normalisation against PyTorch's, flax's and numbers done by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p3d_jax.models.norm import BatchNorm, product_moments, together

SHAPE = (6, 2, 3, 4, 5)  # clips, steps, height, width, channels


def draw(seed=0, shape=SHAPE):
  """Clips whose channels have means and deviations of their own."""
  rng = np.random.default_rng(seed)
  mean, std = rng.uniform(-3, 3, shape[-1]), rng.uniform(0.2, 4, shape[-1])
  return (mean + std * rng.standard_normal(shape)).astype(np.float32)


def random_variables(channels=SHAPE[-1]):
  rng = np.random.default_rng(1)
  return {
    "params": {
      "scale": rng.uniform(0.5, 2, channels).astype(np.float32),
      "bias": rng.standard_normal(channels).astype(np.float32),
    },
    "batch_stats": {
      "mean": 3 * rng.standard_normal(channels).astype(np.float32),
      "var": rng.uniform(0.1, 9, channels).astype(np.float32),
    },
  }


def product(steps, offset):
  """Numbers that are far from 0, a kernel, and float64 moments of both."""
  rng = np.random.default_rng(3)
  mix = rng.standard_normal((4, 4)) + offset  # channels that are correlated
  x = rng.standard_normal((6, 2, 3, 4, steps, 4)) @ mix + offset
  x = np.maximum(x, 0).astype(np.float32)  # as after relu
  kernel = rng.standard_normal((4, 16)).astype(np.float32)
  y = (x.astype(np.float64) @ kernel).reshape(-1, 16)
  flat = x.reshape(*x.shape[:-2], -1)
  return jnp.asarray(flat), jnp.asarray(kernel), y.mean(0), y.var(0)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("offset", [0, 3])
def test_moments_of_a_product(steps, offset):
  """They are those of the numbers that are never computed.

  In float32, relative to the largest variance: 2e-7 was measured.
  """
  x, kernel, mean, var = product(steps, offset)
  take = jax.jit(product_moments, static_argnums=2)
  below, (found_mean, found_var) = take(x, kernel, steps)
  np.testing.assert_allclose(
    below, np.asarray(x, np.float64).reshape(-1, 4).mean(0), rtol=1e-6
  )
  np.testing.assert_allclose(found_mean, mean, atol=2e-6 * abs(mean).max())
  np.testing.assert_allclose(found_var, var, atol=2e-6 * var.max())


def test_variance_of_a_product_is_not_negative():
  """Of channels that cancel, rounding alone is left, of either sign."""
  x = jnp.asarray(np.random.default_rng(0).normal(size=(500, 1)) * [1e3, 1e3])
  kernel = jnp.asarray([[1.0, 0.1], [-1.0, -0.1]])
  _, (_, var) = jax.jit(product_moments)(x, kernel)
  assert (np.asarray(var) >= 0).all()


def test_parts_together_by_hand():
  """Of 1, 3 and 5, 11: means 2 and 8, variances 1 and 9; in all 5 and 14."""
  mean, var = together(jnp.asarray([2.0, 8.0]), jnp.asarray([1.0, 9.0]))
  assert (float(mean), float(var)) == (5.0, 14.0)


def test_steps_beside_each_other_are_more_numbers_of_a_channel():
  x, variables = draw(), random_variables()
  pairs = np.concatenate([x[:, ::2], x[:, 1::2]], axis=-1)

  def run(x, steps):
    norm = BatchNorm(group=3, steps=steps)
    return jax.jit(lambda v, x: norm.apply(v, x, mutable="batch_stats"))(
      variables, x
    )

  expected, stats = run(x, 1)
  found, found_stats = run(pairs, 2)
  whole = np.stack(np.split(found, 2, axis=-1), axis=2).reshape(x.shape)
  np.testing.assert_allclose(whole, expected, atol=2e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found_stats, stats
  )


def test_moving_statistics_by_hand():
  """(5 - 1) / sqrt(3 + 1) * 3 - 2 = 4."""
  norm = BatchNorm(use_running_average=True, epsilon=1.0)
  variables = {
    "params": {"scale": jnp.full(1, 3.0), "bias": jnp.full(1, -2.0)},
    "batch_stats": {"mean": jnp.full(1, 1.0), "var": jnp.full(1, 3.0)},
  }
  y, new = norm.apply(variables, jnp.full((1, 1), 5.0), mutable="batch_stats")
  assert float(y[0, 0]) == pytest.approx(4.0, abs=1e-6)
  assert jax.tree.all(
    jax.tree.map(jnp.array_equal, new["batch_stats"], variables["batch_stats"])
  )


def test_live_statistics_by_hand():
  """Of 1, 5: mean 3, variance 4; the moving ones keep nine tenths."""
  norm = BatchNorm(epsilon=5.0)  # sqrt(4 + 5) = 3
  variables = {
    "params": {"scale": jnp.full(1, 3.0), "bias": jnp.full(1, 10.0)},
    "batch_stats": {"mean": jnp.full(1, 20.0), "var": jnp.full(1, 30.0)},
  }
  x = jnp.asarray([[1.0], [5.0]])
  y, new = norm.apply(variables, x, mutable="batch_stats")
  np.testing.assert_allclose(y.ravel(), [8, 12], atol=1e-5)
  np.testing.assert_allclose(new["batch_stats"]["mean"], 0.9 * 20 + 0.1 * 3)
  np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 * 30 + 0.1 * 4)


@pytest.mark.parametrize("train", [True, False])
def test_against_torch(train):
  """Values, gradients and moving statistics; ours take the biased variance."""
  torch = pytest.importorskip("torch", reason="the reference is PyTorch")
  x, variables = draw(), random_variables()
  params, stats = variables["params"], variables["batch_stats"]
  twin = torch.nn.BatchNorm3d(SHAPE[-1], eps=1e-5, momentum=0.1).double()
  twin.train(train)
  with torch.no_grad():
    twin.weight.copy_(torch.from_numpy(params["scale"]))
    twin.bias.copy_(torch.from_numpy(params["bias"]))
    twin.running_mean.copy_(torch.from_numpy(stats["mean"]))
    twin.running_var.copy_(torch.from_numpy(stats["var"]))
  leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
  expected = twin(leaf.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
  weights = np.random.default_rng(2).standard_normal(SHAPE)
  (expected * torch.from_numpy(weights)).sum().backward()

  norm = BatchNorm(use_running_average=not train)

  def loss(params, x):
    y, new = norm.apply(
      {**variables, "params": params}, x, mutable="batch_stats"
    )
    return jnp.sum(y * weights.astype(np.float32)), (y, new["batch_stats"])

  grads, (y, new) = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
  np.testing.assert_allclose(y, expected.detach(), atol=1e-5)
  np.testing.assert_allclose(grads[1], leaf.grad, atol=2e-5)
  np.testing.assert_allclose(grads[0]["scale"], twin.weight.grad, atol=1e-4)
  np.testing.assert_allclose(grads[0]["bias"], twin.bias.grad, atol=1e-4)
  np.testing.assert_allclose(new["mean"], twin.running_mean, rtol=1e-5)
  count = np.prod(SHAPE[:-1])
  var = twin.running_var.numpy()
  if train:  # take back Bessel's correction of the new tenth
    old = 0.9 * stats["var"]
    var = old + (var - old) * (count - 1) / count
  np.testing.assert_allclose(new["var"], var, rtol=1e-5)


@pytest.mark.parametrize("group", [1, 2, 3, 6])
def test_ghost_groups_are_separate_batches(group):
  """Consecutive rows; the moving statistics take the mean of the groups'."""
  x, variables = draw(), random_variables()
  y, new = BatchNorm(group=group).apply(variables, x, mutable="batch_stats")
  parts = [
    BatchNorm().apply(variables, part, mutable="batch_stats")
    for part in np.split(x, 6 // group)
  ]
  expected = np.concatenate([part for part, _ in parts])
  np.testing.assert_allclose(y, expected, atol=1e-5)
  for name in ("mean", "var"):
    mean = np.mean([stats["batch_stats"][name] for _, stats in parts], 0)
    np.testing.assert_allclose(new["batch_stats"][name], mean, rtol=1e-5)


def test_ghost_groups_matter():
  x, variables = draw(), random_variables()
  whole, _ = BatchNorm().apply(variables, x, mutable="batch_stats")
  ghost, _ = BatchNorm(group=2).apply(variables, x, mutable="batch_stats")
  assert np.abs(whole - ghost).max() > 0.05


def test_groups_must_divide_the_batch():
  with pytest.raises(ValueError, match="norm_group is 4.*batch of 6 clips"):
    BatchNorm(group=4).apply(random_variables(), draw(), mutable="batch_stats")


@pytest.mark.parametrize("train", [True, False])
def test_drops_in_for_flax(train):
  """The same names, arguments and numbers as flax.linen.BatchNorm."""
  x, variables = draw(), random_variables()
  fields = {"use_running_average": not train, "momentum": 0.8, "epsilon": 1e-3}
  y, new = BatchNorm(**fields).apply(variables, x, mutable="batch_stats")
  other, other_new = nn.BatchNorm(**fields).apply(
    variables, x, mutable="batch_stats"
  )
  np.testing.assert_allclose(y, other, atol=2e-5)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
  jax.tree.map(close, new, other_new)
  fresh = BatchNorm(**fields).init(jax.random.key(0), x)
  jax.tree.map(
    np.testing.assert_array_equal,
    fresh,
    nn.BatchNorm(**fields).init(jax.random.key(0), x),
  )


def test_bfloat16_has_float32_statistics():
  """The mean of 1,000 clips at 256 + {0, 2}: bfloat16 sums would stop early."""
  x = jnp.asarray(256 + 2 * (np.arange(4000) % 2), jnp.bfloat16)
  x = x.reshape(1000, 4, 1)
  norm = BatchNorm(momentum=0.0, dtype=jnp.bfloat16)
  variables = norm.init(jax.random.key(0), x)
  y, new = norm.apply(variables, x, mutable="batch_stats")
  assert y.dtype == jnp.bfloat16
  for leaf in jax.tree.leaves((variables, new)):
    assert leaf.dtype == jnp.float32
  assert float(new["batch_stats"]["mean"][0]) == pytest.approx(257, rel=1e-5)
  assert float(new["batch_stats"]["var"][0]) == pytest.approx(1, abs=0.02)


def test_bfloat16_rounds_once():
  """Moving statistics: within half a unit of 8 bits of the float32 result."""
  x, variables = jnp.asarray(draw(), jnp.bfloat16), random_variables()
  y = BatchNorm(use_running_average=True).apply(variables, x)
  exact = BatchNorm(use_running_average=True, dtype=jnp.float32).apply(
    variables, x
  )
  assert exact.dtype == jnp.float32
  np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=2**-8)


def test_initialisation_leaves_the_statistics():
  """init sees a batch, but the moving statistics begin at 0 and 1."""
  stats = BatchNorm().init(jax.random.key(0), draw())["batch_stats"]
  np.testing.assert_array_equal(stats["mean"], np.zeros(5))
  np.testing.assert_array_equal(stats["var"], np.ones(5))


def test_forward_mode_is_the_reverse_of_reverse_mode():
  """<v, J u> = <J^T v, u> through live statistics."""
  x, u, v = draw(), draw(3), draw(4)
  variables = random_variables()

  def run(x):
    return BatchNorm().apply(variables, x, mutable="batch_stats")[0]

  _, forward = jax.jvp(run, (x,), (u,))
  _, vjp = jax.vjp(run, x)
  (backward,) = vjp(v)
  scale = np.linalg.norm(forward) * np.linalg.norm(v)
  assert abs(np.vdot(v, forward) - np.vdot(backward, u)) < 1e-5 * scale
