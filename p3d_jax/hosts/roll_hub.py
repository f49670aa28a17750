"""Process 0's part of the roll: who has come, who is gone, who stands where.

It knows nothing of jax, and is a thread: it goes on while the main thread is
held up in a collective operation that will never end.
"""

from __future__ import annotations

import dataclasses
import selectors
import socket
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence

from p3d_jax.hosts.json_lines import Line, Message

# What to tell all, and whom it is of: nobody waits for these to hear it.
News = tuple[Message, Sequence["Member"]]

TICK = 1.0  # seconds from one sign of life to the next
NOTICE = 20.0  # seconds until process 0 says whom it waits for
HELLO = 10.0  # seconds that a stranger has to say who it is
LEAVING = 5.0  # seconds that the others have to read why they end
# Seconds that the others wait before they end because one has stopped: all
# may have the same reason, and then each tells its own.
SAME = 1.0
SHOWN = 16  # processes named in one line


def who(process: int, name: str) -> str:
  """Returns "process 3 (its host)"."""
  return f"process {process} ({name})" if name else f"process {process}"


def listed(words: Sequence[str]) -> str:
  """Joins words with commas; of very many only the first are shown."""
  more = [f"and {len(words) - SHOWN} more"] if len(words) > SHOWN else []
  return ", ".join([*words[:SHOWN], *more])


@dataclasses.dataclass
class Member:
  """A process that has come.

  Attributes:
    process: its number.
    name: its host.
    line: the connection to it.
    seen: when it last gave a sign, seconds of this process's clock.
    at: what it said it had done last.
    ready: whether it wants to leave.
  """

  process: int
  name: str
  line: Line
  seen: float
  at: str = "the start"
  ready: bool = False

  def __str__(self) -> str:
    """Its number and host."""
    return who(self.process, self.name)

  def quiet(self, now: float) -> bool:
    """Whether it has missed some signs."""
    return now - self.seen > 5 * TICK


def standing(members: Sequence[Member], now: float) -> str:
  """Says who stands where; the largest group comes last, as "the others".

  Args:
    members: all processes.
    now: seconds of the clock that saw them.
  """
  groups = defaultdict(list)
  for member in members:
    quiet = member.quiet(now)
    sign = f" (no sign of it for {now - member.seen:.0f} s)" * quiet
    groups[not quiet, f"{member.at!r}{sign}"].append(str(member))
  ordered = sorted(
    groups.items(), key=lambda group: (group[0][0], len(group[1]))
  )
  *few, ((_, place), most) = ordered
  if not few:
    return f"{'all stand' if len(most) > 1 else f'{most[0]} stands'} at {place}"
  told = [
    f"{listed(names)} stand{'s' * (len(names) == 1)} at {at}"
    for (_, at), names in few
  ]
  rest = "the others" if len(most) > 1 else most[0]
  return f"{', '.join(told)}, {rest} at {place}"


