"""Opens a file of weights and says what it is, from its bytes and its names."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import tarfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from p3d_jax.checkpoint.model import Record
from p3d_jax.models import zoo
from p3d_jax.weights import caffe, hub, names, torch
from p3d_jax.weights.content import Content
from p3d_jax.weights.merge import WeightsError


class Kind(NamedTuple):
  """One sort of weights.

  Attributes:
    what: it is, for people.
    naming: of its arrays.
    marks: names that it has and no other kind has.
    is_2d: whether it is a ResNet to inflate, or a P3D.
    flavour: row of `zoo.FLAVOURS` that it was trained with, where that is known
      of all such files.
    preprocessing: row of PREPROCESSINGS, likewise.
  """

  what: str
  naming: names.Naming
  marks: tuple[str, ...]
  is_2d: bool
  flavour: str = ""
  preprocessing: str = ""


# The first whose marks a file has is its kind. timm's ResNets have the names of
# torchvision's; the config.json beside them says more, see hub.py.
KINDS: dict[str, Kind] = {
  "port": Kind(
    "a checkpoint of the PyTorch P3D port",
    names.PORT,
    ("conv1_custom.weight",),
    is_2d=False,
  ),
  "transformers": Kind(
    "a ResNet of Hugging Face transformers",
    names.TRANSFORMERS,
    ("embedder.embedder.convolution.weight",),
    is_2d=True,
    flavour="torchvision",
    preprocessing="torchvision",
  ),
  "torchvision": Kind(
    "a ResNet of torchvision or timm",
    names.TORCHVISION,
    ("conv1.weight", "layer1.0.conv3.weight"),
    is_2d=True,
    flavour="torchvision",
    preprocessing="torchvision",
  ),
  "caffe_p3d": Kind(
    "the authors' P3D in Caffe",
    names.CAFFE_P3D,
    ("conv1/0", "res2a_branch2b_t/0"),
    is_2d=False,
    flavour="released",
  ),
  "caffe_resnet": Kind(
    "a ResNet in Caffe",
    names.CAFFE_RESNET,
    ("conv1/0", "scale_conv1/0", "res3b1_branch2a/0"),
    is_2d=True,
    flavour="released",
    preprocessing="caffe",
  ),
  "caffe_resnet50": Kind(
    "a ResNet-50 in Caffe",
    names.CAFFE_RESNET50,
    ("conv1/0", "scale_conv1/0", "res3b_branch2a/0"),
    is_2d=True,
    flavour="released",
    preprocessing="caffe",
  ),
}


@dataclasses.dataclass(frozen=True)
class Source:
  """A file of weights, read.

  Attributes:
    path: of the file.
    container: "caffe", "torch" or "safetensors".
    kind: key of KINDS.
    arrays: by name, as stored.
    sha256: of the file.
    beside: what stands beside the file, of a model hub.
    record: of a file that `p3d export` wrote.
    layers: of a Caffe network, with their settings.
  """

  path: pathlib.Path
  container: str
  kind: str
  arrays: Mapping[str, np.ndarray]
  sha256: str
  beside: hub.Beside
  record: Record | None = None
  layers: tuple[Any, ...] = ()

  @property
  def naming(self) -> names.Naming:
    """Of its arrays."""
    return KINDS[self.kind].naming

  @property
  def name(self) -> str:
    """Of the file; all files of a hub are called the same, so with a folder."""
    if self.path.name in hub.FILES:
      return f"{self.path.absolute().parent.name}/{self.path.name}"
    return self.path.name

  @property
  def stages(self) -> tuple[int, ...]:
    """Blocks of res2 to res5."""
    return names.stages(self.naming, self.arrays)

  @property
  def head(self) -> Mapping[str, str]:
    """The linear layer: "kernel" and "bias" -> array; empty of a trunk."""
    return names.head(self.naming, self.arrays)

  @property
  def classes(self) -> int | None:
    """Number of logits, or None of a trunk."""
    head = self.head
    if not head or head["bias"] not in self.arrays:
      return None
    return int(self.arrays[head["bias"]].size)

  @property
  def channels(self) -> int:
    """Number of input channels."""
    return int(self._conv1.shape[1])

  @property
  def width(self) -> int:
    """Channels of conv1."""
    return int(self._conv1.shape[0])

  @property
  def _conv1(self) -> np.ndarray:
    name = names.array(self.naming, "params/stem/conv/kernel")
    return self.arrays[name]

  def provenance(self) -> dict[str, Any]:
    """Returns what a record says of it."""
    said: dict[str, Any] = {
      "name": self.name,
      "kind": self.kind,
      "container": self.container,
      "sha256": self.sha256,
    }
    if self.record is not None:
      said["provenance"] = dict(self.record.provenance)
    return said


READERS: dict[str, Callable[[pathlib.Path], Content]] = {
  "torch": torch.read_torch,
  "safetensors": torch.read_safetensors,
  "caffe": caffe.read_net,
}

# What comes instead of a file, by its first bytes.
_NO_WEIGHTS = {
  b"\x1f\x8b": "packed by gzip, unpack it first",
  b"version h": "a pointer of git-lfs, fetch the file itself",
  b"<!doctype": "a web page, download the file itself",
  b"<html": "a web page, download the file itself",
}

# In front of names: of nn.DataParallel, and of transformers' trunks.
_PREFIXES = ("module.", "resnet.")


def read(path: str | os.PathLike[str]) -> Source:
  """Opens a file of weights, or a folder of a model hub.

  Raises:
    WeightsError: if it is not there, damaged, or of no known kind: then with
      what it holds and what was expected.
  """
  path = _file(path)
  container = _container(path)
  content = READERS[container](path)
  arrays = content.arrays
  if container != "caffe":
    arrays = _plain_names(arrays)
  kind = _kind(path, arrays)
  return Source(
    path=path,
    container=container,
    kind=kind,
    arrays=arrays,
    sha256=_sha256(path),
    beside=_beside(path, kind),
    record=_record(path, content.record),
    layers=content.layers,
  )


def _beside(path: pathlib.Path, kind: str) -> hub.Beside:
  """Reads what a hub puts beside a file of weights, by its names alone."""
  if KINDS[kind].is_2d and path.name in hub.FILES:
    return hub.beside(path)
  return hub.Beside(path)


def _record(path: pathlib.Path, text: str) -> Record | None:
  """Reads the record that `p3d export` put into a file."""
  if not text:
    return None
  try:
    record = Record.from_json(json.loads(text))
    zoo.from_fields(record.model)
    dict(record.provenance)
    return record
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise WeightsError(
      f"{path} has a damaged record of p3d_jax: {error}"
    ) from error


def _file(path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns the file that a path means."""
  if "://" in os.fspath(path):
    raise WeightsError(
      f"source is {os.fspath(path)!r}: files of weights are read from local "
      "disks, copy it first"
    )
  file = pathlib.Path(path).expanduser()
  if file.is_dir():
    found = hub.find(file)
    if found is None:
      raise WeightsError(
        f"source is {str(file)!r}, a folder: name a file, or a folder with "
        f"{' or '.join(hub.FILES)}"
      )
    return found
  if not file.is_file():
    raise WeightsError(f"source is {str(file)!r}: there is no such file")
  return file


