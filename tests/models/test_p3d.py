"""Whole networks, slim ones: properties, options and derivatives.

That P3D-199 computes what the authors released is test_table.py's; what a
block computes, test_blocks.py's.
"""

import functools
import pathlib

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p3d_jax.models import p3d, zoo
from tests.models import slim
from tests.models.slim import error, flat

GOLDEN = pathlib.Path(__file__).with_name("golden")
STEP = 1e-7  # of finite differences, in float64


# --- Names


@pytest.mark.parametrize("name", ["p3d63", "p3d199"])
def test_golden_tree(name):
  """Names are API: checkpoints, freezing and conversion read them.

  A line is `collection/name shape`. If a change is meant, write the new lines
  with `python -m tests.models.test_p3d`, and say so in CHANGELOG.md.
  """
  assert tree_lines(name) == (GOLDEN / f"{name}.txt").read_text()


def tree_lines(name):
  x = jax.ShapeDtypeStruct((1, 16, 160, 160, 3), jnp.float32)
  net = zoo.build(name, num_classes=101)
  leaves = flat(jax.eval_shape(net.init, jax.random.key(0), x))
  lines = (f"{key} {'x'.join(map(str, v.shape))}" for key, v in leaves.items())
  return "\n".join(sorted(lines)) + "\n"


@pytest.mark.parametrize("schedule", ["A", "B", "C", "S", "F", "ABC"])
def test_every_kernel_is_5d(schedule):
  net = slim.net(schedule=schedule)
  for key, value in flat(slim.variables(net)["params"]).items():
    if key.endswith("conv/kernel"):
      assert value.ndim == 5, key


# --- What goes in


