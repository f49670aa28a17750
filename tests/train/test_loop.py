"""Runs from end to end, in this process."""

import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import pytest

import p3d_jax
from p3d_jax.checkpoint import tree
from p3d_jax.data.sets import open_set
from p3d_jax.models import p3d
from p3d_jax.train import config as configs
from p3d_jax.train import logs, loop, optim, sharding, step
from p3d_jax.train import state as states
from p3d_jax.train.meter import NonFiniteLossError
from p3d_jax.train.metrics import hits
from tests import small


def losses(workdir: pathlib.Path) -> dict[int, float]:
  lines = [line for line in logs.read(workdir) if line["kind"] == "train"]
  found = {line["step"]: line["loss"] for line in lines}
  assert len(found) == len(lines)
  return found


def test_a_finished_run_says_so(
  capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
  workdir = small.trained()
  before = (workdir / "metrics.jsonl").read_text()
  # It neither makes a state nor restores one.
  monkeypatch.setattr(loop, "_state", None)
  again = loop.train(small.config(), workdir)
  assert "has reached step 4: nothing to train" in capsys.readouterr().err
  assert (workdir / "metrics.jsonl").read_text() == before
  last = json.loads(before.splitlines()[-1])
  assert again == {k: v for k, v in last.items() if k not in ("step", "kind")}


def test_a_workdir_that_is_not_this_run_s_is_refused(
  tmp_path: pathlib.Path,
) -> None:
  workdir = small.trained()
  files = sorted(workdir.rglob("*"))
  other = small.config()
  other.seed = 1
  with pytest.raises(ValueError, match=r"config\.seed was 0, is 1"):
    loop.train(other, workdir)
  assert sorted(workdir.rglob("*")) == files
  file = tmp_path / "notes.txt"
  file.write_text("kept")
  with pytest.raises(ValueError, match="workdir is .*notes.txt: it is a file"):
    loop.train(other, file)
  assert file.read_text() == "kept"


def test_a_run_goes_on_with_its_set_wherever_that_is(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """A copy of it will do; another one is refused, and nothing is written."""
  workdir = small.trained()
  shutil.copytree(small.dataset(), tmp_path / "copy")
  moved = small.config(data={"dir": str(tmp_path / "copy")})
  loop.train(moved, workdir)
  assert "nothing to train" in capsys.readouterr().err
  other = small.relabelled(tmp_path / "other")
  files = sorted(workdir.rglob("*"))
  with pytest.raises(
    ValueError,
    match="config.data.dir is '.*other': it is not the set of the run in .*, "
    f"which began with {small.dataset()}",
  ):
    loop.train(small.config(data={"dir": str(other)}), workdir)
  assert sorted(workdir.rglob("*")) == files


def test_the_evaluation_is_that_of_the_saved_variables() -> None:
  """Video by video, in plain numpy, on what the checkpoint holds."""
  module, variables, record = p3d_jax.load(small.trained())
  assert record.provenance["step"] == 4
  videos = open_set(small.dataset(), "test")
  clip_hits, video_scores, labels = [], [], []
  for k in range(len(videos)):
    clips = p3d_jax.read_clips(videos[k]["video"], record.preprocessing, 2)
    logits = module.apply(variables, record.preprocess(clips))
    scores = np.asarray(jax.nn.softmax(logits))
    label = videos[k]["labels"][0]
    clip_hits += [int(row.argmax()) == label for row in scores]
    video_scores.append(scores.mean(0))
    labels.append([label])
  line = logs.read(small.trained())[-1]
  assert line["clip_hit@1"] == 100 * np.mean(clip_hits)
  got = hits(np.array(video_scores), np.array(labels), 1)
  assert line["video_hit@1"] == 100 * got.mean()


def test_lines_are_means_and_the_last_step_always_has_one(
  tmp_path: pathlib.Path,
) -> None:
  """Other lines, same steps: log.every beyond the end, no evaluation within."""
  made = small.config(
    log={"every": 3, "tensorboard": False},
    eval={"every": 0},
    checkpoint={"every": 100},
  )
  loop.train(made, tmp_path / "run")
  each = losses(small.trained())
  lines = losses(tmp_path / "run")
  assert list(lines) == [3, 4]
  np.testing.assert_allclose(lines[3], np.mean([each[s] for s in (1, 2, 3)]))
  assert lines[4] == each[4]
  assert not (tmp_path / "run" / "tensorboard").exists()
  assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["4"]
  kinds = [(line["step"], line["kind"]) for line in logs.read(tmp_path / "run")]
  assert kinds[-1] == (4, "eval")


@pytest.mark.parametrize("what", ["loss", "gradient_norm"])
def test_a_loss_that_is_not_finite_ends_the_run(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
  taken: list[int] = []

  def make(recipe: Any, mesh: Any) -> Any:
    def fake(state: Any, batch: Any) -> Any:
      taken.append(int(state.step) + 1)
      values = {"loss": 1.0, "accuracy": 0.5, "gradient_norm": 1.0}
      if taken[-1] >= 3:
        values[what] = float("nan") if taken[-1] == 3 else float("inf")
      state = state.replace(step=state.step + 1)
      metrics = {name: np.float32(value) for name, value in values.items()}
      return state, metrics | {"replaced": 0, "notice": 0}

    return fake

  monkeypatch.setattr(step, "jit_train_step", make)
  monkeypatch.setattr(loop, "_evaluate", lambda *a: {})
  made = small.config(
    train={"steps": 20}, eval={"every": 0}, checkpoint={"every": 1}
  )
  word = {"loss": "loss", "gradient_norm": "gradient"}[what]
  with pytest.raises(NonFiniteLossError, match=f"{word} of step 3 is nan"):
    loop.train(made, tmp_path / "run")
  assert taken[-1] == 3  # checkpoints wait, so no step more was taken
  steps = sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir())
  assert steps == ["1", "2"]
  assert list(losses(tmp_path / "run")) == [1, 2]


def test_the_exact_step_is_named_without_checkpoints(
  tmp_path: pathlib.Path,
) -> None:
  """A rate that no network survives, on the real step."""
  made = small.config(
    train={"steps": 50},
    optim={"learning_rate": 1e6, "weight_decay": 1e3},
    eval={"every": 0},
    checkpoint={"every": 100},
  )
  with pytest.raises(NonFiniteLossError) as caught:
    loop.train(made, tmp_path / "run")
  named = int(str(caught.value).split("of step ")[1].split()[0])
  assert sorted(losses(tmp_path / "run")) == list(range(1, named))
  assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


STATES = {
  "adamw, averages, frozen": {
    "optim": {
      "name": "adamw",
      "freeze": ("^stem/", "^res2/block00/spatial"),
      "multipliers": (("^head", 2.0),),
      "clip_norm": 1.0,
    },
    "train": {"ema": 0.5},
    "norm": {"freeze": "all_but_first"},
  },
  "sgd": {},
}


def state_of(made: Any) -> Any:
  module = configs.network(made, 8)
  tx = optim.optimizer(made, p3d.abstract_variables(module, 3)["params"])

  def create(abstract: bool = False) -> Any:
    return states.create(
      module,
      tx,
      sharding.mesh(),
      channels=3,
      seed=0,
      ema=bool(made.train.ema),
      abstract=abstract,
    )

  return module, tx, create


@pytest.mark.parametrize("name", STATES)
def test_every_kind_of_state_comes_back(
  tmp_path: pathlib.Path, name: str
) -> None:
  """Saved, overwritten by donated steps at once, restored: to the bit."""
  made = small.config(**STATES[name])
  module, tx, create = state_of(made)
  mesh = sharding.mesh()
  recipe = step.Recipe(
    module,
    tx,
    small.PREPROCESSING,
    ema=made.train.ema,
    seed=0,
    layout=sharding.Layout(mesh),
  )
  state = create()
  train_step = step.jit_train_step(recipe, state)
  batch = {"clips": small.pixels(8), "labels": np.arange(8)[:, None]}
  batch = sharding.put({k: np.asarray(v) for k, v in batch.items()}, mesh)
  record = small.record(small.network())
  checkpoints = loop.RunCheckpoints(tmp_path, keep=9, keep_best=0)
  copies = {}
  for number in range(1, 4):
    state, _ = train_step(state, batch)
    copies[number] = jax.tree.map(np.array, state)
    checkpoints.save(state, record)
  state, _ = train_step(state, batch)
  jax.block_until_ready(state)
  checkpoints.close()
  for number, copy in copies.items():
    for other in set(copies) - {number}:  # so that `number` is the newest
      (tmp_path / "checkpoints" / str(other)).rename(tmp_path / f"x{other}")
    opened = loop.RunCheckpoints(tmp_path, keep=9, keep_best=0)
    restored = opened.restore(create(abstract=True), record)
    opened.close()
    assert jax.tree.structure(restored) == jax.tree.structure(copy)
    for a, b in zip(
      jax.tree.leaves(restored), jax.tree.leaves(copy), strict=True
    ):
      np.testing.assert_array_equal(a, b)
    for other in set(copies) - {number}:
      (tmp_path / f"x{other}").rename(tmp_path / "checkpoints" / str(other))
  before, after = copies[1].params, copies[3].params
  frozen = [
    n
    for n, v in tree.flatten(before).items()
    if np.array_equal(v, tree.flatten(after)[n])
  ]
  assert bool(frozen) == ("frozen" in name)
