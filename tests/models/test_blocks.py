"""Blocks against numbers worked out by hand.

A clip of five steps of one pixel and one channel makes every 3x3 see only its
centre, so a block is arithmetic on five numbers:

    x = 3 1 4 -3 2
    S: kernel 2, bn (v - 2) / 2       s = relu(x - 1)         = 2 0 3 0 1
    T: taps 2 1 -1, bn v - 3          (T v)_i = 2 v_(i-1) + v_i - v_(i+1)
    of x:  2 3 9  3 -4  less 3        t = -1  0 6 0 -7        (block B)
    of s:  2 1 3  5  1  less 3        t = -1 -2 0 2 -2        (blocks A, C)
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p3d_jax.models import blocks, convs
from p3d_jax.models.norm import BatchNorm

X = [3, 1, 4, -3, 2]
TAPS = (2, 1, -1)

# (v - mean) / sqrt(var + epsilon) * scale + bias with epsilon 1 and var 3.
S_NORM = {"scale": 1, "bias": 0, "mean": 2, "var": 3}  # (v - 2) / 2
T_NORM = {"scale": 2, "bias": -2, "mean": 1, "var": 3}  # v - 3

EXPECTED = {
  # s + t = 1 0 9 0 -6
  ("released", "B"): [1, 0, 9, 0, 0],
  ("paper", "B"): [1, 0, 9, 0, 0],
  ("port", "B"): [2, 0, 9, 0, 1],  # s + relu(t)
  # s + t = 1 -2 3 2 -1
  ("released", "C"): [0.5, 0, 1.5, 1, 0],  # of the halves
  ("paper", "C"): [1, 0, 3, 2, 0],
  ("port", "C"): [2, 0, 3, 2, 1],
  **{(rule, "A"): [0, 0, 0, 2, 0] for rule in blocks.RULES},
  **{(rule, "S"): [2, 0, 3, 0, 1] for rule in blocks.RULES},
  # A full kernel with T's taps in its centre: relu(T x - 3).
  **{(rule, "F"): [0, 0, 6, 0, 0] for rule in blocks.RULES},
}
UNITS = {
  "A": ("spatial", "temporal"),
  "B": ("spatial", "temporal"),
  "C": ("spatial", "temporal"),
  "S": ("spatial",),
  "F": ("full",),
}


def column(values):
  """Clips (1, time, 1, 1, 1) of these numbers."""
  return jnp.asarray(values, jnp.float32).reshape(1, -1, 1, 1, 1)


def spatial_kernel(centre):
  return jnp.zeros((1, 3, 3, 1, 1)).at[0, 1, 1].set(centre)


def temporal_kernel(taps):
  return jnp.asarray(taps, jnp.float32).reshape(3, 1, 1, 1, 1)


def full_kernel(taps):
  taps = jnp.asarray(taps, jnp.float32).reshape(3, 1, 1)
  return jnp.zeros((3, 3, 3, 1, 1)).at[:, 1, 1].set(taps)


def unit(kernel, norm):
  """Parameters and statistics of a convolution and its batch norm."""
  norm = {k: jnp.full((1,), v, jnp.float32) for k, v in norm.items()}
  params = {"scale": norm["scale"], "bias": norm["bias"]}
  stats = {"mean": norm["mean"], "var": norm["var"]}
  return {"conv": {"kernel": kernel}, "bn": params}, {"bn": stats}


def hand_variables(letter):
  units = {
    "spatial": unit(spatial_kernel(2), S_NORM),
    "temporal": unit(temporal_kernel(TAPS), T_NORM),
    "full": unit(full_kernel(TAPS), T_NORM),
  }
  chosen = {name: units[name] for name in UNITS[letter]}
  return {
    "params": {name: params for name, (params, _) in chosen.items()},
    "batch_stats": {name: stats for name, (_, stats) in chosen.items()},
  }


def no_norm(name):
  """Injected instead of a batch norm: the identity."""
  return lambda x: x


FROZEN = blocks.Parts(
  norm=functools.partial(BatchNorm, use_running_average=True, epsilon=1.0)
)
PLAIN = blocks.Parts(norm=no_norm)


@pytest.mark.parametrize(("rule", "letter"), EXPECTED)
def test_by_hand(rule, letter):
  fields = {}
  if letter in "BC":
    fields["join"] = blocks.join_of(rule, letter)
  mixer = blocks.MIXERS[letter](width=1, parts=FROZEN, **fields)
  found = mixer.apply(hand_variables(letter), column(X))
  np.testing.assert_allclose(found.ravel(), EXPECTED[rule, letter], atol=1e-6)


@pytest.mark.parametrize("letter", "BC")
def test_mixers_alone_are_the_release(letter):
  mixer = blocks.MIXERS[letter](width=1, parts=FROZEN)
  found = mixer.apply(hand_variables(letter), column(X))
  expected = EXPECTED["released", letter]
  np.testing.assert_allclose(found.ravel(), expected, atol=1e-6)


def point_kernel(rows):
  """1x1x1 from the matrix (in, out)."""
  return jnp.asarray(rows, jnp.float32)[None, None, None]


def plain_params(**kernels):
  params = {name: {"conv": {"kernel": k}} for name, k in kernels.items()}
  return {"params": params}


def test_identity_shortcut_by_hand():
  """Four channels in and out: relu(x + expand(relu(2 relu(reduce x))))."""
  block = blocks.Bottleneck("S", width=1, parts=PLAIN)
  variables = plain_params(
    reduce=point_kernel([[1], [0], [0], [1]]),
    spatial=spatial_kernel(2),
    expand=point_kernel([[1, -1, 2, 0]]),
  )
  # reduce: 3 + 2 = 5, S: 10, expand: 10 -10 20 0; and 1 - 4 < 0 gives nothing.
  x = jnp.asarray([[3, 1, -5, 2], [1, 7, -1, -4]], jnp.float32)
  found = block.apply(variables, x.reshape(1, 2, 1, 1, 4))
  expected = [[13, 0, 15, 2], [1, 7, 0, 0]]
  np.testing.assert_allclose(found.reshape(2, 4), expected)


def test_projection_shortcut_by_hand():
  """One channel in, four out: the shortcut is a convolution."""
  block = blocks.Bottleneck("S", width=1, parts=PLAIN)
  variables = plain_params(
    reduce=point_kernel([[1]]),
    spatial=spatial_kernel(2),
    expand=point_kernel([[1, -1, 2, 0]]),
    shortcut=point_kernel([[1, 2, -3, -1]]),
  )
  found = block.apply(variables, column([3, -1]))
  # 6 -6 12 0 beside 3 6 -9 -3, and nothing beside -1 -2 3 1.
  expected = [[9, 0, 3, 0], [0, 0, 3, 1]]
  np.testing.assert_allclose(found.reshape(2, 4), expected)


# The pixels 1 to 16 of a 4x4 frame, S a sum over 3x3, T the identity.
# A stride on the reduction leaves 1 3 9 11, and each 3x3 sees all four: 24.
# A stride on S sums what surrounds 1, 3, 9 and 11 in the full frame.
STRIDES = {
  ("S", True): [24, 24, 24, 24],
  ("S", False): [14, 30, 57, 99],
  ("A", True): [24, 24, 24, 24],
  ("A", False): [14, 30, 57, 99],
  # B adds T x: the pixels themselves, with the stride that S has.
  ("B", True): [25, 27, 33, 35],
  ("B", False): [15, 33, 66, 110],
  # C halves the sum of S x and itself.
  ("C", True): [24, 24, 24, 24],
  ("C", False): [14, 30, 57, 99],
  ("F", True): [24, 24, 24, 24],
  ("F", False): [14, 30, 57, 99],
}


@pytest.mark.parametrize(("letter", "reduce_stride"), STRIDES)
def test_strides_by_hand(letter, reduce_stride):
  block = blocks.Bottleneck(
    letter, width=1, stride=2, reduce_stride=reduce_stride, parts=PLAIN
  )
  kernels = {
    "spatial": jnp.ones((1, 3, 3, 1, 1)),
    "temporal": temporal_kernel((0, 1, 0)),
    "full": jnp.zeros((3, 3, 3, 1, 1)).at[1].set(1),
  }
  variables = plain_params(
    reduce=point_kernel([[1]]),
    expand=point_kernel([[1, 0, 0, 0]]),
    shortcut=point_kernel([[0, 1, 0, 0]]),
    **{name: kernels[name] for name in UNITS[letter]},
  )
  pixels = jnp.arange(1.0, 17).reshape(1, 1, 4, 4, 1)
  found = block.apply(variables, pixels)
  assert found.shape == (1, 1, 2, 2, 4)
  np.testing.assert_allclose(
    found[..., 0].ravel(), STRIDES[letter, reduce_stride]
  )
  np.testing.assert_allclose(found[..., 1].ravel(), [1, 3, 9, 11])


@pytest.mark.parametrize("letter", blocks.MIXERS)
def test_names(letter):
  """A block's parameters are named for what they do, each kernel 5-D."""
  block = blocks.Bottleneck(letter, width=2, stride=2)
  x = jnp.ones((1, 2, 4, 4, 3))
  variables = jax.eval_shape(block.init, jax.random.key(0), x)
  units = {"reduce", "expand", "shortcut", *UNITS[letter]}
  assert set(variables["params"]) == units
  assert set(variables["batch_stats"]) == units
  for name in units:
    unit = variables["params"][name]
    assert set(unit) == {"conv", "bn"}
    assert set(unit["bn"]) == {"scale", "bias"}
    assert set(variables["batch_stats"][name]["bn"]) == {"mean", "var"}
    assert unit["conv"]["kernel"].ndim == 5


