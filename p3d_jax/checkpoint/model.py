"""A network on disk: what it is, what it expects of pixels, and its numbers.

A checkpoint is a folder with two parts, written together or not at all:

    model/model.json   the record below
    variables/         parameters and batch statistics, by Orbax

and, where the numbers came from elsewhere, report/report.json: what became of
each array of the source.

A step of a training run is such a folder too (with `train/` beside them), so
`load` takes a converted folder, a step or a whole workdir. Where a folder
cannot be renamed (gs://), Orbax's commit_success.txt says that it is whole.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from p3d_jax.checkpoint import tree
from p3d_jax.files import absolute, check_bucket, write_json
from p3d_jax.models import p3d, zoo
from p3d_jax.preprocess import Preprocessing

FORMAT = 1
CHECKPOINTS = "checkpoints"  # of a workdir; its folders are named by the step
SCORES = ("softmax", "sigmoid")
BEST = "video_hit@1"  # what ranks the steps of a run
_METRICS = "metrics/metrics"  # of a step that was evaluated


class CheckpointError(ValueError):
  """A checkpoint that is not there, damaged or of another network."""


@dataclasses.dataclass(frozen=True)
class Record:
  """What `model.json` says of the variables beside it.

  Attributes:
    model: fields that `zoo.from_fields` builds the network from.
    preprocessing: what the weights expect of pixels.
    labels: names of the classes, in the order of the logits.
    scores: "softmax" or "sigmoid", what turns logits into scores.
    provenance: where the numbers come from: command, versions, step.
    sha256: `tree.digest` of the variables; None before they are saved.
  """

  model: Mapping[str, Any]
  preprocessing: Preprocessing
  labels: tuple[str, ...]
  scores: str = "softmax"
  provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  sha256: str | None = None

  def __post_init__(self) -> None:
    """Refuses scores that are none, and labels that are not the logits'."""
    if self.scores not in SCORES:
      raise ValueError(
        f"scores is {self.scores!r}: it must be one of {', '.join(SCORES)}"
      )
    classes = self.model["num_classes"]
    if classes is not None and classes != len(self.labels):
      raise ValueError(
        f"labels are {len(self.labels)} names: the model has {classes} classes"
      )

  def preprocess(self, frames: np.ndarray) -> np.ndarray:
    """Makes what the network takes of uint8 frames; see preprocess.py."""
    return self.preprocessing.preprocess(frames)

  @property
  def channels(self) -> int:
    """Number of input channels."""
    return len(self.preprocessing.mean)

  def to_json(self) -> dict[str, Any]:
    """Returns the content of model.json."""
    return {
      "format": FORMAT,
      "model": dict(self.model),
      "preprocessing": self.preprocessing.to_dict(),
      "labels": list(self.labels),
      "scores": self.scores,
      "provenance": dict(self.provenance),
      "sha256": self.sha256,
    }

  @classmethod
  def from_json(cls, content: Mapping[str, Any]) -> Record:
    """Reads the content of model.json.

    Raises:
      ValueError: if it is of another format or a field is missing.
    """
    if not isinstance(content, Mapping):
      raise ValueError(f"it holds {type(content).__name__}, not an object")
    if content.get("format") != FORMAT:
      raise ValueError(
        f"format is {content.get('format')!r}: this p3d_jax reads {FORMAT}"
      )
    names = {f.name for f in dataclasses.fields(cls)}
    if set(content) != names | {"format"}:
      raise ValueError(
        f"fields are {sorted(content)}: they must be {sorted(names)} and format"
      )
    fields = {name: content[name] for name in names}
    fields["preprocessing"] = Preprocessing.from_dict(fields["preprocessing"])
    fields["labels"] = tuple(fields["labels"])
    return cls(**fields)


def handlers() -> dict[str, Any]:
  """Returns the Orbax handler of each part of a checkpoint."""
  return {
    "model": ocp.JsonCheckpointHandler(filename="model.json"),
    "variables": ocp.StandardCheckpointHandler(),
    "train": ocp.StandardCheckpointHandler(),
    "report": ocp.JsonCheckpointHandler(filename="report.json"),
  }


def check_network(record: Record, expected: Record, path: epath.Path) -> None:
  """Raises a CheckpointError if a checkpoint is of another network."""
  there, wanted = record.model, dict(expected.model)
  lines = [
    f"{name} is {there.get(name)!r}, not {value!r}"
    for name, value in wanted.items()
    if there.get(name) != value
  ]
  if lines:
    raise CheckpointError(f"{path} is of another network: {'; '.join(lines)}")


