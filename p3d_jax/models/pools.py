"""Max pooling over time and space in ceil mode, and with padding.

All pools of the released network are ceil mode: windows start at index 0 and
the last one may hang over the end, so an odd number of steps keeps its last
one and a single step stays a single step (the release's prototxts).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def max_pool(
  x: Array, window: int, stride: int, axis: int, pad: int | None = None
) -> Array:
  """Takes the maximum over windows along one axis.

  A maximum over a box is a maximum along each axis in turn, and a maximum of a
  few strided slices is three times as fast as XLA's reduce_window on a CPU and
  differentiable both ways.

  Args:
    x: any shape.
    window: length of a window, in steps or pixels.
    stride: between the starts of two windows; at most `window`.
    axis: to pool along.
    pad: None is ceil mode without padding; a number pads both ends by it and
      drops a last window that does not fit (floor mode).

  Returns:
    `x` with `axis` of length ceil((n - window) / stride) + 1 (at least 1) in
    ceil mode, floor((n + 2 pad - window) / stride) + 1 with padding.
  """
  n = x.shape[axis]
  if pad is None:
    before, out = 0, max(-(-(n - window) // stride), 0) + 1
  else:
    before, out = pad, (n + 2 * pad - window) // stride + 1
  after = max((out - 1) * stride + window - n - before, 0)
  if before or after:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    x = jnp.pad(x, widths, constant_values=-jnp.inf)
  span = (out - 1) * stride + 1
  pooled = lax.slice_in_dim(x, 0, span, stride, axis)
  for start in range(1, window):
    seen = lax.slice_in_dim(x, start, start + span, stride, axis)
    pooled = jnp.maximum(pooled, seen)
  return pooled


def temporal_pool(x: Array) -> Array:
  """Halves the steps: max 2x1x1, stride 2, ceil mode; (batch, time, ...)."""
  return max_pool(x, 2, 2, axis=1)


STEM_POOLS = {
  # Caffe's ResNets and the authors' release: no padding, ceil mode.
  "ceil": None,
  # torchvision's ResNets and the PyTorch port: padded by one, floor mode.
  "padded": 1,
}


def stem_pool(x: Array, alignment: str) -> Array:
  """Max 2x3x3 with stride 2 over (batch, time, height, width, channels).

  Args:
    x: the activations after conv1.
    alignment: "ceil" or "padded", a row of STEM_POOLS; it is about height and
      width. Time is ceil mode in both.

  Returns:
    (batch, ceil(time / 2), height', width', channels).
  """
  pad = STEM_POOLS[alignment]
  x = temporal_pool(x)
  x = max_pool(x, 3, 2, axis=2, pad=pad)
  return max_pool(x, 3, 2, axis=3, pad=pad)
