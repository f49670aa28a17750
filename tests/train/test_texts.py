"""Texts of any length, and what is shown of them."""

import numpy as np

from p3d_jax.train import texts


def test_coding_keeps_every_character() -> None:
  said = np.array(["", "a b", "\u65e5\u672c \U0001f600"])
  assert texts.decoded(texts.coded(said)).tolist() == said.tolist()


def test_one_process_has_its_own_text_whole() -> None:
  long = "x" * 5 * texts.TEXT
  assert texts.gathered_whole(long) == [long]
  # What goes beside a batch is cut, as the batch's texts are.
  assert texts.gathered([long], 2) == [long[: texts.TEXT]]


def test_short_texts_are_shown_whole() -> None:
  assert texts.apart("0", "11") == ("0", "11")
  one, other = "x" * 80 + "a", "x" * 80 + "b" + "y" * 19
  assert texts.apart(one, other) == (one, other)
  assert texts.apart("", "y" * 101) == ("", "y" * 100 + "...")


def test_long_texts_are_shown_where_they_differ() -> None:
  same = "x" * 300
  assert texts.apart(f"{same}a", f"{same}b{same}") == (
    f"...{'x' * 20}a",
    f"...{'x' * 20}b{'x' * 79}...",
  )
  # One is the beginning of the other.
  assert texts.apart(same, f"{same}b") == (
    f"...{'x' * 20}",
    f"...{'x' * 20}b",
  )