def parts(variables: Any, record: Record) -> dict[str, Any]:
  """Returns what to save of a network, for Orbax, with its hash filled in."""
  record = dataclasses.replace(record, sha256=tree.digest(variables))
  return {
    "model": ocp.args.JsonSave(record.to_json()),
    "variables": ocp.args.StandardSave(variables),
  }


def save(
  path: epath.PathLike,
  variables: Any,
  record: Record,
  report: Mapping[str, Any] | None = None,
) -> None:
  """Writes a checkpoint folder; it appears whole or not at all.

  Args:
    path: of the folder, which must not exist; gs:// works too.
    variables: {"params": ..., "batch_stats": ...} of the network.
    record: what they are; its hash is computed here.
    report: of a conversion, in JSON types; see `weights.merge.Report`.

  Raises:
    CheckpointError: if the folder exists or cannot be written, or the
      variables are not those of the record's network.
  """
  path = absolute(path)
  if path.exists() or os.path.islink(path):
    raise CheckpointError(f"{path} exists: name a folder that does not")
  _check(variables, abstract_variables(record), path)
  items = parts(variables, record)
  if report is not None:
    items["report"] = ocp.args.JsonSave(dict(report))
  try:
    _write(path, items)
  except (OSError, ValueError) as error:
    raise CheckpointError(
      f"{path} cannot be written: {' '.join(str(error).split())}"
    ) from error


def _write(path: epath.Path, items: Mapping[str, Any]) -> None:
  """Writes a folder by Orbax, and removes what a failure leaves of it."""
  args = ocp.args.Composite(**items)
  with _checkpointer(items) as checkpointer, without_closed_loops():
    aside = checkpointer.get_temporary_path(path).get()
    try:
      # Ctrl-C in Orbax leaves its threads writing; here it waits for them.
      with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(checkpointer.save, path, args=args).result()
    except BaseException:
      remove(aside)
      raise


def remove(folder: epath.Path) -> None:
  """Removes a folder for good.

  When one array cannot be written, Orbax gives up and TensorStore does not: for
  some 0.1 s it goes on with the others, and makes their folders anew.
  """
  gone, deadline = 0, time.monotonic() + 10
  while gone < 5 and time.monotonic() < deadline:
    gone = 0 if folder.exists() else gone + 1
    # A file that comes in between leaves its folder to the next round.
    with contextlib.suppress(OSError):
      folder.rmtree(missing_ok=True)
    time.sleep(0.1)


@contextlib.contextmanager
def without_closed_loops() -> Iterator[None]:
  """Keeps TensorStore from printing a traceback for each write it goes on with.

  Orbax has closed the event loop that they report to.
  """
  hook = sys.unraisablehook

  def report(unraisable: sys.UnraisableHookArgs) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
      hook(unraisable)

  sys.unraisablehook = report
  try:
    yield
  finally:
    sys.unraisablehook = hook


def load(
  path: epath.PathLike, step: int | str = "last"
) -> tuple[p3d.P3D, Any, Record]:
  """Loads a network: `module.apply(variables, record.preprocess(frames))`.

  Args:
    path: a converted or inflated folder, a step of a run, or a workdir.
    step: of a workdir: a number of steps, "last", or "best", the one of the
      highest video hit@1 in the evaluations during training.

  Returns:
    The linen module, its variables, and the record.

  Raises:
    CheckpointError: if there is none, or it is not what it says it is.
  """
  path = find(path, step)
  record = read_record(path)
  variables = _read(path, abstract_variables(record))
  check_digest(variables, record, path)
  return zoo.from_fields(record.model), variables, record


def _read(path: epath.Path, abstract: Any) -> Any:
  """Reads variables/, on whatever devices it was written, to the default one.

  By way of numpy: what comes out is bound to no device, and a mesh can take it.
  """
  kinds = jax.tree.map(
    lambda _: ocp.RestoreArgs(restore_type=np.ndarray), abstract
  )
  # All items have a handler, or Orbax warns of those it leaves alone.
  handler = ocp.CompositeCheckpointHandler(
    **(handlers() | {"variables": ocp.PyTreeCheckpointHandler()})
  )
  wanted = ocp.args.PyTreeRestore(item=abstract, restore_args=kinds)
  with ocp.Checkpointer(handler) as checkpointer:
    try:
      found = checkpointer.metadata(path).item_metadata["variables"].tree
      _check(found, abstract, path)
      restored = checkpointer.restore(
        path, args=ocp.args.Composite(variables=wanted)
      )
    except CheckpointError:
      raise
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
      raise CheckpointError(
        f"{path / 'variables'} is missing or damaged: "
        f"{str(error).splitlines()[0]}"
      ) from error
  return jax.tree.map(jnp.asarray, restored["variables"])


