"""Folded clips: the same numbers in another place, by numpy and by PyTorch.

The whole network is compared in float64 with its direct form, which stands
against PyTorch and the authors' table elsewhere.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p3d_jax.models import blocks, convs, count, lanes, norm
from tests.models import slim

torch = pytest.importorskip("torch", reason="the reference runs on PyTorch")

SHAPE = (4, 8, 36, 34, 3)
ENDPOINTS = ("stem", "res2/block00", "res2", "res3", "pool5")


def fold(x):
  """Pairs of steps beside each other, by numpy."""
  return np.concatenate([x[:, ::2], x[:, 1::2]], axis=-1)


def torch_conv(x, kernel, stride, padding):
  """conv3d of numpy arrays in our layout, in float64."""
  planes, taps = (torch.from_numpy(a.astype(np.float64)) for a in (x, kernel))
  y = torch.nn.functional.conv3d(
    planes.permute(0, 4, 1, 2, 3), taps.permute(4, 3, 0, 1, 2), None, stride,
    padding,
  )  # fmt: skip
  return y.permute(0, 2, 3, 4, 1).numpy()


def test_unfold():
  x = slim.clips(2, 6, 3, 5, 4)
  np.testing.assert_array_equal(lanes.unfold(jnp.asarray(fold(x))), x)


@pytest.mark.parametrize(
  "taps", [(1, 1, 1), (1, 3, 3), (3, 1, 1), (3, 3, 3)], ids=str
)
@pytest.mark.parametrize("time", [2, 6])
def test_folded_kernels(taps, time):
  """What they give is what PyTorch gives, folded; to float32's rounding."""
  x = slim.clips(2, time, 5, 4, 3)
  kernel = slim.clips(*taps, 3, 6, seed=1)
  padding = tuple(n // 2 for n in taps)

  @jax.jit
  def run(x, kernel):
    return convs.conv(x, lanes.fold_kernel(kernel), padding=padding)

  expected = fold(torch_conv(x, kernel, 1, padding))
  assert slim.error(run(fold(x), kernel), expected) < 2e-6


@pytest.mark.parametrize("channels", [3, 2])
def test_stem_planes(channels):
  """Stride 1 over 2x2 pixels, of frames 4 v and 4 v + 2, is conv1."""
  x = slim.clips(2, 8, 12, 10, channels)
  kernel = slim.clips(1, 7, 7, channels, 4, seed=1)
  expected = torch_conv(x, kernel, (1, 2, 2), (0, 3, 3))
  taps = lanes.stem_kernel(jnp.asarray(kernel))
  assert taps.shape == (4, 4, 8 * channels, 8)
  for q, planes in enumerate(lanes.stem_clips(jnp.asarray(x))):
    found = jax.lax.conv_general_dilated(
      planes, taps, (1, 1), [(2, 1), (2, 1)],
      dimension_numbers=("NCHW", "HWIO", "NHWC"),
    )  # fmt: skip
    pairs = np.concatenate([expected[:, q::4], expected[:, q + 2 :: 4]], -1)
    assert slim.error(found, pairs.reshape(found.shape)) < 2e-6


def variables_of(net):
  """Variables some of whose batch norms turn channels around."""
  variables = slim.variables(net, SHAPE)
  sign = iter(np.random.default_rng(5).choice([-1, 1], 10_000))

  def turn(path, leaf):
    if path[-1].key != "scale":
      return leaf
    return leaf * np.array([next(sign) for _ in leaf], np.float32)

  return jax.tree_util.tree_map_with_path(turn, variables)


def run(form, net, variables, clips, train):
  """Logits, endpoints, statistics, and gradients of parameters and clips."""

  def loss_of(params, clips):
    (logits, found), new = net.apply(
      {"params": params, "batch_stats": variables["batch_stats"]},
      clips,
      train=train,
      endpoints=ENDPOINTS,
      mutable="batch_stats",
      rngs={"dropout": jax.random.key(0)},
    )
    weights = jnp.arange(logits.size, dtype=clips.dtype).reshape(logits.shape)
    return jnp.sum(logits * weights), (logits, found, new)

  with convs.forced(form):
    step = jax.jit(jax.value_and_grad(loss_of, (0, 1), has_aux=True))
    return jax.tree.map(np.asarray, step(variables["params"], clips))


NETS = {
  "released": {},
  "padded, strided 3x3": {"stem_pool": "padded", "reduce_stride": False},
  "ghost": {"norm_group": 2},
  "frozen but the first, remat": {
    "freeze_norm": "all_but_first",
    "remat": True,
  },
  "port, full": {"flavour": "port", "schedule": ("FCA", "C", "A")},
}


@pytest.mark.parametrize(
  ("name", "train"), [*((name, True) for name in NETS), ("released", False)]
)
def test_the_network_is_the_same(name, train):
  """To 1e-11 in float64, measured 4e-13; float32 leaves are off by theirs.

  Values, endpoints, moving statistics, and the gradients of all parameters and
  of the clips; relative to the largest number of each. Some biases change
  nothing, so their gradients are of rounding alone: 1 is small for these.
  """
  fields = {"width": 4, "stages": (3, 1, 1, 1), "dtype": jnp.float64}
  with jax.enable_x64(True):
    net = slim.net(**fields | NETS[name])
    variables = variables_of(net)
    clips = 2 * slim.clips(*SHAPE).astype(np.float64)
    expected = run("direct", net, variables, clips, train)
    found = run("lanes", net, variables, clips, train)
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(expected),
    jax.tree.leaves(found),
    strict=True,
  ):
    rounding = 1e-6 if a.dtype == np.float32 else 1e-11
    largest = max(np.abs(a).max(), 1)
    assert np.abs(a - b).max() < rounding * largest, jax.tree_util.keystr(path)


