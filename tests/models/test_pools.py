"""Pools against PyTorch's, and against windows written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p3d_jax.models import convs, pools

torch = pytest.importorskip("torch", reason="the reference runs on PyTorch")


stem_pool = jax.jit(pools.stem_pool, static_argnums=1)
temporal_pool = jax.jit(pools.temporal_pool)


def torch_pool(x, kernel, stride, padding=(0, 0, 0), ceil=False):
  """max_pool3d of numpy clips in our layout."""
  y = torch.nn.functional.max_pool3d(
    torch.from_numpy(np.asarray(x)).permute(0, 4, 1, 2, 3),
    kernel,
    stride,
    padding,
    ceil_mode=ceil,
  )
  return y.permute(0, 2, 3, 4, 1)


def clips(*shape):
  """Distinct numbers of both signs: no maximum has a tie."""
  size = int(np.prod(shape))
  values = np.random.default_rng(size).permutation(size) - size * 0.75
  return values.reshape(shape).astype(np.float32)


@pytest.mark.parametrize("time", range(1, 18))
def test_temporal_pool(time):
  x = clips(2, time, 2, 3, 2)
  found = temporal_pool(x)
  expected = torch_pool(x, (2, 1, 1), (2, 1, 1), ceil=True)
  assert found.shape[1] == -(-time // 2)
  np.testing.assert_array_equal(found, expected)


def test_an_odd_number_of_steps_keeps_its_last_one():
  x = jnp.asarray([5.0, 3, -1, -7, -2]).reshape(1, 5, 1, 1, 1)
  np.testing.assert_array_equal(temporal_pool(x).ravel(), [5, -1, -2])


def test_lengths_of_the_paper():
  """17 -> 9 -> 5 -> 3 -> 2 and 1 -> 1 -> 1 -> 1 -> 1: ceil mode."""
  for time, lengths in ((17, [9, 5, 3, 2]), (5, [3, 2, 1, 1]), (1, [1] * 4)):
    x, found = jax.ShapeDtypeStruct((1, time, 1, 1, 1), jnp.float32), []
    for _ in range(4):
      x = jax.eval_shape(temporal_pool, x)
      found.append(x.shape[1])
    assert found == lengths


@pytest.mark.parametrize("height", range(3, 18))
def test_stem_pool_ceil(height):
  x = clips(1, height % 4 + 1, height, 20 - height, 2)
  expected = torch_pool(x, (2, 3, 3), (2, 2, 2), ceil=True)
  np.testing.assert_array_equal(stem_pool(x, "ceil"), expected)


@pytest.mark.parametrize("height", range(1, 18))
def test_stem_pool_padded(height):
  """torchvision's, and at even lengths the port's."""
  x = clips(1, 2 * (height % 3 + 1), height, 18 - height, 2)
  expected = torch_pool(x, (2, 3, 3), (2, 2, 2), padding=(0, 1, 1))
  np.testing.assert_array_equal(stem_pool(x, "padded"), expected)


def test_padded_pool_is_ceil_mode_in_time():
  x = clips(1, 5, 6, 6, 1)
  found = stem_pool(x, "padded")
  expected = torch_pool(x[:, 4:], (1, 3, 3), (1, 2, 2), padding=(0, 1, 1))
  np.testing.assert_array_equal(found[:, 2:], expected)


@pytest.mark.parametrize("alignment", pools.STEM_POOLS)
def test_pools_of_folded_clips(alignment):
  """Pairs of steps in the channels, and frames that are pooled in pairs."""
  x = clips(2, 4, 9, 6, 3)
  pairs = np.concatenate([x[:, ::2], x[:, 1::2]], axis=-1)
  found = pools.temporal_pool(jnp.asarray(pairs), steps=2)
  np.testing.assert_array_equal(found, temporal_pool(x))
  found = pools.plane_pool(*jnp.asarray(x[:, :2]).swapaxes(0, 1), alignment)
  np.testing.assert_array_equal(found, stem_pool(x[:, :2], alignment)[:, 0])


@pytest.mark.parametrize(
  ("alignment", "expected"),
  [
    ("ceil", [3, 5, 6]),  # of 1 2 3, 3 4 5, 5 6
    ("padded", [2, 4, 6]),  # of - 1 2, 2 3 4, 4 5 6
  ],
)
def test_windows_by_hand(alignment, expected):
  """The two pools look at windows one pixel apart."""
  row = jnp.arange(1.0, 7).reshape(1, 1, 1, 6, 1)
  column = row.reshape(1, 1, 6, 1, 1)
  for x in (row, column):
    pooled = stem_pool(x, alignment)
    np.testing.assert_array_equal(pooled.ravel(), expected)


def caffe_length(size, kernel, stride):
  """PoolingLayer::Reshape without padding."""
  return int(np.ceil((size - kernel) / stride)) + 1


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("size", range(3, 18))
def test_lengths_are_caffes(size, kernel):
  x = jax.ShapeDtypeStruct((size,), jnp.float32)
  found = jax.eval_shape(lambda x: pools.max_pool(x, kernel, 2, axis=0), x)
  assert found.shape == (caffe_length(size, kernel, 2),)


@pytest.mark.parametrize("alignment", pools.STEM_POOLS)
@pytest.mark.parametrize("size", [(5, 9, 8), (4, 6, 7)], ids=str)
def test_gradients(alignment, size):
  """Without ties each window's gradient goes to its maximum."""
  x = clips(2, *size, 3)
  weights = np.random.default_rng(0).integers(
    1, 9, stem_pool(x, alignment).shape
  )

  def ours(x):
    return jnp.sum(stem_pool(x, alignment) * weights)

  leaf = torch.tensor(x, requires_grad=True)
  y = leaf.permute(0, 4, 1, 2, 3)
  functional = torch.nn.functional
  y = functional.max_pool3d(y, (2, 1, 1), (2, 1, 1), ceil_mode=True)
  pad = pools.STEM_POOLS[alignment] or 0
  y = functional.max_pool3d(
    y, (1, 3, 3), (1, 2, 2), (0, pad, pad), ceil_mode=alignment == "ceil"
  )
  (y.permute(0, 2, 3, 4, 1) * torch.from_numpy(weights)).sum().backward()
  np.testing.assert_array_equal(jax.jit(jax.grad(ours))(x), leaf.grad)


