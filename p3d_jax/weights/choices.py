"""What a file of weights cannot say, and a user must."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from p3d_jax.files import absolute, check_bucket, on_store
from p3d_jax.models import zoo
from p3d_jax.preprocess import PREPROCESSINGS, Preprocessing
from p3d_jax.weights.merge import WeightsError
from p3d_jax.weights.source import Source

Path = str | os.PathLike[str]


def preprocessing(choice: str | Preprocessing) -> Preprocessing:
  """Returns a row of PREPROCESSINGS, or what a JSON file of one says.

  Raises:
    WeightsError: if it is neither.
  """
  if isinstance(choice, Preprocessing):
    return choice
  if choice in PREPROCESSINGS:
    return PREPROCESSINGS[choice]
  file = pathlib.Path(choice).expanduser()
  if not file.is_file():
    raise WeightsError(
      f"preprocessing is {choice!r}: it must be one of "
      f"{', '.join(PREPROCESSINGS)}, or a JSON file with its fields"
    )
  try:
    return Preprocessing.from_dict(json.loads(file.read_text()))
  except (ValueError, TypeError) as error:
    raise WeightsError(f"preprocessing is {choice!r}: {error}") from error


def labels(choice: Path | Sequence[str] | None, classes: int) -> list[str]:
  """Returns names of the classes: given, the lines of a file, or indices.

  Args:
    choice: the names, a text file with one a line, or None: "0", "1", ...
    classes: how many there must be.

  Raises:
    WeightsError: if there are not as many.
  """
  if choice is None:
    return [str(i) for i in range(classes)]
  if isinstance(choice, str | os.PathLike):
    found = _lines(pathlib.Path(choice).expanduser())
  else:
    found = list(choice)
  if len(found) != classes or not all(found):
    raise WeightsError(
      f"labels are {len(found)} names ({sum(not n for n in found)} of them "
      f"empty): there must be {classes}, one for each class"
    )
  return found


def _lines(file: pathlib.Path) -> list[str]:
  """Returns the lines of a text file, without empty ones at its end."""
  if not file.is_file():
    why = "it is a folder" if file.is_dir() else "there is no such file"
    raise WeightsError(f"labels is {str(file)!r}: {why}")
  try:
    text = file.read_text("utf-8-sig")  # a mark of Windows is no letter
  except UnicodeDecodeError as error:
    raise WeightsError(
      f"labels is {str(file)!r}: it must be text in UTF-8"
    ) from error
  return [line.strip() for line in text.rstrip().splitlines()]


def notes(classes: int | None, labels: object) -> list[str]:
  """Returns what a user should know of a head."""
  if classes is None:
    return ["there is no classifier: a trunk, which gives pool5"]
  if labels is None:
    return ["no labels were given: the classes are 0, 1, ..."]
  return []


def model(choice: str | None, source: Source) -> None:
  """Checks the depth that a user expects of a file.

  Raises:
    WeightsError: if the file is of another one.
  """
  if choice is None:
    return
  if choice not in zoo.MODELS:
    raise WeightsError(
      f"model is {choice!r}: it must be one of {', '.join(zoo.MODELS)}"
    )
  row = zoo.MODELS[choice]
  if (row["stages"], row["width"]) != (source.stages, source.width):
    raise WeightsError(
      f"model is {choice!r}, with {row['stages']} blocks of {row['width']} "
      f"channels: {source.path} has {depth(source)}"
    )


def depth(source: Source) -> str:
  """Says how many blocks a source has, and of which network of the zoo."""
  blocks = f"blocks {', '.join(map(str, source.stages))}"
  for name, row in zoo.MODELS.items():
    if (row["stages"], row["width"]) == (source.stages, source.width):
      return f"{blocks} ({name})"
  return f"{blocks} of {source.width} channels"


def channels(record: Preprocessing, count: int, path: Path) -> None:
  """Checks that weights read what the preprocessing gives.

  Raises:
    WeightsError: if the numbers of channels differ: flow for RGB, say.
  """
  if len(record.mean) != count:
    raise WeightsError(
      f"preprocessing gives {len(record.mean)} channels ({record.channels}): "
      f"{path} reads {count}"
    )


def new_folder(out: Path) -> epath.Path:
  """Returns where a checkpoint is to stand.

  Raises:
    WeightsError: if something stands there, or nothing can.
    ValueError: if its bucket is not there.
  """
  check_bucket(out, "out")
  path = absolute(out)
  if path.exists() or os.path.islink(path):
    raise WeightsError(f"out is {str(out)!r}: it exists; name a new folder")
  if on_store(path):
    return path  # there are no folders, and rights that only writing tells
  above = path
  while not above.exists():
    above = above.parent
  try:  # the only sure test: rights do not tell all
    tempfile.TemporaryDirectory(dir=above).cleanup()
  except OSError as error:
    raise WeightsError(
      f"out is {str(out)!r}: {above} cannot be written to"
    ) from error
  return path


def spoken(said: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what a user said, in JSON types, without what was left unsaid."""
  plain: dict[str, Any] = {}
  for name, value in said.items():
    if isinstance(value, Preprocessing):
      plain[name] = value.to_dict()
    elif isinstance(value, os.PathLike):
      plain[name] = str(value)
    elif value is not None and name != "labels":
      plain[name] = value
  return plain
