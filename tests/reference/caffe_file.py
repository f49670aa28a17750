"""Writes .caffemodel files by hand: Caffe's NetParameter, bytes as on the wire.

No protobuf library and no code of `p3d_jax`. Field numbers are those of Caffe's
caffe.proto. Besides the blobs a file holds what real ones do: bottoms and tops,
settings, layers without blobs; and what a reader has to skip: multipliers, and
a message of the authors' fork.
"""

from __future__ import annotations

import dataclasses
import pathlib
import string
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layer:
  """A layer; `lr` has the learning-rate multiplier of each blob.

  `settings` are fields of the layer's message in FIELDS, by their names in
  caffe.proto.
  """

  name: str
  type: str
  blobs: Sequence[np.ndarray] = ()
  bottoms: Sequence[str] = ()
  tops: Sequence[str] = ()
  lr: Sequence[float] = ()
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# Layer -> its message's number in LayerParameter and in V1LayerParameter, and
# its fields: number, and how it is written. proto2 repeats the tag before each
# number ("each"); "packed" is what a reader must take as well.
FIELDS: dict[str, tuple[int, int | None, dict[str, tuple[int, str]]]] = {
  "Convolution": (106, 10, {
    "num_output": (1, "int"), "bias_term": (2, "int"), "pad": (3, "each"),
    "kernel_size": (4, "each"), "group": (5, "int"), "stride": (6, "each"),
    "pad_h": (9, "int"), "pad_w": (10, "int"), "kernel_h": (11, "int"),
    "kernel_w": (12, "int"), "stride_h": (13, "int"), "stride_w": (14, "int"),
    "dilation": (18, "each"),
  }),
  "Pooling": (121, 19, {
    "pool": (1, "int"), "kernel_size": (2, "int"), "stride": (3, "int"),
    "pad": (4, "int"), "pad_h": (9, "int"), "pad_w": (10, "int"),
    "global_pooling": (12, "int"), "round_mode": (13, "int"),
  }),
  "Eltwise": (110, 24, {
    "operation": (1, "int"), "coeff": (2, "each float"),
    "packed": (2, "packed float"),
  }),
  "BatchNorm": (139, None, {
    "use_global_stats": (1, "int"), "eps": (3, "float"),
  }),
  "Scale": (142, None, {"bias_term": (4, "int")}),
  "ReLU": (123, 30, {"negative_slope": (1, "float")}),
}  # fmt: skip
# The fork's layers; their message's number is unknown, this one is made up.
FORK, FORK_FIELD = ("BN", "Pooling3D"), 1000
MAX, AVE = 0, 1  # of `pool`
PROD, SUM = 0, 1  # of `operation`


# V1LayerParameter.LayerType; what is younger than it is NONE.
V1_TYPES = {
  "Convolution": 4, "Data": 5, "Dropout": 6, "InnerProduct": 14, "Pooling": 17,
  "ReLU": 18, "Softmax": 20, "SoftmaxWithLoss": 21, "Split": 22, "Eltwise": 25,
}  # fmt: skip
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# The layer of `resnet` whose factor is 0.
FACTOR_0 = "bn2b_branch2a"


def write(
  path: str | pathlib.Path,
  layers: Iterable[Layer],
  *,
  v1: bool = False,
  legacy_shape: bool = False,
  diffs: bool = False,
  double: bool = False,
  stripped: bool = False,
) -> None:
  """Writes a file.

  Args:
    path: of the file.
    layers: in order.
    v1: as `layers`, V1LayerParameter, in place of `layer`.
    legacy_shape: blobs have num, channels, height and width, ones in front, in
      place of a BlobShape; they have at most four axes.
    diffs: blobs have a diff besides, sevens.
    double: blobs are float64.
    stripped: layers have a name, a type and blobs, and say nothing else.
  """
  if stripped:
    layers = [
      Layer(layer.name, layer.type, layer.blobs)
      for layer in layers
      if layer.blobs
    ]
  encode = _layer_v1 if v1 else _layer
  with pathlib.Path(path).open("wb") as file:
    file.write(_text(1, "net"))
    for layer in layers:
      blobs = [_blob(b, legacy_shape, diffs, double) for b in layer.blobs]
      file.write(_bytes(2 if v1 else 100, encode(layer, blobs)))


