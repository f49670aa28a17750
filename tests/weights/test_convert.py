"""Published P3D against the authors' layer table and the port's own graph.

TOLERANCE is that of tests/models/test_table.py: what float32 may round over 160
convolutions; a wrong rule, pool or schedule is off by a tenth and more.
"""

import dataclasses
import hashlib

import jax.numpy as jnp
import numpy as np
import pytest

import p3d_jax
from p3d_jax.models import p3d
from p3d_jax.preprocess import PREPROCESSINGS, Preprocessing
from p3d_jax.weights import convert
from tests.reference import caffe_file, names

table = pytest.importorskip(
  "tests.reference.table", reason="the reference runs on PyTorch"
)
port = pytest.importorskip(
  "tests.reference.port", reason="the reference runs on PyTorch"
)

TOLERANCE = 1e-4
SAID = {"rule": "port", "schedule": "ABC", "preprocessing": "port"}


def error(ours, reference):
  """max|a - b| / max|b|."""
  ours = np.asarray(ours, np.float64)
  assert ours.shape == reference.shape
  return np.abs(ours - reference).max() / np.abs(reference).max()


def check(found, references):
  """Compares every endpoint of the network."""
  assert set(found) == set(references)
  errors = {name: error(found[name], b) for name, b in references.items()}
  worst = max(errors, key=lambda name: errors[name])
  print(f"worst of {len(errors)} endpoints: {worst} {errors[worst]:.1e}")
  assert errors[worst] < TOLERANCE, worst


def endpoints_of(folder, clips):
  net, variables, _ = p3d_jax.load(folder)
  wanted = p3d.endpoint_names(net.stages, net.num_classes)
  net = net.clone(precision="highest")
  _, found = net.apply(variables, jnp.asarray(clips), endpoints=wanted)
  return found


# The authors' files.


@pytest.fixture(scope="module")
def table_weights():
  return table.random_weights(seed=0)


def kinetics(weights, channels=3):
  """The Kinetics networks: 400 classes, and two inputs for flow."""
  fc, conv1 = weights["fc_sports1m"], weights["conv1"]
  return {
    **weights,
    "conv1": {"kernel": conv1["kernel"][:, :channels].copy()},
    "fc_sports1m": {name: array[:400] for name, array in fc.items()},
  }


def check_table(folder, weights, shape, channels):
  clips = table.random_clips(np.random.default_rng(1), *shape)[..., :channels]
  blobs = table.run(weights, clips)
  found = endpoints_of(folder, clips)
  steps = shape[1]
  for _ in range(4):
    steps = -(-steps // 2)
  check(
    found,
    {
      endpoint: table.to_endpoint(blobs[blob], steps)
      for endpoint, blob in names.ENDPOINTS.items()
    },
  )


def test_sports_1m_in_caffe(table_weights, tmp_path):
  layers = caffe_file.p3d199(table_weights)
  caffe_file.write(tmp_path / "sports.caffemodel", layers, diffs=True)
  report = convert.convert(tmp_path / "sports.caffemodel", tmp_path / "out")
  # A kernel and four numbers a channel of 202 convolutions, and fc.
  assert len(report.used) == 202 * 5 + 2
  _, _, record = p3d_jax.load(tmp_path / "out")
  assert record.preprocessing == PREPROCESSINGS["released_rgb"]
  assert record.model["dropout"] == 0.1
  assert record.labels == tuple(str(i) for i in range(487))
  check_table(tmp_path / "out", table_weights, (2, 5, 65, 47), 3)


@pytest.mark.parametrize(
  ("channels", "pixels", "dropout"),
  [(3, "released_rgb", 0.5), (2, "released_flow", 0.7)],
)
def test_kinetics_in_caffe(table_weights, tmp_path, channels, pixels, dropout):
  weights = kinetics(table_weights, channels)
  layers = caffe_file.p3d199(weights, fc="fc_kinetics")
  caffe_file.write(tmp_path / "a.caffemodel", layers)
  convert.convert(tmp_path / "a.caffemodel", tmp_path / "out")
  _, _, record = p3d_jax.load(tmp_path / "out")
  assert record.preprocessing == PREPROCESSINGS[pixels]
  assert (record.model["dropout"], len(record.labels)) == (dropout, 400)
  check_table(tmp_path / "out", weights, (1, 5, 33, 40), channels)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [3, 2])
