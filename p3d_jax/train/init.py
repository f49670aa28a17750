"""Where a run begins: with random weights, or with those of `init_from`.

Weights that are put into a new run are at its step 0: the optimiser, the step
and the data begin anew. A run that goes on takes all of them from its workdir,
and does not look at `init_from` again.

What belongs to weights comes with them. `begin` writes it into the config, so
that everything after it, config.json too, sees what is run.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from p3d_jax.checkpoint import model, tree
from p3d_jax.files import absolute, check_bucket, on_store
from p3d_jax.models import zoo
from p3d_jax.train import optim
from p3d_jax.train.config import ConfigError, default
from p3d_jax.train.config_check import get

# What is not in these is a matter of training, and stays the config's.
_MODEL = (
  "stages",
  "width",
  "schedule",
  "rule",
  "stem_pool",
  "reduce_stride",
  "norm_epsilon",
)
_PIXELS = ("channels", "scale", "mean", "std")
_HEAD = "params/head/"


@dataclasses.dataclass(frozen=True)
class Start:
  """The config of a run, resolved, and the weights that it begins with.

  Attributes:
    config: with what belongs to the weights, and with its learning rate.
    weights: "params" and "batch_stats" on the host, without "head" where that
      begins fresh; None where all are drawn, or the run goes on.
    origin: of the weights, for the provenance: "path" as the config has it,
      "sha256" of what was read, "head" ("kept" or "fresh") and "source", the
      kind of their own provenance; None without `init_from`.
    note: for people; empty where no weights are loaded.
  """

  config: ConfigDict
  weights: Any = None
  origin: Mapping[str, Any] | None = None
  note: str = ""

  def without_weights(self) -> Start:
    """Returns the same, holding no arrays."""
    return dataclasses.replace(self, weights=None)


def begin(
  config: ConfigDict, workdir: epath.Path, labels: Sequence[str]
) -> Start:
  """Finds the weights that a run begins with, and resolves its config.

  Args:
    config: of `default()`'s fields, checked.
    workdir: of the run, absolute.
    labels: names of the classes that it learns.

  Raises:
    ConfigError: if `init_from` is none, or the config contradicts it.
  """
  if not config.init_from:
    resolved = copy.deepcopy(config)
    resolved.optim.learning_rate = optim.base_rate(config)
    return Start(resolved)
  _check_apart(config.init_from, workdir)
  newest = _newest(workdir)
  if newest is not None:
    return _go_on(config, workdir, newest)
  folder = _find(config.init_from)
  record = _told(config.init_from, model.read_record, folder)
  why = _fresh_head(record, labels)
  resolved = _resolve(config, record, fresh_head=bool(why))
  _, variables, _ = _told(config.init_from, model.load, folder)
  weights = jax.device_get(variables)
  if why:
    weights["params"].pop("head", None)
  origin = {
    "path": config.init_from,
    "sha256": record.sha256,
    "head": "fresh" if why else "kept",
    "source": record.provenance.get("kind"),
  }
  head = f"fresh head: {why}" if why else "head kept"
  return Start(resolved, weights, origin, f"{config.init_from} ({head})")


def check_weights(start: Start, expected: Any) -> None:
  """Raises if weights are not all of a network's, but for a fresh head.

  Args:
    start: of the run.
    expected: variables of its network, or their shapes.

  Raises:
    ConfigError: with the first leaf that differs.
  """
  if start.weights is None or start.origin is None:
    return
  there, wanted = tree.shapes(start.weights), tree.shapes(expected)
  if start.origin["head"] == "fresh":
    wanted = {n: s for n, s in wanted.items() if not n.startswith(_HEAD)}
  for name in sorted(set(there) | set(wanted)):
    if there.get(name) != wanted.get(name):
      raise ConfigError(
        f"config.init_from is {start.config.init_from!r}: {name} is "
        f"{there.get(name, 'missing')}, the network's "
        f"{wanted.get(name, 'missing')}"
      )


def _go_on(
  config: ConfigDict, workdir: epath.Path, newest: model.Record
) -> Start:
  """Resolves the config of a run that has a step, from what that step says."""
  origin = newest.provenance.get("init_from")
  if origin is None or _absolute(origin["path"]) != _absolute(config.init_from):
    began = "without it" if origin is None else f"from {origin['path']!r}"
    raise ConfigError(
      f"config.init_from is {config.init_from!r}: {workdir} is of a run that "
      f"began {began}; name a new workdir"
    )
  resolved = _resolve(config, newest, fresh_head=origin["head"] == "fresh")
  resolved.init_from = origin["path"]  # however it is written now
  return Start(resolved, origin=origin)


def _absolute(path: str) -> str:
  return str(absolute(path))


def _real(path: epath.PathLike) -> epath.Path:
  """Returns a path without links, of which a store has none."""
  found = absolute(path)
  return found if on_store(found) else found.resolve()


def _check_apart(init_from: str, workdir: epath.Path) -> None:
  there, own = _real(init_from), _real(workdir)
  if own == there or own in there.parents:
    raise ConfigError(
      f"config.init_from is {init_from!r}: it is this run's own workdir; a run "
      "goes on by itself, so leave init_from out"
    )


def _newest(workdir: epath.Path) -> model.Record | None:
  """Returns the record of a run's newest whole step, or None before it."""
  if not (workdir / model.CHECKPOINTS).exists():
    return None
  try:
    folder = model.find(workdir)
  except model.CheckpointError:  # it was killed before its first step
    return None
  return model.read_record(folder)


