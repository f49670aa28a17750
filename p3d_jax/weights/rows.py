"""How the arrays of a source become our leaves: names, axes, arithmetic."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from p3d_jax.weights import names
from p3d_jax.weights.merge import Row

TRACKED = "counts of batches seen in training, which nothing computes with"


def tracked(
  naming: names.Naming, present: Collection[str], leaves: Iterable[str]
) -> dict[str, str]:
  """Returns batch norm of ours -> the array that counts its batches.

  Args:
    naming: of the source.
    present: names of the arrays that it has.
    leaves: of the network.
  """
  found = {}
  for leaf in leaves:
    norm, _, last = leaf.removeprefix("params/").rpartition("/")
    if naming.tracked and norm.endswith("/bn") and last == "scale":
      name = naming.tracked.format(**names.layers(naming, leaf))
      if name in present:
        found[norm] = name
  return found


def rows(
  naming: names.Naming, present: Collection[str], leaves: Iterable[str]
) -> dict[str, Row]:
  """Returns where each leaf comes from.

  Args:
    naming: of the source.
    present: names of the arrays that it has.
    leaves: of the network.
  """
  fc = names.head(naming, present) or _first_head(naming)
  return {leaf: _row(naming, fc, present, leaf) for leaf in leaves}


def _first_head(naming: names.Naming) -> dict[str, str]:
  """What is missing where a head is expected and there is none."""
  fc = naming.heads[0]
  return {leaf: text.format(fc=fc) for leaf, text in naming.linear.items()}


def _row(
  naming: names.Naming,
  fc: Mapping[str, str],
  present: Collection[str],
  leaf: str,
) -> Row:
  found = names.parse(leaf)
  if found.part == "head":
    make = linear if found.name == "kernel" else vector
    return Row((fc[found.name],), make)
  name = names.array(naming, leaf)
  if found.name == "kernel":
    return Row((name,), convolution)
  if found.name not in ("mean", "var") or not naming.factor:
    return Row((name,), vector)
  around = names.layers(naming, leaf)
  sources = [name, naming.factor.format(**around)]
  bias = naming.conv_bias.format(**around)
  if found.name == "mean" and bias in present:
    sources.append(bias)
  return Row(tuple(sources), moment)


def convolution(kernel: np.ndarray) -> np.ndarray:
  """(out, in, [time,] height, width) -> (time, height, width, in, out).

  Raises:
    ValueError: if it has neither four nor five axes.
  """
  if kernel.ndim == 4:  # a 2D kernel has one step
    kernel = kernel[:, :, None]
  if kernel.ndim != 5:
    raise ValueError(f"a kernel of shape {kernel.shape}")
  return kernel.transpose(2, 3, 4, 1, 0)


def linear(kernel: np.ndarray) -> np.ndarray:
  """(out, in), in old Caffe files (1, 1, out, in) -> (in, out)."""
  if kernel.ndim > 2 and set(kernel.shape[:-2]) == {1}:
    kernel = kernel.reshape(kernel.shape[-2:])
  return kernel.T


def vector(numbers: np.ndarray) -> np.ndarray:
  """(channels,), in Caffe's files with axes of one around it -> (channels,).

  Raises:
    ValueError: if more than one axis is longer than one.
  """
  return numbers.reshape(max(numbers.shape, default=1))


def moment(
  numbers: np.ndarray, factor: np.ndarray, bias: np.ndarray | None = None
) -> np.ndarray:
  """A mean or variance of Caffe's BatchNorm, which stores it times a factor.

  Args:
    numbers: the stored mean or variance.
    factor: one number; 0 counts as 1, as in Caffe.
    bias: of the convolution before, which the mean takes in: (x + b) - mean
      is x - (mean - b).
  """
  by = float(factor.reshape(())) or 1.0
  value = vector(numbers).astype(np.float64) / by
  if bias is not None:
    value = value - vector(bias)
  return value.astype(np.float32)
