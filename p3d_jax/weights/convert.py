"""Published P3D -> a checkpoint: `p3d convert`.

The authors' Caffe files say what they are. A file of the PyTorch port does not:
its block rule, schedule and input must be given; see docs/weights.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from p3d_jax.checkpoint import model as checkpoint
from p3d_jax.checkpoint import tree
from p3d_jax.models import blocks, pools, zoo
from p3d_jax.preprocess import PREPROCESSINGS, Preprocessing
from p3d_jax.version import versions
from p3d_jax.weights import choices, fill
from p3d_jax.weights import source as sources
from p3d_jax.weights.merge import Report, WeightsError

# What the authors' files are, by their head and their channels: dropout and
# input domain (the prototxts).
RELEASED: dict[tuple[str, int], tuple[float, str]] = {
  ("fc_sports1m/0", 3): (0.1, "released_rgb"),
  ("fc_kinetics/0", 3): (0.5, "released_rgb"),
  ("fc_kinetics/0", 2): (0.7, "released_flow"),
}


def convert(
  source: choices.Path,
  out: choices.Path,
  *,
  model: str | None = None,
  rule: str | None = None,
  schedule: str | None = None,
  stem_pool: str | None = None,
  reduce_stride: bool | None = None,
  preprocessing: str | Preprocessing | None = None,
  labels: choices.Path | Sequence[str] | None = None,
  check_layers: bool = True,
) -> Report:
  """Converts the authors' .caffemodel, or a checkpoint of the PyTorch port.

  A file that `p3d export` wrote has its record in it, and comes back as it was.

  Args:
    source: the file; PyTorch's, .safetensors or .caffemodel.
    out: the checkpoint folder to write, which must not exist.
    model: row of `zoo.MODELS` that the file must be; None takes what it is.
    rule: "released", "paper" or "port", of a port file: what its blocks B and
      C were trained to compute. The authors' files are "released".
    schedule: letters over res2 to res4, of a port file; the authors' are "ABC".
    stem_pool: "ceil" or "padded", of a port file; None takes the rule's own.
    reduce_stride: whether the first 1x1x1 of a stage has the stride, of a port
      file; None: it has, as in the port and in the release.
    preprocessing: row of PREPROCESSINGS, or a JSON file, of a port file.
    labels: names of the classes, or a file with one a line; None: indices.
    check_layers: whether a Caffe file whose layers say another network, by
      their wiring and settings, is refused.

  Returns:
    What became of each array.

  Raises:
    ValueError: if the file is damaged, of another kind or size, or something
      is not said that must be; then nothing is written.
  """
  folder = choices.new_folder(out)
  said = {
    "rule": rule,
    "schedule": schedule,
    "stem_pool": stem_pool,
    "reduce_stride": reduce_stride,
    "preprocessing": preprocessing,
  }
  checks = {"model": model, "check_layers": None if check_layers else False}
  found = sources.read(source)
  kind = sources.KINDS[found.kind]
  if kind.is_2d:
    raise WeightsError(f"{found.path} is {kind.what}: use `p3d inflate`")
  choices.model(model, found)
  facts = _facts(found, said)
  choices.channels(facts.preprocessing, found.channels, found.path)
  names = choices.labels(labels or facts.labels, found.classes or 0)
  module = fill.network(found, **facts.fields)
  variables, report = fill.fill(found, module)
  if found.record is not None:
    _check_unchanged(found, found.record, variables)
  told = fill.layer_facts(found, check_layers)
  record = checkpoint.Record(
    model=zoo.to_fields(module),
    preprocessing=facts.preprocessing,
    labels=tuple(names),
    scores=facts.scores,
    provenance={
      "kind": "converted",
      "source": found.provenance(),
      "choices": choices.spoken({**said, **checks}),
      "batches_tracked": fill.batches_tracked(found, module),
      **versions(),
    },
  )
  report.title = fill.title(found)
  report.notes += told.notes
  report.notes += choices.notes(found.classes, labels or facts.labels)
  checkpoint.save(folder, variables, record, report.to_json())
  return report


class Facts(NamedTuple):
  """What belongs to weights and is not in their arrays.

  Attributes:
    fields: of the network, for `zoo.build`.
    preprocessing: what they expect of pixels.
    labels: names of the classes, where they are known.
    scores: "softmax" or "sigmoid", as in a record.
  """

  fields: dict[str, Any]
  preprocessing: Preprocessing
  labels: tuple[str, ...] | None = None
  scores: str = "softmax"


def _facts(found: sources.Source, said: Mapping[str, Any]) -> Facts:
  """Returns what is known of a file, or was said of it."""
  if found.record is not None:
    _check_unsaid(said, f"{found.path} has a record of p3d_jax, which says it")
    return _recorded(found, found.record)
  if found.kind == "caffe_p3d":
    _check_unsaid(said, f"{found.path} is the authors', of which it is known")
    return _released(found)
  _check_said(found, said)
  fields = {"flavour": said["rule"], "schedule": said["schedule"]}
  fields |= {
    name: said[name]
    for name in ("stem_pool", "reduce_stride")
    if said[name] is not None
  }
  return Facts(fields, choices.preprocessing(said["preprocessing"]))


def _check_unsaid(said: Mapping[str, Any], reason: str) -> None:
  for name, value in said.items():
    if value is not None:
      raise WeightsError(f"{name} is {value!r}: {reason}; leave it out")


def _recorded(found: sources.Source, record: checkpoint.Record) -> Facts:
  """Returns what `p3d export` wrote into a file.

  Raises:
    WeightsError: if the arrays are of another network than the record.
  """
  fields = dict(record.model)
  for name, value in (
    ("stages", list(found.stages)),
    ("width", found.width),
    ("num_classes", found.classes),
  ):
    if fields.pop(name) != value:
      raise WeightsError(
        f"{found.path} has a record of p3d_jax with {name} "
        f"{record.model[name]}, and arrays of {name} {value}"
      )
  fields["dtype"] = jnp.dtype(fields["dtype"])
  labels = record.labels or None
  return Facts(fields, record.preprocessing, labels, record.scores)


def _check_unchanged(
  found: sources.Source, record: checkpoint.Record, variables: Any
) -> None:
  if record.sha256 and tree.digest(variables) != record.sha256:
    raise WeightsError(
      f"{found.path} is damaged: its arrays do not have the sha256 that its "
      "record of p3d_jax states"
    )


def _released(found: sources.Source) -> Facts:
  """Returns what is known of the authors' files."""
  head = found.head.get("kernel", "none")
  if (head, found.channels) not in RELEASED:
    raise WeightsError(
      f"{found.path} has the head {head} and {found.channels} channels: the "
      f"authors' files have one of {', '.join(map(str, RELEASED))}"
    )
  dropout, pixels = RELEASED[head, found.channels]
  fields = {"flavour": "released", "dropout": dropout}
  return Facts(fields, PREPROCESSINGS[pixels])


def _check_said(found: sources.Source, said: Mapping[str, Any]) -> None:
  """Raises if a port file comes without what it cannot say itself."""
  needed = [
    name for name in ("rule", "schedule", "preprocessing") if said[name] is None
  ]
  if needed:
    raise WeightsError(
      f"{found.path} is {sources.KINDS[found.kind].what}, which does not say "
      f"its {', '.join(needed)}: give {', '.join('--' + n for n in needed)} "
      "(docs/weights.md says what each choice means)"
    )
  for name, table in (("rule", blocks.RULES), ("stem_pool", pools.STEM_POOLS)):
    if said[name] is not None and said[name] not in table:
      raise WeightsError(
        f"{name} is {said[name]!r}: it must be one of {', '.join(table)}"
      )
