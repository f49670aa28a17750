"""The references of weight conversion are what they say they are.

protobuf reads the hand-written .caffemodel, the authors' table agrees with the
port's graph where the two networks are the same, transformers with itself.
"""

import numpy as np
import pytest

from tests.reference import caffe_file
from tests.reference.caffe_file import Layer

# Fields of caffe.proto, as name, number, label and type; packed where starred.
# Enums are int32 here, and the fork's field is our own invention.
MESSAGES = {
  "BlobShape": [("dim", 1, "repeated*", "int64")],
  "BlobProto": [
    ("num", 1, "optional", "int32"),
    ("channels", 2, "optional", "int32"),
    ("height", 3, "optional", "int32"),
    ("width", 4, "optional", "int32"),
    ("data", 5, "repeated*", "float"),
    ("diff", 6, "repeated*", "float"),
    ("shape", 7, "optional", "BlobShape"),
    ("double_data", 8, "repeated*", "double"),
    ("double_diff", 9, "repeated*", "double"),
  ],
  "ParamSpec": [
    ("lr_mult", 3, "optional", "float"),
    ("decay_mult", 4, "optional", "float"),
  ],
  "ConvolutionParameter": [
    ("num_output", 1, "optional", "uint32"),
    ("bias_term", 2, "optional", "bool"),
    ("pad", 3, "repeated", "uint32"),
    ("kernel_size", 4, "repeated", "uint32"),
    ("group", 5, "optional", "uint32"),
    ("stride", 6, "repeated", "uint32"),
    ("stride_h", 13, "optional", "uint32"),
    ("stride_w", 14, "optional", "uint32"),
    ("dilation", 18, "repeated", "uint32"),
  ],
  "PoolingParameter": [
    ("pool", 1, "optional", "int32"),
    ("kernel_size", 2, "optional", "uint32"),
    ("stride", 3, "optional", "uint32"),
    ("pad", 4, "optional", "uint32"),
    ("global_pooling", 12, "optional", "bool"),
    ("round_mode", 13, "optional", "int32"),
  ],
  "EltwiseParameter": [
    ("operation", 1, "optional", "int32"),
    ("coeff", 2, "repeated", "float"),
  ],
  "BatchNormParameter": [
    ("use_global_stats", 1, "optional", "bool"),
    ("eps", 3, "optional", "float"),
  ],
  "ScaleParameter": [("bias_term", 4, "optional", "bool")],
  "ReLUParameter": [("negative_slope", 1, "optional", "float")],
  "LayerParameter": [
    ("name", 1, "optional", "string"),
    ("type", 2, "optional", "string"),
    ("bottom", 3, "repeated", "string"),
    ("top", 4, "repeated", "string"),
    ("loss_weight", 5, "repeated", "float"),
    ("param", 6, "repeated", "ParamSpec"),
    ("blobs", 7, "repeated", "BlobProto"),
    ("phase", 10, "optional", "int32"),
    ("convolution_param", 106, "optional", "ConvolutionParameter"),
    ("eltwise_param", 110, "optional", "EltwiseParameter"),
    ("pooling_param", 121, "optional", "PoolingParameter"),
    ("relu_param", 123, "optional", "ReLUParameter"),
    ("batch_norm_param", 139, "optional", "BatchNormParameter"),
    ("scale_param", 142, "optional", "ScaleParameter"),
    ("fork_param", 1000, "optional", "bytes"),
  ],
  "V1LayerParameter": [
    ("bottom", 2, "repeated", "string"),
    ("top", 3, "repeated", "string"),
    ("name", 4, "optional", "string"),
    ("type", 5, "optional", "int32"),
    ("blobs", 6, "repeated", "BlobProto"),
    ("blobs_lr", 7, "repeated", "float"),
    ("convolution_param", 10, "optional", "ConvolutionParameter"),
    ("pooling_param", 19, "optional", "PoolingParameter"),
    ("eltwise_param", 24, "optional", "EltwiseParameter"),
    ("relu_param", 30, "optional", "ReLUParameter"),
  ],
  "NetParameter": [
    ("name", 1, "optional", "string"),
    ("layers", 2, "repeated", "V1LayerParameter"),
    ("layer", 100, "repeated", "LayerParameter"),
  ],
}


