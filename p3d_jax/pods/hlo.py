"""Reads the text of a compiled program (HLO): its instructions and loops.

XLA prints one computation after the other, an instruction a line:

    ROOT %dot.3 = f32[8,4]{1,0:T(8,128)} dot(%a, %b), lhs_contracting_dims={1}

What follows the shape is its layout: minor to major dimensions, the tile that
the last of them are padded to, and the memory, S(1) being on the chip itself.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([0-9,<=]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_COMMENT = re.compile(r"/\*.*?\*/")


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of a shape.

  Attributes:
    kind: of its elements, as "bf16".
    dims: elements along each dimension.
    size: bytes of its elements.
    padded: bytes that it takes in memory, whole tiles.
    space: memory that it lies in; 0 is the device's main memory.
  """

  kind: str
  dims: tuple[int, ...]
  size: int
  padded: int
  space: int


Arrays = tuple[Array, ...]


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: without the percent sign.
    arrays: of its result; several of a tuple.
    opcode: as "dot".
    operands: names of instructions of the same computation; of a constant its
      value, of a parameter its index.
    text: the attributes behind the operands.
  """

  name: str
  arrays: Arrays
  opcode: str
  operands: tuple[str, ...]
  text: str

  def attribute(self, name: str) -> str | None:
    """Returns an attribute as it is printed, or None."""
    start = re.search(rf"(?:^|[ ,]){name}=", self.text)
    if not start:
      return None
    return _value(self.text[start.end() :])


@dataclasses.dataclass(frozen=True)
class Computation:
  """Instructions by name, and the one whose result is returned."""

  name: str
  instructions: dict[str, Instruction]
  root: Instruction

  def __iter__(self) -> Iterator[Instruction]:
    """Goes over the instructions."""
    return iter(self.instructions.values())

  def parameter(self, index: int) -> Instruction:
    """Returns the instruction of a parameter."""
    return next(
      one
      for one in self
      if one.opcode == "parameter" and one.operands == (str(index),)
    )


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program.

  Attributes:
    computations: by name.
    entry: where it begins.
    devices: that it runs on together.
  """

  computations: dict[str, Computation]
  entry: Computation
  devices: int

  def called(self, one: Instruction, attribute: str) -> Computation:
    """Returns the computation that an attribute names."""
    name = one.attribute(attribute)
    if name is None:
      raise ValueError(f"{one.name} ({one.opcode}) has no {attribute}")
    return self.computations[name.lstrip("%")]


def parse(text: str) -> Program:
  """Reads what `compiled.as_text()` returns.

  Raises:
    ValueError: if it is no program.
  """
  head, _, body = text.partition("\n")
  if not head.startswith("HloModule"):
    raise ValueError(f"not a compiled program: it begins with {head[:40]!r}")
  computations: dict[str, Computation] = {}
  entry, name = "", ""
  lines: dict[str, Instruction] = {}
  root = ""
  for line in body.splitlines():
    if found := _COMPUTATION.match(line):
      name, lines = found[2], {}
      entry = name if found[1] else entry
    elif line.startswith("}") and name:
      last = root or next(reversed(lines))
      computations[name] = Computation(name, lines, lines[last])
      name, root = "", ""
    elif name and (found := _INSTRUCTION.match(line)):
      one = _instruction(found[2], _COMMENT.sub("", found[3]))
      lines[one.name] = one
      root = one.name if found[1] else root
  return Program(computations, computations[entry], _devices(head))


def _devices(head: str) -> int:
  """Returns the devices of a module's first line."""
  counts = re.findall(r"(?:replica_count|num_partitions)=(\d+)", head)
  return math.prod(map(int, counts))


def _instruction(name: str, text: str) -> Instruction:
  # A tuple's shape has spaces, an array's has none.
  end = _closing(text, 0) if text.startswith("(") else text.index(" ")
  shape, rest = text[:end], text[end:].lstrip()
  at = rest.index("(")
  close = _closing(rest, at)
  inside = rest[at + 1 : close - 1]
  operands = tuple(
    part.split(" ")[-1].lstrip("%") for part in inside.split(", ") if part
  )
  attributes = rest[close:].lstrip(", ")
  return Instruction(name, arrays(shape), rest[:at], operands, attributes)


def _closing(text: str, start: int) -> int:
  """Returns the index behind the bracket that closes the one at `start`."""
  depth = 0
  for at in range(start, len(text)):
    depth += (text[at] in "([{") - (text[at] in ")]}")
    if not depth:
      return at + 1
  raise ValueError(f"no bracket closes {text[start : start + 40]!r}")


def _value(text: str) -> str:
  """Returns the value that a text begins with, brackets and all."""
  at = 0
  while at < len(text) and text[at] not in ", ":
    at = _closing(text, at) if text[at] in "([{" else at + 1
  return text[:at]


def arrays(shape: str) -> Arrays:
  """Reads a shape as HLO prints it: an array, or a tuple of them, flat."""
  return tuple(
    _array(kind, dims, layout) for kind, dims, layout in _ARRAY.findall(shape)
  )


def _array(kind: str, dims: str, layout: str) -> Array:
  sizes = tuple(int(n.lstrip("<=")) for n in dims.split(",") if n)
  order, _, where = layout.partition(":")
  tile = re.search(r"T\(([0-9,]+)\)", where)
  space = re.search(r"S\((\d+)\)", where)
  padded = [sizes[int(axis)] for axis in order.split(",") if axis] or [*sizes]
  if tile:
    steps = [int(n) for n in reversed(tile[1].split(","))]
    padded += [1] * (len(steps) - len(padded))
    for axis, step in enumerate(steps):
      padded[axis] = math.ceil(padded[axis] / step) * step
  return Array(
    kind,
    sizes,
    _bytes(kind, math.prod(sizes)),
    _bytes(kind, math.prod(padded)),
    int(space[1]) if space else 0,
  )


def _bytes(kind: str, elements: int) -> int:
  """Returns the bytes of so many elements; "bf16" has 16 bits, "f8e4m3fn" 8."""
  digits = re.search(r"\d+", kind)
  bits = _BITS[kind] if kind in _BITS else int(digits[0]) if digits else 0
  return math.ceil(elements * bits / 8)
