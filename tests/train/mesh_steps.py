"""Takes the same steps on some meshes of eight devices; prints what came out.

Run by tests/train/test_mesh.py in a process that has eight devices.
"""

import dataclasses
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from p3d_jax.checkpoint import tree
from p3d_jax.models import convs
from p3d_jax.train import config_check, sharding, step
from p3d_jax.train import recipe as recipes
from p3d_jax.train import state as states
from tests import small

STEPS = 3
CLASSES = 3


def batches() -> list[dict[str, np.ndarray]]:
  rng = np.random.default_rng(0)
  return [
    {
      "clips": small.pixels(8, seed=seed),
      "labels": rng.integers(0, CLASSES, (8, 1)).astype(np.int32),
      "replaced": np.arange(8, dtype=np.int32),
    }
    for seed in range(STEPS)
  ]


def run(sections: dict[str, Any]) -> dict[str, Any]:
  """Trains on the mesh that the sections say; all devices it asks for.

  "form" names how convolutions are computed.
  """
  with convs.forced(sections.pop("form", convs.default_form())):
    return _run(sections)


def _run(sections: dict[str, Any]) -> dict[str, Any]:
  config = small.config(
    **{"data": {"dir": "none"}, "optim": {"learning_rate": 0.001}, **sections}
  )
  sizes = config_check.mesh_sizes(config)
  count = (sizes["data"] or 1) * sizes["fsdp"] * sizes["space"]
  config_check.check(config, count)
  mesh = sharding.mesh(jax.devices()[:count], **sizes)
  recipe = recipes.recipe(config, CLASSES, mesh)
  # In float64 what rounding does is far from what a mistake would do.
  module = recipe.module.clone(dtype=jnp.float64)
  recipe = dataclasses.replace(recipe, module=module)
  state = states.create(
    recipe.module, recipe.tx, mesh, channels=3, seed=0, ema=True
  )
  places = {
    n: str(x.sharding.spec) for n, x in tree.flatten(state.params).items()
  }
  train_step = step.jit_train_step(recipe, state)
  text = ""
  losses = []
  for batch in batches():
    placed = sharding.put(batch, mesh)
    if not text:
      text = train_step.lower(state, placed).compile().as_text()
    state, metrics = train_step(state, placed)
    assert int(metrics["replaced"]) == 28
    losses.append([float(metrics["loss"]), float(metrics["gradient_norm"])])
  after = {n: x.sharding for n, x in tree.flatten(state.params).items()}
  assert places == {n: str(x.spec) for n, x in after.items()}
  norms = {
    name: float(np.linalg.norm(jax.device_get(leaf)))
    for part in (state.params, state.batch_stats)
    for name, leaf in tree.flatten(part).items()
  }
  return {
    "losses": losses,
    "norms": norms,
    "split": sum("fsdp" in place for place in places.values()),
    "permutes": text.count(" collective-permute"),
  }


if __name__ == "__main__":
  jax.config.update("jax_enable_x64", True)
  print(json.dumps([run(sections) for sections in json.loads(sys.argv[1])]))
