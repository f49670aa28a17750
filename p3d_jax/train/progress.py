"""A progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeRemainingColumn,
)


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
  ) -> None:
    self.console = console or Console(stderr=True, soft_wrap=True)
    self._title, self._total, self._start = title, total, start
    self._began = time.monotonic()
    self._done = start
    self._bar: Progress | None = None
    if self.console.is_terminal:
      self._bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
        console=self.console,
      )
      self._task = self._bar.add_task(
        title, total=total, completed=start, note=""
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
    self, done: int, numbers: Mapping[str, str] | None = None, line: bool = True
  ) -> None:
    """Shows the progress.

    Args:
      done: of the total.
      numbers: shown beside it, by name.
      line: whether to print a line where there is no terminal.
    """
    self._done = done
    note = "  ".join(f"{k} {v}" for k, v in (numbers or {}).items())
    if self._bar:
      self._bar.update(self._task, completed=done, note=note)
    elif line:
      self.console.print(
        f"{self._title} {done}/{self._total}  {note}  left {self._left()}",
        highlight=False,
        markup=False,
      )

  def say(self, text: str) -> None:
    """Prints a line above the bar."""
    (self._bar.console if self._bar else self.console).print(
      text, highlight=False, markup=False
    )

  def _left(self) -> str:
    fresh = self._done - self._start
    if not fresh:
      return "?"
    each = (time.monotonic() - self._began) / fresh
    seconds = round(each * (self._total - self._done))
    return f"{seconds // 60}:{seconds % 60:02d}"
