"""Times, speeds and sums of the steps, worked out by hand on a fake clock."""

import io
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from p3d_jax.models import zoo
from p3d_jax.preprocess import Preprocessing
from p3d_jax.progress import Bar
from p3d_jax.train import meter
from p3d_jax.train.meter import CLOCK, Meter, training_flops


class Clock:
  """Seconds that pass when something is waited for."""

  now = 1000.0

  def __call__(self) -> float:
    return self.now


class Loss:
  """A number that a device has at a stated time; to read it is to wait."""

  def __init__(self, clock: Clock, done: float, value: float = 1.0) -> None:
    self.clock, self.done, self.value = clock, done, value

  def __float__(self) -> float:
    self.clock.now = max(self.clock.now, self.done)
    return self.value


class Times:
  """Stands for the thread that waits: knows when each step is done."""

  def of(self, arrays: dict[str, Any]) -> Callable[[], float]:
    return lambda: arrays["loss"].done


class Log:
  """Keeps what is written."""

  def __init__(self) -> None:
    self.lines: dict[int, dict[str, float]] = {}

  def write(self, step: int, kind: str, metrics: dict[str, float]) -> None:
    assert kind == "train"
    self.lines[step] = dict(metrics)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
  made = Clock()
  monkeypatch.setattr(meter.time, "monotonic", made)
  monkeypatch.setattr(meter, "DoneTimes", Times)
  return made


def bar(clock: Clock, steps: int = 100) -> tuple[Bar, io.StringIO]:
  out = io.StringIO()
  console = Console(file=out, force_terminal=False, soft_wrap=True)
  return Bar("train", steps, console=console, clock=clock), out


def made(clock: Clock, log: Any, **fields: Any) -> Meter:
  plain: dict[str, Any] = {"rate": lambda _: 0.5, "batch": 8, "every": 100}
  return Meter(log, bar(clock)[0], **plain | fields)


def metrics(loss: Any, **counts: int) -> dict[str, Any]:
  return {"loss": loss, "accuracy": 0.25, "gradient_norm": 2.0} | counts


def seconds(line: dict[str, float]) -> list[float]:
  return [line[f"step_seconds_p{share}"] for share in (50, 90, 99)]


def test_the_times_are_those_of_the_device(clock: Clock) -> None:
  """The host is always ahead; the first step takes 30 s, the others these."""
  took = [30.0] + [1.0] * 17 + [2.0, 2.0, 5.0]
  log, done = Log(), clock.now
  metered = made(clock, log)
  for step, each in enumerate(took, 1):
    done += each
    metered.add(step, metrics(Loss(clock, done)))
  metered.line()
  line = log.lines[21]
  # Of 20 times the 10th, the 18th and the 20th by size; the 30 s are in none.
  assert seconds(line) == [1, 2, 5]
  assert line["clips_per_second"] == pytest.approx(20 * 8 / 26)
  assert line["data_wait"] == 0


def test_the_times_are_those_of_the_data(clock: Clock) -> None:
  """Reading takes 2 s and the device a half: a step takes 2 s, all waiting."""
  log = Log()
  metered = made(clock, log)

  def rows() -> Iterator[int]:
    for step in range(1, 13):
      clock.now += 2
      yield step

  for step in metered.timed(rows()):
    metered.add(step, metrics(Loss(clock, clock.now + 0.5)))
  metered.line()
  assert seconds(log.lines[12]) == [2, 2, 2]
  # Steps 4 to 12 were read after step 1 was settled, when the clock began.
  assert log.lines[12]["data_wait"] == pytest.approx(18 / 18.5)


def test_data_in_pairs(clock: Clock) -> None:
  """Two batches at once, then 4 s of waiting: seen late, but timed right."""
  log, done = Log(), clock.now
  metered = made(clock, log)
  for step in range(1, 13):
    clock.now += 4 * (step % 2)
    done = max(done, clock.now) + 0.5
    metered.add(step, metrics(Loss(clock, done)))
  metered.line()
  # Step 2 half a second after step 1; step 3 is done 3.5 s later, and so on.
  assert seconds(log.lines[12]) == [0.5, 3.5, 3.5]


def test_other_work_is_no_part_of_a_step(clock: Clock) -> None:
  log, done = Log(), clock.now
  metered = made(clock, log)
  for step in range(1, 7):
    done = max(done, clock.now) + 1
    metered.add(step, metrics(Loss(clock, done)))
    if step in (2, 4):
      metered.line()
      clock.now += 600  # an evaluation
      metered.restart()
  metered.line()
  # The first line has one time, as the first step has none.
  assert seconds(log.lines[2]) == [1, 1, 1]
  assert seconds(log.lines[4]) == seconds(log.lines[6]) == [1, 1, 1]
  assert log.lines[6]["clips_per_second"] == 8


