"""The zoo against sizes and multiply-adds, written out here."""

import json

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from p3d_jax.models import p3d, zoo
from p3d_jax.models.count import count
from tests.models import slim

RGB, FLOW = (1, 16, 160, 160, 3), (1, 16, 160, 160, 2)

# Name, classes, clips -> trainable parameters, statistics.
SIZES = [
  ("p3d63", 101, RGB, 25_132_581, 57_600),
  ("p3d131", 101, RGB, 47_475_749, 118_528),
  ("p3d199", 101, RGB, 65_879_589, 172_288),
  ("p3d199", 487, RGB, 66_670_503, 172_288),
  ("p3d199", 400, RGB, 66_492_240, 172_288),
  ("p3d199", 400, FLOW, 66_489_104, 172_288),
]
# Name -> multiply-adds in G at 16x160x160, 101 classes.
WORK = {"p3d63": 8.441, "p3d131": 12.898, "p3d199": 18.403}


@pytest.mark.parametrize(
  ("name", "classes", "clips", "parameters", "statistics"), SIZES
)
def test_sizes(name, classes, clips, parameters, statistics):
  found = count(zoo.build(name, num_classes=classes), clips)
  assert found.parameters == parameters
  assert found.statistics == statistics
  if classes == 101:
    assert round(found.multiply_adds / 1e9, 3) == WORK[name]


@pytest.mark.parametrize("name", zoo.MODELS)
def test_depth_is_in_the_name(name):
  module = zoo.build(name, num_classes=None)
  names = p3d.endpoint_names(module.stages, None)
  blocks = sum("block" in n for n in names)
  assert int(name.removeprefix("p3d")) == 1 + 4 * (blocks - 3) + 3 * 3 + 1


@pytest.mark.parametrize("flavour", zoo.FLAVOURS)
def test_flavours_have_the_same_parameters(flavour):
  """None of the differences shows in a file: so a checkpoint records them."""
  module = zoo.build("p3d63", num_classes=101, flavour=flavour)
  assert count(module, RGB).parameters == 25_132_581


def test_fields_win_over_rows():
  module = zoo.build(
    "p3d63", num_classes=5, flavour="port", rule="paper", stages=(1, 1, 1, 1)
  )
  assert (module.rule, module.stem_pool) == ("paper", "padded")
  assert module.stages == (1, 1, 1, 1)


SLIM = {"stages": (1, 1, 2, 1), "width": 8}


@pytest.mark.parametrize(
  "fields",
  [
    {},
    {"schedule": ("AB", "C", "S")},
    {"flavour": "torchvision", "dtype": jnp.bfloat16},
    {"flavour": "port", "num_classes": None, "dropout": 0.9},
  ],
  ids=str,
)
def test_fields_round_trip_through_json(fields):
  module = zoo.build(**{"num_classes": 7, **SLIM, **fields})
  recorded = zoo.to_fields(module)
  again = zoo.from_fields(json.loads(json.dumps(recorded)))
  assert zoo.to_fields(again) == recorded
  x, variables = slim.clips(), slim.variables(module)
  np.testing.assert_array_equal(
    slim.apply(module, variables, x), slim.apply(again, variables, x)
  )


def test_recorded_fields_are_all_that_changes_the_numbers():
  """The rest is about training or speed, or is injected code."""
  not_recorded = {
    "norm_group", "freeze_norm", "precision", "remat", "on_stage",
    "kernel_init", "temporal_init", "head_init", "norm", "activation",
    "parent", "name",
  }  # fmt: skip
  fields = set(p3d.P3D.__dataclass_fields__)
  assert fields == not_recorded | set(zoo.RECORDED)


@pytest.mark.parametrize("field", ["activation", "norm"])
def test_injected_code_is_not_recorded(field):
  code = {"activation": nn.gelu, "norm": nn.BatchNorm}[field]
  module = zoo.build(num_classes=7, **SLIM, **{field: code})
  with pytest.raises(ValueError, match=f"{field} is .*cannot record code"):
    zoo.to_fields(module)


def test_lists_are_taken_as_tuples():
  made = zoo.build(num_classes=7, width=8, stages=[1, 1, 1, 1],
                   schedule=["A", "B", "C"])  # fmt: skip
  hash(made)  # as jit and remat need it
  assert (made.stages, made.schedule) == ((1, 1, 1, 1), ("A", "B", "C"))


def test_from_fields_is_strict():
  fields = zoo.to_fields(zoo.build(num_classes=7, **SLIM))
  with pytest.raises(ValueError, match=r"missing \['rule'\]"):
    zoo.from_fields({k: v for k, v in fields.items() if k != "rule"})
  with pytest.raises(ValueError, match=r"unknown \['flavour'\]"):
    zoo.from_fields({**fields, "flavour": "port"})


# Each message names the argument, the value and the rule.
BAD = [
  ({"name": "p3d64"}, "name is 'p3d64'.*p3d63, p3d131, p3d199"),
  ({"flavour": "caffe"}, "flavour is 'caffe'.*released, paper"),
  ({"widht": 64}, "'widht' is no field of P3D.*width"),
  ({"rule": "sum"}, "rule is 'sum'.*released, paper, port"),
  ({"stem_pool": "floor"}, "stem_pool is 'floor'.*ceil, padded"),
  ({"freeze_norm": True}, "freeze_norm is True.*none, all_but_first, all"),
  ({"schedule": "XYZ"}, "schedule is 'XYZ'.*letters of ABCSF"),
  ({"stages": (3, 4)}, r"stages is \(3, 4\).*four"),
  ({"width": 0}, "width is 0.*at least 1"),
  ({"num_classes": 0}, "num_classes is 0.*at least 1"),
  ({"norm_group": 0}, "norm_group is 0.*at least 1"),
  ({"dropout": 1.0}, r"dropout is 1.0.*\[0, 1\)"),
  ({"norm_momentum": -0.1}, r"norm_momentum is -0.1.*\[0, 1\)"),
  ({"norm_epsilon": 0.0}, "norm_epsilon is 0.0.*positive"),
  ({"dtype": jnp.float16}, "dtype is .*float16.*float32, bfloat16"),
  ({"dtype": "bf16"}, "dtype is 'bf16'.*float32, bfloat16"),
  ({"dtype": None}, "dtype is None.*float32, bfloat16"),
]


@pytest.mark.parametrize(("fields", "message"), BAD, ids=lambda x: str(x))
def test_bad_fields(fields, message):
  with pytest.raises(ValueError, match=message):
    zoo.build(**{"num_classes": 101, **fields})
