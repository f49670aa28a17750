"""Leaves out what Gloo prints, which joins the CPUs of several processes.

Each time that all have met, it says so from C++ on the standard output, piece
by piece and from several threads at once, so that lines stand within lines. Had
they not met, it would raise an error besides.
"""

from __future__ import annotations

import re

_BEGIN = b"[Gloo] Rank "
_WHOLE = re.compile(
  rb"\[Gloo\] Rank \d+ is connected to (\d+) peer ranks\. "
  rb"Expected number of connected peer ranks is : (\d+)"
)
# One digit at a time: \d+ within the star would try every way to part a number.
_PIECES = re.compile(
  rb"(?:\[Gloo\] Rank | is connected to | peer ranks\. "
  rb"|Expected number of connected peer ranks is : |\d)*"
)


class Gloo:
  """Tells the lines of Gloo from a process's others."""

  def __init__(self) -> None:
    self._open = 0  # lines that have begun and not ended

  def met(self, line: bytes, end: bool = True) -> bool:
    """Whether a line is Gloo's, and does not say that somebody is missing.

    Args:
      line: the next that the process has printed.
      end: whether it has ended.
    """
    if not _PIECES.fullmatch(line):
      return False
    alone = not self._open and _WHOLE.fullmatch(line)
    self._open += line.count(_BEGIN)
    if not self._open:
      return False  # a number, or an empty line
    self._open -= end
    return not alone or alone[1] == alone[2]
