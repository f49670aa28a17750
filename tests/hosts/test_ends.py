"""The exit status of each way to end."""

import gcsfs.retry
import pytest

from p3d_jax.checkpoint.model import CheckpointError
from p3d_jax.files import UnreachableError
from p3d_jax.hosts import ends


def http(code: int) -> Exception:
  """What gcsfs raises for an answer of a store."""
  error: Exception = gcsfs.retry.HttpError({"code": code, "message": "no"})
  return error


def of(cause: Exception) -> Exception:
  """What a save raises that failed so."""
  try:
    raise CheckpointError("a step cannot be saved") from cause
  except CheckpointError as error:
    return error


@pytest.mark.parametrize(
  ("error", "status"),
  [
    (ends.PreemptedError("told"), 75),
    (ends.LostError("host 1"), 76),
    (KeyboardInterrupt(), 130),
    (ValueError("batch"), 2),
    (FileNotFoundError("set"), 2),
    (RuntimeError("bug"), 1),
    # A store that may be there in a minute.
    (UnreachableError("no way"), 76),
    (http(503), 76),
    (http(429), 76),
    (of(http(500)), 76),
    (of(ValueError("UNAVAILABLE: CURL error while reading gs://b/o")), 76),
    # One that has answered.
    (http(400), 1),
    (of(http(400)), 2),
    (of(OSError("Forbidden: gs://b/o")), 2),
    (of(ValueError("DATA_LOSS: gs://b/o is cut short")), 2),
  ],
  ids=lambda x: str(x).replace(" ", "_")[:40],
)
def test_status(error: BaseException, status: int) -> None:
  assert ends.status_of(error) == status