def test_bfloat16():
  """As near to float32's logits as the direct form is: 2 % were measured."""
  net = slim.net(width=4, dtype=jnp.float32)
  variables, clips = variables_of(net), slim.clips(*SHAPE)
  half = net.clone(dtype=jnp.bfloat16)

  def logits_of(form, module):
    with convs.forced(form):
      return jax.jit(lambda x: module.apply(variables, x))(clips)

  logits = [
    logits_of(form, module)
    for form, module in (("direct", net), ("direct", half), ("lanes", half))
  ]
  assert slim.error(logits[1], logits[0]) < 0.05
  assert slim.error(logits[2], logits[0]) < 0.05


def test_expansions_in_bfloat16():
  """The mean is that of what comes out, though the kernel is rounded after it.

  Of channels whose mean is twice their deviation; measured: 5e-5, and 9e-3
  without what is added for it.
  """
  net = blocks.ConvNorm(
    convs.PointConv, 64, parts=blocks.Parts(dtype=jnp.bfloat16)
  )
  x = jnp.asarray(slim.clips(8, 4, 12, 12, 16) + 2, jnp.bfloat16)
  variables = net.init(jax.random.key(0), x)
  with convs.forced("lanes"):
    y, _ = jax.jit(lambda v, x: net.apply(v, x, mutable="batch_stats"))(
      variables, x
    )
  y = np.asarray(y, np.float64)
  mean, std = y.mean((0, 1, 2, 3)), y.std((0, 1, 2, 3))
  assert abs(mean).max() < 5e-4
  assert abs(std - 1).max() < 5e-3


def test_boxed_variables():
  """As `nn.with_partitioning` makes them."""
  net = slim.net(width=4, stages=(1, 1, 1, 1))
  variables, clips = variables_of(net), slim.clips(*SHAPE)
  boxed = dict(
    variables,
    params=jax.tree.map(
      lambda x: nn.Partitioned(x, (None,) * x.ndim), variables["params"]
    ),
  )
  with convs.forced("lanes"):
    shape = jax.eval_shape(lambda v: net.apply(v, clips), boxed)
  assert shape.shape == (SHAPE[0], 5)


