"""What the tests of pictures share: the verb, and a PNG's pixels."""

import argparse
import io
from typing import Any

import numpy as np
from PIL import Image

from p3d_jax.cli.draw import DRAW


def draw(*words: Any) -> int:
  """Runs `p3d draw ...` in this process."""
  parser = argparse.ArgumentParser()
  DRAW.arguments(parser)
  return DRAW.run(parser.parse_args([str(word) for word in words]))


def pixels(content: bytes) -> np.ndarray:
  """Returns a PNG's uint8 (height, width, 3)."""
  image = Image.open(io.BytesIO(content))
  assert image.format == "PNG"
  return np.asarray(image.convert("RGB"))