def write_blob(
  path: str | pathlib.Path,
  dims: Iterable[int],
  chunks: Iterable[bytes],
  *,
  one_by_one: Iterable[float] = (),
) -> None:
  """Writes a file of one layer, conv1, with one blob, however impossible.

  Args:
    path: of the file.
    dims: sizes that it states.
    chunks: of packed numbers, each a field of its own.
    one_by_one: numbers that are not packed, as proto2 writes by default.
  """
  sizes = b"".join(_varint(size % 2**64) for size in dims)
  parts = [_bytes(5, chunk) for chunk in chunks]
  parts += [_float(5, number) for number in one_by_one]
  blob = b"".join([*parts, _bytes(7, _bytes(1, sizes))])
  layer = _text(1, "conv1") + _text(2, "Convolution") + _bytes(7, blob)
  pathlib.Path(path).write_bytes(_text(1, "net") + _bytes(100, layer))


def _layer(layer: Layer, blobs: list[bytes]) -> bytes:
  parts = [_text(1, layer.name), _text(2, layer.type)]
  parts += [_text(3, name) for name in layer.bottoms]
  parts += [_text(4, name) for name in layer.tops]
  if layer.type == "SoftmaxWithLoss":
    parts.append(_float(5, 1.0))
  parts += [_bytes(6, _float(3, lr) + _float(4, 0.0)) for lr in layer.lr]
  parts += [_bytes(7, blob) for blob in blobs]
  parts.append(_int(10, 0))
  if layer.settings:
    parts.append(_bytes(FIELDS[layer.type][0], _settings(layer)))
  if layer.type in FORK and layer.bottoms:
    parts.append(_bytes(FORK_FIELD, _int(5, 1)))
  return b"".join(parts)


def _layer_v1(layer: Layer, blobs: list[bytes]) -> bytes:
  parts = [_text(2, name) for name in layer.bottoms]
  parts += [_text(3, name) for name in layer.tops]
  parts += [_text(4, layer.name), _int(5, V1_TYPES.get(layer.type, 0))]
  parts += [_bytes(6, blob) for blob in blobs]
  parts += [_float(7, lr) for lr in layer.lr]
  if layer.settings:
    number = FIELDS[layer.type][1]
    assert number, f"V1 has no {layer.type}"
    parts.append(_bytes(number, _settings(layer)))
  return b"".join(parts)


def _settings(layer: Layer) -> bytes:
  """The message that FIELDS has for a layer."""
  parts = []
  for name, value in layer.settings.items():
    number, how = FIELDS[layer.type][2][name]
    match how:
      case "int":
        parts.append(_int(number, value))
      case "each":
        parts += [_int(number, size) for size in value]
      case "float":
        parts.append(_float(number, value))
      case "each float":
        parts += [_float(number, size) for size in value]
      case "packed float":
        parts.append(_bytes(number, struct.pack(f"<{len(value)}f", *value)))
  return b"".join(parts)


def with_lies(
  layers: Iterable[Layer], lies: Mapping[str, Mapping[str, Any]]
) -> list[Layer]:
  """Returns layers that state another network than their numbers are of.

  Args:
    layers: without Splits.
    lies: layer -> what it states instead: `bottoms`, `type`, `blobs`, or
      settings, where None leaves one out.
  """
  layers = list(layers)
  assert set(lies) <= {layer.name for layer in layers}, lies
  out = []
  for layer in layers:
    lie = dict(lies.get(layer.name, {}))
    own = {k: lie.pop(k) for k in ("bottoms", "type", "blobs") if k in lie}
    settings = {**layer.settings, **lie}
    settings = {k: v for k, v in settings.items() if v is not None}
    out.append(dataclasses.replace(layer, settings=settings, **own))
  return out


def _blob(
  value: np.ndarray, legacy_shape: bool, diffs: bool, double: bool
) -> bytes:
  parts = []
  if legacy_shape:
    assert value.ndim <= 4, value.shape
    shape = (1,) * (4 - value.ndim) + value.shape
    parts = [_int(i, size) for i, size in enumerate(shape, start=1)]
  dtype, data, diff = ("<f8", 8, 9) if double else ("<f4", 5, 6)
  parts.append(_bytes(data, value.astype(dtype).tobytes()))
  if diffs:
    parts.append(_bytes(diff, np.full(value.shape, 7, dtype).tobytes()))
  if not legacy_shape:
    dims = b"".join(_varint(size) for size in value.shape)
    parts.append(_bytes(7, _bytes(1, dims)))
  return b"".join(parts)


