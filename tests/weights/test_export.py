"""Files for the PyTorch port: its names and layouts, our numbers to the bit.

The names are written out below, from the description of the port; the layouts
are made one number at a time. Neither is asked of the code under test.
"""

import collections
import dataclasses
import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import p3d_jax
from p3d_jax.checkpoint import tree
from p3d_jax.models import zoo
from p3d_jax.preprocess import PREPROCESSINGS, Preprocessing
from p3d_jax.weights import export as exports
from p3d_jax.weights.convert import convert
from p3d_jax.weights.export import export
from p3d_jax.weights.merge import WeightsError
from tests import small

# Blocks B and C in res2, A in res3, B in res4, 2D in res5.
FIELDS: dict[str, Any] = {"stages": (2, 1, 1, 1), "schedule": "BCA"}

# A convolution and its batch norm in the port -> the unit in ours.
UNITS = {
  ("conv1_custom", "bn1"): "stem",
  ("layer1.0.conv1", "layer1.0.bn1"): "res2/block00/reduce",
  ("layer1.0.conv2", "layer1.0.bn2"): "res2/block00/spatial",
  ("layer1.0.conv3", "layer1.0.bn3"): "res2/block00/temporal",
  ("layer1.0.conv4", "layer1.0.bn4"): "res2/block00/expand",
  ("layer1.0.downsample.0", "layer1.0.downsample.1"): "res2/block00/shortcut",
  ("layer1.1.conv1", "layer1.1.bn1"): "res2/block01/reduce",
  ("layer1.1.conv2", "layer1.1.bn2"): "res2/block01/spatial",
  ("layer1.1.conv3", "layer1.1.bn3"): "res2/block01/temporal",
  ("layer1.1.conv4", "layer1.1.bn4"): "res2/block01/expand",
  ("layer2.0.conv1", "layer2.0.bn1"): "res3/block00/reduce",
  ("layer2.0.conv2", "layer2.0.bn2"): "res3/block00/spatial",
  ("layer2.0.conv3", "layer2.0.bn3"): "res3/block00/temporal",
  ("layer2.0.conv4", "layer2.0.bn4"): "res3/block00/expand",
  ("layer2.0.downsample.0", "layer2.0.downsample.1"): "res3/block00/shortcut",
  ("layer3.0.conv1", "layer3.0.bn1"): "res4/block00/reduce",
  ("layer3.0.conv2", "layer3.0.bn2"): "res4/block00/spatial",
  ("layer3.0.conv3", "layer3.0.bn3"): "res4/block00/temporal",
  ("layer3.0.conv4", "layer3.0.bn4"): "res4/block00/expand",
  ("layer3.0.downsample.0", "layer3.0.downsample.1"): "res4/block00/shortcut",
  ("layer4.0.conv1", "layer4.0.bn1"): "res5/block00/reduce",
  ("layer4.0.conv_normal", "layer4.0.bn_normal"): "res5/block00/spatial",
  ("layer4.0.conv4", "layer4.0.bn4"): "res5/block00/expand",
  ("layer4.0.downsample.0", "layer4.0.downsample.1"): "res5/block00/shortcut",
}
NORM = {
  "weight": "params/{}/bn/scale",
  "bias": "params/{}/bn/bias",
  "running_mean": "batch_stats/{}/bn/mean",
  "running_var": "batch_stats/{}/bn/var",
}


def leaves_by_port_name() -> dict[str, str]:
  """The port's name of each array -> our leaf."""
  names = {
    "fc.weight": "params/head/fc/kernel",
    "fc.bias": "params/head/fc/bias",
  }
  for (conv, bn), unit in UNITS.items():
    names[f"{conv}.weight"] = f"params/{unit}/conv/kernel"
    for array, leaf in NORM.items():
      names[f"{bn}.{array}"] = leaf.format(unit)
  return names


