"""Runs functions in a process of their own, which can be killed.

A decoder given a broken file may never return, or take its process with it,
and nothing inside that process can help. So decoding runs in a child: the
parent waits so many seconds, and no longer.

The child is a Python of its own and no fork, since a fork of a process with
JAX's threads may hang. It knows nothing of the parent's `__main__`, so scripts
need no guard against being imported twice.

Systems send SIGTERM to a whole group of processes, and a run that has notice
still reads until it has saved. So the children ignore it: the parent decides,
and they end with it, however it ends.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np

from p3d_jax.data.decode import VideoError
from p3d_jax.data.shared_memory import Shared

# Seconds that a child has for its imports; a network file system needs many.
START_TIMEOUT = 300.0
# Seconds; no call may take longer, which is more than a week.
LONGEST = 1e6
# Arrays that a child may send back: numbers and truth values.
_KINDS = "biuf"


class HangError(VideoError):
  """What was called did not return in time; its process was killed."""


class CrashError(VideoError):
  """What was called took its process with it."""


class GuardError(RuntimeError):
  """The process cannot be used, or the function called has a bug."""


class StartError(GuardError, OSError):
  """The process did not start; that is the machine's, and no bug."""


class Guard:
  """Calls functions in one child, started when first needed.

  A child that hangs or crashes is replaced at the next call. One thread uses a
  guard at a time; `Guards` has one for each.

  Attributes:
    timeout: seconds that a call may take; None: any number.
  """

  def __init__(self, timeout: float | None = None) -> None:
    if timeout is not None and not 0 < timeout <= LONGEST:
      raise ValueError(
        f"timeout={timeout}: must be > 0 and at most {LONGEST:g} seconds"
      )
    self.timeout = timeout
    self._closed = False
    self._child: _Child | None = None

  def __enter__(self) -> Guard:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def call(self, function: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Calls `function(*args, **kwargs)` in the child.

    Args:
      function: "package.module:name". The child imports that module, so it
        should be a light one.
      *args: pickled.
      **kwargs: pickled.

    Returns:
      What the function returns: a dict of arrays, bytes, and what JSON has.

    Raises:
      VideoError: the function raised a ValueError; the text is its own.
      HangError: it did not return in time.
      CrashError: its process ended.
      GuardError: it raised something else, or the child did not start.
    """
    if self._closed:
      raise GuardError("the guard is closed")
    if self._child is None:
      self._child = _Child()
    try:
      self._child.learn(function)
      return self._child.run((function, args, kwargs), self.timeout)
    except (HangError, CrashError, GuardError):
      self._end()
      raise
    except VideoError:
      raise  # an answer: the child goes on
    except BaseException:
      self._end()  # an interrupt: what the child would answer is in the way
      raise

  @property
  def pid(self) -> int | None:
    """The child's number, or None: there is none now."""
    return None if self._child is None else self._child.pid

  def close(self) -> None:
    """Ends the child at once."""
    self._closed = True
    self._end()

  def _end(self) -> None:
    child, self._child = self._child, None
    if child is not None:
      child.kill()


class Guards:
  """Guards for many threads: each call takes one that is free, or a new one.

  It can be pickled; another process gets children of its own.

  Attributes:
    timeout: seconds that a call may take; None: any number.
  """

  def __init__(self, timeout: float | None = None) -> None:
    self._open(Guard(timeout).timeout)

  def _open(self, timeout: float | None) -> None:
    self.timeout = timeout
    self._lock = threading.Lock()
    self._closed = False
    self._free: list[Guard] = []
    self._all: list[Guard] = []

  def __getstate__(self) -> dict[str, Any]:
    return {"timeout": self.timeout}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self._open(state["timeout"])

  def __enter__(self) -> Guards:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  @contextlib.contextmanager
  def borrow(self) -> Iterator[Guard]:
    """Gives a guard that no other thread has."""
    with self._lock:
      if self._closed:
        raise GuardError("the guards are closed")
      if self._free:
        guard = self._free.pop()
      else:
        guard = Guard(self.timeout)
        self._all.append(guard)
    try:
      yield guard
    finally:
      with self._lock:
        self._free.append(guard)

  def call(self, function: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Calls a function as `Guard.call` does, within the guards' time-out."""
    return self.call_within(self.timeout, function, *args, **kwargs)

  def call_within(
    self, timeout: float | None, function: str, *args: Any, **kwargs: Any
  ) -> dict[str, Any]:
    """Calls a function as `Guard.call` does, within a time-out of its own.

    A process may end for reasons of its own (a system short of memory ends
    some), so what crashed is called once more in a new one.
    """
    with self.borrow() as guard:
      guard.timeout = timeout
      try:
        return guard.call(function, *args, **kwargs)
      except (CrashError, StartError):
        return guard.call(function, *args, **kwargs)

  def close(self) -> None:
    """Ends all children, also those at work."""
    with self._lock:
      self._closed = True
      for guard in self._all:
        guard.close()


@contextlib.contextmanager
def held_back() -> Iterator[None]:
  """Has processes that this thread starts within hold SIGTERM back.

  They have the thread's mask from their first instruction: none ends by it in
  its imports, before it can call `ignore_sigterm`.
  """
  before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_sigterm() -> None:
  """Has this process ignore SIGTERM, one that was held back too."""
  signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Child:
  """One process, and the socket to it."""

  def __init__(self) -> None:
    ours, theirs = socket.socketpair()
    self._socket = ours
    self._shared = Shared()
    self._knows: set[str] = set()
    self._killed = False
    # What the child prints is read only if it does not start or crashes.
    self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - kill() ends it
    fds = theirs.fileno(), self._shared.fd
    try:
      with held_back():
        self._process = subprocess.Popen(
          # -P: what lies in the current folder is no module of ours.
          [sys.executable, "-P", "-m", "p3d_jax.data.guard", *map(str, fds)],
          pass_fds=fds,
          stdin=subprocess.DEVNULL,
          stdout=self._printed,
          stderr=self._printed,
          env=_environment(),
        )
    finally:
      theirs.close()

  @property
  def pid(self) -> int:
    """Its number."""
    return self._process.pid

  def learn(self, function: str) -> None:
    """Has the child import a function, once; that is no part of a call."""
    if function not in self._knows:
      self.run((function, None, None), START_TIMEOUT)
      self._knows.add(function)

  def run(self, request: Any, timeout: float | None) -> dict[str, Any]:
    """Sends a request and waits for the answer."""
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
      _send(self._socket, _packed(request, timeout, self._shared), deadline)
      header = json.loads(_receive(self._socket, deadline))
    except TimeoutError:
      if request[1] is None:
        raise StartError(
          f"a process to decode in did not start in {timeout:g} seconds"
        ) from None
      raise HangError(
        f"it was not done after {timeout:g} seconds, and its process was killed"
      ) from None
    except OSError as error:
      if self._killed:
        raise GuardError("it was closed while it worked") from None
      raise self._ended(request) from error
    if "bug" in header:
      raise GuardError(header["bug"])
    if "error" in header:
      raise VideoError(header["error"])
    return _decoded(header, self._shared)

  def _ended(self, request: Any) -> Exception:
    """Says how the process ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._process.wait(0.5)  # so that it says how it ended
    self._printed.seek(0)
    said = self._printed.read().decode(errors="replace").strip()
    self.kill()
    code = self._process.returncode
    how = f"status {code}"
    if code < 0:
      with contextlib.suppress(ValueError):
        how = signal.Signals(-code).name
    if request[1] is None:
      return StartError(
        f"a process to decode in did not start ({how}): "
        f"{said.splitlines()[-1] if said else 'it said nothing'}"
      )
    return CrashError(f"its process crashed ({how})")

  def kill(self) -> None:
    """Ends the process at once; a thread that waits for it is told."""
    if self._killed:
      return
    self._killed = True
    with contextlib.suppress(OSError):
      self._socket.shutdown(socket.SHUT_RDWR)
    self._process.kill()
    self._process.wait()
    self._socket.close()
    self._shared.close()
    self._printed.close()


def _environment() -> dict[str, str]:
  """The child finds what the parent finds, and computes on one core."""
  path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
  return os.environ | {
    "PYTHONPATH": path,
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
  }


def _packed(request: Any, timeout: float | None, shared: Shared) -> bytes:
  """Pickles a request but for its bytes, which are laid into the memory."""
  function, args, kwargs = request
  if args is not None:
    args = [pickle.PickleBuffer(a) if isinstance(a, bytes) else a for a in args]
  videos: list[Any] = []
  content = pickle.dumps(
    (function, args, kwargs), protocol=5, buffer_callback=videos.append
  )
  return pickle.dumps((content, timeout, shared.lay(videos)))


def _unpacked(message: bytes, shared: Shared) -> tuple[Any, float | None]:
  """Returns a request of the parent, which is ourselves, and its time-out."""
  content, timeout, sizes = pickle.loads(message)
  videos = [view.tobytes() for view in shared.views(sizes)]
  return pickle.loads(content, buffers=videos), timeout


def _send(to: socket.socket, message: bytes, deadline: float | None) -> None:
  _limit(to, deadline)
  to.sendall(struct.pack("<Q", len(message)) + message)


def _receive(source: socket.socket, deadline: float | None) -> bytes:
  (size,) = struct.unpack("<Q", _exactly(source, 8, deadline))
  return _exactly(source, size, deadline)


def _exactly(source: socket.socket, size: int, deadline: float | None) -> bytes:
  """Receives so many bytes."""
  content = b""
  while len(content) < size:
    _limit(source, deadline)
    more = source.recv(size - len(content))
    if not more:
      raise ConnectionError("the other side has ended")
    content += more
  return content


def _limit(of: socket.socket, deadline: float | None) -> None:
  """Has the next operation end at the deadline."""
  if deadline is None:
    of.settimeout(None)
    return
  left = deadline - time.monotonic()
  if left <= 0:
    raise TimeoutError
  of.settimeout(left)


def _encoded(result: dict[str, Any], shared: Shared) -> dict[str, Any]:
  """Returns what JSON can hold; arrays and bytes are laid into the memory."""
  values: dict[str, Any] = {}
  described: list[Any] = []
  parts: list[Any] = []
  for name, value in result.items():
    if isinstance(value, np.ndarray):
      if value.dtype.kind not in _KINDS:
        raise TypeError(f"{name}: {value.dtype} cannot be sent")
      described.append([name, value.dtype.str, value.shape])
      # An empty array has no bytes to look at.
      parts.append(np.ascontiguousarray(value) if value.size else b"")
    elif isinstance(value, bytes):
      described.append([name, None, None])
      parts.append(value)
    else:
      values[name] = value
  return {"values": values, "parts": described, "sizes": shared.lay(parts)}


def _decoded(header: dict[str, Any], shared: Shared) -> dict[str, Any]:
  result = dict(header["values"])
  views = shared.views(header["sizes"])
  for (name, dtype, shape), view in zip(header["parts"], views, strict=True):
    if dtype is None:
      result[name] = view.tobytes()
    else:
      assert np.dtype(dtype).kind in _KINDS
      result[name] = view.copy().view(dtype).reshape(shape)
  return result


def _answer(request: Any, shared: Shared) -> str:
  """Does what the parent asks; returns the answer as JSON."""
  function, args, kwargs = request
  try:
    module, name = function.split(":")
    called = getattr(importlib.import_module(module), name)
    result = {} if args is None else called(*args, **kwargs)
    return json.dumps(_encoded(result, shared))
  except ValueError as error:
    return json.dumps({"error": " ".join(str(error).split())})
  except Exception:
    return json.dumps({"bug": traceback.format_exc()})


def _serve(channel: socket.socket, shared: Shared) -> None:
  """The child: answers until the parent is gone."""
  # Ctrl-C goes to all processes of a terminal; the parent decides.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  ignore_sigterm()
  # The system ends a child that hangs even where nobody is left to kill it.
  signal.signal(signal.SIGALRM, signal.SIG_DFL)
  while True:
    try:
      request, timeout = _unpacked(_receive(channel, None), shared)
    except ConnectionError:
      return
    if timeout is not None:
      signal.setitimer(signal.ITIMER_REAL, 2 * timeout + 5)
    answer = _answer(request, shared)
    del request  # a video is large, and the next may be as large
    signal.setitimer(signal.ITIMER_REAL, 0)
    try:
      _send(channel, answer.encode(), None)
    except OSError:
      return


if __name__ == "__main__":
  _serve(socket.socket(fileno=int(sys.argv[1])), Shared(int(sys.argv[2])))
