"""What the layers of a .caffemodel say of their network, checked.

A Caffe file holds its wiring and its settings beside its numbers. A file whose
numbers fit and whose layers say another network (a stride elsewhere, another
sum, a block of another letter) would become a network that it is not, so every
layer is looked at: what it reads, and what it computes with.

What a layer reads is written as its user would: "relu(bn2a_branch2a)" is what
the layer bn2a_branch2a makes, rectified; layers that change no number (Split,
Dropout, Reshape) leave no trace. The layers of the authors' own Caffe, BN and
Pooling3D, keep their settings in messages whose numbers are not published;
those are not read.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from p3d_jax.models import blocks
from p3d_jax.models import schedule as schedules
from p3d_jax.weights import names
from p3d_jax.weights.caffe import Eltwise, Layer, Pooling
from p3d_jax.weights.merge import WeightsError

# Kernel and padding of each convolution along time, height and width.
_KERNELS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
  "stem": ((1, 7, 7), (0, 3, 3)),
  "reduce": ((1, 1, 1), (0, 0, 0)),
  "spatial": ((1, 3, 3), (0, 1, 1)),
  "temporal": ((3, 1, 1), (1, 0, 0)),
  "expand": ((1, 1, 1), (0, 0, 0)),
  "shortcut": ((1, 1, 1), (0, 0, 0)),
}
_ONE, _TWO = (1, 1, 1), (1, 2, 2)
_EPSILON = 1e-5  # of a BatchNorm that states none: caffe.proto
_RELEASED = "released", "ABC"  # rule and schedule of the authors' files
_INPUT = "the input "  # in front of a blob that no layer makes
# Layers that change no number of one image, as a trained network computes.
_SAME = ("Split", "Dropout", "Reshape", "Flatten")
_OPERATIONS = {0: "product", 1: "sum", 2: "maximum"}
# Windows of pool5 that were the whole image: of 224, and of 160 pixels.
_WHOLE = ((7, 7), (5, 5))


class Facts(NamedTuple):
  """What a file says of its network.

  Attributes:
    fields: of `P3D`, those that it states.
    notes: lines that a user should read.
  """

  fields: dict[str, Any]
  notes: tuple[str, ...] = ()

  def check_said(
    self, path: str | os.PathLike[str], said: Mapping[str, Any]
  ) -> None:
    """Raises if a user says another thing than the file.

    Args:
      path: of the file, for the message.
      said: field -> value, None where nothing is said.

    Raises:
      WeightsError: with the field and both values.
    """
    for name, value in self.fields.items():
      if said.get(name) not in (None, value):
        raise WeightsError(
          f"{name} is {said[name]!r}: {path} says {value!r}; leave it out"
        )


def facts(
  path: str | os.PathLike[str],
  layers: Sequence[Layer],
  naming: names.Naming,
  stages: Sequence[int],
) -> Facts:
  """Checks that the layers of a file are a network that is computed here.

  Args:
    path: of the file, for messages.
    layers: of `caffe.read_net`.
    naming: CAFFE_P3D, or that of a ResNet.
    stages: blocks in res2 to res5.

  Returns:
    `stem_pool`, `reduce_stride` and `norm_epsilon` of a ResNet; nothing of a
    P3D, which must be as published; a note of what the file leaves out.

  Raises:
    WeightsError: if the file says another network, with the layer, what it has
      and what it must have.
  """
  has_settings = any(layer.convolution for layer in layers)
  has_wiring = any(layer.bottoms for layer in layers)
  net = _Net(path, layers, naming, tuple(stages), has_settings)
  fields: dict[str, Any] = {}
  if has_settings:
    fields = net.settings()
  if has_wiring:
    net.wiring()
  if fields and has_wiring:
    fields["stem_pool"] = "ceil"  # Caffe's; others are refused
  notes = []
  if not has_settings:
    notes.append(
      "the file holds no settings: those of the published files are assumed"
    )
  if not has_wiring:
    notes.append(
      "the file does not say what its layers read: the wiring of the published "
      "files is assumed"
    )
  return Facts(fields, tuple(notes))


class _Step(NamedTuple):
  """A layer and what it reads."""

  layer: Layer
  reads: tuple[str, ...]


def _relu(value: str) -> str:
  return value if value.startswith("relu(") else f"relu({value})"


def _trace(path: Any, layers: Sequence[Layer]) -> dict[str, _Step]:
  """Follows blobs, which layers may write again, through the layers in order.

  Returns:
    Name of a layer that makes something new -> it and what it reads.

  Raises:
    WeightsError: if two such layers have one name.
  """
  values: dict[str, str] = {}  # blob -> what it holds now
  steps: dict[str, _Step] = {}
  for layer in layers:
    if not layer.bottoms:
      continue  # data
    reads = tuple(values.get(b, f"{_INPUT}{b!r}") for b in layer.bottoms)
    if layer.type in _SAME:
      made = reads[0]
    elif layer.type == "ReLU" and not layer.negative_slope:
      made = _relu(reads[0])
    elif layer.type == "ReLU":
      made = f"leaky_relu({reads[0]})"
    else:
      if layer.name in steps:
        raise WeightsError(f"{path} has two layers named {layer.name!r}")
      steps[layer.name] = _Step(layer, reads)
      made = layer.name
    values |= dict.fromkeys(layer.tops, made)
  return steps


@dataclasses.dataclass(frozen=True)
class _Net:
  """The layers of a file, and what they must be."""

  path: str | os.PathLike[str]
  layers: Sequence[Layer]
  naming: names.Naming
  stages: tuple[int, ...]
  has_settings: bool

  @property
  def is_3d(self) -> bool:
    return "temporal" in self.naming.units

  def around(self, unit: str) -> list[str]:
    """Returns the layers of "res3/block00/reduce": convolution and norms."""
    found = names.layers(self.naming, f"params/{unit}/conv/kernel")
    scales = any("{scale}" in text for text in self.naming.arrays.values())
    return [found[part] for part in ("conv", "bn", *(["scale"] * scales))]

  def units(self) -> dict[str, tuple[int, int, str]]:
    """Returns each unit of the blocks -> stage, block and kind."""
    found = {}
    for stage, count in enumerate(self.stages, start=2):
      for i in range(count):
        kinds = ["reduce", "spatial", "expand"]
        kinds += ["temporal"] * (self.is_3d and stage < 5)
        kinds += ["shortcut"] * (i == 0)
        for kind in kinds:
          found[f"res{stage}/block{i:02d}/{kind}"] = (stage, i, kind)
    return found

  # What layers compute with.

  def settings(self) -> dict[str, Any]:
    """Checks every convolution and batch norm; returns fields of `P3D`."""
    by_name = {layer.name: layer for layer in self.layers}
    reduce_stride = self._reduce_stride(by_name)
    self._check_convolution(self._layer(by_name, "stem"), "stem", _TWO)
    for unit, (stage, i, kind) in self.units().items():
      first = stage > 2 and i == 0
      bearer = "reduce" if reduce_stride else "spatial"
      strided = first and kind in (bearer, "shortcut")
      layer = self._layer(by_name, unit)
      self._check_convolution(layer, kind, _TWO if strided else _ONE)
    if self.is_3d:
      return {}
    return {
      "reduce_stride": reduce_stride,
      "norm_epsilon": self._epsilon(by_name),
    }

  def _layer(self, by_name: Mapping[str, Layer], unit: str) -> Layer:
    name = self.around(unit)[0]
    if name not in by_name or not by_name[name].shapes:
      raise WeightsError(
        f"{self.path} has no kernel {name}/0", missing=(f"{name}/0",)
      )
    return by_name[name]

  def _reduce_stride(self, by_name: Mapping[str, Layer]) -> bool:
    """Returns whether the first 1x1 of a stage has the stride, not the 3x3."""
    found = {}
    for stage in (3, 4, 5):
      first = [
        self._layer(by_name, f"res{stage}/block00/{kind}")
        for kind in ("reduce", "spatial")
      ]
      strides = [_stated(layer, "stride") for layer in first]
      places = [stride[-2:] == (2, 2) for stride in strides]
      if sum(places) != 1:
        raise WeightsError(
          f"{self.path}: {first[0].name} has stride {strides[0]} and "
          f"{first[1].name} {strides[1]}: one of the two must have stride 2"
        )
      found[first[0 if places[0] else 1].name] = places[0]
    if len(set(found.values())) > 1:
      raise WeightsError(
        f"{self.path}: {', '.join(found)} have stride 2: it must be on the "
        "first 1x1 of all stages, or on the 3x3 of all"
      )
    if self.is_3d and not all(found.values()):
      raise WeightsError(
        f"{self.path}: {', '.join(found)} have stride 2: the authors' files "
        "have it on the first 1x1x1 of a stage"
      )
    return all(found.values())

  def _check_convolution(
    self, layer: Layer, kind: str, stride: tuple[int, ...]
  ) -> None:
    if layer.convolution is None:
      raise WeightsError(
        f"{self.path}: {layer.name} has no convolution_param, and other layers "
        "have one"
      )
    kernel, pad = _KERNELS[kind]
    axes = len(layer.shapes[0]) - 2
    for what, must in (
      ("kernel", kernel), ("stride", stride), ("pad", pad), ("dilation", _ONE),
    ):  # fmt: skip
      found = _stated(layer, what)
      if found != must[-axes:]:
        raise WeightsError(
          f"{self.path}: {layer.name} has {what} {found}: it must be "
          f"{must[-axes:]}"
        )
    if layer.convolution.group != 1:
      raise WeightsError(
        f"{self.path}: {layer.name} has group {layer.convolution.group}: it "
        "must be 1"
      )

  def _epsilon(self, by_name: Mapping[str, Layer]) -> float:
    """Returns what all batch norms add to variances."""
    found: dict[float, str] = {}
    for unit in ("stem", *self.units()):
      name = self.around(unit)[1]
      stated = by_name[name].epsilon if name in by_name else None
      found.setdefault(_EPSILON if stated is None else stated, name)
    if len(found) > 1:
      (one, a), (other, b) = list(found.items())[:2]
      raise WeightsError(
        f"{self.path}: {a} has eps {one} and {b} {other}: all batch norms must "
        "have the same"
      )
    (epsilon,) = found
    if not 0 < epsilon < 1:
      raise WeightsError(
        f"{self.path}: {found[epsilon]} has eps {epsilon}: it must be between "
        "0 and 1"
      )
    return epsilon

  # What layers read.

  def wiring(self) -> None:
    """Checks what every layer of the network reads, from conv1 to fc."""
    wires = _Wires(self, _trace(self.path, self.layers))
    wires.check()


def _stated(layer: Layer, what: str) -> tuple[int, ...]:
  """Returns a setting of a convolution along each of its axes."""
  found = getattr(layer.convolution, what) if layer.convolution else ()
  axes = len(layer.shapes[0]) - 2
  if not found:
    found = (0 if what == "pad" else 1,)
  return tuple(found * axes if len(found) == 1 else found)


@dataclasses.dataclass(frozen=True)
class _Wires:
  """What the layers of a file read, and what they must.

  Attributes:
    net: the layers.
    steps: of `_trace`.
    laid: block -> its letter, filled as blocks are met.
    joins: likewise the layer that adds and how.
  """

  net: _Net
  steps: Mapping[str, _Step]
  laid: dict[str, str] = dataclasses.field(default_factory=dict)
  joins: dict[str, tuple[str, blocks.Join]] = dataclasses.field(
    default_factory=dict
  )

  def check(self) -> None:
    """Follows the network from conv1 to fc."""
    conv1 = self.net.around("stem")[0]
    read = self._step(conv1).reads
    if len(read) != 1 or not read[0].startswith(_INPUT):
      raise self._error(conv1, "the input")
    x = self._pool(_relu(self._unit("stem", read[0])), self._check_pool1)
    for stage, count in enumerate(self.net.stages, start=2):
      if self.net.is_3d and stage > 2:
        x = self._pool(x)
      for i in range(count):
        x = self._block(stage, i, x)
    for fc in self.net.naming.heads:
      if fc in self.steps:
        self._head(fc, x)
    if self.net.is_3d:
      self._check_letters()
      self._check_rule()

  def _block(self, stage: int, i: int, x: str) -> str:
    """Returns what a block makes of x."""
    block = f"res{stage}/block{i:02d}"
    reduced = _relu(self._unit(f"{block}/reduce", x))
    s = y = _relu(self._unit(f"{block}/spatial", reduced))
    if self.net.is_3d and stage < 5:
      y = self._mix(block, reduced, s)
    y = self._unit(f"{block}/expand", y)
    shortcut = self._unit(f"{block}/shortcut", x) if i == 0 else x
    total, found = self._sum(y, shortcut)
    if found != (1, 1):
      raise WeightsError(
        f"{self.net.path}: {total} adds {found[1]:g} times the shortcut and "
        f"{found[0]:g} times {y}: both must be 1"
      )
    return _relu(total)

  def _mix(self, block: str, reduced: str, s: str) -> str:
    """Notes the letter and the rule of a block; returns what is expanded."""
    name = self.net.around(f"{block}/temporal")[0]
    read = self._step(name).reads
    if read not in ((reduced,), (s,)):
      raise self._error(name, f"{reduced} (a P3D-B) or {s} (A or C)")
    t = self._unit(f"{block}/temporal", read[0])
    added = [v for v in (t, _relu(t)) if self._readers(v, "Eltwise")]
    if not added:
      if read == (reduced,):
        raise WeightsError(
          f"{self.net.path}: {t} is added to nothing, and {name} reads "
          f"{reduced}: no block of a P3D is like this"
        )
      self.laid[block] = "A"
      return _relu(t)
    total, (by_t, by_s) = self._sum(added[0], s)
    expand = self.net.around(f"{block}/expand")[0]
    bare = self._step(expand).reads == (total,)
    self.laid[block] = "C" if read == (s,) else "B"
    self.joins[block] = total, blocks.Join(by_s, by_t, added[0] != t, not bare)
    return total if bare else _relu(total)

  def _check_letters(self) -> None:
    """Raises if the blocks are not those of the released schedule."""
    rule, schedule = _RELEASED
    must = "".join(schedules.letters(schedule, self.net.stages)[:3])
    found = "".join(self.laid.values())
    if found == must:
      return
    pairs = list(zip(found, must, strict=True))
    i = next(i for i, (one, other) in enumerate(pairs) if one != other)
    name = self.net.around(f"{list(self.laid)[i]}/temporal")[0]
    raise WeightsError(
      f"{self.net.path}: the block of {name} is a P3D-{found[i]} by what its "
      f"layers read, and must be a P3D-{must[i]}: the file has {found}, the "
      f"authors' have {must}"
    )

  def _check_rule(self) -> None:
    """Raises if the blocks do not add as the released ones."""
    rows = blocks.RULES
    fitting = [
      rule
      for rule in rows
      if all(rows[rule][self.laid[b]] == j for b, (_, j) in self.joins.items())
    ]
    released = _RELEASED[0]
    if released in fitting or not self.net.has_settings:
      return
    block, (total, join) = next(
      (b, found)
      for b, found in self.joins.items()
      if found[1] != rows[released][self.laid[b]]
    )
    letter = self.laid[block]
    others = f" (the rule {fitting[0]!r})" if fitting else ""
    raise WeightsError(
      f"{self.net.path}: {total} of a P3D-{letter} computes {_text(join)}"
      f"{others}: the authors' files are of the rule {released!r}, "
      f"{_text(rows[released][letter])}"
    )

  def _head(self, fc: str, x: str) -> None:
    """Checks that fc reads the mean of x."""
    reads = self._step(fc).reads
    if len(reads) != 1 or self._readers(x, "Pool") != list(reads):
      raise self._error(fc, f"the average pool of {x}")
    pool = self.steps[reads[0]].layer
    stated = pool.pooling
    if stated is None or not self.net.has_settings:
      return
    whole = stated.is_global or _twice(stated.kernel, 0) in _WHOLE
    if stated.operation != 1 or any(stated.pad) or not whole:
      raise WeightsError(
        f"{self.net.path}: {pool.name} has {_pool_text(stated)}: it must be "
        "the average of the whole image"
      )

  # Parts that are alike everywhere.

  def _unit(self, unit: str, x: str) -> str:
    """Checks that convolution, norm and scale follow x; returns their end."""
    for name in self.net.around(unit):
      if self._step(name).reads != (x,):
        raise self._error(name, x)
      x = name
    return x

  def _sum(self, y: str, other: str) -> tuple[str, tuple[float, ...]]:
    """Finds the layer that adds y and other; returns it and by how much."""
    found = self._readers(y, "Eltwise")
    if len(found) != 1:
      raise WeightsError(
        f"{self.net.path}: {', '.join(found) or 'nothing'} adds {y} to "
        f"{other}: one layer must"
      )
    step = self._step(found[0])
    if sorted(step.reads) != sorted((y, other)):
      raise self._error(found[0], f"{y} and {other}")
    stated = step.layer.eltwise or Eltwise()
    by = stated.coefficients or (1.0, 1.0)
    if not self.net.has_settings:
      by = (1.0, 1.0)
    elif stated.operation != 1 or len(by) != 2:
      what = _OPERATIONS.get(stated.operation, stated.operation)
      raise WeightsError(
        f"{self.net.path}: {found[0]} is the {what} of two layers, with "
        f"{len(stated.coefficients)} coefficients: it must be the sum, with two"
      )
    return found[0], by if step.reads[0] == y else (by[1], by[0])

  def _pool(self, x: str, check: Callable[[Layer], None] | None = None) -> str:
    """Finds the pool of x; returns its name."""
    found = self._readers(x, "Pool")
    if len(found) != 1:
      raise WeightsError(
        f"{self.net.path}: {', '.join(found) or 'nothing'} pools {x}: one "
        "layer must"
      )
    if check:
      check(self.steps[found[0]].layer)
    return found[0]

  def _check_pool1(self, layer: Layer) -> None:
    """Raises if pool1 is none of ours; of the authors' nothing is known."""
    stated = layer.pooling
    if stated is None or not self.net.has_settings:
      return
    if (
      stated.operation
      or stated.is_global
      or stated.rounding
      or _twice(stated.kernel, 0) != (3, 3)
      or _twice(stated.stride, 1) != (2, 2)
      or any(stated.pad)
    ):
      raise WeightsError(
        f"{self.net.path}: {layer.name} has {_pool_text(stated)}: it must be "
        "the maximum of kernel 3, stride 2, pad 0, rounded up"
      )

  def _readers(self, value: str, kind: str) -> list[str]:
    """Returns the layers of a kind that read something."""
    return [
      name
      for name, step in self.steps.items()
      if value in step.reads and kind in step.layer.type
    ]

  def _step(self, name: str) -> _Step:
    if name not in self.steps:
      raise WeightsError(f"{self.net.path}: {name} reads nothing")
    return self.steps[name]

  def _error(self, name: str, must: str) -> WeightsError:
    reads = " and ".join(self.steps[name].reads)
    return WeightsError(
      f"{self.net.path}: {name} reads {reads}: it must read {must}"
    )


def _twice(stated: tuple[int, ...], default: int) -> tuple[int, ...]:
  """Returns a setting of a pool along height and width."""
  found = stated or (default,)
  return found * 2 if len(found) == 1 else found


def _pool_text(stated: Pooling) -> str:
  kind = {0: "max", 1: "average"}.get(stated.operation, stated.operation)
  size = "the whole image" if stated.is_global else _twice(stated.kernel, 0)
  return (
    f"{kind}, kernel {size}, stride {_twice(stated.stride, 1)}, pad "
    f"{_twice(stated.pad, 0)}, rounded {'down' if stated.rounding else 'up'}"
  )


def _text(join: blocks.Join) -> str:
  """Writes a join as a formula."""
  t = "relu(t)" if join.relu_temporal else "t"
  total = f"{join.spatial:g} s + {join.temporal:g} {t}"
  return f"relu({total})" if join.relu_sum else total
