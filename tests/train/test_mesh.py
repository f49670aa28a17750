"""A step is the same on every mesh, and arrays live where the rules say."""

import functools
import json
import pathlib
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

from p3d_jax.models import zoo
from p3d_jax.models.p3d import abstract_variables
from p3d_jax.train import config as configs
from p3d_jax.train import config_check, recipe, sharding
from tests import small

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE / "golden" / "p3d63_fsdp4.txt"

# Computed in float64: measured 1e-14 on losses, 2e-7 on norms of gradients,
# which are float32 as the parameters are, and nothing on parameters. Parts of a
# batch are added up in float32: 1e-7 there, which the next steps enlarge.
# Statistics of a device's own clips would be 1e-2 and more off.
BOUNDS = {"loss": 1e-9, "gradient": 1e-6, "norms": 1e-6}
BOUNDS_OF_PARTS = {"loss": 1e-5, "gradient": 1e-3, "norms": 1e-3}

GHOST = {"norm": {"group": 4}}
MESHES: dict[str, dict[str, Any]] = {
  "data": {"mesh": {"data": 8}},
  "fsdp": {"mesh": {"data": 2, "fsdp": 4}},
  "space": {"mesh": {"data": 4, "space": 2, "gather": "res4"}},
  "all": {"mesh": {"fsdp": 2, "space": 4, "data": 1, "gather": "res3"}},
  # A TPU's form: pairs of steps of the first layers stand in the channels.
  "lanes": {
    "form": "lanes",
    "mesh": {"data": 2, "fsdp": 2, "space": 2, "gather": "res4"},
  },
  "ghost": GHOST
  | {"mesh": {"data": 2, "fsdp": 2, "space": 2, "gather": "res4"}},
  "parts": GHOST | {"mesh": {"data": 2, "fsdp": 2}, "train": {"accumulate": 2}},
}
ONE = {"mesh": {"data": 1}}


