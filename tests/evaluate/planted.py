"""Feature files with a planted answer."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from p3d_jax.cli.verb import Verb
from p3d_jax.evaluate.feature_file import Features, save_features

LETTERS = "ABCDEFGH"


def write(
  path: pathlib.Path,
  x: Any,
  labels: Any,
  *,
  names: Sequence[str] = LETTERS,
  ids: Sequence[str] = (),
  sources: Sequence[str] = (),
  **about: Any,
) -> pathlib.Path:
  """Writes features of videos.

  Args:
    path: ends in .npz.
    x: pool5 (videos, dims).
    labels: of each video a label, or a tuple of them.
    names: of the classes.
    ids: by default FILE 0, FILE 1, ...
    sources: by default unknown.
    **about: of the file.
  """
  rows = [np.atleast_1d(np.array(row, np.int32)) for row in labels]
  table = np.full((len(rows), max(len(row) for row in rows)), -1, np.int32)
  for row, values in zip(table, rows, strict=True):
    row[: len(values)] = values
  features = Features(
    ids=tuple(ids) or tuple(f"{path.stem} {k}" for k in range(len(rows))),
    arrays={"pool5": np.asarray(x, np.float32)},
    labels=table,
    label_names=tuple(names),
    sources=tuple(sources) or ("",) * len(rows),
    clip=None,
    about=about,
  )
  save_features(path, features)
  return path


def blobs(
  labels: Any, dims: int = 12, noise: float = 0.05, seed: int = 0
) -> np.ndarray:
  """Videos around the axis of their class, (videos, dims)."""
  labels = np.asarray(labels)
  rng = np.random.default_rng(seed)
  return np.eye(dims)[labels] + noise * rng.standard_normal((len(labels), dims))


def run(verb: Verb, *words: object) -> int:
  """Runs a verb with a command line."""
  parser = argparse.ArgumentParser()
  verb.arguments(parser)
  return verb.run(parser.parse_args([str(word) for word in words]))


def refused(call: Any, *args: Any, **kwargs: Any) -> str:
  """Returns the one line that a call is refused with."""
  with pytest.raises(ValueError) as error:
    call(*args, **kwargs)
  assert "\n" not in str(error.value)
  return str(error.value)