def transposed(leaf: str, ours: np.ndarray) -> np.ndarray:
  """PyTorch's layout, one number at a time."""
  if ours.ndim == 1:
    return ours
  if ours.ndim == 2:
    inputs, outputs = ours.shape
    theirs = np.empty((outputs, inputs), np.float32)
    for i, o in np.ndindex(inputs, outputs):
      theirs[o, i] = ours[i, o]
    return theirs
  time, height, width, inputs, outputs = ours.shape
  flat = leaf.startswith("params/res5/")  # 2D in the port
  taps = (height, width) if flat else (time, height, width)
  theirs = np.empty((outputs, inputs, *taps), np.float32)
  for t, h, w, i, o in np.ndindex(*ours.shape):
    theirs[(o, i, h, w) if flat else (o, i, t, h, w)] = ours[t, h, w, i, o]
  return theirs


def saved(path: pathlib.Path, *, provenance: Any = None, **fields: Any) -> Any:
  """Saves a slim network of random numbers; returns its leaves in numpy."""
  module = small.network(**{**FIELDS, **fields})
  variables = small.variables(module, seed=3)
  # Bits that arithmetic would not keep: minus zero and a subnormal number.
  bias = np.array(variables["params"]["stem"]["bn"]["bias"])
  bias[:2] = -0.0, 1e-42
  variables["params"]["stem"]["bn"]["bias"] = jax.numpy.asarray(bias)
  record = small.record(module)
  if provenance is not None:
    record = dataclasses.replace(record, provenance=provenance)
  p3d_jax.save(path, variables, record)
  return {k: np.asarray(v) for k, v in tree.flatten(variables).items()}


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, Any]:
  path = tmp_path_factory.mktemp("export") / "slim"
  return path, saved(path)


def read(path: pathlib.Path, to: str) -> dict[str, np.ndarray]:
  """Reads a file as other programs do."""
  if to == "safetensors":
    return safetensors.numpy.load_file(path)
  torch = pytest.importorskip("torch", reason="reads PyTorch's files")
  content = torch.load(path, weights_only=True)
  assert set(content) == {"state_dict", "p3d_jax"}
  assert isinstance(content["state_dict"], collections.OrderedDict)
  return {name: value.numpy() for name, value in content["state_dict"].items()}


@pytest.fixture(params=["torch", "safetensors"])
def to(request: pytest.FixtureRequest) -> str:
  if request.param == "torch":
    pytest.importorskip("torch", reason="writes PyTorch's files")
  return request.param


ENDINGS = {"torch": "a.pth.tar", "safetensors": "a.safetensors"}


def test_names_layouts_and_bits(
  slim: tuple[pathlib.Path, Any], tmp_path: pathlib.Path, to: str
) -> None:
  folder, leaves = slim
  export(folder, tmp_path / ENDINGS[to], to=to)
  arrays = read(tmp_path / ENDINGS[to], to)
  expected = leaves_by_port_name()
  assert set(arrays) == set(expected)
  assert set(expected.values()) == set(leaves)  # the list is of all of ours
  for name, leaf in expected.items():
    assert arrays[name].dtype == np.float32
    want = transposed(leaf, leaves[leaf])
    np.testing.assert_array_equal(arrays[name], want, err_msg=name)
    # As bytes too: 0 equals -0, and some readers flush what is tiny.
    assert arrays[name].tobytes() == want.tobytes(), name
  assert [path.name for path in tmp_path.iterdir()] == [ENDINGS[to]]


def test_safetensors_carry_the_record(
  slim: tuple[pathlib.Path, Any], tmp_path: pathlib.Path
) -> None:
  folder, _ = slim
  export(folder, tmp_path / "a.safetensors", to="safetensors")
  with safetensors.safe_open(tmp_path / "a.safetensors", "numpy") as file:
    about = file.metadata()
  assert about["format"] == "pt"
  stored = json.loads((folder / "model" / "model.json").read_text())
  assert json.loads(about["p3d_jax"]) == stored