@pytest.fixture(scope="module")
def net_parameter():
  """The class of a NetParameter that protobuf makes."""
  pb2 = pytest.importorskip(
    "google.protobuf.descriptor_pb2", reason="protobuf reads what we wrote"
  )
  from google.protobuf import descriptor_pool, message_factory

  file = pb2.FileDescriptorProto(name="caffe.proto", package="caffe")
  kinds = pb2.FieldDescriptorProto
  for message, fields in MESSAGES.items():
    described = file.message_type.add(name=message)
    for name, number, label, kind in fields:
      field = described.field.add(name=name, number=number)
      field.label = getattr(kinds, f"LABEL_{label.strip('*').upper()}")
      field.options.packed = label.endswith("*")
      if kind in MESSAGES:
        field.type, field.type_name = kinds.TYPE_MESSAGE, f".caffe.{kind}"
      else:
        field.type = getattr(kinds, f"TYPE_{kind.upper()}")
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return message_factory.GetMessageClass(
    pool.FindMessageTypeByName("caffe.NetParameter")
  )


def decoded(net_parameter, path):
  """Reads a file; whatever protobuf does not know of is a failure."""
  from google.protobuf import unknown_fields

  net = net_parameter.FromString(path.read_bytes())
  for layer in [net, *net.layer, *net.layers]:
    assert not unknown_fields.UnknownFieldSet(layer)
    for blob in getattr(layer, "blobs", ()):
      assert not unknown_fields.UnknownFieldSet(blob)
  return net


# Settings by their names in caffe.proto, which MESSAGES has the numbers of.
CONV = {"num_output": 300, "bias_term": 0, "pad": [0, 1, 300],
        "kernel_size": [2, 3, 1], "group": 3, "stride": [1, 2, 2],
        "stride_h": 4, "stride_w": 5, "dilation": [6]}  # fmt: skip
RELU = {"negative_slope": 0.5}
POOL = {"pool": 1, "kernel_size": 3, "stride": 2, "pad": 7,
        "global_pooling": 1, "round_mode": 1}  # fmt: skip
SUM = {"operation": 0, "coeff": [0.5, -1.0]}


def some_layers(rng):
  # 127, 128 and 300: the last size of one byte, the first of two, and more.
  kernel = rng.standard_normal((300, 3, 2, 3, 1))
  weight, bias = rng.standard_normal((127, 128)), rng.standard_normal(127)
  return [
    Layer("data", "Data", (), (), ("data", "label")),
    Layer("conv", "Convolution", [kernel], ["data"], ["conv"], [1.5], CONV),
    Layer("conv_relu", "ReLU", (), ["conv"], ["conv"], (), RELU),
    Layer("pool", "Pooling", (), ["conv"], ["pool"], (), POOL),
    Layer("sum", "Eltwise", (), ["pool", "pool"], ["sum"], (), SUM),
    Layer("fc", "InnerProduct", [weight, bias], ["conv"], ["fc"]),
    Layer("loss", "SoftmaxWithLoss", (), ["fc", "label"], ["loss"]),
  ]


@pytest.mark.parametrize("diffs", [False, True])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("v1", [False, True])
def test_protobuf_reads_what_was_written(
  tmp_path, net_parameter, v1, double, diffs
):
  path = tmp_path / "net.caffemodel"
  layers = some_layers(np.random.default_rng(0))
  caffe_file.write(path, layers, v1=v1, double=double, diffs=diffs)
  net = decoded(net_parameter, path)
  assert not (net.layer if v1 else net.layers)
  dtype, data, diff = (
    (np.float64, "double_data", "double_diff")
    if double
    else (np.float32, "data", "diff")
  )
  for layer, found in zip(layers, net.layers if v1 else net.layer, strict=True):
    assert found.name == layer.name
    assert list(found.bottom) == list(layer.bottoms)
    assert list(found.top) == list(layer.tops)
    for value, blob in zip(layer.blobs, found.blobs, strict=True):
      assert tuple(blob.shape.dim) == value.shape
      expected = value.astype(dtype).ravel()
      np.testing.assert_array_equal(getattr(blob, data), expected)
      np.testing.assert_array_equal(
        getattr(blob, diff), np.full(value.size if diffs else 0, 7.0)
      )
  found = {layer.name: layer for layer in (net.layers if v1 else net.layer)}
  for layer, message, said in (
    ("conv", "convolution_param", CONV),
    ("conv_relu", "relu_param", RELU),
    ("pool", "pooling_param", POOL),
    ("sum", "eltwise_param", SUM),
  ):
    read = {
      field.name: value if np.isscalar(value) else list(value)
      for field, value in getattr(found[layer], message).ListFields()
    }
    assert read == said
  found = found["conv"]
  assert found.type == (4 if v1 else "Convolution")
  assert (found.blobs_lr if v1 else [found.param[0].lr_mult]) == [1.5]


