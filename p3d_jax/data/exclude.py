"""The list of videos that a build leaves out: written, edited, read."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable

from etils import epath

from p3d_jax.data.statuses import STATUSES

# How a file that `p3d data check` wrote begins; it overwrites no other.
HEAD = "# Written by `p3d data check`"


def read_excluded(file: epath.PathLike) -> set[str]:
  """Reads the names in a file that `check` wrote, or a person.

  A line is a status, a tab, a name, and perhaps a tab and the reason; or a
  name alone. A name in double quotes is a JSON string: so any character can
  stand in one. Empty lines, and those that begin with "#", say nothing.

  Raises:
    ValueError: there is no such file, or a line of it is none of these.
  """
  path = epath.Path(file).expanduser()
  try:
    text = path.read_bytes().decode("utf-8-sig")
  except OSError as error:
    raise ValueError(
      f"exclude={os.fspath(file)!r}: {error.strerror or error}"
    ) from error
  except UnicodeDecodeError as error:
    raise ValueError(f"exclude={os.fspath(file)!r}: it is not UTF-8") from error
  names = set()
  for number, line in enumerate(text.split("\n"), 1):
    line = line.rstrip("\r")
    if line.strip() and not line.startswith("#"):
      try:
        names.add(_excluded_name(line))
      except ValueError as error:
        raise ValueError(
          f"exclude={os.fspath(file)!r}, line {number}: {error}"
        ) from None
  return names


def _excluded_name(line: str) -> str:
  """Returns the name in a line of the file."""
  fields = line.split("\t")
  if len(fields) > 1:
    if fields[0] not in STATUSES:
      raise ValueError(
        f"{fields[0]!r} before the tab is no status; they are "
        f"{', '.join(STATUSES[:-1])}"
      )
    del fields[0]
  name = fields[0].strip()
  if not name:
    raise ValueError("there is no name")
  if not name.startswith('"'):
    return name
  try:
    return str(json.loads(name))
  except json.JSONDecodeError:
    raise ValueError(f"{name} is no JSON string") from None


def exclude_text(
  videos: Iterable[tuple[str, str, str]], statuses: Collection[str]
) -> str:
  """Returns the text that `read_excluded` reads.

  Args:
    videos: (status, name, reason) of each.
    statuses: those that are written.
  """
  what = ", ".join(s for s in STATUSES if s in statuses)
  lines = [
    f"{HEAD}, for `p3d data build --exclude`:",
    "# status, tab, name, tab, reason. A line taken out, or that begins with",
    "# a #, keeps the video. Another check writes the file anew.",
    f"# Here stand: {what}.",
  ]
  for status, name, why in videos:
    lines.append(f"{status}\t{quoted(name)}\t{' '.join(why.split())}")
  return "\n".join(lines) + "\n"


def quoted(name: str) -> str:
  """Returns a name as it is, or as JSON where it could be misread."""
  plain = name.isprintable() and name == name.strip() and name[:1] not in '"#'
  if plain:
    return name
  # Letters of any language stay legible; what cannot be seen is escaped.
  text = json.dumps(name, ensure_ascii=False)
  return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
