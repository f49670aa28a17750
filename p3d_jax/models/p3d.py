"""The Pseudo-3D ResNet: stem, stages, head.

Qiu, Yao and Mei, "Learning Spatio-Temporal Representation with Pseudo-3D
Residual Networks", ICCV 2017. The default fields are the network the authors
released; tests/models/test_table.py holds it against their layer table.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from p3d_jax.models import blocks, convs, lanes, pools, schedule
from p3d_jax.models.norm import BatchNorm
from p3d_jax.models.stem import Stem

Array = jax.Array

MIN_SIZE = 32  # pixels: the five halvings of height and width
FREEZE_NORM = ("none", "all_but_first", "all")
DTYPES = ("float32", "bfloat16", "float64")  # the last is for tests


class Stage(nn.Module):
  """Bottlenecks `block00`, `block01`, ..., the first with the stride.

  Attributes:
    letters: one a block.
    width: channels inside a bottleneck; four times as many come out.
    stride: of height and width in the first block, in pixels.
    block: makes a bottleneck, called as `block(letter, width, stride, name)`.
  """

  letters: str
  width: int
  stride: int
  block: Callable[..., nn.Module] = blocks.Bottleneck

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, dict[str, Array]]:
    """Returns the last block's output and those of all, by name."""
    outputs = {}
    for i, letter in enumerate(self.letters):
      name, stride = f"block{i:02d}", self.stride if i == 0 else 1
      x = self.block(letter, self.width, stride, name=name)(x)
      outputs[name] = x
    return x, outputs


class Dropout(nn.Module):
  """Drops features in training, for a whole batch or for a part of one.

  The draw is `flax.linen.Dropout`'s, of the whole batch. Clips that are a part
  of one say which, and get their rows of it: a batch computed in parts drops
  what it would drop as a whole.

  Attributes:
    rate: share of the features that become 0; the others are scaled up.
  """

  rate: float

  @nn.compact
  def __call__(
    self, x: Array, train: bool, places: tuple[Array, int] | None = None
  ) -> Array:
    """Returns x (batch, channels), some of it 0 in training; see `P3D`."""
    if not train or not self.rate:
      return x
    keep, rows = 1 - self.rate, len(x) if places is None else places[1]
    mask = jax.random.bernoulli(
      self.make_rng("dropout"), keep, (rows, x.shape[-1])
    )
    kept = mask if places is None else mask[places[0]]
    return jnp.where(kept, x / keep, 0)


class Head(nn.Module):
  """Dropout and the linear classifier `fc`, in float32 at least.

  Maps features (batch, channels) to logits (batch, num_classes).

  Attributes:
    num_classes: number of logits.
    dropout: share of the features that are dropped in training.
    kernel_init: initialiser of the kernel (channels, num_classes).
    precision: of the product; None takes the highest, which costs nothing here.
  """

  num_classes: int
  dropout: float = 0.0
  kernel_init: convs.Initializer = nn.initializers.lecun_normal()
  precision: Any = None

  @nn.compact
  def __call__(
    self,
    x: Array,
    train: bool = False,
    places: tuple[Array, int] | None = None,
  ) -> Array:
    """Returns logits; training draws from the "dropout" stream."""
    x = Dropout(self.dropout)(x, train, places)
    return nn.Dense(
      self.num_classes,
      kernel_init=self.kernel_init,
      precision=self.precision or jax.lax.Precision.HIGHEST,
      name="fc",
    )(x)


