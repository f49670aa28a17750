"""What tables run: lines that parse, and what counts as done."""

import dataclasses
import json
import pathlib
import shlex
from typing import Any

import pytest

from p3d_jax import cli
from p3d_jax.checkpoint import model
from p3d_jax.data.clips import Views
from p3d_jax.paper import benchmarks, commands, figures, networks, table1
from p3d_jax.paper.run import Table, command_lines
from p3d_jax.train import config_check, config_file
from tests import small
from tests.paper import looks


@pytest.fixture(autouse=True)
def sets(monkeypatch: pytest.MonkeyPatch) -> None:
  """Every set is there."""

  def find_set(data: str, name: str, splits: tuple[str, ...]) -> str:
    return f"{data}/{name}/KEY/1.0.0"

  monkeypatch.setattr(benchmarks, "find_set", find_set)
  monkeypatch.setattr(networks, "find_set", find_set)


def made(name: str, tmp_path: pathlib.Path) -> Table:
  """A table with a command of each kind that it can have."""
  one = benchmarks.Choices(looks.checkpoint(), "sets", "out")
  trained = networks.Choices("sets", "out", {}, "resnet152.pth", 9, ("seed=1",))
  info = tmp_path / "ucf101/KEY/1.0.0/dataset_info.json"
  info.parent.mkdir(parents=True)
  info.write_text('{"name": "ucf101"}')
  tables = {
    "table1": lambda: table1.table1(
      table1.Choices(
        str(tmp_path), "out", "resnet50.pth", overrides=("seed=1",)
      )
    ),
    "table1-camera_motion": lambda: table1.table1(
      table1.Choices("camera_motion", "out")
    ),
    "table2": lambda: networks.table2(trained, tuple(networks.SPORTS1M)),
    "table3": lambda: benchmarks.table3(one),
    "table4": lambda: benchmarks.table4(one),
    "table5": lambda: benchmarks.table5(one),
    "table6": lambda: benchmarks.table6(one),
    "kinetics": lambda: networks.kinetics(trained, (1.0, 1.5)),
    "pca": lambda: figures.pca(one),
    "tsne": lambda: figures.tsne(one),
    "classes": lambda: figures.classes(looks.checkpoint(), "out", ("a", "b")),
  }
  return tables[name]()


# How many commands of each verb there are.
VERBS: dict[str, dict[str, int]] = {
  "table1": {"inflate": 6, "train": 18, "evaluate": 18, "paper": 1},
  "table1-camera_motion": {"data": 1, "train": 18, "evaluate": 18, "paper": 1},
  "table2": {"inflate": 2, "train": 2, "evaluate": 2},
  "table3": {"features": 1, "svm": 1},
  "table4": {"features": 1, "svm": 1},
  "table5": {"features": 1, "similarity": 1},
  "table6": {"features": 2, "scenes": 2},
  "kinetics": {"inflate": 2, "train": 2, "evaluate": 2, "fuse": 1},
  "pca": {"features": 1, "pca": 1, "draw": 1},
  "tsne": {"features": 1, "draw": 1},
  "classes": {"draw": 1},
}


@pytest.mark.parametrize("name", VERBS)
def test_every_line_parses(name: str, tmp_path: pathlib.Path) -> None:
  count: dict[str, int] = {}
  for line in command_lines(made(name, tmp_path)).splitlines():
    p3d, *words = shlex.split(line)
    args, rest = cli.parser().parse_known_args(words)
    assert p3d == "p3d"
    count[args.verb] = count.get(args.verb, 0) + 1
    if args.verb == "train":
      config_check.check(config_file.load(args.config, rest))
    else:
      assert not rest
  assert count == VERBS[name]


