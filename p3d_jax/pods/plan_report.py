"""The numbers of a plan as text."""

from __future__ import annotations

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
    f"{n['parameters']:,} parameters; GFLOP a clip: {flop['forward']:,.3g} "
    f"forward, {flop['training']:,.3g} training"
  )


def _work(n: dict[str, Any]) -> str:
  work = n["chip_and_step"]
  return (
    f"{work['gflop']:,.4g} GFLOP, {_size(work['bytes_moved'])} moved, "
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
    f"{name} {least[f'{name}_ms']:.3g} ms"
    for name in ("compute", "memory", "interconnect")
  )
  passes = f" ({least['passes']} passes)" if least["passes"] > 1 else ""
  return [
    _line("figures of", n["source"]),
    _line("at least", f"{times}{passes}: {least['binds']} binds"),
    _line(
      "at most",
      f"{least['clips_a_second']:,.4g} clips/s, "
      f"{least['clips_a_second_a_chip']:,.4g} a chip",
    ),
    _line("decoding", _decoding(decode)),
    _line("days", _days(days, n["steps"])),
  ]


def _decoding(decode: dict[str, Any]) -> str:
  return (
    f"{decode['clips_a_second_a_host']:,.4g} clips/s a host at "
    f"{decode['ms_a_clip']:g} ms of CPU take {decode['cores_needed']:,.3g} of "
    f"its {decode['cores']} vCPUs"
  )


def _days(days: dict[str, float], steps: int) -> str:
  text = f"{days['chips']:.2g} at least for {steps:,} steps"
  if days["with_decoding"] > days["chips"]:
    text += f", {days['with_decoding']:.2g} as fast as the hosts decode"
  return text


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


def _size(count: float) -> str:
  """Returns bytes for people."""
  for unit, scale in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
    if count >= scale:
      return f"{count / scale:.3g} {unit}"
  return f"{count:.0f} B"
