"""Every kind of 2D file becomes the network that it is, with its facts.

TOLERANCE is rounding in float32 over 50 layers, and in Caffe's files that of
statistics that are stored times a factor; a wrong pool, stride or channel order
is off by 1e-2 and more. Measured: 4e-7 and 1e-6.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

import p3d_jax
from p3d_jax.checkpoint import model as checkpoint
from p3d_jax.models import zoo
from p3d_jax.preprocess import PREPROCESSINGS
from p3d_jax.weights.inflate_file import inflate
from tests.models import slim
from tests.reference import caffe_file

resnet = pytest.importorskip(
  "tests.reference.resnet", reason="the reference is transformers' ResNet"
)
torch = resnet.torch

TOLERANCE = 1e-4
WIDTH, CLASSES = 8, 11


def images():
  return np.random.default_rng(1).standard_normal((2, 3, 49, 40))


def error(folder, expected):
  """max|a - b| / max|b| of the logits of still clips."""
  net, variables, _ = p3d_jax.load(folder)
  frames = images().transpose(0, 2, 3, 1)[:, None]
  clips = np.repeat(frames, 3, axis=1).astype(np.float32)
  ours = np.asarray(net.clone(precision="highest").apply(variables, clips))
  return np.abs(ours - expected).max() / np.abs(expected).max()


@pytest.fixture(scope="module")
def net():
  return resnet.build(50, width=WIDTH, classes=CLASSES)


@pytest.fixture(scope="module")
def files(net, tmp_path_factory):
  """The same network in every container and by every name."""
  folder = tmp_path_factory.mktemp("files")
  state = resnet.torchvision_names(net.state_dict())
  tensors = {name: torch.from_numpy(array) for name, array in state.items()}
  torch.save(tensors, folder / "resnet50.pth")
  torch.save({"state_dict": tensors}, folder / "timm.pth.tar")
  safetensors.numpy.save_file(state, folder / "resnet50.safetensors")
  resnet.save_transformers(net, folder / "transformers")
  return folder


@pytest.mark.parametrize(
  "name",
  ["resnet50.pth", "timm.pth.tar", "resnet50.safetensors", "transformers"],
)
def test_every_container_and_names(files, net, tmp_path, name):
  report = inflate(files / name, tmp_path / "out", exact=True)
  assert error(tmp_path / "out", resnet.logits(net, images())) < TOLERANCE
  _, _, record = p3d_jax.load(tmp_path / "out")
  expected = {
    "stem_pool": "padded", "reduce_stride": False, "norm_epsilon": 1e-5,
    "rule": "released", "schedule": "ABC", "num_classes": CLASSES,
  }  # fmt: skip
  assert expected.items() <= record.model.items()
  pixels = record.preprocessing
  assert (pixels.channels, pixels.frames) == ("RGB", 16)
  assert (pixels.resize, pixels.crop, pixels.scale) == (256, 224, 1 / 255)
  assert pixels.mean == (0.485, 0.456, 0.406)
  assert pixels.std == (0.229, 0.224, 0.225)
  # 53 convolutions, each with four numbers a channel, and fc.
  assert len(report.used) == 53 * 5 + 2
  assert [len(names) for names in report.unused.values()] == [53]
  # 13 temporal filters, each with a batch norm.
  assert len(report.fresh) == 13 * 5
  # transformers writes no preprocessor_config.json with a network alone.
  assert any("pixels must be: torchvision's" in n for n in report.notes)
  assert checkpoint.read_report(tmp_path / "out") == report.to_json()


@pytest.mark.parametrize(
  "depth",
  [50, pytest.param(101, marks=pytest.mark.slow),
   pytest.param(152, marks=pytest.mark.slow)],
)  # fmt: skip
def test_caffe(tmp_path, depth):
  """Factors, scales, a bias, ceil mode, and the stride on the first 1x1."""
  net = resnet.build(
    depth,
    width=WIDTH,
    classes=CLASSES,
    downsample_in_bottleneck=True,
    stem_bias=depth == 50,
  )
  state = resnet.torchvision_names(net.state_dict())
  layers = caffe_file.resnet(state, depth)
  caffe_file.write(tmp_path / "a.caffemodel", layers)
  inflate(tmp_path / "a.caffemodel", tmp_path / "out", exact=True)
  expected = resnet.logits(net, images(), "ceil")
  assert error(tmp_path / "out", expected) < TOLERANCE
  assert np.abs(resnet.logits(net, images()) - expected).max() > (
    1e-2 * np.abs(expected).max()
  )
  _, _, record = p3d_jax.load(tmp_path / "out")
  expected = {"stem_pool": "ceil", "reduce_stride": True, "norm_epsilon": 1e-5}
  assert expected.items() <= record.model.items()
  pixels = record.preprocessing
  assert (pixels.channels, pixels.scale) == ("BGR", 1)
  assert (pixels.mean, pixels.std) == ((104, 117, 123), (1, 1, 1))


@pytest.mark.slow
def test_resnet_152_of_full_width(tmp_path):
  """1,000 classes, 60 million numbers."""
  net = resnet.build(152)
  resnet.save_transformers(net, tmp_path / "hf")
  inflate(tmp_path / "hf", tmp_path / "out", model="p3d199", exact=True)
  found = error(tmp_path / "out", resnet.logits(net, images()))
  print(f"ResNet-152 of full width: {found:.1e}")
  assert found < TOLERANCE


def test_transformers_say_where_the_stride_is(files, tmp_path):
  net = resnet.build(
    50, width=WIDTH, classes=CLASSES, downsample_in_bottleneck=True
  )
  resnet.save_transformers(net, tmp_path / "hf")
  inflate(tmp_path / "hf", tmp_path / "out", exact=True)
  assert error(tmp_path / "out", resnet.logits(net, images())) < TOLERANCE
  # Alone, the arrays do not say it; then it must be said.
  alone = tmp_path / "alone.safetensors"
  shutil.copy(tmp_path / "hf" / "model.safetensors", alone)
  with pytest.raises(ValueError, match="give the folder with its config.json"):
    inflate(alone, tmp_path / "b")
  assert not (tmp_path / "b").exists()
  inflate(alone, tmp_path / "b", exact=True, reduce_stride=True)
  assert error(tmp_path / "b", resnet.logits(net, images())) < TOLERANCE
  config = json.loads((tmp_path / "hf" / "config.json").read_text())
  for name, value in (("layer_type", "basic"), ("hidden_act", "gelu")):
    changed = json.dumps({**config, name: value})
    (tmp_path / "hf" / "config.json").write_text(changed)
    with pytest.raises(ValueError, match=f"config.json has {name} '{value}'"):
      inflate(tmp_path / "hf", tmp_path / "c")


def test_labels_of_transformers(files, tmp_path):
  folder = tmp_path / "hf"
  shutil.copytree(files / "transformers", folder)
  config = json.loads((folder / "config.json").read_text())
  config["id2label"] = {str(i): f"thing {i}" for i in range(CLASSES)}
  (folder / "config.json").write_text(json.dumps(config))
  inflate(folder, tmp_path / "out")
  _, _, record = p3d_jax.load(tmp_path / "out")
  assert record.labels == tuple(f"thing {i}" for i in range(CLASSES))


def test_a_2d_network_of_our_own(tmp_path):
  """Its record says everything; on a still clip it stays what it was."""
  flat = slim.net(
    schedule="S", stages=(2, 1, 2, 1), reduce_stride=False, dropout=0.3
  )
  variables = slim.variables(flat)
  pixels = PREPROCESSINGS["caffe"]
  record = p3d_jax.Record(
    model=zoo.to_fields(flat),
    preprocessing=pixels,
    labels=("a", "b", "c", "d", "e"),
    scores="sigmoid",
  )
  p3d_jax.save(tmp_path / "flat", variables, record)
  inflate(tmp_path / "flat", tmp_path / "out", schedule="BCA", exact=True)
  net, found, made = p3d_jax.load(tmp_path / "out")
  clips = np.repeat(slim.clips(2, 1, 33, 36, 3), 5, axis=1)
  expected = flat.apply(variables, clips[:, :1])
  ours = net.clone(precision="highest").apply(found, clips)
  np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())
  assert (net.schedule, net.reduce_stride) == ("BCA", False)
  assert (made.labels, made.preprocessing.channels) == (record.labels, "BGR")
  assert made.preprocessing.frames == 16
  assert (made.scores, made.model["dropout"]) == ("sigmoid", flat.dropout)
  assert made.provenance["source"]["kind"] == "p3d_jax"
  with pytest.raises(ValueError, match="is no 2D network: its blocks are"):
    inflate(tmp_path / "out", tmp_path / "again")
  with pytest.raises(ValueError, match="the record of .* says it; leave it"):
    inflate(tmp_path / "flat", tmp_path / "again", reduce_stride=True)
  with pytest.raises(ValueError, match=r"model is 'p3d63': .* \(2, 1, 2, 1\)"):
    inflate(tmp_path / "flat", tmp_path / "again", model="p3d63")


def test_flow_expects_flow(files, tmp_path):
  """Still pixels are zero, and deviate as much as colours do."""
  inflate(files / "resnet50.pth", tmp_path / "out", flow=True)
  _, variables, record = p3d_jax.load(tmp_path / "out")
  assert variables["params"]["stem"]["conv"]["kernel"].shape[3] == 2
  pixels = record.preprocessing
  still = np.full((1, 1, 2), 128, np.uint8)
  np.testing.assert_allclose(pixels.normalize(still), 0, atol=1e-6)
  step = pixels.normalize(still + 1) - pixels.normalize(still)
  np.testing.assert_allclose(step, 1 / 255 / 0.226, rtol=1e-3)


def test_a_new_head(files, tmp_path):
  (tmp_path / "names").write_text("run\njump\n")
  report = inflate(
    files / "resnet50.pth",
    tmp_path / "out",
    num_classes=2,
    labels=tmp_path / "names",
  )
  net, _, record = p3d_jax.load(tmp_path / "out")
  assert (net.num_classes, record.labels) == (2, ("run", "jump"))
  assert report.unused["the old head"] == ["fc.bias", "fc.weight"]
  assert "params/head/fc/kernel" in report.fresh


@pytest.mark.parametrize(
  ("said", "match"),
  [
    ({"model": "p3d131"}, r"model is 'p3d131'.* has blocks 3, 4, 6, 3 of 8"),
    ({"labels": ("a",)}, "labels are 1 names .* there must be 11"),
    ({"num_classes": 0}, "num_classes is 0"),
    ({"temporal_std": -1.0}, "temporal_std is -1.0"),
    ({"temporal_std": float("nan")}, "temporal_std is nan"),
    ({"temporal_std": float("inf")}, "temporal_std is inf"),
    ({"seed": -1}, "seed is -1"),
    ({"stem_pool": "floor"}, "stem_pool is 'floor'"),
    ({"schedule": "ABX"}, "schedule is 'ABX'"),
    ({"rule": "caffe"}, "rule is 'caffe'"),
    ({"preprocessing": "released_flow"}, r"2 channels \(flow\)"),
  ],
  ids=str,
)
def test_mistakes(files, tmp_path, said, match):
  with pytest.raises(ValueError, match=match) as caught:
    inflate(files / "resnet50.pth", tmp_path / "out", **said)
  assert "\n" not in str(caught.value)
  assert list(tmp_path.iterdir()) == []


def test_what_stands_beside_a_file_counts(files, tmp_path):
  """As timm writes it: other pixels, and another network of equal arrays."""
  shutil.copy(files / "resnet50.safetensors", tmp_path / "model.safetensors")
  config = {
    "architecture": "resnet50",
    "pretrained_cfg": {
      "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
      "input_size": [3, 176, 176], "crop_pct": 1.0,
    },
  }  # fmt: skip
  (tmp_path / "config.json").write_text(json.dumps(config))
  report = inflate(tmp_path, tmp_path / "out")
  _, _, record = p3d_jax.load(tmp_path / "out")
  pixels = record.preprocessing
  assert (pixels.mean, pixels.crop, pixels.frames) == ((0.5,) * 3, 176, 16)
  assert not any("pixels" in note for note in report.notes)
  config["architecture"] = "resnetblur50"
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match="architecture 'resnetblur50'"):
    inflate(tmp_path, tmp_path / "b")


def test_caffe_weights_by_torchvisions_names(tmp_path):
  """What such a file cannot say, a user can."""
  net = resnet.build(
    50, width=WIDTH, classes=CLASSES, downsample_in_bottleneck=True
  )
  state = resnet.torchvision_names(net.state_dict())
  safetensors.numpy.save_file(state, tmp_path / "a.safetensors")
  inflate(
    tmp_path / "a.safetensors",
    tmp_path / "out",
    exact=True,
    reduce_stride=True,
    stem_pool="ceil",
    preprocessing="caffe",
  )
  expected = resnet.logits(net, images(), "ceil")
  assert error(tmp_path / "out", expected) < TOLERANCE
  _, _, record = p3d_jax.load(tmp_path / "out")
  assert record.preprocessing.channels == "BGR"


def test_preprocessing_of_a_file_is_taken_as_it_is(files, tmp_path):
  said = dataclasses.replace(PREPROCESSINGS["caffe"], frames=8, stride=2)
  (tmp_path / "mine.json").write_text(json.dumps(said.to_dict()))
  inflate(
    files / "resnet50.pth",
    tmp_path / "out",
    preprocessing=str(tmp_path / "mine.json"),
  )
  _, _, record = p3d_jax.load(tmp_path / "out")
  assert record.preprocessing == said


def test_a_caffe_file_without_its_end_is_refused(net, tmp_path):
  """Cut where a layer ends, a file is whole but for its classifier."""
  layers = caffe_file.resnet(resnet.torchvision_names(net.state_dict()), 50)
  kept = [layer for layer in layers if layer.name not in ("fc1000", "loss")]
  caffe_file.write(tmp_path / "a.caffemodel", kept)
  with pytest.raises(ValueError, match="no classifier fc1000: it is cut short"):
    inflate(tmp_path / "a.caffemodel", tmp_path / "out")
  inflate(tmp_path / "a.caffemodel", tmp_path / "out", num_classes=3)


def test_a_trunk_is_said_to_be_one(files, tmp_path):
  state = safetensors.numpy.load_file(files / "resnet50.safetensors")
  trunk = {k: v for k, v in state.items() if not k.startswith("fc.")}
  safetensors.numpy.save_file(trunk, tmp_path / "a.safetensors")
  report = inflate(tmp_path / "a.safetensors", tmp_path / "out")
  assert any("no classifier: a trunk" in note for note in report.notes)
  net, _, _ = p3d_jax.load(tmp_path / "out")
  assert net.num_classes is None


def test_a_p3d_is_not_inflated(tmp_path):
  from tests.reference import port

  net = port.random_(port.P3D((1, 1, 1, 1), 8, 7), 0)
  port.old_file(tmp_path / "a.pth", net.state_dict())
  with pytest.raises(ValueError, match="use `p3d convert`"):
    inflate(tmp_path / "a.pth", tmp_path / "out")


def test_other_resnets_are_refused(net, tmp_path):
  """Squeeze-and-excitation has arrays too many, a wide one other shapes."""
  state = resnet.torchvision_names(net.state_dict())
  state = {name: torch.from_numpy(array) for name, array in state.items()}
  extra = {**state, "layer1.0.se.fc1.weight": torch.ones(2, 2)}
  torch.save(extra, tmp_path / "se.pth")
  with pytest.raises(ValueError, match="1 arrays are of no use: layer1.0.se"):
    inflate(tmp_path / "se.pth", tmp_path / "out")
  grouped = {**state, "layer1.0.conv2.weight": torch.ones(8, 1, 3, 3)}
  torch.save(grouped, tmp_path / "resnext.pth")
  with pytest.raises(ValueError, match=r"conv2.weight \(8, 1, 3, 3\) is no"):
    inflate(tmp_path / "resnext.pth", tmp_path / "out")


def test_what_a_caffe_file_says_is_computed(tmp_path):
  """The stride on the 3x3 and eps 1e-3, which move the logits by more."""
  net = resnet.build(50, width=WIDTH, classes=CLASSES)
  state = resnet.torchvision_names(net.state_dict())
  for layer in net.modules():
    if isinstance(layer, torch.nn.BatchNorm2d):
      layer.eps = 1e-3
  expected = resnet.logits(net, images(), "ceil")
  told = {"eps": 1e-3}
  plain = caffe_file.resnet(state, 50, reduce_stride=False)
  norms = {v.name: told for v in plain if v.type == "BatchNorm"}
  layers = caffe_file.resnet(state, 50, reduce_stride=False, lies=norms)
  caffe_file.write(tmp_path / "a.caffemodel", layers)
  inflate(tmp_path / "a.caffemodel", tmp_path / "out", exact=True)
  assert error(tmp_path / "out", expected) < TOLERANCE
  caffe_file.write(tmp_path / "b.caffemodel", plain)
  inflate(tmp_path / "b.caffemodel", tmp_path / "other", exact=True)
  assert error(tmp_path / "other", expected) > 10 * TOLERANCE
  with pytest.raises(ValueError, match="reduce_stride is True: .* says False"):
    inflate(tmp_path / "a.caffemodel", tmp_path / "no", reduce_stride=True)
  caffe_file.write(tmp_path / "c.caffemodel", layers, stripped=True)
  report = inflate(tmp_path / "c.caffemodel", tmp_path / "bare", exact=True)
  assert "the file holds no settings" in report.text()
  report = inflate(
    tmp_path / "a.caffemodel", tmp_path / "trusted", check_layers=False
  )
  assert "what the layers say was not looked at" in report.notes
  _, _, record = p3d_jax.load(tmp_path / "trusted")
  assert record.model["reduce_stride"] is True  # what such files have
  assert record.provenance["choices"]["check_layers"] is False
