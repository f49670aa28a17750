"""What a file is, from its bytes and its names; and damaged ones."""

import io
import tarfile

import numpy as np
import pytest
import safetensors.numpy

from p3d_jax.weights import source
from p3d_jax.weights.merge import WeightsError


def test_an_unknown_file_lists_what_it_holds(tmp_path):
  arrays = {f"blocks.{i}.weight": np.ones((2, i + 1)) for i in range(9)}
  safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
  with pytest.raises(WeightsError, match="is of no known kind") as caught:
    source.read(tmp_path / "a.safetensors")
  text = str(caught.value)
  assert "blocks.0.weight (2, 1)" in text
  assert "and 3 more" in text
  for kind in source.KINDS.values():
    assert kind.what in text


@pytest.mark.parametrize(
  ("content", "match"),
  [
    (b"", "is empty"),
    (b"\x1f\x8b\x08 what gzip packed", "it is packed by gzip, unpack it first"),
    (b"version https://git-lfs", "it is a pointer of git-lfs"),
    (b"<!DOCTYPE html><html>", "it is a web page"),
    (b"hello, world", "is no file of weights: it begins with b'hello"),
    (b"\x0a\x03abc", "holds no blobs"),
    (b"\x10\x00\x00\x00\x00\x00\x00\x00{", "is damaged"),
    (b"PK\x03\x04 no zip", "is damaged|needs PyTorch"),
  ],
)
def test_no_weights(tmp_path, content, match):
  (tmp_path / "a").write_bytes(content)
  with pytest.raises(WeightsError, match=match) as caught:
    source.read(tmp_path / "a")
  assert "\n" not in str(caught.value)


def test_a_tar_of_2017_is_not_opened(tmp_path):
  """PyTorch 0.1 wrote these; opening one is unpickling."""
  with tarfile.open(tmp_path / "a.pth", "w") as file:
    info = tarfile.TarInfo("storages")
    info.size = 4
    file.addfile(info, io.BytesIO(b"abcd"))
  with pytest.raises(WeightsError, match="is a tar file, as PyTorch 0.1 wrote"):
    source.read(tmp_path / "a.pth")


def test_no_file(tmp_path):
  with pytest.raises(WeightsError, match="there is no such file"):
    source.read(tmp_path / "a.pth")


def resnet_names(*names):
  """Arrays enough to be recognised as torchvision's, and more."""
  marks = source.KINDS["torchvision"].marks
  kernel = np.ones((4, 3, 7, 7), np.float32)
  return dict.fromkeys((*marks, *names), kernel)


def saved(path, arrays, **options):
  safetensors.numpy.save_file(arrays, path, **options)
  return path


def test_prefixes(tmp_path):
  plain = resnet_names("fc.weight")
  for prefix in ("module.", "resnet.", "module.resnet."):
    named = {prefix + name: array for name, array in plain.items()}
    found = source.read(saved(tmp_path / "a.safetensors", named))
    assert set(found.arrays) == set(plain)
  # Where a name would be lost, nothing is taken off.
  both = {**plain, "resnet.conv1.weight": plain["conv1.weight"]}
  found = source.read(saved(tmp_path / "b.safetensors", both))
  assert set(found.arrays) == set(both)


def test_safetensors_whose_length_looks_like_a_pickle(tmp_path):
  """One header in 32 has a length whose first byte is a pickle's."""
  for pad in range(300):
    file = saved(tmp_path / "a", resnet_names(), metadata={"pad": "x" * pad})
    if file.read_bytes()[0] == 0x80:
      break
  assert source.read(file).container == "safetensors"


def test_a_folder_must_be_a_hubs(tmp_path):
  with pytest.raises(WeightsError, match="a folder: name a file, or a folder"):
    source.read(tmp_path)
  saved(tmp_path / "model.safetensors", resnet_names())
  assert source.read(tmp_path).path.name == "model.safetensors"


def test_a_bucket_is_not_read(tmp_path):
  with pytest.raises(WeightsError, match="'gs://b/a.pth': files of weights"):
    source.read("gs://b/a.pth")


def test_a_first_convolution_that_is_none(tmp_path):
  arrays = resnet_names() | {"conv1.weight": np.ones(3, np.float32)}
  with pytest.raises(WeightsError, match=r"first convolution of shape \(3,\)"):
    source.read(saved(tmp_path / "a.safetensors", arrays))
