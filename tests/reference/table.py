"""Executes the authors' layer table row by row, in float64, with PyTorch.

Strides, pads, kernels, coefficients and the order of everything come from
p3d199_layers.csv and from nowhere else, and no code is shared with `p3d_jax`.
Two rows are generalised, because the release is fixed to 16x160x160: `Reshape`
moves the steps that are left into the batch, and the global pool takes the mean
over them.

Blobs are (batch, channels, time, height, width), after the Reshape
(batch * time, channels, height, width).
"""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from tests.reference import names

torch = pytest.importorskip("torch", reason="the reference runs on PyTorch")
F = torch.nn.functional

Row = dict[str, str]
Blobs = dict[str, Any]
Weights = Mapping[str, dict[str, np.ndarray]]

ROWS: list[Row] = list(
  csv.DictReader(
    pathlib.Path(__file__).with_name("p3d199_layers.csv").open(newline="")
  )
)
EPSILON = 1e-5  # of BN: the prototxts


def run(weights: Weights, clips: np.ndarray) -> Blobs:
  """Returns every blob by name, for clips (batch, time, height, width, in).

  Args:
    weights: by layer; "kernel" (out, in, [time,] height, width) of a
      convolution, "kernel" (out, in) and "bias" of fc, "scale", "bias", "mean"
      and "var" of BN.
    clips: preprocessed.
  """
  return _execute(lambda row, x: weights[row["name"]], clips)


@torch.no_grad()
def _execute(
  weights: Callable[[Row, Any], dict[str, np.ndarray]], clips: np.ndarray
) -> Blobs:
  blobs: Blobs = {}
  for row in ROWS:
    x = [blobs[name] for name in row["inputs"].split()]
    w: dict[str, Any] = {}
    if row["type"] in ("Convolution", "BN", "InnerProduct"):
      w = {k: torch.from_numpy(v) for k, v in weights(row, x[0]).items()}
    match row["type"]:
      case "Input":
        y = torch.from_numpy(clips).double().permute(0, 4, 1, 2, 3)
      case "Convolution":
        stride, pad = _numbers(row["stride"]), _numbers(row["pad"])
        convolve = F.conv3d if len(stride) == 3 else F.conv2d
        y = convolve(x[0], w["kernel"], None, stride, pad)
      case "BN":
        shape = (1, -1) + (1,) * (x[0].ndim - 2)
        gain = w["scale"] / torch.sqrt(w["var"] + EPSILON)
        y = (x[0] - w["mean"].view(shape)) * gain.view(shape)
        y = y + w["bias"].view(shape)
      case "ReLU":  # in place: the output's name is that of the input
        y = x[0].clamp(min=0)
      case "Pooling3D":
        assert row["op"] == "max ceil"
        assert not any(_numbers(row["pad"]))
        y = _max_ceil(x[0], _numbers(row["kernel"]), _numbers(row["stride"]))
      case "Reshape":
        steps = x[0].shape[2]
        y = x[0].transpose(1, 2).flatten(0, 1)
      case "Eltwise":
        assert row["op"] == "sum"
        coefficients = [float(c) for c in row["coeff"].split()]
        y = sum(c * b for c, b in zip(coefficients, x, strict=True))
      case "Pooling":
        assert row["op"] == "ave global"
        y = x[0].mean((2, 3)).unflatten(0, (-1, steps)).mean(1)
      case "Dropout":
        y = x[0]
      case "InnerProduct":
        y = x[0] @ w["kernel"].T + w["bias"]
      case "Softmax":
        y = x[0].softmax(-1)
      case other:
        raise AssertionError(f"the table has a row of type {other}")
    blobs[row["output"]] = y
  return blobs


def _numbers(text: str) -> tuple[int, ...]:
  return tuple(int(n) for n in text.split())