class P3D(nn.Module):
  """A Pseudo-3D ResNet; the fields are rows of the tables in zoo.py.

  Attributes:
    num_classes: number of logits; None is the trunk, which returns pool5.
    stages: blocks in res2, res3, res4 and res5.
    width: channels of conv1 and inside res2; doubled at each later stage.
    schedule: letters over res2 to res4, see schedule.py.
    rule: what blocks B and C compute, a key of `blocks.RULES`.
    stem_pool: where pool1's windows lie, a key of `pools.STEM_POOLS`.
    reduce_stride: whether the 1x1x1 carries the spatial stride, or the 3x3.
    dropout: before fc; 0.1 for Sports-1M, 0.5 for Kinetics RGB, 0.7 for flow,
      0.9 in the UCF101 study (Table 1; the others are in the prototxts).
    norm_epsilon: added to variances.
    norm_momentum: share of the old value in the moving statistics.
    norm_group: clips whose statistics are taken together; None: the batch.
    freeze_norm: which batch norms use their moving statistics in training:
      "none", "all_but_first" (the release) or "all". A matter of training and
      not of weights, so a checkpoint does not record it.
    dtype: of the computation; parameters, statistics and logits are float32.
    precision: of the products, as in `jax.lax.Precision`.
    remat: recompute each block in the backward pass instead of storing it.
    kernel_init: initialiser of the convolutions' kernels.
    temporal_init: of the temporal kernels; None takes `kernel_init`.
    head_init: of the kernel of fc.
    norm: makes a normalisation from use_running_average, momentum, epsilon,
      dtype and name; `flax.linen.BatchNorm` fits.
    activation: elementwise.
    on_stage: called with "res2" to "res5" and the clips that the stage takes,
      returns them: where a mesh places them (train/sharding.py). On TPUs those
      of res2 may be folded: half the steps, twice the channels (lanes.py).
  """

  num_classes: int | None = None
  stages: Sequence[int] = (3, 4, 6, 3)
  width: int = 64
  schedule: schedule.Schedule = "ABC"
  rule: str = "released"
  stem_pool: str = "ceil"
  reduce_stride: bool = True
  dropout: float = 0.5
  norm_epsilon: float = 1e-5
  norm_momentum: float = 0.9
  norm_group: int | None = None
  freeze_norm: str = "none"
  dtype: Any = jnp.float32
  precision: Any = None
  remat: bool = False
  kernel_init: convs.Initializer = convs.he_normal
  temporal_init: convs.Initializer | None = None
  head_init: convs.Initializer = nn.initializers.lecun_normal()
  norm: blocks.ModuleDef = BatchNorm
  activation: Callable[[Array], Array] = nn.relu
  on_stage: Callable[[str, Array], Array] | None = None

  def __post_init__(self) -> None:
    """Refuses impossible fields before a device is touched."""
    check_fields(self)
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    clips: Array,
    train: bool = False,
    endpoints: Sequence[str] = (),
    places: tuple[Array, int] | None = None,
  ) -> Any:
    """Scores clips.

    Args:
      clips: (batch, time >= 1, height >= 32, width >= 32, channels),
        preprocessed, floating point.
      train: whether dropout and live batch norm are on; needs the "dropout"
        stream, and "batch_stats" to be mutable.
      endpoints: names of activations to return too: "stem" (after pool1),
        "res2" to "res5" (before the temporal pool that follows), each block as
        "res3/block02", "pool5" (batch, 32 width), "logits" and "prob".
      places: int (batch,), where the clips stand in a larger batch that they
        are a part of, and its size: dropout draws for all of it. None: they are
        the batch.

    Returns:
      Logits (batch, num_classes), or pool5 of the trunk; with endpoints, that
      and a dict of just those.

    Raises:
      ValueError: if the clips are of the wrong kind or an endpoint is unknown.
    """
    check_clips(clips)
    check_endpoints(endpoints, self.stages, self.num_classes)
    found: dict[str, Array] = {}
    x, steps = clips.astype(self.dtype), self._steps(clips)
    x = Stem(
      self.width,
      self.stem_pool,
      self._parts(train, first=True, steps=steps),
      name="stem",
    )(x)
    found |= _unfolded({"stem": x}, steps)
    laid = schedule.letters(self.schedule, self.stages)
    for i, letters in enumerate(laid):
      name, block = f"res{i + 2}", self._block(train, steps)
      stage = Stage(letters, self.width << i, 2 if i else 1, block, name=name)
      if self.on_stage is not None:
        x = self.on_stage(name, x)
      x, outputs = stage(x)
      outputs = {f"{name}/{key}": value for key, value in outputs.items()}
      found |= _unfolded(outputs | {name: x}, steps)
      if i < 3:
        x = pools.temporal_pool(x, steps)
      steps = 1  # the other stages are wide enough
    # res5 runs on each step that is left; the mean is over steps and pixels.
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    x = found["pool5"] = x.mean((1, 2, 3))
    if self.num_classes is not None:
      x = Head(
        self.num_classes,
        self.dropout,
        kernel_init=self.head_init,
        precision=self.precision,
        name="head",
      )(x, train, places)
      found |= {"logits": x, "prob": jax.nn.softmax(x)}
    return (x, {name: found[name] for name in endpoints}) if endpoints else x

  def _steps(self, clips: Array) -> int:
    """Steps beside each other in the stem and in res2, see lanes.py."""
    # The stem is normalised after its pool: known to be the same of these.
    known = self.norm is BatchNorm and self.activation is nn.relu
    if convs.default_form() != "lanes" or self.is_initializing() or not known:
      return 1
    return lanes.STEPS if lanes.fit(clips, self.width) else 1

  def _parts(
    self, train: bool, first: bool = False, steps: int = 1
  ) -> blocks.Parts:
    frozen = self.freeze_norm == "all" or (
      self.freeze_norm == "all_but_first" and not first
    )
    norm = functools.partial(
      self.norm,
      use_running_average=frozen or not train,
      momentum=self.norm_momentum,
      epsilon=self.norm_epsilon,
      dtype=self.dtype,
    )
    if self.norm_group is not None:
      norm = functools.partial(norm, group=self.norm_group)
    if steps > 1:
      norm = functools.partial(norm, steps=steps)
    return blocks.Parts(
      norm=norm,
      activation=self.activation,
      kernel_init=self.kernel_init,
      temporal_init=self.temporal_init,
      dtype=self.dtype,
      precision=self.precision,
      steps=steps,
    )

  def _block(self, train: bool, steps: int) -> Callable[..., nn.Module]:
    block = nn.remat(blocks.Bottleneck) if self.remat else blocks.Bottleneck
    return functools.partial(
      block,
      rule=self.rule,
      reduce_stride=self.reduce_stride,
      parts=self._parts(train, steps=steps),
    )