def test_flax_batch_norm_drops_in():
  """The same tree and the same numbers with flax.linen.BatchNorm."""
  x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4, 3))
  ours, flax = (
    blocks.Bottleneck(
      "C",
      width=2,
      parts=blocks.Parts(
        norm=functools.partial(norm, use_running_average=False, momentum=0.9)
      ),
    )
    for norm in (BatchNorm, nn.BatchNorm)
  )
  variables = jax.jit(ours.init)(jax.random.key(1), x)
  y, new = ours.apply(variables, x, mutable="batch_stats")
  other, other_new = flax.apply(variables, x, mutable="batch_stats")
  np.testing.assert_allclose(y, other, atol=1e-5)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-6), new, other_new
  )


def test_activation_and_precision_are_injected():
  """-relu(-x) turns every sign; an unknown precision is passed on."""
  parts = blocks.Parts(norm=no_norm, activation=lambda x: -nn.relu(-x))
  mixer = blocks.MixerA(width=1, parts=parts)
  variables = plain_params(
    spatial=spatial_kernel(2), temporal=temporal_kernel((0, 1, 0))
  )
  found = mixer.apply(variables, column([3, -1, -4]))
  np.testing.assert_allclose(found.ravel(), [0, -2, -8])
  precise = blocks.MixerA(
    width=1, parts=blocks.Parts(norm=no_norm, precision="highest")
  )
  jaxpr = jax.make_jaxpr(precise.apply)(variables, column([1.0]))
  assert "HIGHEST" in str(jaxpr)


