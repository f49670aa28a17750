"""Weights into a new run: `init_from` is not resume."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import shutil
import subprocess
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

import p3d_jax
from p3d_jax.checkpoint import model, tree
from p3d_jax.data.flow_set import make_flow_set
from p3d_jax.models import zoo
from p3d_jax.preprocess import Preprocessing
from p3d_jax.train import config as configs
from p3d_jax.train import init, logs, loop, optim, step
from p3d_jax.train.meter import CLOCK
from tests import small

# Nothing learns and no statistics move: a run that writes what it began with.
STILL: dict[str, Any] = {
  "optim": {"learning_rate": 0.0},
  "norm": {"freeze": "all"},
  "train": {"steps": 1},
  "eval": {"every": 0},
}


def from_weights(
  path: object, sections: dict[str, Any] | None = None, **fields: Any
) -> ConfigDict:
  made = small.config(**sections or {})
  made.update({"init_from": str(path), **fields})
  return made


def leaves(variables: Any) -> dict[str, np.ndarray]:
  return {n: np.asarray(v) for n, v in tree.flatten(variables).items()}


def trunk(variables: Any) -> dict[str, np.ndarray]:
  found = leaves(variables)
  return {n: v for n, v in found.items() if not n.startswith("params/head")}


@functools.cache
def relabelled() -> pathlib.Path:
  """The trained network, its eight classes named by their numbers."""
  _, variables, record = p3d_jax.load(small.trained())
  path = small.folder() / "relabelled"
  labels = tuple(str(k) for k in range(8))
  model.save(path, variables, dataclasses.replace(record, labels=labels))
  return path


@functools.cache
def foreign() -> pathlib.Path:
  """Another network with other pixels and three classes; no run wrote it."""
  network = small.network(
    stages=(1, 2, 1, 1),
    schedule=("A", "BC", "S"),
    rule="paper",
    stem_pool="padded",
    reduce_stride=False,
    norm_epsilon=1e-3,
    dropout=0.7,
    norm_momentum=0.5,
  )
  pixels = Preprocessing(
    frames=9,
    stride=2,
    resize=99,
    crop=64,
    channels="RGB",
    scale=1 / 255,
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.25),
  )
  record = dataclasses.replace(
    small.record(network),
    preprocessing=pixels,
    provenance={"kind": "converted"},
  )
  path = small.folder() / "foreign"
  model.save(path, small.variables(network), record)
  return path


def plain() -> ConfigDict:
  """A short run that leaves to `init_from` what belongs to weights."""
  made = small.config(**STILL)
  known = configs.default()
  made.model = known.model
  made.model.dropout = 0.2
  for name in ("channels", "mean", "std"):
    made.preprocessing[name] = known.preprocessing[name]
  return made


@pytest.mark.slow
def test_with_its_head_a_run_begins_as_the_very_network(
  tmp_path: pathlib.Path,
) -> None:
  """The sha256 over names, types, shapes and bytes says it in one line.

  On two devices and by the command line.
  """
  source, variables, record = p3d_jax.load(small.trained())
  text = "\n".join(
    f"config.{section}.update({fields!r})" for section, fields in STILL.items()
  )
  file = small.config_file(tmp_path / "config.py", text)
  run = tmp_path / "run"
  words = small.command(
    "train", "--config", file, "--workdir", run,
    f"--config.init_from={small.trained()}",
  )  # fmt: skip
  done = subprocess.run(
    words, capture_output=True, text=True, env=small.environment(devices=2)
  )
  assert done.returncode == 0, done.stderr
  assert f"from {small.trained()} (head kept)" in done.stderr
  assert "on 2 devices" in done.stderr
  module, ours, new = p3d_jax.load(run)
  assert new.provenance["step"] == 1  # the source was at 4, as train.steps is
  assert new.sha256 == record.sha256
  assert new.provenance["init_from"] == {
    "path": str(small.trained()),
    "sha256": record.sha256,
    "head": "kept",
    "source": "trained",
  }
  clips = record.preprocess(small.pixels(3))
  np.testing.assert_array_equal(
    jax.jit(module.apply)(ours, clips), jax.jit(source.apply)(variables, clips)
  )


def begun(made: ConfigDict, workdir: pathlib.Path) -> tuple[loop.Run, Any]:
  """A run and its state before the first step."""
  run = loop.prepare(made, workdir)
  checkpoints = loop.RunCheckpoints(workdir, keep=1, keep_best=0)
  with contextlib.closing(checkpoints):
    return run, loop._state(run, checkpoints)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_state_of_step_0(tmp_path: pathlib.Path, ema: float) -> None:
  made = from_weights(small.trained(), {"train": {"ema": ema}})
  run, state = begun(made, tmp_path / "run")
  source, variables, record = p3d_jax.load(small.trained())
  assert int(state.step) == 0
  kept = {"params": state.params, "batch_stats": state.batch_stats}
  for found in (kept, state.variables):
    assert leaves(found).keys() == leaves(variables).keys()
    for name, leaf in leaves(found).items():
      np.testing.assert_array_equal(leaf, leaves(variables)[name], name)
  assert (state.ema is None) == (ema == 0)
  clips = record.preprocess(small.pixels(2))
  np.testing.assert_array_equal(
    jax.jit(run.recipe.module.apply)(state.variables, clips),
    jax.jit(source.apply)(variables, clips),
  )
  # The momentum of the run that the weights come from stays there.
  assert all(not np.any(x) for x in jax.tree.leaves(state.opt_state))


def pool5(module: Any, variables: Any, clips: np.ndarray) -> np.ndarray:
  apply = jax.jit(module.apply, static_argnames="endpoints")
  return apply(variables, clips, endpoints=("pool5",))[1]["pool5"]


def test_another_head_is_that_of_the_seed(tmp_path: pathlib.Path) -> None:
  """Eight classes again, but other names: the logits would be of those."""
  made = from_weights(relabelled(), seed=7)
  run, state = begun(made, tmp_path / "run")
  module, ours, new = run.recipe.module, state.variables, run.record
  source, variables, record = p3d_jax.load(relabelled())
  assert new.provenance["init_from"]["head"] == "fresh"
  assert new.labels != record.labels
  why = "8 classes, the weights have others: '0', not 'pan_left'"
  assert f"from {relabelled()} (fresh head: {why})" in loop._opening(run, 0)
  for name, leaf in trunk(ours).items():
    np.testing.assert_array_equal(leaf, trunk(variables)[name], name)
  clips = record.preprocess(small.pixels(3))
  np.testing.assert_array_equal(
    pool5(module, ours, clips), pool5(source, variables, clips)
  )
  head, theirs = ours["params"]["head"], variables["params"]["head"]
  assert not np.array_equal(head["fc"]["kernel"], theirs["fc"]["kernel"])
  drawn = jax.jit(module.init)(jax.random.key(7), clips)["params"]["head"]
  for name in ("kernel", "bias"):
    np.testing.assert_array_equal(head["fc"][name], drawn["fc"][name])


def test_what_belongs_to_the_weights_is_theirs() -> None:
  """And what belongs to training the config's, in all that is written."""
  made = plain()
  made.init_from = str(foreign())
  record = model.read_record(foreign())
  run = loop.prepare(made, small.folder() / "run")
  assert run.record.provenance["init_from"]["source"] == "converted"
  ours = dict(run.record.model)
  changed = {
    name: ours.pop(name) for name in ("num_classes", "dropout", "norm_momentum")
  }
  assert changed == {"num_classes": 8, "dropout": 0.2, "norm_momentum": 0.9}
  # A config has the three strings in one.
  assert ours.pop("schedule") == "A,BC,S"
  assert ours == {name: record.model[name] for name in ours}
  pixels = small.PREPROCESSING
  assert run.record.preprocessing == dataclasses.replace(
    record.preprocessing,
    frames=pixels.frames,
    stride=pixels.stride,
    resize=pixels.resize,
    crop=pixels.crop,
  )
  written = run.record.provenance["config"]
  assert written["model"]["stages"] == [1, 2, 1, 1]
  assert written["preprocessing"]["mean"] == [0.4, 0.5, 0.6]
  assert made.model.stages is None  # the caller's config is as it was
  assert "fresh head: 8 classes, the weights have 3" in loop._opening(run, 0)


