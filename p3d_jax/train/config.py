"""The default config: every field, with its source; and how it is checked.

An experiment is a file with a `get_config()` that changes about ten fields of
`default()`. The config is locked: a field that is not listed here is an error,
and code that reads a config has no defaults of its own. Where the paper states
no value the comment says so.
"""

from __future__ import annotations

import difflib
import math
import pathlib
import re
import runpy
import traceback
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags

from p3d_jax.data.clips import Augment
from p3d_jax.models import p3d, zoo
from p3d_jax.preprocess import Preprocessing


class ConfigError(ValueError):
  """A config that cannot be run: names the field, the value and the rule."""


def default() -> ConfigDict:
  """Returns the P3D run of the paper's UCF101 study (section 3.3, Table 1)."""
  config = ConfigDict()
  config.seed = 0  # of the initialisation, the order, the crops and dropout

  config.model = model = ConfigDict()
  model.name = "p3d63"  # a row of models/zoo.py; P3D on ResNet-50
  model.flavour = "released"  # a row of FLAVOURS in models/zoo.py
  # Letters of A, B, C, S, F in turn; three cycles, one a stage: "A,BC,S".
  model.schedule = "ABC"
  model.dropout = 0.9  # UCF101 study; 0.1 Sports-1M, 0.5 and 0.7 Kinetics
  model.dtype = "float32"  # or "bfloat16"; parameters stay float32
  model.precision = "default"  # of products: "default", "high", "highest"
  model.remat = False  # recompute blocks in the backward pass: less memory
  # What follows is None to take the row of the name or of the flavour.
  model.stages = config_dict.placeholder(tuple)  # blocks of res2 to res5
  model.width = config_dict.placeholder(int)  # channels of conv1
  model.rule = config_dict.placeholder(str)  # of B and C: RULES in blocks.py
  model.stem_pool = config_dict.placeholder(str)  # "ceil" or "padded"
  model.reduce_stride = config_dict.placeholder(bool)  # on the 1x1x1
  model.norm_epsilon = config_dict.placeholder(float)  # on variances
  # Deviation of the Gaussian that temporal kernels start from: "small" is all
  # that the authors state. None draws them as the other kernels (He).
  model.temporal_init_std = config_dict.placeholder(float)

  config.norm = norm = ConfigDict()
  # Which batch norms use and keep their moving statistics, scale and shift:
  # "none", "all_but_first" (the authors, from ImageNet weights) or "all".
  norm.freeze = "none"
  norm.momentum = 0.9  # share of the old value in the moving statistics
  norm.group = config_dict.placeholder(int)  # clips; None: the whole batch

  config.data = data = ConfigDict()
  data.dir = ""  # what `p3d data build` wrote, or the folder above it
  data.train_split = "train"  # as TFDS reads it: "train[:90%]"
  data.eval_split = "test"  # what is scored while training, and after

  config.preprocessing = pixels = ConfigDict()
  pixels.frames = 16  # frames a clip
  pixels.stride = 1  # frames from one frame of a clip to the next
  pixels.fps = config_dict.placeholder(float)  # None: the file's own
  # Height and width in pixels; (n,): the short side; (): as they are.
  pixels.resize = (182, 242)
  pixels.crop = (160, 160)  # height and width in pixels
  pixels.channels = "BGR"  # of the authors' weights; or "RGB"
  pixels.scale = 1.0  # pixels are multiplied by it first
  # Subtracted next; in the order of the channels, as std is.
  pixels.mean = (104.0, 117.0, 123.0)
  pixels.std = (1.0, 1.0, 1.0)  # they are divided by it last

  config.augment = augment = ConfigDict()
  augment.random_crop = True  # else the centre crop
  augment.scales = ()  # sides of a random crop as shares of the short side
  augment.flip = True  # half of the clips, left to right
  augment.brightness = 0.0  # largest change, as a share
  augment.contrast = 0.0  # likewise
  augment.saturation = 0.0  # likewise

  config.train = train = ConfigDict()
  train.batch = 128  # clips a step, over all devices
  train.steps = 7_500  # section 3.3
  train.accumulate = 1  # parts that a step's batch is computed in
  train.loss = "softmax"  # or "sigmoid", for several labels a video
  train.label_smoothing = 0.0  # share of the target spread over all classes
  train.ema = 0.0  # decay of the averaged parameters; 0 keeps none

  config.optim = optim = ConfigDict()
  optim.name = "sgd"  # or "adamw"
  optim.learning_rate = 0.001  # section 3.3; before the multipliers
  optim.schedule = "step"  # or "cosine", "constant"
  optim.decay_every = 3_000  # steps, of "step"
  optim.decay_factor = 0.1  # of "step"
  optim.warmup = 0  # steps of a linear rise from 0
  optim.momentum = 0.9  # not stated in the paper
  optim.nesterov = False  # of "sgd"
  optim.b1 = 0.9  # of "adamw"
  optim.b2 = 0.999  # of "adamw"
  optim.weight_decay = 5e-4  # not stated; never on batch norm and biases
  optim.clip_norm = 0.0  # largest norm of the gradient; 0 does not clip
  # (pattern, factor): regular expressions searched in names as
  # "res3/block02/spatial/conv/kernel". These are the prototxts' of fc.
  optim.multipliers = (("^head/fc/kernel", 10.0), ("^head/fc/bias", 20.0))
  optim.freeze = ()  # patterns of parameters that do not learn

  config.eval = evaluation = ConfigDict()
  evaluation.every = 500  # steps; 0: only at the end
  evaluation.clips = 20  # uniform clips a video, centre crop
  evaluation.batch = 8  # videos at once, over all devices

  config.checkpoint = checkpoint = ConfigDict()
  checkpoint.every = 500  # steps; the last step is always saved
  checkpoint.keep = 3  # newest steps kept, and besides:
  checkpoint.keep_best = 1  # steps of the highest video hit@1

  config.input = inputs = ConfigDict()
  inputs.workers = 0  # processes that decode; 0: threads of this one
  inputs.threads = 2  # that decode, in each process

  config.log = log = ConfigDict()
  # Steps a line of metrics.jsonl and TensorBoard; each evaluation and each
  # checkpoint ends one too.
  log.every = 20
  log.tensorboard = True  # event files in workdir/tensorboard
  return config.lock()


