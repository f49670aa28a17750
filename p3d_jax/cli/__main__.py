"""The process `p3d VERB ...`, also `python -m p3d_jax.cli VERB ...`."""

import atexit
import logging
import os
import sys
from typing import NoReturn

from p3d_jax.cli import main


def run() -> NoReturn:
  """Runs the command line of this process and ends it with its status.

  Python's own end comes no further than its exit hooks. After them, Python
  3.11 unwinds a thread of a C++ library that asks for its lock, through frames
  that let no exception pass: of some 300 short trainings two ended with
  SIGABRT, when all was done and written.
  """
  statuses: list[int] = []
  # The first hook that is registered is the last that is called.
  atexit.register(_end, statuses)
  statuses.append(main())
  sys.exit(statuses[0])


def _end(statuses: list[int]) -> None:
  """Ends the process if its command line ran to an end."""
  try:
    logging.shutdown()  # a hook of Python's, registered before ours
    sys.stdout.flush()
    sys.stderr.flush()
  except OSError:
    return  # a full disk, a closed pipe: Python says so, and ends with 120
  if statuses:
    os._exit(statuses[0])


if __name__ == "__main__":
  run()
