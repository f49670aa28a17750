"""What a checkpoint is, in lines to read: `p3d info`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from p3d_jax.checkpoint import model
from p3d_jax.models import blocks, schedule, zoo
from p3d_jax.preprocess import PREPROCESSINGS, Preprocessing

_SHOWN = 5  # labels
_NAMES, _COLUMNS = 15, 80  # width of the left column, and of all

_SOURCE = {"name", "kind", "container", "sha256"}  # of a converted file

Lines = Iterator[tuple[str, str]]  # what stands on the left, and the text


def describe(path: epath.PathLike, step: int | str = "last") -> str:
  """Returns what a checkpoint is and where it comes from; reads no weights.

  Args:
    path: a checkpoint folder or a workdir.
    step: of a workdir, as in `model.load`.

  Raises:
    CheckpointError: if there is none.
  """
  folder = model.find(path, step)
  record = model.read_record(folder)
  lines = [
    ("checkpoint", str(folder)),
    *_network(record.model),
    *_preprocessing(record.preprocessing),
    *_numbers(record),
    *_classes(record),
    *_provenance(record.provenance),
    *_report(model.read_report(folder)),
    ("sha256", record.sha256 or "none: no single process saw all variables"),
    ("format", str(model.FORMAT)),
  ]
  return "\n".join(f"{name:<{_NAMES}}{text}".rstrip() for name, text in lines)


def _network(fields: Mapping[str, Any]) -> Lines:
  laid, stages = fields["schedule"], fields["stages"]
  name = f"stages {_list(stages)}, width {fields['width']}"
  for row, values in zoo.MODELS.items():
    if (*stages, fields["width"]) == (*values["stages"], values["width"]):
      name = row
  classes = fields["num_classes"]
  ends = "no classifier (a trunk)" if classes is None else f"{classes} classes"
  yield "model", f"{name}: {schedule.depth(laid, stages)} layers, {ends}"
  yield "schedule", laid if isinstance(laid, str) else ",".join(laid)
  for i, letters in enumerate(schedule.letters(laid, stages), start=2):
    yield f"  res{i}", letters
  formulas = [
    f"{letter} = {_formula(join)}"
    for letter, join in blocks.RULES[fields["rule"]].items()
  ]
  yield "rule", f"{fields['rule']}: {', '.join(formulas)}"
  yield "stem pool", fields["stem_pool"]
  where = "1x1x1" if fields["reduce_stride"] else "3x3"
  yield "stride", f"in the first {where} of res3, res4 and res5"
  yield (
    "batch norm",
    f"epsilon {fields['norm_epsilon']:g}, momentum {fields['norm_momentum']:g}",
  )
  yield "dropout", f"{fields['dropout']:g}"
  yield "dtype", f"{fields['dtype']} in the computation"


def _formula(join: blocks.Join) -> str:
  """What a block computes of s, its spatial branch, and t, its temporal."""
  s, t = ("" if c == 1 else f"{c:g} " for c in join[:2])
  total = f"{s}s + {t}{'relu(t)' if join.relu_temporal else 't'}"
  return f"relu({total})" if join.relu_sum else total


def _preprocessing(record: Preprocessing) -> Lines:
  fps = record.fps
  rate = "the video's own rate" if fps is None else f"{fps:g} a second"
  frames = "1 frame" if record.frames == 1 else f"{record.frames} frames"
  frames += f", stride {record.stride}, at {rate}"
  named = [name for name, row in PREPROCESSINGS.items() if row == record]
  yield "preprocessing", frames + (f" ({named[0]})" if named else "")
  if record.resize is None:
    resize = "not resized"
  elif isinstance(record.resize, int):
    resize = f"short side to {record.resize}"
  else:
    resize = f"to {_sides(record.resize)}"
  yield "", f"{resize}, crop {_sides(record.crop_size)} (height x width)"
  pixel = "pixel" if record.scale == 1 else f"pixel * {record.scale:g}"
  if record.scale == 1 / 255:
    pixel = "pixel / 255"
  yield "", f"{record.channels}: ({pixel} - mean) / std, pixels 0..255"
  yield "  mean", _list(record.mean)
  yield "  std", _list(record.std)


def _numbers(record: model.Record) -> Lines:
  shapes = model.abstract_variables(record)
  sizes = {
    name: sum(leaf.size for leaf in jax.tree.leaves(shapes[name]))
    for name in ("params", "batch_stats")
  }
  yield (
    "parameters",
    f"{sizes['params']:,}, and {sizes['batch_stats']:,} moving statistics",
  )


def _classes(record: model.Record) -> Lines:
  labels = record.labels
  if not labels:
    yield "labels", "none"
    return
  text = f"{len(labels)}: {', '.join(labels[:_SHOWN])}"
  if len(labels) > _SHOWN:
    text += f" and {len(labels) - _SHOWN} more"
  if labels == tuple(str(i) for i in range(len(labels))):
    text += " (numbers: no names were given)"
  yield from _wrap("labels", text)
  yield "scores", record.scores


def _provenance(provenance: Mapping[str, Any]) -> Lines:
  """Where the numbers come from; what is not known here is shown as JSON."""
  rest = dict(provenance)
  source = _take(rest, "source", _is_source)
  step = _take(rest, "step", lambda value: isinstance(value, int))
  choices = _take(rest, "choices", lambda value: isinstance(value, dict))
  rest.pop("batches_tracked", None)  # only an export needs it
  line = str(rest.pop("kind", "not recorded"))
  line += f" from {source['name']}" if source else ""
  yield "provenance", line + (f", step {step:,}" if step is not None else "")
  if source:
    yield "  kind", f"{source['kind']} ({source['container']})"
    yield "  sha256", str(source["sha256"])
    if source.get("provenance"):
      yield from _wrap("  itself", _plain(_short(source["provenance"])))
  if choices is not None:
    said = [f"{k}={_plain(v)}" for k, v in choices.items() if v is not None]
    yield from _wrap("  choices", ", ".join(said) or "none")
  origin = _take(rest, "init_from", lambda value: isinstance(value, dict))
  if origin is not None:
    line = f"{origin['path']} ({origin['source']}), head {origin['head']}"
    yield from _wrap("  began from", line)
    yield "  its sha256", str(origin["sha256"])
  if "data" in rest:
    yield "  data", _plain(rest.pop("data"))
  if "data_sha256" in rest:
    yield "  its sha256", _plain(rest.pop("data_sha256"))
  if rest.pop("config", None):
    yield "  config", "recorded field by field: `p3d info --json`"
  versions = [f"{k} {v}" for k, v in rest.items() if isinstance(v, str)]
  yield from _wrap("  made with", ", ".join(versions))
  for key, value in rest.items():
    if not isinstance(value, str):
      yield from _wrap(f"  {key}", _plain(value))


def _is_source(value: Any) -> bool:
  return isinstance(value, Mapping) and set(value) >= _SOURCE


def _take(rest: dict[str, Any], key: str, fits: Callable[[Any], bool]) -> Any:
  """Takes an entry that is of the expected kind; None leaves it there."""
  return rest.pop(key) if key in rest and fits(rest[key]) else None


def _short(provenance: Mapping[str, Any]) -> dict[str, Any]:
  return {k: provenance[k] for k in ("kind", "step") if k in provenance}


def _report(report: Mapping[str, Any] | None) -> Lines:
  """What became of the arrays of the source, where a report was stored."""
  if report is None:
    return
  used = report["used"]
  arrays = {name for names in used.values() for name in names}
  yield "report", f"{len(arrays)} arrays of the source fill {len(used)} leaves"
  for rule, names in report["unused"].items():
    yield from _wrap("", f"{len(names)} not used: {rule}")
  hows = list(report["fresh"].values())
  for how in dict.fromkeys(hows):
    yield from _wrap("", f"{hows.count(how)} leaves fresh: {how}")
  for note in report.get("notes", ()):
    yield from _wrap("", f"note: {note}")


def _wrap(name: str, text: str) -> Lines:
  lines = textwrap.wrap(
    text,
    _COLUMNS - _NAMES,
    break_long_words=False,
    break_on_hyphens=False,
  )
  for line in lines:
    yield name, line
    name = ""


def _list(values: Sequence[float]) -> str:
  return ", ".join(f"{value:g}" for value in values)


def _sides(size: Sequence[int]) -> str:
  return "x".join(map(str, size))


def _plain(value: Any) -> str:
  return value if isinstance(value, str) else json.dumps(value)
