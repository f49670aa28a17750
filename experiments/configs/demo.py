"""The demo: a slim P3D learns eight camera motions from real footage.

  make demo

Two films are trained on and a third is tested on, so the network has to see the
motion and not the scene. On two CPU cores.
"""

from ml_collections import ConfigDict

from p3d_jax.train import config as configs


def get_config() -> ConfigDict:
  """Returns the config of `make demo`."""
  config = configs.default()
  config.data.dir = "demo/data"

  config.model.width = 16
  config.model.stages = (1, 1, 1, 1)
  config.model.dropout = 0.2

  pixels = config.preprocessing
  pixels.resize, pixels.crop = (56, 56), (48, 48)
  pixels.channels = "RGB"
  pixels.mean = (128.0, 128.0, 128.0)
  pixels.std = (64.0, 64.0, 64.0)

  config.train.batch, config.train.steps = 32, 800
  config.optim.learning_rate = 0.05
  config.optim.schedule, config.optim.warmup = "cosine", 40
  config.optim.multipliers = ()
  config.eval.every, config.eval.clips, config.eval.batch = 200, 4, 32
  config.checkpoint.every = 200
  return config