class Hub(threading.Thread):
  """Calls the roll, then watches, then says how it ends; once through."""

  def __init__(
    self,
    listener: socket.socket,
    own: socket.socket,
    *,
    names: Sequence[str],
    wait: float,
  ) -> None:
    """Takes what it listens on, and the end of a pair for its own process.

    Args:
      listener: bound to the roll's port.
      own: process 0 has the other end.
      names: the host of each process as the launcher says; "": not said.
      wait: seconds until all must have come.
    """
    super().__init__(name="p3d-roll-call", daemon=True)
    self._listener, self._names, self._wait = listener, list(names), wait
    self._members: dict[Line, Member] = {}
    self._strangers: dict[Line, float] = {}  # -> until when one may be silent
    self._refused: list[str] = []
    self._lost = float("inf")
    self._ticked = 0.0
    self._selector = selectors.DefaultSelector()
    self._selector.register(listener, selectors.EVENT_READ)
    self._meet(own)

  def run(self) -> None:
    """Begins; ends with the run."""
    news, of = self._call() or self._watch()
    self._spread(news, of)

  def _call(self) -> News | None:
    """Waits for all; returns what to tell those who came, if not all did."""
    began, told = time.monotonic(), False
    while len(self._members) < len(self._names):
      for line, messages in self._heard():
        if messages is None:
          self._drop(line)
        elif messages and line in self._strangers:
          self._greet(line, messages[0])
      now = time.monotonic()
      for line, until in list(self._strangers.items()):
        if now > until:
          self._drop(line)
      missing = len(self._members) < len(self._names)
      if missing and now - began > self._wait:
        return {"missing": self._missing()}, []
      if missing and now - began > NOTICE and not told:
        told = True
        print(f"p3d: waiting for {self._absent()}", file=sys.stderr, flush=True)
    for line in list(self._strangers):
      self._drop(line)
    self._selector.unregister(self._listener)
    self._listener.close()
    for member in self._members.values():
      member.seen = time.monotonic()
      member.line.send({"all": self._names})
    return None

  def _watch(self) -> News:
    """Watches until the end; returns what to tell all, and whom it is of."""
    while True:
      began = time.monotonic()
      for line, messages in self._heard():
        member = self._members[line]
        if messages is None:
          return {"end": f"{member} died"}, [member]
        for message in messages:
          if news := self._note(member, message):
            return news
      now, members = time.monotonic(), self._members.values()
      if now - began > 2 * TICK:  # this process was stopped: hear them first
        continue
      silent = [m for m in members if now - m.seen > self._lost]
      if silent:
        names = listed([str(member) for member in silent])
        hang = f"hang{'s' * (len(silent) == 1)}"
        told = f"{names} {hang}: no sign for {self._lost:g} s"
        return {"end": told}, silent
      if all(member.ready for member in members):
        return {"bye": True}, []

  def _note(self, member: Member, message: Message) -> News | None:
    """Takes a sign of life; returns what it means for all, if it does."""
    member.seen = time.monotonic()
    member.at = str(message.get("at", member.at))
    member.ready = member.ready or "bye" in message
    if member.process == 0 and "lost" in message:
      self._lost = float(message["lost"])
    if "stopped" in message:
      line = f"{member} stopped: {message['stopped']}"
      status = int(message["status"])
      return {"end": line, "wait": SAME, "status": status}, [member]
    if "end" in message:  # it had no sign of process 0
      return {"end": message["end"]}, []
    if "late" in message:
      members = sorted(self._members.values(), key=lambda m: m.process)
      now = time.monotonic()
      line = f"no step for {message['late']:g} s: {standing(members, now)}"
      return {"end": line, "stacks": True}, [m for m in members if m.quiet(now)]
    return None

  def _spread(self, news: Message, of: Sequence[Member]) -> None:
    """Tells all, process 0 last: with it go the connections and jax's."""
    lines = {m.process: line for line, m in self._members.items()}
    reason = {member.process for member in of}
    stopped = reason if "wait" in news else set()  # they know, and wait for us
    for process, line in lines.items():
      if process:
        line.send({"told": True} if process in stopped else news)
        line.finish()
    waiting = {line for k, line in lines.items() if k and k not in reason}
    deadline = time.monotonic() + LEAVING
    while waiting and time.monotonic() < deadline:
      gone = [line for line, messages in self._heard() if messages is None]
      for line in gone:
        self._drop(line)
      waiting -= set(gone)
    lines[0].send({"told": True} if 0 in stopped else news)

  def _heard(self) -> Iterator[tuple[Line, list[Message] | None]]:
    """Yields what comes until the next tick, and ticks."""
    now = time.monotonic()
    if now >= self._ticked + TICK:
      self._ticked = now
      for line in self._members:
        line.send({"tick": True})
    for key, _ in self._selector.select(max(self._ticked + TICK - now, 0)):
      if key.fileobj is self._listener:
        try:
          self._meet(self._listener.accept()[0])
        except OSError:  # it has gone again
          continue
      else:
        yield key.data, key.data.read()

  def _meet(self, link: socket.socket) -> None:
    line = Line(link)
    self._selector.register(line, selectors.EVENT_READ, line)
    self._strangers[line] = time.monotonic() + HELLO

  def _drop(self, line: Line) -> None:
    self._selector.unregister(line)
    self._members.pop(line, None)
    self._strangers.pop(line, None)
    line.close()

  def _greet(self, line: Line, hello: Message) -> None:
    """Enters a process in the roll, or refuses it; others are hung up on."""
    process, count = hello.get("process"), hello.get("processes")
    name = hello.get("name")
    if type(process) is not int or type(count) is not int:
      return self._drop(line)
    if not isinstance(name, str) or len(name) > 255:
      return self._drop(line)
    name, own = " ".join(name.split()), len(self._names)
    if count != own:
      told = f"{who(process, name)} is one of {count}, process 0 one of {own}"
      return self._refuse(line, told)
    if not 0 <= process < own:
      return self._drop(line)
    known = {member.process: member for member in self._members.values()}
    if process in known:
      told = f"two processes have the number {process}: {known[process].name}"
      return self._refuse(line, f"{told} came first, {name} is refused")
    del self._strangers[line]
    self._names[process] = self._names[process] or name
    name = self._names[process]
    self._members[line] = Member(process, name, line, time.monotonic())
    return None

  def _refuse(self, line: Line, told: str) -> None:
    self._refused.append(told)
    line.send({"refused": told})
    line.finish()
    self._drop(line)

  def _absent(self) -> str:
    came = {member.process for member in self._members.values()}
    absent = [(k, n) for k, n in enumerate(self._names) if k not in came]
    return listed([who(process, name) for process, name in absent])

  def _missing(self) -> str:
    count = len(self._names)
    refused = "".join(f"; {told}" for told in self._refused[:SHOWN])
    return (
      f"{count - len(self._members)} of {count} hosts did not come within "
      f"{self._wait:g} s: {self._absent()}{refused}"
    )