def test_the_name_of_a_network_is_found() -> None:
  network = zoo.build("p3d199", num_classes=None)
  record = model.Record(zoo.to_fields(network), Preprocessing(), ())
  made = plain()
  made.init_from = "weights"
  resolved = init._resolve(made, record, fresh_head=True)
  assert resolved.model.name == "p3d199"
  assert configs.network(resolved, 8).stages == (3, 8, 36, 3)
  assert init._fresh_head(record, ("a", "b")) == (
    "2 classes, the weights are a trunk"
  )


def rates(made: ConfigDict) -> tuple[float, float, float, float]:
  """The learning rates of stem, fc's kernel and fc's bias, and config.json's.

  As the optimiser of the run takes them.
  """
  run = loop.prepare(made, small.folder() / "run")
  shapes = tree.unflatten(dict.fromkeys(("stem/conv/kernel", *HEAD), 0))
  plan = optim.plan(shapes, run.config.optim, "none")
  base = float(optim.learning_rate(run.config)(0))
  written = run.record.provenance["config"]["optim"]["learning_rate"]
  stem, kernel, bias = (base * plan[name].multiplier for name in plan)
  return stem, kernel, bias, written


HEAD = ("head/fc/kernel", "head/fc/bias")


def test_learning_rates() -> None:
  """The UCF101 study's and the prototxts' numbers, where they are due."""

  def of(init_from: object, **fields: Any) -> tuple[float, ...]:
    made = from_weights(init_from)
    made.optim = configs.default().optim
    made.optim.update(fields)
    return rates(made)

  # Rates are float32.
  def near(*numbers: float) -> Any:
    return pytest.approx(numbers, rel=1e-6)

  own, other = small.trained(), relabelled()  # classes of the data, or others
  assert of("") == near(0.01, 0.01, 0.01, 0.01)
  assert of(own) == near(0.001, 0.001, 0.001, 0.001)
  assert of(other) == near(0.001, 0.01, 0.02, 0.001)
  assert of("", learning_rate=0.5) == near(0.5, 0.5, 0.5, 0.5)
  assert of(other, learning_rate=0.5) == near(0.5, 5, 10, 0.5)
  assert of(other, fresh_head_bias=3.0) == near(0.001, 0.01, 0.003, 0.001)
  assert of(own, init_learning_rate=0.2) == near(0.2, 0.2, 0.2, 0.2)
  assert of("", scratch_learning_rate=0.2) == near(0.2, 0.2, 0.2, 0.2)
  assert of(other, multipliers=(("^head", 2.0),)) == near(
    0.001, 0.02, 0.04, 0.001
  )


