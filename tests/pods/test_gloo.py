"""Which lines are Gloo's own, also where its threads write into each other."""

import itertools

import pytest

from p3d_jax.pods.gloo import Gloo

PIECES = (
  "[Gloo] Rank ",
  "{}",
  " is connected to ",
  "{}",
  " peer ranks. ",
  "Expected number of connected peer ranks is : ",
  "{}",
  "\n",
)
LINE = "".join(PIECES)
# As seen in the output of real runs.
SEEN = (
  "[Gloo] Rank 1[Gloo] Rank 1 is connected to 1 peer ranks. Expected number of "
  "connected peer ranks is :  is connected to 1 peer ranks. Expected number of "
  "connected peer ranks is : 1\n1\n",
  "[Gloo] Rank 0 is connected to 1 peer ranks. [Gloo] Rank 0 is connected to 1 "
  "peer ranks. Expected number of connected peer ranks is : 1\nExpected number "
  "of connected peer ranks is : 1\n",
)


def told(text: str) -> str:
  """What is left of what a process prints."""
  gloo = Gloo()
  lines = text.removesuffix("\n").split("\n")
  return "\n".join(x for x in lines if not gloo.met(x.encode()))


def test_lines_as_they_should_be() -> None:
  assert told("a\n" + LINE.format(0, 1, 1) * 3 + "1\n\nb") == "a\n1\n\nb"
  missing = LINE.format(0, 0, 1)
  assert told("a\n" + missing + "b") == f"a\n{missing}b"


@pytest.mark.parametrize("seen", SEEN, ids=["number", "half"])
def test_lines_as_they_were_seen(seen: str) -> None:
  assert told("a\n" + seen + "1\n\nb") == "a\n1\n\nb"


def test_lines_within_lines() -> None:
  """All 12,870 orders of the pieces of two threads."""
  both = range(2 * len(PIECES))
  for first in itertools.combinations(both, len(PIECES)):
    threads = iter(PIECES), iter(PIECES)
    pieces = [next(threads[place in first]) for place in both]
    text = "".join(pieces).format(*[1] * 6)
    assert told("a\n" + text + "1\n\nb") == "a\n1\n\nb", text


def test_lines_in_between() -> None:
  """What the process itself prints while a line of Gloo is not whole."""
  begin, _, end = LINE.format(0, 1, 1).partition("Exp")
  assert told(LINE.format(0, 1, 1)[:-1] + begin + "\nb\nExp" + end) == "b"


def test_other_lines() -> None:
  for line in ("", "1", " peer ranks. ", "[Gloo] Rank 0 has lost 1"):
    assert told(line) == line
  whole = LINE.format(0, 1, 1)
  for line in ("a" + whole, whole[:-1] + "a\n"):
    assert told(line + "1") == line + "1"
  # A number before other words, however long it is, takes no time.
  number = "1" * 100_000 + "x"
  assert told(number) == number


def test_a_line_that_is_told_before_its_end() -> None:
  gloo = Gloo()
  begin, end = LINE[:-1].format(0, 1, 1).split(" Exp")
  assert gloo.met(begin.encode() + b" ", end=False)
  assert gloo.met(b"Exp" + end.encode())
  assert not gloo.met(b"1")
