"""The checkpoints of a training run: saved beside the work, kept by rule.

A step is a checkpoint of model.py with `train/` beside it: the optimiser's
state, and the raw parameters where evaluation uses averaged ones. A save runs
in the background; a step that a kill cut short is not a step. A step is saved
before it is evaluated, and gets its scores after that.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from p3d_jax import files
from p3d_jax.checkpoint import model
from p3d_jax.files import absolute


class RunCheckpoints:
  """Saves and restores the steps of one run.

  Attributes:
    directory: of the checkpoints in the workdir.
  """

  def __init__(
    self, workdir: epath.PathLike, *, keep: int, keep_best: int
  ) -> None:
    """Opens or makes `workdir/checkpoints`.

    Args:
      workdir: of the run.
      keep: newest steps that stay.
      keep_best: steps of the highest video hit@1 that stay besides.
    """
    self.directory = absolute(workdir) / model.CHECKPOINTS
    self._kept = _Kept(keep, keep_best, {})
    self._failed = False
    # A failed save's threads write on, and print what nobody can use.
    self._quiet = contextlib.ExitStack()
    self._quiet.enter_context(model.without_closed_loops())
    self._manager = ocp.CheckpointManager(
      self.directory,
      item_handlers=model.handlers(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=self._kept,
        cleanup_tmp_directories=True,
        # Deciding when is the loop's; every call of `save` saves.
        should_save_fn=lambda step, last: step != last,
      ),
    )
    for step in self._manager.all_steps():
      score = model.score(self.directory / str(step))
      if score is not None:
        self._kept.scores[step] = score

  def last(self) -> int | None:
    """The newest whole step, or None."""
    return self._manager.latest_step()

  def save(self, state: Any, record: model.Record) -> None:
    """Starts saving a TrainState.

    Its numbers are on the host when this returns (Orbax copies them; on CPU it
    holds the buffers, which JAX then does not donate), so the next step may
    take its memory. The files are written in the background.

    Args:
      state: of the run.
      record: of its network.
    """
    step = int(state.step)
    items = model.parts(state.variables, record)
    items["train"] = ocp.args.StandardSave(_train(state))
    with self._saving():
      self._manager.save(step, args=ocp.args.Composite(**items))

  def score(self, step: int, metrics: dict[str, float]) -> None:
    """Writes the metrics of a step's evaluation beside it, which ranks it.

    Args:
      step: that was saved.
      metrics: of its evaluation, "video_hit@1" among them.
    """
    self.wait()
    if jax.process_index() == 0:
      model.write_score(self.directory / str(step), metrics)
    self._kept.scores[step] = metrics[model.BEST]
    steps = self._manager.all_steps()
    for step in set(steps) - self._kept.of(steps):
      self._manager.delete(step)

  def restore(self, state: Any, record: model.Record) -> Any:
    """Returns the newest step's state, each array where `state` has it.

    Args:
      state: a TrainState of the same run: shapes, types and shardings.
      record: of its network.

    Raises:
      CheckpointError: if there is no step, or it is of another network, or its
        numbers are not those saved.
    """
    step = self.last()
    if step is None:
      raise model.CheckpointError(f"{self.directory} has no step")
    path = self.directory / str(step)
    model.check_network(model.read_record(path), record, path)
    items = self._read(step, state)
    variables = items["variables"]
    model.check_digest(variables, model.read_record(path), path)
    params = variables["params"]
    ema = None
    if state.ema is not None:
      ema, params = params, items["train"]["params"]
    return state.replace(
      step=jax.device_put(jnp.asarray(step, jnp.int32), state.step.sharding),
      params=params,
      batch_stats=variables["batch_stats"],
      opt_state=items["train"]["opt_state"],
      ema=ema,
    )

  def _read(self, step: int, state: Any) -> Any:
    """Reads the arrays of a step."""
    try:
      return self._manager.restore(
        step,
        args=ocp.args.Composite(
          variables=ocp.args.StandardRestore(_abstract(state.variables)),
          train=ocp.args.StandardRestore(_abstract(_train(state))),
        ),
      )
    # Not less: where a file is cut short, Orbax raises an Exception of no kind,
    # with a page of text; what it comes of says it in a line.
    except Exception as error:
      reason = str(error.__cause__ or error).partition("\n")[0]
      raise model.CheckpointError(
        f"{self.directory / str(step)} is damaged, or cannot be read: {reason}"
      ) from error

  def wait(self) -> None:
    """Waits until what was saved is whole.

    Raises:
      CheckpointError: if it cannot be, as on a full disk; older steps are.
    """
    with self._saving():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for the last save, and ends; see `wait`."""
    with self._quiet:
      if not self._failed:  # which has been told
        self.wait()
        self._manager.close()

  @contextlib.contextmanager
  def _saving(self) -> Iterator[None]:
    """Tells what a save fails at, and removes what it has written."""
    try:
      yield
    # Not less: of a store, gcsfs raises an Exception of its own kind.
    except Exception as error:
      self._failed = True
      if not files.is_outage(error):
        for torn in self.directory.glob("*.orbax-checkpoint-tmp*"):
          model.remove(torn)
      raise model.CheckpointError(
        f"a step cannot be saved in {self.directory}, which keeps its older "
        f"ones: {' '.join(str(error).split())}"
      ) from error


@dataclasses.dataclass
class _Kept:
  """The steps that stay: the newest, and those of the highest scores.

  Attributes:
    newest: how many of the newest.
    best: how many of the best besides; the later one of two equal ones.
    scores: of the steps that were evaluated.
  """

  newest: int
  best: int
  scores: dict[int, float]

  def of(self, steps: Iterable[int]) -> set[int]:
    """Returns which of the steps stay."""
    there = sorted(steps)
    ranked = sorted(
      (step for step in there if step in self.scores),
      key=lambda step: (self.scores[step], step),
    )
    best = ranked[len(ranked) - self.best :] if self.best else []
    return {*there[-self.newest :], *best}

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    """Says of each checkpoint whether it stays, as Orbax asks."""
    kept = self.of(info.step for info in checkpoints)
    return [info.step in kept for info in checkpoints]


def _train(state: Any) -> dict[str, Any]:
  kept = {"opt_state": state.opt_state}
  return kept if state.ema is None else kept | {"params": state.params}


def _abstract(tree: Any) -> Any:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
  )