def _varint(number: int) -> bytes:
  """Seven bits a byte, the lowest first; the top bit says that more come."""
  out = bytearray()
  while number > 127:
    out.append(number & 127 | 128)
    number >>= 7
  return bytes([*out, number])


def _int(field: int, number: int) -> bytes:
  return _varint(field << 3) + _varint(number)


def _bytes(field: int, data: bytes) -> bytes:
  return _varint(field << 3 | 2) + _varint(len(data)) + data


def _text(field: int, text: str) -> bytes:
  return _bytes(field, text.encode())


def _float(field: int, number: float) -> bytes:
  return _varint(field << 3 | 5) + struct.pack("<f", number)


def p3d199(
  weights: Mapping[str, dict[str, np.ndarray]],
  *,
  fc: str = "fc_sports1m",
  lies: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Layer]:
  """Returns the authors' P3D-199, every row of their table and a loss.

  Args:
    weights: of tests/reference/table.py, by the table's names.
    fc: the name of the last layer in the file.
    lies: of `with_lies`.
  """
  from tests.reference import table  # needs PyTorch; the rest does not

  layers = [Layer("data", "Data", tops=("data", "label"))]
  for row in table.ROWS[1:]:
    w = weights.get(row["name"], {})
    blobs = list(w.values())
    if row["type"] == "BN":
      blobs = [w[k][None] for k in ("scale", "bias", "mean", "var")]
    elif row["type"] == "InnerProduct":
      blobs = [w["kernel"], w["bias"]]
    names = (row["name"], row["type"], row["inputs"], row["output"])
    name, kind, inputs, output = (
      fc if n == "fc_sports1m" else n for n in names
    )
    lr = [float(n) for n in row["lr_mult"].split()]
    settings = _row_settings(row)
    layers.append(
      Layer(name, kind, blobs, inputs.split(), [output], lr, settings)
    )
  loss = Layer("loss", "SoftmaxWithLoss", (), (fc, "label"), ("loss",))
  return _with_splits(with_lies([*layers, loss], lies or {}))


def _row_settings(row: Mapping[str, str]) -> dict[str, Any]:
  """What the prototxts state of a row.

  That is one size for both axes in 2D, and no coeff of sums along the shortcut.
  """

  def numbers(column: str) -> list[int]:
    found = [int(n) for n in row[column].split()]
    return found[:1] if len(found) == 2 else found

  match row["type"]:
    case "Convolution":
      return {
        "num_output": int(row["channels"]), "bias_term": 0,
        "pad": numbers("pad"), "kernel_size": numbers("kernel"),
        "stride": numbers("stride"),
      }  # fmt: skip
    case "Eltwise":
      assert row["op"] == "sum"
      coefficients = [float(n) for n in row["coeff"].split()]
      inner = row["name"].endswith("_st")
      return {"operation": SUM} | ({"coeff": coefficients} if inner else {})
    case "Pooling":
      assert row["op"] == "ave global"
      return {"pool": AVE, "global_pooling": 1}
  return {}


