"""What a reader finds in a file of weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Content(NamedTuple):
  """What is in a file.

  Attributes:
    arrays: by name, as stored.
    record: the content of model.json, as text, of a file that `p3d export`
      wrote; "" in others.
    layers: of a Caffe network, with their settings.
  """

  arrays: dict[str, np.ndarray]
  record: str = ""
  layers: tuple[Any, ...] = ()


# Where `p3d export` puts the record: in the metadata of a .safetensors file,
# and beside the state dict in PyTorch's.
RECORD = "p3d_jax"
