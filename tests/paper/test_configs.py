"""The files in experiments/configs/ are the paper's runs, and say so."""

import ast
import pathlib
import shlex

import pytest

from p3d_jax import cli
from p3d_jax.paper import protocols, recipes
from p3d_jax.train import config_check, config_file
from p3d_jax.train.config import ConfigError
from tests import small

FOLDER = small.ROOT / "experiments" / "configs"
FILES = sorted(p for p in FOLDER.glob("*.py") if p.name != "demo.py")
# What the paper or its authors say, written once more by hand.
EXPECTED = {
  "activitynet_svm": ("75.12", "87.71", "78.86"),
  "aslan_similarity": ("80.8", "87.9"),
  "dynamic_scene": ("94.6",),
  "kinetics_flow": ("61.2",),
  "kinetics_rgb": ("72.1",),
  "sports1m_p3d199": ("47.9", "66.4", "87.4"),
  "sports1m_resnet152": ("46.5", "64.6", "86.4"),
  "ucf101_full3d": ("no number to expect",),
  "ucf101_p3d_a": ("83.7",),
  "ucf101_p3d_abc": ("84.2",),
  "ucf101_p3d_b": ("82.8",),
  "ucf101_p3d_c": ("83.0",),
  "ucf101_resnet50_frames": ("80.8",),
  "ucf101_svm": ("88.6", "82.3", "83.5"),
  "yupenn": ("99.5",),
}
TRAINED = [f for f in FILES if f.stem not in protocols.PROTOCOLS]


def said(file: pathlib.Path) -> str:
  """The docstring of a file."""
  return ast.get_docstring(ast.parse(file.read_text())) or ""


def lines(file: pathlib.Path) -> list[list[str]]:
  """The words of its command lines, after `p3d`."""
  text = said(file).replace("\\\n", " ")
  found = [x for x in text.splitlines() if x.startswith("    p3d ")]
  return [shlex.split(line)[1:] for line in found]


def test_there_is_one_for_each_run() -> None:
  ours = {n for n in recipes.RECIPES if not n.startswith("camera_motion")}
  assert {f.stem for f in FILES} == ours | set(protocols.PROTOCOLS)
  assert {f.stem for f in FILES} == set(EXPECTED)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_says_what_it_is(file: pathlib.Path) -> None:
  text = " ".join(said(file).split())
  assert "Not run: needs " in text
  for number in EXPECTED[file.stem]:
    assert number in text
  assert lines(file)
  for words in lines(file):
    args, rest = cli.parser().parse_known_args(words)
    assert not rest
    assert args.verb in ("inflate", "train", "evaluate", "paper")


@pytest.mark.parametrize("file", TRAINED, ids=lambda file: file.stem)
def test_can_be_trained_by_its_lines(file: pathlib.Path) -> None:
  config = config_file.load(str(file))
  config_check.check(config)
  assert config.to_dict() == recipes.get_config(file.stem).to_dict()
  inflate, train, evaluate = (
    cli.parser().parse_args(words) for words in lines(file)
  )
  assert inflate.out == config.init_from
  assert inflate.model == config.model.name
  assert inflate.schedule == config.model.schedule
  assert inflate.flow is (config.preprocessing.channels == "flow")
  assert (small.ROOT / train.config) == file
  assert evaluate.checkpoint == train.workdir
  # Table 1's test clips are not stated; those of Sports-1M are random.
  random = not file.stem.startswith("ucf101")
  assert evaluate.sampling == ("random" if random else "uniform")
  assert config.data.dir.startswith("sets/")
  assert "--out sets" in " ".join(said(file).split())


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_a_protocol_is_read_and_trains_nothing(name: str) -> None:
  config = config_file.load(str(FOLDER / f"{name}.py"))
  assert config.to_dict() == protocols.get_config(name).to_dict()
  assert config.clips == 20
  assert (config.pool == "none") == (name == "aslan_similarity")
  with pytest.raises(ConfigError, match="config"):
    config_check.check(config)


def test_protocols_are_the_papers() -> None:
  rows = protocols.PROTOCOLS
  assert {n: (p.verb, p.endpoints) for n, p in rows.items()} == {
    "ucf101_svm": ("svm", ("pool5",)),
    "activitynet_svm": ("svm", ("pool5",)),
    "aslan_similarity": ("similarity", ("prob", "pool5", "res5", "res4")),
    "dynamic_scene": ("scenes", ("pool5",)),
    "yupenn": ("scenes", ("pool5",)),
  }
  assert rows["ucf101_svm"].train == ("train1", "train2", "train3")
  assert rows["ucf101_svm"].test == ("test1", "test2", "test3")
  assert rows["activitynet_svm"].hits == (1, 3)
  assert {n: sorted(p.expected.values()) for n, p in rows.items()} == {
    "ucf101_svm": [88.6],
    "activitynet_svm": [75.12, 78.86, 87.71],
    "aslan_similarity": [80.8, 87.9],
    "dynamic_scene": [94.6],
    "yupenn": [99.5],
  }


def test_an_unknown_protocol_is_refused() -> None:
  with pytest.raises(ValueError, match="'hmdb51' must be one of ucf101_svm"):
    protocols.get_config("hmdb51")