def resnet(
  state: Mapping[str, np.ndarray],
  depth: int,
  *,
  seed: int = 0,
  reduce_stride: bool = True,
  lies: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Layer]:
  """Returns the Caffe ResNet of He et al. with these weights.

  Mean and variance are stored times a factor that is drawn for each layer, in
  float32, so they come back to about 1e-7. The factor of FACTOR_0 is 0: its
  mean and variance are stored as they are.

  Args:
    state: by torchvision's names; "conv1.bias" is stored if it is there.
    depth: 50, 101 or 152, which decides how blocks are named.
    seed: of the factors.
    reduce_stride: whether the first 1x1 of a stage states the stride, as in the
      published files, or the 3x3.
    lies: of `with_lies`.
  """
  rng = np.random.default_rng(seed)
  layers = [Layer("data", "Data", tops=("data", "label"))]

  def unit(
    conv: str, norm: str, name: str, bottom: str, relu: bool, stride: int
  ) -> str:
    """A convolution, its two BN layers and maybe a relu; returns its blob."""
    short = name.removeprefix("res") if name.startswith("res") else f"_{name}"
    blobs = [state[f"{conv}.{k}"] for k in ("weight", "bias")
             if f"{conv}.{k}" in state]  # fmt: skip
    size = blobs[0].shape[-1]
    settings = {"num_output": len(blobs[0]), "kernel_size": [size],
                "pad": [size // 2], "stride": [stride],
                "bias_term": len(blobs) - 1}  # fmt: skip
    layers.append(
      Layer(name, "Convolution", blobs, [bottom], [name], [1, 2], settings)
    )
    factor = 0.0 if f"bn{short}" == FACTOR_0 else rng.uniform(0.3, 999.98)
    moving = [state[f"{norm}.running_{k}"] * (factor or 1.0)
              for k in ("mean", "var")]  # fmt: skip
    moving.append(np.array([factor]))
    scale = [state[f"{norm}.{k}"] for k in ("weight", "bias")]
    for layer, kind, values, settings in (
      (f"bn{short}", "BatchNorm", moving, {"use_global_stats": 1}),
      (f"scale{short}", "Scale", scale, {"bias_term": 1}),
      *([(f"{name}_relu", "ReLU", (), {})] if relu else []),
    ):
      layers.append(
        Layer(layer, kind, values, [name], [name], settings=settings)
      )
    return name

  blob = unit("conv1", "bn1", "conv1", "data", relu=True, stride=2)
  settings = {"pool": MAX, "kernel_size": 3, "stride": 2}
  layers.append(
    Layer("pool1", "Pooling", (), [blob], ["pool1"], settings=settings)
  )
  blob = "pool1"
  for theirs, name in _blocks(depth):
    short, first = blob, f"{theirs}.downsample.0.weight" in state
    stride = 2 if first and not name.startswith("res2") else 1
    if first:
      conv, norm = f"{theirs}.downsample.0", f"{theirs}.downsample.1"
      short = unit(conv, norm, f"{name}_branch1", blob, False, stride)
    for i, letter in enumerate("abc", start=1):
      conv, norm = f"{theirs}.conv{i}", f"{theirs}.bn{i}"
      by = stride if i == (1 if reduce_stride else 2) else 1
      blob = unit(conv, norm, f"{name}_branch2{letter}", blob, i < 3, by)
    layers.append(Layer(name, "Eltwise", (), [short, blob], [name]))
    layers.append(Layer(f"{name}_relu", "ReLU", (), [name], [name]))
    blob = name
  fc = [state["fc.weight"], state["fc.bias"]]
  settings = {"pool": AVE, "kernel_size": 7, "stride": 1}
  layers += [
    Layer("pool5", "Pooling", (), [blob], ["pool5"], settings=settings),
    Layer("fc1000", "InnerProduct", fc, ["pool5"], ["fc1000"], [1, 2]),
    Layer("loss", "SoftmaxWithLoss", (), ["fc1000", "label"], ["loss"]),
  ]
  return _with_splits(with_lies(layers, lies or {}))


def _blocks(depth: int) -> list[tuple[str, str]]:
  """torchvision's name and Caffe's: layer2.1, and res3b (50) or res3b1."""
  names = []
  for stage, blocks in enumerate(DEPTHS[depth], start=1):
    for i in range(blocks):
      letters = depth == 50 or stage in (1, 4) or i == 0
      name = string.ascii_lowercase[i] if letters else f"b{i}"
      names.append((f"layer{stage}.{i}", f"res{stage + 1}{name}"))
  return names


def _with_splits(layers: Sequence[Layer]) -> list[Layer]:
  """Adds a Split after each blob that several layers read, as Caffe does."""
  maker: dict[str, int] = {}
  readers: dict[tuple[int, str], list[int]] = {}
  for i, layer in enumerate(layers):
    for blob in layer.bottoms:
      readers.setdefault((maker[blob], blob), []).append(i)
    maker.update(dict.fromkeys(layer.tops, i))
  renamed: dict[tuple[int, str], str] = {}
  out = []
  for i, layer in enumerate(layers):
    bottoms = [renamed.get((i, blob), blob) for blob in layer.bottoms]
    out.append(dataclasses.replace(layer, bottoms=bottoms))
    for blob in layer.tops:
      users = readers.get((i, blob), [])
      if len(users) > 1:
        name = f"{blob}_{layer.name}_0_split"
        tops = [f"{name}_{k}" for k in range(len(users))]
        renamed.update(zip([(u, blob) for u in users], tops, strict=True))
        out.append(Layer(name, "Split", (), (blob,), tops))
  return out
