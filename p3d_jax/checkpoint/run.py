"""The checkpoints of a training run: saved beside the work, kept by rule.

A step is a checkpoint of model.py with `train/` beside it: the optimiser's
state, and the raw parameters where evaluation uses averaged ones. A save runs
in the background; a step that a kill cut short is not a step.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from p3d_jax.checkpoint import model

BEST = "video_hit@1"


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
    self.directory = epath.Path(workdir).absolute() / model.CHECKPOINTS
    rules: list[Any] = [policies.LatestN(keep)]
    if keep_best:
      rules.append(
        policies.BestN(
          get_metric_fn=_best,
          n=keep_best,
          keep_checkpoints_without_metrics=False,
        )
      )
    self._manager = ocp.CheckpointManager(
      self.directory,
      item_handlers=model.handlers(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(rules),
        # The policy decides; but without this no metrics would be written, and
        # a run that goes on would not know its best step.
        best_fn=_best,
        cleanup_tmp_directories=True,
        # Deciding when is the loop's; every call of `save` saves.
        should_save_fn=lambda step, last: step != last,
      ),
    )

  def last(self) -> int | None:
    """The newest whole step, or None."""
    return self._manager.latest_step()

  def save(
    self,
    state: Any,
    record: model.Record,
    metrics: dict[str, float] | None = None,
  ) -> None:
    """Starts saving a TrainState.

    Its numbers are on the host when this returns (Orbax copies them; on CPU it
    holds the buffers, which JAX then does not donate), so the next step may
    take its memory. The files are written in the background.

    Args:
      state: of the run.
      record: of its network.
      metrics: of an evaluation of this very state, if there was one.
    """
    step = int(state.step)
    items = model.parts(state.variables, record)
    items["train"] = ocp.args.StandardSave(_train(state))
    self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics)

  def restore(self, state: Any) -> Any:
    """Returns the newest step's state, each array where `state` has it.

    Args:
      state: a TrainState of the same run: shapes, types and shardings.

    Raises:
      CheckpointError: if there is no step, or its numbers are not those saved.
    """
    step = self.last()
    if step is None:
      raise model.CheckpointError(f"{self.directory} has no step")
    items = self._manager.restore(
      step,
      args=ocp.args.Composite(
        variables=ocp.args.StandardRestore(_abstract(state.variables)),
        train=ocp.args.StandardRestore(_abstract(_train(state))),
      ),
    )
    path = self.directory / str(step)
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

  def close(self) -> None:
    """Waits for the last save."""
    self._manager.wait_until_finished()
    self._manager.close()


def _best(metrics: dict[str, float]) -> float:
  return metrics[BEST]


def _train(state: Any) -> dict[str, Any]:
  kept = {"opt_state": state.opt_state}
  return kept if state.ema is None else kept | {"params": state.params}


def _abstract(tree: Any) -> Any:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
  )
