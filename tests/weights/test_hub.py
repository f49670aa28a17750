"""What config.json and preprocessor_config.json say, as hubs write them."""

import json

import pytest

from p3d_jax.preprocess import PREPROCESSINGS
from p3d_jax.weights import hub
from p3d_jax.weights.merge import WeightsError

USUAL = PREPROCESSINGS["torchvision"]

# The fields that timm writes, of a network that was trained otherwise.
TIMM = {
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


@pytest.mark.parametrize("size", [224, {"shortest_edge": 224}])
def test_transformers_say_what_pixels_must_be(tmp_path, size):
  found = beside(tmp_path, {}, {**PROCESSOR, "size": size})
  pixels = hub.preprocessing(found, USUAL)
  assert pixels is not None
  assert (pixels.mean, pixels.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
  assert (pixels.resize, pixels.crop) == (256, 224)


@pytest.mark.parametrize("name", ["resnetblur50", "resnetaa50", "resnet50d"])
def test_networks_with_the_same_arrays_are_refused(tmp_path, name):
  found = beside(tmp_path, {**TIMM, "architecture": name})
  with pytest.raises(WeightsError, match=f"architecture '{name}': it must be"):
    hub.check_network(found, "torchvision")


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
    ({}, "put its config.json beside it"),
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
    ({"pretrained_cfg": {"mean": [0.5], "std": [1.0]}}, None),
    ({"pretrained_cfg": {"crop_pct": 0}}, None),
    ({"pretrained_cfg": {"std": [0, 0, 0]}}, None),
    (None, {**PROCESSOR, "size": {"height": 224}}),
    (None, {**PROCESSOR, "do_normalize": False}),
  ],
)
def test_what_cannot_be_is_one_line(tmp_path, config, preprocessor):
  found = beside(tmp_path, config, preprocessor)
  with pytest.raises(WeightsError, match="with --preprocessing$") as caught:
    hub.preprocessing(found, USUAL)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_a_damaged_json_is_named(tmp_path, text):
  (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
  with pytest.raises(WeightsError, match="config.json is damaged"):
    hub.beside(tmp_path / "model.safetensors")