@pytest.mark.parametrize(
  "shape", [(1, 1, 32, 32), (1, 2, 47, 32), (1, 7, 32, 61)], ids=str
)
def test_any_length_and_size(shape):
  """Ceil mode by hand: n -> ceil(n / 2) at each of the halvings."""
  net, (_, time, *size) = slim.net(), shape
  variables = slim.variables(net)
  logits, found = slim.apply(
    net, variables, slim.clips(*shape, 3), endpoints=("stem", "res2", "res5")
  )

  def halved(n, times):
    return n if not times else halved(-(-n // 2), times - 1)

  # conv1 is padded, so its output is ceil(n / 2) too; pool1's windows of three
  # begin at 0, which leaves ceil((n - 1) / 2).
  stem = [-(-(halved(n, 1) - 1) // 2) for n in size]
  assert found["stem"].shape == (1, halved(time, 1), *stem, 8)
  assert found["res2"].shape == (1, halved(time, 1), *stem, 32)
  last = [halved(n, 3) for n in stem]
  assert found["res5"].shape == (1, halved(time, 4), *last, 256)
  assert np.isfinite(logits).all()


def test_size_does_not_matter_to_the_parameters():
  shapes = [(1, 1, 32, 32, 3), (2, 17, 224, 299, 3)]
  trees = [
    jax.tree.map(np.shape, slim.variables(slim.net(), shape))
    for shape in shapes
  ]
  assert trees[0] == trees[1]


@pytest.mark.parametrize(
  ("clips", "message"),
  [
    (np.zeros((1, 4, 32, 32, 3), np.uint8), "uint8.*floating point"),
    (np.zeros((4, 32, 32, 3), np.float32), r"\(4, 32, 32, 3\).*batch, time"),
    (np.zeros((1, 4, 31, 32, 3), np.float32), "31, 32.*at least.*32x32"),
    (np.zeros((1, 0, 32, 32, 3), np.float32), "at least 1 step"),
  ],
)
def test_bad_clips(clips, message):
  net = slim.net()
  with pytest.raises(ValueError, match=message):
    slim.apply(net, slim.variables(net), clips)


def test_flow_input():
  """Two channels change conv1 alone."""
  rgb, flow = (
    jax.tree.map(np.shape, slim.variables(slim.net(), (1, 4, 32, 32, n)))
    for n in (3, 2)
  )
  rgb, flow = flat(rgb), flat(flow)
  changed = {key for key in rgb if rgb[key] != flow[key]}
  assert changed == {"params/stem/conv/kernel"}
  assert flow["params/stem/conv/kernel"] == (1, 7, 7, 2, 8)


# --- What comes out


def test_endpoints_by_request():
  net = slim.net()
  variables, clips = slim.variables(net), slim.clips()
  names = p3d.endpoint_names(net.stages, net.num_classes)
  assert names == (
    *("stem", "res2/block00", "res2", "res3/block00", "res3"),
    *("res4/block00", "res4", "res5/block00", "res5"),
    *("pool5", "logits", "prob"),
  )
  alone = slim.apply(net, variables, clips)
  logits, found = slim.apply(net, variables, clips, endpoints=names)
  assert set(found) == set(names)
  assert error(logits, alone) < 1e-6
  np.testing.assert_array_equal(found["logits"], logits)
  np.testing.assert_array_equal(found["res3"], found["res3/block00"])
  pool5 = np.asarray(found["res5"], np.float64).mean((1, 2, 3))
  assert error(found["pool5"], pool5) < 1e-6
  exp = np.exp(np.asarray(alone, np.float64))
  assert error(found["prob"], exp / exp.sum(-1, keepdims=True)) < 1e-6
  _, some = slim.apply(net, variables, clips, endpoints=("res4", "pool5"))
  assert set(some) == {"res4", "pool5"}
  # A stage ends before the temporal pool that follows it: 5 -> 3 -> 2 -> 1.
  assert [found[f"res{i}"].shape[1] for i in (2, 3, 4, 5)] == [3, 2, 1, 1]


@pytest.mark.parametrize(
  ("endpoints", "message"),
  [
    (("res6",), "endpoints has 'res6'.*stem.*res5.*prob"),
    (("res2/block01",), "endpoints has 'res2/block01'"),
    ("res4", "endpoints has 'res4'.*tuple"),
  ],
)
def test_unknown_endpoints(endpoints, message):
  net = slim.net()
  with pytest.raises(ValueError, match=message):
    slim.apply(net, slim.variables(net), slim.clips(), endpoints=endpoints)


def test_headless():
  """The trunk returns pool5, and has no head, logits or prob."""
  net, trunk = slim.net(), slim.net(num_classes=None)
  variables, clips = slim.variables(net), slim.clips()
  params = {k: v for k, v in variables["params"].items() if k != "head"}
  _, found = slim.apply(net, variables, clips, endpoints=("pool5",))
  pool5 = slim.apply(trunk, {**variables, "params": params}, clips)
  assert error(pool5, found["pool5"]) < 1e-6
  assert "head" not in slim.variables(trunk)["params"]
  with pytest.raises(ValueError, match="endpoints has 'logits'"):
    slim.apply(
      trunk, {**variables, "params": params}, clips, endpoints=("logits",)
    )


# --- The 2D ResNet is schedule S


def test_s_on_a_repeated_frame_is_s_on_the_frame():
  """Max and mean over equal steps are the step: 2D, whatever the length."""
  net = slim.net(schedule="S")
  variables, frame = slim.variables(net), slim.clips(2, 1, 33, 36, 3)
  clip = np.repeat(frame, 5, axis=1)
  assert (
    error(slim.apply(net, variables, clip), slim.apply(net, variables, frame))
    < 1e-5
  )


def test_p3d_on_a_repeated_frame_is_not():
  """A clip's edges are zeros to T, so the property is S's own."""
  net = slim.net()
  variables, frame = slim.variables(net), slim.clips(2, 1, 33, 36, 3)
  clip = np.repeat(frame, 5, axis=1)
  assert (
    error(slim.apply(net, variables, clip), slim.apply(net, variables, frame))
    > 1e-2
  )


@pytest.mark.parametrize("flavour", ["released", "torchvision"])
def test_s_is_a_2d_resnet(flavour):
  """Against a ResNet on frames in PyTorch, in float64."""
  torch = pytest.importorskip("torch", reason="the reference runs on PyTorch")
  conv2d, pool2d = torch.nn.functional.conv2d, torch.nn.functional.max_pool2d
  net = slim.net(schedule="S", flavour=flavour, stages=(2, 1, 1, 1))
  variables, frames = slim.variables(net), slim.clips(2, 1, 33, 36, 3)
  weights = {
    key: torch.tensor(value, dtype=torch.float64)
    for collection in variables.values()
    for key, value in flat(collection).items()
  }

  def unit(x, name, stride=1, pad=0):
    kernel = weights[f"{name}/conv/kernel"][0].permute(3, 2, 0, 1)
    x = conv2d(x, kernel, stride=stride, padding=pad)
    scale, bias, mean, var = (
      weights[f"{name}/bn/{leaf}"].view(1, -1, 1, 1)
      for leaf in ("scale", "bias", "mean", "var")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * scale + bias

  x = torch.tensor(frames[:, 0], dtype=torch.float64).permute(0, 3, 1, 2)
  x = unit(x, "stem", 2, 3).relu()
  if flavour == "released":
    x = pool2d(x, 3, 2, ceil_mode=True)
  else:
    x = pool2d(x, 3, 2, 1)
  for stage, blocks in zip((2, 3, 4, 5), net.stages, strict=True):
    for i in range(blocks):
      name, stride = f"res{stage}/block{i:02d}", 2 if stage > 2 and not i else 1
      first, second = (stride, 1) if flavour == "released" else (1, stride)
      y = unit(x, f"{name}/reduce", first).relu()
      y = unit(y, f"{name}/spatial", second, 1).relu()
      y = unit(y, f"{name}/expand")
      x = (y + (x if i else unit(x, f"{name}/shortcut", stride))).relu()
  pool5 = x.mean((2, 3))
  logits = pool5 @ weights["head/fc/kernel"] + weights["head/fc/bias"]
  found, endpoints = slim.apply(net, variables, frames, endpoints=("pool5",))
  assert error(endpoints["pool5"], pool5) < 1e-5
  assert error(found, logits) < 1e-5


# --- Training


def test_dropout_is_active_in_training_only():
  net = slim.net(freeze_norm="all", dropout=0.5)
  variables, clips = slim.variables(net), slim.clips()
  first, second = (
    slim.train_apply(net, variables, clips, i)[0] for i in (0, 1)
  )
  assert error(first, second) > 0.01
  again, _ = slim.train_apply(net, variables, clips, 0)
  np.testing.assert_array_equal(first, again)
  # Without dropout, frozen training is evaluation.
  still, _ = slim.train_apply(net.clone(dropout=0.0), variables, clips)
  assert error(still, slim.apply(net, variables, clips)) < 1e-6


@pytest.mark.parametrize("freeze_norm", p3d.FREEZE_NORM)
def test_frozen_norms_keep_their_statistics(freeze_norm):
  net = slim.net(freeze_norm=freeze_norm)
  variables = slim.variables(net)
  _, new = slim.train_apply(net, variables, slim.clips())
  old, new = flat(variables["batch_stats"]), flat(new)
  changed = {key for key in old if not np.array_equal(old[key], new[key])}
  expected = {
    "none": set(old),
    "all_but_first": {"stem/bn/mean", "stem/bn/var"},
    "all": set(),
  }
  assert changed == expected[freeze_norm]


def test_evaluation_changes_no_statistics():
  net = slim.net()
  variables = slim.variables(net)
  apply = jax.jit(functools.partial(net.apply, mutable="batch_stats"))
  _, new = apply(variables, slim.clips())
  jax.tree.map(
    np.testing.assert_array_equal, new["batch_stats"], variables["batch_stats"]
  )


def test_norm_group_is_separate_batches():
  """Groups of one: the clips of a batch do not see each other.

  In float64, because res5 has 4 pixels a clip here: some deviations are tiny,
  and dividing by them makes 1e-2 of float32's rounding.
  """
  with jax.enable_x64(True):
    net = slim.net(norm_group=1, dropout=0.0, dtype=jnp.float64)
    variables, clips = slim.variables(net), slim.clips().astype(np.float64)
    both, stats = slim.train_apply(net, variables, clips)
    alone = [slim.train_apply(net, variables, clips[i : i + 1]) for i in (0, 1)]
    whole, _ = slim.train_apply(net.clone(norm_group=None), variables, clips)
  assert error(both, np.concatenate([y for y, _ in alone])) < 1e-8
  mean = jax.tree.map(lambda a, b: (a + b) / 2, *(s for _, s in alone))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
    stats,
    mean,
  )
  assert error(both, whole) > 0.01


@functools.partial(jax.jit, static_argnames="net")
def loss_and_grads(net, variables, clips):
  """Of a training step, to the parameters and to the clips."""

  def loss(params, clips):
    logits, _ = slim.train_apply(net, {**variables, "params": params}, clips)
    return jnp.sum(logits * jnp.cos(jnp.arange(logits.size)).reshape(2, -1))

  return jax.value_and_grad(loss, argnums=(0, 1))(variables["params"], clips)


def test_remat_changes_nothing():
  """The same variables, outputs and gradients, dropout's draws included."""
  net, remat = slim.net(), slim.net(remat=True)
  variables, clips = slim.variables(net), slim.clips()
  trees = [jax.tree.map(np.shape, slim.variables(n)) for n in (net, remat)]
  assert trees[0] == trees[1]
  loss, grads = loss_and_grads(net, variables, clips)
  other, other_grads = loss_and_grads(remat, variables, clips)
  assert error(other, loss) < 1e-5
  for a, b in zip(*map(jax.tree.leaves, (other_grads, grads)), strict=True):
    assert error(a, b) < 1e-4


# --- Derivatives


@pytest.mark.parametrize("train", [False, True])
def test_forward_and_reverse_mode_agree(train):
  """<v, J u> = <J^T v, u>, and linearize is jvp, with live batch norm too."""
  net = slim.net(dropout=0.0)
  variables, x, u = slim.variables(net), slim.clips(), slim.clips(seed=1)
  v = np.random.default_rng(2).standard_normal((2, 5)).astype(np.float32)

  def run(x):
    if train:
      return slim.train_apply(net, variables, x)[0]
    return slim.apply(net, variables, x)

  _, forward = jax.jvp(run, (x,), (u,))
  _, vjp = jax.vjp(run, x)
  (backward,) = vjp(v)
  assert np.abs(backward).max() > 0
  scale = np.linalg.norm(forward) * np.linalg.norm(v)
  assert abs(np.vdot(v, forward) - np.vdot(backward, u)) < 1e-4 * scale
  _, linear = jax.linearize(run, x)
  assert error(linear(u), forward) < 1e-5


def test_derivatives_are_finite_differences():
  """To the clips and to all parameters, in float64.

  A central difference of step h is off by h^2; no kink of relu or of a pool is
  crossed in so small a step, or the error would be of order one.
  """
  with jax.enable_x64(True):
    net = slim.net(dtype=jnp.float64)
    variables = slim.variables(net)
    params = jax.tree.map(lambda a: a.astype(np.float64), variables["params"])
    clips = slim.clips(1, 5, 33, 36, 3).astype(np.float64)
    rng = np.random.default_rng(3)

    def run(params, clips):
      return slim.apply(net, {**variables, "params": params}, clips)

    for which in (0, 1):
      point = [params, clips]
      direction = jax.tree.map(
        lambda a: rng.standard_normal(a.shape), point[which]
      )
      tangents = [jax.tree.map(np.zeros_like, p) for p in point]
      tangents[which] = direction
      logits, found = jax.jvp(run, point, tangents)
      assert logits.dtype == jnp.float64
      ends = []
      for sign in (1, -1):
        moved = list(point)
        moved[which] = jax.tree.map(
          lambda a, d, s=sign: a + s * STEP * d, point[which], direction
        )
        ends.append(run(*moved))
      assert error(found, (ends[0] - ends[1]) / (2 * STEP)) < 1e-5


def test_vmap_over_an_ensemble():
  """Three networks at once, each with its own variables."""
  net = slim.net()
  members = [slim.variables(net, seed=i) for i in range(3)]
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
  clips = slim.clips()
  found = jax.vmap(lambda v: slim.apply(net, v, clips))(stacked)
  for i, member in enumerate(members):
    assert error(found[i], slim.apply(net, member, clips)) < 1e-5


# --- Types


def test_bfloat16_is_close_to_float32():
  """Eight bits a number: 2^-9 = 0.2% each, and 17 roundings in a row.

  Measured 1.8% of the largest logit; parameters, statistics and logits stay
  float32.
  """
  net = slim.net()
  half = slim.net(dtype=jnp.bfloat16)
  variables, clips = slim.variables(net), slim.clips()
  logits, found = slim.apply(
    half, variables, clips, endpoints=("res4", "pool5")
  )
  assert found["res4"].dtype == jnp.bfloat16
  assert found["pool5"].dtype == logits.dtype == jnp.float32
  assert error(logits, slim.apply(net, variables, clips)) < 0.05
  _, stats = slim.train_apply(half, variables, clips)
  for leaf in jax.tree.leaves(stats):
    assert leaf.dtype == jnp.float32


def test_flax_batch_norm_drops_in():
  """The network with flax.linen.BatchNorm has the same names and numbers."""
  net = slim.net(dropout=0.0)
  other = slim.net(dropout=0.0, norm=flax.linen.BatchNorm)
  variables, clips = slim.variables(net), slim.clips()
  assert (
    error(
      slim.apply(other, variables, clips), slim.apply(net, variables, clips)
    )
    < 1e-5
  )
  logits, stats = slim.train_apply(net, variables, clips)
  flax_logits, flax_stats = slim.train_apply(other, variables, clips)
  assert error(flax_logits, logits) < 1e-4
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    flax_stats,
    stats,
  )


if __name__ == "__main__":
  GOLDEN.mkdir(exist_ok=True)
  for model in ("p3d63", "p3d199"):
    (GOLDEN / f"{model}.txt").write_text(tree_lines(model))


def test_the_head_takes_initialiser_and_precision():
  """The kernel is what was asked for, and so is the product of fc."""
  module = zoo.build(
    num_classes=5,
    head_init=nn.initializers.constant(0.25),
    precision="high",
    stages=(1, 1, 1, 1),
    width=8,
  )
  clips = jnp.ones((1, 1, 32, 32, 3))
  variables = module.init(jax.random.key(0), clips)
  assert (variables["params"]["head"]["fc"]["kernel"] == 0.25).all()

  def of_fc(module):
    (equation,) = [
      e
      for e in jax.make_jaxpr(p3d.Head(5, precision=module.precision).apply)(
        {"params": variables["params"]["head"]}, jnp.ones((1, 256))
      ).eqns
      if e.primitive.name == "dot_general"
    ]
    return equation.params["precision"]

  high, highest = jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST
  assert of_fc(module) == (high, high)
  assert of_fc(module.clone(precision=None)) == (highest, highest)
