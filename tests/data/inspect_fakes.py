"""Decoders that misbehave, for the process of a guard to run."""

import os
import pathlib
import time
from typing import Any

from p3d_jax.data.inspect_video import inspect


def wild(source: Any, seconds: float) -> dict[str, Any]:
  """Hangs or crashes where the name of the file says so."""
  name = pathlib.Path(source or "").name
  if name.startswith("hang"):
    time.sleep(1000)
  if name.startswith("crash"):
    os.abort()
  return inspect(source, seconds)


def refuse(source: Any, seconds: float) -> dict[str, Any]:
  raise RuntimeError(f"{source} is decoded")


_pieces = [0]


def slow(source: Any, seconds: float) -> dict[str, Any]:
  """Takes eight pieces of time, and each is over in time."""
  _pieces[0] = 0 if source is not None else _pieces[0] + 1
  time.sleep(seconds)
  if _pieces[0] < 7:
    return {}
  measures = {"frames": 20, "height": 2, "width": 2, "fps": 25, "seconds": 1}
  return {"fault": "", "why": "", "odd": "", **measures}
