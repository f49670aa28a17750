"""What .caffemodel files hold and say, and files that say another network.

The files are written by tests/reference/caffe_file.py, from the authors' table
and the graph of the published ResNets. What a file says does not depend on its
numbers, so here each kernel is of one channel.
"""

import dataclasses
import struct

import numpy as np
import pytest

from p3d_jax.weights import caffe, caffe_net, names, source
from p3d_jax.weights.merge import WeightsError
from tests.reference import caffe_file

Layer = caffe_file.Layer


def one_line(run):
  """The text of the error that a call ends in."""
  with pytest.raises(WeightsError) as caught:
    run()
  assert "\n" not in str(caught.value)
  return str(caught.value)


# Numbers.


def small_caffe(path, **options):
  rng = np.random.default_rng(0)
  kernel = rng.standard_normal((4, 3, 7, 7)).astype(np.float32)
  layers = [
    Layer("data", "Data", tops=("data", "label")),
    Layer("conv1", "Convolution", [kernel], ["data"], ["conv1"]),
    Layer("scale_conv1", "Scale", [kernel[:, 0, 0, 0]], ["conv1"], ["conv1"]),
    Layer("res3b_branch2a", "Convolution", [kernel], ["conv1"], ["a"]),
  ]
  caffe_file.write(path, layers, **options)
  return kernel


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"v1": True},
    {"legacy_shape": True, "diffs": True},
    {"double": True},
    {"stripped": True},
  ],
  ids=str,
)
def test_caffe_as_it_occurs(tmp_path, options):
  """The suffix does not matter, the numbers come back to the bit."""
  kernel = small_caffe(tmp_path / "net.bin", **options)
  found = source.read(tmp_path / "net.bin")
  assert (found.container, found.kind) == ("caffe", "caffe_resnet50")
  np.testing.assert_array_equal(found.arrays["conv1/0"], kernel)
  kind = np.float64 if options.get("double") else np.float32
  assert found.arrays["conv1/0"].dtype == kind
  assert (found.width, found.channels) == (4, 3)


def test_caffe_cut_short(tmp_path):
  """Cut anywhere, a file cannot be parsed or lacks whole layers at its end."""
  file = tmp_path / "a.caffemodel"
  small_caffe(file)
  whole = file.read_bytes()
  arrays = list(caffe.read_net(file).arrays)
  for end in range(1, len(whole) - 1, 10):
    file.write_bytes(whole[:end])
    try:
      found = list(caffe.read_net(file).arrays)
    except WeightsError:
      continue
    assert found == arrays[: len(found)]
    assert found != arrays


def test_a_wrong_shape(tmp_path):
  file = tmp_path / "a.caffemodel"
  small_caffe(file)
  # conv1's shape (dims 4 3 7 7) with one number changed.
  whole = file.read_bytes()
  assert b"\x04\x03\x07\x07" in whole
  file.write_bytes(whole.replace(b"\x04\x03\x07\x07", b"\x05\x03\x07\x07"))
  text = one_line(lambda: source.read(file))
  assert "conv1/0 is damaged: its shape (5, 3, 7, 7) needs 735 numbers" in text


@pytest.mark.parametrize(
  ("dims", "match"),
  [
    # 2^64 numbers wrap around to none.
    ((2**32, 2**32), "needs 18446744073709551616 numbers, it holds 0"),
    ((0, 2**62, 8), "sizes must be >= 1"),
    ((-1, -1), "its shape is (-1, -1)"),
    ((1,) * 71, "has 71 axes, Caffe's have at most 32"),
  ],
  ids=["wraps", "none", "negative", "axes"],
)
def test_impossible_shapes(tmp_path, dims, match):
  file = tmp_path / "a.caffemodel"
  caffe_file.write_blob(file, dims, [b"\0\0\0\0"] if len(dims) > 9 else [])
  text = one_line(lambda: caffe.read_net(file))
  assert match in text
  assert f"{file}: conv1/0 is damaged" in text


def test_numbers_in_several_chunks(tmp_path):
  """A parser must join them: the wire format's rule for packed fields."""
  chunks = [struct.pack("<2f", 1, 2), struct.pack("<f", 3)]
  caffe_file.write_blob(tmp_path / "a", (3,), chunks)
  found = caffe.read_net(tmp_path / "a").arrays["conv1/0"]
  np.testing.assert_array_equal(found, [1, 2, 3])


