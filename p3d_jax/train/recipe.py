"""Config -> what a training step needs: network, optimiser, pixels, layout."""

from __future__ import annotations

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from p3d_jax.models import p3d
from p3d_jax.train import config as configs
from p3d_jax.train import optim, sharding
from p3d_jax.train.step import Recipe


def recipe(config: ConfigDict, num_classes: int, mesh: Mesh) -> Recipe:
  """Builds the recipe of a config; no data and no arrays are needed.

  Args:
    config: of `config.default()`'s fields, checked.
    num_classes: number of logits.
    mesh: that the step is computed on.

  Raises:
    ConfigError: the network does not fit the mesh, or a pattern of the
      optimiser fits no parameter.
  """
  module = configs.network(config, num_classes)
  preprocessing = configs.preprocessing(config)
  variables = p3d.abstract_variables(module, len(preprocessing.mean))
  params = variables["params"]
  _check_space(config, module)
  try:
    sharding.of_tree(params, mesh)
  except ValueError as error:
    raise configs.ConfigError(f"config.{error}") from None
  rules = optim.plan(params, config.optim, config.norm.freeze)
  return Recipe(
    module=module,
    tx=optim.optimizer(config, params),
    preprocessing=preprocessing,
    loss=config.train.loss,
    label_smoothing=config.train.label_smoothing,
    accumulate=config.train.accumulate,
    ema=config.train.ema,
    seed=config.seed,
    frozen=frozenset(n for n, rule in rules.items() if not rule.learns),
    layout=sharding.Layout(mesh, config.mesh.gather),
  )


def _check_space(config: ConfigDict, module: p3d.P3D) -> None:
  """Raises if frames are to be split by heights that do not divide.

  Nor may a device have a single row. Two such devices, beside others with
  other clips, were seen to compute a direct 1x3x3 convolution of a single step
  wrongly (jaxlib 0.10.2: XLA's partitioner, which all platforms share).
  """
  space, gather = config.mesh.space, config.mesh.gather
  if space == 1:
    return
  for stage, heights in stage_heights(config, module).items():
    if stage != "stem" and gather is not None and stage >= gather:
      return
    wrong = [h for h in heights if h % space or h == space]
    if wrong and stage == "stem":
      raise configs.ConfigError(
        f"config.mesh.space is {space}: it must divide the frames' height "
        f"after the stem, which is {wrong[-1]} pixels, and leave more than one"
      )
    if wrong:
      raise configs.ConfigError(
        f"config.mesh.gather is {gather!r}: the height of {wrong[-1]} pixels "
        f"in {stage} does not divide by mesh.space={space} into more than one; "
        f"set mesh.gather={stage!r}"
      )


def stage_heights(
  config: ConfigDict, module: p3d.P3D
) -> dict[str, tuple[int, ...]]:
  """Returns the heights in pixels that enter and leave the stem and stages."""
  pixels = configs.preprocessing(config)
  stages = ("stem", "res2", "res3", "res4", "res5")
  variables = p3d.abstract_variables(module, len(pixels.mean))
  clips = jax.ShapeDtypeStruct(
    (1, 1, *pixels.crop_size, len(pixels.mean)), module.dtype
  )
  _, found = jax.eval_shape(
    lambda v, x: module.apply(v, x, endpoints=stages), variables, clips
  )
  heights = [pixels.crop_size[0], *(found[stage].shape[2] for stage in stages)]
  return {stage: (heights[i], heights[i + 1]) for i, stage in enumerate(stages)}
