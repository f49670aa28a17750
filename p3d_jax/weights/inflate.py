"""2D parameters -> Pseudo-3D parameters, tree in, tree out.

Every 2D kernel becomes a kernel of one frame, as it is; the temporal kernels
are new. The authors drew them from a Gaussian with a small deviation. With
`exact` they are chosen so that a clip of one repeated frame gives the 2D
network's own logits, whatever the schedule and the rule.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from p3d_jax.models import blocks, p3d, schedule
from p3d_jax.weights import fill, names
from p3d_jax.weights.merge import WeightsError

Leaves = Mapping[str, np.ndarray]


class Made(NamedTuple):
  """A leaf of the inflated network.

  Attributes:
    value: its numbers, float32.
    source: the 2D leaf that it was made of, or "".
    fresh: how it, or a part of it, was drawn; "" if none was.
  """

  value: np.ndarray
  source: str = ""
  fresh: str = ""


def inflate(
  flat: Leaves,
  module: p3d.P3D,
  channels: int,
  *,
  exact: bool = False,
  temporal_std: float = 0.01,
  seed: int = 0,
) -> dict[str, Made]:
  """Makes the leaves of a P3D from those of a ResNet.

  Args:
    flat: leaves of the 2D network (schedule "S") by name, float32. Without its
      head, the P3D gets a new one.
    module: the network to fill; of the same stages and width.
    channels: of its input; another number than that of the 2D network's takes
      the mean of conv1 over its inputs for each.
    exact: choose the temporal filters so that a clip of one repeated frame
      gives the 2D network's logits.
    temporal_std: deviation of the Gaussian that they are drawn from else.
    seed: of what is drawn.

  Returns:
    All leaves of the module by name.

  Raises:
    WeightsError: if a leaf has no source, or one of the 2D network no place.
  """
  shapes = fill.leaf_shapes(module, channels)
  inflation = Inflation(module, exact, temporal_std, seed)
  made = {
    leaf: inflation.leaf(leaf, shape, flat) for leaf, shape in shapes.items()
  }
  if rest := sorted(set(flat) - {leaf.source for leaf in made.values()}):
    raise WeightsError(
      f"the 2D network has {rest[0]}, for which {module.stages} blocks of "
      f"{module.schedule} have no place"
    )
  return made


class Inflation(NamedTuple):
  """How leaves are made.

  Attributes:
    module: the network to fill.
    exact: as in `inflate`.
    temporal_std: as there.
    seed: as there.
  """

  module: p3d.P3D
  exact: bool
  temporal_std: float
  seed: int

  def leaf(self, leaf: str, shape: tuple[int, ...], flat: Leaves) -> Made:
    """Makes one leaf."""
    found = names.parse(leaf)
    if found.part == "temporal":
      return self._temporal(found, shape, leaf)
    # F's 3x3x3 stands where the 3x3 stood.
    source = leaf.replace("/full/", "/spatial/")
    if source not in flat and found.part == "head":
      return self._head(found, shape, leaf)
    if source not in flat:
      raise WeightsError(f"{leaf} has no source in the 2D network")
    value = flat[source]
    if value.shape == shape:
      return Made(value, source)
    if found.part == "stem" and value.shape[3] != shape[3]:
      return Made(_spread(value, shape), source)
    if found.part == "full":
      return self._full(value, shape, leaf)._replace(source=source)
    raise WeightsError(f"{source} is {value.shape} in 2D: {leaf} is {shape}")

  def _temporal(
    self, found: names.Leaf, shape: tuple[int, ...], leaf: str
  ) -> Made:
    """A temporal kernel, or its batch norm, which passes on what it gets."""
    if found.name == "kernel":
      if not self.exact:
        how = f"temporal filters, Gaussian of deviation {self.temporal_std}"
        return Made(self._gaussian(leaf, shape, self.temporal_std), fresh=how)
      kernel = np.zeros(shape, np.float32)
      kernel[1, 0, 0] = self._gain(found) * np.eye(shape[3], dtype=np.float32)
      return Made(kernel, fresh="temporal filters, exact on repeated frames")
    value = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "var": 1.0}[found.name]
    if self.exact and found.name == "var":
      value -= self.module.norm_epsilon  # so that nothing is divided
    how = "batch norms of the temporal filters"
    return Made(np.full(shape, value, np.float32), fresh=how)

  def _gain(self, found: names.Leaf) -> float:
    """What t must be, as a multiple of s, for the mixer to give s.

    A: relu(t) = s. B and C: spatial * s + temporal * t = s; in B, where t is
    made of x and not of s, that is t = 0 because every rule has spatial = 1.
    """
    laid = schedule.letters(self.module.schedule, self.module.stages)
    letter = laid[found.stage - 2][found.block]
    if letter == "A":
      return 1.0
    join = blocks.join_of(self.module.rule, letter)
    return (1 - join.spatial) / join.temporal

  def _full(self, value: np.ndarray, shape: tuple[int, ...], leaf: str) -> Made:
    """A 3x3x3 kernel with the 2D one as its middle tap."""
    if self.exact:
      kernel, how = np.zeros(shape, np.float32), "zero"
    else:
      kernel = self._gaussian(leaf, shape, self.temporal_std)
      how = f"Gaussian of deviation {self.temporal_std}"
    kernel[1] = value[0]
    return Made(kernel, fresh=f"outer taps of the 3x3x3 filters, {how}")

  def _head(self, found: names.Leaf, shape: tuple[int, ...], leaf: str) -> Made:
    how = f"head of {shape[-1]} classes, Gaussian of deviation 1/sqrt(inputs)"
    if found.name == "bias":
      return Made(np.zeros(shape, np.float32), fresh=how)
    return Made(self._gaussian(leaf, shape, shape[0] ** -0.5), fresh=how)

  def _gaussian(
    self, leaf: str, shape: tuple[int, ...], deviation: float
  ) -> np.ndarray:
    """Draws a kernel that depends on the seed and on the leaf's name alone."""
    rng = np.random.default_rng((self.seed, zlib.crc32(leaf.encode())))
    return deviation * rng.standard_normal(shape, np.float32)


def _spread(kernel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """The mean of a kernel over its inputs, for each of others."""
  mean = kernel.astype(np.float64).mean(3, keepdims=True).astype(np.float32)
  return np.broadcast_to(mean, shape).copy()
