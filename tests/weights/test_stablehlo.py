"""The network as a program that runs where this package is not installed."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

import p3d_jax
from p3d_jax.models import convs
from p3d_jax.weights.export import export
from p3d_jax.weights.merge import WeightsError
from tests import small

# What another program does with the two files: it knows jax and numpy, and
# takes the pixels' arithmetic and the labels from the .json alone.
RUN = """
import json, sys

class Blocked:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in ("p3d_jax", "flax", "orbax", "tests"):
      raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, Blocked())
import numpy as np
from jax import export

program, pixels, out = sys.argv[1:]
with open(program, "rb") as file:
  exported = export.deserialize(bytearray(file.read()))
with open(program + ".json") as file:
  about = json.load(file)
expects = about["record"]["preprocessing"]
pixels = np.load(pixels)
clips = pixels[..., ::-1] if expects["channels"] == "BGR" else pixels
clips = clips.astype(np.float32) * np.float32(expects["scale"])
clips = (clips - np.float32(expects["mean"])) / np.float32(expects["std"])
assert list(clips.shape[1:]) == about["input"]["shape"][1:]
logits = {n: np.asarray(exported.call(clips[:int(n)])) for n in ("1", "3")}
np.savez(out, **logits)
print(about["record"]["labels"][logits["3"][2].argmax()])
foreign = ("p3d_jax", "flax", "orbax")
print(sum(name.split(".")[0] in foreign for name in sys.modules))
print(*exported.platforms)
"""


def run(program: pathlib.Path, pixels: np.ndarray) -> tuple[Any, list[str]]:
  """Runs it; returns logits by number of clips, and what it printed."""
  folder = program.parent
  np.save(folder / "pixels.npy", pixels)
  out = folder / "logits.npz"
  words = ["-c", RUN, str(program), str(folder / "pixels.npy"), str(out)]
  environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  done = subprocess.run(
    [sys.executable, *words],
    capture_output=True,
    text=True,
    cwd=folder,  # not the checkout, which `-c` would import from
    env=environment | {"JAX_PLATFORMS": "cpu"},
  )
  assert done.returncode == 0, done.stderr
  return np.load(out), done.stdout.splitlines()


# A file holds the form of convolutions that is fastest where it was written;
# all of them run here.
@pytest.mark.parametrize(
  ("rule", "form"),
  [("released", "folded"), ("port", "direct"), ("released", "lanes")],
)
def test_a_process_without_this_package_runs_it(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  rule: str,
  form: str,
) -> None:
  module = small.network(schedule="BCA", flavour=rule)
  variables = small.variables(module)
  record = small.record(module)
  p3d_jax.save(tmp_path / "net", variables, record)
  with monkeypatch.context() as patch:
    patch.setattr(convs, "default_form", lambda: form)
    text = export(tmp_path / "net", tmp_path / "net.hlo", to="stablehlo")
  assert f"the form that is fastest on cpu ({form})" in text
  pixels = small.pixels(3)
  found, printed = run(tmp_path / "net.hlo", pixels)
  clips = record.preprocessing.normalize(pixels)  # they have the size
  expected = np.asarray(jax.jit(module.apply)(variables, clips))
  for count in (1, 3):
    logits = found[str(count)]
    assert logits.dtype == np.float32
    assert logits.shape == (count, 3)
    # The same float32 program compiled from another text, so sums round in
    # another order: 1e-7 to 4e-7 was measured. The nearest other rule is off by
    # 7e-2, another epsilon of the norms by 4e-4.
    error = np.abs(logits - expected[:count]).max()
    assert error <= 2e-6 * np.abs(expected[:count]).max()
  label = record.labels[int(np.argmax(expected[2]))]
  assert printed == [label, "0", "cpu cuda tpu"]


def test_what_it_expects_stands_beside_it(tmp_path: pathlib.Path) -> None:
  p3d_jax.save(tmp_path / "net", *network())
  text = export(tmp_path / "net", tmp_path / "net.hlo", to="stablehlo")
  about = json.loads((tmp_path / "net.hlo.json").read_text())
  stored = json.loads((tmp_path / "net" / "model" / "model.json").read_text())
  assert about == {
    "input": {"shape": ["batch", 4, 32, 32, 3], "dtype": "float32"},
    "output": {"shape": ["batch", 3], "dtype": "float32"},
    "platforms": ["cpu", "cuda", "tpu"],
    "record": stored,
  }
  assert "takes float32 clips (batch, 4, 32, 32, 3)" in text
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {"net", "net.hlo", "net.hlo.json"}


def network(**fields: Any) -> tuple[Any, p3d_jax.Record]:
  module = small.network(schedule="S", **fields)
  return small.variables(module), small.record(module)


def test_a_bfloat16_network_takes_float32_and_gives_it(
  tmp_path: pathlib.Path,
) -> None:
  variables, record = network(dtype=jax.numpy.bfloat16)
  p3d_jax.save(tmp_path / "net", variables, record)
  export(tmp_path / "net", tmp_path / "net.hlo", to="stablehlo")
  program = (tmp_path / "net.hlo").read_bytes()
  exported = jax.export.deserialize(bytearray(program))
  clips = record.preprocess(small.pixels(2))
  found = exported.call(clips)
  module, variables, _ = p3d_jax.load(tmp_path / "net")
  expected = jax.jit(module.apply)(variables, clips)
  assert found.dtype == expected.dtype == np.float32
  # bfloat16 keeps 8 bits: where a sum rounds to a neighbour, 1 part in 256.
  assert np.abs(found - expected).max() <= 2e-2 * np.abs(expected).max()


@pytest.mark.parametrize("there", ["net.hlo", "net.hlo.json"])
def test_neither_file_is_replaced(tmp_path: pathlib.Path, there: str) -> None:
  p3d_jax.save(tmp_path / "net", *network())
  (tmp_path / there).write_text("mine")
  with pytest.raises(WeightsError, match=f"{there}, which exists: name a new"):
    export(tmp_path / "net", tmp_path / "net.hlo", to="stablehlo")
  assert {path.name for path in tmp_path.iterdir()} == {"net", there}
  assert (tmp_path / there).read_text() == "mine"


@pytest.mark.parametrize(
  ("words", "fields", "message"),
  [
    ({"batches_tracked": 3}, {}, "batches_tracked is 3: a stablehlo file has"),
    ({}, {"resize": None, "crop": 31}, "clips are .*31.*at least 1 step"),
  ],
)
def test_mistakes_are_one_line(
  tmp_path: pathlib.Path,
  words: dict[str, Any],
  fields: dict[str, Any],
  message: str,
) -> None:
  variables, record = network()
  pixels = dataclasses.replace(record.preprocessing, **fields)
  record = dataclasses.replace(record, preprocessing=pixels)
  p3d_jax.save(tmp_path / "net", variables, record)
  with pytest.raises(ValueError, match=message) as caught:
    export(tmp_path / "net", tmp_path / "net.hlo", to="stablehlo", **words)
  assert "\n" not in str(caught.value)
  assert [path.name for path in tmp_path.iterdir()] == ["net"]
