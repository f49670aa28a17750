"""What a run is: its network, its config, how it was started."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from p3d_jax.checkpoint import describe, model
from p3d_jax.models import schedule, zoo
from p3d_jax.models.count import count
from p3d_jax.train import config as configs
from p3d_jax.train import logs
from p3d_jax.visualize.report_html import (
  Html,
  facts,
  folded,
  joined,
  table,
  tag,
)

RUNS = "runs.jsonl"
# Names of the files that `p3d` is started by, which say nothing.
_PROGRAMS = ("p3d", "__main__.py", "cli.py")


def network(folder: epath.Path, record: model.Record) -> Html:
  """Returns what the network of a checkpoint is."""
  fields, pixels = record.model, record.preprocessing
  height, width = pixels.crop_size
  shape = (1, pixels.frames, height, width, record.channels)
  cost = count(zoo.from_fields(fields), shape)
  letters = schedule.letters(fields["schedule"], fields["stages"])
  rate = "the video's own rate" if pixels.fps is None else f"{pixels.fps:g} fps"
  return joined(
    [
      facts(
        [
          ("layers", schedule.depth(fields["schedule"], fields["stages"])),
          (
            "blocks",
            ", ".join(f"res{k} {s}" for k, s in enumerate(letters, 2)),
          ),
          ("parameters", f"{cost.parameters:,}"),
          ("multiply-adds", f"{cost.multiply_adds / 1e9:.3f} G a clip"),
          (
            "clip",
            f"{pixels.frames} frames of {height}x{width} pixels, "
            f"{pixels.channels}, stride {pixels.stride}, at {rate}",
          ),
          ("classes", f"{len(record.labels)}, scores by {record.scores}"),
        ]
      ),
      folded(
        "everything that its checkpoint says",
        tag("pre", describe.describe(folder)),
      ),
    ]
  )


def layers(record: model.Record) -> str:
  """Returns a network in a few words."""
  fields = record.model
  depth = schedule.depth(fields["schedule"], fields["stages"])
  shapes = model.abstract_variables(record)["params"]
  size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  laid = fields["schedule"]
  laid = laid if isinstance(laid, str) else ",".join(laid)
  return f"{depth} layers, blocks {laid}, {size:,} parameters"


def differences(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
  """Returns (field, value, value of `default()`) where a config differs.

  A field that only one of the two has is "none" in the other.
  """
  mine, usual = _flat(config), _flat(logs.config_json(configs.default()))
  return [
    (name, _shown(mine, name), _shown(usual, name))
    for name in dict.fromkeys([*usual, *mine])
    if _shown(mine, name) != _shown(usual, name)
  ]


def _flat(config: Mapping[str, Any], at: str = "") -> dict[str, Any]:
  """Returns the fields of a config by their whole names."""
  found: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, Mapping):
      found |= _flat(value, f"{at}{name}.")
    else:
      found[at + name] = value
  return found


def _shown(fields: Mapping[str, Any], name: str) -> str:
  return (
    json.dumps(fields[name], ensure_ascii=False) if name in fields else "none"
  )


def config(record: model.Record) -> Html:
  """Returns the fields of the run's config that are not as in `default()`."""
  found = record.provenance.get("config")
  if found is None:
    return tag("p", "The checkpoint has no config.")
  rows = [
    (_field(name), tag("code", value), tag("code", usual))
    for name, value, usual in differences(found)
  ]
  if not rows:
    return tag("p", "Every field is as in default().")
  return table(("field", "value", "default"), rows)


def _field(name: str) -> Html:
  """Returns the name of a field, which a narrow screen breaks at its dots."""
  first, *rest = name.split(".")
  return tag("code", first, *(joined([".", tag("wbr"), r]) for r in rest))


def starts(workdir: epath.Path) -> Html:
  """Returns each start of the run: when, by which command, with what."""
  runs = read_starts(workdir)
  if not runs:
    return tag("p", f"The workdir has no {RUNS}.")
  began = [
    (
      f"{run['time'].replace('T', ' ').rstrip('Z')} UTC, from step "
      f"{run['step']:,}",
      tag("code", command(run["command"])),
    )
    for run in runs
  ]
  known = {"step", "time", "command"}
  made = [(name, of) for name, of in runs[-1].items() if name not in known]
  return joined(
    [facts(began), tag("h3", "Versions of the last start"), facts(made)]
  )


def read_starts(workdir: epath.Path) -> list[dict[str, Any]]:
  """Reads runs.jsonl; a last line that a kill cut short is left out.

  Raises:
    ValueError: it is damaged.
  """
  file = workdir / RUNS
  if not file.exists():
    return []
  try:
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]]
  except ValueError as error:
    raise ValueError(f"{os.fspath(file)} is damaged: {error}") from error


def command(words: list[str]) -> str:
  """Returns a command line as a shell takes it."""
  if os.path.basename(words[0]) in _PROGRAMS:
    words = ["p3d", *words[1:]]
  return shlex.join(words)
