"""Reads .caffemodel files: blobs, and what each layer says of itself.

A .caffemodel is a protobuf message, NetParameter of caffe.proto. Below are the
few of its fields that hold names, numbers, wiring and the settings that change
what a network computes; the parser skips the others.
"""

from __future__ import annotations

import functools
import math
import os
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from p3d_jax.weights.content import Content
from p3d_jax.weights.merge import WeightsError

# What both kinds of layer hold, as message -> number in LayerParameter and in
# V1LayerParameter; V1 is older than batch norm.
_SETTINGS: dict[str, tuple[str, int, int]] = {
  "convolution_param": ("ConvolutionParameter", 106, 10),
  "pooling_param": ("PoolingParameter", 121, 19),
  "eltwise_param": ("EltwiseParameter", 110, 24),
  "relu_param": ("ReLUParameter", 123, 30),
}

# message -> field -> (number, type, repeated), as in caffe.proto. `data` and
# its kin are packed floats; as bytes they are the same on the wire, and need
# not become 66 million Python numbers. Enums are their numbers; sizes are
# 64 bits wide, which on the wire includes 32.
SCHEMA: dict[str, dict[str, tuple[int, str, bool]]] = {
  "BlobShape": {"dim": (1, "int64", True)},
  "BlobProto": {
    "num": (1, "int64", False),
    "channels": (2, "int64", False),
    "height": (3, "int64", False),
    "width": (4, "int64", False),
    "data": (5, "bytes", True),
    "shape": (7, "BlobShape", False),
    "double_data": (8, "bytes", True),
  },
  "ConvolutionParameter": {
    "pad": (3, "uint64", True),
    "kernel_size": (4, "uint64", True),
    "group": (5, "uint64", False),
    "stride": (6, "uint64", True),
    "pad_h": (9, "uint64", False),
    "pad_w": (10, "uint64", False),
    "kernel_h": (11, "uint64", False),
    "kernel_w": (12, "uint64", False),
    "stride_h": (13, "uint64", False),
    "stride_w": (14, "uint64", False),
    "dilation": (18, "uint64", True),
  },
  "PoolingParameter": {
    "pool": (1, "int64", False),
    "kernel_size": (2, "uint64", True),
    "stride": (3, "uint64", True),
    "pad": (4, "uint64", True),
    "kernel_h": (5, "uint64", False),
    "kernel_w": (6, "uint64", False),
    "stride_h": (7, "uint64", False),
    "stride_w": (8, "uint64", False),
    "pad_h": (9, "uint64", False),
    "pad_w": (10, "uint64", False),
    "global_pooling": (12, "bool", False),
    "round_mode": (13, "int64", False),
  },
  "EltwiseParameter": {
    "operation": (1, "int64", False),
    "coeff": (2, "float", True),
  },
  "BatchNormParameter": {"eps": (3, "float", False)},
  "ReLUParameter": {"negative_slope": (1, "float", False)},
  "LayerParameter": {
    "name": (1, "string", False),
    "type": (2, "string", False),
    "bottom": (3, "string", True),
    "top": (4, "string", True),
    "blobs": (7, "BlobProto", True),
    "batch_norm_param": (139, "BatchNormParameter", False),
    **{field: (n, kind, False) for field, (kind, n, _) in _SETTINGS.items()},
  },
  "V1LayerParameter": {
    "bottom": (2, "string", True),
    "top": (3, "string", True),
    "name": (4, "string", False),
    "type": (5, "int64", False),
    "blobs": (6, "BlobProto", True),
    **{field: (n, kind, False) for field, (kind, _, n) in _SETTINGS.items()},
  },
  "NetParameter": {
    "layers": (2, "V1LayerParameter", True),
    "layer": (100, "LayerParameter", True),
  },
}

# V1LayerParameter.LayerType, of layers that networks here may have.
_V1_TYPES = {
  4: "Convolution", 6: "Dropout", 8: "Flatten", 14: "InnerProduct",
  17: "Pooling", 18: "ReLU", 22: "Split", 25: "Eltwise",
}  # fmt: skip

_MAX_AXES = 32  # of a blob: kMaxBlobAxes of Caffe's blob.hpp