def test_caffe_at_full_size(table_weights, tmp_path, channels):
  """The published shape, RGB and flow."""
  weights = kinetics(table_weights, 2) if channels == 2 else table_weights
  fc = "fc_kinetics" if channels == 2 else "fc_sports1m"
  caffe_file.write(tmp_path / "a.caffemodel", caffe_file.p3d199(weights, fc=fc))
  convert.convert(tmp_path / "a.caffemodel", tmp_path / "out")
  check_table(tmp_path / "out", weights, (1, 16, 160, 160), channels)


# The port's files.


def port_network(seed=0, **fields):
  slim = {"stages": (2, 1, 2, 1), "width": 8, "classes": 7}
  return port.random_(port.P3D(**{**slim, **fields}), seed)


def check_port(folder, net, channels, size=160):
  rng = np.random.default_rng(2)
  clips = port.random_images(rng, 1, channels, 16, size, size)
  with port.torch.no_grad():
    blobs = net.double().endpoints(clips.double())
  net.float()
  found = endpoints_of(folder, np.moveaxis(clips.numpy(), 1, -1))
  found.pop("prob")  # the port gives logits
  check(found, {name: channels_last(blob) for name, blob in blobs.items()})


def channels_last(blob):
  array = blob.numpy()
  if array.ndim == 4:  # res5: the one step left is in the batch
    array = array[:, :, None]
  return np.moveaxis(array, 1, -1)


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"module_prefix": True, "extra": True},
    {"batches_tracked": True, "optimizer": True},
    {"bare": True, "zipped": True},
    {"extra": True, "zipped": True},
  ],
  ids=lambda options: "+".join(options) or "plain",
)
def test_port_files_as_they_occur(tmp_path, options):
  net = port_network()
  port.old_file(tmp_path / "a.pth.tar", net.state_dict(), **options)
  convert.convert(tmp_path / "a.pth.tar", tmp_path / "out", **SAID)
  _, variables, record = p3d_jax.load(tmp_path / "out")
  kernel = net.layer3[1].conv3.weight.detach().numpy()
  ours = variables["params"]["res4"]["block01"]["temporal"]["conv"]["kernel"]
  for tap in range(3):
    np.testing.assert_array_equal(ours[tap, 0, 0], kernel[:, :, tap, 0, 0].T)
  tracked = int(net.bn1.num_batches_tracked)
  kept = record.provenance["batches_tracked"]
  assert kept == (tracked if options.get("batches_tracked") else None)


def test_port_at_every_endpoint(tmp_path):
  net = port_network()
  port.old_file(tmp_path / "a.pth", net.state_dict())
  convert.convert(tmp_path / "a.pth", tmp_path / "out", **SAID)
  check_port(tmp_path / "out", net, 3)
  check_port(tmp_path / "out", net, 3, size=131)


def test_port_flow_of_another_schedule(tmp_path):
  net = port_network(in_channels=2, st_struc="CB")
  port.old_file(tmp_path / "a.pth", net.state_dict())
  said = {"rule": "port", "schedule": "CB", "preprocessing": "released_flow"}
  convert.convert(tmp_path / "a.pth", tmp_path / "out", **said)
  check_port(tmp_path / "out", net, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["p3d63", "p3d199"])
def test_port_at_full_size(tmp_path, name):
  net = port_network(stages=port.STAGES[name], width=64, classes=400)
  port.old_file(tmp_path / "a.pth", net.state_dict())
  convert.convert(tmp_path / "a.pth", tmp_path / "out", model=name, **SAID)
  check_port(tmp_path / "out", net, 3)


def test_a_rule_is_a_flavour(tmp_path):
  """The rule brings its own pool, which may be said otherwise."""
  port.old_file(tmp_path / "a.pth", port_network().state_dict())
  for rule, pool, expected in (
    ("port", None, "padded"),
    ("released", None, "ceil"),
    ("paper", "padded", "padded"),
  ):
    out = tmp_path / f"{rule}"
    said = {**SAID, "rule": rule, "stem_pool": pool}
    convert.convert(tmp_path / "a.pth", out, **said)
    net, _, record = p3d_jax.load(out)
    assert (net.rule, net.stem_pool) == (rule, expected)
    assert record.provenance["choices"]["rule"] == rule


