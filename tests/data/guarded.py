"""What the tests of the guard call in the guarded process."""

import ctypes
import os
import signal
import time
from typing import Any


def returned(**values: Any) -> dict[str, Any]:
  return values


def pid() -> dict[str, Any]:
  return {"pid": os.getpid()}


def refuses(text: str) -> None:
  raise ValueError(text)


def has_a_bug() -> None:
  raise KeyError("bug")


def returns_objects() -> dict[str, Any]:
  return {"object": object()}


def sleeps() -> None:
  while True:
    time.sleep(1)


def spins() -> None:
  """In C, holding the interpreter: no signal handler of Python ever runs."""
  ctypes.pythonapi.sleep(3600)


def ignores_signals() -> None:
  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
  sleeps()


def segfaults() -> None:
  ctypes.string_at(0)


def aborts() -> None:
  os.abort()


def exits() -> None:
  os._exit(7)


def crashes_once(marker: str) -> dict[str, Any]:
  if not os.path.exists(marker):
    with open(marker, "w"):
      os._exit(9)
  return {"done": True}
