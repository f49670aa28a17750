"""What config.json and preprocessor_config.json say, as hubs write them."""

import json
from typing import Any

import pytest

from p3d_jax.preprocess import PREPROCESSINGS
from p3d_jax.weights import hub
from p3d_jax.weights.merge import WeightsError

USUAL = PREPROCESSINGS["torchvision"]

# The fields that timm writes, of a network that was trained otherwise.
TIMM: dict[str, Any] = {
  "architecture": "resnet50",
  "num_classes": 1000,
  "pretrained_cfg": {
    "input_size": [3, 288, 288],
    "crop_pct": 0.95,
    "interpolation": "bicubic",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.5, 0.5],
  },
}
# Those of transformers' ConvNextImageProcessor, which its ResNets have.
PROCESSOR = {
  "crop_pct": 0.875,
  "do_normalize": True,
  "do_resize": True,
  "image_mean": [0.1, 0.2, 0.3],
  "image_std": [0.4, 0.5, 0.6],
  "resample": 3,
  "size": {"shortest_edge": 224},
}


def beside(tmp_path, config=None, preprocessor=None):
  for name, content in (
    ("config.json", config),
    ("preprocessor_config.json", preprocessor),
  ):
    if content is not None:
      (tmp_path / name).write_text(json.dumps(content))
  return hub.beside(tmp_path / "model.safetensors")


def test_nothing_beside_says_nothing(tmp_path):
  found = beside(tmp_path)
  hub.check_network(found, "torchvision")
  assert hub.preprocessing(found, USUAL) is None
  assert hub.labels(found, 3) is None


def test_timm_says_what_pixels_must_be(tmp_path):
  pixels = hub.preprocessing(beside(tmp_path, TIMM), USUAL)
  assert pixels is not None
  assert (pixels.mean, pixels.std) == ((0.5, 0.5, 0.5), (0.25, 0.5, 0.5))
  assert (pixels.resize, pixels.crop) == (303, 288)  # floor(288 / 0.95)
  assert (pixels.scale, pixels.channels) == (1 / 255, "RGB")


@pytest.mark.parametrize(
  ("said", "resize", "crop"),
  [
    ({"size": 224}, 256, 224),
    ({"size": {"shortest_edge": 224}}, 256, 224),
    # Bit's and CLIP's processors: the short side, then the crop.
    (
      {
        "size": {"shortest_edge": 256},
        "crop_size": {"height": 224, "width": 224},
      },
      256,
      (224, 224),
    ),
    ({"size": 256, "crop_size": 224, "do_center_crop": False}, 292, 256),
    # From 384 on ConvNext's resizes to a square and crops nothing.
    ({"size": {"shortest_edge": 384}}, (384, 384), 384),
    # ViT's: exactly this size.
    ({"size": {"height": 200, "width": 224}}, (200, 224), (200, 224)),
    ({"rescale_factor": None, "crop_pct": None}, 256, 224),
  ],
)
def test_transformers_say_what_pixels_must_be(tmp_path, said, resize, crop):
  found = beside(tmp_path, {}, {**PROCESSOR, **said})
  pixels = hub.preprocessing(found, USUAL)
  assert pixels is not None
  assert (pixels.mean, pixels.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
  assert (pixels.resize, pixels.crop) == (resize, crop)
  assert pixels.scale == 1 / 255


def test_pixels_that_are_left_as_they_are(tmp_path):
  said = {**PROCESSOR, "do_normalize": False, "do_rescale": False}
  pixels = hub.preprocessing(beside(tmp_path, {}, said), USUAL)
  assert pixels is not None
  assert (pixels.scale, pixels.mean, pixels.std) == (1, (0,) * 3, (1,) * 3)


def test_an_old_config_of_timm_is_flat(tmp_path):
  flat = {"architecture": "resnet50", **TIMM["pretrained_cfg"]}
  pixels = hub.preprocessing(beside(tmp_path, flat), USUAL)
  assert pixels is not None
  assert (pixels.mean, pixels.crop) == ((0.5, 0.5, 0.5), 288)


def test_several_labels_are_sigmoid(tmp_path):
  config = {"problem_type": "multi_label_classification"}
  assert hub.scores(beside(tmp_path, config)) == "sigmoid"
  assert hub.scores(beside(tmp_path, {})) == "softmax"


@pytest.mark.parametrize("name", ["resnetblur50", "resnetaa50", "resnet50d"])
def test_networks_with_the_same_arrays_are_refused(tmp_path, name):
  found = beside(tmp_path, {**TIMM, "architecture": name})
  with pytest.raises(WeightsError, match=f"architecture '{name}': it must be"):
    hub.check_network(found, "torchvision")


def test_a_config_of_another_network_is_refused(tmp_path):
  found = beside(tmp_path, {"model_type": "vit", "image_mean": [0, 0, 0]})
  with pytest.raises(
    WeightsError, match="architecture None: it must be one of"
  ):
    hub.check_network(found, "torchvision")
  hub.check_network(beside(tmp_path, TIMM), "torchvision")
  plain = {**TIMM, "model_args": {"num_classes": 3}}
  hub.check_network(beside(tmp_path, plain), "torchvision")


def test_a_resnet_with_arguments_is_not_plain(tmp_path):
  found = beside(tmp_path, {**TIMM, "model_args": {"act_layer": "silu"}})
  with pytest.raises(
    WeightsError, match="model_args .*: a plain ResNet has no"
  ):
    hub.check_network(found, "torchvision")


@pytest.mark.parametrize(
  ("config", "match"),
  [
    ({"downsample_in_bottleneck": "false"}, "it must be true or false"),
    ({}, "give the folder with its config.json"),
  ],
)
def test_the_stride_must_be_said(tmp_path, config, match):
  with pytest.raises(WeightsError, match=match):
    hub.reduce_stride(beside(tmp_path, config))


def test_labels(tmp_path):
  for names, expected in (
    ({"0": "a", "1": "b"}, ("a", "b")),
    ({"0": "LABEL_0", "1": "LABEL_1"}, None),
    ({"0": None, "1": None}, None),
    ({"0": "a"}, None),
    (None, None),
  ):
    found = beside(tmp_path, {"id2label": names})
    assert hub.labels(found, 2) == expected


@pytest.mark.parametrize(
  ("config", "preprocessor"),
  [
    ({"mean": [0.5], "std": [1.0]}, None),
    ({"crop_pct": 2}, None),
    ({"std": [0, 0, 0]}, None),
    ({"input_size": []}, None),
    ([], None),
    ({"input_size": {"a": 1}}, None),
    ({"input_size": [3, 256, 128]}, None),
    (None, {**PROCESSOR, "size": {"height": 224}}),
    (None, {**PROCESSOR, "image_mean": 3}),
  ],
)
def test_what_cannot_be_is_one_line(tmp_path, config, preprocessor):
  if config is not None:
    config = {"architecture": "resnet50", "pretrained_cfg": config}
  found = beside(tmp_path, config, preprocessor)
  with pytest.raises(WeightsError, match="with --preprocessing$") as caught:
    hub.preprocessing(found, USUAL)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff", "[" * 100_000])
def test_a_damaged_json_is_named(tmp_path, text):
  (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
  with pytest.raises(WeightsError, match="config.json is damaged"):
    hub.beside(tmp_path / "model.safetensors")