def test_lines_of_table2(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  words = ("paper", "table2", "--data", "sets", "--out", "out", "--commands")
  assert looks.p3d(*words, "--weights", "resnet152.pth", "--batch", 32) == 0
  assert capsys.readouterr().out.splitlines() == [
    "p3d inflate resnet152.pth --model p3d199 --schedule ABC --out "
    "out/weights/sports1m_p3d199",
    f"p3d train --config {commands.config_words('sports1m_p3d199')[1]} "
    "--workdir out/runs/sports1m_p3d199 "
    "--config.data.dir=sets/sports1m/KEY/1.0.0 "
    "--config.init_from=out/weights/sports1m_p3d199",
    "p3d evaluate out/runs/sports1m_p3d199 --data sets/sports1m/KEY/1.0.0 "
    "--split test --clips 20 --sampling random --crops 1 --batch 32 "
    "--workers 0 --hits 1 5 --out out/sports1m_p3d199.json",
  ]


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (("table3", "--checkpoint", "nowhere"), "nowhere"),
    (("table3", "--clips", "0"), "--clips is 0: it must be >= 1"),
    (("table4", "--max-missing", "-1"), "--max-missing is -1"),
    (("table2", "--weights", "none", "--steps", "0"), "--steps is 0"),
    (("table2", "--weights", "none", "--override", "train.stpes=1"), "'stpes'"),
    (("table2", "--checkpoint", "nowhere"), "nowhere"),
    (("table2",), "--checkpoint or --weights is missing"),
  ],
  ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_told_before_anything_runs(
  words: tuple[str, ...],
  message: str,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  line = ["paper", *words, "--data", "sets", "--out", tmp_path / "out"]
  if words[0] != "table2" and "--checkpoint" not in words:
    line += ["--checkpoint", looks.checkpoint()]
  assert looks.p3d(*line) == 2
  said = capsys.readouterr().err.splitlines()
  assert len(said) == 1
  assert message in said[0]
  assert not (tmp_path / "out").exists()


def two_d(seed: int, path: pathlib.Path) -> str:
  """A 2D network, which `p3d inflate` reads."""
  module = small.network(schedule="S")
  model.save(path, small.variables(module, seed), small.record(module))
  return str(path)


def test_an_inflated_network_of_other_weights_is_not_taken(
  tmp_path: pathlib.Path,
) -> None:
  weights, out = two_d(0, tmp_path / "0"), str(tmp_path / "out")
  command = commands.inflate(weights, out, "p3d63", "ABC")
  assert not command.done()
  # The tiny one has no name.
  words = [w for w in command.words if w not in ("--model", "p3d63")]
  assert looks.p3d(*words) == 0
  assert command.done()
  other = two_d(1, tmp_path / "1")
  command = commands.inflate(other, out, "p3d63", "ABC")
  with pytest.raises(ValueError, match="was made of other weights than --wei"):
    command.done()


def test_weights_of_a_file_are_known_by_its_sha256(
  tmp_path: pathlib.Path,
) -> None:
  file = tmp_path / "resnet.pth"
  file.write_bytes(b"abc")
  # FIPS 180-2, appendix B.1.
  known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
  module = small.network()
  record = dataclasses.replace(
    small.record(module),
    provenance={"kind": "inflated", "source": {"sha256": known}},
  )
  model.save(tmp_path / "out", small.variables(module), record)
  command = commands.inflate(str(file), str(tmp_path / "out"), "p3d63", "ABC")
  assert command.done()
  file.write_bytes(b"abd")
  with pytest.raises(ValueError, match="was made of other weights"):
    command.done()


def test_a_run_that_began_with_other_weights_does_not_go_on(
  tmp_path: pathlib.Path,
) -> None:
  began, other = two_d(0, tmp_path / "0"), two_d(1, tmp_path / "1")
  module = small.network()
  origin = {"path": began, "sha256": commands.digest(began)}
  record = dataclasses.replace(
    small.record(module), provenance={"kind": "trained", "init_from": origin}
  )
  run = str(tmp_path / "run")
  model.save(run, small.variables(module), record)
  commands.train("ucf101_p3d_a", run, "set", began).done()
  with pytest.raises(ValueError, match="began with another"):
    commands.train("ucf101_p3d_a", run, "set", other).done()


def evaluation(**changes: Any) -> dict[str, Any]:
  """What `p3d evaluate` writes of the checkpoint."""
  return {
    "sha256": commands.digest(looks.checkpoint()),
    "data": "set",
    "split": "test",
    "views": {"clips": 20, "sampling": "random", "crops": 1, "seed": 0},
    "video_hit@1": 1.0,
    "video_hit@5": 1.0,
    **changes,
  }


@pytest.mark.parametrize(
  ("found", "done"),
  [
    pytest.param(evaluation, True, id="same"),
    pytest.param(lambda: evaluation(sha256="0"), False, id="checkpoint"),
    pytest.param(lambda: evaluation(sha256=None), False, id="no-sha256"),
    pytest.param(lambda: evaluation(data="other"), False, id="data"),
    pytest.param(lambda: evaluation(split="train"), False, id="split"),
    pytest.param(
      lambda: evaluation(
        views={"clips": 20, "sampling": "uniform", "crops": 1, "seed": 0}
      ),
      False,
      id="sampling",
    ),
    pytest.param(
      lambda: {k: v for k, v in evaluation().items() if k != "video_hit@5"},
      False,
      id="hits",
    ),
  ],
)
def test_an_evaluation_of_other_things_is_not_taken(
  found: Any, done: bool, tmp_path: pathlib.Path
) -> None:
  out = tmp_path / "e.json"
  how = commands.How(Views(20, "random"))
  command = commands.evaluate(
    looks.checkpoint(), str(out), how, data="set", split="test"
  )
  assert not command.done()
  out.write_text(json.dumps(found()))
  assert not command.done()  # its scores are not there
  out.with_suffix(".npz").write_bytes(b"")
  assert command.done() is done
