"""Each process's part of the roll: it gives signs of life and hears of others.

jax waits for ever for a host that hangs, and says of one that has died neither
which nor that it did. So the processes of a run keep connections of their own,
on the port above the coordinator's, from before jax begins until the end:

- `gather` calls the roll (roll_call.py): nobody begins before all have come.
- A thread in each process gives process 0 a sign of life each second. When a
  connection closes, a host is silent for too long, a step takes too long, or
  one ends with an error, process 0 tells all (roll_hub.py); every process says
  the same line and ends with `LostError`'s status.

The roll has a port of its own, and does not lend jax's: it lives as long as the
run, and two servers that hand a port over race for it.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType

from etils import epath

from p3d_jax.hosts import ends, stop
from p3d_jax.hosts.json_lines import Line, Message
from p3d_jax.hosts.roll_hub import LEAVING, TICK, who

LOST = 60.0  # seconds without a sign of another host, until `watch` is called
# Seconds that an error which may come of a lost host waits for the roll to say
# which: a closed connection is seen at once, and then this process ends.
NEWS = 5.0
FAREWELL = 1_800.0  # seconds that the slowest host may take to its end
# What begins the text of jax's errors when another host is gone.
_LOST_TEXTS = re.compile(
  "(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED"
  "|FAILED_PRECONDITION|DATA_LOSS):"
)
# What such an error says where the hosts live, but have not met in time.
_NETWORK = re.compile("Gloo|NCCL|[Cc]oordination|[Cc]onnect|[Ss]ocket|barrier")


class Roll:
  """The processes of a run, as one of them sees the others; use it in a `with`.

  In a process that is alone it is a stall watch and nothing else.

  Attributes:
    process: the number of this one.
    processes: how many.
    on_leaving: called when all leave.
  """

  def __init__(
    self,
    process: int = 0,
    names: Sequence[str] = ("",),
    line: Line | None = None,
    heard: Sequence[Message] = (),
  ) -> None:
    """Takes what the roll call has found.

    Args:
      process: the number of this one.
      names: the host of each process.
      line: to process 0, which has its own too; None: alone.
      heard: what process 0 has said after the call.
    """
    self.process, self.processes = process, len(names)
    self.on_leaving: Callable[[], None] = lambda: None
    self._names, self._line, self._heard = names, line, heard
    self._beat = ("the start", time.monotonic())
    self._stall: float | None = None
    self._lost = LOST
    self._out: epath.Path | None = None
    self._ready = threading.Event()  # this process wants to leave
    self._bye = threading.Event()  # all leave
    self._failing = threading.Event()  # this process says why it ends
    self._told = threading.Event()  # the others have been told
    target = self._alone if line is None else self._among
    self._thread = threading.Thread(target=target, name="p3d-roll", daemon=True)
    if line is not None:
      self._thread.start()

  def __enter__(self) -> Roll:
    """Is the current roll from here on."""
    global _current
    _current = self
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    """Leaves together with the others, or tells them why it cannot.

    A host that is preempted has saved its step together with the others: all
    of them leave.
    """
    if error is None or isinstance(error, ends.PreemptedError):
      return self._leave()
    if self._line is not None and _of_another_host(error):
      time.sleep(NEWS)  # in which the thread ends this process, if it was
      if _NETWORK.search(str(error)):
        text = " ".join(str(error).split())
        lost = ends.LostError(f"the other hosts cannot be reached: {text}")
        self.fail(lost)
        raise lost from error
    return self.fail(error)

  def beat(self, doing: str) -> None:
    """Says that a step is done; costs nothing, so that each one can.

    Args:
      doing: where this process stands, as "step 41".
    """
    self._beat = (doing, time.monotonic())

  def watch(
    self,
    stall: float | None,
    out: epath.Path | None = None,
    lost: float = LOST,
  ) -> contextlib.ExitStack:
    """Sets, from now on, how long a host may take.

    Args:
      stall: seconds from beat to beat; then all hosts write their stacks and
        end. None: any. A thread in C++ that keeps Python's lock stops the watch
        of its own process, but not that of the others.
      out: folder for the stacks, stall-host000.txt and so on.
      lost: seconds without a sign of another host.

    Returns:
      What ends it; use it in a `with`.
    """
    before = (self._stall, self._out, self._lost)
    self._watched(stall, out, lost)
    if stall is not None and not self._thread.is_alive():
      self._thread.start()
    end = contextlib.ExitStack()
    end.callback(self._watched, *before)
    return end

  def _watched(
    self, stall: float | None, out: epath.Path | None, lost: float
  ) -> None:
    self.beat(self._beat[0])
    self._stall, self._out, self._lost = stall, out, lost

  def fail(self, error: BaseException) -> None:
    """Tells the others why this process ends; returns when they know.

    Args:
      error: the reason; of its text one line is told.
    """
    global _current
    if self._line is None:
      self._ready.set()
      _current = Roll()  # a Python session that has caught the error goes on
    elif not self._failing.is_set():
      text = " ".join(str(error).split()) or type(error).__name__
      self._failing.set()  # first: the answer may be there at once
      status = ends.status_of(error)
      if self._line.send({"stopped": text, "status": status}):
        self._told.wait(LEAVING + 2 * TICK)
      sys.excepthook = _last_traceback

  def leave(self, status: int) -> int:
    """Returns a status to end with; one of several that failed ends here.

    At its end Python would wait, in jax's own farewell, for hosts that are
    gone.

    Args:
      status: of the process.
    """
    if self._failing.is_set():
      stop.leave(status)
    return status

  def _leave(self) -> None:
    """Waits for all, which the thread ends if one is lost, and leaves."""
    global _current
    self._stall = None
    self.beat("the end")
    self._ready.set()
    if self._line is not None:
      self._line.send(self._sign(time.monotonic()))
      try:
        if not self._bye.wait(FAREWELL):
          raise ends.LostError(
            f"not all hosts have come to the end within {FAREWELL:g} s"
          )
        self.on_leaving()
      except BaseException as error:  # Ctrl-C, or jax's farewell failed
        self.fail(error)
        raise
    _current = Roll()

  def _alone(self) -> None:
    """The thread of a process that is alone."""
    ticked = time.monotonic()
    while not self._ready.wait(TICK):
      now = time.monotonic()
      if now - ticked > 5 * TICK:  # the whole process stood: Ctrl-Z, a sleep
        self.beat(self._beat[0])
      ticked = now
      if (stall := self._late(now)) is not None:
        reason = f"no step for {stall:g} s: it stands at {self._beat[0]!r}"
        self._stop({"end": reason, "stacks": True})

  def _among(self) -> None:
    """The thread of a process of several."""
    assert self._line is not None
    seen, ticked = time.monotonic(), 0.0
    for message in self._heard:
      self._take(message)
    selector = selectors.DefaultSelector()
    selector.register(self._line, selectors.EVENT_READ)
    while not self._bye.is_set():
      selector.select(TICK)
      now = time.monotonic()
      # Read whatever select says: after this process was stopped, it says no.
      messages = self._line.read()
      if messages is None:
        self._take({"end": f"{who(0, self._names[0])} died"})
        return
      seen = now if messages else seen
      for message in messages:
        self._take(message)
      if now - seen > self._lost:
        first = who(0, self._names[0])
        reason = f"{first} hangs: no sign for {self._lost:g} s"
        self._line.send({"end": reason})
        self._stop({"end": reason})
      if now >= ticked + TICK:
        ticked = now
        self._line.send(self._sign(now))
    self._line.close()

  def _late(self, now: float) -> float | None:
    """Returns the seconds that a step may take, if one took longer."""
    stall, since = self._stall, self._beat[1]
    return stall if stall is not None and now - since > stall else None

  def _sign(self, now: float) -> Message:
    """Returns what process 0 hears each second."""
    sign: Message = {"at": self._beat[0], "lost": self._lost}
    if (stall := self._late(now)) is not None:
      sign["late"] = stall
    if self._ready.is_set() and not self._failing.is_set():
      sign["bye"] = True
    return sign

  def _take(self, message: Message) -> None:
    """Does what process 0 says."""
    if "told" in message:
      self._told.set()
    elif "bye" in message:
      self._bye.set()
    elif "end" in message:
      # One that ends with an error of its own says that, in its own time.
      if self._failing.wait(message.get("wait", 0)):
        self._told.set()
      else:
        self._stop(message)

  def _stop(self, message: Message) -> None:
    stacks, file = "", None
    if message.get("stacks"):
      doing, since = self._beat
      host = who(self.process, self._names[self.process])
      passed = time.monotonic() - since
      stacks = f"{host} stands at {doing!r} for {passed:.0f} s; its stacks:"
      if self._out is not None:
        file = self._out / f"stall-host{self.process:03d}.txt"
    # What one host's mistake ends, no launcher should start again.
    status = int(message.get("status", ends.LostError.status))
    stop.stop(message["end"], stacks, file, status)


def _of_another_host(error: BaseException | None) -> bool:
  """Whether an error may come of another host that is gone."""
  while error is not None:
    if _LOST_TEXTS.match(str(error)):
      return True
    error = error.__cause__
  return False


def _last_traceback(
  kind: type[BaseException],
  error: BaseException,
  trace: TracebackType | None,
) -> None:
  """Ends a process of several after an error that nobody caught."""
  traceback.print_exception(kind, error, trace)
  stop.leave(1)


_current = Roll()


def current() -> Roll:
  """Returns the roll of this process; alone before one is entered."""
  return _current