def test_protobuf_reads_packed_coefficients_and_the_rest(
  tmp_path, net_parameter
):
  path = tmp_path / "net.caffemodel"
  norm = {"use_global_stats": 1, "eps": 0.5}
  layers = [
    Layer("sum", "Eltwise", (), ["a"], ["b"], (), {"packed": [0.5, -1.0]}),
    Layer("bn", "BatchNorm", (), ["b"], ["b"], (), norm),
    Layer("scale", "Scale", (), ["b"], ["b"], (), {"bias_term": 1}),
    Layer("fork", "BN", (), ["b"], ["b"]),
  ]
  caffe_file.write(path, layers)
  added, found, scale, fork = decoded(net_parameter, path).layer
  assert list(added.eltwise_param.coeff) == [0.5, -1.0]
  assert found.batch_norm_param.use_global_stats
  assert found.batch_norm_param.eps == 0.5
  assert scale.scale_param.bias_term
  assert fork.fork_param
  caffe_file.write(path, [layers[0]], stripped=True)
  assert not decoded(net_parameter, path).layer  # it has no blobs


def test_old_blobs_have_four_sizes(tmp_path, net_parameter):
  path = tmp_path / "net.caffemodel"
  layers = [Layer("fc", "InnerProduct", [np.ones((5, 300)), np.ones(5)])]
  caffe_file.write(path, layers, legacy_shape=True)
  found = [
    (blob.num, blob.channels, blob.height, blob.width, len(blob.data))
    for blob in decoded(net_parameter, path).layer[0].blobs
  ]
  assert found == [(1, 1, 5, 300, 1500), (1, 1, 1, 5, 5)]


@pytest.fixture(scope="module")
def port():
  return pytest.importorskip(
    "tests.reference.port", reason="the port runs on PyTorch"
  )


# Of the networks on ResNet-50, -101 and -152.
@pytest.mark.parametrize(
  ("name", "count", "statistics"),
  [
    ("p3d63", 25_132_581, 57_600),
    ("p3d131", 47_475_749, 118_528),
    ("p3d199", 65_879_589, 172_288),
  ],
)
def test_port_has_the_papers_counts(port, name, count, statistics):
  with port.torch.device("meta"):
    net = port.P3D(port.STAGES[name], classes=101)
  assert sum(p.numel() for p in net.parameters()) == count
  assert sum(b.numel() for b in net.buffers() if b.ndim) == statistics


def slim_port(port):
  return port.random_(port.P3D((2, 2, 3, 2), width=8, classes=11), seed=0)


def test_random_port_tells_all_rules_apart(port):
  """At the size it runs at, not at that of drawing."""
  net, blobs = slim_port(port).double(), {}
  hooks = [
    layer.register_forward_hook(
      lambda layer, x, y, name=name: blobs.update({name: y})
    )
    for name, layer in net.named_modules()
  ]
  clips = port.random_images(np.random.default_rng(1), 2, 3, 16, 160, 160)
  with port.torch.no_grad():
    found = net.endpoints(clips)
  assert found["logits"].shape == (2, 11)
  assert len(hooks) > 60
  for name, blob in found.items():
    if name not in ("logits", "pool5"):
      assert 0.2 < (blob > 0).double().mean() < 0.999, name
      assert 0.1 < blob.std() < 10, name
  relu = [n for n in blobs if n.endswith(("bn1", "bn2", "bn3", "bn_normal"))]
  assert len(relu) == 1 + 3 * 7 + 2 * 2
  for name in relu:
    assert 0.2 < (blobs[name] > 0).double().mean() < 0.8, name
  kinds = "".join(
    block.kind
    for name, block in net.named_modules()
    if isinstance(block, port.Bottleneck)
  )
  assert kinds == "ABCABCA"
  joined = ["layer1.1", "layer2.0", "layer3.0", "layer3.1"]
  for name in joined:
    negative = (blobs[f"{name}.bn3"] < 0).double().mean()
    assert 0.35 < negative < 0.65, name
  for layer in net.modules():
    if hasattr(layer, "running_var"):
      assert (layer.running_var.log().abs() > 0.5).double().mean() > 0.2