def test_numbers_that_are_not_packed(tmp_path):
  """Caffe packs; what is not is refused, not read as nothing."""
  caffe_file.write_blob(tmp_path / "a", (2,), [], one_by_one=[1.0, 2.0])
  text = one_line(lambda: caffe.read_net(tmp_path / "a"))
  assert "needs 2 numbers, it holds 0 bytes of packed float32" in text


def test_a_name_that_is_no_text(tmp_path):
  small_caffe(tmp_path / "a")
  whole = (tmp_path / "a").read_bytes()
  (tmp_path / "a").write_bytes(whole.replace(b"res3b_br", b"\xff\xfe3b_br"))
  assert "is damaged, or no" in one_line(lambda: caffe.read_net(tmp_path / "a"))


# What layers say: ResNets.


def resnet_state(depth):
  """Kernels of one channel, by torchvision's names."""
  state = {"fc.weight": np.ones((2, 1)), "fc.bias": np.ones(2)}

  def unit(conv, norm, size):
    state[f"{conv}.weight"] = np.ones((1, 1, size, size))
    for leaf in ("weight", "bias", "running_mean", "running_var"):
      state[f"{norm}.{leaf}"] = np.ones(1)

  unit("conv1", "bn1", 7)
  for stage, blocks in enumerate(caffe_file.DEPTHS[depth], start=1):
    for i in range(blocks):
      block = f"layer{stage}.{i}"
      for k, size in enumerate((1, 3, 1), start=1):
        unit(f"{block}.conv{k}", f"{block}.bn{k}", size)
      if i == 0:
        unit(f"{block}.downsample.0", f"{block}.downsample.1", 1)
  return state


def facts(path, naming, layers, **options):
  caffe_file.write(path, layers, **options)
  content = caffe.read_net(path)
  stages = names.stages(naming, content.arrays)
  return caffe_net.facts(path, content.layers, naming, stages)


def resnet_facts(path, depth=50, *, lies=None, reduce_stride=True, **options):
  naming = names.CAFFE_RESNET50 if depth == 50 else names.CAFFE_RESNET
  layers = caffe_file.resnet(
    resnet_state(depth), depth, reduce_stride=reduce_stride, lies=lies
  )
  return facts(path, naming, layers, **options)


PUBLISHED = {"stem_pool": "ceil", "reduce_stride": True, "norm_epsilon": 1e-5}


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_published_resnets(tmp_path, depth):
  assert resnet_facts(tmp_path / "a", depth) == (PUBLISHED, ())


def test_place_of_the_stride_is_read(tmp_path):
  found = resnet_facts(tmp_path / "a", reduce_stride=False)
  assert found.fields == {**PUBLISHED, "reduce_stride": False}


def norms(depth, **said):
  layers = caffe_file.resnet(resnet_state(depth), depth)
  return {v.name: said for v in layers if v.type == "BatchNorm"}


def test_epsilon_is_read(tmp_path):
  """As the decimal that was meant, not the float32 next to it."""
  found = resnet_facts(tmp_path / "a", lies=norms(50, eps=1e-3))
  assert found.fields == {**PUBLISHED, "norm_epsilon": 1e-3}


def test_height_and_width_apart(tmp_path):
  apart = {"pad": None, "pad_h": 3, "pad_w": 3, "stride": None,
           "stride_h": 2, "stride_w": 2, "kernel_size": None,
           "kernel_h": 7, "kernel_w": 7}  # fmt: skip
  found = resnet_facts(tmp_path / "a", lies={"conv1": apart})
  assert found.fields == PUBLISHED
  text = one_line(
    lambda: resnet_facts(
      tmp_path / "a", lies={"conv1": {**apart, "stride_w": 1}}
    )
  )
  assert "conv1 has stride (2, 1): it must be (2, 2)" in text


@pytest.mark.parametrize(
  "lie",
  [
    {"coeff": [1, 1]},
    {"packed": [1, 1]},
    {"operation": 1},
    {"operation": 1, "packed": [1, 1]},
  ],
  ids=str,
)
def test_a_plain_sum_however_it_is_written(tmp_path, lie):
  assert resnet_facts(tmp_path / "a", lies={"res2b": lie}).fields == PUBLISHED


