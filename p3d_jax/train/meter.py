"""Loss, accuracy and speed of the steps, without holding the device up."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from p3d_jax.progress import Bar
from p3d_jax.train.logs import Logs

# Steps that may be under way on the device while the host reads ahead.
_IN_FLIGHT = 2


class NonFiniteLossError(ArithmeticError):
  """The loss, or its gradient, became infinite or not a number."""


def falls_on(step: int, every: int) -> bool:
  """Whether something done every so many steps is done at this one."""
  return every > 0 and step % every == 0


class Meter:
  """Collects the steps' metrics without holding the device up.

  A line is the mean over the steps since the last one. It is written every
  `log.every` steps, and by `line` before an evaluation or a checkpoint, so
  that a run that goes on from a checkpoint writes the lines that it would
  have written undisturbed.

  Attributes:
    waited: seconds that the loop waited for data since the clock started.
  """

  def __init__(
    self,
    log: Logs,
    bar: Bar,
    *,
    rate: Callable[[int], Any],
    batch: int,
    every: int,
  ) -> None:
    """Starts the clock.

    Args:
      log: that lines are written to.
      bar: that shows them.
      rate: step -> learning rate.
      batch: clips a step.
      every: steps a line.
    """
    self._log, self._bar = log, bar
    self._rate, self._batch, self._every = rate, batch, every
    self._pending: collections.deque[tuple[int, Any, int]] = collections.deque()
    self._replaced = 0
    self._seen: list[dict[str, float]] = []
    self._step: int | None = None  # the last one settled
    self.restart()

  def restart(self) -> None:
    """Starts the clock again, after work that is not training."""
    self.waited, self._began = 0.0, time.monotonic()
    self._steps = 0

  def timed(self, rows: Iterator[Any]) -> Iterator[Any]:
    """Passes batches on and adds up how long each was waited for."""
    while True:
      began = time.monotonic()
      batch = next(rows, None)
      self.waited += time.monotonic() - began
      if batch is None:
        return
      yield batch

  def add(
    self, step: int, metrics: dict[str, jax.Array], replaced: int = 0
  ) -> None:
    """Takes the metrics of a step that may still be running.

    Args:
      step: that they are of.
      metrics: on the device.
      replaced: clips of the step that stand for videos that cannot be read.

    Raises:
      NonFiniteLossError: if those of this step or of one before are not finite.
    """
    self._pending.append((step, metrics, replaced))
    while len(self._pending) > _IN_FLIGHT:
      self._settle()

  def line(self) -> None:
    """Waits for all steps and writes a line of those not yet in one."""
    while self._pending:
      self._settle()
    if self._seen:
      self._line()

  def _settle(self) -> None:
    step, metrics, replaced = self._pending.popleft()
    values = {name: float(value) for name, value in metrics.items()}
    for name, what in (("loss", "loss"), ("gradient_norm", "gradient")):
      if not math.isfinite(values[name]):
        raise NonFiniteLossError(
          f"the {what} of step {step} is {values[name]}: training stopped; "
          "checkpoints of earlier steps are whole. Lower "
          "optim.learning_rate, or set optim.clip_norm or optim.warmup"
        )
    self._seen.append(values)
    self._replaced += replaced
    self._steps += 1
    self._bar.advance(step)
    first, self._step = self._step is None, step
    if falls_on(step, self._every):
      self._line()
    elif first:
      self.restart()  # the first step compiled

  def _line(self) -> None:
    step = self._step
    assert step is not None
    seconds = max(time.monotonic() - self._began, 1e-9)
    names = self._seen[0]
    mean = {n: float(np.mean([m[n] for m in self._seen])) for n in names}
    mean |= {
      "learning_rate": float(self._rate(step - 1)),
      "clips_per_second": self._steps * self._batch / seconds,
      "data_wait": self.waited / seconds,
      "replaced": self._replaced,
    }
    self._log.write(step, "train", mean)
    numbers = {
      "loss": f"{mean['loss']:.3f}",
      "clip hit@1": f"{100 * mean['accuracy']:.1f}",
      "clips/s": f"{mean['clips_per_second']:.3g}",
      "wait": f"{100 * mean['data_wait']:.0f}%",
    }
    if self._replaced:
      numbers["replaced"] = str(self._replaced)
    self._bar.update(step, numbers)
    self._seen, self._replaced = [], 0
    self.restart()
