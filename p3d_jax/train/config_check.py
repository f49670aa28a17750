"""Refuses a config that cannot be run, in one line, before anything runs."""

from __future__ import annotations

import math
import re
from typing import Any

from ml_collections import ConfigDict

from p3d_jax.models import p3d, zoo
from p3d_jax.preprocess import CHANNELS
from p3d_jax.train import sharding
from p3d_jax.train.config import (
  ConfigError,
  augmentation,
  default,
  network,
  preprocessing,
)
from p3d_jax.train.config_file import one_line


def check(config: ConfigDict, devices: int = 1) -> None:
  """Refuses an impossible config before anything runs.

  Args:
    config: of `default()`'s fields.
    devices: that a batch is split over.

  Raises:
    ConfigError: with the field, its value and the rule.
  """
  _same_fields(default(), config)
  _check_values(config)
  _check_batch(config, devices)
  for part, build in (
    ("model", lambda config: network(config, num_classes=2)),
    ("preprocessing", preprocessing),
    ("augment", augmentation),
  ):
    try:
      build(config)
    except (ValueError, TypeError) as error:
      raise ConfigError(f"config.{part}: {one_line(error)}") from error
  if min(preprocessing(config).crop_size) < p3d.MIN_SIZE:
    raise ConfigError(
      f"config.preprocessing.crop is {config.preprocessing.crop}: the networks "
      f"take {p3d.MIN_SIZE}x{p3d.MIN_SIZE} pixels and more"
    )
  _check_patterns(config)
  if not config.data.dir:
    raise ConfigError(
      "config.data.dir is empty: it must be a folder that `p3d data build` "
      "wrote"
    )


_MANY = 10**12
_CHOICES = {
  "model.name": tuple(zoo.MODELS),
  "model.flavour": tuple(zoo.FLAVOURS),
  "model.dtype": ("float32", "bfloat16"),
  "norm.freeze": p3d.FREEZE_NORM,
  "preprocessing.channels": tuple(CHANNELS),
  "train.loss": ("softmax", "sigmoid"),
  "optim.name": ("sgd", "adamw"),
  "optim.schedule": ("step", "cosine", "constant"),
  "model.precision": ("default", "high", "highest"),
  "mesh.gather": (None, "res2", "res3", "res4", "res5"),
}
_BOUNDS: dict[str, tuple[float, float]] = {
  "seed": (0, 2**32 - 1),
  "model.dropout": (0, 0.999_999),
  "norm.momentum": (0, 0.999_999),
  "train.batch": (1, _MANY),
  "train.steps": (1, _MANY),
  "train.accumulate": (1, _MANY),
  "train.label_smoothing": (0, 0.999),
  "train.ema": (0, 0.999_999),
  "optim.learning_rate": (0, 1e6),
  "optim.scratch_learning_rate": (0, 1e6),
  "optim.init_learning_rate": (0, 1e6),
  "optim.fresh_head_kernel": (0, 1e6),
  "optim.fresh_head_bias": (0, 1e6),
  "optim.decay_every": (1, _MANY),
  "optim.decay_factor": (0, 1),
  "optim.warmup": (0, _MANY),
  "optim.momentum": (0, 0.999_999),
  "optim.b1": (0, 0.999_999),
  "optim.b2": (0, 0.999_999),
  "optim.weight_decay": (0, 1e3),
  "optim.clip_norm": (0, 1e9),
  "eval.every": (0, _MANY),
  "eval.clips": (1, 10_000),
  "eval.batch": (1, _MANY),
  "checkpoint.every": (1, _MANY),
  "checkpoint.keep": (1, _MANY),
  "checkpoint.keep_best": (0, _MANY),
  "mesh.fsdp": (1, _MANY),
  "mesh.space": (1, _MANY),
  "profile.start": (0, _MANY),
  "profile.steps": (0, 10_000),
  "watch.stall": (0, 1e9),
  "watch.lost": (1, 1e9),
  "input.workers": (0, 1024),
  "input.threads": (1, 1024),
  "input.timeout": (0, 1e6),
  "input.max_replaced": (0, 1),
  "log.every": (1, _MANY),
}

_MAY_BE_NONE = ("optim.learning_rate",)


