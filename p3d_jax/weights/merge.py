"""Strict merge: each array has its place and each leaf its array, or an error.

Nothing is loaded "as far as it fits": a file with an array too few or too many
is another network, and its numbers would be silently wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]
Shape = tuple[int, ...]

FLOATS = ("float32", "float16", "bfloat16", "float64")

_SHOWN = 8  # names in a message; the error's attributes have all


class WeightsError(ValueError):
  """Weights that do not fit, with what is missing and what is of no use.

  Attributes:
    missing: names that the network needs and the file does not have.
    unknown: names that the file has and nothing takes.
    wrong: a line for each array of another shape or with impossible numbers.
  """

  def __init__(
    self,
    message: str,
    missing: Sequence[str] = (),
    unknown: Sequence[str] = (),
    wrong: Sequence[str] = (),
  ) -> None:
    super().__init__(message)
    self.missing = tuple(missing)
    self.unknown = tuple(unknown)
    self.wrong = tuple(wrong)


class Row(NamedTuple):
  """Where one leaf comes from.

  Attributes:
    sources: names of the arrays of the file that it is made of.
    make: of those arrays, in that order; gives the leaf in our layout.
  """

  sources: tuple[str, ...]
  make: Callable[..., np.ndarray]


@dataclasses.dataclass
class Report:
  """What became of each array of a source and of each leaf of a network.

  Attributes:
    title: a line: what was made of what.
    used: leaf -> names of the arrays it is made of.
    unused: rule -> names of arrays that the rule leaves out.
    fresh: leaf -> how it was drawn.
    notes: lines that a user should read.
  """

  title: str = ""
  used: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  unused: dict[str, list[str]] = dataclasses.field(default_factory=dict)
  fresh: dict[str, str] = dataclasses.field(default_factory=dict)
  notes: list[str] = dataclasses.field(default_factory=list)

  def text(self) -> str:
    """Returns the report as people read it: counts by rule."""
    arrays = {name for names in self.used.values() for name in names}
    lines = [
      self.title,
      f"  {len(arrays):>5} arrays of the file fill {len(self.used)} leaves",
    ]
    for rule, found in self.unused.items():
      lines.append(f"  {len(found):>5} not used: {rule}")
    for how in dict.fromkeys(self.fresh.values()):
      count = sum(value == how for value in self.fresh.values())
      lines.append(f"  {count:>5} leaves fresh: {how}")
    return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

  def to_json(self) -> dict[str, Any]:
    """Returns all of it in JSON types, as stored with a checkpoint."""
    content = dataclasses.asdict(self)
    content["used"] = {leaf: list(names) for leaf, names in self.used.items()}
    return content


def merge(
  rows: Mapping[str, Row],
  arrays: Arrays,
  leaves: Mapping[str, Shape],
  unused: Mapping[str, str],
) -> tuple[dict[str, np.ndarray], Report]:
  """Fills every leaf of a network from the arrays of a file.

  Args:
    rows: leaf -> where it comes from.
    arrays: of the file, by their names there.
    leaves: leaf -> shape, all that the network has.
    unused: name of an array that may stay unused -> the rule.

  Returns:
    float32 array by leaf, and the report.

  Raises:
    WeightsError: if an array is missing, of no use, of another shape, or holds
      numbers that cannot be.
  """
  report, filled = Report(), {}
  missing, wrong = [], []
  for leaf, shape in leaves.items():
    row = rows[leaf]
    absent = [name for name in row.sources if name not in arrays]
    missing += absent
    if absent:
      continue
    value, fault = _make(row, arrays, leaf, shape)
    if fault and fault not in wrong:
      wrong.append(fault)
    filled[leaf], report.used[leaf] = value, row.sources
  taken = {name for row in rows.values() for name in row.sources}
  unknown = []
  for name in arrays:
    if name in taken:
      continue
    if name in unused:
      report.unused.setdefault(unused[name], []).append(name)
    else:
      unknown.append(name)
  refuse(list(dict.fromkeys(missing)), unknown, wrong)
  return filled, report


def refuse(
  missing: Sequence[str], unknown: Sequence[str], wrong: Sequence[str]
) -> None:
  """Raises a WeightsError with all lists, unless they are empty."""
  parts = [
    f"{len(names)} {what}: {', '.join(names[:_SHOWN])}"
    + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    for what, names in (
      ("arrays are missing", missing),
      ("arrays are of no use", unknown),
      ("arrays do not fit", wrong),
    )
    if names
  ]
  if parts:
    raise WeightsError("; ".join(parts), missing, unknown, wrong)


def _make(
  row: Row, arrays: Arrays, leaf: str, shape: Shape
) -> tuple[np.ndarray, str]:
  """Makes one leaf; the text says what is wrong with it, or nothing."""
  given = [arrays[name] for name in row.sources]
  for source, array in zip(row.sources, given, strict=True):
    if fault := _fault(array):
      return array, f"{source} {fault}"
  name, found = row.sources[0], tuple(given[0].shape)
  try:
    value = row.make(*given)
  except ValueError:
    return given[0], f"{name} {found} is no {leaf} {shape}"
  if value.shape != shape:
    return value, f"{name} {found} is no {leaf} {shape}"
  if leaf.endswith("/var") and np.any(value < 0):
    return value, f"{name} holds negative variances"
  if not np.all(np.isfinite(value)):
    return value, f"{name} makes {leaf} that is not finite"
  return np.ascontiguousarray(value, np.float32), ""


def _fault(array: np.ndarray) -> str:
  """Says why an array cannot become float32 as it is, or nothing."""
  if array.dtype.name not in FLOATS:
    return f"is {array.dtype.name}, and must be one of {', '.join(FLOATS)}"
  if not np.all(np.isfinite(array)):
    return "holds numbers that are not finite"
  with np.errstate(over="ignore"):
    same = array.astype(np.float32, copy=False)
  if array.dtype == np.float64 and not np.array_equal(same, array):
    return "is float64, with numbers that float32 cannot hold"
  return ""
