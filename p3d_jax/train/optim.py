"""The optimiser: rules by name over SGD or AdamW, all of optax.

What a parameter's name decides (weight decay, learning-rate multiplier, frozen
or not) is worked out once, in `plan`, and can be printed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from ml_collections import ConfigDict

from p3d_jax.checkpoint import tree


class Rule(NamedTuple):
  """How one parameter learns.

  Attributes:
    learns: whether it does.
    multiplier: of the learning rate.
    decays: whether weight decay applies.
  """

  learns: bool
  multiplier: float
  decays: bool


def plan(params: Any, optim: ConfigDict, freeze_norm: str) -> dict[str, Rule]:
  """Says how each parameter learns, by its name.

  Args:
    params: the tree of parameters, or of their shapes.
    optim: `config.optim`.
    freeze_norm: `config.norm.freeze`: scale and shift of frozen batch norms
      do not learn either.

  Returns:
    Name, as "res3/block02/spatial/conv/kernel", -> rule.

  Raises:
    ValueError: if a pattern fits no parameter.
  """
  names = list(tree.flatten(params))
  for pattern in [*(p for p, _ in optim.multipliers), *optim.freeze]:
    if not any(re.search(pattern, name) for name in names):
      raise ValueError(
        f"config.optim: {pattern!r} fits no parameter: names are like "
        f"{names[-1]!r}"
      )
  return {name: _rule(name, optim, freeze_norm) for name in names}


def _rule(name: str, optim: ConfigDict, freeze_norm: str) -> Rule:
  is_norm = "/bn/" in name
  frozen = any(re.search(pattern, name) for pattern in optim.freeze)
  if is_norm and freeze_norm == "all":
    frozen = True
  if is_norm and freeze_norm == "all_but_first":
    frozen = frozen or not name.startswith("stem/")
  multiplier = 1.0
  for pattern, factor in optim.multipliers:
    if re.search(pattern, name):
      multiplier *= factor
  return Rule(not frozen, multiplier, name.endswith("/kernel"))


def base_rate(config: ConfigDict) -> float:
  """Returns the learning rate that the schedule starts from."""
  optim = config.optim
  if optim.learning_rate is not None:
    return optim.learning_rate
  if config.init_from:
    return optim.init_learning_rate
  return optim.scratch_learning_rate


def learning_rate(config: ConfigDict) -> optax.Schedule:
  """Returns step -> learning rate, before the multipliers."""
  optim, steps, base = config.optim, config.train.steps, base_rate(config)
  if optim.schedule == "step":
    decay = optax.exponential_decay(
      base, optim.decay_every, optim.decay_factor, staircase=True
    )
  elif optim.schedule == "cosine":
    rise = optim.warmup
    cosine = optax.cosine_decay_schedule(base, max(steps - rise, 1))

    def decay(step: jax.Array) -> jax.Array:
      return cosine(jax.numpy.maximum(step - rise, 0))
  else:
    decay = optax.constant_schedule(base)
  if not optim.warmup:
    return decay
  return lambda step: (
    decay(step) * jax.numpy.minimum((step + 1) / optim.warmup, 1.0)
  )


def optimizer(config: ConfigDict, params: Any) -> optax.GradientTransformation:
  """Builds the optimiser of a config for a tree of parameters.

  Frozen parameters get no update and have no optimiser state. The norm that is
  clipped is that of the parameters that learn.

  Args:
    config: of `default()`'s fields.
    params: the tree of parameters, or of their shapes.

  Raises:
    ValueError: if a pattern fits no parameter.
  """
  optim = config.optim
  rules = plan(params, optim, config.norm.freeze)
  labels = tree.unflatten(
    {n: "learns" if r.learns else "frozen" for n, r in rules.items()}
  )
  decays = functools.partial(_by_name, lambda name, _: rules[name].decays)
  steps = []
  if optim.clip_norm:
    steps.append(optax.clip_by_global_norm(optim.clip_norm))
  decay = optax.add_decayed_weights(optim.weight_decay, mask=decays)
  if optim.name == "sgd":
    # As in Caffe the decay goes through the momentum; the rate does not, so
    # that the step after a decay of the rate is not the last one's size.
    steps += [decay, optax.trace(optim.momentum, nesterov=optim.nesterov)]
  else:
    steps += [optax.scale_by_adam(b1=optim.b1, b2=optim.b2), decay]
  steps += [
    optax.stateless(
      lambda updates, params: _by_name(
        lambda name, leaf: leaf * rules[name].multiplier, updates
      )
    ),
    optax.scale_by_learning_rate(learning_rate(config)),
  ]
  return optax.partition(
    {"learns": optax.chain(*steps), "frozen": optax.set_to_zero()}, labels
  )


def _by_name(value: Callable[[str, Any], Any], params: Any) -> Any:
  """Maps (name, leaf); the holes that optax leaves for others stay holes."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: value("/".join(entry.key for entry in path), leaf),
    params,
  )
