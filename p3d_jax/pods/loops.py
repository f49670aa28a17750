"""How often the body of a compiled loop is run.

XLA notes it on some platforms (`known_trip_count`). On TPU it does not: it is
read from the loop's own counter then, which starts from a constant, goes up by
a constant, and is compared with a constant.
"""

from __future__ import annotations

import math
import re

from p3d_jax.pods import hlo

# The loops around a computation, outermost first: (where it stands, it).
Frames = tuple[tuple[hlo.Computation, hlo.Instruction], ...]

_SAME = ("bitcast", "copy", "convert", "reshape", "copy-done", "copy-start")
_FLIPPED = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE", "NE": "NE"}


def turns(
  program: hlo.Program,
  one: hlo.Instruction,
  body: hlo.Computation,
  frames: Frames = (),
) -> int | None:
  """Returns how often a loop's body is run, or None if it cannot be read.

  Args:
    program: that it is of.
    one: the instruction "while".
    body: the computation that it stands in.
    frames: the loops around it.
  """
  if noted := re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', one.text):
    return int(noted[1])
  inside = (*frames, (body, one))
  test = _test(program, program.called(one, "condition"), inside)
  if test is None:
    return None
  counter, direction, limit = test
  start = _element(program, one, body, frames, counter)
  step = _step(program, program.called(one, "body"), counter, inside)
  if start is None or not step:
    return None
  return _count(start, step, direction, limit)


def _count(start: int, step: int, direction: str, limit: int) -> int | None:
  away = limit - start
  if direction in ("LE", "GE"):
    away += 1 if direction == "LE" else -1
  if (direction in ("LT", "LE")) != (step > 0) and direction != "NE":
    return None  # it goes away from its limit
  return max(0, math.ceil(away / step))


def _test(
  program: hlo.Program, condition: hlo.Computation, frames: Frames
) -> tuple[int, str, int] | None:
  """Returns the counter's index, the comparison and the limit."""
  root, where, names = condition.root, condition, {}
  if root.opcode == "fusion":
    where = program.called(root, "calls")
    names = dict(enumerate(root.operands))
    root = where.root
  if root.opcode != "compare" or len(root.operands) != 2:
    return None
  left, right = (_outside(where, condition, n, names) for n in root.operands)
  direction = root.attribute("direction") or ""
  for side, other, sense in (
    (left, right, direction),
    (right, left, _FLIPPED.get(direction, "")),
  ):
    counter = _index(side)
    limit = _scalar(program, other, frames)
    if counter is not None and limit is not None and sense in _FLIPPED:
      return counter, sense, limit
  return None


_Value = tuple[hlo.Computation, hlo.Instruction]


def _outside(
  where: hlo.Computation,
  outer: hlo.Computation,
  name: str,
  names: dict[int, str],
) -> _Value:
  """Follows a name of a fusion to the instruction that gives its value."""
  one = where.instructions[name]
  while one.opcode in _SAME:
    one = where.instructions[one.operands[0]]
  if where is not outer and one.opcode == "parameter":
    return outer, outer.instructions[names[int(one.operands[0])]]
  return where, one


def _index(value: _Value) -> int | None:
  """Returns which element of the loop's tuple a value is."""
  where, one = value
  while one.opcode in _SAME:
    one = where.instructions[one.operands[0]]
  if one.opcode != "get-tuple-element":
    return None
  if where.instructions[one.operands[0]].opcode != "parameter":
    return None
  return int(one.attribute("index") or -1)


def _scalar(program: hlo.Program, value: _Value, frames: Frames) -> int | None:
  """Returns a whole number that is known before the program runs."""
  where, one = value
  while one.opcode in _SAME:
    one = where.instructions[one.operands[0]]
  if one.opcode == "constant":
    number = re.fullmatch(r"-?\d+", one.operands[0] if one.operands else "")
    return int(number[0]) if number else None
  index = _index((where, one))
  if index is None or not frames:
    return None
  # Of the loop around: it must be the same in each turn.
  body, loop = frames[-1]
  root = program.called(loop, "body").root
  kept = program.called(loop, "body").instructions[root.operands[index]]
  if _index((program.called(loop, "body"), kept)) != index:
    return None
  return _element(program, loop, body, frames[:-1], index)


def _element(
  program: hlo.Program,
  loop: hlo.Instruction,
  body: hlo.Computation,
  frames: Frames,
  index: int,
) -> int | None:
  """Returns an element of the tuple that a loop starts with."""
  start = body.instructions[loop.operands[0]]
  if start.opcode != "tuple":
    return None
  one = body.instructions[start.operands[index]]
  return _scalar(program, (body, one), frames)


def _step(
  program: hlo.Program, body: hlo.Computation, counter: int, frames: Frames
) -> int | None:
  """Returns what a turn adds to the counter."""
  if body.root.opcode != "tuple":
    return None
  one = body.instructions[body.root.operands[counter]]
  while one.opcode in _SAME:
    one = body.instructions[one.operands[0]]
  where, names = body, {}
  if one.opcode == "fusion":
    where = program.called(one, "calls")
    names = dict(enumerate(one.operands))
    one = where.root
  if one.opcode not in ("add", "subtract"):
    return None
  left, right = (_outside(where, body, name, names) for name in one.operands)
  sign = 1 if one.opcode == "add" else -1
  if _index(left) == counter:
    step = _scalar(program, right, frames)
  elif _index(right) == counter and sign == 1:
    step = _scalar(program, left, frames)
  else:
    return None
  return None if step is None else sign * step
