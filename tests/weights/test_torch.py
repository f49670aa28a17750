"""PyTorch's files are opened without running what is in them."""

import argparse
import collections
import os
import pathlib
import pickle

import numpy as np
import pytest

from p3d_jax.weights import torch as torch_files
from p3d_jax.weights.merge import WeightsError

torch = pytest.importorskip("torch", reason="writes PyTorch's files")


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
  with pytest.raises(WeightsError, match="it asks for argparse.Namespace$"):
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
    found = torch_files.read_torch(tmp_path / "a.pth")
    np.testing.assert_array_equal(found["a"], [0, 1, 2])


@pytest.mark.parametrize(
  ("content", "match"),
  [
    ([1, 2], "holds list: it must be a state dict"),
    ({}, "holds dict: it must be a state dict"),
    ({"epoch": 3}, "has 'epoch', which is no tensor"),
    ({"a": torch.ones(2, dtype=torch.bfloat16)}, "a: .*BFloat16"),
  ],
  ids=["list", "nothing", "numbers", "bfloat16"],
)
def test_what_is_no_state_dict(tmp_path, content, match):
  torch.save(content, tmp_path / "a.pth")
  with pytest.raises(WeightsError, match=match):
    torch_files.read_torch(tmp_path / "a.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_cut_short(tmp_path, zipped):
  """Wherever a file ends too early, that is one line."""
  state = collections.OrderedDict(a=torch.ones(40, 40), b=torch.ones(3))
  file = tmp_path / "a.pth"
  torch.save(state, file, _use_new_zipfile_serialization=zipped)
  whole = file.read_bytes()
  for share in (0.02, 0.1, 0.5, 0.9, 0.99):
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError) as caught:
      torch_files.read_torch(file)
    assert "a.pth is" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_what_all_names_have_is_taken_off(tmp_path):
  torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a")
  assert set(torch_files.read_torch(tmp_path / "a")) == {"module.a", "b"}
  torch.save({"module.a": torch.ones(1)}, tmp_path / "b")
  assert set(torch_files.read_torch(tmp_path / "b")) == {"a"}
