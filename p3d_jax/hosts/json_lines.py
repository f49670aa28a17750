"""JSON lines over a socket, between processes that know each other."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import Any

LONGEST = 65_536  # bytes of a line; whoever sends more is none of ours

Message = dict[str, Any]


class Line:
  """One end of a connection; it can be sent to from several threads."""

  def __init__(self, link: socket.socket) -> None:
    """Takes a connected socket."""
    link.setblocking(False)
    self._socket = link
    self._lock = threading.Lock()
    self._rest = b""

  def fileno(self) -> int:
    """The file that `select` waits for."""
    return self._socket.fileno()

  def send(self, message: Message) -> bool:
    """Sends a message; returns whether the other end can still get it.

    It never waits: what is said in an hour fits a socket's buffer.
    """
    data = json.dumps(message).encode() + b"\n"
    with self._lock:
      try:
        return self._socket.send(data) == len(data)
      except OSError:
        return False

  def read(self) -> list[Message] | None:
    """Returns what has come; None if the other end is gone, or no friend."""
    try:
      data = self._socket.recv(LONGEST)
    except BlockingIOError:
      return []
    except OSError:
      return None
    *lines, self._rest = (self._rest + data).split(b"\n")
    if not data or len(self._rest) > LONGEST:
      return None
    try:
      # A text may be too deep or hold a number too long: both are errors here.
      messages = [json.loads(line) for line in lines]
    except (ValueError, RecursionError):
      return None
    return messages if all(isinstance(m, dict) for m in messages) else None

  def finish(self) -> None:
    """Says that nothing more is sent; the other end can read it all."""
    with contextlib.suppress(OSError):
      self._socket.shutdown(socket.SHUT_WR)

  def close(self) -> None:
    """Ends the connection."""
    self._socket.close()
