"""A file of 2D weights -> a checkpoint of a Pseudo-3D ResNet: `p3d inflate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from p3d_jax.checkpoint import model as checkpoint
from p3d_jax.checkpoint import tree
from p3d_jax.models import p3d, zoo
from p3d_jax.models import schedule as schedules
from p3d_jax.preprocess import Preprocessing
from p3d_jax.version import versions
from p3d_jax.weights import choices, convert
from p3d_jax.weights import inflate as trees
from p3d_jax.weights import source as sources
from p3d_jax.weights.merge import Report, WeightsError

FRAMES = 16  # of a clip, as in the paper; 2D weights know of no clips

# TV-L1 flow rescaled to 0..255 stands still at 128 (the authors' flow network).
FLOW_MEAN = 128.0


@dataclasses.dataclass(frozen=True)
class Flat:
  """A 2D network, read: a ResNet, or one trained here with schedule "S".

  Attributes:
    what: it is, for people.
    module: it, of schedule "S".
    leaves: by name.
    origins: leaf -> names of the arrays in the file that it is made of.
    unused: rule -> names of arrays that the rule leaves out.
    preprocessing: what it expects of pixels.
    labels: names of its classes, where they are known.
    provenance: what a record says of it.
  """

  what: str
  module: p3d.P3D
  leaves: dict[str, np.ndarray]
  origins: Mapping[str, Sequence[str]]
  unused: Mapping[str, list[str]]
  preprocessing: Preprocessing
  labels: tuple[str, ...] | None
  provenance: Mapping[str, Any]


def inflate(
  source: choices.Path,
  out: choices.Path,
  *,
  model: str | None = None,
  schedule: str = "ABC",
  rule: str = "released",
  exact: bool = False,
  temporal_std: float = 0.01,
  flow: bool = False,
  num_classes: int | None = None,
  labels: choices.Path | Sequence[str] | None = None,
  reduce_stride: bool | None = None,
  preprocessing: str | Preprocessing | None = None,
  seed: int = 0,
) -> Report:
  """Inflates ImageNet weights, or a 2D network trained here.

  Args:
    source: a file of torchvision's, timm's or transformers' ResNets, one of
      Caffe's, or a checkpoint of schedule "S".
    out: the checkpoint folder to write, which must not exist.
    model: row of `zoo.MODELS` that it must become; None takes what the source
      has the blocks of.
    schedule: letters over res2 to res4.
    rule: what blocks B and C compute, a key of `blocks.RULES`.
    exact: temporal filters that give the 2D network's logits on a clip of one
      repeated frame, instead of random ones.
    temporal_std: deviation of the Gaussian of the random ones. The authors say
      "small"; 0.01 is our choice.
    flow: make the network read two channels of flow.
    num_classes: draw a new head of so many classes; None keeps the source's.
    labels: names of the classes, or a file with one a line; None takes the
      source's where it has them, else indices.
    reduce_stride: whether the first 1x1x1 of a stage has the stride; None takes
      what files of this kind have.
    preprocessing: row of PREPROCESSINGS, or a JSON file; None takes what files
      of this kind expect.
    seed: of what is drawn.

  Returns:
    What became of each array and where each leaf comes from.

  Raises:
    ValueError: if the source is damaged, of another kind or size, or an
      argument is impossible; then nothing is written.
  """
  folder = choices.new_folder(out)
  if temporal_std < 0:
    raise WeightsError(f"temporal_std is {temporal_std}: it must be >= 0")
  if num_classes is not None and num_classes < 1:
    raise WeightsError(f"num_classes is {num_classes}: it must be >= 1")
  flat = _read(source, model, reduce_stride, preprocessing)
  pixels = _flow(flat.preprocessing) if flow else flat.preprocessing
  classes = num_classes or flat.module.num_classes
  module = flat.module.clone(
    schedule=schedule, rule=rule, num_classes=classes, dropout=0.5
  )
  names = flat.labels if num_classes is None and labels is None else labels
  record = checkpoint.Record(
    model=zoo.to_fields(module),
    preprocessing=pixels,
    labels=tuple(choices.labels(names, classes or 0)),
    provenance={
      "kind": "inflated",
      "source": flat.provenance,
      "choices": convert.spoken(
        {
          "model": model,
          "schedule": schedule,
          "rule": rule,
          "exact": exact,
          "temporal_std": None if exact else temporal_std,
          "flow": flow,
          "num_classes": num_classes,
          "reduce_stride": reduce_stride,
          "preprocessing": preprocessing,
          "seed": seed,
        }
      ),
      **versions(),
    },
  )
  made = trees.inflate(
    {
      leaf: value
      for leaf, value in flat.leaves.items()
      if num_classes is None or not leaf.startswith("params/head/")
    },
    module,
    len(pixels.mean),
    exact=exact,
    temporal_std=temporal_std,
    seed=seed,
  )
  report = _report(flat, made)
  if flow:
    report.notes.append("conv1 reads flow: its mean over RGB, for x and for y")
  if names is None and classes:
    report.notes.append("no labels were given: the classes are 0, 1, ...")
  variables = tree.unflatten({leaf: m.value for leaf, m in made.items()})
  checkpoint.save(folder, variables, record, report.to_json())
  return report


def _read(
  source: choices.Path,
  model: str | None,
  reduce_stride: bool | None,
  preprocessing: str | Preprocessing | None,
) -> Flat:
  """Reads a 2D network: a checkpoint of our own, or a file."""
  folder = epath.Path(source).expanduser()
  if not folder.is_dir() or sources.is_transformers(folder):
    found = sources.read(source)
    choices.model(model, found)
    return _from_file(found, reduce_stride, preprocessing)
  for name, value in (
    ("reduce_stride", reduce_stride),
    ("preprocessing", preprocessing),
  ):
    if value is not None:
      raise WeightsError(
        f"{name} is {value!r}: the record of {folder} says it; leave it out"
      )
  return _from_checkpoint(folder, model)


def _from_file(
  found: sources.Source,
  reduce_stride: bool | None,
  preprocessing: str | Preprocessing | None,
) -> Flat:
  kind = sources.KINDS[found.kind]
  if not kind.is_2d:
    raise WeightsError(f"{found.path} is {kind.what}: use `p3d convert`")
  labels = None
  fields: dict[str, Any] = {"flavour": kind.flavour, "schedule": "S"}
  if found.kind == "transformers":
    fields["reduce_stride"] = _transformers_stride(found, reduce_stride)
    labels = _transformers_labels(found)
  if reduce_stride is not None:
    fields["reduce_stride"] = reduce_stride
  pixels = choices.preprocessing(preprocessing or kind.preprocessing)
  choices.channels(pixels, found.channels, found.path)
  module = convert.network(found, **fields)
  variables, report = convert.fill(found, module)
  return Flat(
    what=f"{found.path.name}: {kind.what}, {len(found.arrays)} arrays, "
    f"{choices.depth(found)}, sha256 {found.sha256[:12]}",
    module=module,
    leaves=tree.flatten(variables),
    origins=report.used,
    unused=report.unused,
    preprocessing=dataclasses.replace(pixels, frames=FRAMES),
    labels=labels,
    provenance=found.provenance(),
  )


# What config.json of a ResNet says that is computed here, and its defaults.
_TRANSFORMERS = {
  "model_type": "resnet",
  "layer_type": "bottleneck",
  "hidden_act": "relu",
  "downsample_in_first_stage": False,
}


def _transformers_stride(found: sources.Source, said: bool | None) -> bool:
  """Returns whether the first 1x1 has the stride; the arrays do not say."""
  for name, value in _TRANSFORMERS.items():
    if found.config.get(name, value) != value:
      raise WeightsError(
        f"{found.path}: config.json has {name} {found.config[name]!r}: it must "
        f"be {value!r}"
      )
  if said is not None:
    return said
  if not found.config:
    raise WeightsError(
      f"{found.path} does not say where the stride is: put its config.json "
      "beside it, or give --reduce-stride yes or no "
      "(`downsample_in_bottleneck` of transformers)"
    )
  # Absent is transformers' own default.
  return bool(found.config.get("downsample_in_bottleneck", False))


def _transformers_labels(found: sources.Source) -> tuple[str, ...] | None:
  """Returns the names of the classes, if config.json has names for them."""
  names = found.config.get("id2label", {})
  keys = [str(i) for i in range(found.classes or 0)]
  if not keys or set(names) != set(keys):
    return None
  if all(names[key] == f"LABEL_{key}" for key in keys):
    return None  # what transformers writes where there are none
  return tuple(str(names[key]) for key in keys)


def _from_checkpoint(folder: epath.Path, model: str | None) -> Flat:
  module, variables, record = checkpoint.load(folder)
  laid = "".join(schedules.letters(module.schedule, module.stages))
  if set(laid) != {"S"}:
    raise WeightsError(
      f"{folder} is no 2D network: its blocks are {laid}, and must all be S"
    )
  if model and zoo.MODELS.get(model) != {
    "stages": tuple(module.stages),
    "width": module.width,
  }:
    raise WeightsError(
      f"model is {model!r}: {folder} has {tuple(module.stages)} blocks and "
      f"{module.width} channels; the networks are {zoo.MODELS}"
    )
  leaves = {
    name: np.asarray(leaf) for name, leaf in tree.flatten(variables).items()
  }
  pixels = record.preprocessing
  if pixels.frames == 1:
    pixels = dataclasses.replace(pixels, frames=FRAMES)
  return Flat(
    what=f"{folder.name}: a 2D network trained here, {len(leaves)} leaves",
    module=module,
    leaves=leaves,
    origins={leaf: (leaf,) for leaf in leaves},
    unused={},
    preprocessing=pixels,
    labels=record.labels,
    provenance={
      "name": folder.name,
      "kind": "p3d_jax",
      "container": "p3d_jax",
      "sha256": record.sha256,
      "provenance": dict(record.provenance),
    },
  )


def _flow(pixels: Preprocessing) -> Preprocessing:
  """What the same weights expect of flow: as large numbers as of colours."""
  if pixels.channels == "flow":
    raise WeightsError("flow is asked for: the source reads flow already")
  mean, std = FLOW_MEAN * pixels.scale, float(np.mean(pixels.std))
  return dataclasses.replace(
    pixels, channels="flow", mean=(mean, mean), std=(std, std)
  )


def _report(flat: Flat, made: Mapping[str, trees.Made]) -> Report:
  """Says where each leaf comes from, by the names in the source."""
  used = {
    leaf: tuple(flat.origins[m.source]) for leaf, m in made.items() if m.source
  }
  report = Report(
    title=flat.what,
    used=used,
    unused=dict(flat.unused),
    fresh={leaf: m.fresh for leaf, m in made.items() if m.fresh},
  )
  taken = {m.source for m in made.values()}
  if head := [
    name
    for leaf, names in flat.origins.items()
    if leaf not in taken
    for name in names
  ]:
    report.unused["the old head"] = head
  return report