def _check_values(config: ConfigDict) -> None:
  for field, values in _CHOICES.items():
    value = get(config, field)
    if value not in values:
      known = ", ".join(map(str, values))
      raise ConfigError(
        f"config.{field} is {value!r}: it must be one of {known}"
      )
  for field, (least, most) in _BOUNDS.items():
    value = get(config, field)
    if value is None and field in _MAY_BE_NONE:
      continue
    if not least <= value <= most:
      raise ConfigError(
        f"config.{field} is {value}: it must be between {least} and {most}"
      )


def get(config: ConfigDict, field: str) -> Any:
  """Returns the value of a field as "optim.learning_rate"."""
  value: Any = config
  for name in field.split("."):
    value = value[name]
  return value


def _check_patterns(config: ConfigDict) -> None:
  """Raises if a multiplier or a pattern is none; `optim.plan` fits them."""
  optim = config.optim
  for pair in optim.multipliers:
    if not (
      isinstance(pair, tuple)
      and len(pair) == 2
      and isinstance(pair[0], str)
      and isinstance(pair[1], int | float)
      and 0 <= pair[1] < math.inf
    ):
      raise ConfigError(
        f"config.optim.multipliers has {pair!r}: each must be (pattern, factor)"
      )
  for pattern in [*(p for p, _ in optim.multipliers), *optim.freeze]:
    try:
      re.compile(pattern)
    except (re.error, TypeError) as error:
      raise ConfigError(
        f"config.optim: {pattern!r} is no regular expression: {error}"
      ) from error


def mesh_sizes(config: ConfigDict) -> dict[str, Any]:
  """Returns what `sharding.mesh` takes."""
  return {name: config.mesh[name] for name in sharding.AXES}


def _check_batch(config: ConfigDict, devices: int) -> None:
  try:
    data, fsdp, space = sharding.mesh_sizes(devices, **mesh_sizes(config))
  except ValueError as error:
    raise ConfigError(f"config.{error}") from None
  train, group, parts = config.train, config.norm.group, data * fsdp
  rows = train.batch // train.accumulate
  if train.batch % train.accumulate or rows % parts:
    raise ConfigError(
      f"config.train.batch is {train.batch}: it must be a multiple of "
      f"train.accumulate ({train.accumulate}) times the {parts} devices of "
      f"mesh.data x mesh.fsdp; {_what_divides(config, parts, space)}"
    )
  if config.eval.batch % parts:
    raise ConfigError(
      f"config.eval.batch is {config.eval.batch}: it must be a multiple of the "
      f"{parts} devices of mesh.data x mesh.fsdp; it changes no score, so take "
      f"{-(-config.eval.batch // parts) * parts}"
    )
  if group is not None and (group < 1 or rows % group):
    raise ConfigError(
      f"config.norm.group is {group}: it must divide the {rows} clips of "
      "train.batch / train.accumulate"
    )


def _what_divides(config: ConfigDict, parts: int, space: int) -> str:
  """Says what to change so that a batch divides, and the recipe stays."""
  batch, accumulate = config.train.batch, config.train.accumulate
  for fewer in range(accumulate, 0, -1):
    if not batch % (fewer * parts):
      return f"train.accumulate={fewer} does, or another number of devices"
  for wider in (2, 4, 8, 16):
    if not parts % wider and not batch % (accumulate * (parts // wider)):
      return (
        f"mesh.space={space * wider} does, {space * wider} devices a clip, or "
        "another number of devices"
      )
  fits = max(n for n in range(1, parts + 1) if not batch % n)
  return (
    f"no train.accumulate and no mesh.space does: take {fits * space} devices"
  )


def _same_fields(known: ConfigDict, config: ConfigDict, at: str = "") -> None:
  """Raises if a config, however it was made, lacks a field or has another."""
  missing, extra = set(known) - set(config), set(config) - set(known)
  if missing or extra:
    raise ConfigError(
      f"config{at}: missing {sorted(missing)}, unknown {sorted(extra)}; "
      "start from p3d_jax.train.config.default()"
    )
  for name in known:
    if isinstance(known[name], ConfigDict):
      _same_fields(known[name], config[name], f"{at}.{name}")
