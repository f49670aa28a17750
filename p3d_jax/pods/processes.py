"""Processes that are started together and end together.

What they print comes in whole lines that say whose they are. On Linux none
outlives the process that started them, however that one ends: the kernel kills
them (PR_SET_PDEATHSIG of prctl(2)).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from p3d_jax.hosts.ends import PreemptedError
from p3d_jax.pods.gloo import Gloo

# Seconds that a line without an end is held back.
PARTIAL = 1.0
# Bytes of such a line, which is then told in parts.
LONGEST = 1 << 16
# Seconds between two looks at who has ended.
POLL = 0.05
# What a launcher passes on.
PASSED_ON = (signal.SIGINT, signal.SIGTERM)

Environment = dict[str, str]


class Lines:
  """What a process prints to one of its pipes, in whole lines, but for Gloo's.

  Attributes:
    out: where they go.
  """

  def __init__(self, pipe: IO[bytes], mark: bytes, out: IO[bytes]) -> None:
    self._pipe = pipe
    self._mark = mark
    self._gloo = Gloo()
    self.out = out
    self._rest = b""
    self._since = 0.0  # when the rest began
    os.set_blocking(pipe.fileno(), False)

  def fileno(self) -> int:
    """The pipe's, for a selector."""
    return self._pipe.fileno()

  def read(self) -> bool:
    """Tells what is there; returns whether more can come."""
    try:
      found = os.read(self._pipe.fileno(), 1 << 16)
    except BlockingIOError:
      return True
    if not found:
      return False
    if not self._rest:
      self._since = time.monotonic()
    *lines, self._rest = (self._rest + found).split(b"\n")
    if lines:
      self._since = time.monotonic()
      self._tell(lines)
    if len(self._rest) >= LONGEST:
      self.flush()
    return True

  def flush(self, after: float = 0.0) -> None:
    """Tells a line that has not ended, if it is older than some seconds."""
    if self._rest and time.monotonic() - self._since >= after:
      rest, self._rest = self._rest, b""
      self._tell([rest], end=False)

  def close(self) -> None:
    """Tells the rest. What a grandchild may yet print is nobody's."""
    for _ in range(32):  # no pipe holds as much
      if not _ready(self._pipe) or not self.read():
        break
    self.flush()
    self._pipe.close()

  def _tell(self, lines: Sequence[bytes], end: bool = True) -> None:
    # Of a line that was written over, as bars of progress are, the last state.
    shown = [line.rstrip(b"\r").rpartition(b"\r")[2] for line in lines]
    told = [line for line in shown if not self._gloo.met(line, end)]
    self.out.write(b"".join(self._mark + line + b"\n" for line in told))
    self.out.flush()


def _ready(pipe: IO[bytes]) -> bool:
  """Whether reading from a pipe would return something at once."""
  with selectors.DefaultSelector() as selector:
    selector.register(pipe, selectors.EVENT_READ)
    return bool(selector.select(0))


class Process:
  """One started process.

  Attributes:
    number: its place among the processes of the run.
    lines: of its two pipes.
    status: its exit status; below 0 it is the signal that killed it; None:
      it runs.
  """

  def __init__(
    self, number: int, command: Sequence[str], environment: Environment
  ) -> None:
    self.number = number
    self.status: int | None = None
    self._asked: set[int] = set()
    self._popen = subprocess.Popen(
      command,
      env=environment,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      # A group of its own: an interrupt at the keyboard comes to the launcher
      # alone, and what the process leaves behind can be killed.
      start_new_session=True,
      preexec_fn=_die_with(os.getpid()),
    )
    assert self._popen.stdout is not None
    assert self._popen.stderr is not None
    mark = f"[{number}] ".encode()
    self.lines = (
      Lines(self._popen.stdout, mark, sys.stdout.buffer),
      Lines(self._popen.stderr, mark, sys.stderr.buffer),
    )

  def ask(self, number: int) -> None:
    """Sends it a signal, if it has not had that one."""
    if number not in self._asked:
      self.send(number)

  def send(self, number: int) -> None:
    """Sends it a signal, once more if it has had that one."""
    if self.status is None:
      self._asked.add(number)
      # Not Popen's own, which may reap the process: then `poll` could not tell.
      with contextlib.suppress(ProcessLookupError):
        os.kill(self._popen.pid, number)

  def poll(self) -> bool:
    """Returns whether it has ended just now; what it left is killed."""
    if self.status is not None:
      return False
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    if os.waitid(os.P_PID, self._popen.pid, flags) is None:
      return False
    self.kill()
    return True

  def kill(self) -> None:
    """Ends it, and what it has started, now."""
    if self.status is None:
      # It is not reaped yet, so its number is nobody else's.
      with contextlib.suppress(ProcessLookupError):
        os.killpg(self._popen.pid, signal.SIGKILL)
      self.status = self._popen.wait()


