"""Starts the processes of one run on this machine, and starts them again.

They are what the hosts of a pod are: each has devices of its own and finds the
others by the environment (P3D_COORDINATOR, P3D_PROCESSES, P3D_PROCESS). This
module knows nothing of JAX: it starts command lines and waits for them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from p3d_jax.hosts.ends import LostError, PreemptedError
from p3d_jax.pods.processes import Environment, Group, Process

# Statuses after which a run goes on where it was.
AGAIN = (PreemptedError.status, LostError.status)


@dataclasses.dataclass(frozen=True)
class Share:
  """What each of the processes has of this machine.

  Attributes:
    processes: how many there are.
    devices: of each: fake CPU devices, or GPUs.
    gpus: names of the GPUs, as CUDA_VISIBLE_DEVICES has them, which the
      processes share in their order; None: the processes compute on CPUs.
  """

  processes: int
  devices: int
  gpus: tuple[str, ...] | None = None

  def __post_init__(self) -> None:
    for name, given in (
      ("--processes", self.processes),
      ("--devices-per-process", self.devices),
    ):
      if given < 1:
        raise ValueError(f"{name} is {given}: it must be >= 1")
    wanted = self.processes * self.devices
    if self.gpus is not None and wanted > len(self.gpus):
      raise ValueError(
        f"--processes x --devices-per-process is {wanted}: this machine has "
        f"{len(self.gpus)} GPUs"
      )

  def environments(self, base: Mapping[str, str]) -> list[Environment]:
    """Returns the environment of each process, with a port that is free now.

    Args:
      base: the user's own, which is kept but for what is set here.
    """
    coordinator = f"localhost:{free_port()}"
    return [
      {
        **base,
        **self._devices(k, base),
        "P3D_COORDINATOR": coordinator,
        "P3D_PROCESSES": str(self.processes),
        "P3D_PROCESS": str(k),
        # A pipe is no terminal: Python would hold back what is printed.
        "PYTHONUNBUFFERED": "1",
      }
      for k in range(self.processes)
    ]

  def _devices(self, k: int, base: Mapping[str, str]) -> Environment:
    if self.gpus is None:
      # Of two equal flags XLA takes the last.
      flag = f"--xla_force_host_platform_device_count={self.devices}"
      flags = f"{base.get('XLA_FLAGS', '')} {flag}".strip()
      return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    first = k * self.devices
    own = self.gpus[first : first + self.devices]
    return {"CUDA_VISIBLE_DEVICES": ",".join(own)}


def free_port() -> int:
  """Returns a port of this machine that nobody listens on, nor on the next."""
  while True:
    with socket.socket() as one, socket.socket() as other:
      one.bind(("localhost", 0))
      port: int = one.getsockname()[1]
      with contextlib.suppress(OSError, OverflowError):
        other.bind(("localhost", port + 1))
        return port


def visible_gpus() -> tuple[str, ...]:
  """Returns the GPUs that this process may use, as CUDA names them.

  Raises:
    ValueError: there is none, or no driver that knows.
  """
  named = os.environ.get("CUDA_VISIBLE_DEVICES")
  if named is not None:
    found = tuple(name.strip() for name in named.split(",") if name.strip())
  else:
    try:
      listed = subprocess.run(
        ["nvidia-smi", "--list-gpus"], capture_output=True, text=True
      )
    except OSError as error:
      raise ValueError("--gpus: there is no nvidia-smi here") from error
    lines = listed.stdout.splitlines() if listed.returncode == 0 else []
    count = sum(line.startswith("GPU ") for line in lines)
    found = tuple(map(str, range(count)))
  if not found:
    raise ValueError("--gpus: this machine has no GPU that may be used")
  return found


def launch(
  command: Sequence[str],
  environments: Callable[[], Sequence[Environment]],
  *,
  restarts: int = 0,
  grace: float = 60.0,
) -> int:
  """Runs a command in several processes, and again if that may help.

  Each line that process k prints has "[k] " in front. When one ends badly, the
  others are asked to end (SIGTERM; not after a preemption, of which all know),
  and killed after a while. SIGINT and SIGTERM to this process go to all of
  them, each time; nothing is started again then. SIGTERM to one of them is a
  preemption, after which all are. Lines of Gloo that only say that all have met
  are left out (gloo.py).

  Args:
    command: a program and its arguments, the same for all.
    environments: makes the environments, one a process, for each start.
    restarts: how often all are started again after a lost host (status 76) or
      a death by a signal. A preemption of all (75) is not counted.
    grace: seconds from the first bad end until the others are killed.

  Returns:
    The status of the first that ended badly, or 0. Is that one "a host is
    lost" and another ended with a mistake of its own, it is the latter's: that
    one is what was lost. A death by a signal is 128 and its number.

  Raises:
    ValueError: `restarts` or `grace` is below 0.
  """
  if restarts < 0:
    raise ValueError(f"--restarts is {restarts}: it must be >= 0")
  if not grace >= 0:  # nor nan
    raise ValueError(f"--grace is {grace:g}: it must be >= 0")
  group = Group()
  counted = preempted = 0
  with group.passing_on():
    while True:
      ended = group.once(command, environments(), grace)
      first = _cause(ended)
      if first is None or group.caught:
        break
      told = f"process {first.number} {_how(first)}"
      if all(p.status == PreemptedError.status for p in ended):
        preempted += 1
        _say(f"preempted; starting all again (time {preempted}, not counted)")
      elif not _may_help(first):
        _say(told)
        break
      elif counted == restarts:
        often = f"started again {counted} of {restarts} times"
        _say(f"{told}; {often if restarts else '--restarts is 0'}")
        break
      else:
        counted += 1
        _say(f"{told}; starting all again ({counted} of {restarts})")
  if first is None:
    return 128 + group.caught[0] if group.caught and not ended else 0
  assert first.status is not None
  return first.status if first.status > 0 else 128 - first.status


def _cause(ended: Sequence[Process]) -> Process | None:
  """Returns the process whose status is that of the run; None: all is well."""
  bad = [process for process in ended if process.status]
  if bad and bad[0].status == LostError.status:
    own = [process for process in bad if not _may_help(process)]
    return (own or bad)[0]
  return bad[0] if bad else None


def _may_help(process: Process) -> bool:
  assert process.status is not None
  return process.status < 0 or process.status in AGAIN


def _how(process: Process) -> str:
  assert process.status is not None
  if process.status < 0:
    return f"was killed by {signal.Signals(-process.status).name}"
  return f"ended with status {process.status}"


def _say(text: str) -> None:
  print(f"p3d launch: {text}", file=sys.stderr, flush=True)