def test_paused_work_is_no_part_of_a_step_but_waiting_is(clock: Clock) -> None:
  """Reading takes 2 s, a step 1 s, and what is done in between 600 s."""
  log = Log()
  metered = made(clock, log)

  def rows() -> Iterator[int]:
    for step in range(1, 8):
      clock.now += 2
      yield step

  for step in metered.timed(rows()):
    if step == 4:  # before it begins, when its data is there
      with metered.paused():
        clock.now += 600
    metered.add(step, metrics(Loss(clock, clock.now + 1)))
    if step == 5:
      with metered.paused():
        assert len(metered.seen) == 5  # all are settled
        clock.now += 600
  metered.line()
  line = log.lines[7]
  # Only step 6 was not read during the step before it.
  assert seconds(line) == [2, 3, 3]
  assert line["clips_per_second"] == pytest.approx(6 * 8 / 13)
  # Steps 4 to 7, from when step 1 was settled to when step 7 was done.
  assert line["data_wait"] == pytest.approx(8 / 10)


@pytest.mark.parametrize("every", [1, 100], ids=["as-always", "by-line"])
def test_a_line_of_the_first_step_alone_has_no_speed(
  clock: Clock, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
  """All that is known of it is what it took to compile."""
  chip = device("TPU v5 lite", 1, peak_bytes_in_use=5)
  monkeypatch.setattr(jax, "local_devices", lambda: [chip])
  shown, out = bar(clock)
  log: Any = Log()
  metered = Meter(
    log, shown, rate=lambda _: 0.5, batch=8, every=every, flops_per_clip=1e12
  )
  for step in (1, 2):
    metered.add(step, metrics(Loss(clock, clock.now + 29 * (step == 1) + 1)))
    metered.line()
  assert set(CLOCK) & set(log.lines[1]) == {"device_memory_bytes"}
  assert set(CLOCK) <= set(log.lines[2])
  assert seconds(log.lines[2]) == [1, 1, 1]
  assert log.lines[2]["clips_per_second"] == 8
  line = "train 1/100  loss 1.000  clip hit@1 25.0  left ?"
  assert out.getvalue().splitlines() == [line]


def device(kind: str, cores: int, **stats: int) -> Any:
  return types.SimpleNamespace(
    device_kind=kind,
    platform="tpu",
    num_cores=cores,
    memory_stats=lambda: stats or None,
  )


def one_line(clock: Clock, **fields: Any) -> dict[str, float]:
  """The line of three steps that took 2 s each, of 64 clips."""
  log, start = Log(), clock.now
  metered = made(clock, log, batch=64, **fields)
  for step in range(1, 4):
    metered.add(step, metrics(Loss(clock, start + 2 * step)))
  metered.line()
  return log.lines[3]


@pytest.mark.parametrize(
  ("kind", "cores", "chips", "peak"),
  # v4: a device is a chip on a machine, and a core of one in a topology.
  [("TPU v5 lite", 1, 8, 197e12), ("TPU v4", 2, 8, 275e12),
   ("TPU v4", 1, 4, 275e12)],
  ids=["v5e", "v4", "v4-cores"],
)  # fmt: skip
def test_the_share_of_the_peak_by_hand(
  clock: Clock,
  monkeypatch: pytest.MonkeyPatch,
  kind: str,
  cores: int,
  chips: int,
  peak: float,
) -> None:
  local = [device(kind, cores, peak_bytes_in_use=n) for n in (5, 9, 7)]
  monkeypatch.setattr(jax, "local_devices", lambda: local)
  line = one_line(clock, devices=8, flops_per_clip=1e12)
  assert line["clips_per_second"] == 32
  assert line["clips_per_second_chip"] == 32 / chips
  assert line["peak_share"] == pytest.approx(100 * 32 / chips * 1e12 / peak)
  assert line["device_memory_bytes"] == 9  # the worst of this host's
  # As in float32: the peak is not that of the table.
  assert "peak_share" not in one_line(clock, devices=8)


def test_what_a_processor_does_not_know_is_left_out(clock: Clock) -> None:
  line = one_line(clock, devices=2, flops_per_clip=1e12)
  assert line["clips_per_second_chip"] == 16
  assert set(CLOCK) - set(line) == {"device_memory_bytes", "peak_share"}


def test_training_flops_against_the_compiler_s(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """XLA counts 1,654 GFLOP in a step of 16 clips of P3D-199 on a v5e.

  Its backward pass needs no gradient of the pixels, and it counts no taps on
  padding: ours are 7% more.
  """
  chip = device("TPU v5 lite", 1)
  pixels = Preprocessing(frames=16, resize=(182, 242), crop=(160, 160))
  half = zoo.build("p3d199", num_classes=487, dtype=jnp.bfloat16)
  found = training_flops(half, pixels, chip)
  assert found == pytest.approx(1654e9 / 16, rel=0.08)
  full = zoo.build("p3d199", num_classes=487)
  assert training_flops(full, pixels, chip) is None
  assert training_flops(half, pixels, device("TPU v99", 1)) is None
  assert training_flops(half, pixels) is None  # this processor


def test_counts_are_sums_and_a_notice_is_for_the_loop(clock: Clock) -> None:
  log = Log()
  heard: list[tuple[int, dict[str, float]]] = []
  taken: list[list[int]] = []
  metered = made(clock, log, every=3, settled=lambda *step: heard.append(step))
  for step in range(1, 7):
    counts = {"replaced": jnp.int32(step), "notice": jnp.int32(step == 5)}
    metered.add(step, metrics(Loss(clock, 0, float(step))) | counts)
    taken.append([step for step, _ in heard])
  # By the number alone, though each was done at once.
  assert taken == [[], [], [1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]
  metered.line()
  assert [step for step, _ in heard] == [1, 2, 3, 4, 5, 6]
  assert [values["notice"] for _, values in heard] == [0, 0, 0, 0, 1, 0]
  assert [values["replaced"] for _, values in heard] == [1, 2, 3, 4, 5, 6]
  assert all(isinstance(values["notice"], int) for _, values in heard)
  assert [log.lines[k]["replaced"] for k in (3, 6)] == [6, 15]
  assert [log.lines[k]["loss"] for k in (3, 6)] == [2, 5]
  assert all("notice" not in line for line in log.lines.values())
  assert isinstance(log.lines[6]["replaced"], int)


def test_a_line_goes_on_where_a_stopped_run_left_it(clock: Clock) -> None:
  """Stopped after step 2 of a line of four: the line is that of all four."""
  log = Log()
  first = made(clock, log, every=4)
  for step in (1, 2):
    first.add(step, metrics(Loss(clock, 0, float(step)), replaced=step))
  first.settle()
  assert not log.lines
  second = made(clock, log, every=4, seen=first.seen)
  for step in (3, 4):
    second.add(step, metrics(Loss(clock, 0, float(step)), replaced=step))
  second.settle()
  assert log.lines[4]["loss"] == 2.5
  assert log.lines[4]["replaced"] == 10


def test_one_line_a_minute_is_printed(clock: Clock) -> None:
  """The first at once, one a minute, and the last; the log has them all."""
  log, (shown, out) = Log(), bar(clock, steps=400)
  done = clock.now
  with shown:
    metered = Meter(
      log, shown, rate=lambda _: 0.5, batch=8, every=10  # type: ignore[arg-type]
    )  # fmt: skip
    for step in range(1, 401):
      done += 1
      metered.add(step, metrics(Loss(clock, done)))
    metered.line()
  assert list(log.lines) == list(range(10, 401, 10))
  lines = out.getvalue().splitlines()
  # A minute after step 1 is step 61, and the next line of ten is step 70.
  steps = [line.split()[1].split("/")[0] for line in lines]
  assert steps == ["1", "70", "130", "190", "250", "310", "370", "400"]
  assert lines[0] == "train 1/400  loss 1.000  clip hit@1 25.0  left ?"
  # What came before the first step is done, a compilation, does not return.
  assert lines[1].endswith("clips/s 8  wait 0%  left 5:30")


class Slow:
  """An array that is there when the test says so."""

  def __init__(self, fails: bool = False) -> None:
    self.there, self.fails = threading.Event(), fails

  def block_until_ready(self) -> None:
    self.there.wait(60)
    if self.fails:
      raise RuntimeError("the device is gone")


def test_a_thread_notes_when_a_step_is_done() -> None:
  before_it = set(threading.enumerate())
  times, slow = meter.DoneTimes(), [Slow(), Slow(fails=True), Slow()]
  (thread,) = set(threading.enumerate()) - before_it
  done = [times.of({"loss": array}) for array in slow]
  found = []
  for array, wait in zip(slow, done, strict=True):
    before = time.monotonic()
    array.there.set()
    moment = wait()  # what fails has a time too: nothing waits for ever
    assert before <= moment <= time.monotonic()
    found.append(moment)
  time.sleep(0.05)
  assert [wait() for wait in done] == found  # not when it is asked for
  del times
  thread.join(60)
  assert not thread.is_alive()
