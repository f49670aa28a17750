"""Counts against sums done by hand."""

import flax.linen as nn
import jax.numpy as jnp

from p3d_jax.models import convs, zoo
from p3d_jax.models.count import count
from p3d_jax.models.norm import BatchNorm


class Small(nn.Module):
  """A strided 1x3x3, a 3x1x1, a batch norm, a mean and a linear layer."""

  remat: bool = False

  @nn.compact
  def __call__(self, x):
    spatial = nn.remat(convs.SpatialConv) if self.remat else convs.SpatialConv
    x = spatial(8, strides=(1, 2, 2))(x)
    x = convs.TemporalConv(8)(x)
    x = BatchNorm(use_running_average=True)(x)
    return nn.Dense(5)(x.mean((1, 2, 3)))


# 4x6x10 pixels of 3 channels; the stride leaves 3x5.
PARAMETERS = 9 * 3 * 8 + 3 * 8 * 8 + 2 * 8 + 8 * 5 + 5
WORK = 4 * 3 * 5 * 8 * (9 * 3) + 4 * 3 * 5 * 8 * (3 * 8) + 8 * 5


def test_by_hand():
  assert (PARAMETERS, WORK) == (469, 24_520)
  assert count(Small(), (1, 4, 6, 10, 3)) == (PARAMETERS, 16, WORK)


def test_batch_multiplies_the_work_alone():
  assert count(Small(), (3, 4, 6, 10, 3)) == (PARAMETERS, 16, 3 * WORK)


def test_zeros_of_folded_kernels_are_no_work():
  module = zoo.build(None, width=8, stages=(1, 1, 1, 1), num_classes=5)
  shape = (1, 8, 32, 32, 3)
  found = count(module, shape)
  with convs.forced("lanes"):
    assert count(module, shape) == found


def test_inside_remat():
  assert count(Small(remat=True), (1, 4, 6, 10, 3)).multiply_adds == WORK


def test_foreign_module_without_parameters():
  class Mean(nn.Module):
    def __call__(self, x):
      return jnp.mean(x)

  assert count(Mean(), (1, 4, 6, 10, 3)) == (0, 0, 0)
