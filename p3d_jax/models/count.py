"""Counts parameters and multiply-adds of a network, without running it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import core

from p3d_jax.models import convs, zoo
from p3d_jax.models import schedule as schedules


class Count(NamedTuple):
  """What a network costs.

  Attributes:
    parameters: numbers that are trained.
    statistics: moving means and variances.
    multiply_adds: of one forward pass of the clips, in convolutions and fc,
      taps on padding counted; FLOPs are twice that.
  """

  parameters: int
  statistics: int
  multiply_adds: int


def count(
  module: nn.Module, clips: tuple[int, ...] = (1, 16, 160, 160, 3)
) -> Count:
  """Counts a network from the shapes it traces.

  Args:
    module: of this zoo, or any linen module that takes clips.
    clips: shape (batch, time, height, width, channels).
  """
  x = jax.ShapeDtypeStruct(clips, jnp.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), x)
  sizes = {
    name: sum(leaf.size for leaf in jax.tree.leaves(tree))
    for name, tree in variables.items()
  }
  with convs.forced("direct"):  # others add zeros, or leave padding out
    jaxpr = jax.make_jaxpr(lambda *given: module.apply(*given))(variables, x)
  work = sum(_multiply_adds(e) for e in _equations(jaxpr.jaxpr))
  return Count(sizes.get("params", 0), sizes.get("batch_stats", 0), work)


def _equations(jaxpr: core.Jaxpr) -> Iterator[Any]:
  """All equations, those inside jit, remat and custom derivatives too."""
  for equation in jaxpr.eqns:
    yield equation
    for inner in core.jaxprs_in_params(equation.params):
      yield from _equations(inner)


def _multiply_adds(equation: Any) -> int:
  if equation.primitive.name == "dot_general":
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    taps = math.prod(shape[axis] for axis in contracted)
  elif equation.primitive.name == "conv_general_dilated":
    kernel = equation.invars[1].aval.shape
    spec = equation.params["dimension_numbers"].rhs_spec
    taps = math.prod(kernel) // kernel[spec[0]]
  else:
    return 0
  return taps * math.prod(equation.outvars[0].aval.shape)


def table(schedule: str = "ABC", num_classes: int = 101) -> str:
  """Returns the networks of the zoo as a Markdown table.

  Args:
    schedule: letters over res2 to res4.
    num_classes: of the head that is counted.
  """
  clips = (1, 16, 160, 160, 3)
  lines = [
    "| name | layers | parameters | multiply-adds | clip |",
    "|---|---|---|---|---|",
  ]
  for name in zoo.MODELS:
    module = zoo.build(name, num_classes=num_classes, schedule=schedule)
    found = count(module, clips)
    layers = schedules.depth(schedule, module.stages)
    lines.append(
      f"| {name} | {layers} | {found.parameters:,} | "
      f"{found.multiply_adds / 1e9:.3f} G | "
      f"{'x'.join(map(str, clips[1:4]))} |"
    )
  return "\n".join(lines)
