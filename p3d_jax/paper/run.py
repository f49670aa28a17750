"""Runs a table: its command lines in turn, then its rows from what they wrote.

A table is data: a list of `p3d` command lines and a function that reads the
files they leave. A table that was stopped goes on: what is there already is not
made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from p3d_jax.files import write_aside
from p3d_jax.train import logs

INTERRUPTED = 130  # the status of a command that Ctrl-C ended

# Runs the words after `p3d` and returns the status.
Runner = Callable[[Sequence[str]], int]


def _never() -> bool:
  return False


@dataclasses.dataclass(frozen=True)
class Command:
  """One `p3d` command line.

  Attributes:
    words: after `p3d`.
    done: whether what it would write is there, of the same inputs.
    answers: statuses that are no failure: 1 says that of many videos some
      could not be read, which stands in the result.
  """

  words: tuple[str, ...]
  done: Callable[[], bool] = _never
  answers: tuple[int, ...] = (0,)

  def __str__(self) -> str:
    return shlex.join(("p3d", *self.words))


@dataclasses.dataclass(frozen=True)
class Rows:
  """A table as it is shown.

  Attributes:
    columns: titles.
    rows: the cells of each row: texts, numbers, or None, shown as "-".
    notes: sentences below it.
    about: all numbers behind it, in JSON types.
  """

  columns: tuple[str, ...]
  rows: tuple[tuple[Any, ...], ...]
  notes: tuple[str, ...] = ()
  about: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Table:
  """One table of the paper over some data.

  Attributes:
    name: "table1", the name of its files.
    title: a line.
    commands: in the order in which they run.
    read: returns the rows once they have run.
  """

  name: str
  title: str
  commands: tuple[Command, ...]
  read: Callable[[], Rows]


def command_lines(table: Table) -> str:
  """Returns the command lines, to copy and paste."""
  return "\n".join(map(str, table.commands))


def run_table(table: Table, out: epath.PathLike, run: Runner) -> str:
  """Runs a table and writes OUT/NAME.md and OUT/NAME.json.

  Args:
    table: to run.
    out: folder, made if it is not there.
    run: the words after `p3d` -> status.

  Returns:
    The Markdown.

  Raises:
    ValueError: a command failed, named; or `out` is no folder.
    KeyboardInterrupt: a command was interrupted.
  """
  out = epath.Path(out)
  if out.exists() and not out.is_dir():
    raise ValueError(f"--out is {os.fspath(out)}: it is a file, not a folder")
  out.mkdir(parents=True, exist_ok=True)
  count = len(table.commands)
  for at, command in enumerate(table.commands, 1):
    if command.done():
      _say(f"[{at}/{count}] is done: {command}")
      continue
    _say(f"[{at}/{count}] {command}")
    _run_one(command, run)
  rows = table.read()
  text = markdown(table.title, rows)
  write_aside(out / f"{table.name}.json", _json(table, rows))
  write_aside(out / f"{table.name}.md", text)
  return text


def _say(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def _run_one(command: Command, run: Runner) -> None:
  try:
    # Standard output is for the table alone.
    with contextlib.redirect_stdout(sys.stderr):
      status = run(command.words)
  except SystemExit as error:  # argparse ends the process
    status = error.code if isinstance(error.code, int) else 2
  if status == INTERRUPTED:
    raise KeyboardInterrupt
  if status not in command.answers:
    raise ValueError(f"`{command}` ended with status {status}")


def _json(table: Table, rows: Rows) -> str:
  content = {
    "table": table.name,
    "title": table.title,
    "columns": rows.columns,
    "rows": rows.rows,
    "notes": rows.notes,
    "about": rows.about,
    "commands": [str(command) for command in table.commands],
    "versions": logs.versions(),
  }
  return json.dumps(content, indent=2) + "\n"


def markdown(title: str, rows: Rows) -> str:
  """Returns a table as Markdown, its columns as wide as they must be."""
  cells = [[_shown(cell) for cell in row] for row in rows.rows]
  grid = [list(rows.columns), *cells]
  widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
  lines = [
    "| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in grid
  ]
  lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
  notes = [line for note in rows.notes for line in ("", note)]
  return "\n".join([title, "", *lines, *notes]) + "\n"


def _shown(cell: Any) -> str:
  """Returns a cell: one decimal for a number, "-" for what there is not."""
  if cell is None:
    return "-"
  return f"{cell:,.1f}" if isinstance(cell, float) else str(cell)


def read_json(path: epath.PathLike) -> dict[str, Any] | None:
  """Reads a file that a command wrote; None where there is none yet.

  Raises:
    ValueError: it holds something else.
  """
  path = epath.Path(path)
  if not path.exists():
    return None
  try:
    content = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f"{os.fspath(path)} is no JSON: {error}") from error
  if not isinstance(content, dict):
    raise ValueError(f"{os.fspath(path)} holds no JSON object")
  return content