class Convolution(NamedTuple):
  """Settings of a convolution, each as stated: for all axes, one for each.

  Attributes:
    kernel: length, in steps or pixels.
    stride: likewise; () is 1.
    pad: likewise; () is 0.
    dilation: likewise; () is 1.
    group: number of groups of channels.
  """

  kernel: tuple[int, ...] = ()
  stride: tuple[int, ...] = ()
  pad: tuple[int, ...] = ()
  dilation: tuple[int, ...] = ()
  group: int = 1


class Pooling(NamedTuple):
  """Settings of a 2D pool, each as stated: for both axes, or one for each.

  Attributes:
    operation: 0 is max, 1 average, 2 stochastic.
    kernel: length, in pixels.
    stride: likewise; () is 1.
    pad: likewise; () is 0.
    is_global: whether the window is the whole image.
    rounding: 0 is ceil, 1 floor.
  """

  operation: int = 0
  kernel: tuple[int, ...] = ()
  stride: tuple[int, ...] = ()
  pad: tuple[int, ...] = ()
  is_global: bool = False
  rounding: int = 0


class Eltwise(NamedTuple):
  """Settings of an elementwise layer.

  Attributes:
    operation: 0 is the product, 1 the sum, 2 the maximum.
    coefficients: of the sum; () is 1 for each.
  """

  operation: int = 1
  coefficients: tuple[float, ...] = ()


class Layer(NamedTuple):
  """A layer, without its numbers.

  Attributes:
    name: of the layer.
    type: "Convolution" and so on; "" where the file has none.
    bottoms: names of what it reads.
    tops: names of what it writes.
    shapes: of its blobs.
    convolution: settings, None if there are none.
    pooling: likewise.
    eltwise: likewise.
    epsilon: of Caffe's BatchNorm, None if there is none.
    negative_slope: of a ReLU.
  """

  name: str
  type: str = ""
  bottoms: tuple[str, ...] = ()
  tops: tuple[str, ...] = ()
  shapes: tuple[tuple[int, ...], ...] = ()
  convolution: Convolution | None = None
  pooling: Pooling | None = None
  eltwise: Eltwise | None = None
  epsilon: float | None = None
  negative_slope: float = 0.0


def read_net(path: str | os.PathLike[str]) -> Content:
  """Reads the blobs and the layers of a .caffemodel.

  Returns:
    Arrays as stored, by layer name and index of the blob ("conv1/0"), and every
    `Layer` in the order of the file, those without blobs too.

  Raises:
    WeightsError: if the file is damaged or holds no blobs.
  """
  net = _message("NetParameter")()
  try:
    with open(path, "rb") as file:
      net.ParseFromString(file.read())
    found = [
      (_layer(layer), layer.blobs) for layer in (*net.layers, *net.layer)
    ]
  # A name that is no UTF-8 is the one or the other, by protobuf's two parsers.
  except (DecodeError, UnicodeDecodeError) as error:
    raise WeightsError(
      f"{path} is damaged, or no .caffemodel: it cannot be parsed"
    ) from error
  arrays: dict[str, np.ndarray] = {}
  layers = []
  for layer, blobs in found:
    made = [
      _array(blob, f"{path}: {layer.name}/{i}") for i, blob in enumerate(blobs)
    ]
    if made and f"{layer.name}/0" in arrays:
      raise WeightsError(f"{path} has two layers named {layer.name!r}")
    arrays |= {f"{layer.name}/{i}": array for i, array in enumerate(made)}
    layers.append(layer._replace(shapes=tuple(array.shape for array in made)))
  if not arrays:
    raise WeightsError(f"{path} is no .caffemodel: it holds no blobs")
  return Content(arrays, layers=tuple(layers))


