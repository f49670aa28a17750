"""Batch normalisation with live, ghost or moving statistics."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


class Moments(NamedTuple):
  """Statistics of channels.

  Attributes:
    mean: (groups, channels).
    var: the biased variance, alike.
  """

  mean: Array
  var: Array


class BatchNorm(nn.Module):
  """Normalises channels by the statistics of the batch or by the moving ones.

  A drop-in for `flax.linen.BatchNorm` (same names: scale, bias; mean, var)
  that also takes statistics over groups of clips, so that the recipe of a
  batch of 128 stays that of 128 on a batch of 4,096. Statistics and parameters
  are float32 whatever the compute type. Under jit over a sharded batch the
  statistics are those of the whole batch, without an axis name.

  The moving average takes the biased variance, as `flax.linen.BatchNorm` does
  (PyTorch takes the unbiased one).

  Attributes:
    use_running_average: normalise by the moving statistics, and keep them.
    momentum: share of the old value in the moving average; 0.9 in the
      authors' network.
    epsilon: added to the variance; 1e-5 in the authors' network.
    group: clips whose statistics are taken together (consecutive rows of the
      batch); None takes the whole batch. The moving average then takes the
      mean of the groups' means and variances.
    dtype: of the result; None keeps the type of the input.
    steps: that stand beside each other in the channels, see lanes.py.
  """

  use_running_average: bool = False
  momentum: float = 0.9
  epsilon: float = 1e-5
  group: int | None = None
  dtype: Any = None
  steps: int = 1

  def __call__(self, x: Array) -> Array:
    """Normalises x (batch, ..., channels).

    Raises:
      ValueError: if the batch is not a multiple of `group`.
    """
    moments = self.moments(x) if self.live else None
    return self.scaled(x, *self.affine(x, moments))

  @property
  def live(self) -> bool:
    """Whether it takes the statistics of the batch."""
    return not (self.use_running_average or self.is_initializing())

  def groups(self, batch: int) -> int:
    """Returns how many groups of clips have statistics of their own.

    Raises:
      ValueError: if the batch is not a multiple of `group`.
    """
    if self.group is None:
      return 1
    if self.group < 1 or batch % self.group:
      raise ValueError(
        f"norm_group is {self.group}: the batch of {batch} clips must be a "
        "multiple of it"
      )
    return batch // self.group

  def moments(self, x: Array) -> Moments:
    """Returns means and biased variances of x (batch, ..., channels)."""
    groups = self.groups(x.shape[0])
    moments = _moments(x.reshape(groups, -1, *x.shape[1:]))
    if self.steps == 1:
      return moments
    beside = (y.reshape(groups, self.steps, -1) for y in moments)
    return together(*(y.swapaxes(0, 1) for y in beside))

  @nn.compact
  def affine(
    self, x: jax.ShapeDtypeStruct | Array, moments: Moments | None
  ) -> tuple[Array, Array]:
    """Returns what channels are multiplied by, and what is added then.

    Args:
      x: what is normalised, (batch, ..., channels): its shape and type.
      moments: of it, if it is `live`.

    Returns:
      Gain and shift, each (groups, channels), or (1, channels).
    """
    channels = (x.shape[-1] // self.steps,)
    scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
    ones, zeros = jnp.ones, jnp.zeros
    mean = self.variable("batch_stats", "mean", zeros, channels, jnp.float32)
    var = self.variable("batch_stats", "var", ones, channels, jnp.float32)
    if moments is None:
      kind = _at_least_float32(x)
      still = mean.value[None].astype(kind), var.value[None].astype(kind)
      return gain_and_shift(*still, scale.astype(kind), bias, self.epsilon)
    live_mean, live_var = moments
    keep = self.momentum
    new_mean = keep * mean.value + (1 - keep) * live_mean.mean(0)
    new_var = keep * var.value + (1 - keep) * live_var.mean(0)
    mean.value = new_mean.astype(jnp.float32)
    var.value = new_var.astype(jnp.float32)
    scale = scale.astype(live_var.dtype)
    return gain_and_shift(live_mean, live_var, scale, bias, self.epsilon)

  def scaled(self, x: Array, gain: Array, shift: Array) -> Array:
    """Multiplies and adds, each group of clips by its own row."""
    # One multiply and one add an element; the rest is per channel.
    groups = len(gain)
    shape = (groups,) + (1,) * (x.ndim - 1) + x.shape[-1:]
    gain, shift = (
      jnp.tile(y, self.steps).reshape(shape) for y in (gain, shift)
    )
    grouped = x.reshape(groups, -1, *x.shape[1:])
    y = (grouped * gain + shift).astype(self.dtype or x.dtype)
    return y.reshape(x.shape)


def gain_and_shift(
  mean: Array, var: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, Array]:
  """Returns what a channel is multiplied by and what is added then."""
  gain = scale * lax.rsqrt(var + epsilon)
  return gain, bias - mean * gain


def _at_least_float32(x: jax.ShapeDtypeStruct | Array) -> Any:
  return jnp.promote_types(x.dtype, jnp.float32)


def product_moments(
  x: Array, kernel: Array, steps: int = 1, precision: Any = None
) -> tuple[Array, Moments]:
  """Moments of the product of x with a kernel, without the product.

  Its mean is the product of the mean, its variances are the kernel's quadratic
  forms of the covariance. So what is wide need not be read for its statistics.

  Errors are relative to the largest variance of a sum of x's channels: where a
  kernel cancels a common part of theirs, of 30 times the deviation that is
  left, the variance is off by 1e-4; of 300 times, by 2 %.

  Args:
    x: (batch, ..., steps in).
    kernel: (in, out).
    steps: that stand beside each other in the channels.
    precision: of the products over the batch.

  Returns:
    The mean (in,) of x, and the moments (out,) of the product.
  """
  kind, axes = _at_least_float32(x), tuple(range(x.ndim - 1))
  mean = x.astype(kind).mean(axes)
  # As in `_moments`.
  near = lax.stop_gradient(mean)
  far = (x.astype(kind) - near).astype(x.dtype)
  square = lax.dot_general(
    far,
    far,
    ((axes, axes), ((), ())),
    precision=precision,
    preferred_element_type=kind,
  ) / (x.size // x.shape[-1])
  square -= jnp.outer(mean - near, mean - near)
  # The covariance of each step, then of all of them.
  size = x.shape[-1] // steps
  mean = mean.reshape(steps, size)
  square = jnp.stack(
    [square[i : i + size, i : i + size] for i in range(0, steps * size, size)]
  ).mean(0)
  between = mean - mean.mean(0)
  mean, kernel = mean.mean(0), kernel.astype(kind)
  exact = functools.partial(jnp.dot, precision=lax.Precision.HIGHEST)
  square += exact(between.T, between) / steps
  var = jnp.sum(kernel * exact(square, kernel), axis=0)
  return mean, Moments(exact(mean, kernel), jnp.maximum(var, 0))


def together(means: Array, variances: Array) -> Moments:
  """Mean and variance of the union of parts of one size.

  Args:
    means: (parts, ...).
    variances: (parts, ...), biased.
  """
  return Moments(means.mean(0), variances.mean(0) + means.var(0))


def _moments(x: Array) -> Moments:
  """Mean and biased variance per group and channel of (group, ..., channels).

  The variance is the mean square of the distances from the mean: a second pass
  over the activations, because the mean square minus the square of the mean
  loses the digits that the two share (6.6 % of the logits in a group of one
  clip, against 0.5 %).
  """
  x = x.astype(_at_least_float32(x))
  axes = tuple(range(1, x.ndim - 1))
  mean = x.mean(axes, keepdims=True)
  # Any constant near the mean gives the same variance and derivatives; one that
  # is not differentiated spares the backward pass a pass. The last term is 0,
  # and so is its derivative, but not the one after that.
  near = lax.stop_gradient(mean)
  square = jnp.square(x - near).mean(axes, keepdims=True)
  var = square - jnp.square(mean - near)
  return Moments(mean.squeeze(axes), var.squeeze(axes))
