"""How a run can end that is neither done nor refused, and its exit status.

A launcher starts a run again after either: it goes on from the last whole
checkpoint.
"""

from __future__ import annotations

from p3d_jax.files import is_outage


class EndedError(RuntimeError):
  """The run ended before its last step, through no fault of its config.

  Attributes:
    status: the exit status of the process.
  """

  status = 1


class PreemptedError(EndedError):
  """The machine is being taken away; the run has saved its last step."""

  status = 75  # EX_TEMPFAIL of sysexits.h: try again


class LostError(EndedError):
  """A host did not come, is gone or hangs, or a step took too long."""

  status = 76


def status_of(error: BaseException) -> int:
  """Returns the exit status of a command line that ends with an error.

  130 is the user's own Ctrl-C, 2 what the user can mend, 1 what nobody has
  foreseen. A launcher starts a run again after none of them.
  """
  if isinstance(error, EndedError):
    return error.status
  if isinstance(error, KeyboardInterrupt):
    return 130
  if is_outage(error):
    return LostError.status  # the store may be there in a minute
  mistakes = (ValueError, ArithmeticError, OSError)
  return 2 if isinstance(error, mistakes) else 1
