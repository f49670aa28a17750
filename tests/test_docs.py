"""The commands in README.md and docs/ are commands, and files are there."""

import re
import shlex

import pytest

import p3d_jax
from p3d_jax import cli
from p3d_jax.data.builders.table import DATASETS
from p3d_jax.data.statuses import UNUSABLE, WARNINGS
from p3d_jax.preprocess import PREPROCESSINGS
from tests import small

PAGES = [small.ROOT / "README.md", *sorted((small.ROOT / "docs").glob("*.md"))]
# Of a table or a sentence, and the indented blocks.
COMMAND = re.compile(r"`(p3d [^`|]*)`|^    (p3d .*)$", re.M)


def commands() -> list[str]:
  found = []
  for page in PAGES:
    for inline, block in COMMAND.findall(page.read_text()):
      command = inline or block
      words = shlex.split(command, comments=True)
      # `p3d config` and `p3d data check` may be named alone; one with
      # arguments is meant to run.
      if len(words) > 2 + (words[1] in ("data", "draw", "paper")):
        found.append(command)
  return found


@pytest.mark.parametrize("command", commands())
def test_a_command_parses(command: str) -> None:
  words = shlex.split(command, comments=True)[1:]
  args, rest = cli.parser().parse_known_args(words)
  assert not rest or (
    args.verb == "train" and all(w.startswith("--config.") for w in rest)
  )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page) -> None:
  for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
    assert (page.parent / target).exists(), target


def test_python_of_the_weights_page(tmp_path, monkeypatch) -> None:
  """The block about a Caffe file, run on one of the authors' shapes."""
  table = pytest.importorskip(
    "tests.reference.table", reason="the reference runs on PyTorch"
  )
  from tests.reference import caffe_file

  (text,) = re.findall(
    r"^```python\n(import p3d_jax.*?)^```$",
    (small.ROOT / "docs" / "weights.md").read_text(),
    re.M | re.S,
  )
  monkeypatch.chdir(tmp_path)
  weights = table.random_weights(seed=0)
  caffe_file.write("p3d.caffemodel", caffe_file.p3d199(weights))
  names: dict = {}
  exec(compile(text, "<docs/weights.md>", "exec"), names)
  assert names["record"].preprocessing == PREPROCESSINGS["released_rgb"]
  assert names["trunk"] == names["net"].clone(num_classes=None)
  assert p3d_jax.build("weights/p3d199") == names["net"]


def test_the_data_page_has_each_dataset_s_own_words() -> None:
  page = (small.ROOT / "docs" / "data.md").read_text()
  words = " ".join(page.split())
  kinetics = []
  for dataset in DATASETS.values():
    if dataset.name.startswith("kinetics"):  # one section for the three
      kinetics.append(dataset)
    else:
      assert f"### {dataset.name}\n" in page
    if dataset.name not in ("kinetics600", "kinetics700"):
      assert f"```text\n{dataset.expects}\n```" in page
    assert " ".join(dataset.known_from.split()) in words
    assert f"Splits: {dataset.lists}." in words
    for option in dataset.options:
      assert f"| `--{option.name.replace('_', '-')}` | {option.help} |" in page
  assert f"### {', '.join(d.name for d in kinetics)}\n" in page
  for status, meaning in (UNUSABLE | WARNINGS).items():
    assert f"| {status} | {meaning} |" in page
