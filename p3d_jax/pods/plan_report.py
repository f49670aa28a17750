"""The numbers of a plan as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from p3d_jax.pods.fit import Try, flags

GIB = 2**30
_WIDTH = 15


def report(numbers: dict[str, Any]) -> str:
  """Returns what `plan.numbers` found, a line for each thing."""
  chip = numbers["chip"]
  lines = [
    _line("topology", _topology(numbers)),
    _line("recipe", _recipe(numbers)),
    _line("network", _network(numbers)),
    _line("a chip's step" if chip else "a device's step", _work(numbers)),
    *_memory(numbers["memory"], chip),
    *_collectives(numbers["collectives"]),
    *_bounds(numbers),
    _line("compiled in", f"{numbers['compile_seconds']:.0f} s"),
  ]
  unknown = numbers["loops"].count(None)
  if unknown:
    lines.append(
      _line("note", f"{unknown} loops of unknown length are counted once")
    )
  return "\n".join(lines)


def _line(name: str, text: str) -> str:
  return f"{name:{_WIDTH}} {text}"


def _topology(n: dict[str, Any]) -> str:
  kind = "chip" if n["chip"] else "device"
  return (
    f"{n['topology']}: {_many(n['chips'], kind)}, {_many(n['hosts'], 'host')}"
  )


def _many(count: int, name: str) -> str:
  return f"{count:,} {name}{'s' * (count != 1)}"


def _recipe(n: dict[str, Any]) -> str:
  mesh = " x ".join(f"{size} {axis}" for axis, size in n["mesh"].items())
  parts = f" in {n['accumulate']} parts" if n["accumulate"] > 1 else ""
  return (
    f"{n['batch']:,} clips a step{parts}, mesh {mesh}, {n['dtype']}"
    f"{', remat' * n['remat']}"
  )


def _network(n: dict[str, Any]) -> str:
  flop = n["gflop_a_clip"]
  return (
    f"{n['parameters']:,} parameters; GFLOP a clip: "
    f"{_number(flop['forward'])} forward, {_number(flop['training'])} training"
  )


def _work(n: dict[str, Any]) -> str:
  work = n["chip_and_step"]
  return (
    f"{_number(work['gflop'], 4)} GFLOP, {_size(work['bytes_moved'])} moved, "
    f"{_size(work['bytes_sent'])} sent"
  )


def _memory(memory: dict[str, Any], chip: str | None) -> list[str]:
  names = ("arguments", "temporaries", "outputs", "program")
  parts = ", ".join(f"{name} {_size(memory[name])}" for name in names)
  total = _size(memory["total"])
  if memory["usable"] is not None:
    total += f" of the {_size(memory['usable'])} that a program may have"
  return [_line("HBM a chip" if chip else "memory", total), _line("", parts)]


def _collectives(rows: Sequence[dict[str, Any]]) -> list[str]:
  return [
    _line(
      "" if i else "collectives",
      f"{row['count']:,} {row['kind']} over {row['group']}: "
      f"{_size(row['bytes'])}, {_size(row['sent'])} sent",
    )
    for i, row in enumerate(rows)
  ] or [_line("collectives", "none")]


def _bounds(n: dict[str, Any]) -> list[str]:
  least, decode, days = n["bounds"], n["decode"], n["days"]
  if least is None:
    return [_line("bounds", "none: the figures of this chip are not known")]
  times = ", ".join(
    f"{name} {_number(least[f'{name}_ms'])} ms"
    for name in ("compute", "memory", "interconnect")
  )
  passes = f" ({least['passes']} passes)" if least["passes"] > 1 else ""
  return [
    _line("figures of", n["source"]),
    _line("at least", f"{times}{passes}: {least['binds']} binds"),
    _line(
      "at most",
      f"{_number(least['clips_a_second'], 4)} clips/s, "
      f"{_number(least['clips_a_second_a_chip'], 4)} a chip",
    ),
    _line("decoding", _decoding(decode)),
    _line("days", _days(days, n["steps"])),
  ]


def _decoding(decode: dict[str, Any]) -> str:
  cores, needed = decode["cores"], decode["cores_needed"]
  take = f"{_number(needed)} of its {cores} vCPUs"
  if needed > cores:
    take = f"{_number(needed)} vCPUs, more than the {cores} it has"
  return (
    f"{_number(decode['clips_a_second_a_host'], 4)} clips/s a host at "
    f"{decode['ms_a_clip']:g} ms of CPU take {take}"
  )


def _days(days: dict[str, float], steps: int) -> str:
  text = f"{_days_of(days['chips'])} at least for {steps:,} steps"
  if days["with_decoding"] > days["chips"]:
    text += f", {_days_of(days['with_decoding'])} as fast as the hosts decode"
  return text


def _days_of(days: float) -> str:
  """A minute and a half is the least that is told."""
  return _number(days, 2) if days >= 0.001 else "under 0.001"


def tried(tries: Sequence[Try]) -> str:
  """Returns what was tried for a config that does not fit."""
  if not tries:
    return "nothing to try: the batch is in its smallest parts already"
  lines = ["tried, each compiled:"]
  for one in tries:
    word = "does not fit" if one.step is None else "fits"
    needs = "" if one.needs is None else f", {_size(one.needs)} a chip"
    lines.append(f"  {word}{needs}: {flags(one.changes)}")
  return "\n".join(lines)


def too_big(needs: int | None, has: int | None) -> str:
  """Returns by how much a step does not fit."""
  if needs is None or has is None:
    return "the step does not fit: the compiler ran out of memory"
  return (
    f"the step does not fit: it needs {_size(needs)} a chip, which has "
    f"{_size(has)}: {_size(needs - has)} too much"
  )


def _number(value: float, digits: int = 3) -> str:
  """Returns a number of so many digits for people: no power of ten."""
  if value == 0:
    return "0"
  places = digits - 1 - math.floor(math.log10(abs(value)))
  text = f"{round(value, places):,.{max(places, 0)}f}"
  return text.rstrip("0").rstrip(".") if "." in text else text


def _size(count: float) -> str:
  """Returns bytes for people."""
  for unit, scale in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
    if count >= scale:
      return f"{_number(count / scale)} {unit}"
  return f"{count:.0f} B"
