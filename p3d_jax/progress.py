"""A progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
)

EVERY = 60.0  # seconds from line to line of what has no steps of its own


class Bar:
  """Shows how far something long is; use it in a `with`.

  Attributes:
    console: where it prints; by default standard error.
  """

  def __init__(
    self,
    title: str,
    total: int,
    start: int = 0,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
    host: int = 0,
  ) -> None:
    """Takes what is shown; the time left counts from here.

    Args:
      title: in front.
      total: where it ends.
      start: where it begins: what was done before takes no time now.
      console: where to print; None: standard error.
      clock: seconds; only differences matter.
      host: that this process is. The first one shows the progress of all; the
        others print nothing but what they `say`, with their number in front.
    """
    self._host = host
    self.console = console or Console(stderr=True, soft_wrap=True)
    self._title, self._total, self._start = title, total, start
    self._clock, self._began = clock, clock()
    self._said = self._began
    self._done = start
    self._bar: Progress | None = None
    if self.console.is_terminal and not host:
      self._bar = Progress(
        TextColumn("{task.description}", markup=False),
        # On 80 columns the numbers need the room.
        BarColumn(bar_width=min(max(self.console.width - 78, 4), 24)),
        MofNCompleteColumn(),
        # rich's own time left forgets what is older than 30 s: with slow steps
        # it never knows one.
        TextColumn("left {task.fields[left]}", markup=False),
        TextColumn("{task.fields[note]}", markup=False),
        console=self.console,
      )
      self._task = self._bar.add_task(
        title, total=total, completed=start, note="", left="?"
      )

  def __enter__(self) -> Bar:
    """Starts drawing."""
    if self._bar:
      self._bar.start()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    """Stops drawing."""
    if self._bar:
      self._bar.stop()

  def update(
    self,
    done: int,
    numbers: Mapping[str, str] | None = None,
    line: bool | None = True,
  ) -> None:
    """Shows the progress.

    Args:
      done: of the total.
      numbers: shown beside it, by name.
      line: whether to print a line where there is no terminal; None: once a
        minute, and at the end.
    """
    self._done = done
    if line is None:
      line = self._late() or done == self._total
    note = "  ".join(f"{k} {v}" for k, v in (numbers or {}).items())
    if self._bar:
      self._bar.update(
        self._task,
        completed=done,
        note=note.replace("  ", " "),  # a terminal may have 80 columns
        left=self._left(),
      )
    elif line:
      parts = [f"{self._title} {done}/{self._total}", note]
      parts.append(f"left {self._left()}")
      self._print("  ".join(part for part in parts if part))

  def restart(self, done: int) -> None:
    """Counts the time left from here: what was before will not come again.

    Args:
      done: of the total.
    """
    self._start, self._began = done, self._clock()

  def advance(self, done: int) -> None:
    """Moves the bar; what stands beside it stays, and no line is printed.

    Args:
      done: of the total.
    """
    self._done = done
    if self._bar:
      self._bar.update(self._task, completed=done, left=self._left())

  def note(self, text: str, line: bool | None = False) -> None:
    """Shows what goes on between two updates.

    Args:
      text: takes the place of the numbers.
      line: whether to print a line where there is no terminal; None: once a
        minute.
    """
    if self._bar:
      self._bar.update(self._task, note=text)
    elif line or (line is None and self._late()):
      self._print(f"{self._title} {self._done}/{self._total}  {text}")

  def say(self, text: str) -> None:
    """Prints a line above the bar.

    It is a line of its own also where a launcher puts the number of the
    process in front of all: few lines of other hosts are printed, and each
    says whose it is without anything that a launcher would have to set.
    """
    whose = f"host {self._host}: " if self._host else ""
    (self._bar.console if self._bar else self.console).print(
      f"{whose}{text}", highlight=False, markup=False
    )

  def _print(self, text: str) -> None:
    """Prints a line of progress, which the first host alone has."""
    self._said = self._clock()
    if not self._host:
      self.say(text)

  def _late(self) -> bool:
    """Whether the last line of progress is a minute ago."""
    return self._clock() - self._said >= EVERY

  def _left(self) -> str:
    """Time that the rest takes at the mean pace so far."""
    fresh = self._done - self._start
    if not fresh:
      return "?"
    each = (self._clock() - self._began) / fresh
    minutes, seconds = divmod(round(each * (self._total - self._done)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
      return f"{hours}:{minutes:02d}:{seconds:02d}"
    return f"{minutes}:{seconds:02d}"