def _find(init_from: str) -> epath.Path:
  check_bucket(init_from, "config.init_from")
  path = absolute(init_from)
  if not path.exists():
    raise ConfigError(f"config.init_from is {init_from!r}: there is no {path}")
  return _told(init_from, model.find, path)


def _told(init_from: str, function: Any, path: epath.Path) -> Any:
  """Calls it; a CheckpointError names the field."""
  try:
    return function(path)
  except model.CheckpointError as error:
    raise ConfigError(f"config.init_from is {init_from!r}: {error}") from error


def _fresh_head(record: model.Record, labels: Sequence[str]) -> str:
  """Says why the head cannot be kept; empty if it can.

  Equal counts are not enough: the logits of other classes, or of the same in
  another order, would be taken for those of the data's without a word.
  """
  if record.model["num_classes"] is None:
    return f"{len(labels)} classes, the weights are a trunk"
  if len(record.labels) != len(labels):
    return f"{len(labels)} classes, the weights have {len(record.labels)}"
  for theirs, ours in zip(record.labels, labels, strict=True):
    if theirs != ours:
      return (
        f"{len(labels)} classes, the weights have others: {theirs!r}, not "
        f"{ours!r}"
      )
  return ""


def _resolve(
  config: ConfigDict, record: model.Record, *, fresh_head: bool
) -> ConfigDict:
  """Returns the config with what belongs to the weights, and their rates."""
  theirs = _of_weights(record)
  _check_same(config, theirs)
  resolved = copy.deepcopy(config)
  for field, value in theirs.items():
    section, name = field.split(".")
    resolved[section][name] = value
  resolved.model.name = _name(config, theirs)
  rates = resolved.optim
  rates.learning_rate = optim.base_rate(config)
  if fresh_head:
    rates.multipliers = (
      *rates.multipliers,
      ("^head/fc/kernel", rates.fresh_head_kernel),
      ("^head/fc/bias", rates.fresh_head_bias),
    )
  return resolved


def _of_weights(record: model.Record) -> dict[str, Any]:
  """Returns field -> value of what belongs to weights, as a config has it."""
  theirs = {f"model.{name}": record.model[name] for name in _MODEL}
  theirs["model.stages"] = tuple(theirs["model.stages"])
  if not isinstance(theirs["model.schedule"], str):
    theirs["model.schedule"] = ",".join(theirs["model.schedule"])
  pixels = record.preprocessing
  return theirs | {f"preprocessing.{n}": getattr(pixels, n) for n in _PIXELS}


def _check_same(config: ConfigDict, theirs: Mapping[str, Any]) -> None:
  """Raises if a field was set to what the weights are not."""
  rule = f"the weights of config.init_from, {config.init_from!r}, have"
  known = default()
  for field, value in theirs.items():
    ours = get(config, field)
    if ours not in (get(known, field), value):
      raise ConfigError(
        f"config.{field} is {ours!r}: {rule} {value!r}; leave it out"
      )
  for field, table in (("name", zoo.MODELS), ("flavour", zoo.FLAVOURS)):
    ours = config.model[field]
    if ours == known.model[field]:
      continue
    for part, stated in table[ours].items():
      value = theirs[f"model.{part}"]
      # A part that is set alone wins over the row, and was checked above.
      if config.model[part] is None and stated != value:
        raise ConfigError(
          f"config.model.{field} is {ours!r}, {part} {stated!r}: {rule} "
          f"{value!r}; leave it out"
        )


def _name(config: ConfigDict, theirs: Mapping[str, Any]) -> str:
  """Returns the name of the weights' network, if it has one."""
  for name, row in zoo.MODELS.items():
    if all(theirs[f"model.{part}"] == value for part, value in row.items()):
      return name
  return config.model.name
