"""Counts clips whose video could not be read, and stops a run of too many."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from p3d_jax.progress import Bar
from p3d_jax.train.logs import Logs
from p3d_jax.train.texts import gathered

WINDOW = 1000  # clips that the rate is of


class TooManyUnreadableError(ValueError):
  """More videos cannot be read than the config allows."""


class Replaced:
  """Counts replaced clips (data/pipeline.py), and says of each video why.

  A rate is of the last 1,000 clips, also at the start of a run, where there
  are fewer: one broken video in the first batch stops nothing.
  """

  def __init__(
    self,
    log: Logs,
    bar: Bar,
    limit: float,
    batch: int,
    said: Iterable[str] = (),
  ) -> None:
    """Starts at none, also where a run goes on.

    Args:
      log: that each problem is written to, once.
      bar: that says it.
      limit: largest share of the last 1,000 clips.
      batch: clips a step, over all hosts.
      said: problems that the run has written before.
    """
    self._log, self._bar, self._limit, self._batch = log, bar, limit, batch
    self._last: collections.deque[bool] = collections.deque(maxlen=WINDOW)
    self._said = set(said)
    self._own: dict[int, list[str]] = {}  # of steps that are not settled
    self._rows = batch  # that a host reads of a step

  def hold(self, step: int, rows: dict[str, Any]) -> None:
    """Keeps what this host's rows of a step say until `count` is told of it.

    Args:
      step: that the rows are of.
      rows: as `pipeline.train_batches` yields them.
    """
    replaced = np.asarray(rows["replaced"]) > 0
    self._rows = len(replaced)
    if replaced.any():
      self._own[step] = [str(text) for text in rows["problem"][replaced]]

  def count(self, step: int, clips: int) -> None:
    """Counts a step; all hosts call it for the same steps.

    Args:
      step: that is done.
      clips: of it, on all hosts, that stand for others.

    Raises:
      TooManyUnreadableError: the rate is above the limit.
    """
    self._last.extend([False] * (self._batch - clips) + [True] * clips)
    if not clips:
      return
    problems = gathered(self._own.pop(step, []), self._rows)
    for problem in problems:
      if problem not in self._said:
        self._said.add(problem)
        if jax.process_index() == 0:  # what all hosts know, one says
          self._bar.say(
            f"step {step}: {problem}; another video takes its place"
          )
        self._log.note(step, "replaced", {"problem": problem})
    count = sum(self._last)
    if count > self._limit * WINDOW:
      raise TooManyUnreadableError(
        f"{count} of the last {len(self._last)} clips had to be replaced, more "
        f"than config.input.max_replaced={self._limit:g} of {WINDOW}; the "
        f"last: {problems[-1]}. `p3d data check` lists what cannot be read"
      )


def check_evaluation(
  problems: tuple[str, ...], videos: int, limit: float
) -> None:
  """Refuses an evaluation of which too much could not be read.

  Args:
    problems: of the videos that could not be read.
    videos: how many there are.
    limit: largest share of them; one may be unreadable always, unless it is 0.

  Raises:
    TooManyUnreadableError: there are more.
  """
  if len(problems) > max(limit * videos, limit > 0):
    raise TooManyUnreadableError(
      f"{len(problems)} of {videos} videos of the evaluation split cannot be "
      f"read, more than config.input.max_replaced={limit:g} of them; the "
      f"first: {problems[0]}"
    )