def _array(blob: Any, name: str) -> np.ndarray:
  """Returns a blob's numbers in its shape."""
  if blob.HasField("shape"):
    shape = tuple(blob.shape.dim)
  else:
    shape = (blob.num, blob.channels, blob.height, blob.width)
  if len(shape) > _MAX_AXES:
    raise WeightsError(
      f"{name} is damaged: its shape has {len(shape)} axes, Caffe's have at "
      f"most {_MAX_AXES}"
    )
  if any(size < 1 for size in shape):
    raise WeightsError(
      f"{name} is damaged: its shape is {shape}, and sizes must be >= 1"
    )
  kind, chunks = "<f4", blob.data
  if blob.double_data:
    kind, chunks = "<f8", blob.double_data
  numbers = b"".join(chunks)
  count = math.prod(shape)
  if len(numbers) != count * np.dtype(kind).itemsize:
    raise WeightsError(
      f"{name} is damaged: its shape {shape} needs {count} numbers, it holds "
      f"{len(numbers)} bytes of packed {np.dtype(kind).name}"
    )
  return np.frombuffer(numbers, kind).reshape(shape)


def _layer(layer: Any) -> Layer:
  """Returns what a layer says of itself."""
  kind = layer.type
  if not isinstance(kind, str):
    kind = _V1_TYPES.get(kind, "")
  new = "batch_norm_param" in layer.DESCRIPTOR.fields_by_name
  return Layer(
    name=layer.name,
    type=kind,
    bottoms=tuple(layer.bottom),
    tops=tuple(layer.top),
    convolution=_convolution(layer),
    pooling=_pooling(layer),
    eltwise=_eltwise(layer),
    epsilon=_epsilon(layer) if new else None,
    negative_slope=layer.relu_param.negative_slope,
  )


def _convolution(layer: Any) -> Convolution | None:
  if not layer.HasField("convolution_param"):
    return None
  stated = layer.convolution_param
  return Convolution(
    kernel=_sizes(stated, "kernel_size", "kernel"),
    stride=_sizes(stated, "stride", "stride"),
    pad=_sizes(stated, "pad", "pad"),
    dilation=tuple(stated.dilation),
    group=stated.group if stated.HasField("group") else 1,
  )


def _pooling(layer: Any) -> Pooling | None:
  if not layer.HasField("pooling_param"):
    return None
  stated = layer.pooling_param
  return Pooling(
    operation=stated.pool,
    kernel=_sizes(stated, "kernel_size", "kernel"),
    stride=_sizes(stated, "stride", "stride"),
    pad=_sizes(stated, "pad", "pad"),
    is_global=stated.global_pooling,
    rounding=stated.round_mode,
  )


def _sizes(stated: Any, field: str, short: str) -> tuple[int, ...]:
  """Returns a size for all axes, or, from *_h and *_w, height and width."""
  high, wide = f"{short}_h", f"{short}_w"
  if stated.HasField(high) or stated.HasField(wide):
    return getattr(stated, high), getattr(stated, wide)
  return tuple(getattr(stated, field))


def _eltwise(layer: Any) -> Eltwise | None:
  if not layer.HasField("eltwise_param"):
    return None
  stated = layer.eltwise_param
  operation = stated.operation if stated.HasField("operation") else 1
  return Eltwise(operation, tuple(map(_shortest, stated.coeff)))


def _epsilon(layer: Any) -> float | None:
  stated = layer.batch_norm_param
  return _shortest(stated.eps) if stated.HasField("eps") else None


def _shortest(number: float) -> float:
  """Returns the decimal that was written: 1e-5 of the float32 nearest to it."""
  return float(str(np.float32(number)))


@functools.cache
def _message(name: str) -> Any:
  """Returns the class of a message of SCHEMA."""
  file = descriptor_pb2.FileDescriptorProto(
    name="p3d_jax_caffe.proto", package="p3d_jax.caffe", syntax="proto2"
  )
  for message, fields in SCHEMA.items():
    made = file.message_type.add(name=message)
    for field, (number, kind, repeated) in fields.items():
      _add_field(made, field, number, kind, repeated)
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  found = pool.FindMessageTypeByName(f"{file.package}.{name}")
  return message_factory.GetMessageClass(found)


def _add_field(
  message: Any, name: str, number: int, kind: str, repeated: bool
) -> None:
  made = message.field.add(name=name, number=number)
  made.label = made.LABEL_REPEATED if repeated else made.LABEL_OPTIONAL
  if kind in SCHEMA:
    made.type, made.type_name = made.TYPE_MESSAGE, f".p3d_jax.caffe.{kind}"
  else:
    made.type = getattr(made, f"TYPE_{kind.upper()}")
