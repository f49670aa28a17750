"""What a run writes for people: metrics, TensorBoard, config, versions."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from p3d_jax import files, version
from p3d_jax.files import write_aside
from p3d_jax.train.events import EventFile

CONFIG = "config.json"
METRICS = "metrics.jsonl"
# Kind of a line with the metrics of single steps, of a run that stopped between
# two lines; the run that goes on makes a line of them.
OPEN = "open"
# What may change when a run goes on: none of it changes a number, but for the
# order of additions.
FREE_SECTIONS = (
  "input",
  "log",
  "checkpoint",
  "mesh",
  "profile",
  "watch",
  "compile",
)
# Where the set is may change, what is in it may not: see loop.py.
FREE_FIELDS = ("config.eval.batch", "config.data.cache", "config.data.dir")


def versions() -> dict[str, str]:
  """Returns the versions and the devices that a run's numbers come from."""
  device = jax.devices()[0]
  devices = f"{jax.device_count()} {device.platform} {device.device_kind}"
  return version.versions() | {"devices": devices}


def config_json(config: ConfigDict) -> dict[str, Any]:
  """Returns a config in JSON types."""
  return json.loads(config.to_json_best_effort())


def check_config(workdir: epath.Path, config: ConfigDict) -> None:
  """Checks that a run goes on with the config that it began with.

  Raises:
    ValueError: if the workdir is of a run with another config, with the
      fields that differ.
  """
  file = workdir / CONFIG
  if not file.exists():
    return
  then, now = json.loads(file.read_text()), config_json(config)
  lines = _differences(then, now)
  if norms_see_no_parts(config):
    lines = [line for line in lines if "config.train.accumulate " not in line]
  if then.get("init_from") != now["init_from"]:
    # What belongs to the weights differs with them.
    lines = [line for line in lines if line.startswith("config.init_from")]
  if any("config.train.accumulate " in line for line in lines):
    lines.append(
      "train.accumulate may change where norm.group is set or norm.freeze is "
      "'all': live batch norm sees one part at a time"
    )
  if lines:
    raise ValueError(
      f"{workdir} is of a run with another config: {'; '.join(lines)}; "
      "name a new workdir, or go on with the old config"
    )


def norms_see_no_parts(config: ConfigDict) -> bool:
  """Whether a batch computed in parts gives what it gives as a whole.

  Live batch norm takes its statistics over a part, unless they are over groups
  of clips.
  """
  return config.norm.freeze == "all" or config.norm.group is not None


def write_config(workdir: epath.Path, config: ConfigDict) -> None:
  """Writes config.json."""
  text = json.dumps(config_json(config), indent=2) + "\n"
  write_aside(workdir / CONFIG, text)


def _differences(then: Any, now: Any, at: str = "config") -> list[str]:
  if not (isinstance(then, dict) and isinstance(now, dict)):
    return [] if then == now else [f"{at} was {then!r}, is {now!r}"]
  free = FREE_SECTIONS if at == "config" else ()
  names = sorted((set(then) | set(now)) - set(free))
  names = [name for name in names if f"{at}.{name}" not in FREE_FIELDS]
  return [
    line
    for name in names
    for line in _differences(then.get(name), now.get(name), f"{at}.{name}")
  ]


class Logs:
  """Appends metrics to metrics.jsonl and to TensorBoard's event files.

  The first host of a run writes; those of the others write nothing.

  Attributes:
    open: metrics of steps before this start that are in no line yet.
  """

  def __init__(
    self, workdir: epath.Path, step: int, *, tensorboard: bool
  ) -> None:
    """Opens the logs of a run that goes on from `step`.

    Lines past it, of steps that a killed run did and that will be done again,
    are taken out.
    """
    there = [line for line in read(workdir) if line["step"] <= step]
    self.open: list[dict[str, float]] = [
      metrics
      for line in there
      if line["kind"] == OPEN and line["step"] == step
      for metrics in line["metrics"]
    ]
    self._lines: files.Lines | None = None
    self._board: EventFile | None = None
    if jax.process_index():
      return
    # It may be killed before its next checkpoint, and begin here again.
    kept = [
      line for line in there if line["kind"] != OPEN or line["step"] == step
    ]
    text = "".join(json.dumps(line) + "\n" for line in kept)
    write_aside(workdir / METRICS, text)
    self._lines = files.Lines(workdir / METRICS)
    if tensorboard:
      self._board = EventFile(workdir / "tensorboard", step)
    _note_start(workdir, step)

  def write(self, step: int, kind: str, metrics: Mapping[str, float]) -> None:
    """Writes one line: `{"step": ..., "kind": "train" or "eval", ...}`."""
    self.note(step, kind, metrics)
    if self._board is not None:
      tags = {f"{kind}/{name}": value for name, value in metrics.items()}
      self._board.add(step, tags)

  def note(self, step: int, kind: str, fields: Mapping[str, Any]) -> None:
    """Writes one line that is no metric, to metrics.jsonl alone."""
    if self._lines is not None:
      line = {"step": step, "kind": kind, **fields}
      self._lines.add(json.dumps(line) + "\n")

  def sync(self) -> None:
    """Makes both files' lines visible, before a checkpoint says they are."""
    if self._lines is not None:
      self._lines.sync()
    if self._board is not None:
      self._board.sync()

  def close(self) -> None:
    """Ends both files."""
    if self._lines is not None:
      self._lines.close()
    if self._board is not None:
      self._board.close()


def _note_start(workdir: epath.Path, step: int) -> None:
  """Adds this start (command, versions, step) to runs.jsonl."""
  start = {
    "step": step,
    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    "command": sys.argv,
    "processes": jax.process_count(),
    **versions(),
  }
  with contextlib.closing(files.Lines(workdir / "runs.jsonl")) as lines:
    lines.add(json.dumps(start) + "\n")


def problems(workdir: epath.PathLike) -> list[str]:
  """Returns what metrics.jsonl says of videos that could not be read."""
  lines = (line for line in read(workdir) if line["kind"] == "replaced")
  return [line["problem"] for line in lines]


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
  """Reads metrics.jsonl; a last line that a kill cut short is left out."""
  file = epath.Path(workdir) / METRICS
  if not file.exists():
    return []
  lines = file.read_text().split("\n")
  # What follows the last line break is empty or was being written.
  return [json.loads(line) for line in lines[:-1]]
