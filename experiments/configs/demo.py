"""The demo: a slim P3D learns eight camera motions from real footage.

    make demo

Two films are trained on and a third is tested on, so the network has to see the
motion and not the scene. experiments/README.md has what it reaches, and what
the same network reaches without time (--config.model.schedule=S).
"""

from ml_collections import ConfigDict

from p3d_jax.train import config as configs


def get_config() -> ConfigDict:
  """Returns the config of `make demo`; no number here is from the paper."""
  config = configs.default()
  config.data.dir = "demo/data"

  # From random weights, so every batch norm is live. 16 channels fill a vector
  # register; 24 took three times as long.
  config.model.width = 16
  config.model.stages = (1, 1, 1, 1)
  config.model.dropout = 0.0

  pixels = config.preprocessing
  pixels.resize, pixels.crop = (64,), (48, 48)
  pixels.channels = "RGB"
  pixels.mean, pixels.std = (128.0,) * 3, (64.0,) * 3

  # The third film has other colours than the two.
  config.augment.brightness = config.augment.contrast = 0.2
  config.augment.saturation = 0.3

  config.train.batch, config.train.steps = 32, 800
  config.optim.name, config.optim.weight_decay = "adamw", 0.05
  config.optim.scratch_learning_rate = 0.004
  config.optim.schedule, config.optim.warmup = "cosine", 40
  # AdamW gives each layer steps of the same size, a fresh head's too.
  config.optim.fresh_head_kernel = config.optim.fresh_head_bias = 1.0

  config.eval.every, config.eval.clips, config.eval.batch = 400, 4, 32
  config.checkpoint.every = 400
  return config
