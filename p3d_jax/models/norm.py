"""Batch normalisation with live, ghost or moving statistics."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


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
  """

  use_running_average: bool = False
  momentum: float = 0.9
  epsilon: float = 1e-5
  group: int | None = None
  dtype: Any = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Normalises x (batch, ..., channels).

    Raises:
      ValueError: if the batch is not a multiple of `group`.
    """
    channels = (x.shape[-1],)
    scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
    ones, zeros = jnp.ones, jnp.zeros
    mean = self.variable("batch_stats", "mean", zeros, channels, jnp.float32)
    var = self.variable("batch_stats", "var", ones, channels, jnp.float32)
    if self.use_running_average or self.is_initializing():
      return self._normalize(x, mean.value, var.value, scale, bias)
    groups = self._groups(x.shape[0])
    grouped = x.reshape(groups, x.shape[0] // groups, *x.shape[1:])
    live_mean, live_var = _moments(grouped)
    keep = self.momentum
    new_mean = keep * mean.value + (1 - keep) * live_mean.mean(0)
    new_var = keep * var.value + (1 - keep) * live_var.mean(0)
    mean.value = new_mean.astype(jnp.float32)
    var.value = new_var.astype(jnp.float32)
    shape = (groups,) + (1,) * (x.ndim - 1) + channels
    live_mean, live_var = live_mean.reshape(shape), live_var.reshape(shape)
    y = self._normalize(grouped, live_mean, live_var, scale, bias)
    return y.reshape(x.shape)

  def _groups(self, batch: int) -> int:
    if self.group is None:
      return 1
    if self.group < 1 or batch % self.group:
      raise ValueError(
        f"norm_group is {self.group}: the batch of {batch} clips must be a "
        "multiple of it"
      )
    return batch // self.group

  def _normalize(
    self, x: Array, mean: Array, var: Array, scale: Array, bias: Array
  ) -> Array:
    # One multiply and one add an element; the rest is per channel.
    kind = _at_least_float32(x)
    mean, var, scale = (y.astype(kind) for y in (mean, var, scale))
    gain, shift = gain_and_shift(mean, var, scale, bias, self.epsilon)
    return (x * gain + shift).astype(self.dtype or x.dtype)


def gain_and_shift(
  mean: Array, var: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, Array]:
  """Returns what a channel is multiplied by and what is added then."""
  gain = scale * lax.rsqrt(var + epsilon)
  return gain, bias - mean * gain


def _at_least_float32(x: Array) -> Any:
  return jnp.promote_types(x.dtype, jnp.float32)


def _moments(x: Array) -> tuple[Array, Array]:
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
  return mean.squeeze(axes), var.squeeze(axes)
