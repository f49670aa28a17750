"""The demo: a slim P3D learns eight camera motions from real footage.

    make demo

Two films are trained on and a third is tested on, so the network has to see the
motion and not the scene. experiments/README.md has what it reaches, and what
the same network reaches without time (--config.model.schedule=S).
"""

from ml_collections import ConfigDict

from p3d_jax.paper import recipes


def get_config() -> ConfigDict:
  """Returns the config of `make demo`; no number here is from the paper."""
  config = recipes.camera_motion("ABC")  # every field is there
  config.data.dir = "demo/data"
  # More steps than Table 1 takes of each of its networks.
  config.train.steps = 800
  config.eval.every = config.checkpoint.every = 400
  return config