# Mistakes.


@pytest.fixture(scope="module")
def state():
  return port_network().state_dict()


def refused(tmp_path, state, match, **said):
  port.old_file(tmp_path / "a.pth", state)
  with pytest.raises(ValueError, match=match) as caught:
    convert.convert(tmp_path / "a.pth", tmp_path / "out", **{**SAID, **said})
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "out").exists()
  assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]
  return caught.value


@pytest.mark.parametrize("name", ["rule", "schedule", "preprocessing"])
def test_what_a_file_cannot_say_must_be_said(tmp_path, state, name):
  refused(
    tmp_path, state, f"does not say its {name}: give --{name}", **{name: None}
  )


@pytest.mark.parametrize(
  ("said", "match"),
  [
    ({"rule": "caffe"}, "rule is 'caffe': it must be one of released"),
    ({"schedule": "AXB"}, "schedule is 'AXB'"),
    ({"stem_pool": "floor"}, "stem_pool is 'floor'"),
    ({"preprocessing": "imagenet"}, "preprocessing is 'imagenet'"),
    ({"preprocessing": "released_flow"}, r"2 channels \(flow\): .* reads 3"),
    ({"model": "p3d63"}, r"\(3, 4, 6, 3\) blocks .* has blocks 2, 1, 2, 1"),
    ({"model": "p3d64"}, "model is 'p3d64': it must be one of p3d63"),
    ({"labels": ("a", "b")}, "labels are 2 names .* there must be 7"),
    ({"labels": "nowhere.txt"}, "labels is 'nowhere.txt': there is no such"),
    ({"schedule": "ABS"}, "of no use: layer"),
  ],
  ids=str,
)
def test_wrong_choices(tmp_path, state, said, match):
  refused(tmp_path, state, match, **said)


def test_both_lists(tmp_path, state):
  changed = dict(state)
  changed["layer2.0.conv9.weight"] = changed.pop("layer2.0.conv2.weight")
  error = refused(
    tmp_path,
    changed,
    "1 arrays are missing: layer2.0.conv2.weight; "
    "1 arrays are of no use: layer2.0.conv9.weight",
  )
  assert error.missing == ("layer2.0.conv2.weight",)
  assert error.unknown == ("layer2.0.conv9.weight",)


def test_a_missing_block_is_not_another_network(tmp_path, state):
  changed = {k: v for k, v in state.items() if not k.startswith("layer3.0")}
  refused(tmp_path, changed, r"\(2, 1, 0, 1\) blocks")


@pytest.mark.parametrize(
  ("name", "change", "match"),
  [
    ("fc.weight", lambda x: x[:5], r"fc.weight \(5, 256\) is no params/head"),
    ("bn1.weight", lambda x: x / 0 * 0, "bn1.weight holds numbers .* finite"),
    ("bn1.running_var", lambda x: -x, "bn1.running_var holds negative"),
    ("bn1.bias", lambda x: x[:3], r"bn1.bias \(3,\) is no params/stem/bn/bias"),
    (
      "layer1.0.conv2.weight",
      lambda x: x.transpose(2, 4),
      r"conv2.weight \(8, 8, 3, 3, 1\) is no",
    ),
    ("bn1.bias", lambda x: x.double() / 3, "float32 cannot hold"),
  ],
  ids=["classes", "nan", "negative", "channels", "axes", "float64"],
)
def test_wrong_arrays(tmp_path, state, name, change, match):
  refused(tmp_path, {**state, name: change(state[name])}, match)


