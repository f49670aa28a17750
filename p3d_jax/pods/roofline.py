"""The least time that a step can take, by what each part of a chip can do.

They are bounds and no forecast: a real step computes, moves and sends partly
one after the other, and small layers leave most of a matrix unit idle.
"""

from __future__ import annotations

import dataclasses

from p3d_jax.pods.cost import Cost
from p3d_jax.train.chips import Chip

# Passes of a TPU's bfloat16 matrix unit over float32 numbers: docs.jax.dev,
# jax.lax.Precision. Of bfloat16 numbers it is always one.
PASSES = {"default": 1, "high": 3, "highest": 6}


@dataclasses.dataclass(frozen=True)
class Bounds:
  """The least time of a step, in seconds.

  Attributes:
    compute: for its products, at the chip's peak in bfloat16.
    memory: to move its bytes.
    interconnect: to send the bytes of its collectives over all links.
  """

  compute: float
  memory: float
  interconnect: float

  @property
  def binds(self) -> str:
    """The name of the largest."""
    return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]

  @property
  def step(self) -> float:
    """The largest."""
    return max(dataclasses.astuple(self))


def bounds(cost: Cost, chip: Chip, passes: int = 1) -> Bounds:
  """Returns the bounds of a step.

  Args:
    cost: of a step, a chip.
    chip: that runs it.
    passes: of the matrix unit, see `PASSES`.
  """
  return Bounds(
    compute=passes * cost.flop / chip.peak_flops,
    memory=cost.bytes / chip.hbm_bandwidth,
    interconnect=sum(one.sent for one in cost.collectives)
    / chip.interconnect_bandwidth,
  )
