"""Loss, accuracy and speed of the steps, without holding the device up."""

from __future__ import annotations

import collections
import contextlib
import math
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from p3d_jax.models import p3d
from p3d_jax.models.count import count
from p3d_jax.preprocess import Preprocessing
from p3d_jax.progress import Bar
from p3d_jax.train.chips import chip
from p3d_jax.train.logs import Logs

# Steps that may be under way on the device while the host reads ahead.
_IN_FLIGHT = 2
# Metrics of a step that count something: a line has their sum, not their mean.
SUMS = ("replaced", "notice")
SILENT = ("notice",)  # those that are for the loop alone
# Seconds a step: the share of the steps, in percent, that took no longer.
PERCENTILES = (50, 90, 99)
# What a line has that no two runs share, not even one that goes on.
CLOCK = (
  *(f"step_seconds_p{share}" for share in PERCENTILES),
  "clips_per_second",
  "clips_per_second_chip",
  "data_wait",
  "device_memory_bytes",
  "peak_share",
)


class NonFiniteLossError(ArithmeticError):
  """The loss, or its gradient, became infinite or not a number."""


def falls_on(step: int, every: int) -> bool:
  """Whether something done every so many steps is done at this one."""
  return every > 0 and step % every == 0


def training_flops(
  module: p3d.P3D, pixels: Preprocessing, device: jax.Device | None = None
) -> float | None:
  """Returns the floating point operations that training on a clip takes.

  Three times those of a forward pass (the backward pass has twice its
  products), two a multiply-add; what `model.remat` computes a second time is
  no progress and is not counted, and frozen layers are counted as if they
  learned.

  Args:
    module: as it trains.
    pixels: that its clips are made by.
    device: that it trains on; None: the first.

  Returns:
    None where there is no peak to compare with: on a chip that is not in
    chips.py, or in another type than bfloat16.
  """
  kind = (device or jax.local_devices()[0]).device_kind
  if chip(kind) is None or jnp.dtype(module.dtype) != jnp.bfloat16:
    return None
  clip = (1, pixels.frames, *pixels.crop_size, len(pixels.mean))
  return 3 * 2 * float(count(module, clip).multiply_adds)


class DoneTimes:
  """Notes when what a device computes is done, in a thread that waits for it.

  The loop itself sees only later that a step was done while it waited for
  data.
  """

  def __init__(self) -> None:
    """Starts the thread, which ends with this object."""
    self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(
      target=_note_times, args=(self._queue,), name="step-times", daemon=True
    ).start()
    weakref.finalize(self, self._queue.put, None)

  def of(self, arrays: Any) -> Callable[[], float]:
    """Returns a function that waits for arrays and tells when they were done.

    Args:
      arrays: on the device, asked for in the order that it computes them in.
    """
    moment: futures.Future[float] = futures.Future()
    self._queue.put((arrays, moment))
    return moment.result


def _note_times(waiting: queue.SimpleQueue[Any]) -> None:
  while (item := waiting.get()) is not None:
    arrays, moment = item
    try:
      jax.block_until_ready(arrays)
    except RuntimeError:
      pass  # whoever reads the arrays gets it too
    finally:
      moment.set_result(time.monotonic())


class _Step(NamedTuple):
  """A step that may still be running.

  Attributes:
    number: of the step.
    metrics: on the device.
    done: waits, and tells when it was done.
  """

  number: int
  metrics: dict[str, Any]
  done: Callable[[], float]


