"""Which lines are Gloo's own, also where its threads write into each other."""

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


@pytest.mark.parametrize("first", range(len(PIECES) + 1))
@pytest.mark.parametrize("second", range(len(PIECES) + 1))
def test_lines_within_lines(first: int, second: int) -> None:
  """One thread stops where another writes some, and goes on."""
  other = PIECES[:second] + PIECES[first:] + PIECES[second:]
  text = "".join((*PIECES[:first], *other)).format(*[1] * 6)
  assert told("a\n" + text + "1\n\nb") == "a\n1\n\nb"
  # What the process itself prints in between is told, but in pieces.
  between = "".join((*PIECES, "b\n", *PIECES)).format(*[1] * 6)
  assert told(between) == "b"


def test_other_lines() -> None:
  for line in ("", "1", " peer ranks. ", "[Gloo] Rank 0 has lost 1"):
    assert told(line) == line
  whole = LINE.format(0, 1, 1)
  for line in ("a" + whole, whole[:-1] + "a\n"):
    assert told(line + "1") == line + "1"


def test_a_line_that_is_told_before_its_end() -> None:
  gloo = Gloo()
  begin, end = LINE[:-1].format(0, 1, 1).split(" Exp")
  assert gloo.met(begin.encode() + b" ", end=False)
  assert gloo.met(b"Exp" + end.encode())
  assert not gloo.met(b"1")
