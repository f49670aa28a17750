"""The stem: conv1 and pool1, which bring clips to a quarter of their size."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from p3d_jax.models import blocks, convs, lanes, norm, pools

Array = jax.Array


class Stem(nn.Module):
  """1x7x7 convolution of stride 2, batch norm, relu, max pool 2x3x3.

  Maps (batch, time, height, width, in) to (batch, ceil(time / 2),
  height / 4, width / 4, width), the last two rounded up in ceil mode.

  Attributes:
    width: number of output channels.
    pool: "ceil" or "padded", a row of `pools.STEM_POOLS`.
    parts: what the blocks share; with 2 `steps` the output is folded, see
      lanes.py.
  """

  width: int = 64
  pool: str = "ceil"
  parts: blocks.Parts = blocks.Parts()

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns the clips at a quarter of their size and half of their steps."""
    conv = self.parts.conv(
      convs.Conv, features=self.width, taps=(1, 7, 7), strides=(1, 2, 2)
    )
    bn = self.parts.norm(name="bn")
    if self.parts.steps > 1:
      return self._folded(conv, bn, x)
    x = self.parts.activation(bn(conv(x)))
    return pools.stem_pool(x, self.pool)

  def _folded(self, conv: convs.Conv, bn: norm.BatchNorm, x: Array) -> Array:
    """The same of folded clips, pooled before they are normalised.

    Normalising and relu keep the order of numbers, if the gain is not negative;
    where it is, the kernel is turned around. So they take a quarter of the
    pixels.
    """
    batch, time, _, _, channels = x.shape
    scale = nn.meta.unbox(self.variables["params"]["bn"]["scale"])
    sign = jnp.where(scale < 0, -1.0, 1.0)
    x, kernel = nn.dtypes.promote_dtype(
      x, conv.weights(channels) * sign, dtype=conv.dtype
    )
    convolve = functools.partial(
      lax.conv_general_dilated,
      rhs=lanes.stem_kernel(kernel),
      window_strides=(1, 1),
      padding=[(2, 1), (2, 1)],
      dimension_numbers=("NCHW", "HWIO", "NHWC"),
      precision=conv.precision,
    )
    first, second = map(convolve, lanes.stem_clips(x))
    x = pools.plane_pool(first, second, self.pool)
    x = x.reshape(batch, time // 4, *x.shape[1:])
    moments = None
    if bn.live:
      clips = (batch, time // 4, *first.shape[1:])
      one, two = (bn.moments(y.reshape(clips)) for y in (first, second))
      mean, var = norm.together(
        jnp.stack([one.mean, two.mean]), jnp.stack([one.var, two.var])
      )
      moments = norm.Moments(sign * mean, var)
    gain, shift = bn.affine(x, moments)
    return self.parts.activation(bn.scaled(x, sign * gain, shift))