def load(file: str, overrides: Sequence[str] = ()) -> ConfigDict:
  """Runs a config file and applies `--config.x.y=v` flags.

  Args:
    file: path of a Python file with `get_config()`; what follows a colon is
      given to it.
    overrides: flags as typed.

  Raises:
    ConfigError: if the file or a flag is wrong, in one line.
  """
  config = _run(file)
  for typed in overrides:
    _check_name(typed, config)
  values = flags.FlagValues()
  argv = ["p3d", *overrides]
  try:
    config_flags.DEFINE_config_dict(
      "config", config, flag_values=values, sys_argv=argv
    )
    rest = values(argv)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
    raise ConfigError(_one_line(e)) from e
  if len(rest) > 1:
    raise ConfigError(f"{rest[1]!r} is no flag: write --config.FIELD=VALUE")
  return values.config


def _check_name(flag: str, config: ConfigDict) -> None:
  """Raises if a flag as typed names a field that is not there."""
  found = re.match(r"--?(?:no)?config\.([^=]*)", flag)
  at: Any = config
  for name in found[1].split(".") if found else ():
    if not isinstance(at, ConfigDict) or name not in at:
      names = list(at) if isinstance(at, ConfigDict) else []
      near = difflib.get_close_matches(name, names, 1)
      advice = f"; did you mean {near[0]!r}?" if near else ""
      raise ConfigError(
        f"{flag.partition('=')[0]}: the config has no field {name!r}{advice}"
      )
    at = at[name]