def test_the_demo_learns_at_its_own_rates() -> None:
  """README's numbers are of 0.004 for all layers."""
  from p3d_jax.train import config_file

  file = small.ROOT / "experiments" / "configs" / "demo.py"
  demo = config_file.load(str(file))
  assert optim.base_rate(demo) == 0.004
  assert demo.optim.multipliers == ()
  demo.init_from = "weights"
  assert optim.base_rate(demo) < 0.004


EVERYTHING: dict[str, Any] = {
  "train": {"ema": 0.9, "steps": 4},
  "optim": {"name": "adamw", "learning_rate": None},
  "augment": {"brightness": 0.2},
  "checkpoint": {"every": 2},
}


def lines(workdir: pathlib.Path) -> list[dict[str, Any]]:
  return [
    {name: value for name, value in line.items() if name not in CLOCK}
    for line in logs.read(workdir)
  ]


def stop_at(monkeypatch: pytest.MonkeyPatch, last: int) -> None:
  """Makes the step after `last` fail, as a machine that goes away."""
  make = step.jit_train_step

  def made(recipe: Any, mesh: Any) -> Any:
    real = make(recipe, mesh)

    def train_step(state: Any, batch: Any) -> Any:
      if int(state.step) == last:
        raise KeyboardInterrupt
      return real(state, batch)

    return train_step

  monkeypatch.setattr(step, "jit_train_step", made)


