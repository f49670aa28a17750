"""Max pooling over time and space in ceil mode, and with padding.

All pools of the released network are ceil mode: windows start at index 0 and
the last one may hang over the end, so an odd number of steps keeps its last
one and a single step stays a single step (the release's prototxts).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from p3d_jax.models import convs

Array = jax.Array


def max_pool(
  x: Array, window: int, stride: int, axis: int, pad: int | None = None
) -> Array:
  """Takes the maximum over windows along one axis.

  A maximum over a box is a maximum along each axis in turn. On a CPU that of a
  few strided slices is three times as fast as XLA's reduce_window; on a TPU the
  window moves half the bytes of the slices (stem of 8 clips with its gradients,
  by v5e's compiler: 3.1 against 6.4 GiB). GPUs take the window too, not
  measured. Both can be differentiated both ways.

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
  if convs.default_form() != "folded":
    return _box(x, stride, {axis: (window, pad)})
  before, after, out = _ends(x.shape[axis], window, stride, pad)
  if before or after:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    x = jnp.pad(x, widths, constant_values=-jnp.inf)
  span = (out - 1) * stride + 1
  pooled = lax.slice_in_dim(x, 0, span, stride, axis)
  for start in range(1, window):
    seen = lax.slice_in_dim(x, start, start + span, stride, axis)
    pooled = _larger(pooled, seen)
  return pooled


def _ends(
  n: int, window: int, stride: int, pad: int | None
) -> tuple[int, int, int]:
  """Padding before and after n numbers, and how many windows there are."""
  if pad is None:
    before, out = 0, max(-(-(n - window) // stride), 0) + 1
  else:
    before, out = pad, (n + 2 * pad - window) // stride + 1
  return before, max((out - 1) * stride + window - n - before, 0), out


def plane_pool(first: Array, second: Array, alignment: str) -> Array:
  """`stem_pool` of two frames: planes (batch, height, width, channels)."""
  pad = STEM_POOLS[alignment]
  return _box(_larger(first, second), 2, {1: (3, pad), 2: (3, pad)})


def _box(
  x: Array, stride: int, windows: dict[int, tuple[int, int | None]]
) -> Array:
  """The maximum over boxes: by axis, the window and its padding."""
  sizes, strides, pads = [1] * x.ndim, [1] * x.ndim, [(0, 0)] * x.ndim
  for axis, (window, pad) in windows.items():
    sizes[axis], strides[axis] = window, stride
    pads[axis] = _ends(x.shape[axis], window, stride, pad)[:2]
  return lax.reduce_window(x, -jnp.inf, lax.max, sizes, strides, pads)


@jax.custom_jvp
def _larger(a: Array, b: Array) -> Array:
  """The larger of each two. Of equal ones the first has the derivative.

  As in PyTorch and cuDNN; jax.numpy's own halves it, which costs a pass.
  """
  return jnp.maximum(a, b)


@_larger.defjvp
def _larger_jvp(
  primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
  (a, b), (da, db) = primals, tangents
  if convs.default_form() == "lanes":
    # A TPU then compares again in the backward pass, where it reads a and b
    # anyway; the result of one comparison would be kept.
    return _larger(a, b), jnp.where(a >= b, da, 0) + jnp.where(b > a, db, 0)
  return _larger(a, b), jnp.where(a >= b, da, db)


def temporal_pool(x: Array, steps: int = 1) -> Array:
  """Halves the steps: max 2x1x1, stride 2, ceil mode.

  Args:
    x: (batch, time, ..., channels).
    steps: 2 of folded clips (lanes.py), whose pairs of steps are windows.

  Returns:
    (batch, ceil(time / 2), ..., channels), not folded.
  """
  if steps == 1:
    return max_pool(x, 2, 2, axis=1)
  return _larger(*jnp.split(x, 2, axis=-1))


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
  if convs.default_form() != "folded":
    return _box(x, 2, {1: (2, None), 2: (3, pad), 3: (3, pad)})
  x = temporal_pool(x)
  x = max_pool(x, 3, 2, axis=2, pad=pad)
  return max_pool(x, 3, 2, axis=3, pad=pad)