def _run(file: str) -> ConfigDict:
  """Returns what a config file's get_config() gives, locked."""
  path, colon, argument = file.partition(":")
  if not pathlib.Path(path).is_file():
    raise ConfigError(f"--config is {file!r}: there is no such file")
  try:
    get_config = runpy.run_path(path)["get_config"]
    config = get_config(argument) if colon else get_config()
  except (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
  ) as error:
    lines = [
      frame.lineno
      for frame in traceback.extract_tb(error.__traceback__)
      if frame.filename == path
    ]
    at = f"{path}:{lines[-1]}" if lines else path
    raise ConfigError(f"{at}: {_one_line(error)}") from error
  if not isinstance(config, ConfigDict):
    raise ConfigError(f"{path}: get_config() must return a ConfigDict")
  return config.lock()


def _one_line(error: Exception) -> str:
  """The message of an error in one line, without ml_collections' advice."""
  text = str(error.args[0] if error.args else error).split("\n")[0].strip()
  return f"{type(error).__name__}: {text}" if len(text) < 12 else text


def preprocessing(config: ConfigDict) -> Preprocessing:
  """Returns what the config says of pixels."""
  fields = config.preprocessing.to_dict()
  for name in ("resize", "crop"):
    if len(fields[name]) == 1:
      fields[name] = fields[name][0]
  fields["resize"] = fields["resize"] or None
  return Preprocessing(**fields)


def augmentation(config: ConfigDict) -> Augment:
  """Returns how the config varies training clips."""
  a = config.augment
  return Augment(
    random_crop=a.random_crop,
    scales=tuple(a.scales),
    flip=a.flip,
    jitter=(a.brightness, a.contrast, a.saturation),
  )


def network(config: ConfigDict, num_classes: int) -> p3d.P3D:
  """Builds the network of the config, as it trains."""
  m = config.model
  fields: dict[str, Any] = {
    name: m[name]
    for name in (
      "stages",
      "width",
      "rule",
      "stem_pool",
      "reduce_stride",
      "norm_epsilon",
    )
    if m[name] is not None
  }
  if m.temporal_init_std is not None:
    fields["temporal_init"] = p3d.nn.initializers.normal(m.temporal_init_std)
  return zoo.build(
    m.name,
    num_classes=num_classes,
    flavour=m.flavour,
    schedule=tuple(m.schedule.split(",")) if "," in m.schedule else m.schedule,
    dropout=m.dropout,
    dtype=jnp.dtype(m.dtype),
    precision=m.precision,
    remat=m.remat,
    norm_momentum=config.norm.momentum,
    norm_group=config.norm.group,
    freeze_norm=config.norm.freeze,
    **fields,
  )


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
      raise ConfigError(f"config.{part}: {_one_line(error)}") from error
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
  # What videos are read as; flow is not read from them.
  "preprocessing.channels": ("RGB", "BGR"),
  "train.loss": ("softmax", "sigmoid"),
  "optim.name": ("sgd", "adamw"),
  "optim.schedule": ("step", "cosine", "constant"),
  "model.precision": ("default", "high", "highest"),
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
  "input.workers": (0, 1024),
  "input.threads": (1, 1024),
  "log.every": (1, _MANY),
}


def _check_values(config: ConfigDict) -> None:
  for field, values in _CHOICES.items():
    value = _get(config, field)
    if value not in values:
      raise ConfigError(
        f"config.{field} is {value!r}: it must be one of {', '.join(values)}"
      )
  for field, (least, most) in _BOUNDS.items():
    value = _get(config, field)
    if not least <= value <= most:
      raise ConfigError(
        f"config.{field} is {value}: it must be between {least} and {most}"
      )


def _get(config: ConfigDict, field: str) -> Any:
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


def _check_batch(config: ConfigDict, devices: int) -> None:
  train, group = config.train, config.norm.group
  rows = train.batch // train.accumulate
  if train.batch % train.accumulate or rows % devices:
    raise ConfigError(
      f"config.train.batch is {train.batch}: it must be a multiple of "
      f"train.accumulate ({train.accumulate}) times the devices ({devices})"
    )
  if config.eval.batch % devices:
    raise ConfigError(
      f"config.eval.batch is {config.eval.batch}: it must be a multiple of "
      f"the devices ({devices})"
    )
  if group is not None and (group < 1 or rows % group):
    raise ConfigError(
      f"config.norm.group is {group}: it must divide the {rows} clips of "
      "train.batch / train.accumulate"
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
