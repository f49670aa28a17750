"""Video networks that factorise space and time, in JAX and Flax.

    module, variables, record = p3d_jax.load("runs/mine")
    clips = p3d_jax.read_clips("mine.mp4", record.preprocessing, clips=10)
    logits = module.apply(variables, record.preprocess(clips))

The names are imported when they are first used, so that processes that only
decode video do not wait for jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

from p3d_jax.version import __version__

if TYPE_CHECKING:
  from p3d_jax.checkpoint.build import build
  from p3d_jax.checkpoint.model import Record, load, save
  from p3d_jax.data.decode import read_clips, read_frames
  from p3d_jax.data.sets import open_set
  from p3d_jax.models.convs import compiler_options
  from p3d_jax.models.fold import fold_batch_norm
  from p3d_jax.preprocess import Preprocessing
  from p3d_jax.weights.convert import convert
  from p3d_jax.weights.export import export
  from p3d_jax.weights.inflate_file import inflate
  from p3d_jax.weights.verify import verify

_HOMES = {
  "Preprocessing": "p3d_jax.preprocess",
  "Record": "p3d_jax.checkpoint.model",
  "build": "p3d_jax.checkpoint.build",
  "compiler_options": "p3d_jax.models.convs",
  "convert": "p3d_jax.weights.convert",
  "export": "p3d_jax.weights.export",
  "fold_batch_norm": "p3d_jax.models.fold",
  "inflate": "p3d_jax.weights.inflate_file",
  "load": "p3d_jax.checkpoint.model",
  "open_set": "p3d_jax.data.sets",
  "read_clips": "p3d_jax.data.decode",
  "read_frames": "p3d_jax.data.decode",
  "save": "p3d_jax.checkpoint.model",
  "verify": "p3d_jax.weights.verify",
}

__all__ = [
  "Preprocessing",
  "Record",
  "__version__",
  "build",
  "compiler_options",
  "convert",
  "export",
  "fold_batch_norm",
  "inflate",
  "load",
  "open_set",
  "read_clips",
  "read_frames",
  "save",
  "verify",
]


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    raise AttributeError(f"module 'p3d_jax' has no attribute {name!r}")
  return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *_HOMES})
