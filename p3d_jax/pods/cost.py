"""What one run of a compiled program computes, moves and sends, a device.

XLA's own analysis counts the body of a loop once. Here every computation is
counted as often as it is run, so the gradients of `train.accumulate` parts are
that many. What is counted, and how:

* FLOP: convolutions and matrix products alone, two a multiply-add; taps that
  lie on padding or between strides are not counted. It is XLA's rule.
* Bytes: what each instruction that is not fused reads and writes in the
  device's main memory, whole tiles of it; what stays on the chip (another
  memory space) is free. A fusion that takes a slice of an array reads that
  slice, and one that changes an array in place writes what it changes.
* Collectives: the bytes that a device sends, with the best algorithm, of
  arrays of n bytes in a group of k devices.

      all-reduce 2n(k-1)/k    all-gather, all-to-all n(k-1)/k, n after it
      permute n               reduce-scatter n(k-1)/k, n before it
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re

from p3d_jax.pods import hlo, loops

# Kind -> bytes sent a byte of payload, of k devices.
_SENT = {
  "all-reduce": lambda k: 2 * (k - 1) / k,
  "all-gather": lambda k: (k - 1) / k,
  "reduce-scatter": lambda k: (k - 1) / k,
  "all-to-all": lambda k: (k - 1) / k,
  "ragged-all-to-all": lambda k: (k - 1) / k,
  "collective-permute": lambda k: 1.0,
  "collective-broadcast": lambda k: 1.0,
}
# They name memory and move none. What is called is counted inside.
_FREE = {
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast",
  "after-all", "partition-id", "replica-id", "opt-barrier", "add-dependency",
  "while", "call", "conditional", "async-start", "async-update",
}  # fmt: skip
_FREE_CALLS = ('"AllocateBuffer"', '"ConcatBitcast"')
_READS_A_PART = ("dynamic-slice", "slice", "gather")


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective of a program.

  Attributes:
    kind: as "all-reduce".
    bytes: of its arrays, each element once.
    group: devices that take part together.
    times: that a run of the program comes by.
  """

  kind: str
  bytes: int
  group: int
  times: int = 1

  @property
  def sent(self) -> float:
    """Bytes that a device sends in all."""
    return self.times * self.bytes * _SENT[self.kind](self.group)


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a run of a program costs a device.

  Attributes:
    flop: of convolutions and matrix products.
    bytes: read and written in main memory.
    collectives: one for each instruction.
    loops: turns of each loop, in the order of the program; None: not known,
      and its body is counted once.
  """

  flop: float = 0
  bytes: float = 0
  collectives: tuple[Collective, ...] = ()
  loops: tuple[int | None, ...] = ()

  def __add__(self, other: Cost) -> Cost:
    """Adds what is done one after the other."""
    return Cost(
      self.flop + other.flop,
      self.bytes + other.bytes,
      self.collectives + other.collectives,
      self.loops + other.loops,
    )

  def repeated(self, times: int) -> Cost:
    """Returns the cost of so many runs."""
    return Cost(
      times * self.flop,
      times * self.bytes,
      tuple(
        dataclasses.replace(one, times=times * one.times)
        for one in self.collectives
      ),
      self.loops,
    )


def cost(
  program: hlo.Program, *, once: bool = False, everywhere: bool = False
) -> Cost:
  """Counts a program.

  Args:
    program: of `hlo.parse`.
    once: count the body of each loop once, as XLA's own analysis does.
    everywhere: count the bytes of all memories, as XLA's own analysis does.
  """
  counter = _Counter(program, once, everywhere)
  return counter.computation(program.entry, ())


class _Counter:
  """Goes through a program as a device does."""

  def __init__(
    self, program: hlo.Program, once: bool, everywhere: bool
  ) -> None:
    self.program, self.once, self.everywhere = program, once, everywhere
    # Collectives that libtpu does beside other work: the fusion that starts
    # one, those that go on with it and the one that ends it all name it.
    self._begun: set[_Key] = set()

  def computation(self, body: hlo.Computation, frames: loops.Frames) -> Cost:
    total, outer = Cost(), self._begun
    self._begun = set()
    for one in body:
      total += self._instruction(one, body, frames)
    self._begun = outer
    return total

  def _instruction(
    self, one: hlo.Instruction, body: hlo.Computation, frames: loops.Frames
  ) -> Cost:
    if one.opcode.endswith(("-done", "-update")):
      return Cost()  # counted where it starts
    if one.opcode == "while":
      return self._while(one, body, frames)
    if one.opcode == "conditional":
      return self._branches(one)
    if one.opcode in ("call", "async-start"):
      name = "calls" if one.attribute("calls") else "to_apply"
      return self.computation(self.program.called(one, name), ())
    moved = Cost(bytes=self._moved(one, body))
    if one.opcode == "fusion":
      return moved + self._fused(one)
    return moved + self._computed(one, body)

  def _while(
    self, one: hlo.Instruction, body: hlo.Computation, frames: loops.Frames
  ) -> Cost:
    turns = loops.turns(self.program, one, body, frames)
    inner = self.program.called(one, "body")
    each = self.computation(inner, (*frames, (body, one)))
    found = Cost(loops=(turns,)) + each
    return found if self.once or turns is None else found.repeated(turns)

  def _branches(self, one: hlo.Instruction) -> Cost:
    """The dearest branch: which one is taken is not known."""
    names = re.findall(
      r"%?([\w.\-]+)",
      one.attribute("branch_computations")
      or f"{one.attribute('true_computation')} "
      f"{one.attribute('false_computation')}",
    )
    costs = [self.computation(self.program.computations[n], ()) for n in names]
    return max(costs, key=lambda c: (c.flop, c.bytes))

  def _fused(self, one: hlo.Instruction) -> Cost:
    """What is computed inside a fusion; its arrays stay on the chip."""
    total = Cost()
    inner = self.program.called(one, "calls")
    again = self._again(inner)
    for part in inner:
      if part.opcode == "fusion":
        total += self._fused(part)
      elif part.name not in again:
        total += self._computed(part, inner)
    self._begun |= {_key(part) for part in inner if part.opcode in _SENT}
    return total

  def _again(self, inner: hlo.Computation) -> set[str]:
    """Names of the collectives of a fusion that have begun before it."""
    if not self._begun:
      return set()
    return {
      part.name
      for part in inner
      if part.opcode in _SENT and _key(part) in self._begun
    }

  def _computed(self, one: hlo.Instruction, body: hlo.Computation) -> Cost:
    if one.opcode == "dot":
      return Cost(flop=dot_flop(one, body))
    if one.opcode == "convolution":
      return Cost(flop=convolution_flop(one, body))
    kind = one.opcode.removesuffix("-start")
    if kind in _SENT:
      return Cost(collectives=(self._collective(kind, one, body),))
    return Cost()

  def _collective(
    self, kind: str, one: hlo.Instruction, body: hlo.Computation
  ) -> Collective:
    before = sum(
      a.size for name in one.operands for a in body.instructions[name].arrays
    )
    group = group_size(one, self.program.devices)
    if kind == "all-gather":
      return Collective(kind, before * group, group)
    if kind == "all-reduce" and body.name.startswith("all-reduce-scatter"):
      # So libtpu names a fusion that reduces, and keeps a device's part.
      return Collective("reduce-scatter", before, group)
    return Collective(kind, before, group)

  def _moved(self, one: hlo.Instruction, body: hlo.Computation) -> int:
    """Bytes of memory that an instruction of its own reads and writes."""
    if (
      one.opcode in _FREE or one.attribute("custom_call_target") in _FREE_CALLS
    ):
      return 0
    given = [body.instructions[name].arrays for name in one.operands]
    if one.opcode == "copy-start":
      return self._bytes(one.arrays[:2])  # both sides of the copy
    if one.opcode == "fusion":
      inner = self.program.called(one, "calls")
      ends = self._again(inner) & set(inner.root.operands)
      if ends and inner.root.opcode == "custom-call":
        return 0  # the end of a collective: its arrays are there
      read = sum(
        min(self._bytes(whole), self._read(inner, inner.parameter(index)))
        for index, whole in enumerate(given)
      )
      return read + self._written(inner, one)
    out = _result(one)
    if one.opcode.removesuffix("-start") in _READS_A_PART:
      return self._bytes(out) + self._part(out, given[0])
    if one.opcode == "dynamic-update-slice":
      return self._bytes(given[1]) + self._part(given[1], out)
    read = sum(self._bytes(whole) for whole in given)
    return self._bytes(out) + read

  def _bytes(self, arrays: hlo.Arrays) -> int:
    """Bytes of those arrays that lie in the memory that is counted."""
    return sum(a.padded for a in arrays if self.everywhere or a.space == 0)

  def _part(self, part: hlo.Arrays, whole: hlo.Arrays) -> int:
    """Bytes of a part of an array, in the memory of the whole."""
    moved = (dataclasses.replace(a, space=whole[0].space) for a in part)
    return self._bytes(tuple(moved))

  def _read(self, inner: hlo.Computation, one: hlo.Instruction) -> int:
    """Bytes that a fusion reads of a parameter: all, or slices of it."""
    total, again = 0, self._again(inner)
    for user in (u for u in inner if one.name in u.operands):
      first = user.operands[0] == one.name
      if user.name in again or user.opcode == "tuple":
        continue  # it is handed on
      if user.opcode == "bitcast":
        total += self._read(inner, user)
      elif user.opcode in _READS_A_PART and first:
        total += self._part(user.arrays, one.arrays)
      elif not (user.opcode == "dynamic-update-slice" and first):
        return self._bytes(one.arrays)  # else it is changed in place
    return total

  def _written(self, inner: hlo.Computation, one: hlo.Instruction) -> int:
    """Bytes that a fusion writes: all, or what it changes in place."""
    root, total, again = inner.root, 0, self._again(inner)
    if root.opcode == "fusion":
      return self._written(self.program.called(root, "calls"), one)
    left = list(one.arrays)
    for name in root.operands if root.opcode == "tuple" else (root.name,):
      result = inner.instructions[name]
      count = len(result.arrays)
      arrays, left = tuple(left[:count]), left[count:]
      while result.opcode == "bitcast":
        result = inner.instructions[result.operands[0]]
      if result.opcode == "parameter" or result.name in again:
        continue  # it is handed on
      if result.opcode == "dynamic-update-slice":
        change = inner.instructions[result.operands[1]].arrays
        total += self._part(change, arrays)
      else:
        total += self._bytes(arrays)
    return total


_Key = tuple[str, str | None, tuple[tuple[int, ...], ...]]


def _key(one: hlo.Instruction) -> _Key:
  """Returns what tells a collective from others."""
  dims = tuple(array.dims for array in one.arrays)
  return one.opcode, one.attribute("channel_id"), dims


def _result(one: hlo.Instruction) -> hlo.Arrays:
  """Returns the arrays of a result; that of a start can have more."""
  count = len(one.operands)
  if one.opcode.endswith("-start") and len(one.arrays) > count:
    return one.arrays[count : 2 * count]
  return one.arrays


def dot_flop(one: hlo.Instruction, body: hlo.Computation) -> int:
  """Returns the FLOP of a matrix product."""
  left = body.instructions[one.operands[0]].arrays[0].dims
  axes = re.findall(r"\d+", one.attribute("lhs_contracting_dims") or "")
  contracted = math.prod(left[int(axis)] for axis in axes)
  return 2 * contracted * math.prod(one.arrays[0].dims)


def convolution_flop(one: hlo.Instruction, body: hlo.Computation) -> int:
  """Returns the FLOP of a convolution: of taps that lie on the input alone."""
  left, right = (body.instructions[name].arrays[0] for name in one.operands)
  labels = re.split(r"_|->", one.attribute("dim_labels") or "")
  batch = left.dims[labels[0].index("b")]
  features = one.arrays[0].dims[labels[2].index("f")]
  window = _window(one.attribute("window") or "{}", len(labels[0]) - 2)
  pairs = math.prod(
    _pairs(
      left.dims[labels[0].index(axis)],
      one.arrays[0].dims[labels[2].index(axis)],
      **options,
    )
    for axis, options in zip(map(str, itertools.count()), window, strict=False)
  )
  inputs = right.dims[labels[1].index("i")]  # of one feature group
  groups = int(one.attribute("batch_group_count") or 1)
  return 2 * inputs * features * (batch // groups) * pairs


def _window(text: str, axes: int) -> list[dict[str, int]]:
  """Reads "{size=1x3 pad=0_0x1_1}": options of each spatial axis."""
  found = dict(part.split("=") for part in text.strip("{}").split())
  names = ("size", "stride", "lhs_dilate", "rhs_dilate")
  options = [
    {name: int(found[name].split("x")[axis]) for name in names if name in found}
    for axis in range(axes)
  ]
  for axis, option in enumerate(options):
    if "pad" in found:
      option["pad"] = int(found["pad"].split("x")[axis].split("_")[0])
  return options


def _pairs(
  inputs: int,
  outputs: int,
  size: int = 1,
  stride: int = 1,
  pad: int = 0,
  lhs_dilate: int = 1,
  rhs_dilate: int = 1,
) -> int:
  """Counts (output, tap) along an axis whose tap meets an input."""
  spread = (inputs - 1) * lhs_dilate + 1
  count = 0
  for tap in range(size):
    first = tap * rhs_dilate - pad
    for at in range(first, first + outputs * stride, stride):
      count += 0 <= at < spread and at % lhs_dilate == 0
  return count


def group_size(one: hlo.Instruction, devices: int) -> int:
  """Returns how many devices take part together in a collective.

  XLA writes groups as a list, "{{0,1},{2,3}}", as the rows of an array,
  "[2,2]<=[4]", or as axes of a mesh, "mesh['x'=2,'y'=2] {'y'}".
  """
  if mesh := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", one.text):
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
    axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
    return math.prod(int(part or sizes[axis]) for axis, part in axes)
  text = one.attribute("replica_groups") or "{}"
  if rows := re.match(r"\[(?:\d+,)*(\d+)\]<=", text):
    return int(rows[1])
  if first := re.match(r"\{\{([\d,]*)\}", text):
    return len(first[1].split(","))
  return devices