class Meter:
  """Collects the steps' metrics without holding the device up.

  A line is the mean over the steps since the last one. It is written every
  `log.every` steps, and by `line` before an evaluation or a checkpoint, so
  that a run that goes on from a checkpoint writes the lines that it would
  have written undisturbed.

  A step is settled two steps after it was begun, or by `line`: by its number
  alone, so on all hosts alike. Nothing here waits for another host.

  Attributes:
    waited: seconds that the loop waited for data since the clock started.
    seen: metrics of the settled steps that are in no line yet.
  """

  def __init__(
    self,
    log: Logs,
    bar: Bar,
    *,
    rate: Callable[[int], Any],
    batch: int,
    every: int,
    devices: int = 1,
    flops_per_clip: float | None = None,
    settled: Callable[[int, dict[str, float]], None] | None = None,
    seen: Sequence[dict[str, float]] = (),
  ) -> None:
    """Starts the clock.

    Args:
      log: that lines are written to.
      bar: that shows them.
      rate: step -> learning rate.
      batch: clips a step, over all hosts.
      every: steps a line.
      devices: that train, over all hosts; of this host's first one's kind.
      flops_per_clip: of `training_flops`; None leaves the share of the chips'
        peak out.
      settled: called with each settled step's number and metrics, in order;
        what it raises ends the run.
      seen: metrics of steps before the first that are in no line yet.
    """
    self._log, self._bar = log, bar
    self._rate, self._batch, self._every = rate, batch, every
    self._chips, self._peak = _chips(devices)
    self._flops, self._settled = flops_per_clip, settled
    self._times = DoneTimes()
    self._pending: collections.deque[_Step] = collections.deque()
    self.seen: list[dict[str, float]] = list(seen)
    self._seconds: list[float] = []  # of the steps that have a time
    self._step: int | None = None  # the last one settled
    self._shown = False
    self.restart()

  def restart(self) -> None:
    """Starts the clock again, after work that is not training."""
    self._restart_line()
    self._last_done = self._began

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Stops the clock for work between two steps, once all are settled.

    Other than after `restart`, what the loop waited for before the work still
    counts as the next step's time.

    Raises:
      NonFiniteLossError: if the loss or the gradient of a step is not finite.
    """
    self.settle()
    began = time.monotonic()
    yield
    passed = time.monotonic() - began
    self._began += passed
    self._last_done += passed

  def _restart_line(self) -> None:
    self.waited, self._began = 0.0, time.monotonic()

  def timed(self, rows: Iterator[Any]) -> Iterator[Any]:
    """Passes batches on and adds up how long each was waited for."""
    while True:
      began = time.monotonic()
      batch = next(rows, None)
      self.waited += time.monotonic() - began
      if batch is None:
        return
      yield batch

  def add(self, step: int, metrics: dict[str, Any]) -> None:
    """Takes the metrics of a step that may still be running.

    Args:
      step: that they are of.
      metrics: on the device, the same on all hosts. Those named in SUMS are
        whole numbers, and their sum is taken.

    Raises:
      NonFiniteLossError: if those of this step or of one before are not finite.
    """
    self._pending.append(_Step(step, metrics, self._times.of(metrics)))
    while len(self._pending) > _IN_FLIGHT:
      self._settle()

  def settle(self) -> None:
    """Waits for all steps."""
    while self._pending:
      self._settle()

  def line(self) -> None:
    """Waits for all steps and writes a line of those not yet in one."""
    self.settle()
    if self.seen:
      self._line()

  def _settle(self) -> None:
    pending = self._pending.popleft()
    step, values = pending.number, _values(pending.metrics)  # waits
    for name, what in (("loss", "loss"), ("gradient_norm", "gradient")):
      if not math.isfinite(values[name]):
        raise NonFiniteLossError(
          f"the {what} of step {step} is {values[name]}: training stopped; "
          "checkpoints of earlier steps are whole. Lower "
          "optim.learning_rate, or set optim.clip_norm or optim.warmup"
        )
    self.seen.append(values)
    first, self._step = self._step is None, step
    self._time(pending.done(), first)
    if first:
      self._bar.restart(step)  # compilation comes once
    self._bar.advance(step)
    if falls_on(step, self._every):
      self._line()
    elif first:
      self._show(step, self._means(self.seen))
      self._restart_line()
    if self._settled is not None:
      self._settled(step, values)

  def _time(self, done: float, first: bool) -> None:
    """Takes a step's time: from one that is done to the next.

    The first one's is that of compilation and is left out. After other work
    the time counts from its end, so that it is no part of a step.
    """
    if not first:
      self._seconds.append(done - self._last_done)
    self._last_done = done

  def _line(self) -> None:
    step = self._step
    assert step is not None
    line = self._means(self.seen)
    line |= {"learning_rate": float(self._rate(step - 1))}
    if self._seconds:  # not in a line of the first step alone: it compiled
      line |= _percentiles(self._seconds) | self._speed()
    if (used := device_memory()) is not None:
      line["device_memory_bytes"] = used
    self._log.write(step, "train", line)
    self._show(step, line)
    self.seen, self._seconds = [], []
    self._restart_line()

  def _means(self, seen: Sequence[dict[str, float]]) -> dict[str, float]:
    """Returns the mean of each metric, and the sums of those that count."""
    names = {**seen[0], "replaced": 0}
    line: dict[str, float] = {}
    for name in (name for name in names if name not in SILENT):
      values = [metrics.get(name, 0) for metrics in seen]
      line[name] = sum(values) if name in SUMS else float(np.mean(values))
    return line

  def _speed(self) -> dict[str, float]:
    """Returns the pace, and how much of the time went by without data.

    The pace is that of the devices: the loop sees several steps end at once.
    """
    clips = len(self._seconds) * self._batch / max(sum(self._seconds), 1e-9)
    each = clips / self._chips
    found = {"clips_per_second": clips, "clips_per_second_chip": each}
    if self._flops is not None and self._peak is not None:
      found["peak_share"] = 100 * each * self._flops / self._peak
    passed = max(time.monotonic() - self._began, 1e-9)
    return found | {"data_wait": min(self.waited / passed, 1.0)}

  def _show(self, step: int, line: dict[str, float]) -> None:
    numbers = {
      "loss": f"{line['loss']:.3f}",
      "clip hit@1": f"{100 * line['accuracy']:.1f}",
    }
    if "clips_per_second" in line:
      numbers["clips/s"] = f"{line['clips_per_second']:.3g}"
      numbers["wait"] = f"{100 * line['data_wait']:.0f}%"
    if line["replaced"]:
      numbers["replaced"] = str(line["replaced"])
    # The first at once: one sees that it lives. Then one a minute.
    self._bar.update(step, numbers, line=None if self._shown else True)
    self._shown = True


def _values(metrics: dict[str, Any]) -> dict[str, float]:
  return {
    name: int(value) if name in SUMS else float(value)
    for name, value in metrics.items()
  }


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
  """Returns the times that a share of the steps did not exceed.

  Each is a step's own time: of 20 steps the 99th percentile is the slowest.
  """
  found = np.percentile(seconds, PERCENTILES, method="inverted_cdf")
  return {
    f"step_seconds_p{share}": float(value)
    for share, value in zip(PERCENTILES, found, strict=True)
  }


def _chips(devices: int) -> tuple[float, float | None]:
  """Returns how many chips devices are, and FLOP/s that one can do at most."""
  device = jax.local_devices()[0]
  found = chip(device.device_kind)
  if found is None:
    return devices, None
  cores = device.num_cores if device.platform == "tpu" else None
  return found.count(devices, cores), found.peak_flops


def device_memory() -> int | None:
  """Returns the most bytes that a device of this host has had in use.

  It is the highest since the process began. None where the platform does not
  say, as CPUs do not.
  """
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  used = [found["peak_bytes_in_use"] for found in stats
          if "peak_bytes_in_use" in found]  # fmt: skip
  return max(used, default=None)