def _unfolded(outputs: dict[str, Array], steps: int) -> dict[str, Array]:
  if steps == 1:
    return outputs
  return {name: lanes.unfold(value) for name, value in outputs.items()}


def abstract_variables(module: P3D, channels: int) -> Any:
  """Returns shapes and types of parameters and statistics, making no arrays.

  Args:
    module: the network.
    channels: of its clips.

  Returns:
    {"params": ..., "batch_stats": ...} with `jax.ShapeDtypeStruct` leaves.
  """
  # None of them depends on the steps or the size of the clips.
  clips = jax.ShapeDtypeStruct(
    (1, 1, MIN_SIZE, MIN_SIZE, channels), jnp.float32
  )
  return jax.eval_shape(module.init, jax.random.key(0), clips)


def endpoint_names(
  stages: Sequence[int], num_classes: int | None
) -> tuple[str, ...]:
  """Returns the names of all endpoints, in the order of the network."""
  names = ["stem"]
  for i, count in enumerate(stages):
    names += [f"res{i + 2}/block{b:02d}" for b in range(count)]
    names.append(f"res{i + 2}")
  names.append("pool5")
  return (*names, "logits", "prob") if num_classes is not None else (*names,)


def check_endpoints(
  endpoints: Sequence[str], stages: Sequence[int], num_classes: int | None
) -> None:
  """Raises a ValueError if an endpoint is not one of the network's."""
  known = endpoint_names(stages, num_classes)
  for name in [endpoints] if isinstance(endpoints, str) else endpoints:
    if isinstance(endpoints, str) or name not in known:
      raise ValueError(
        f"endpoints has {name!r}: it must be a tuple of names of "
        f"{', '.join(known)}"
      )


def check_clips(clips: Array) -> None:
  """Raises a ValueError if clips are not what the network takes."""
  rule = (
    "they must be (batch, time, height, width, channels), preprocessed to "
    f"floating point, of at least 1 step and {MIN_SIZE}x{MIN_SIZE} pixels"
  )
  if clips.ndim != 5 or not jnp.issubdtype(clips.dtype, jnp.floating):
    raise ValueError(f"clips are {clips.dtype} {clips.shape}: {rule}")
  _, time, height, width, _ = clips.shape
  if time < 1 or min(height, width) < MIN_SIZE:
    raise ValueError(f"clips are {clips.shape}: {rule}")


def check_fields(module: P3D) -> None:
  """Raises a ValueError if a field of the network is not possible."""
  schedule.letters(module.schedule, module.stages)
  tables: dict[str, Iterable[str]] = {
    "rule": blocks.RULES,
    "stem_pool": pools.STEM_POOLS,
    "freeze_norm": FREEZE_NORM,
  }
  for field, table in tables.items():
    value = getattr(module, field)
    if value not in table:
      raise ValueError(
        f"{field} is {value!r}: it must be one of {', '.join(table)}"
      )
  for field, least in (("width", 1), ("num_classes", 1), ("norm_group", 1)):
    value = getattr(module, field)
    if value is not None and (not isinstance(value, int) or value < least):
      raise ValueError(f"{field} is {value!r}: it must be at least {least}")
  for field in ("dropout", "norm_momentum"):
    value = getattr(module, field)
    if not 0 <= value < 1:
      raise ValueError(f"{field} is {value}: it must be in [0, 1)")
  if module.norm_epsilon <= 0:
    raise ValueError(
      f"norm_epsilon is {module.norm_epsilon}: it must be positive"
    )
  # By name: jnp.dtype takes None for float64, and refuses with a TypeError.
  if getattr(module.dtype, "__name__", str(module.dtype)) not in DTYPES:
    raise ValueError(
      f"dtype is {module.dtype!r}: it must be one of {', '.join(DTYPES)}"
    )