def test_a_stopped_run_goes_on_without_the_folder(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  """The same command; a fresh head, averages and Adam's moments, to the bit."""
  source = tmp_path / "weights"
  shutil.copytree(relabelled(), source)
  whole, stopped = tmp_path / "whole", tmp_path / "stopped"
  made = from_weights(source, EVERYTHING)
  loop.train(made, whole)
  # The source was past none of it: steps 1 to 4 are all done.
  assert [x["step"] for x in lines(whole) if x["kind"] == "train"] == [
    1, 2, 3, 4,
  ]  # fmt: skip
  with monkeypatch.context() as patch:
    stop_at(patch, 3)
    with pytest.raises(KeyboardInterrupt):
      loop.train(made, stopped)
  source.rename(tmp_path / "gone")
  capsys.readouterr()
  loop.train(made, stopped)
  assert "going on from step 2" in capsys.readouterr().err
  assert lines(stopped) == lines(whole)
  records = [p3d_jax.load(run)[2] for run in (whole, stopped)]
  assert records[0].sha256 == records[1].sha256
  for name in ("init_from", "config"):
    assert records[0].provenance[name] == records[1].provenance[name]
  written = json.loads((stopped / "config.json").read_text())["optim"]
  assert written["learning_rate"] == 0.001
  assert written["multipliers"] == [
    ["^head/fc/kernel", 10.0],
    ["^head/fc/bias", 20.0],
  ]
  # Nor is another run this one.
  for field, message in (
    ({"seed": 1}, r"config\.seed was 0, is 1"),
    ({"init_from": str(tmp_path)}, r"is of a run that began from '.*'; name"),
    ({"init_from": ""}, r"config\.init_from was '.*', is ''"),
  ):
    other = from_weights(source, EVERYTHING, **field)
    with pytest.raises(ValueError, match=message):
      loop.train(other, stopped)


def test_a_run_that_was_killed_before_its_first_step_begins_again(
  tmp_path: pathlib.Path,
) -> None:
  made = from_weights(small.trained())
  first, _ = begun(made, tmp_path)
  logs.write_config(epath.Path(tmp_path), first.config)
  torn = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp-123"
  torn.mkdir()
  run, state = begun(made, tmp_path)
  assert not torn.exists()
  assert run.start.note
  expected = p3d_jax.load(small.trained())[2].sha256
  assert tree.digest(state.variables) == expected


@functools.cache
def flow() -> pathlib.Path:
  network = small.network()
  pixels = dataclasses.replace(
    small.PREPROCESSING, channels="flow", mean=(128.0,) * 2, std=(1.0,) * 2
  )
  record = dataclasses.replace(small.record(network), preprocessing=pixels)
  variables = small.variables(network)
  kernel = variables["params"]["stem"]["conv"]["kernel"]
  variables["params"]["stem"]["conv"]["kernel"] = kernel[:, :, :, :2]
  path = small.folder() / "flow"
  model.save(path, variables, record)
  return path


def test_flow_weights_train_on_a_flow_set(tmp_path: pathlib.Path) -> None:
  """Their channels and mean are theirs, and their stem comes over."""
  flows = make_flow_set(
    small.dataset(), tmp_path / "flow", bound=8, method="dis", workers=1,
    progress=False,
  )  # fmt: skip
  made = plain()
  made.data.dir = str(flows)
  made.init_from = str(flow())
  loop.train(made, tmp_path / "run")
  _, found, record = p3d_jax.load(tmp_path / "run")
  assert record.preprocessing.channels == "flow"
  assert record.preprocessing.mean == (128.0, 128.0)
  _, begun, _ = p3d_jax.load(flow())
  expected, now = trunk(begun), trunk(found)
  assert expected.keys() == now.keys()
  assert all(np.array_equal(expected[name], now[name]) for name in now)


@functools.cache
def damaged() -> pathlib.Path:
  path = small.folder() / "damaged"
  shutil.copytree(foreign(), path)
  file = path / "model" / "model.json"
  content = json.loads(file.read_text())
  file.write_text(json.dumps(content | {"sha256": "0" * 64}))
  return path


@pytest.mark.parametrize(
  ("source", "fields", "message"),
  [
    (lambda: "nowhere", {}, r"init_from is 'nowhere': there is no /"),
    (small.footage, {}, r"is no checkpoint and no workdir"),
    (damaged, {}, r"sha256 .* is damaged"),
    (flow, {}, r"channels='flow': .* holds RGB videos, `p3d data flow` makes"),
    (foreign, {"model": {"width": 8}}, r"model\.width is 8: .* have 4; leave"),
    (
      foreign,
      {"model": {"schedule": "AB"}},
      r"model\.schedule is 'AB': .* have 'A,BC,S'",
    ),
    (
      foreign,
      {"model": {"name": "p3d199"}},
      r"model\.name is 'p3d199', stages \(3, 8, 36, 3\): .* \(1, 2, 1, 1\)",
    ),
    (
      foreign,
      {"model": {"flavour": "port"}},
      r"model\.flavour is 'port', rule 'port': .* have 'paper'",
    ),
    (
      foreign,
      {"preprocessing": {"mean": (1.0, 2.0, 3.0)}},
      r"preprocessing\.mean is \(1\.0, 2\.0, 3\.0\): .* \(0\.4, 0\.5, 0\.6\)",
    ),
  ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
  tmp_path: pathlib.Path, source: Any, fields: dict[str, Any], message: str
) -> None:
  made = plain()
  made.init_from = str(source())
  for section, values in fields.items():
    made[section].update(values)
  with pytest.raises(configs.ConfigError, match=message) as caught:
    loop.train(made, tmp_path / "run")
  assert str(caught.value).startswith("config.")
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "run").exists()


def test_what_equals_the_weights_or_follows_from_them_may_be_set() -> None:
  made = plain()
  made.init_from = str(foreign())
  made.model.update({"width": 4, "schedule": "A,BC,S", "flavour": "paper"})
  made.model.update({"stem_pool": "padded", "reduce_stride": False})
  made.model.norm_epsilon = 1e-3
  made.preprocessing.mean = (0.4, 0.5, 0.6)
  assert loop.prepare(made, small.folder() / "run").config.model.width == 4


@pytest.mark.parametrize("part", ["", "checkpoints/2", "../run"])
def test_to_go_on_is_not_to_begin(part: str) -> None:
  workdir = small.trained()
  made = from_weights(workdir / part)
  with pytest.raises(configs.ConfigError, match="own workdir; .* leave"):
    loop.prepare(made, workdir)


def test_weights_are_no_workdir() -> None:
  files = sorted(foreign().rglob("*"))
  with pytest.raises(
    ValueError, match=r"is a checkpoint, which config\.init_f"
  ):
    loop.train(plain(), foreign())
  assert sorted(foreign().rglob("*")) == files


def test_a_run_that_began_without_is_not_given_weights() -> None:
  with pytest.raises(configs.ConfigError, match="of a run that began without"):
    loop.prepare(from_weights(foreign()), small.trained())


def test_weights_that_are_not_all_there_are_refused(
  tmp_path: pathlib.Path,
) -> None:
  """Of any leaf but the fresh head's."""
  made = from_weights(relabelled())
  labels = p3d_jax.load(small.trained())[2].labels
  start = init.begin(made, epath.Path(tmp_path), labels)
  _, variables, _ = p3d_jax.load(small.trained())
  init.check_weights(start, variables)
  del start.weights["batch_stats"]["stem"]
  with pytest.raises(
    configs.ConfigError, match="batch_stats/stem/bn/mean is m"
  ):
    init.check_weights(start, variables)