def _max_ceil(x: Any, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Any:
  """Windows from index 0; what hangs over the end is -inf."""
  after = []
  for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
    windows = -(-max(size - k, 0) // s) + 1
    after.append((windows - 1) * s + k - size)
  edges = [n for last in reversed(after) for n in (0, max(last, 0))]
  return F.max_pool3d(F.pad(x, edges, value=-torch.inf), kernel, stride)


def random_weights(seed: int, classes: int = 487) -> Weights:
  """Draws float32 numbers for every row, such that all rules differ.

  Kernels and clips are random; the moving statistics of a BN are near those
  that random clips have there, so that activations neither die nor explode
  over 36 blocks, and far from 0 and 1 because each kernel has another gain.
  """
  rng = np.random.default_rng(seed)
  weights: dict[str, dict[str, np.ndarray]] = {}

  def draw(row: Row, x: Any) -> dict[str, np.ndarray]:
    channels = x.shape[1]
    if row["type"] == "BN":
      w = _random_norm(rng, x)
      if row["name"].endswith("branch2c"):
        # Small steps along the shortcut: with larger ones 47 blocks amplify
        # rounding until float32 itself, in any framework, is off by 5e-4.
        w["scale"] *= 0.4
    else:
      out = classes if row["type"] == "InnerProduct" else int(row["channels"])
      shape = (out, channels, *_numbers(row["kernel"]))
      gain = np.exp(rng.uniform(-1.5, 1.5)) / np.sqrt(np.prod(shape[1:]))
      w = {"kernel": gain * rng.standard_normal(shape)}
      if row["type"] == "InnerProduct":
        w["bias"] = rng.standard_normal(out)
    # float32 numbers in float64 arrays: both sides compute with the same ones.
    w = {k: v.astype(np.float32).astype(np.float64) for k, v in w.items()}
    weights[row["name"]] = w
    return w

  _execute(draw, random_clips(rng, 4, 17, 64, 64))
  return weights


def _random_norm(rng: np.random.Generator, x: Any) -> dict[str, np.ndarray]:
  axes = [a for a in range(x.ndim) if a != 1]
  mean, std = x.mean(axes).numpy(), x.std(axes).numpy()
  n = mean.shape
  return {
    "scale": rng.uniform(0.5, 1.5, n),
    "bias": 0.5 * rng.standard_normal(n),
    "mean": mean + 0.5 * std * rng.standard_normal(n),
    "var": std**2 * rng.uniform(0.5, 2.0, n),
  }


def random_clips(rng: np.random.Generator, *shape: int) -> np.ndarray:
  """Draws clips (batch, time, height, width) in the release's domain.

  Coarse blobs and fine noise, each clip at its own brightness and contrast.
  """
  batch, time, height, width = shape
  coarse = rng.standard_normal((batch, -(-time // 2), 4, 4, 3))
  coarse = coarse.repeat(2, 1)[:, :time]
  coarse = coarse.repeat(-(-height // 4), 2)[:, :, :height]
  coarse = coarse.repeat(-(-width // 4), 3)[:, :, :, :width]
  fine = rng.standard_normal((*shape, 3))
  contrast = rng.uniform(20, 60, (batch, 1, 1, 1, 1))
  clips = contrast * (coarse + fine) + rng.uniform(-40, 40, contrast.shape)
  return clips.astype(np.float32)


def to_tree(weights: Weights) -> dict[str, Any]:
  """Returns the variables of `p3d_jax` with these weights, float32."""
  tree: dict[str, Any] = {"params": {}, "batch_stats": {}}
  for layer, arrays in weights.items():
    for leaf, value in arrays.items():
      collection = "batch_stats" if leaf in ("mean", "var") else "params"
      node = tree[collection]
      for part in names.LAYERS[layer].split("/"):
        node = node.setdefault(part, {})
      node[leaf] = _transposed(value).astype(np.float32)
  return tree


def _transposed(value: np.ndarray) -> np.ndarray:
  if value.ndim == 4:  # a 2D kernel has one step
    value = value[:, :, None]
  if value.ndim == 5:
    return value.transpose(2, 3, 4, 1, 0)
  return value.T


def to_endpoint(blob: Any, steps: int) -> np.ndarray:
  """Returns a blob as p3d_jax lays it; `steps` are left where 4-D."""
  if blob.ndim == 4:
    blob = blob.unflatten(0, (-1, steps)).transpose(1, 2)
  return blob.movedim(1, -1).numpy()