def test_both_ways_and_over_members():
  """jvp and vmap of the form, against the direct one."""
  net = slim.net(width=4, stages=(1, 1, 1, 1))
  variables, clips = variables_of(net), slim.clips(*SHAPE)
  other = slim.clips(*SHAPE, seed=2)
  members = np.stack([clips, other])

  def both(form):
    def forward(x):
      rngs = {"dropout": jax.random.key(0)}
      return net.apply(
        variables, x, train=True, mutable="batch_stats", rngs=rngs
      )[0]

    with convs.forced(form):
      tangent = jax.jit(lambda x: jax.jvp(forward, (x,), (other,)))(clips)
      return tangent, jax.jit(jax.vmap(forward))(members)

  for a, b in zip(
    jax.tree.leaves(both("lanes")), jax.tree.leaves(both("direct")), strict=True
  ):
    assert slim.error(a, b) < 1e-4


def planes(net, shape):
  """Channels out of convolutions of planes, as a folded stem has them."""
  with convs.forced("lanes"):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), x)
    traced = jax.make_jaxpr(lambda v, x: net.apply(v, x))(variables, x)
  return [
    equation.outvars[0].aval.shape[-1]
    for equation in count._equations(traced.jaxpr)
    if equation.primitive.name == "conv_general_dilated"
    and equation.outvars[0].aval.ndim == 4
  ]


def test_what_fits_is_folded():
  assert planes(slim.net(width=4), SHAPE) == [8, 8]
  assert planes(slim.net(width=64), SHAPE) == [128, 128]


def foreign(**fields):
  """flax's own batch norm, which has no statistics of two steps."""
  return nn.BatchNorm(**fields)


@pytest.mark.parametrize(
  ("fields", "shape"),
  [
    ({}, (2, 6, 36, 34, 3)),  # half a pair of pairs
    ({}, (2, 8, 36, 33, 3)),  # half a stride
    ({"width": 65}, SHAPE),  # two of them are more than 128
    ({"norm": foreign}, SHAPE),
    # It does not keep the order of numbers, so the pool must come after it.
    ({"activation": jnp.sin}, SHAPE),
  ],
  ids=["frames", "pixels", "channels", "norm", "activation"],
)
def test_what_does_not_fit_is_not_folded(fields, shape):
  assert planes(slim.net(**{"width": 4} | fields), shape) == []


def test_statistics_of_expansions_come_before_them():
  """Nothing as large as the result is summed."""
  net = blocks.ConvNorm(
    convs.PointConv, 64, parts=blocks.Parts(precision="highest")
  )
  x = jnp.asarray(slim.clips(2, 4, 6, 6, 8))
  variables = net.init(jax.random.key(0), x)

  def largest(form):
    with convs.forced(form):
      traced = jax.make_jaxpr(
        lambda v, x: net.apply(v, x, mutable="batch_stats")
      )(variables, x)
    return max(
      equation.invars[0].aval.size
      for equation in count._equations(traced.jaxpr)
      if equation.primitive.name == "reduce_sum"
    )

  assert largest("direct") == 8 * x.size
  assert largest("lanes") == x.size


def test_pairs_of_steps_have_no_stride():
  conv = convs.Conv(6, (3, 1, 1), strides=(2, 1, 1), steps=2)
  x = jnp.zeros((1, 2, 3, 3, 4))
  with pytest.raises(ValueError, match=r"strides are \(2, 1, 1\).*must be 1"):
    jax.eval_shape(conv.init, jax.random.key(0), x)


class Doubled(norm.BatchNorm):
  """A norm that computes something else."""

  def __call__(self, x):
    return 2 * super().__call__(x)


@pytest.mark.parametrize(
  "fields",
  [
    {"norm": Doubled},
    {"norm": functools.partial(norm.BatchNorm, group=1)},
    # A TPU rounds in its products.
    {"dtype": jnp.float32, "precision": None},
    {"dtype": "float32", "precision": None},
  ],
  ids=["norm", "groups", "precision", "precision, type by name"],
)
def test_where_statistics_are_of_results(fields):
  parts = blocks.Parts(**{"precision": "highest"} | fields)
  net = blocks.ConvNorm(convs.PointConv, 64, parts=parts)
  x = jnp.asarray(slim.clips(2, 4, 6, 6, 8))
  variables = net.init(jax.random.key(0), x)

  def run(form):
    with convs.forced(form):
      return jax.jit(lambda x: net.apply(variables, x, mutable="batch_stats"))(
        x
      )

  jax.tree.map(np.testing.assert_array_equal, run("lanes"), run("direct"))