def test_what_is_known_of_the_authors_need_not_be_said(table_weights, tmp_path):
  caffe_file.write(tmp_path / "a.caffemodel", caffe_file.p3d199(table_weights))
  with pytest.raises(ValueError, match="rule is 'port': .* leave it out"):
    convert.convert(tmp_path / "a.caffemodel", tmp_path / "out", rule="port")
  grey = {"kernel": table_weights["conv1"]["kernel"][:, :1].copy()}
  wrong = {**kinetics(table_weights), "conv1": grey}
  layers = caffe_file.p3d199(wrong, fc="fc_kinetics")
  caffe_file.write(tmp_path / "b.caffemodel", layers)
  with pytest.raises(ValueError, match="has the head fc_kinetics/0 and 1"):
    convert.convert(tmp_path / "b.caffemodel", tmp_path / "out")
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("count", [[1, 2], 2.5, -1], ids=str)
def test_a_count_of_batches_is_one_whole_number(tmp_path, state, count):
  count = port.torch.tensor(count)
  changed = {**state, "bn1.num_batches_tracked": count}
  port.old_file(tmp_path / "a.pth", changed, batches_tracked=True)
  with pytest.raises(ValueError, match="one whole number of batches"):
    convert.convert(tmp_path / "a.pth", tmp_path / "out", **SAID)


def test_labels_of_windows(tmp_path, state):
  port.old_file(tmp_path / "a.pth", state)
  text = "\ufeffa\r\nb\r\nc\r\nd\r\ne\r\nf\r\ng\r\n\r\n"
  (tmp_path / "labels.txt").write_bytes(text.encode())
  labels = tmp_path / "labels.txt"
  convert.convert(tmp_path / "a.pth", tmp_path / "out", **SAID, labels=labels)
  _, _, record = p3d_jax.load(tmp_path / "out")
  assert record.labels == tuple("abcdefg")
  labels.write_bytes("ä".encode("latin-1") * 7)
  with pytest.raises(
    ValueError, match="labels is .*: it must be text in UTF-8"
  ):
    convert.convert(tmp_path / "a.pth", tmp_path / "b", **SAID, labels=labels)


@pytest.mark.parametrize("place", ["file/out", "dangling"])
def test_an_out_that_cannot_be(tmp_path, state, place):
  port.old_file(tmp_path / "a.pth", state)
  (tmp_path / "file").write_text("")
  (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
  before = sorted(tmp_path.iterdir())
  with pytest.raises(ValueError, match="^out is "):
    convert.convert(tmp_path / "a.pth", tmp_path / place, **SAID)
  assert sorted(tmp_path.iterdir()) == before


def test_a_folder_is_not_written_over(tmp_path, state):
  port.old_file(tmp_path / "a.pth", state)
  (tmp_path / "out").mkdir()
  with pytest.raises(ValueError, match="out is .*: it exists"):
    convert.convert(tmp_path / "a.pth", tmp_path / "out", **SAID)


def test_record_says_where_it_comes_from(tmp_path, state):
  port.old_file(tmp_path / "a.pth", state)
  (tmp_path / "labels.txt").write_text("a b\nc\nd\ne\nf\ng\nhä\n\n")
  pixels = dataclasses.replace(PREPROCESSINGS["port"], crop=128, resize=None)
  report = convert.convert(
    tmp_path / "a.pth",
    tmp_path / "out",
    **{**SAID, "preprocessing": pixels},
    labels=tmp_path / "labels.txt",
  )
  _, _, record = p3d_jax.load(tmp_path / "out")
  source = record.provenance["source"]
  digest = hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()
  assert source == {
    "name": "a.pth", "kind": "port", "container": "torch", "sha256": digest,
  }  # fmt: skip
  assert record.labels == ("a b", "c", "d", "e", "f", "g", "hä")
  assert record.preprocessing == pixels
  stored = record.provenance["choices"]
  assert Preprocessing.from_dict(stored["preprocessing"]) == pixels
  assert "arrays of the file fill" in report.text()


def test_a_caffe_file_of_another_rule_is_refused(table_weights, tmp_path):
  """The numbers fit; what the layers say does not."""
  lies = {"res2c_branch2b_st": {"coeff": [1, 1]}}
  layers = caffe_file.p3d199(table_weights, lies=lies)
  caffe_file.write(tmp_path / "a.caffemodel", layers)
  with pytest.raises(ValueError, match="of the rule 'released'"):
    convert.convert(tmp_path / "a.caffemodel", tmp_path / "out")
  assert not (tmp_path / "out").exists()
