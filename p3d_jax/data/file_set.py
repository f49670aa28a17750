"""Video files as a set: what a split is to evaluation, without labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from p3d_jax.data.builders.layout import videos_under
from p3d_jax.files import absolute


class FileSet:
  """Files in the place of a split: records by number, by their names.

  Attributes:
    directory: the folder that the ids are relative to.
    split: "files".
    label_names: none.
    max_labels: of a record; 1, which is not there.
    channels: "RGB".
  """

  label_names: tuple[str, ...] = ()
  max_labels = 1
  channels = "RGB"
  split = "files"

  def __init__(self, paths: Sequence[epath.PathLike]) -> None:
    """Lists the files; reads none.

    Args:
      paths: of videos and of folders, whose videos are taken however deep.

    Raises:
      ValueError: there are none, one is not there, or one is named twice.
    """
    found: list[str] = []
    for given in paths:
      path = absolute(given)
      if path.is_dir():
        found += [os.fspath(path / name) for name in videos_under(path)]
      elif path.exists():
        found.append(os.fspath(path))
      else:
        raise ValueError(f"{os.fspath(given)}: there is no such file")
    if not found:
      raise ValueError(f"{', '.join(map(str, paths))}: no videos are there")
    if len(set(found)) < len(found):
      twice = next(path for path in found if found.count(path) > 1)
      raise ValueError(f"{twice} is named twice")
    self._paths = found
    # The nearest folder that all are in, so that ids are short and distinct.
    self.directory = _above(found)

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns a record; its "video" is a path, and its source is not known."""
    path = self._paths[index]
    return {
      "video": path,
      "labels": np.zeros(0, np.int64),
      "id": os.path.relpath(path, self.directory),
      "source_id": "",
    }

  def ids(self) -> list[str]:
    """Returns the path of each file from `directory`.

    So an id depends on what else is named, and with it the random clips of a
    file, which are a function of its id.
    """
    return [os.path.relpath(path, self.directory) for path in self._paths]


def _above(paths: Sequence[str]) -> epath.Path:
  """Returns the nearest folder that all files are in.

  Raises:
    ValueError: some are of this machine, and some are not.
  """
  stores = {path[: path.find("://") + 3] for path in paths}
  stores = {store if "://" in store else "" for store in stores}
  if len(stores) > 1:
    raise ValueError(
      f"{paths[0]} and others: files of this machine and of {max(stores)} "
      "cannot be named together"
    )
  (store,) = stores
  names = [os.path.dirname(path.removeprefix(store)) for path in paths]
  return epath.Path(store + os.path.commonpath(names))
