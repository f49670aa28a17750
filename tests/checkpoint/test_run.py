"""The steps of a run: saved in the background, kept by rule."""

import asyncio
import dataclasses
import pathlib
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from p3d_jax.checkpoint import model, tree
from p3d_jax.checkpoint.run import RunCheckpoints
from p3d_jax.train import sharding
from p3d_jax.train.state import TrainState
from tests import small

RECORD = small.record(small.network())


def state_at(step: int, size: int = 8) -> TrainState:
  """A state whose every number is the step."""

  def full() -> Any:
    return jnp.full((size,), step, jnp.float32)

  state = TrainState(
    step=jnp.asarray(step, jnp.int32),
    params={"fc": {"kernel": full()}},
    batch_stats={"bn": {"mean": full()}},
    opt_state={"trace": full()},
  )
  return jax.device_put(state, sharding.replicated(sharding.mesh()))


def score(value: float) -> dict[str, float]:
  return {"video_hit@1": value, "clip_hit@1": 0.0, "video_hit@5": 100.0}


def names(path: pathlib.Path) -> list[int]:
  return sorted(int(p.name) for p in (path / "checkpoints").iterdir())


def test_the_newest_and_the_best_stay(tmp_path: pathlib.Path) -> None:
  scores = {1: 10.0, 2: 90.0, 3: None, 4: 20.0, 5: None, 6: 30.0, 7: None}
  checkpoints = RunCheckpoints(tmp_path, keep=2, keep_best=1)
  for step, value in scores.items():
    checkpoints.save(state_at(step), RECORD)
    if value is not None:
      checkpoints.score(step, score(value))
  checkpoints.close()
  assert names(tmp_path) == [2, 6, 7]
  assert model.find(tmp_path).name == "7"
  assert model.find(tmp_path, "best").name == "2"
  # Opened again by a run that goes on, with another rule.
  checkpoints = RunCheckpoints(tmp_path, keep=1, keep_best=2)
  assert checkpoints.last() == 7
  checkpoints.save(state_at(8), RECORD)
  checkpoints.score(8, score(40.0))
  checkpoints.close()
  assert names(tmp_path) == [2, 8]
  checkpoints = RunCheckpoints(tmp_path, keep=1, keep_best=0)
  checkpoints.save(state_at(9), RECORD)
  checkpoints.score(9, score(1.0))
  checkpoints.close()
  assert names(tmp_path) == [9]


def test_a_step_of_another_network_is_refused(tmp_path: pathlib.Path) -> None:
  checkpoints = RunCheckpoints(tmp_path, keep=1, keep_best=0)
  checkpoints.save(state_at(1), RECORD)
  checkpoints.wait()
  other = small.record(small.network(schedule="S"))
  with pytest.raises(
    model.CheckpointError,
    match=r"checkpoints/1 is of another network: schedule is 'ABC', not 'S'$",
  ):
    checkpoints.restore(state_at(0), other)
  checkpoints.close()


def test_a_torn_step_is_no_step(tmp_path: pathlib.Path) -> None:
  checkpoints = RunCheckpoints(tmp_path, keep=2, keep_best=0)
  checkpoints.save(state_at(1), RECORD)
  checkpoints.close()
  torn = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp-77"
  (torn / "variables").mkdir(parents=True)
  checkpoints = RunCheckpoints(tmp_path, keep=2, keep_best=0)
  assert checkpoints.last() == 1
  checkpoints.save(state_at(2), RECORD)
  checkpoints.close()
  assert not torn.exists()
  assert names(tmp_path) == [1, 2]


def test_other_numbers_than_those_saved_are_refused(
  tmp_path: pathlib.Path,
) -> None:
  checkpoints = RunCheckpoints(tmp_path, keep=1, keep_best=0)
  checkpoints.save(state_at(1), RECORD)
  checkpoints.close()
  file = tmp_path / "checkpoints" / "1" / "model" / "model.json"
  digest = model.read_record(model.find(tmp_path)).sha256
  assert digest == tree.digest(state_at(1).variables)
  file.write_text(file.read_text().replace(str(digest), "0" * 64))
  checkpoints = RunCheckpoints(tmp_path, keep=1, keep_best=0)
  with pytest.raises(model.CheckpointError, match="damaged"):
    checkpoints.restore(state_at(0), RECORD)
  checkpoints.close()


def test_a_save_neither_holds_up_nor_sees_the_next_step(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """The files are held back while donated steps overwrite the state."""
  go, wrote = threading.Event(), threading.Event()
  plain = ocp.JsonCheckpointHandler._save_fn

  async def held(self: Any, *args: Any) -> Any:
    assert await asyncio.to_thread(go.wait, 60)
    wrote.set()
    return await plain(self, *args)

  monkeypatch.setattr(ocp.JsonCheckpointHandler, "_save_fn", held)
  step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  checkpoints = RunCheckpoints(tmp_path, keep=1, keep_best=0)
  state = state_at(5, size=3_000_000)
  began = time.monotonic()
  checkpoints.save(state, RECORD)
  assert time.monotonic() - began < 30
  assert not wrote.is_set()  # save has come back, its files are not there
  assert not (tmp_path / "checkpoints" / "5").exists()
  for _ in range(5):
    state = step(state)
  assert float(state.params["fc"]["kernel"][0]) == 10
  go.set()
  checkpoints.close()
  assert wrote.is_set()
  checkpoints = RunCheckpoints(tmp_path, keep=1, keep_best=0)
  restored = checkpoints.restore(state_at(0, size=3_000_000), RECORD)
  checkpoints.close()
  for leaf in jax.tree.leaves(restored):
    np.testing.assert_array_equal(leaf, 5)
  assert int(restored.step) == 5


def test_a_step_has_its_own_record(tmp_path: pathlib.Path) -> None:
  checkpoints = RunCheckpoints(tmp_path, keep=3, keep_best=0)
  for step in (1, 2):
    record = dataclasses.replace(RECORD, provenance={"step": step})
    checkpoints.save(state_at(step), record)
  checkpoints.close()
  for step in (1, 2):
    read = model.read_record(model.find(tmp_path, step))
    assert read.provenance == {"step": step}
    assert read.sha256 == tree.digest(state_at(step).variables)
