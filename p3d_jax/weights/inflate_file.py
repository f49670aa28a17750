"""A file of 2D weights -> a checkpoint of a Pseudo-3D ResNet: `p3d inflate`."""

from __future__ import annotations

import dataclasses
import math
import pathlib
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
from p3d_jax.weights import choices, fill, hub
from p3d_jax.weights import inflate as trees
from p3d_jax.weights import source as sources
from p3d_jax.weights.merge import Report, WeightsError

FRAMES = 16  # of a clip, as in the paper; 2D weights know of no clips

# The authors drew the temporal filters from a Gaussian of small deviation; how
# small they do not say, so this is our choice.
TEMPORAL_STD = 0.01

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
    scores: "softmax" or "sigmoid", as in a record.
    provenance: what a record says of it.
    notes: lines that a user should read.
  """

  what: str
  module: p3d.P3D
  leaves: dict[str, np.ndarray]
  origins: Mapping[str, Sequence[str]]
  unused: Mapping[str, list[str]]
  preprocessing: Preprocessing
  labels: tuple[str, ...] | None
  scores: str
  provenance: Mapping[str, Any]
  notes: tuple[str, ...] = ()


def inflate(
  source: choices.Path,
  out: choices.Path,
  *,
  model: str | None = None,
  schedule: str = "ABC",
  rule: str = "released",
  exact: bool = False,
  temporal_std: float | None = None,
  flow: bool = False,
  num_classes: int | None = None,
  labels: choices.Path | Sequence[str] | None = None,
  reduce_stride: bool | None = None,
  stem_pool: str | None = None,
  preprocessing: str | Preprocessing | None = None,
  seed: int = 0,
  check_layers: bool = True,
) -> Report:
  """Inflates ImageNet weights, or a 2D network trained here.

  Args:
    source: a file of torchvision's, timm's or transformers' ResNets, or the
      folder of a hub, one of Caffe's, or a checkpoint of schedule "S".
    out: the checkpoint folder to write, which must not exist.
    model: row of `zoo.MODELS` that it must become; None takes what the source
      has the blocks of.
    schedule: letters over res2 to res4.
    rule: what blocks B and C compute, a key of `blocks.RULES`.
    exact: temporal filters that give the 2D network's logits on a clip of one
      repeated frame, instead of random ones.
    temporal_std: deviation of the Gaussian of the random ones; None is
      TEMPORAL_STD.
    flow: make the network read two channels of flow.
    num_classes: draw a new head of so many classes; None keeps the source's.
    labels: names of the classes, or a file with one a line; None takes the
      source's where it has them, else indices.
    reduce_stride: whether the first 1x1x1 of a stage has the stride; None takes
      what files of this kind have.
    stem_pool: "ceil" or "padded"; None takes what files of this kind have.
    preprocessing: row of PREPROCESSINGS, or a JSON file; None takes what stands
      beside the file, else what files of this kind expect. Of one frame, it
      becomes one of FRAMES.
    seed: of what is drawn.
    check_layers: whether the layers of a Caffe file say, by their wiring and
      settings, what network it is, or refuse it.

  Returns:
    What became of each array and where each leaf comes from.

  Raises:
    ValueError: if the source is damaged, of another kind or size, or an
      argument is impossible; then nothing is written.
  """
  said = {
    "model": model,
    "schedule": schedule,
    "rule": rule,
    "exact": exact,
    "temporal_std": temporal_std,
    "flow": flow,
    "num_classes": num_classes,
    "reduce_stride": reduce_stride,
    "stem_pool": stem_pool,
    "preprocessing": preprocessing,
    "seed": seed,
    "check_layers": None if check_layers else False,
  }
  folder = choices.new_folder(out)
  _check(exact, temporal_std, num_classes, seed)
  flat = _read(source, said)
  pixels = _flow(flat.preprocessing) if flow else flat.preprocessing
  classes = num_classes or flat.module.num_classes
  module = flat.module.clone(schedule=schedule, rule=rule, num_classes=classes)
  kept = labels or (flat.labels if num_classes is None else None)
  record = checkpoint.Record(
    model=zoo.to_fields(module),
    preprocessing=pixels,
    labels=tuple(choices.labels(kept, classes or 0)),
    scores=flat.scores if num_classes is None else "softmax",
    provenance={
      "kind": "inflated",
      "source": flat.provenance,
      "choices": choices.spoken(said),
      **versions(),
    },
  )
  made = trees.inflate(
    flat.leaves if num_classes is None else _headless(flat.leaves),
    module,
    record.channels,
    exact=exact,
    temporal_std=TEMPORAL_STD if temporal_std is None else temporal_std,
    seed=seed,
  )
  report = _report(flat, made)
  report.notes += choices.notes(classes, kept)
  if flow:
    report.notes.append("conv1 reads flow: its mean over RGB, for x and for y")
  variables = tree.unflatten({leaf: m.value for leaf, m in made.items()})
  checkpoint.save(folder, variables, record, report.to_json())
  return report


def _check(
  exact: bool, temporal_std: float | None, num_classes: int | None, seed: int
) -> None:
  if temporal_std is not None:
    if exact:
      raise WeightsError(
        f"temporal_std is {temporal_std}: exact filters are not drawn, leave "
        "one of the two out"
      )
    if not 0 <= temporal_std < math.inf:
      raise WeightsError(
        f"temporal_std is {temporal_std}: it must be a number, at least 0"
      )
  if num_classes is not None and num_classes < 1:
    raise WeightsError(f"num_classes is {num_classes}: it must be at least 1")
  if seed < 0:
    raise WeightsError(f"seed is {seed}: it must be at least 0")


def _headless(leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {k: v for k, v in leaves.items() if not k.startswith("params/head/")}


def _read(source: choices.Path, said: Mapping[str, Any]) -> Flat:
  """Reads a 2D network: a checkpoint of our own, or a file."""
  folder = pathlib.Path(source).expanduser()
  if not folder.is_dir() or hub.find(folder):
    found = sources.read(source)
    choices.model(said["model"], found)
    return _from_file(found, said)
  if not any((folder / name).exists() for name in ("model", "checkpoints")):
    raise WeightsError(
      f"source is {str(folder)!r}, a folder: it must be a checkpoint, or have "
      f"{' or '.join(hub.FILES)}"
    )
  for name in ("reduce_stride", "stem_pool", "preprocessing"):
    if said[name] is not None:
      raise WeightsError(
        f"{name} is {said[name]!r}: the record of {folder} says it; leave it "
        "out"
      )
  return _from_checkpoint(epath.Path(folder), said["model"])


def _from_file(found: sources.Source, said: Mapping[str, Any]) -> Flat:
  kind = sources.KINDS[found.kind]
  if not kind.is_2d:
    raise WeightsError(f"{found.path} is {kind.what}: use `p3d convert`")
  if (
    found.container == "caffe"
    and found.classes is None
    and said["num_classes"] is None
  ):
    raise WeightsError(
      f"{found.path} has no classifier {' or '.join(found.naming.heads)}: it "
      "is cut short, or give --num-classes for a new one"
    )
  fields: dict[str, Any] = {"flavour": kind.flavour, "schedule": "S"}
  if found.container != "caffe":
    hub.check_network(found.beside, found.kind)
  if found.kind == "transformers" and said["reduce_stride"] is None:
    fields["reduce_stride"] = hub.reduce_stride(found.beside)
  fields |= {
    name: said[name]
    for name in ("reduce_stride", "stem_pool")
    if said[name] is not None
  }
  pixels, note = _pixels(found, said["preprocessing"])
  module = fill.network(found, **fields)
  variables, report = fill.fill(found, module)
  told = fill.layer_facts(found, said["check_layers"] is None)
  told.check_said(found.path, said)
  return Flat(
    what=fill.title(found),
    module=module.clone(**told.fields),
    leaves=tree.flatten(variables),
    origins=report.used,
    unused=report.unused,
    preprocessing=_of_clips(pixels),
    labels=hub.labels(found.beside, found.classes),
    scores=hub.scores(found.beside),
    provenance=found.provenance(),
    notes=(*note, *told.notes),
  )


def _pixels(
  found: sources.Source, said: str | Preprocessing | None
) -> tuple[Preprocessing, tuple[str, ...]]:
  """Returns what weights expect of pixels, and a note if that is assumed."""
  kind = sources.KINDS[found.kind]
  usual = choices.preprocessing(said or kind.preprocessing)
  choices.channels(usual, found.channels, found.path)
  if said is not None or found.container == "caffe":
    return usual, ()
  told = hub.preprocessing(found.beside, usual)
  if told is not None:
    return told, ()
  return usual, (
    f"the file does not say what pixels must be: {kind.preprocessing}'s, RGB "
    "by ImageNet's mean and std, is assumed",
  )


def _of_clips(pixels: Preprocessing) -> Preprocessing:
  """The same of clips: one of a single frame becomes one of FRAMES."""
  if pixels.frames > 1:
    return pixels
  return dataclasses.replace(pixels, frames=FRAMES)


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
  return Flat(
    what=f"{folder.name}: a 2D network trained here, {len(leaves)} leaves",
    module=module,
    leaves=leaves,
    origins={leaf: (leaf,) for leaf in leaves},
    unused={},
    preprocessing=_of_clips(record.preprocessing),
    labels=record.labels or None,
    scores=record.scores,
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
    notes=list(flat.notes),
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