def _die_with(parent: int) -> Callable[[], None] | None:
  """Returns what a child does before it becomes its program."""
  if sys.platform != "linux":
    return None
  # Looked up here: after the fork nothing should need a lock.
  prctl = ctypes.CDLL(None, use_errno=True).prctl
  set_death_signal = 1  # PR_SET_PDEATHSIG, <linux/prctl.h>

  def before() -> None:
    prctl(set_death_signal, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it died before it could be watched
      os._exit(1)

  return before


class Group:
  """The processes of a run, and the signals that came for them.

  Attributes:
    processes: those started last.
    caught: signals that the launcher had.
  """

  def __init__(self) -> None:
    self.processes: list[Process] = []
    self.caught: list[int] = []

  @contextlib.contextmanager
  def passing_on(self) -> Iterator[None]:
    """Sends interrupts and requests to end to the processes, each time.

    One that comes while they start may be lost on them: they do nothing with it
    until they are ready. So it can be sent again.
    """

    def pass_on(number: int, frame: object) -> None:
      self.caught.append(number)
      for process in self.processes:
        process.send(number)

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
      yield
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)

  def ask(self, number: int) -> None:
    """Sends a signal to all that have not had it."""
    for process in self.processes:
      process.ask(number)

  def once(
    self,
    command: Sequence[str],
    environments: Sequence[Environment],
    grace: float,
  ) -> list[Process]:
    """Starts the processes and waits for all.

    Returns:
      The processes in the order in which they ended.
    """
    self.processes = []
    try:
      for number, environment in enumerate(environments):
        if not self.caught:
          self.processes.append(Process(number, command, environment))
      for caught in self.caught:
        self.ask(caught)  # one that came while a process was being started
      return self._wait(grace)
    finally:
      for process in self.processes:
        process.kill()
      for process in self.processes:
        for lines in process.lines:
          lines.close()

  def _wait(self, grace: float) -> list[Process]:
    ended: list[Process] = []
    kill_at = float("inf")
    with selectors.DefaultSelector() as selector:
      for process in self.processes:
        for lines in process.lines:
          selector.register(lines, selectors.EVENT_READ, lines)
      while len(ended) < len(self.processes):
        self._read(selector)
        ended += [process for process in self.processes if process.poll()]
        bad = [process.status for process in ended if process.status]
        if bad and kill_at == float("inf"):
          kill_at = time.monotonic() + grace
          # All know of a preemption and are saving: a second SIGTERM would end
          # them before they have.
          if bad[0] != PreemptedError.status:
            self.ask(signal.SIGTERM)
        if time.monotonic() >= kill_at:
          late = [p for p in self.processes if p.status is None]
          for process in late:
            process.kill()
          ended += late
    return ended

  @staticmethod
  def _read(selector: selectors.BaseSelector) -> None:
    open_pipes = list(selector.get_map().values())
    if not open_pipes:
      time.sleep(POLL)
    for key, _ in selector.select(POLL) if open_pipes else ():
      if not key.data.read():
        selector.unregister(key.fileobj)
        key.data.flush()
    for key in open_pipes:
      key.data.flush(after=PARTIAL)