def test_an_export_comes_back_as_it_was(
  slim: tuple[pathlib.Path, Any], tmp_path: pathlib.Path, to: str
) -> None:
  """The record travels in the file: nothing needs to be said again."""
  folder, _ = slim
  file = tmp_path / ENDINGS[to]
  export(folder, file, to=to)
  convert(file, tmp_path / "back")
  _, _, then = p3d_jax.load(folder)
  _, _, now = p3d_jax.load(tmp_path / "back")
  for field in ("model", "preprocessing", "labels", "scores", "sha256"):
    assert getattr(now, field) == getattr(then, field), field
  assert now.provenance["source"]["provenance"] == then.provenance
  with pytest.raises(WeightsError, match="has a record .* says it; leave it"):
    convert(file, tmp_path / "b", rule="port")


def test_an_export_whose_numbers_changed_is_refused(
  slim: tuple[pathlib.Path, Any], tmp_path: pathlib.Path
) -> None:
  """.safetensors has no checksum of its own; the record has one."""
  file = tmp_path / "a.safetensors"
  export(slim[0], file, to="safetensors")
  content = bytearray(file.read_bytes())
  content[-5] ^= 1
  file.write_bytes(content)
  with pytest.raises(WeightsError, match="is damaged: its arrays do not have"):
    convert(file, tmp_path / "back")


@pytest.mark.parametrize("tracked", [True, False])
def test_a_file_of_the_port_comes_back(
  tmp_path: pathlib.Path, to: str, tracked: bool
) -> None:
  """In and out again: every array that the file had, to the bit."""
  torch = pytest.importorskip("torch", reason="the port runs on PyTorch")
  from tests.reference import port

  net = port.P3D(FIELDS["stages"], 8, 3, st_struc=FIELDS["schedule"])
  for n, (name, value) in enumerate(net.state_dict().items()):
    if name.endswith("num_batches_tracked"):
      value.fill_(n)  # another one for each
    else:
      value.uniform_(0.5, 1.5)
  port.old_file(
    tmp_path / "a.pth", net.state_dict(), batches_tracked=tracked, extra=True
  )
  convert(
    tmp_path / "a.pth",
    tmp_path / "net",
    rule="port",
    schedule=FIELDS["schedule"],
    preprocessing="port",
  )
  export(tmp_path / "net", tmp_path / ENDINGS[to], to=to)
  found = read(tmp_path / ENDINGS[to], to)
  end = ".num_batches_tracked"
  expected = {
    name: value.numpy()
    for name, value in net.state_dict().items()
    if tracked or not name.endswith(end)
  }
  assert set(found) == set(expected)
  for name, value in expected.items():
    assert found[name].dtype == value.dtype, name
    assert found[name].shape == value.shape, name
    assert found[name].tobytes() == value.tobytes(), name
  if tracked:  # the port's own module takes it, too
    state = {name: torch.from_numpy(value) for name, value in found.items()}
    net.load_state_dict(state, strict=True)


BNS = {bn: f"{unit}/bn" for (_, bn), unit in UNITS.items()}


@pytest.mark.parametrize(
  ("kept", "choice", "expected"),
  [
    (None, "keep", {}),
    (12, "keep", dict.fromkeys(BNS, 12)),
    (0, "keep", dict.fromkeys(BNS, 0)),
    (
      {ours: n for n, ours in enumerate(BNS.values())},
      "keep",
      {bn: n for n, bn in enumerate(BNS)},
    ),
    ({"stem/bn": 5}, "keep", {"bn1": 5}),
    (12, "none", {}),
    (None, 2**40, dict.fromkeys(BNS, 2**40)),
    ({"stem/bn": 5}, 3, dict.fromkeys(BNS, 3)),
  ],
)
def test_num_batches_tracked(
  tmp_path: pathlib.Path, kept: Any, choice: Any, expected: dict[str, int]
) -> None:
  provenance = {"kind": "converted", "batches_tracked": kept}
  saved(tmp_path / "net", provenance=provenance)
  file = tmp_path / "a.safetensors"
  export(tmp_path / "net", file, to="safetensors", batches_tracked=choice)
  arrays = read(file, "safetensors")
  end = ".num_batches_tracked"
  found = {k: v for k, v in arrays.items() if k.endswith(end)}
  assert set(arrays) - set(found) == set(leaves_by_port_name())
  assert {k.removesuffix(end): int(v) for k, v in found.items()} == expected
  assert all(v.dtype == np.int64 and v.shape == () for v in found.values())


