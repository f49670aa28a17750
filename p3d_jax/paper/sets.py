"""Finds the built sets that a table needs, before anything runs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from etils import epath

from p3d_jax.data.sets import open_set
from p3d_jax.files import absolute

FLOW = "_flow"  # how the set of another set's flow ends


def find_set(
  data: epath.PathLike, name: str, splits: Sequence[str] = ("all",)
) -> str:
  """Returns the folder of a built set.

  Args:
    data: the folder that `p3d data build` wrote to, or the set itself.
    name: of the dataset; a set of flow ends in "_flow".
    splits: that it must have.

  Raises:
    ValueError: it is not there, is there several times or not finished, or
      lacks a split.
  """
  root = absolute(data)
  folders = [f for f in (root / name, root) if name in names_of_sets(f)]
  if not folders:
    raise ValueError(
      f"--data is {os.fspath(data)}: {name} is not there; "
      f"{_makes(os.fspath(data), name)} makes it"
    )
  found = [open_set(folders[0], split) for split in splits]
  return os.fspath(found[0].directory)


def _makes(data: str, name: str) -> str:
  """Returns the command that makes a set."""
  if name.endswith(FLOW):
    source = os.path.join(data, name.removesuffix(FLOW))
    return f"`p3d data flow {source} --out {data}`"
  return f"`p3d data build {name} --source DIR --out {data}`"


def names_of_sets(folder: epath.PathLike) -> list[str]:
  """Returns the names of the datasets in a folder, as TFDS lays them."""
  root = epath.Path(folder)
  files = [
    file
    for depth in range(4)
    for file in root.glob("*/" * depth + "dataset_info.json")
    if "incomplete" not in file.parent.name
  ]
  return sorted({json.loads(file.read_text())["name"] for file in files})