@pytest.mark.parametrize("kind", "ABC")
def test_ports_sum_is_of_what_relu_left(port, kind):
  """With one of s and t dead, the other comes through as it is."""
  torch = port.torch
  net = port.random_(port.P3D((1, 0, 0, 1), 8, 3, st_struc=kind), seed=0)
  block, relu = net.layer1[0], port.F.relu
  rng = np.random.default_rng(1)
  x = torch.from_numpy(rng.standard_normal((2, 8, 4, 6, 6))).float().relu()
  with torch.no_grad():
    s, t = block.bn2(block.conv2(x)), block.bn3(block.conv3(x))
    nothing = block.bn3(torch.zeros_like(x))
    alive = block.bn2.bias.clone()
    block.bn2.bias.fill_(-1e6)
    expected = t if kind == "B" else nothing
    assert torch.equal(block.mix(x), relu(expected))
    block.bn2.bias.copy_(alive)
    block.bn3.bias.fill_(-1e6)
    expected = torch.zeros_like(x) if kind == "A" else relu(s)
    assert torch.equal(block.mix(x), expected)


def weights_of_the_table(port, names, state):
  """The port's state by the authors' layers; the shortest map that does."""
  parts = {"branch1": ("downsample.0", "downsample.1")}
  for i, part in enumerate(("2a", "2b", "2b_t", "2c"), start=1):
    parts[f"branch{part}"] = (f"conv{i}", f"bn{i}")
  weights = {}

  def put(conv, bn, name, layer):
    leaves = {"scale": "weight", "bias": "bias", "mean": "running_mean",
              "var": "running_var"}  # fmt: skip
    weights[name] = {"kernel": state[f"{conv}.weight"].numpy()}
    weights[layer] = {k: state[f"{bn}.{v}"].numpy() for k, v in leaves.items()}

  put("conv1_custom", "bn1", "conv1", "bn_conv1")
  for block, ours in names.BLOCKS.items():
    stage, index = int(ours[3]) - 1, int(ours[-2:])
    for part, (conv, bn) in parts.items():
      if stage == 4 and part == "branch2b":
        conv, bn = "conv_normal", "bn_normal"
      prefix = f"layer{stage}.{index}."
      if f"{prefix}{conv}.weight" in state:
        put(prefix + conv, prefix + bn, f"res{block}_{part}",
            f"bn{block}_{part}")  # fmt: skip
  weights["fc_sports1m"] = {"kernel": state["fc.weight"].numpy(),
                            "bias": state["fc.bias"].numpy()}  # fmt: skip
  return weights


def test_port_is_the_table_but_for_its_rules(port, monkeypatch):
  """With the release's sums and its pool1 put in, every endpoint agrees.

  Both compute in float64, so what is left is 1e-15 times the depth.
  """
  from tests.reference import names, table

  torch, relu = port.torch, port.F.relu
  net = port.random_(port.P3D(classes=7), seed=0).double()
  clips = port.random_images(np.random.default_rng(1), 1, 3, 16, 64, 64)
  weights = weights_of_the_table(port, names, net.state_dict())
  blobs = table.run(weights, clips.permute(0, 2, 3, 4, 1).numpy())
  blobs = {ours: blobs[row] for ours, row in names.ENDPOINTS.items()}

  def released(block, x):
    s = relu(block.bn2(block.conv2(x)))
    t = block.bn3(block.conv3(x if block.kind == "B" else s))
    return relu({"A": t, "B": s + t, "C": 0.5 * s + 0.5 * t}[block.kind])

  def errors():
    with torch.no_grad():
      found = net.trunk(clips)
    return {
      name: float((blob - blobs[name]).abs().max() / blobs[name].abs().max())
      for name, blob in found.items()
    }

  ruled = errors()
  assert ruled["stem"] > 0.1  # the pool
  net.pool1 = torch.nn.MaxPool3d((2, 3, 3), 2, ceil_mode=True)
  ruled = errors()
  assert ruled["res2/block00"] < 1e-12 < 0.01 < ruled["res2/block01"]  # A, B
  monkeypatch.setattr(port.Bottleneck, "mix", released)
  undone = errors()
  assert len(undone) == 1 + 50 + 4
  assert max(undone.values()) < 1e-11, undone


