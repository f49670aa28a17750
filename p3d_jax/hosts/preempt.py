"""The notice that this machine is about to be taken away.

It comes as SIGTERM (SLURM, Kubernetes, an instance that is shut down), or from
Google Cloud's metadata server, which says it some seconds before. The loop
looks at it between two steps. What the server said already when the process
began is no notice: an event may be announced for an hour, in which a run that
has saved and was started again goes on until SIGTERM.

On several hosts each one's notice is a number in its batch, so that all learn
of it with the same step.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import pathlib
import signal
import threading
import time
import urllib.request
from types import FrameType, TracebackType
from typing import Any

SAME = 10.0  # seconds from a SIGTERM to others that mean the same
SECONDS = 5.0  # from one question to the metadata server to the next

_MAKER = pathlib.Path("/sys/class/dmi/id/product_name")
_HOST = "metadata.google.internal"
# What the metadata server answers where nothing is up.
# https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys
_QUIET = {
  "preempted": ("FALSE",),
  "maintenance-event": ("NONE", "MIGRATE_ON_HOST_MAINTENANCE"),
}


class Notice:
  """Waits for the notice; use it in a `with`.

  A SIGTERM more than ten seconds after the first one does what it does without
  this: it ends the process. One that comes sooner is the same notice, from a
  launcher and from the system that ends it.

  Attributes:
    given: whether it has come.
  """

  def __init__(self) -> None:
    """Waits for nothing yet."""
    self.given = False
    self._first: float | None = None  # when SIGTERM came
    self._before: Any = None
    self._stop = threading.Event()

  def __enter__(self) -> Notice:
    """Begins to wait."""
    # Python takes signals in its main thread only.
    if threading.current_thread() is threading.main_thread():
      self._before = signal.signal(signal.SIGTERM, self._take)
    if server := metadata_server():
      threading.Thread(target=self._ask, args=(server,), daemon=True).start()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    """Leaves the signal as it was."""
    self._stop.set()
    self._restore()

  def _take(self, number: int, frame: FrameType | None) -> None:
    self.given = True
    now = time.monotonic()
    if self._first is None:
      self._first = now
    elif now - self._first > SAME:
      self._restore()
      signal.raise_signal(number)

  def _restore(self) -> None:
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)
      self._before = None

  def _ask(self, server: str) -> None:
    before = going(server)
    while not self.given and not self._stop.wait(SECONDS):
      now = going(server)
      if now and not before:
        self.given = True
      before = now


def metadata_server() -> str | None:
  """Returns the host of the metadata server; None where there is none."""
  if named := os.environ.get("GCE_METADATA_HOST"):
    return named
  with contextlib.suppress(OSError):
    if "Google" in _MAKER.read_text():
      return _HOST
  return None


def going(server: str) -> bool:
  """Asks the metadata server whether this instance is being taken away."""
  # A proxy's page would be taken for a notice.
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  for name, quiet in _QUIET.items():
    request = urllib.request.Request(
      f"http://{server}/computeMetadata/v1/instance/{name}",
      headers={"Metadata-Flavor": "Google"},
    )
    # A server that does not answer says nothing: SIGTERM comes all the same.
    try:
      with opener.open(request, timeout=SECONDS) as answer:
        said = answer.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):  # urllib's are the former
      continue
    if said not in quiet:
      return True
  return False