def _container(path: pathlib.Path) -> str:
  """Which reader a file's first bytes ask for, whatever its name."""
  with path.open("rb") as file:
    head = file.read(9)
  if head[8:9] == b"{":
    return "safetensors"  # eight bytes of length, then JSON
  for start, what in _NO_WEIGHTS.items():
    if head.lower().startswith(start):
      raise WeightsError(f"{path} is no file of weights: it is {what}")
  if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
    return "torch"  # a zip, or a pickle of the old format
  if tarfile.is_tarfile(path):
    raise WeightsError(
      f"{path} is a tar file, as PyTorch 0.1 wrote: it is not opened, because "
      "that is unpickling (docs/weights.md)"
    )
  if not head:
    raise WeightsError(f"{path} is empty")
  if path.suffix == ".caffemodel" or head[:1] in (b"\x0a", b"\x12", b"\xa2"):
    return "caffe"  # a field of NetParameter: name, layers or layer
  raise WeightsError(
    f"{path} is no file of weights: it begins with {head!r}; it must be a "
    "PyTorch file, .safetensors or .caffemodel"
  )


def _plain_names(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Takes off what stands in front of names.

  `module.` goes where all names have it; `resnet.` where no name is lost.
  """
  for prefix in _PREFIXES:
    plain = {name.removeprefix(prefix): array for name, array in arrays.items()}
    everywhere = all(name.startswith(prefix) for name in arrays)
    if everywhere or (prefix == "resnet." and len(plain) == len(arrays)):
      arrays = plain
  return arrays


def _kind(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> str:
  for name, kind in KINDS.items():
    if all(mark in arrays for mark in kind.marks):
      conv1 = arrays[names.array(kind.naming, "params/stem/conv/kernel")]
      if conv1.ndim not in (4, 5):
        raise WeightsError(
          f"{path} has a first convolution of shape {conv1.shape}: it must be "
          "(out, in, [time,] height, width)"
        )
      return name
  held = [f"{name} {tuple(array.shape)}" for name, array in arrays.items()]
  expected = "; ".join(
    f"{kind.what} ({', '.join(kind.marks)})" for kind in KINDS.values()
  )
  more = f" and {len(held) - 6} more" if len(held) > 6 else ""
  raise WeightsError(
    f"{path} is of no known kind: it holds {', '.join(held[:6])}{more}; "
    f"expected {expected}",
    unknown=tuple(arrays),
  )


def _sha256(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