@pytest.mark.parametrize(
  ("lies", "match"),
  [
    (
      {"res3a_branch2a": {"stride": [1]}, "res3a_branch2b": {"stride": [2]}},
      "res3a_branch2b, res4a_branch2a, res5a_branch2a have stride 2: it must "
      "be on the first 1x1 of all stages, or on the 3x3 of all",
    ),
    (
      {"res4a_branch2a": {"stride": [1]}},
      "res4a_branch2a has stride (1, 1) and res4a_branch2b (1, 1): one of",
    ),
    (
      {"res5a_branch2b": {"stride": [2]}},
      "res5a_branch2a has stride (2, 2) and res5a_branch2b (2, 2): one of",
    ),
    ({"res3a_branch1": {"stride": None}}, "res3a_branch1 has stride (1, 1)"),
    ({"res2a_branch2a": {"stride": [2]}}, "res2a_branch2a has stride (2, 2)"),
    ({"res3b_branch2a": {"stride": [1, 2]}}, "stride (1, 2): it must be (1, 1"),
    (
      {"res5b_branch2b": {"dilation": [2], "pad": [2]}},
      "res5b_branch2b has pad (2, 2): it must be (1, 1)",
    ),
    (
      {"res5b_branch2b": {"dilation": [2]}},
      "res5b_branch2b has dilation (2, 2): it must be (1, 1)",
    ),
    ({"res5b_branch2b": {"group": 32}}, "res5b_branch2b has group 32: it must"),
    ({"conv1": {"pad": [2]}}, "conv1 has pad (2, 2): it must be (3, 3)"),
    ({"conv1": {"kernel_size": [5]}}, "conv1 has kernel (5, 5): it must be"),
    (
      {"bn3a_branch2b": {"eps": 1e-3}},
      "bn_conv1 has eps 1e-05 and bn3a_branch2b 0.001: all batch norms must",
    ),
    (norms(50, eps=-1.0), "bn_conv1 has eps -1.0: it must be between 0 and 1"),
    ({"pool1": {"pad": 1}}, "pool1 has max, kernel (3, 3), stride (2, 2), pad "
     "(1, 1), rounded up: it must be the maximum of kernel 3"),
    ({"pool1": {"pool": 1}}, "pool1 has average, kernel (3, 3)"),
    ({"pool1": {"kernel_size": 2}}, "pool1 has max, kernel (2, 2)"),
    ({"pool1": {"round_mode": 1}}, "pad (0, 0), rounded down: it must be"),
    ({"pool5": {"pool": 0}}, "pool5 has max, kernel (7, 7)"),
    ({"pool5": {"kernel_size": 3}}, "pool5 has average, kernel (3, 3)"),
    (
      {"res2b": {"coeff": [1, 0.5]}},
      "res2b adds 1 times the shortcut and 0.5 times scale2b_branch2c: both",
    ),
    ({"res2b": {"operation": 0}}, "res2b is the product of two layers, with 0"),
    ({"res2b": {"coeff": [1]}}, "res2b is the sum of two layers, with 1 coeff"),
    (
      {"res2a_branch2a_relu": {"negative_slope": 0.1}},
      "res2a_branch2b reads leaky_relu(scale2a_branch2a): it must read "
      "relu(scale2a_branch2a)",
    ),
    (
      {"res2a_branch2a_relu": {"type": "TanH"}},
      "res2a_branch2b reads res2a_branch2a_relu: it must read relu(scale2a_",
    ),
    (
      {"res2b_branch2c": {"bottoms": ["res2b_branch2a"]}},
      "res2b_branch2c reads relu(scale2b_branch2a): it must read "
      "relu(scale2b_branch2b)",
    ),
    (
      {"res2b": {"bottoms": ["pool1", "res2b_branch2c"]}},
      "res2b reads pool1 and scale2b_branch2c: it must read scale2b_branch2c "
      "and relu(res2a)",
    ),
    (
      {"fc1000": {"bottoms": ["res5c"]}},
      "fc1000 reads relu(res5c): it must read the average pool of relu(res5c)",
    ),
    (
      {"res2a_branch1": {"bottoms": ["conv1"]}},
      "res2a_branch1 reads relu(scale_conv1): it must read pool1",
    ),
    ({"pool1": {"type": "LRN", "pool": None, "kernel_size": None,
                "stride": None}}, "nothing pools relu(scale_conv1)"),
  ],
  ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_resnets_that_say_another_network(tmp_path, lies, match):
  """Each lie alone is one line that names the layer, what it has and must."""
  text = one_line(lambda: resnet_facts(tmp_path / "a", lies=lies))
  assert match in text
  assert str(tmp_path / "a") in text


def test_what_a_user_says_must_agree(tmp_path):
  found = resnet_facts(tmp_path / "a")
  found.check_said("a", {"reduce_stride": True, "stem_pool": None, "seed": 3})
  text = one_line(lambda: found.check_said("a", {"reduce_stride": False}))
  assert text == "reduce_stride is False: a says True; leave it out"


NO_SETTINGS = (
  "the file holds no settings: those of the published files are assumed"
)


def test_stripped_files_get_a_note(tmp_path):
  """Weights alone, as some tools leave them."""
  fields, notes = resnet_facts(tmp_path / "a", stripped=True)
  assert fields == {}
  assert notes[0] == NO_SETTINGS
  assert "does not say what its layers read" in notes[1]


def test_a_kernel_without_settings(tmp_path):
  """In a file that has them elsewhere."""
  bare = dict.fromkeys(
    ("num_output", "kernel_size", "pad", "stride", "bias_term")
  )
  text = one_line(
    lambda: resnet_facts(tmp_path / "a", lies={"res3a_branch2c": bare})
  )
  assert "res3a_branch2c has no convolution_param" in text


# What layers say: the authors' P3D.


@pytest.fixture(scope="module")
def rows():
  table = pytest.importorskip(
    "tests.reference.table", reason="the reference runs on PyTorch"
  )
  return table.ROWS


@pytest.fixture(scope="module")
def p3d_weights(rows):
  weights = {}
  for row in rows:
    if row["type"] == "Convolution":
      size = tuple(int(n) for n in row["kernel"].split())
      weights[row["name"]] = {"kernel": np.ones((1, 1, *size))}
    elif row["type"] == "BN":
      leaves = ("scale", "bias", "mean", "var")
      weights[row["name"]] = dict.fromkeys(leaves, np.ones(1))
  weights["fc_sports1m"] = {"kernel": np.ones((2, 1)), "bias": np.ones(2)}
  return weights


def p3d_facts(path, weights, *, lies=None, fc="fc_sports1m", **options):
  layers = caffe_file.p3d199(weights, fc=fc, lies=lies)
  return facts(path, names.CAFFE_P3D, layers, **options)


@pytest.mark.parametrize("fc", ["fc_sports1m", "fc_kinetics"])
def test_published_p3d(tmp_path, p3d_weights, fc):
  assert p3d_facts(tmp_path / "a", p3d_weights, fc=fc) == ({}, ())


def test_stripped_p3d_gets_a_note(tmp_path, p3d_weights):
  fields, notes = p3d_facts(tmp_path / "a", p3d_weights, stripped=True)
  assert fields == {}
  assert notes[0] == NO_SETTINGS


def all_of_c(rows, **said):
  return {r["name"]: said for r in rows if r["coeff"] == "0.5 0.5"}


@pytest.mark.parametrize("how", ["coeff", "packed"])
def test_the_papers_sum(tmp_path, rows, p3d_weights, how):
  """All 15 blocks C of a file add as the paper's text has it."""
  lies = all_of_c(rows, **{"coeff": None, how: [1.0, 1.0]})
  assert len(lies) == 15
  text = one_line(lambda: p3d_facts(tmp_path / "a", p3d_weights, lies=lies))
  assert text == (
    f"{tmp_path / 'a'}: res2c_branch2b_st of a P3D-C computes relu(1 s + 1 t) "
    "(the rule 'paper'): the authors' files are of the rule 'released', "
    "relu(0.5 s + 0.5 t)"
  )


def test_no_coefficients_are_ones(tmp_path, rows, p3d_weights):
  lies = all_of_c(rows, coeff=None)
  text = one_line(lambda: p3d_facts(tmp_path / "a", p3d_weights, lies=lies))
  assert "computes relu(1 s + 1 t) (the rule 'paper')" in text


def test_the_ports_rule(tmp_path, p3d_weights):
  """relu(t) before each sum, none after it, no 0.5."""
  layers = []
  for layer in caffe_file.p3d199(p3d_weights):
    if layer.name.endswith("_st_relu"):
      continue
    if layer.name.endswith("_st"):
      t = layer.bottoms[1]
      layers.append(Layer(f"{layer.name}_t", "ReLU", (), [t], [t]))
      layer = dataclasses.replace(layer, settings={})
    layers.append(layer)
  text = one_line(lambda: facts(tmp_path / "a", names.CAFFE_P3D, layers))
  assert (
    "res2b_branch2b_st of a P3D-B computes 1 s + 1 relu(t) (the rule 'port')"
  ) in text


@pytest.mark.parametrize(
  ("lies", "match"),
  [
    (
      # T after S in a B: then it is a C.
      {"res2b_branch2b_t": {"bottoms": ["bn2b_branch2b"]}},
      "the block of res2b_branch2b_t is a P3D-C by what its layers read, and "
      "must be a P3D-B: the file has ACCABC",
    ),
    (
      {"res3b6_branch2b_t": {"bottoms": ["bn3b6_branch2a"]}},
      "bn3b6_branch2b_t is added to nothing, and res3b6_branch2b_t reads "
      "relu(bn3b6_branch2a): no block of a P3D is like this",
    ),
    (
      {"res2c_branch2b_t": {"bottoms": ["bn2c_branch2a"]}},
      "the block of res2c_branch2b_t is a P3D-B",
    ),
    (
      # Nothing is added in a C: then it is an A.
      {"res2c_branch2b_st": {"type": "Silence", "operation": None,
                             "coeff": None},
       "res2c_branch2b_st_relu": {"bottoms": ["bn2c_branch2b_t"]}},
      "the block of res2c_branch2b_t is a P3D-A by what its layers read, and "
      "must be a P3D-C",
    ),
    (
      {"res2b_branch2b_t": {"bottoms": ["res2a"]}},
      "res2b_branch2b_t reads relu(res2a): it must read relu(bn2b_branch2a) "
      "(a P3D-B) or relu(bn2b_branch2b) (A or C)",
    ),
    (
      {"res2b_branch2b_st": {"bottoms": ["bn2b_branch2a", "bn2b_branch2b_t"]}},
      "res2b_branch2b_st reads relu(bn2b_branch2a) and bn2b_branch2b_t: it "
      "must read bn2b_branch2b_t and relu(bn2b_branch2b)",
    ),
    (
      {"res2c_branch2b_st": {"coeff": [0.25, 0.75]}},
      "res2c_branch2b_st of a P3D-C computes relu(0.25 s + 0.75 t): the",
    ),
    (
      {"res2b_branch2b_st": {"coeff": [0.5, 0.5]}},
      "res2b_branch2b_st of a P3D-B computes relu(0.5 s + 0.5 t): the authors'",
    ),
    (
      {f"res{n}a_branch2{k}": {"stride": s} for n, one, two in (
        (3, [1, 1, 1], [1, 2, 2]), (4, [1, 1, 1], [1, 2, 2]), (5, [1], [2]))
       for k, s in (("a", one), ("b", two))},
      "res3a_branch2b, res4a_branch2b, res5a_branch2b have stride 2: the "
      "authors' files have it on the first 1x1x1",
    ),
    (
      {"res2b_branch2b_t": {"dilation": [2, 1, 1]}},
      "res2b_branch2b_t has dilation (2, 1, 1): it must be (1, 1, 1)",
    ),
    (
      {"conv1": {"stride": [2, 2, 2]}},
      "conv1 has stride (2, 2, 2): it must be (1, 2, 2)",
    ),
    (
      {"res3a_branch2a": {"bottoms": ["res2c"]}},
      "res3a_branch2a reads relu(res2c): it must read 3a_pool",
    ),
    ({"pool5": {"pool": 0}}, "pool5 has max, kernel the whole image"),
    (
      {"res5a_pool": {"type": "TanH"}},
      "nothing pools relu(res4b35): one layer must",
    ),
  ],
  ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_p3d_that_say_another_network(tmp_path, p3d_weights, lies, match):
  text = one_line(lambda: p3d_facts(tmp_path / "a", p3d_weights, lies=lies))
  assert match in text


def test_order_of_a_sum_does_not_matter(tmp_path, p3d_weights):
  """Nor do the coefficients get mixed up with it."""
  lie = {"bottoms": ["bn2c_branch2b_t", "bn2c_branch2b"]}
  lies = {"res2c_branch2b_st": lie}
  assert p3d_facts(tmp_path / "a", p3d_weights, lies=lies) == ({}, ())
  lies = {"res2c_branch2b_st": {**lie, "coeff": [0.25, 0.75]}}
  text = one_line(lambda: p3d_facts(tmp_path / "a", p3d_weights, lies=lies))
  assert "computes relu(0.75 s + 0.25 t)" in text
