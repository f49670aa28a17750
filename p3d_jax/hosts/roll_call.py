"""The roll call: process 0 calls, the others answer, in any order.

It knows nothing of jax, and comes before it.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Sequence

from p3d_jax.hosts.ends import LostError
from p3d_jax.hosts.json_lines import Line, Message
from p3d_jax.hosts.roll import LOST, Roll
from p3d_jax.hosts.roll_hub import HELLO, Hub, who

RETRY = 0.5  # seconds from one attempt to reach process 0 to the next


def gather(
  host: str,
  port: int,
  process: int,
  names: Sequence[str],
  wait: float,
) -> Roll:
  """Calls the roll, or answers it; returns when all have come.

  Args:
    host: that process 0 runs on.
    port: of the roll, on that host.
    process: the number of this one.
    names: the host of each process as a launcher says it; "": not known.
    wait: seconds that all have.

  Raises:
    LostError: if not all came; all who did have the same line.
    ValueError: if this process does not fit the others, or the port is taken.
  """
  if process == 0:
    line, verdict, heard = _call(host, port, names, wait)
  else:
    line, verdict, heard = _reach(host, port, process, names, wait)
  if "all" in verdict:
    return Roll(process, verdict["all"], line, heard)
  line.close()
  if "refused" in verdict:
    raise ValueError(verdict["refused"])
  raise LostError(verdict["missing"])


def listen(host: str, port: int) -> socket.socket:
  """Opens a port of this machine.

  Args:
    host: the name that others have for it; for "localhost" none but those on
      this machine can connect.
    port: to open.

  Raises:
    ValueError: if it cannot be had.
  """
  here = host in ("localhost", "127.0.0.1")
  both = socket.has_dualstack_ipv6() and not here
  try:
    return socket.create_server(
      ("127.0.0.1" if here else "", port),
      family=socket.AF_INET6 if both else socket.AF_INET,
      dualstack_ipv6=both,
      backlog=1024,
    )
  except OSError as error:
    problem = os.strerror(error.errno or 0)
    raise ValueError(
      f"port {port} of process 0 cannot be had ({problem}): the coordinator's "
      "and the one above must be free; is there another process 0?"
    ) from None


def _hello(process: int, names: Sequence[str]) -> Message:
  name = names[process] or socket.gethostname()
  return {"process": process, "processes": len(names), "name": name}


def _call(
  host: str, port: int, names: Sequence[str], wait: float
) -> tuple[Line, Message, list[Message]]:
  """Calls the roll as process 0, which answers it over a pair."""
  listener = listen(host, port)
  listener.setblocking(False)
  own, other = socket.socketpair()
  line = Line(own)
  line.send(_hello(0, names))
  Hub(listener, other, names=names, wait=wait).start()
  # Its own hub answers when the time is over.
  said = _verdict(line, wait + LOST)
  assert said
  return line, said[0], said[1:]


def _reach(
  host: str, port: int, process: int, names: Sequence[str], wait: float
) -> tuple[Line, Message, list[Message]]:
  """Answers process 0, which may start later than this one."""
  deadline = time.monotonic() + wait
  problem = "no answer"
  while (left := deadline - time.monotonic()) > 0:
    try:
      link = socket.create_connection((host, port), timeout=min(left, HELLO))
    except OSError as error:
      problem = error.strerror or str(error)
      time.sleep(RETRY)
      continue
    line = Line(link)
    line.send(_hello(process, names))
    if said := _verdict(line, HELLO):
      return line, said[0], said[1:]
    line.close()
    time.sleep(RETRY)
  raise LostError(
    f"{who(0, names[0])} did not come: {host}:{port} could not be reached "
    f"within {wait:g} s ({problem})"
  )


def _verdict(line: Line, silence: float) -> list[Message]:
  """Waits for the end of the roll call; returns it and what came after.

  Nothing is returned where nobody calls a roll.
  """
  with selectors.DefaultSelector() as selector:
    selector.register(line, selectors.EVENT_READ)
    while selector.select(silence):
      messages = line.read()
      if messages is None:
        break
      for k, message in enumerate(messages):
        if message.keys() & {"all", "refused", "missing"}:
          return messages[k:]
  return []
