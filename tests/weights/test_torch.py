"""PyTorch's files are opened without running what is in them."""

import argparse
import collections
import contextlib
import os
import pathlib
import pickle

import numpy as np
import pytest

from p3d_jax.weights import torch as torch_files
from p3d_jax.weights.merge import WeightsError

torch = pytest.importorskip("torch", reason="writes PyTorch's files")
import safetensors.torch  # noqa: E402


class Trap:
  """Unpickling this makes a file."""

  def __init__(self, target: pathlib.Path):
    self.target = target

  def __reduce__(self):
    return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_is_refused_unrun(tmp_path, zipped):
  content = {"state_dict": {"a": torch.ones(2)}, "b": Trap(tmp_path / "run")}
  torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
  with pytest.raises(
    WeightsError, match="more than weights: it asks .*mkdir"
  ) as error:
    torch_files.read_torch(tmp_path / "a.pth")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run").exists()


def test_what_pytorch_does_not_know_is_named(tmp_path):
  torch.save({"args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
  with pytest.raises(WeightsError, match="for argparse.Namespace; save"):
    torch_files.read_torch(tmp_path / "a.pth")
  torch.save({"b": np.float64(1)}, tmp_path / "b.pth", pickle_protocol=4)
  with pytest.raises(WeightsError, match="pickle is of protocol 4 or above"):
    torch_files.read_torch(tmp_path / "b.pth")


def test_a_plain_pickle_is_refused_unrun(tmp_path):
  file = tmp_path / "a.pth"
  file.write_bytes(pickle.dumps(Trap(tmp_path / "run"), protocol=2))
  with pytest.raises(WeightsError, match="a.pth is"):
    torch_files.read_torch(file)
  assert not (tmp_path / "run").exists()


def test_numpy_numbers_beside_the_weights(tmp_path):
  """As `best_prec1` of training scripts, under the names of NumPy 1 and 2."""
  for kind in (np.float64, np.float32, np.int64, np.bool_):
    content = {"state_dict": {"a": torch.arange(3.0)}, "best": kind(1)}
    torch.save(content, tmp_path / "a.pth")
    found = torch_files.read_torch(tmp_path / "a.pth").arrays
    np.testing.assert_array_equal(found["a"], [0, 1, 2])


@pytest.mark.parametrize(
  ("content", "match"),
  [
    ([1, 2], "holds list: it must be a state dict"),
    ({}, "holds dict: it must be a state dict"),
    ({"epoch": 3}, "has 'epoch', which is no tensor"),
    ({"a": torch.ones(2).to_sparse()}, "a.pth: a: .*[Ss]parse"),
  ],
  ids=["list", "nothing", "numbers", "sparse"],
)
def test_what_is_no_state_dict(tmp_path, content, match):
  torch.save(content, tmp_path / "a.pth")
  with pytest.raises(WeightsError, match=match):
    torch_files.read_torch(tmp_path / "a.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_cut_short(tmp_path, zipped):
  """Wherever a file ends too early, that is one line."""
  state = collections.OrderedDict(a=torch.ones(4, 4), b=torch.ones(3))
  file = tmp_path / "a.pth"
  torch.save(state, file, _use_new_zipfile_serialization=zipped)
  whole = file.read_bytes()
  # The old format's last number is padding of the last storage's count.
  for end in range(1, len(whole), 1 if not zipped else 7):
    file.write_bytes(whole[:end])
    with pytest.raises(WeightsError) as caught:
      torch_files.read_torch(file)
    assert "a.pth is" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_byte_in_the_old_format(tmp_path):
  """Numbers may change unseen (it has no checksum), but nothing else happens.

  Which is why a published file should be compared by its sha256.
  """
  state = collections.OrderedDict(a=torch.ones(4, 4), b=torch.ones(3))
  file = tmp_path / "a.pth"
  torch.save(state, file, _use_new_zipfile_serialization=False)
  whole = file.read_bytes()
  for at in range(len(whole)):
    for change in (0x01, 0x80):
      damaged = bytearray(whole)
      damaged[at] ^= change
      file.write_bytes(damaged)
      with contextlib.suppress(WeightsError):
        torch_files.read_torch(file)


def test_a_wrong_byte_in_a_zip_is_seen(tmp_path):
  """PyTorch itself does not look at the checksums."""
  file = tmp_path / "a.pth"
  torch.save({"a": torch.full((64,), 0.5)}, file)
  whole = bytearray(file.read_bytes())
  whole[whole.index(np.float32(0.5).tobytes() * 8)] ^= 1
  file.write_bytes(whole)
  assert torch.load(file, weights_only=True)["a"][0] != 0.5
  with pytest.raises(WeightsError, match="a.pth is damaged: .* checksum"):
    torch_files.read_torch(file)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_program_is_no_state_dict(tmp_path):
  torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
  with pytest.raises(WeightsError, match="is a TorchScript program: save"):
    torch_files.read_torch(tmp_path / "a.pt")


def test_two_state_dicts_are_a_question(tmp_path):
  one, two = {"a": torch.ones(1)}, {"a": torch.zeros(1)}
  torch.save({"state_dict": one, "state_dict_ema": two}, tmp_path / "a.pth")
  with pytest.raises(WeightsError, match="holds 2 state dicts, 'state_dict', "):
    torch_files.read_torch(tmp_path / "a.pth")


def test_bfloat16_to_the_bit(tmp_path):
  numbers = torch.randn(9).bfloat16()
  torch.save({"a": numbers}, tmp_path / "a.pth")
  found = torch_files.read_torch(tmp_path / "a.pth").arrays["a"]
  assert (found.dtype, found.tolist()) == (np.float32, numbers.tolist())
  safetensors.torch.save_file({"a": numbers}, tmp_path / "a.safetensors")
  found = torch_files.read_safetensors(tmp_path / "a.safetensors").arrays["a"]
  assert found.astype(np.float32).tolist() == numbers.tolist()


def test_safetensors_of_a_type_that_no_weights_are(tmp_path):
  numbers = torch.ones(3).to(torch.float8_e4m3fn)
  safetensors.torch.save_file({"a": numbers}, tmp_path / "a.safetensors")
  with pytest.raises(WeightsError, match="a is of type F8_E4M3: it must be"):
    torch_files.read_safetensors(tmp_path / "a.safetensors")


def test_safetensors_cut_short(tmp_path):
  file = tmp_path / "a.safetensors"
  safetensors.torch.save_file({"a": torch.ones(4, 4)}, file)
  whole = file.read_bytes()
  for end in range(len(whole)):
    file.write_bytes(whole[:end])
    with pytest.raises(WeightsError, match="^[^\n]*a.safetensors is damaged"):
      torch_files.read_safetensors(file)
