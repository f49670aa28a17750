"""Reads .caffemodel files: layer names and blobs.

A .caffemodel is a protobuf message, NetParameter of caffe.proto. Below are the
few of its fields that hold names and numbers; the parser skips the others.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from p3d_jax.weights.merge import WeightsError

# message -> field -> (number, type, repeated), as in caffe.proto. `data` and
# its kin are packed floats; as bytes they are the same on the wire, and need
# not become 66 million Python numbers.
SCHEMA: dict[str, dict[str, tuple[int, str, bool]]] = {
  "BlobShape": {"dim": (1, "int64", True)},
  "BlobProto": {
    "num": (1, "int32", False),
    "channels": (2, "int32", False),
    "height": (3, "int32", False),
    "width": (4, "int32", False),
    "data": (5, "bytes", True),
    "shape": (7, "BlobShape", False),
    "double_data": (8, "bytes", True),
  },
  "LayerParameter": {
    "name": (1, "string", False),
    "blobs": (7, "BlobProto", True),
  },
  "V1LayerParameter": {
    "name": (4, "string", False),
    "blobs": (6, "BlobProto", True),
  },
  "NetParameter": {
    "layers": (2, "V1LayerParameter", True),
    "layer": (100, "LayerParameter", True),
  },
}


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Reads the blobs of a .caffemodel.

  Returns:
    "conv1/0" (layer name and index of the blob) -> array as stored.

  Raises:
    WeightsError: if the file is damaged or holds no blobs.
  """
  net = _message("NetParameter")()
  try:
    with open(path, "rb") as file:
      net.ParseFromString(file.read())
  except DecodeError as error:
    raise WeightsError(
      f"{path} is damaged, or no .caffemodel: it cannot be parsed"
    ) from error
  arrays = {}
  for layer in (*net.layers, *net.layer):
    for i, blob in enumerate(layer.blobs):
      name = f"{layer.name}/{i}"
      if name in arrays:
        raise WeightsError(f"{path} has two layers named {layer.name!r}")
      arrays[name] = _array(blob, f"{path}: {name}")
  if not arrays:
    raise WeightsError(f"{path} is no .caffemodel: it holds no blobs")
  return arrays


def _array(blob: Any, name: str) -> np.ndarray:
  """Returns a blob's numbers in its shape."""
  if blob.HasField("shape"):
    shape = tuple(blob.shape.dim)
  else:
    shape = (blob.num, blob.channels, blob.height, blob.width)
  kind, chunks = "<f4", blob.data
  if blob.double_data:
    kind, chunks = "<f8", blob.double_data
  numbers = b"".join(chunks)
  count = int(np.prod(shape, dtype=np.int64))
  if len(numbers) != count * np.dtype(kind).itemsize:
    raise WeightsError(
      f"{name} is damaged: its shape {shape} needs {count} numbers, it holds "
      f"{len(numbers)} bytes of {np.dtype(kind).name}"
    )
  return np.frombuffer(numbers, kind).reshape(shape)


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