def test_ports_files_say_what_they_hold(tmp_path, port):
  """PyTorch itself reads each back."""
  torch = port.torch
  net = port.random_(port.P3D((1, 1, 1, 1), width=8, classes=3), seed=0)
  state, path = net.state_dict(), tmp_path / "p3d.pth.tar"
  tracked = sum(name.endswith("num_batches_tracked") for name in state)
  port.old_file(path, state)
  assert not path.read_bytes().startswith(b"PK")
  old = torch.load(path, weights_only=True)["state_dict"]
  assert len(old) == len(state) - tracked
  assert all(torch.equal(old[name], state[name]) for name in old)
  port.old_file(path, state, module_prefix=True, batches_tracked=True,
                bare=True, zipped=True)  # fmt: skip
  assert path.read_bytes().startswith(b"PK")
  new = torch.load(path, weights_only=True)
  assert list(new) == [f"module.{name}" for name in state]
  port.old_file(path, state, extra=True, optimizer=True)
  assert b"cnumpy.core.multiarray\nscalar\n" in path.read_bytes()
  full = torch.load(path, weights_only=False)
  assert full["best_prec1"] == 72.125
  assert set(full) == {"epoch", "arch", "state_dict", "best_prec1",
                       "optimizer"}  # fmt: skip


@pytest.fixture(scope="module")
def resnet():
  return pytest.importorskip(
    "tests.reference.resnet", reason="the reference is transformers' ResNet"
  )


def test_place_of_the_stride_and_pool_move_the_logits(resnet):
  model = resnet.build(50, width=8, classes=5)
  other = resnet.build(50, width=8, classes=5, downsample_in_bottleneck=True)
  other.load_state_dict(model.state_dict())
  images = np.random.default_rng(1).uniform(-100, 100, (2, 3, 64, 64))
  found = resnet.logits(model, images)
  for another in (resnet.logits(other, images),
                  resnet.logits(model, images, "ceil")):  # fmt: skip
    assert found.dtype == another.dtype == np.float64
    assert np.abs(found - another).max() > 0.05 * np.abs(found).max()


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_deep_resnets_neither_die_nor_explode(resnet, depth):
  torch = resnet.torch
  model = resnet.build(depth, width=8, classes=5).double()
  images = resnet.port.random_images(np.random.default_rng(1), 2, 3, 96, 96)
  with torch.no_grad():
    stages = model(images, output_hidden_states=True).hidden_states
  assert len(stages) == 5
  for blob in stages:
    assert 0.2 < (blob > 0).double().mean() < 0.999
    assert 0.1 < blob.std() < 10


def test_torchvision_names_are_torchvisions(resnet):
  """Every name of ResNet-50, whose count of parameters torchvision prints."""
  with resnet.torch.device("meta"):
    config = resnet.transformers.ResNetConfig(num_labels=1000)
    state = resnet.transformers.ResNetForImageClassification(
      config
    ).state_dict()
  names = {resnet._torchvision(name): tuple(v.shape)
           for name, v in state.items()}  # fmt: skip
  assert len(names) == len(state) == 320
  learnt = {n: s for n, s in names.items() if n.endswith(("weight", "bias"))}
  assert sum(int(np.prod(s)) for s in learnt.values()) == 25_557_032
  assert names["layer2.0.downsample.0.weight"] == (512, 256, 1, 1)
  assert names["layer3.5.conv2.weight"] == (256, 256, 3, 3)
  assert names["layer4.2.bn3.running_var"] == (2048,)
  assert names["bn1.num_batches_tracked"] == ()
  assert names["fc.weight"] == (1000, 2048)


