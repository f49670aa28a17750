"""What stands beside weights from a model hub: two JSON files.

transformers and timm write `config.json` beside `model.safetensors`,
transformers `preprocessor_config.json` too. They say what the arrays do not:
where the stride is, which network it is of those with the same arrays, what
pixels must be, and the names of the classes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from p3d_jax.preprocess import Preprocessing
from p3d_jax.weights.merge import WeightsError

# Of a folder, the first that is there.
FILES = ("model.safetensors", "pytorch_model.bin")

# timm's names of plain ResNets. Its resnetaa50 and resnetblur50, say, have the
# same arrays and compute another network.
TIMM = tuple(
  name.format(depth)
  for name in (
    "resnet{}", "tv_resnet{}", "gluon_resnet{}_v1b", "ssl_resnet{}",
    "swsl_resnet{}",
  )
  for depth in (50, 101, 152)
)  # fmt: skip

# Arguments that a network may have been made with and be plain.
TIMM_ARGUMENTS = ("num_classes", "in_chans", "drop_rate", "drop_path_rate")

# What config.json of transformers must say of a ResNet, and its defaults.
TRANSFORMERS = {
  "model_type": "resnet",
  "layer_type": "bottleneck",
  "hidden_act": "relu",
  "downsample_in_first_stage": False,
}


@dataclasses.dataclass(frozen=True)
class Beside:
  """The JSON files beside weights.

  Attributes:
    path: of the weights.
    config: content of config.json; empty if there is none.
    preprocessor: content of preprocessor_config.json, likewise.
  """

  path: pathlib.Path
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  preprocessor: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def find(folder: pathlib.Path) -> pathlib.Path | None:
  """Returns the file of weights in a folder of a hub, if it is one."""
  return next((folder / f for f in FILES if (folder / f).is_file()), None)


def beside(path: pathlib.Path) -> Beside:
  """Reads what stands beside a file of weights.

  Raises:
    WeightsError: if a file is damaged.
  """
  return Beside(
    path,
    _read(path.with_name("config.json")),
    _read(path.with_name("preprocessor_config.json")),
  )


def _read(file: pathlib.Path) -> dict[str, Any]:
  if not file.is_file():
    return {}
  try:
    content = json.loads(file.read_text("utf-8"))
  except (ValueError, RecursionError) as error:
    raise WeightsError(f"{file} is damaged: {error}") from error
  if not isinstance(content, dict):
    raise WeightsError(f"{file} is damaged: it holds no object")
  return content


def check_network(found: Beside, kind: str) -> None:
  """Checks that config.json is of the network that the names are of.

  Args:
    found: beside the weights.
    kind: "torchvision" or "transformers".

  Raises:
    WeightsError: if it is of another, with the same arrays perhaps.
  """
  if kind == "transformers":
    for name, value in TRANSFORMERS.items():
      if found.config.get(name, value) != value:
        raise _wrong(found, name, f"it must be {value!r}")
    return
  if not found.config:
    return
  if found.config.get("architecture") not in TIMM:
    raise _wrong(found, "architecture", f"it must be one of {', '.join(TIMM)}")
  if set(found.config.get("model_args") or ()) - set(TIMM_ARGUMENTS):
    # Another activation, say.
    raise _wrong(found, "model_args", "a plain ResNet has none")


def reduce_stride(found: Beside) -> bool:
  """Returns whether the first 1x1 has the stride, of transformers.

  Raises:
    WeightsError: if config.json is not there.
  """
  if not found.config:
    raise WeightsError(
      f"{found.path} does not say where the stride is: give the folder with "
      "its config.json, or --reduce-stride yes or no "
      "(`downsample_in_bottleneck` of transformers)"
    )
  # Absent is transformers' own default.
  value = found.config.get("downsample_in_bottleneck", False)
  if not isinstance(value, bool):
    raise _wrong(found, "downsample_in_bottleneck", "it must be true or false")
  return value


def labels(found: Beside, classes: int | None) -> tuple[str, ...] | None:
  """Returns the names of the classes, if config.json has one for each."""
  listed = found.config.get("label_names")  # of timm
  if isinstance(listed, list) and len(listed) == classes:
    return tuple(str(name) for name in listed)
  names = found.config.get("id2label")
  keys = [str(i) for i in range(classes or 0)]
  if not keys or not isinstance(names, Mapping) or set(names) != set(keys):
    return None
  made = [names[key] for key in keys]
  if not all(isinstance(name, str) and name for name in made):
    return None
  if all(name == f"LABEL_{key}" for key, name in zip(keys, made, strict=True)):
    return None  # what transformers writes where there are none
  return tuple(made)


def scores(found: Beside) -> str:
  """Returns what turns the logits into scores, "softmax" or "sigmoid"."""
  several = found.config.get("problem_type") == "multi_label_classification"
  return "sigmoid" if several else "softmax"


def preprocessing(found: Beside, usual: Preprocessing) -> Preprocessing | None:
  """Returns what the files say of pixels; None if they say nothing.

  Args:
    found: beside the weights.
    usual: of weights of this kind; what the files do not say is as there.

  Raises:
    WeightsError: if they say what a Preprocessing cannot.
  """
  try:
    if "architecture" in found.config:
      return _timm(found.config.get("pretrained_cfg", found.config), usual)
    return _transformers(found.preprocessor, usual)
  except (
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
  ) as error:
    raise WeightsError(
      f"{found.path}: the JSON beside it says of pixels what cannot be "
      f"({error}): say it with --preprocessing"
    ) from error


def _timm(said: Mapping[str, Any], usual: Preprocessing) -> Preprocessing:
  """A short side of size / crop_pct, and a crop of size from its centre."""
  _, height, width = said.get("input_size", (3, 224, 224))
  if height != width:
    raise ValueError(f"input_size {said['input_size']} is not square")
  return dataclasses.replace(
    usual,
    resize=math.floor(height / (said.get("crop_pct") or 0.875)),
    crop=height,
    mean=_numbers(said.get("mean", usual.mean)),
    std=_numbers(said.get("std", usual.std)),
  )


def _transformers(
  said: Mapping[str, Any], usual: Preprocessing
) -> Preprocessing | None:
  if not said:
    return None
  resize, crop = _sizes(said)
  scales, normalizes = said.get("do_rescale", True), said.get("do_normalize")
  return dataclasses.replace(
    usual,
    resize=resize,
    crop=crop,
    scale=(said.get("rescale_factor") or usual.scale) if scales else 1.0,
    mean=(0.0,) * 3
    if normalizes is False
    else _numbers(said.get("image_mean") or usual.mean),
    std=(1.0,) * 3
    if normalizes is False
    else _numbers(said.get("image_std") or usual.std),
  )


def _sizes(said: Mapping[str, Any]) -> tuple[Any, Any]:
  """Returns resize and crop of an image processor of transformers."""
  size: Any = said.get("size", 224)
  crop: Any = said.get("crop_size")
  edge: Any = size.get("shortest_edge") if isinstance(size, Mapping) else size
  exact = (size["height"], size["width"]) if edge is None else None
  if crop and said.get("do_center_crop", True):
    if isinstance(crop, Mapping):
      crop = (crop["height"], crop["width"])
    return exact or edge, crop
  if exact:
    return exact, exact
  if edge >= 384:  # ConvNextImageProcessor resizes to a square from here on
    return (edge, edge), edge
  return math.floor(edge / (said.get("crop_pct") or 224 / 256)), edge


def _numbers(values: Sequence[float]) -> tuple[float, ...]:
  return tuple(float(v) for v in values)


def _wrong(found: Beside, name: str, rule: str) -> WeightsError:
  return WeightsError(
    f"{found.path}: config.json has {name} {found.config.get(name)!r}: {rule}"
  )
