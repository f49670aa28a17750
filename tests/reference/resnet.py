"""2D ResNets as transformers builds them, with random weights.

The reference for what comes from ImageNet: transformers computes the logits,
and its names become torchvision's by the table here. No code is shared with
`p3d_jax`.
"""

from __future__ import annotations

import copy
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests.reference import port

torch = port.torch
transformers = pytest.importorskip(
  "transformers", reason="the reference is transformers' ResNet"
)

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
LEAVES = ("weight", "bias", "running_mean", "running_var",
          "num_batches_tracked")  # fmt: skip


def build(
  depth: int,
  *,
  width: int = 64,
  classes: int = 1000,
  downsample_in_bottleneck: bool = False,
  stem_bias: bool = False,
  seed: int = 0,
) -> Any:
  """Returns a ResNetForImageClassification, random numbers, float32.

  Args:
    depth: 50, 101 or 152.
    width: channels of the stem; 64 in the real ones.
    classes: of the head.
    downsample_in_bottleneck: the stride is on the first 1x1, as in Caffe, and
      not on the 3x3, as in torchvision.
    stem_bias: the first convolution has a bias, as Caffe's ResNet-50 has.
    seed: of the numbers.
  """
  config = transformers.ResNetConfig(
    embedding_size=width,
    hidden_sizes=[4 * width << stage for stage in range(4)],
    depths=list(DEPTHS[depth]),
    downsample_in_bottleneck=downsample_in_bottleneck,
    num_labels=classes,
  )
  model = transformers.ResNetForImageClassification(config)
  if stem_bias:
    stem = model.resnet.embedder.embedder
    stem.convolution = torch.nn.Conv2d(3, width, 7, 2, 3)
  images = port.random_images(np.random.default_rng(seed), 4, 3, 97, 97)
  port.draw_(model, lambda: model(images), seed, "layer.2.normalization")
  return model


@torch.no_grad()
def logits(
  model: Any, images: np.ndarray, stem_pool: str = "padded"
) -> np.ndarray:
  """Returns logits (batch, classes), computed in float64.

  Args:
    model: of `build`.
    images: (batch, 3, height, width).
    stem_pool: "padded", as in torchvision, or "ceil", as in Caffe: without
      padding, the last windows hang over the edge.
  """
  model = copy.deepcopy(model).double().eval()
  if stem_pool == "ceil":
    pool = torch.nn.MaxPool2d(3, 2, ceil_mode=True)
    model.resnet.embedder.pooler = pool
  else:
    assert stem_pool == "padded", stem_pool
  return model(torch.from_numpy(images).double()).logits.numpy()


def torchvision_names(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns a state dict of transformers' by torchvision's names."""
  return {_torchvision(name): value.numpy() for name, value in state.items()}


def _torchvision(name: str) -> str:
  module, leaf = name.rsplit(".", 1)
  assert leaf in LEAVES, name
  match module.removeprefix("resnet.").split("."):
    case ["classifier", "1"]:
      theirs = "fc"
    case ["embedder", "embedder", kind]:
      theirs = {"convolution": "conv1", "normalization": "bn1"}[kind]
    case ["encoder", "stages", stage, "layers", block, "shortcut", kind]:
      place = {"convolution": 0, "normalization": 1}[kind]
      theirs = f"layer{int(stage) + 1}.{block}.downsample.{place}"
    case ["encoder", "stages", stage, "layers", block, "layer", unit, kind]:
      short = {"convolution": "conv", "normalization": "bn"}[kind]
      theirs = f"layer{int(stage) + 1}.{block}.{short}{int(unit) + 1}"
    case _:
      raise AssertionError(f"no row for {name}")
  return f"{theirs}.{leaf}"


def save_transformers(model: Any, folder: str | pathlib.Path) -> None:
  """Writes config.json and model.safetensors."""
  model.save_pretrained(folder)