def torchvision_logits(torch, state, x, reduce_stride):
  """torchvision's ResNet by its names; no more than a reader must know."""
  state = {name: torch.from_numpy(v) for name, v in state.items()}
  F = torch.nn.functional  # noqa: N806

  def unit(x, conv, bn, stride=1):
    kernel = state[f"{conv}.weight"].double()
    x = F.conv2d(x, kernel, None, stride, kernel.shape[-1] // 2)
    leaves = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(x, *(state[f"{bn}.{leaf}"].double() for leaf in leaves))

  x = F.max_pool2d(unit(x, "conv1", "bn1", 2).relu(), 3, 2, 1)
  for stage, blocks in enumerate(caffe_file.DEPTHS[50], start=1):
    for i in range(blocks):
      name, shortcut = f"layer{stage}.{i}.", x
      stride = 2 if stage > 1 and i == 0 else 1
      strides = (stride, 1, 1) if reduce_stride else (1, stride, 1)
      if i == 0:
        conv, bn = name + "downsample.0", name + "downsample.1"
        shortcut = unit(x, conv, bn, stride)
      for k, s in enumerate(strides, start=1):
        x = unit(x, f"{name}conv{k}", f"{name}bn{k}", s)
        x = x.relu() if k < 3 else x + shortcut
      x = x.relu()
  x = x.mean((2, 3)) @ state["fc.weight"].double().T
  return (x + state["fc.bias"]).numpy()


@pytest.mark.parametrize("reduce_stride", [False, True])
def test_torchvision_names_mean_what_they_do_there(resnet, reduce_stride):
  """Same logits by torchvision's names; float64, hence 1e-11."""
  model = resnet.build(
    50, width=8, classes=5, downsample_in_bottleneck=reduce_stride
  )
  images = resnet.port.random_images(np.random.default_rng(1), 2, 3, 70, 64)
  expected = resnet.logits(model, images.numpy())
  state = resnet.torchvision_names(model.state_dict())
  found = torchvision_logits(resnet.torch, state, images, reduce_stride)
  assert np.abs(found - expected).max() < 1e-11 * np.abs(expected).max()


def test_caffe_resnet_gives_its_statistics_back(resnet):
  """mean = blob 0 / blob 2; a float32 rounds to 6e-8, two of them to 1e-6."""
  model = resnet.build(101, width=8, classes=5)
  state = resnet.torchvision_names(model.state_dict())
  layers = {layer.name: layer for layer in caffe_file.resnet(state, 101)}
  assert {"res2c", "res3b3", "res4b22", "res5c", "scale_conv1"} <= set(layers)
  assert "res3c" not in layers
  factors = [v.blobs[2][0] for v in layers.values() if v.type == "BatchNorm"]
  assert factors.count(0) == 1
  assert len(factors) == 104
  mean, var, factor = layers["bn4b22_branch2b"].blobs
  name = "layer3.22.bn2.running_"
  np.testing.assert_allclose(mean / factor, state[f"{name}mean"], rtol=1e-6)
  np.testing.assert_allclose(var / factor, state[f"{name}var"], rtol=1e-6)


def test_caffe_resnet50_has_its_own_names_and_a_bias(resnet):
  model = resnet.build(50, width=8, classes=5, stem_bias=True)
  state = resnet.torchvision_names(model.state_dict())
  layers = {layer.name: layer for layer in caffe_file.resnet(state, 50)}
  assert {"res3d", "res4f_branch2c", "scale5c_branch2a"} <= set(layers)
  assert "res3b1" not in layers
  weight, bias = layers["conv1"].blobs
  assert weight.shape == (8, 3, 7, 7)
  np.testing.assert_array_equal(bias, state["conv1.bias"])
  assert np.abs(bias).min() > 0
  assert len(layers["res2a_branch1"].blobs) == 1


def test_caffe_p3d_has_every_row(port):
  from tests.reference import names, table

  rng, state = np.random.default_rng(0), port.P3D(classes=7).state_dict()
  for name in [n for n in state if n.startswith("layer3.7.bn4.")]:
    shape = tuple(state[name].shape)
    state[name] = port.torch.from_numpy(np.asarray(rng.standard_normal(shape)))
  weights = weights_of_the_table(port, names, state)
  layers = {v.name: v for v in caffe_file.p3d199(weights, fc="fc_kinetics")}
  rows = {row["name"] for row in table.ROWS} - {"fc_sports1m"}
  assert rows | {"fc_kinetics", "loss"} <= set(layers)
  assert layers["fc_kinetics"].blobs[0].shape == (7, 2048)
  assert [b.shape for b in layers["bn_conv1"].blobs] == 4 * [(1, 64)]
  for leaf, blob in zip(
    ("scale", "bias", "mean", "var"),
    layers["bn4b7_branch2c"].blobs,
    strict=True,
  ):
    # The table itself executes these four by their names.
    assert (blob[0] == weights["bn4b7_branch2c"][leaf]).all()
  assert layers["res3b1_branch2b_t"].blobs[0].shape == (128, 128, 3, 1, 1)
  assert layers["res3a_branch2a"].settings["stride"] == [1, 2, 2]
  assert layers["res5a_branch2b"].settings["pad"] == [1]
  assert layers["res2c_branch2b_st"].settings["coeff"] == [0.5, 0.5]
  assert layers["res2c"].settings == {"operation": 1}
  assert layers["res5a_branch2b"].blobs[0].shape == (512, 512, 3, 3)
  assert any(layer.type == "Split" for layer in layers.values())
