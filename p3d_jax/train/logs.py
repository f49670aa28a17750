"""What a run writes for people: metrics, TensorBoard, config, versions."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from p3d_jax import version
from p3d_jax.files import write_aside
from p3d_jax.train.events import EventFile

CONFIG = "config.json"
METRICS = "metrics.jsonl"
# What may change when a run goes on: none of it changes a number.
FREE_SECTIONS = ("input", "log", "checkpoint")


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
  if then.get("init_from") != now["init_from"]:
    # What belongs to the weights differs with them.
    lines = [line for line in lines if line.startswith("config.init_from")]
  if lines:
    raise ValueError(
      f"{workdir} is of a run with another config: {'; '.join(lines)}; "
      "name a new workdir, or go on with the old config"
    )


def write_config(workdir: epath.Path, config: ConfigDict) -> None:
  """Writes config.json."""
  text = json.dumps(config_json(config), indent=2) + "\n"
  write_aside(workdir / CONFIG, text)


def _differences(then: Any, now: Any, at: str = "config") -> list[str]:
  if not (isinstance(then, dict) and isinstance(now, dict)):
    return [] if then == now else [f"{at} was {then!r}, is {now!r}"]
  free = FREE_SECTIONS if at == "config" else ()
  names = sorted((set(then) | set(now)) - set(free))
  return [
    line
    for name in names
    for line in _differences(then.get(name), now.get(name), f"{at}.{name}")
  ]


class Logs:
  """Appends metrics to metrics.jsonl and to TensorBoard's event files."""

  def __init__(
    self, workdir: epath.Path, step: int, *, tensorboard: bool
  ) -> None:
    """Opens the logs of a run that goes on from `step`.

    Lines past it, of steps that a killed run did and that will be done again,
    are taken out.
    """
    self._file = workdir / METRICS
    kept = [line for line in read(workdir) if line["step"] <= step]
    text = "".join(json.dumps(line) + "\n" for line in kept)
    write_aside(self._file, text)
    self._out = self._file.open("a")
    self._board = (
      EventFile(workdir / "tensorboard", step) if tensorboard else None
    )
    self._note_start(workdir, step)

  def _note_start(self, workdir: epath.Path, step: int) -> None:
    """Adds this start (command, versions, step) to runs.jsonl."""
    start = {
      "step": step,
      "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
      "command": sys.argv,
      **versions(),
    }
    with (workdir / "runs.jsonl").open("a") as out:
      out.write(json.dumps(start) + "\n")

  def write(self, step: int, kind: str, metrics: Mapping[str, float]) -> None:
    """Writes one line: `{"step": ..., "kind": "train" or "eval", ...}`."""
    line = {"step": step, "kind": kind, **metrics}
    self._out.write(json.dumps(line) + "\n")
    self._out.flush()
    if self._board is not None:
      tags = {f"{kind}/{name}": value for name, value in metrics.items()}
      self._board.add(step, tags)

  def note(self, step: int, kind: str, fields: Mapping[str, Any]) -> None:
    """Writes one line that is no metric, to metrics.jsonl alone."""
    self._out.write(json.dumps({"step": step, "kind": kind, **fields}) + "\n")
    self._out.flush()

  def close(self) -> None:
    """Ends both files."""
    self._out.close()
    if self._board is not None:
      self._board.close()


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
