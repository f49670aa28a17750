"""Has all hosts begin a compiled function together.

Hosts compile for different times. On CPUs the first exchange of a function
fails where one process comes half a minute after another (XLA's Gloo); so they
wait for each other once, when all have compiled.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import orbax.checkpoint as ocp

SECONDS = 3_600  # that the last host may compile longer than the first

# A barrier's name is used once. All hosts come to the same ones in turn.
_numbers = itertools.count()


def wait() -> None:
  """Waits until all hosts have come here."""
  ocp.multihost.sync_global_processes(
    f"p3d-together-{next(_numbers)}",
    timeout=SECONDS,
    # All of them: without, Orbax would exchange something by the devices.
    processes=set(range(jax.process_count())),
  )


class Together:
  """A jitted function; with several processes it is compiled ahead.

  Arguments have the shapes and the places of the first call's, always.
  """

  def __init__(self, function: Any) -> None:
    """Takes a function of `jax.jit`."""
    self._function = function
    self._ready = jax.process_count() == 1

  def __call__(self, *args: Any) -> Any:
    """Returns what the function does."""
    if not self._ready:
      self._function = self._function.lower(*args).compile()
      wait()
      self._ready = True
    return self._function(*args)
