"""How the processes of a run find each other, and begin together.

The order is: flags, the environment that `p3d launch local` sets, SLURM, a TPU
pod, alone. A process that is alone does without jax.distributed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping

from p3d_jax.hosts import clusters, stop
from p3d_jax.hosts.clusters import Cluster
from p3d_jax.hosts.ends import LostError
from p3d_jax.hosts.roll import Roll, current
from p3d_jax.hosts.roll_call import gather, listen

# What sets a field of Meeting besides its flag.
VARIABLES = {
  "coordinator": "P3D_COORDINATOR",
  "processes": "P3D_PROCESSES",
  "process": "P3D_PROCESS",
}
# Seconds. The roll watches the hosts, with times of the user's; jax's own watch
# must not come before it.
HEARTBEAT = 86_400
SHUTDOWN = 60  # seconds for jax's farewell, to which all come at once


@dataclasses.dataclass(frozen=True)
class Meeting:
  """Where the processes of a run meet, as far as the user says it.

  Attributes:
    coordinator: "host:port" of process 0. The port above it is taken too.
    processes: how many; 1: alone, whatever the machine is part of.
    process: the number of this one, from 0.
    wait: seconds that all have to come.
  """

  coordinator: str | None = None
  processes: int | None = None
  process: int | None = None
  wait: float = 300.0

  def found(self, environ: Mapping[str, str] | None = None) -> Cluster | None:
    """Returns the processes to work with; None: alone.

    Args:
      environ: of the process; its own by default.

    Raises:
      ValueError: if what is said is not enough, or cannot be.
    """
    environ = os.environ if environ is None else environ
    if not self.wait > 0:  # nor nan
      raise ValueError(f"--wait is {self.wait:g}: it must be > 0 seconds")
    said = self._said(environ)
    if said.get("processes") == 1:
      return None
    if said:
      return _cluster(said)
    cluster = clusters.slurm(environ) or clusters.tpu_pod(environ)
    return cluster if cluster and cluster.processes > 1 else None

  def _said(self, environ: Mapping[str, str]) -> dict[str, str | int]:
    """Returns what flags and P3D_ variables say; numbers are >= 0."""
    said: dict[str, str | int] = {}
    for name, variable in VARIABLES.items():
      flag = getattr(self, name)
      source = variable if flag is None else f"--{name}"
      text = environ.get(variable, "") if flag is None else str(flag)
      if not text:
        continue
      if name == "coordinator":
        said[name] = text
        continue
      least = 1 if name == "processes" else 0
      if not text.isdecimal() or int(text) < least:
        raise ValueError(f"{source} is {text}: it must be >= {least}")
      said[name] = int(text)
    return said


def _cluster(said: Mapping[str, str | int]) -> Cluster:
  """Returns the processes that a user names one by one."""
  for name, variable in VARIABLES.items():
    if name not in said:
      raise ValueError(
        f"--{name} (or {variable}) is missing: --coordinator, --processes and "
        "--process go together"
      )
  count, process = int(said["processes"]), int(said["process"])
  if process >= count:
    raise ValueError(
      f"--process is {process}: it must be below --processes={count}"
    )
  _split(str(said["coordinator"]))
  return Cluster(str(said["coordinator"]), count, process)


def _split(coordinator: str) -> tuple[str, int]:
  """Returns the host and the port of "host:port" or "[host]:port"."""
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isdecimal() or not 1 <= int(port) <= 65_534:
    raise ValueError(
      f"--coordinator is {coordinator!r}: it must be host:port, with a port of "
      "1 to 65534 (the one above it is taken too)"
    )
  return host.removeprefix("[").removesuffix("]"), int(port)


def leave(status: int) -> int:
  """Returns a status to end with; one of several that failed ends here.

  Args:
    status: of the process.
  """
  return current().leave(status)


def join(meeting: Meeting) -> Roll:
  """Brings the processes of a run together; returns when all have come.

  Nothing may have used jax's devices before.

  Args:
    meeting: what the user says of it.

  Raises:
    LostError: if not all come in time; all that did have the same line.
    ValueError: if what is said of the meeting cannot be.
  """
  cluster = meeting.found()
  if cluster is None:
    return Roll()
  host, port = _split(cluster.coordinator)
  if cluster.process == 0:
    listen(host, port).close()  # jax crashes if it cannot have it
  names = cluster.names or ("",) * cluster.processes
  try:
    joined = gather(host, port + 1, cluster.process, names, meeting.wait)
  except LostError as error:
    if meeting.coordinator is None and os.environ.get("P3D_COORDINATOR"):
      raise LostError(
        f"{error} (P3D_COORDINATOR of the environment says where; "
        "--processes=1 trains alone)"
      ) from None
    raise
  stop.hold_aborts()
  with contextlib.ExitStack() as failing:
    failing.enter_context(joined)  # an error here is told to the others
    _initialize(cluster, meeting.wait)
    failing.pop_all()
  return joined


def _initialize(cluster: Cluster, wait: float) -> None:
  import jax  # only here: a process that is refused need not wait for it

  # Its notifier would take SIGTERM from here on and do nothing with it. What
  # comes before training listens (preempt.py) ends the process: there is
  # nothing to save yet.
  jax.config.update("jax_enable_preemption_service", False)
  jax.distributed.initialize(
    cluster.coordinator,
    cluster.processes,
    cluster.process,
    local_device_ids=cluster.devices,
    # All is known; where it asked SLURM, it would take one GPU of a node.
    cluster_detection_method="deactivate",
    initialization_timeout=max(SHUTDOWN, int(wait)),
    heartbeat_timeout_seconds=HEARTBEAT,
    shutdown_timeout_seconds=SHUTDOWN,
  )
  current().on_leaving = jax.distributed.shutdown