def test_initialisers_are_injected():
  """The temporal kernels have their own; without it they take the other."""
  ones, twos = nn.initializers.ones, nn.initializers.constant(2.0)
  x = jnp.ones((1, 2, 4, 4, 3))
  for temporal, value in ((twos, 2), (None, 1)):
    parts = blocks.Parts(kernel_init=ones, temporal_init=temporal)
    block = blocks.Bottleneck("B", width=2, parts=parts)
    params = jax.jit(block.init)(jax.random.key(0), x)["params"]
    for name, unit in params.items():
      expected = value if name == "temporal" else 1
      assert (unit["conv"]["kernel"] == expected).all(), name


def test_he_normal_by_its_deviation():
  """Variance 2 / (taps * features), over 1.2 million draws."""
  kernel = convs.he_normal(jax.random.key(0), (1, 3, 3, 256, 512))
  assert abs(kernel.std() / np.sqrt(2 / (9 * 512)) - 1) < 0.01


def test_bfloat16_block_computes_in_bfloat16():
  parts = blocks.Parts(
    norm=functools.partial(BatchNorm, dtype=jnp.bfloat16), dtype=jnp.bfloat16
  )
  block = blocks.Bottleneck("C", width=2, parts=parts)
  x = jnp.ones((1, 2, 4, 4, 3), jnp.bfloat16)
  y, variables = jax.eval_shape(block.init_with_output, jax.random.key(0), x)
  assert y.dtype == jnp.bfloat16
  for leaf in jax.tree.leaves(variables):
    assert leaf.dtype == jnp.float32


def test_unknown_letter_and_rule():
  x = column([1.0])
  with pytest.raises(ValueError, match="letter is 'X'.*A, B, C, S, F"):
    blocks.Bottleneck("X", width=1).init(jax.random.key(0), x)
  with pytest.raises(ValueError, match="rule is 'sum'.*released, paper, port"):
    blocks.Bottleneck("B", width=1, rule="sum").init(jax.random.key(0), x)
