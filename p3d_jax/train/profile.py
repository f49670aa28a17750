"""A trace of some steps, for TensorBoard's profile page and for XProf."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable
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
  """Traces some steps of a run; use it in a `with`.

  The trace is of this host's devices and threads, so each host of a run writes
  its own, all into one folder that TensorBoard shows as one run:
  `profile/plugins/profile/steps11-15/host003.xplane.pb`. It is made on this
  machine's disk and copied, as the profiler knows no gs://.
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    start: int,
    steps: int,
    first_step: int,
    bar: Bar,
  ) -> None:
    """Takes which steps are traced.

    Args:
      workdir: of the run; the trace comes into `profile` in it.
      start: steps that this process takes before the trace.
      steps: that are traced; 0: none.
      first_step: steps of the run that were done before this process.
      bar: that says where the trace is.
    """
    self._to = epath.Path(workdir) / FOLDER
    first = first_step + start + 1
    self._steps = range(first, first + steps)
    self._bar = bar
    self._done = 0  # the last step in the trace
    self._result: object = None  # of that step
    self._folder: tempfile.TemporaryDirectory[str] | None = None

  def step(
    self, number: int, work: Callable[..., Result], *args: object
  ) -> Result:
    """Takes a step, in the trace if it is one of its steps.

    The device's work before the first is waited for, and that of the last: the
    trace has whole steps. No other step waits.

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
      jax.block_until_ready(args)
      self._begin()
    with jax.profiler.StepTraceAnnotation(NAME, step_num=number):
      result = work(*args)
    self._done = number
    self._result = result
    if number == self._steps[-1]:
      self._end(wait=True)
    return result

  def __enter__(self) -> Profile:
    """Begins nothing yet."""
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    """Writes the trace of a run that ends within its steps."""
    # What a device failed at would fail here again, or never come.
    self._end(wait=error is None)

  def _begin(self) -> None:
    options = jax.profiler.ProfileOptions()
    # Calls of Python functions would be most of the trace, and slow the steps.
    options.python_tracer_level = 0
    # A folder of the run and not of the time, which differs between hosts.
    options.session_id = f"steps{self._steps[0]}-{self._steps[-1]}"
    self._folder = tempfile.TemporaryDirectory(prefix="p3d-profile-")
    jax.profiler.start_trace(self._folder.name, profiler_options=options)

  def _end(self, wait: bool) -> None:
    if self._folder is None:
      return
    with self._folder as folder:
      self._folder = None
      if wait:
        jax.block_until_ready(self._result)
      self._result = None
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
