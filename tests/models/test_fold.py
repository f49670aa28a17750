"""Batch norm folded into the convolutions, against the network itself.

In float64 the two are the same to EXACT, in values and derivatives, which
leaves no room for another network. In float32 they differ by roundings, and on
the deepest network each is as far from the float64 reference as the other.
"""

import dataclasses
import inspect

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import p3d_jax
from p3d_jax.models import p3d, zoo
from p3d_jax.models.fold import Shift, fold_batch_norm, for_inference
from p3d_jax.models.norm import BatchNorm
from tests.models import slim
from tests.models.slim import error, flat
from tests.reference import names

# Of the largest number of an endpoint.
BOUND = 1e-4  # what is promised
SHALLOW = 1e-5  # of slim networks; measured 8e-7
EXACT = 1e-12  # in float64


def everything(net, variables, clips):
  """Logits and all endpoints, by name."""
  wanted = p3d.endpoint_names(net.stages, net.num_classes)
  logits, found = slim.apply(net, variables, clips, endpoints=wanted)
  return {"returned": logits, **found}


def worst(found, expected):
  """The largest error of all endpoints."""
  assert set(found) == set(expected)
  errors = {name: error(found[name], b) for name, b in expected.items()}
  name = max(errors, key=lambda name: errors[name])
  print(f"worst of {len(errors)}: {name} {errors[name]:.1e}")
  return errors[name]


# --- What it computes


def test_by_hand():
  """gain 4 / sqrt(3 + 1) = 2: kernel 5 x 2 = 10, bias 7 - 3 x 2 = 1."""
  net = slim.net(width=1, norm_epsilon=1.0)
  made = jax.tree.map(np.zeros_like, slim.variables(net))
  params, stats = made["params"]["stem"], made["batch_stats"]["stem"]
  params["conv"]["kernel"] += np.float32(5)
  params["bn"]["scale"] += np.float32(4)
  params["bn"]["bias"] += np.float32(7)
  stats["bn"]["mean"] += np.float32(3)
  stats["bn"]["var"] += np.float32(3)
  _, folded = fold_batch_norm(net, made)
  stem = folded["params"]["stem"]
  assert stem["conv"]["kernel"].shape == (1, 7, 7, 3, 1)
  np.testing.assert_allclose(stem["conv"]["kernel"], 10, rtol=1e-6)
  np.testing.assert_allclose(stem["bn"]["bias"], [1], rtol=1e-6)
  assert set(stem["bn"]) == {"bias"}


NETS = [
  {"flavour": "released"},
  {"flavour": "paper"},
  {"flavour": "port"},
  {"flavour": "torchvision", "num_classes": None},
  {"schedule": ("F", "S", "A"), "norm_epsilon": 1e-2},
]


@pytest.mark.parametrize("fields", NETS, ids=str)
def test_every_endpoint(fields):
  net = slim.net(**fields)
  variables, clips = slim.variables(net), slim.clips()
  found = everything(*fold_batch_norm(net, variables), clips)
  assert worst(found, everything(net, variables, clips)) < SHALLOW


@pytest.mark.parametrize("fields", [{}, {"schedule": ("F", "S", "C")}], ids=str)
def test_exactly_and_both_derivatives(fields):
  """In float64, where rounding carries no unit over the kink of its relu."""
  with jax.enable_x64(True):
    net = slim.net(dtype=jnp.float64, **fields)
    variables = slim.variables(net)
    clips, along = (slim.clips(seed=s).astype(np.float64) for s in (0, 1))
    weights = np.random.default_rng(2).standard_normal((2, 5))
    results = []
    for each, its in ((net, variables), fold_batch_norm(net, variables)):

      def run(x, each=each, its=its):
        return slim.apply(each, its, x)

      _, forward = jax.jvp(run, (clips,), (along,))
      _, vjp = jax.vjp(run, clips)
      (backward,) = vjp(weights)
      found = everything(each, its, clips)
      assert found["logits"].dtype == np.float64
      results.append({**found, "jvp": forward, "vjp": backward})
    expected, found = results
    assert worst(found, expected) < EXACT


def test_bfloat16_is_as_close_to_float32():
  """Kernels are rounded to eight bits after the gain, and not before.

  So the numbers are others, as far from float32 as those of batch norm are:
  measured 0.5 to 1.3% of the largest logit over four draws, and as much.
  """
  net, half = slim.net(), slim.net(dtype=jnp.bfloat16)
  variables, clips = slim.variables(net), slim.clips()
  exact = slim.apply(net, variables, clips)
  folded_net, folded = fold_batch_norm(half, variables)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(folded)} == {"float32"}
  logits, found = slim.apply(folded_net, folded, clips, endpoints=("res4",))
  assert found["res4"].dtype == jnp.bfloat16
  assert logits.dtype == jnp.float32
  assert error(logits, exact) < 0.05
  assert error(slim.apply(half, variables, clips), exact) < 0.05