def test_a_trunk_and_flow(tmp_path: pathlib.Path) -> None:
  module = zoo.build(None, num_classes=None, width=4, **FIELDS)
  record = p3d_jax.Record(
    zoo.to_fields(module), PREPROCESSINGS["released_flow"], labels=()
  )
  clips = jax.ShapeDtypeStruct((1, 1, 32, 32, 2), np.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), clips)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: jax.numpy.asarray(rng.uniform(1, 2, x.shape), np.float32), shapes
  )
  p3d_jax.save(tmp_path / "net", variables, record)
  export(tmp_path / "net", tmp_path / "a.safetensors", to="safetensors")
  arrays = read(tmp_path / "a.safetensors", "safetensors")
  assert set(arrays) == set(leaves_by_port_name()) - {"fc.weight", "fc.bias"}
  assert arrays["conv1_custom.weight"].shape == (4, 2, 1, 7, 7)


def pixels(**fields: Any) -> Preprocessing:
  return dataclasses.replace(PREPROCESSINGS["port"], **fields)


def record_of(
  preprocessing: Preprocessing | None = None, **fields: Any
) -> p3d_jax.Record:
  """The record of a full network; no numbers are made."""
  module = zoo.build("p3d63", num_classes=2, flavour="port", **fields)
  expected = preprocessing or pixels()
  return p3d_jax.Record(zoo.to_fields(module), expected, ("a", "b"))


def test_what_the_port_computes_needs_no_warning() -> None:
  for preprocessing in (pixels(), pixels(frames=31, crop=129)):
    record = record_of(preprocessing, schedule=("ABC", "ABCA", "BCABCA"))
    lines = exports.port_notes(record, {})
    assert lines == [
      "0 arrays by the PyTorch port's names, and 0 num_batches_tracked"
    ]


@pytest.mark.parametrize(
  ("record", "words"),
  [
    (record_of(rule="released"), "rule 'port' (not 'released')"),
    (record_of(stem_pool="ceil"), "stem_pool 'padded' (not 'ceil')"),
    (record_of(reduce_stride=False), "reduce_stride True (not False)"),
    (record_of(norm_epsilon=1e-3), "norm_epsilon 1e-05 (not 0.001)"),
    (record_of(schedule="A"), "schedule 'ABC' (not 'A')"),
    (
      record_of(width=32),
      "p3d63, p3d131, p3d199 only (not stages (3, 4, 6, 3) of width 32)",
    ),
    (record_of(pixels(channels="BGR")), "channels 'RGB' (not 'BGR')"),
    (record_of(pixels(scale=1.0)), f"scale {1 / 255} (not 1.0)"),
    (record_of(pixels(frames=15)), "frames 16 to 31 (not 15)"),
    (record_of(pixels(frames=32)), "frames 16 to 31 (not 32)"),
    (record_of(pixels(crop=(128, 160))), "height 129 to 160 (not 128)"),
    (record_of(pixels(crop=(160, 161))), "width 129 to 160 (not 161)"),
  ],
)
def test_what_the_port_does_not_compute_is_said(
  record: p3d_jax.Record, words: str
) -> None:
  _, note = exports.port_notes(record, {})  # nothing else differs
  assert note.startswith("note: the port's own code ")
  assert note.endswith(f" them: {words}")


