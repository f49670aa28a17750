"""The recipes are the paper's numbers, written here once more by hand."""

import pathlib
from typing import Any

import pytest

from p3d_jax.paper import numbers, recipes
from p3d_jax.train import config_check, config_file
from tests import small

UCF101 = {
  "model.name": "p3d63",
  "model.rule": None,  # of the flavour, the release's
  "model.flavour": "released",
  "model.dropout": 0.9,
  "norm.freeze": "all_but_first",
  "train.batch": 128,
  "train.steps": 7500,
  "optim.name": "sgd",
  "optim.learning_rate": None,  # takes the next, as weights are given
  "optim.init_learning_rate": 0.001,
  "optim.schedule": "step",
  "optim.decay_every": 3000,
  "optim.decay_factor": 0.1,
  "optim.fresh_head_kernel": 10,
  "optim.fresh_head_bias": 20,
  "data.train_split": "train1",
  "data.eval_split": "test1",
}
CLIPS = {
  "preprocessing.frames": 16,
  "preprocessing.resize": (182, 242),  # height x width
  "preprocessing.crop": (160, 160),
  "augment.random_crop": True,
  "augment.flip": True,
}
FRAMES = {
  "preprocessing.frames": 1,
  "preprocessing.resize": (240, 320),
  "preprocessing.crop": (224, 224),
  "augment.random_crop": True,
}
BGR = {
  "preprocessing.channels": "BGR",
  "preprocessing.scale": 1,
  "preprocessing.mean": (104, 117, 123),
  "preprocessing.std": (1, 1, 1),
}
SPORTS1M = UCF101 | {
  "model.name": "p3d199",
  "model.dropout": 0.1,
  "train.steps": 150_000,
  "optim.decay_every": 60_000,
  "data.train_split": "train",
  "data.eval_split": "test",
}
KINETICS = SPORTS1M | {"data.eval_split": "validation"}
EXPECTED: dict[str, dict[str, Any]] = {
  "ucf101_resnet50_frames": UCF101 | FRAMES | BGR | {"model.schedule": "S"},
  "ucf101_p3d_a": UCF101 | CLIPS | BGR | {"model.schedule": "A"},
  "ucf101_p3d_b": UCF101 | CLIPS | BGR | {"model.schedule": "B"},
  "ucf101_p3d_c": UCF101 | CLIPS | BGR | {"model.schedule": "C"},
  "ucf101_p3d_abc": UCF101 | CLIPS | BGR | {"model.schedule": "ABC"},
  "ucf101_full3d": UCF101 | CLIPS | BGR | {"model.schedule": "F"},
  "sports1m_p3d199": SPORTS1M | CLIPS | BGR | {"model.schedule": "ABC"},
  "sports1m_resnet152": SPORTS1M | FRAMES | BGR | {"model.schedule": "S"},
  "kinetics_rgb": KINETICS
  | CLIPS
  | BGR
  | {"model.schedule": "ABC", "model.dropout": 0.5},
  "kinetics_flow": KINETICS
  | CLIPS
  | {
    "model.schedule": "ABC",
    "model.dropout": 0.7,
    "preprocessing.channels": "flow",
    "preprocessing.mean": (128, 128),
    "preprocessing.std": (1, 1),
    "optim.multipliers": (("^stem/", 5),),
  },
}


@pytest.mark.parametrize("name", EXPECTED)
def test_fields_are_the_papers(name: str) -> None:
  config = recipes.get_config(name)
  for field, value in EXPECTED[name].items():
    found = config_check.get(config, field)
    assert found == value, field


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_can_be_run(name: str) -> None:
  path = pathlib.Path(recipes.__file__)
  config_check.check(config_file.load(f"{path}:{name}"))


def test_flow_multiplier_is_of_conv1_and_its_norm_alone() -> None:
  """5 for conv1 and bn_conv1, 10 and 20 for fc: all in the prototxt."""
  from p3d_jax.train import config as configs
  from p3d_jax.train import optim

  config = recipes.get_config("kinetics_flow")
  params = small_params(configs.network(config, 400))
  plan = optim.plan(params, config.optim, config.norm.freeze)
  fast = {name for name, rule in plan.items() if rule.multiplier == 5}
  assert fast == {"stem/conv/kernel", "stem/bn/scale", "stem/bn/bias"}
  assert all(r.multiplier in (1, 5) for r in plan.values())


def small_params(module: Any) -> Any:
  from p3d_jax.models import p3d

  return p3d.abstract_variables(module, 2)["params"]


def test_camera_motion_is_the_demo_in_fewer_steps() -> None:
  """What differs from experiments/configs/demo.py, and nothing else."""
  demo = config_file.load(str(small.ROOT / "experiments/configs/demo.py"))
  ours = recipes.get_config("camera_motion_p3d_abc")
  assert differing(demo.to_dict(), ours.to_dict()) == {
    "data.dir",
    "train.steps",
    "eval.every",
    "checkpoint.every",
  }


def differing(a: dict[str, Any], b: dict[str, Any], at: str = "") -> set[str]:
  found = set()
  for name in a:
    if isinstance(a[name], dict):
      found |= differing(a[name], b[name], f"{at}{name}.")
    elif a[name] != b[name]:
      found.add(at + name)
  return found


def test_an_unknown_name_is_refused() -> None:
  with pytest.raises(ValueError, match="'p3d' must be one of ucf101_resnet50_"):
    recipes.get_config("p3d")


def test_table1_is_the_papers() -> None:
  assert {k: tuple(v) for k, v in numbers.TABLE1.items()} == {
    "frames": (92, 15.0, 80.8),
    "p3d_a": (98, 9.0, 83.7),
    "p3d_b": (98, 8.8, 82.8),
    "p3d_c": (98, 8.6, 83.0),
    "p3d_abc": (98, 8.8, 84.2),
  }


def test_table2_is_the_papers() -> None:
  assert {k: tuple(v) for k, v in numbers.TABLE2.items()} == {
    "Convolutional pooling, 120 frames": (70.8, 72.3, 90.8),
    "Deep Video, single frame": (41.1, 59.3, 77.7),
    "Deep Video, slow fusion": (41.9, 60.9, 80.2),
    "C3D": (44.9, 60.0, 84.4),
    "C3D, I380K pre-trained": (46.1, 61.1, 85.2),
    "ResNet-152, 2D": (46.5, 64.6, 86.4),
    "P3D ResNet": (47.9, 66.4, 87.4),
  }


def test_numbers_of_the_representation() -> None:
  assert list(numbers.UCF101.values()) == [82.3, 83.5, 88.6, 93.7]
  assert list(numbers.ACTIVITYNET.values()) == [75.12, 87.71, 78.86]
  assert numbers.ASLAN == {"accuracy": 80.8, "auc": 87.9}
  assert numbers.SCENES == {"dynamic_scene": 94.6, "yupenn": 99.5}
  assert numbers.KINETICS == {"rgb": 72.1, "flow": 61.2}