def test_p3d199_against_the_layer_table():
  """160 convolutions deep: as near the float64 reference as it was.

  Measured 4.9e-6 at the worst endpoint, and 5.7e-6 with batch norm.
  """
  table = pytest.importorskip(
    "tests.reference.table", reason="the reference runs on PyTorch"
  )
  weights = table.random_weights(seed=0)
  clips = table.random_clips(np.random.default_rng(1), 1, 5, 65, 47)
  blobs = table.run(weights, clips)
  expected = {
    endpoint: table.to_endpoint(blobs[blob], 1)
    for endpoint, blob in names.ENDPOINTS.items()
  }
  net = zoo.build("p3d199", num_classes=487, precision="highest")
  folded_net, folded = fold_batch_norm(net, table.to_tree(weights))
  # Not jitted: compiling 162 convolutions takes longer than running them.
  _, found = folded_net.apply(folded, clips, endpoints=tuple(expected))
  assert worst(found, expected) < BOUND


def test_the_port_s_files_against_the_port(tmp_path):
  port = pytest.importorskip(
    "tests.reference.port", reason="the reference runs on PyTorch"
  )
  slim_port = port.P3D((2, 1, 2, 1), 8, 7)
  twin = port.random_(slim_port, 0)
  port.old_file(tmp_path / "a.pth", twin.state_dict())
  said = {"rule": "port", "schedule": "ABC", "preprocessing": "port"}
  p3d_jax.convert(tmp_path / "a.pth", tmp_path / "out", **said)
  clips = port.random_images(np.random.default_rng(2), 1, 3, 16, 131, 131)
  with port.torch.no_grad():
    blobs = twin.double().endpoints(clips)
  expected = {name: blob.numpy() for name, blob in blobs.items()}
  net, variables, _ = p3d_jax.load(tmp_path / "out")
  net, variables = p3d_jax.fold_batch_norm(
    net.clone(precision="highest"), variables
  )
  _, found = net.apply(
    variables,
    jnp.asarray(np.moveaxis(clips.numpy(), 1, -1)),
    endpoints=tuple(expected),
  )
  # Theirs are (batch, channels, ...); res5's one step stands in the batch.
  ours = {
    name: np.moveaxis(x, -1, 1).reshape(expected[name].shape)
    for name, x in found.items()
  }
  assert worst(ours, expected) < BOUND


def test_less_is_computed():
  """No root, no gain: of a batch norm one add is left."""
  net = slim.net()
  variables, clips = slim.variables(net), slim.clips()
  folded_net, folded = fold_batch_norm(net, variables)
  before, after = (
    [str(e.primitive) for e in jax.make_jaxpr(n.apply)(v, clips).eqns]
    for n, v in ((net, variables), (folded_net, folded))
  )
  norms = sum(name.endswith("bn/mean") for name in flat(variables))
  assert before.count("rsqrt") == norms
  assert "rsqrt" not in after
  assert before.count("mul") - after.count("mul") == 3 * norms


# --- The tree


def test_the_tree():
  """Kernels and biases have their names and shapes; the head is untouched."""
  net = slim.net(freeze_norm="all", norm_group=2, dropout=0.3)
  variables = slim.variables(net)
  before = jax.tree.map(np.copy, variables)
  folded_net, folded = fold_batch_norm(net, variables)
  assert set(folded) == {"params"}
  old = {
    name: leaf.shape
    for name, leaf in flat(variables["params"]).items()
    if not name.endswith("scale")
  }
  assert {n: x.shape for n, x in flat(folded["params"]).items()} == old
  assert folded["params"]["head"]["fc"] == variables["params"]["head"]["fc"]
  jax.tree.map(np.testing.assert_array_equal, variables, before)
  fresh = jax.eval_shape(folded_net.init, jax.random.key(0), slim.clips())
  assert jax.tree.map(np.shape, fresh) == jax.tree.map(np.shape, folded)
  assert folded_net == net.clone(
    norm=Shift, freeze_norm="none", norm_group=None
  )