def check_digest(variables: Any, record: Record, path: epath.Path) -> None:
  """Raises a CheckpointError if variables are not those that were saved."""
  if record.sha256 and tree.digest(variables) != record.sha256:
    raise CheckpointError(
      f"{path}: the variables do not have the sha256 that model.json states: "
      "the checkpoint is damaged"
    )


def read_record(path: epath.Path) -> Record:
  """Reads model.json of a checkpoint folder."""
  file = path / "model" / "model.json"
  try:
    record = Record.from_json(json.loads(file.read_text()))
    zoo.from_fields(record.model)
  except (ValueError, KeyError, TypeError) as error:
    raise CheckpointError(f"{file}: {error}") from error
  return record


def read_report(path: epath.Path) -> dict[str, Any] | None:
  """Reads report.json of a checkpoint folder, if it has one."""
  file = path / "report" / "report.json"
  if not file.exists():
    return None
  try:
    return json.loads(file.read_text())
  except ValueError as error:
    raise CheckpointError(f"{file} is damaged: {error}") from error


def find(
  path: epath.PathLike, step: int | str = "last", name: str = "checkpoint"
) -> epath.Path:
  """Returns the checkpoint folder that a path means.

  Args:
    path: a converted folder, a step of a run, or a workdir; gs:// works too.
    step: of a workdir: a number, "last" or "best".
    name: of the argument that the path is.

  Raises:
    CheckpointError: if there is none, with what there is.
  """
  check_bucket(path, name)
  path = absolute(path)
  if _is_whole(path):
    if step != "last":
      raise CheckpointError(
        f"step is {step!r}, but {path} is one checkpoint: name the workdir"
      )
    return path
  root = path / CHECKPOINTS
  if path.exists() and not path.is_dir():
    raise CheckpointError(
      f"{path} is a file, no checkpoint: `p3d convert` or `p3d inflate` makes "
      "one of a file of weights"
    )
  if not root.exists():
    raise CheckpointError(
      f"{path} is no checkpoint and no workdir: it has neither "
      f"model/model.json nor {CHECKPOINTS}/"
    )
  steps = sorted(
    int(p.name) for p in root.iterdir() if p.name.isdigit() and _is_whole(p)
  )
  if step == "best":
    scored = [(score(root / str(s)), s) for s in steps]
    found = [pair for pair in scored if pair[0] is not None]
    if not found:
      raise CheckpointError(f"{path}: no step was evaluated during training")
    return root / str(max(found, key=lambda pair: (pair[0], pair[1]))[1])
  if step == "last" and steps:
    return root / str(steps[-1])
  if step in steps:
    return root / str(step)
  there = f"it has {steps}" if steps else "it has no checkpoint yet"
  raise CheckpointError(f"{path} has no step {step!r}: {there}")


def _is_whole(path: epath.Path) -> bool:
  """Whether a checkpoint stands there, written to the end."""
  there = (path / "model" / "model.json").exists()
  return there and ocp.utils.is_checkpoint_finalized(path)


def score(path: epath.Path) -> float | None:
  """Returns the metric that ranks a step; None if it was not evaluated."""
  file = path / _METRICS
  if not file.exists():
    return None
  return json.loads(file.read_text()).get(BEST)


def write_score(path: epath.Path, metrics: Mapping[str, float]) -> None:
  """Writes the metrics of an evaluation into the folder of its step."""
  file = path / _METRICS
  file.parent.mkdir(exist_ok=True)
  write_json(file, dict(metrics))


def abstract_variables(record: Record) -> Any:
  """Returns shapes and types of the variables of a record's network."""
  return p3d.abstract_variables(zoo.from_fields(record.model), record.channels)


def _checkpointer(items: Iterable[str]) -> ocp.Checkpointer:
  kinds = handlers()
  return ocp.Checkpointer(
    ocp.CompositeCheckpointHandler(**{name: kinds[name] for name in items})
  )


def _check(found: Any, expected: Any, path: epath.Path) -> None:
  """Raises a CheckpointError if names, shapes or types differ."""
  there, wanted = tree.shapes(found), tree.shapes(expected)
  lines = [f"missing {name}" for name in sorted(set(wanted) - set(there))]
  lines += [f"unknown {name}" for name in sorted(set(there) - set(wanted))]
  lines += [
    f"{name} is {there[name]}, not {wanted[name]}"
    for name in sorted(set(there) & set(wanted))
    if there[name] != wanted[name]
  ]
  if lines:
    raise CheckpointError(
      f"{path}: the variables are not those of the model: " + "; ".join(lines)
    )