@functools.cache
def steps() -> dict[str, Any]:
  """Takes three steps on each mesh, in a process of eight devices."""
  cases = {"one": ONE, "one ghost": GHOST | ONE, **MESHES}
  environment = small.environment(8)
  environment["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
  done = subprocess.run(
    [sys.executable, HERE / "mesh_steps.py", json.dumps(list(cases.values()))],
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return dict(zip(cases, json.loads(done.stdout), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
def test_a_mesh_gives_what_one_device_gives(name: str) -> None:
  one = steps()["one ghost" if "norm" in MESHES[name] else "one"]
  many = steps()[name]
  bounds = BOUNDS_OF_PARTS if name == "parts" else BOUNDS
  for (loss, norm), (loss_of_one, norm_of_one) in zip(
    many["losses"], one["losses"], strict=True
  ):
    assert loss == pytest.approx(loss_of_one, rel=bounds["loss"])
    assert norm == pytest.approx(norm_of_one, rel=bounds["gradient"])
  assert many["norms"] == pytest.approx(one["norms"], rel=bounds["norms"])


@pytest.mark.slow
def test_what_is_split_is_split() -> None:
  # 20 convolutions and fc of a slim network with a block each of A, B, C, 2D.
  assert steps()["data"]["split"] == 0
  assert steps()["fsdp"]["split"] == 21
  # Rows of pixels go from device to device, and only where frames are split.
  assert steps()["data"]["permutes"] == 0
  assert steps()["space"]["permutes"] > 0


def fake_mesh(data: int, fsdp: int, space: int) -> jax.sharding.Mesh:
  """A mesh of this one device, many times over: shardings need no more."""
  device = np.asarray(jax.devices()[:1])
  return jax.sharding.Mesh(
    np.tile(device, data * fsdp * space).reshape(data, fsdp, space),
    sharding.AXES,
  )


def test_the_shardings_of_p3d63() -> None:
  """Names, shapes and what splits them; statistics and momentum included."""
  mesh = fake_mesh(2, 4, 1)
  variables = abstract_variables(zoo.build("p3d63", num_classes=101), 3)
  places = sharding.of_tree(variables, mesh)
  lines = [
    f"{jax.tree_util.keystr(path, simple=True, separator='/')} "
    f"{tuple(leaf.shape)} {tuple(place.spec)}"
    for (path, leaf), place in zip(
      jax.tree_util.tree_leaves_with_path(variables),
      jax.tree.leaves(places),
      strict=True,
    )
  ]
  assert "\n".join(lines) + "\n" == GOLDEN.read_text()


def test_the_optimiser_is_split_as_its_parameters() -> None:
  config = small.config(optim={"name": "adamw"}, mesh={"data": 1, "fsdp": 2})
  mesh = fake_mesh(1, 2, 1)
  made = recipe.recipe(config, 3, mesh)
  params = abstract_variables(made.module, 3)["params"]
  whole = jax.tree.structure(params)
  expected = jax.tree.leaves(sharding.of_tree(params, mesh))
  state = jax.eval_shape(made.tx.init, params)
  moments = [
    part
    for part in jax.tree.leaves(
      sharding.of_tree(state, mesh),
      is_leaf=lambda x: jax.tree.structure(x) == whole,
    )
    if jax.tree.structure(part) == whole
  ]
  assert len(moments) == 2  # of Adam
  for part in moments:
    assert jax.tree.leaves(part) == expected


@pytest.mark.parametrize(
  ("devices", "sizes", "words"),
  [
    pytest.param(8, {"fsdp": 3}, "must be the 8 devices", id="rest"),
    pytest.param(8, {"data": 2}, "data=None takes the 8", id="few"),
    pytest.param(8, {"space": 0}, "mesh.space is 0", id="none"),
  ],
)
def test_a_mesh_that_is_none(
  devices: int, sizes: dict[str, int], words: str
) -> None:
  with pytest.raises(ValueError, match=words):
    sharding.mesh_sizes(devices, **sizes)


def test_the_rest_of_the_devices_is_data() -> None:
  assert sharding.mesh_sizes(256, fsdp=4, space=2) == (32, 4, 2)


@pytest.mark.parametrize(
  ("sections", "devices", "words"),
  [
    pytest.param(
      {"train": {"batch": 128}}, 256, "mesh.space=2 does, 2 devices a clip",
      id="space",
    ),
    pytest.param(
      {"train": {"batch": 128, "accumulate": 4}}, 64,
      "train.accumulate=2 does", id="accumulate",
    ),
    pytest.param(
      {"train": {"batch": 100}}, 7, "take 5 devices", id="devices"
    ),
    pytest.param(
      {"train": {"batch": 128}, "eval": {"batch": 10}}, 8,
      "eval.batch is 10: .* take 16", id="eval",
    ),
    pytest.param(
      {"mesh": {"fsdp": 3}}, 8, "config.mesh is .* must be the 8 devices",
      id="mesh",
    ),
    pytest.param(
      {"mesh": {"gather": "res1"}}, 8, "config.mesh.gather is 'res1'",
      id="gather",
    ),
  ],
)  # fmt: skip
def test_a_batch_that_does_not_divide_says_what_to_change(
  sections: dict[str, Any], devices: int, words: str
) -> None:
  with pytest.raises(configs.ConfigError, match=words):
    config_check.check(small.config(**sections), devices)


@pytest.mark.parametrize(
  ("space", "gather", "words"),
  [
    # 32 pixels are 8 after the stem, 4 in res3, 2 in res4 and 1 in res5: a
    # single row a device is refused too.
    (2, None, "set mesh.gather='res4'"),
    (2, "res5", "set mesh.gather='res4'"),
    (4, "res4", "set mesh.gather='res3'"),
    (16, "res2", "must divide the frames' height after the stem"),
  ],
)
def test_frames_whose_height_does_not_divide(
  space: int, gather: str | None, words: str
) -> None:
  # 32 pixels, 8 after the stem; res3 4, res4 2, res5 1.
  sizes = {"data": 1, "space": space, "gather": gather}
  config = small.config(mesh=sizes)
  with pytest.raises(configs.ConfigError, match=words):
    recipe.recipe(config, 3, fake_mesh(1, 1, space))


def test_channels_that_fsdp_does_not_divide() -> None:
  config = small.config(mesh={"fsdp": 8})
  with pytest.raises(
    configs.ConfigError, match=r"mesh.fsdp is 8: it must divide the 4 channels"
  ):
    recipe.recipe(config, 3, fake_mesh(1, 8, 1))


def test_stage_heights_of_the_paper() -> None:
  """paper.md: 160, 40 after pool1, then 40, 20, 10, 5."""
  config = configs.default()
  module = configs.network(config, 101)
  assert recipe.stage_heights(config, module) == {
    "stem": (160, 40),
    "res2": (40, 40),
    "res3": (40, 20),
    "res4": (20, 10),
    "res5": (10, 5),
  }
