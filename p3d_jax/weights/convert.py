"""Published P3D -> a checkpoint: `p3d convert`.

The authors' Caffe files say what they are. A file of the PyTorch port does not:
its block rule, schedule and input must be given; see docs/weights.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p3d_jax.checkpoint import model as checkpoint
from p3d_jax.models import blocks, pools, zoo
from p3d_jax.preprocess import PREPROCESSINGS, Preprocessing
from p3d_jax.version import versions
from p3d_jax.weights import choices, fill
from p3d_jax.weights import source as sources
from p3d_jax.weights.merge import Report, WeightsError

# What the authors' files are, by their head and their channels: dropout and
# input domain (prototxts; paper.md, "The network").
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
  preprocessing: str | Preprocessing | None = None,
  labels: choices.Path | Sequence[str] | None = None,
) -> Report:
  """Converts the authors' .caffemodel, or a checkpoint of the PyTorch port.

  Args:
    source: the file; PyTorch's, .safetensors or .caffemodel.
    out: the checkpoint folder to write, which must not exist.
    model: row of `zoo.MODELS` that the file must be; None takes what it is.
    rule: "released", "paper" or "port", of a port file: what its blocks B and
      C were trained to compute. The authors' files are "released".
    schedule: letters over res2 to res4, of a port file; the authors' are "ABC".
    stem_pool: "ceil" or "padded", of a port file; None takes the rule's own.
    preprocessing: row of PREPROCESSINGS, or a JSON file, of a port file.
    labels: names of the classes, or a file with one a line; None: indices.

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
    "preprocessing": preprocessing,
  }
  found = sources.read(source)
  kind = sources.KINDS[found.kind]
  if kind.is_2d:
    raise WeightsError(f"{found.path} is {kind.what}: use `p3d inflate`")
  choices.model(model, found)
  fields, pixels = _facts(found, said)
  choices.channels(pixels, found.channels, found.path)
  names = choices.labels(labels, found.classes or 0)
  module = fill.network(found, **fields)
  variables, report = fill.fill(found, module)
  record = checkpoint.Record(
    model=zoo.to_fields(module),
    preprocessing=pixels,
    labels=tuple(names),
    provenance={
      "kind": "converted",
      "source": found.provenance(),
      "choices": choices.spoken({**said, "model": model, "labels": labels}),
      "batches_tracked": fill.batches_tracked(found, module),
      **versions(),
    },
  )
  report.title = (
    f"{found.path.name}: {kind.what}, {len(found.arrays)} arrays, "
    f"{choices.depth(found)}, sha256 {found.sha256[:12]}"
  )
  report.notes += choices.notes(found.classes, labels)
  checkpoint.save(folder, variables, record, report.to_json())
  return report


def _facts(
  found: sources.Source, said: Mapping[str, Any]
) -> tuple[dict[str, Any], Preprocessing]:
  """Returns the fields of the network and what it expects of pixels."""
  if found.kind == "caffe_p3d":
    for name, value in said.items():
      if value is not None:
        raise WeightsError(
          f"{name} is {value!r}: {found.path} is the authors', of which it is "
          "known; leave it out"
        )
    head = found.head.get("kernel", "none")
    if (head, found.channels) not in RELEASED:
      raise WeightsError(
        f"{found.path} has the head {head} and {found.channels} channels: the "
        f"authors' files have one of {', '.join(map(str, RELEASED))}"
      )
    dropout, pixels = RELEASED[head, found.channels]
    return {"flavour": "released", "dropout": dropout}, PREPROCESSINGS[pixels]
  _check_said(found, said)
  fields = {"flavour": said["rule"], "schedule": said["schedule"]}
  if said["stem_pool"] is not None:
    fields["stem_pool"] = said["stem_pool"]
  return fields, choices.preprocessing(said["preprocessing"])


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