def test_the_lines_to_print(
  slim: tuple[pathlib.Path, Any], tmp_path: pathlib.Path
) -> None:
  text = export(slim[0], tmp_path / "a.safetensors", to="safetensors")
  first, second, third, fourth = text.splitlines()
  size = (tmp_path / "a.safetensors").stat().st_size / 1e6
  assert first == f"wrote {tmp_path / 'a.safetensors'} ({size:.1f} MB)"
  assert second == (
    "122 arrays by the PyTorch port's names, and 0 num_batches_tracked"
  )
  assert third == (
    "note: the port's own code computes another network with them: rule 'port' "
    "(not 'released'), stem_pool 'padded' (not 'ceil'), schedule 'ABC' (not "
    "'BCA'), p3d63, p3d131, p3d199 only (not stages (2, 1, 1, 1) of width 4)"
  )
  assert fourth.endswith(
    "frames 16 to 31 (not 4), height 129 to 160 (not 32), width 129 to 160 "
    "(not 32)"
  )


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
  "to": ({"to": "onnx"}, "to is 'onnx': it must be one of torch, safetensors"),
  "there": (
    {"out": "a.safetensors"},
    "out is .*a.safetensors, which exists: name a new",
  ),
  "folder": ({"out": "no/b.safetensors"}, "out is .*: there is no folder .*no"),
  "batches": ({"batches_tracked": -1}, "batches_tracked is -1: it must be"),
  "word": ({"batches_tracked": "all"}, "batches_tracked is 'all': it must be"),
  "bool": ({"batches_tracked": True}, "batches_tracked is True: it must be"),
  "float": ({"batches_tracked": 1.0}, "batches_tracked is 1.0: it must be"),
  "step": ({"step": 3}, "step is 3, but .* is one checkpoint"),
  "ending": ({"out": "b.pth"}, r"of safetensors must be called \*.safetensors"),
  "path": ({"path": "nowhere"}, "nowhere is no checkpoint and no workdir"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(
  slim: tuple[pathlib.Path, Any], tmp_path: pathlib.Path, mistake: str
) -> None:
  words, message = MISTAKES[mistake]
  words = {"path": slim[0], "out": "b.safetensors", "to": "safetensors"} | words
  (tmp_path / "a.safetensors").write_text("mine")
  path, out = tmp_path / words.pop("path"), tmp_path / words.pop("out")
  with pytest.raises(ValueError, match=message) as caught:
    export(path, out, **words)
  assert "\n" not in str(caught.value)
  assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
  assert (tmp_path / "a.safetensors").read_text() == "mine"


@pytest.mark.parametrize(
  ("schedule", "blocks"), [("S", "S"), ("ABF", "F"), (("A", "S", "F"), "F, S")]
)
def test_blocks_the_port_does_not_have(
  tmp_path: pathlib.Path, schedule: Any, blocks: str
) -> None:
  saved(tmp_path / "net", schedule=schedule)
  with pytest.raises(WeightsError, match=f"not for {blocks}$") as caught:
    export(tmp_path / "net", tmp_path / "a.safetensors", to="safetensors")
  assert "\n" not in str(caught.value)
  assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_without_pytorch(
  slim: tuple[pathlib.Path, Any],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setitem(sys.modules, "torch", None)  # importing it now fails
  with pytest.raises(WeightsError, match=r"pip install 'p3d_jax\[torch\]'"):
    export(slim[0], tmp_path / "a.pth", to="torch")
  assert not list(tmp_path.iterdir())
  export(slim[0], tmp_path / "a.safetensors", to="safetensors")


def test_a_write_that_fails_leaves_nothing(
  slim: tuple[pathlib.Path, Any],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  def full(*args: Any) -> bytes:
    raise OSError("No space left on device")

  monkeypatch.setattr(safetensors.numpy, "save", full)
  with pytest.raises(OSError, match="No space"):
    export(slim[0], tmp_path / "a.safetensors", to="safetensors")
  assert not list(tmp_path.iterdir())


def test_files_appear_together_or_not_at_all(tmp_path: pathlib.Path) -> None:
  one, two = tmp_path / "one", tmp_path / "two"

  def refused(file: Any) -> None:
    file.write(b"half")
    raise OSError("No space left on device")

  with pytest.raises(OSError, match="No space"):
    exports._write({one: lambda file: file.write(b"1"), two: refused})
  assert not list(tmp_path.iterdir())
  two.mkdir()  # what makes the second rename fail
  with pytest.raises(OSError):
    exports._write({one: lambda f: f.write(b"1"), two: lambda f: f.write(b"2")})
  assert [path.name for path in tmp_path.iterdir()] == ["two"]
