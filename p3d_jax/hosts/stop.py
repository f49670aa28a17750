"""Ends a process whose main thread cannot be woken, with a line that says why.

A thread that waits for a lost host in a collective operation hears no signal
and no exception; what is left is to end the process around it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from typing import NoReturn

from etils import epath

from p3d_jax.files import write_aside
from p3d_jax.hosts.ends import LostError

# Seconds for the last words: a full pipe or a storage that is gone must not
# hold up the end.
LAST_WORDS = 10.0

_FIRST = threading.Lock()


def stop(
  reason: str,
  stacks: str = "",
  file: epath.Path | None = None,
  status: int = LostError.status,
) -> NoReturn:
  """Ends this process with one line.

  Of several reasons at once the first is told.

  Args:
    reason: the line.
    stacks: a line to write above the stacks of all threads; "": no stacks.
    file: that the stacks are written to besides standard error.
    status: of the process.
  """
  if not _FIRST.acquire(blocking=False):
    threading.Event().wait()
  # Not this thread: it may have to end the process before it is through.
  said = threading.Thread(
    target=_last_words, args=(reason, stacks, file), daemon=True
  )
  said.start()
  said.join(LAST_WORDS)
  _end(status)


def leave(status: int) -> NoReturn:
  """Ends this process past Python's own end, which would wait for others."""
  sys.stdout.flush()
  sys.stderr.flush()
  _end(status)


def _end(status: int) -> NoReturn:
  for child in multiprocessing.active_children():
    child.kill()  # one that reads for this process would outlive it
  os._exit(status)


def _last_words(reason: str, stacks: str, file: epath.Path | None) -> None:
  if stacks:
    _write(f"p3d: {stacks}\n")
    faulthandler.dump_traceback(2)
  _write(f"p3d: {reason}\n")
  # After the line: who holds the stream's lock may wait for the reader.
  sys.stdout.flush()
  sys.stderr.flush()
  if stacks and file is not None:
    with tempfile.TemporaryFile() as dumped:
      faulthandler.dump_traceback(dumped)
      dumped.seek(0)
      text = f"{reason}\n{stacks}\n".encode() + dumped.read()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_aside(file, text)


def _write(text: str) -> None:
  """Writes to standard error, past Python's lock of it."""
  if os.isatty(2):
    text = f"\r\x1b[K\x1b[?25h{text}"  # off the bar's line; shows the cursor
  os.write(2, text.encode(errors="replace"))


def hold_aborts() -> None:
  """Makes an abort wait for some seconds, so that `stop` comes first.

  When process 0 dies, jax aborts the others from a thread of its own in C++
  within milliseconds (xla/pjrt/distributed/client.h), with a page of text and a
  status that says nothing; no setting prevents it, and a callback from Python
  makes it crash (jax 0.10.2). The roll knows who died, but Python may need a
  moment to say it. So the thread that aborts first sleeps. The C library calls
  the handler with the signal's number, and for `sleep` that is the seconds: 6.
  """
  library = ctypes.CDLL(None)
  library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
  library.signal.restype = ctypes.c_void_p
  handler = ctypes.cast(library.sleep, ctypes.c_void_p)
  library.signal(int(signal.SIGABRT), handler)