def test_any_arrays():
  """numpy, jax, frozen, jitted: the same numbers."""
  net = slim.net()
  variables = slim.variables(net)
  _, folded = fold_batch_norm(net, variables)
  for given in (
    jax.tree.map(jnp.asarray, variables),
    flax.core.freeze(variables),
  ):
    _, found = fold_batch_norm(net, given)
    jax.tree.map(np.testing.assert_array_equal, found, folded)
  jitted = jax.jit(lambda v: fold_batch_norm(net, v)[1])(variables)
  for found, one in zip(
    *map(jax.tree.leaves, (jitted, folded)), strict=True
  ):  # fused: the last bits
    assert error(found, one) < 1e-6


def test_vmap_over_an_ensemble():
  """Three networks folded at once, and run at once."""
  net = slim.net()
  members = [slim.variables(net, seed=i) for i in range(3)]
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
  clips = slim.clips()
  folded_net, fold = for_inference(net)
  folded = jax.vmap(fold)(stacked)
  found = jax.vmap(lambda v: slim.apply(folded_net, v, clips))(folded)
  for i, member in enumerate(members):
    assert error(found[i], slim.apply(net, member, clips)) < SHALLOW


# --- What is refused


def one_line(caught):
  assert "\n" not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize("freeze_norm", p3d.FREEZE_NORM)
def test_it_is_for_inference(freeze_norm):
  """Also where batch norm was frozen in training."""
  net = slim.net(freeze_norm=freeze_norm)
  folded_net, folded = fold_batch_norm(net, slim.variables(net))
  with pytest.raises(
    ValueError, match=r"^train is True: batch norm is fold"
  ) as e:
    slim.train_apply(folded_net, folded, slim.clips())
  one_line(e)


def test_another_norm():
  """It is run as it is; it is not folded, and neither is what is folded."""
  net = slim.net(norm=nn.BatchNorm)
  variables = slim.variables(net)
  same_net, fold = for_inference(net)
  assert same_net is net
  assert fold(variables) is variables
  with pytest.raises(
    ValueError, match=r"module.norm is .*linen.*BatchNorm"
  ) as e:
    fold_batch_norm(net, variables)
  one_line(e)
  twice = fold_batch_norm(slim.net(), slim.variables(slim.net()))
  with pytest.raises(
    ValueError, match=r"module.norm is .*Shift.*folded already"
  ):
    fold_batch_norm(*twice)
  same_net, fold = for_inference(twice[0])
  assert same_net is twice[0]
  assert fold(twice[1]) is twice[1]


SPATIAL = "res2/block00/spatial"
BROKEN = [
  ([f"params/{SPATIAL}/conv/kernel"], [], "kernel, unexpected none$"),
  (
    [f"params/{SPATIAL}/bn/scale", f"params/{SPATIAL}/bn/bias"],
    [],
    f"missing params/{SPATIAL}/bn/bias, params/{SPATIAL}/bn/scale, unexp",
  ),
  (
    ["batch_stats/stem/bn/var"],
    ["params/stem/conv/bias"],
    "missing batch_stats/stem/bn/var, unexpected params/stem/conv/bias$",
  ),
  ([], ["cache/stem/index"], "missing none, unexpected cache/stem/index$"),
]


@pytest.mark.parametrize(("without", "more", "match"), BROKEN)
def test_halves(without, more, match):
  """A convolution without its norm, or the reverse: both lists."""
  net = slim.net()
  leaves = flat(slim.variables(net))
  for name in without:
    del leaves[name]
  for name in more:
    leaves[name] = np.zeros(8, np.float32)
  broken = flax.traverse_util.unflatten_dict(leaves, sep="/")
  with pytest.raises(ValueError, match=match) as e:
    fold_batch_norm(net, broken)
  assert one_line(e).startswith("variables cannot be folded, ")


def test_variables_that_are_folded_already():
  """The names of hundreds are not a message."""
  net = slim.net()
  _, folded = fold_batch_norm(net, slim.variables(net))
  norms = sum(n.endswith("bn/bias") for n in flat(folded))
  with pytest.raises(ValueError, match=f"{3 * norms} in all, unexpected none$"):
    fold_batch_norm(net, folded)
  with pytest.raises(ValueError, match="cannot be folded"):
    fold_batch_norm(net, {"params": {}, "batch_stats": {}})


def test_a_checkpoint_cannot_hold_it():
  net, _ = for_inference(slim.net())
  with pytest.raises(ValueError, match="norm is .*Shift.*cannot record code"):
    zoo.to_fields(net)


def test_a_shift_takes_what_a_network_gives_its_norms():
  """The fields of `BatchNorm`, but for those of its training."""
  fields = {f.name for f in dataclasses.fields(BatchNorm)}
  fields -= {"group", "steps"}
  assert fields == {f.name for f in dataclasses.fields(Shift)}
  assert inspect.signature(Shift).parameters["use_running_average"].default
