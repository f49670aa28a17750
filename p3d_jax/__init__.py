"""Video networks that factorise space and time, in JAX and Flax.

module, variables, record = p3d_jax.load("runs/mine")
logits = module.apply(variables, record.preprocess(frames))
"""

from p3d_jax.checkpoint.model import Record, load, save
from p3d_jax.data.decode import read_clips, read_frames
from p3d_jax.models.zoo import build
from p3d_jax.preprocess import Preprocessing
from p3d_jax.version import VERSION as __version__

__all__ = [
  "Preprocessing",
  "Record",
  "__version__",
  "build",
  "load",
  "read_clips",
  "read_frames",
  "save",
]
