"""What each source calls our leaves: the name maps, data only.

Ours are `params/res3/block02/spatial/conv/kernel`; a row below says what a
source calls the convolution, the batch norm and (in Caffe's ResNets) the scale
of each unit, and how it calls their arrays. Sources: the layer table of the
authors' release, the PyTorch port, torchvision, transformers and the prototxts
of He et al.'s ResNets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from p3d_jax.weights.merge import WeightsError


class Naming(NamedTuple):
  """How one source names a network.

  Attributes:
    stem: its convolution, batch norm and scale.
    block: (stage 2 to 5, index from 0) -> the block in its names.
    units: unit of ours -> convolution, batch norm and scale, with {b} the
      block.
    heads: of the linear layer; a source has one of them, or none.
    arrays: leaf of ours -> its array, of {conv}, {bn} or {scale}.
    linear: likewise of the linear layer, {fc}.
    units2d: what replaces `units` in res5.
    factor: array that the stored mean and variance are divided by.
    conv_bias: array of a bias that a convolution may have.
    tracked: array that counts batches, which no network computes with.
  """

  stem: tuple[str, str, str]
  block: Callable[[int, int], str]
  units: Mapping[str, tuple[str, str, str]]
  heads: tuple[str, ...]
  arrays: Mapping[str, str]
  linear: Mapping[str, str]
  units2d: Mapping[str, tuple[str, str, str]] = {}
  factor: str = ""
  conv_bias: str = ""
  tracked: str = ""


_TORCH_ARRAYS = {
  "kernel": "{conv}.weight",
  "scale": "{bn}.weight",
  "bias": "{bn}.bias",
  "mean": "{bn}.running_mean",
  "var": "{bn}.running_var",
}
_TORCH_LINEAR = {"kernel": "{fc}.weight", "bias": "{fc}.bias"}
_CAFFE_LINEAR = {"kernel": "{fc}/0", "bias": "{fc}/1"}
_TRACKED = "{bn}.num_batches_tracked"

PORT = Naming(
  stem=("conv1_custom", "bn1", ""),
  block=lambda stage, i: f"layer{stage - 1}.{i}",
  units={
    "reduce": ("{b}.conv1", "{b}.bn1", ""),
    "spatial": ("{b}.conv2", "{b}.bn2", ""),
    "temporal": ("{b}.conv3", "{b}.bn3", ""),
    "expand": ("{b}.conv4", "{b}.bn4", ""),
    "shortcut": ("{b}.downsample.0", "{b}.downsample.1", ""),
  },
  units2d={"spatial": ("{b}.conv_normal", "{b}.bn_normal", "")},
  heads=("fc",),
  arrays=_TORCH_ARRAYS,
  linear=_TORCH_LINEAR,
  tracked=_TRACKED,
)

TORCHVISION = Naming(
  stem=("conv1", "bn1", ""),
  block=lambda stage, i: f"layer{stage - 1}.{i}",
  units={
    "reduce": ("{b}.conv1", "{b}.bn1", ""),
    "spatial": ("{b}.conv2", "{b}.bn2", ""),
    "expand": ("{b}.conv3", "{b}.bn3", ""),
    "shortcut": ("{b}.downsample.0", "{b}.downsample.1", ""),
  },
  heads=("fc",),
  arrays=_TORCH_ARRAYS,
  linear=_TORCH_LINEAR,
  tracked=_TRACKED,
)


def _transformers_unit(name: str) -> tuple[str, str, str]:
  return f"{{b}}.{name}.convolution", f"{{b}}.{name}.normalization", ""


# Without the `resnet.` that stands in front of all but the classifier.
TRANSFORMERS = Naming(
  stem=("embedder.embedder.convolution", "embedder.embedder.normalization", ""),
  block=lambda stage, i: f"encoder.stages.{stage - 2}.layers.{i}",
  units={
    "reduce": _transformers_unit("layer.0"),
    "spatial": _transformers_unit("layer.1"),
    "expand": _transformers_unit("layer.2"),
    "shortcut": _transformers_unit("shortcut"),
  },
  heads=("classifier.1",),
  arrays=_TORCH_ARRAYS,
  linear=_TORCH_LINEAR,
  tracked=_TRACKED,
)


def _lettered(stage: int, i: int) -> str:
  """2a, 2b, 2c, ...; ResNet-50 has them in all stages."""
  return f"{stage}{chr(ord('a') + i)}"


def _numbered(stage: int, i: int) -> str:
  """3a, 3b1, 3b2, ... in res3 and res4 of the deeper networks."""
  if stage in (3, 4):
    return f"{stage}a" if i == 0 else f"{stage}b{i}"
  return _lettered(stage, i)


def _caffe_unit(branch: str) -> tuple[str, str, str]:
  return f"res{{b}}_{branch}", f"bn{{b}}_{branch}", f"scale{{b}}_{branch}"


_CAFFE_UNITS = {
  "reduce": _caffe_unit("branch2a"),
  "spatial": _caffe_unit("branch2b"),
  "expand": _caffe_unit("branch2c"),
  "shortcut": _caffe_unit("branch1"),
}

# The authors' networks. Their BN layer holds scale, shift, mean and variance.
CAFFE_P3D = Naming(
  stem=("conv1", "bn_conv1", ""),
  block=_numbered,
  units={**_CAFFE_UNITS, "temporal": _caffe_unit("branch2b_t")},
  heads=("fc_sports1m", "fc_kinetics"),
  arrays={
    "kernel": "{conv}/0",
    "scale": "{bn}/0",
    "bias": "{bn}/1",
    "mean": "{bn}/2",
    "var": "{bn}/3",
  },
  linear=_CAFFE_LINEAR,
)

# He et al.'s ResNets: BatchNorm holds mean and variance times a factor, Scale
# what follows.
CAFFE_RESNET = Naming(
  stem=("conv1", "bn_conv1", "scale_conv1"),
  block=_numbered,
  units=_CAFFE_UNITS,
  heads=("fc1000",),
  arrays={
    "kernel": "{conv}/0",
    "scale": "{scale}/0",
    "bias": "{scale}/1",
    "mean": "{bn}/0",
    "var": "{bn}/1",
  },
  linear=_CAFFE_LINEAR,
  factor="{bn}/2",
  conv_bias="{conv}/1",
)
CAFFE_RESNET50 = CAFFE_RESNET._replace(block=_lettered)


class Leaf(NamedTuple):
  """A leaf of ours, taken apart.

  Attributes:
    part: "stem", "head" or a unit: "reduce", "spatial", "expand", ...
    name: "kernel", "scale", "bias", "mean" or "var".
    stage: 2 to 5 of a unit.
    block: index of a unit's block.
  """

  part: str
  name: str
  stage: int = 0
  block: int = 0


def parse(leaf: str) -> Leaf:
  """Takes apart "params/res3/block02/spatial/conv/kernel" and the like."""
  words = leaf.split("/")
  if words[1] in ("stem", "head"):
    return Leaf(words[1], words[-1])
  return Leaf(words[3], words[-1], int(words[1][3:]), int(words[2][5:]))


def layers(naming: Naming, leaf: str) -> dict[str, str]:
  """Returns what a source calls the layers around a leaf.

  Args:
    naming: of the source.
    leaf: of the stem or of a block.

  Returns:
    "conv", "bn" and "scale" -> name.

  Raises:
    WeightsError: if the source has no such unit.
  """
  found = parse(leaf)
  if found.part == "stem":
    return dict(zip(("conv", "bn", "scale"), naming.stem, strict=True))
  units = dict(naming.units)
  if found.stage == 5:
    units |= naming.units2d
  if found.part not in units:
    raise WeightsError(f"there is no name for {leaf} in these files")
  b = naming.block(found.stage, found.block)
  named = (text.format(b=b) for text in units[found.part])
  return dict(zip(("conv", "bn", "scale"), named, strict=True))


def array(naming: Naming, leaf: str) -> str:
  """Returns what a source calls a leaf of the stem or of a block."""
  around = layers(naming, leaf)
  return naming.arrays[parse(leaf).name].format(**around)


def head(naming: Naming, names: Collection[str]) -> dict[str, str]:
  """Returns "kernel" and "bias" -> array of the linear layer, if there is one.

  Args:
    naming: of the source.
    names: of the arrays that it has.
  """
  for fc in naming.heads:
    arrays = {leaf: text.format(fc=fc) for leaf, text in naming.linear.items()}
    if not set(names).isdisjoint(arrays.values()):
      return arrays
  return {}


def stages(naming: Naming, names: Collection[str]) -> tuple[int, ...]:
  """Counts the blocks of res2 to res5 that a source has.

  Args:
    naming: of the source.
    names: of the arrays that it has.
  """
  counts = []
  for stage in (2, 3, 4, 5):
    count = 0
    while (
      array(naming, f"params/res{stage}/block{count:02d}/reduce/conv/kernel")
      in names
    ):
      count += 1
    counts.append(count)
  return tuple(counts)


def port(leaf: str) -> str:
  """Returns the name of a leaf in the PyTorch port's state dict.

  Raises:
    WeightsError: if the port has no such layer.
  """
  if leaf.startswith("params/head/"):
    return head(PORT, ("fc.weight",))[leaf.rsplit("/", 1)[1]]
  return array(PORT, leaf)