@pytest.mark.parametrize("alignment", pools.STEM_POOLS)
@pytest.mark.parametrize("size", [(5, 9, 8), (4, 6, 7), (1, 3, 3)], ids=str)
def test_the_forms_are_equal(alignment, size):
  """Windows for TPUs and slices for CPUs, both ways and under vmap."""
  x = jnp.asarray(clips(2, *size, 3))
  dx = jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32)

  def run(form):
    # A function of its own: jax keeps what it has traced.
    def pool(x):
      return stem_pool.__wrapped__(x, alignment)

    with convs.forced(form):
      y, tangent = jax.jit(lambda x: jax.jvp(pool, (x,), (dx,)))(x)
      (gradient,) = jax.jit(lambda x: jax.vjp(pool, x)[1](y))(x)
      members = jax.jit(jax.vmap(pool))(jnp.stack([x, -x]))
      single = jax.jit(lambda x: pools.max_pool(x, 2, 2, axis=1))(x)
    return y, tangent, gradient, members, single

  for a, b in zip(run("direct"), run("folded"), strict=True):
    np.testing.assert_array_equal(a, b)


def test_of_equal_numbers_the_first_has_the_gradient():
  """As in PyTorch: each window sends its gradient to one place, whole."""
  x = np.zeros((1, 4, 6, 6, 1), np.float32)
  found = jax.grad(lambda x: stem_pool(x, "ceil").sum())(jnp.asarray(x))
  leaf = torch.tensor(x, requires_grad=True)
  y = torch.nn.functional.max_pool3d(
    leaf.permute(0, 4, 1, 2, 3), (2, 3, 3), 2, ceil_mode=True
  )
  y.sum().backward()
  np.testing.assert_array_equal(found, leaf.grad)


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_not_a_number_is_passed_on(place):
  x = jnp.zeros(4).at[place].set(jnp.nan)
  pooled = pools.max_pool(x, 2, 2, axis=0)
  np.testing.assert_array_equal(jnp.isnan(pooled), [True, False])


def test_forward_mode_follows_the_maximum():
  x, dx = jnp.asarray([1.0, 4, 3, 2, 7]), jnp.asarray([10.0, 20, 30, 40, 50])
  pooled, tangent = jax.jvp(
    lambda x: pools.max_pool(x, 2, 2, axis=0), (x,), (dx,)
  )
  np.testing.assert_array_equal(pooled, [4, 3, 7])
  np.testing.assert_array_equal(tangent, [20, 30, 50])


def test_vmap():
  x = clips(3, 2, 5, 9, 8, 2)
  found = jax.vmap(lambda x: stem_pool(x, "ceil"))(x)
  for i in range(3):
    np.testing.assert_array_equal(found[i], stem_pool(x[i], "ceil"))


def test_bfloat16_is_exact():
  """A maximum rounds nothing."""
  x = jnp.asarray(clips(1, 5, 9, 8, 2), jnp.bfloat16)
  found = stem_pool(x, "ceil")
  assert found.dtype == jnp.bfloat16
  wide = stem_pool(x.astype(jnp.float32), "ceil")
  np.testing.assert_array_equal(found.astype(jnp.float32), wide)
