"""The Python of README.md runs, each block by itself, and is true."""

import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p3d_jax.evaluate.predict import Predictor
from p3d_jax.models import count
from p3d_jax.train import config_file
from tests import small

README = (small.ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)


def block(*words: str) -> str:
  """Returns the one block that has all the words."""
  found = [text for text in BLOCKS if all(word in text for word in words)]
  assert len(found) == 1, f"{len(found)} blocks have {words}"
  return found[0]


def replaced(text: str, strings: dict[str, pathlib.Path]) -> str:
  """Puts paths where a block has these strings."""
  for old, new in strings.items():
    assert f'"{old}"' in text
    text = text.replace(f'"{old}"', repr(str(new)))
  return text


def run(text: str, **names: Any) -> dict[str, Any]:
  """Runs a block and returns its names."""
  exec(compile(text, "<README.md>", "exec"), names)
  return names


@pytest.fixture
def compiles_nothing_twice() -> Iterator[None]:
  """What is computed once, operation by operation, need not be fast code."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


def test_every_block_is_tested() -> None:
  tested = [
    block("p3d_jax.build("),
    block("p3d_jax.load("),
    block("Bottleneck("),
    block("def get_config"),
    block("fold_batch_norm"),
  ]
  assert sorted(tested) == sorted(BLOCKS)


@pytest.mark.usefixtures("compiles_nothing_twice")
def test_the_networks_are_built() -> None:
  text = block("p3d_jax.build(")
  # A ninth of the size: the shapes of the results are the same.
  smaller = re.sub(r"\(1, 16, \d+, \d+, 3\)", "(1, 16, 48, 48, 3)", text)
  assert smaller != text
  names = run(smaller)
  assert names["logits"].shape == (1, 101)
  assert set(names["found"]) == {"res4", "pool5"}
  clips = jax.ShapeDtypeStruct((2, 16, 48, 48, 3), jnp.float32)
  for name, shape in (("slim", (2, 8)), ("trunk", (2, 2048))):
    network = names[name]
    out, variables = jax.eval_shape(
      network.init_with_output, jax.random.key(0), clips
    )
    assert out.shape == shape
    assert variables["params"]


def test_classifying_is_what_predict_does(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  # Of 48x64 pixels: it is resized, and cropped.
  video = tmp_path / "a video.mp4"
  shutil.copy(small.footage() / "film 1.mp4", video)
  paths = {"demo/run": small.trained(), "mine.mp4": video}
  names = run(replaced(block("p3d_jax.load("), paths))
  predictor = Predictor(small.trained())
  expected = predictor.predict(video, clips=len(names["clips"]))
  assert expected.scores is not None
  # jit fuses what is computed one by one here.
  np.testing.assert_allclose(names["scores"], expected.scores, atol=2e-5)
  ((label, score),) = expected.top(1)
  said = capsys.readouterr().out.split()
  assert said[0] == label
  assert float(said[1]) == pytest.approx(score, abs=2e-5)


def test_a_block_in_another_network() -> None:
  text = block("Bottleneck(")

  class Network(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
      return run(text, x=x)["y"]

  x = jax.ShapeDtypeStruct((2, 4, 8, 6, 5), jnp.float32)
  y, variables = jax.eval_shape(
    Network().init_with_output, jax.random.key(0), x
  )
  assert y.shape == (2, 4, 4, 3, 256)
  assert "temporal" in str(jax.tree.structure(variables))


def test_the_config_is_one(tmp_path: pathlib.Path) -> None:
  file = tmp_path / "mine.py"
  file.write_text(block("def get_config"))
  config = config_file.load(str(file), ["--config.train.batch=64"])
  assert config.train.batch == 64
  assert config.data.dir == "data"


def test_the_table_of_models_is_what_is_counted() -> None:
  assert count.table() in README


def test_a_folded_network_in_a_program_of_ones_own() -> None:
  module = small.network()
  variables = small.variables(module)
  clips = np.random.default_rng(0).normal(0, 60, (2, 4, 32, 32, 3))
  clips = clips.astype(np.float32)
  given = {"module": module, "variables": variables, "clips": clips}
  expected = jax.jit(module.apply)(variables, clips)
  found = run(block("fold_batch_norm"), **given)["logits"]
  np.testing.assert_allclose(found, expected, rtol=1e-5)
