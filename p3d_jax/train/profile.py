"""A trace of some steps, for TensorBoard's profile page and for XProf."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TypeVar

import jax
from etils import epath

from p3d_jax import files
from p3d_jax.progress import Bar

Result = TypeVar("Result")

FOLDER = "profile"  # of a workdir
NAME = "train"  # of a step in the trace; its number is beside it
_ENDINGS = (".xplane.pb", ".trace.json.gz")


class Profile:
  """Traces some steps of a run; use it in a `with`, and around each step.

  The trace is of this host's devices and threads, so each host of a run writes
  its own, all into one folder that TensorBoard shows as one run:
  `profile/plugins/profile/steps11-15/host003.xplane.pb`. It is made on this
  machine's disk and copied, as the profiler knows no gs://.
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    *,
    start: int,
    steps: int,
    first_step: int,
    last_step: int,
    bar: Bar,
    paused: Callable[[], AbstractContextManager[object]],
  ) -> None:
    """Takes which steps are traced.

    Args:
      workdir: of the run; the trace comes into `profile` in it.
      start: steps that this process takes before the trace.
      steps: that are traced, if the run has as many left; 0: none.
      first_step: steps of the run that were done before this process.
      last_step: of the run.
      bar: that says where the trace is, or that there will be none.
      paused: makes what the trace is begun and ended in: that takes seconds,
        which are no step's.
    """
    self._to = epath.Path(workdir) / FOLDER
    first = first_step + start + 1
    self._asked = range(first, first + steps)
    self._steps = range(first, min(first + steps, last_step + 1))
    self._start, self._last_step = start, last_step
    self._bar, self._paused = bar, paused
    self._done = 0  # the last step in the trace
    self._folder: tempfile.TemporaryDirectory[str] | None = None

  def step(
    self, number: int, work: Callable[..., Result], *args: object
  ) -> Result:
    """Takes a step, in the trace if it is one of its steps.

    The device's work before the first is waited for, and that of the last: the
    trace has whole steps. No other step waits. The trace is not ended here, but
    in `after`: the step is done before that.

    Args:
      number: of the step, 1 for the first of a run.
      work: the step.
      *args: of `work`.

    Returns:
      What `work` does.
    """
    if number not in self._steps:
      return work(*args)
    if self._folder is None:
      with self._paused():
        jax.block_until_ready(args)
        self._begin()
    self._done = number
    with jax.profiler.StepTraceAnnotation(NAME, step_num=number):
      result = work(*args)
    if number == self._steps[-1]:
      jax.block_until_ready(result)
    return result

  def after(self, number: int) -> None:
    """Writes the trace, if a step that is done was its last.

    Args:
      number: of the step.
    """
    if self._folder is not None and number == self._steps[-1]:
      with self._paused():
        self._end()

  def __enter__(self) -> Profile:
    """Begins nothing yet; says if the run ends before the trace begins."""
    if self._asked and not self._steps and jax.process_index() == 0:
      self._bar.say(
        f"profile.start is {self._start}: steps {self._asked[0]} to "
        f"{self._asked[-1]} would be traced, but the run ends at step "
        f"{self._last_step}: there will be no trace"
      )
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    """Writes the trace of a run that fails or is stopped within its steps.

    Nothing is waited for: what a device failed at would fail here again, or
    never come.
    """
    self._end()

  def _begin(self) -> None:
    options = jax.profiler.ProfileOptions()
    # Calls of Python functions would be most of the trace, and slow the steps.
    options.python_tracer_level = 0
    # A folder of the run and not of the time, which differs between hosts.
    options.session_id = f"steps{self._steps[0]}-{self._steps[-1]}"
    self._folder = tempfile.TemporaryDirectory(prefix="p3d-profile-")
    jax.profiler.start_trace(self._folder.name, profiler_options=options)

  def _end(self) -> None:
    if self._folder is None:
      return
    with self._folder as folder:
      self._folder = None
      jax.profiler.stop_trace()
      _name_host(pathlib.Path(folder))
      files.upload(folder, self._to)
    if jax.process_index() == 0:
      self._bar.say(
        f"step {self._done}: a trace of steps {self._steps[0]} to {self._done} "
        f"is in {self._to}: TensorBoard with the package xprof shows it"
      )


def _name_host(folder: pathlib.Path) -> None:
  """Names the files by this process: several may be on one machine."""
  for file in [path for path in folder.rglob("*") if path.is_file()]:
    for ending in _ENDINGS:
      if file.name.endswith(ending):
        file.rename(file.with_name(f"host{jax.process_index():03d}{ending}"))
