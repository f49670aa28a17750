"""Opens a built set: a split, or a list of ids, of the records in a folder."""

import operator
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath


class VideoSet:
  """The records of one split, by number.

  A record is a dict: "video" (bytes of an encoded video), "labels" (int64
  (labels,)), "segments" (float32 (segments, 2), seconds), "id", "source_id"
  (str) and "num_frames" (int). It can be pickled: each process opens the files
  for itself, when it first reads.

  Attributes:
    directory: the folder of the set.
    split: as TFDS reads it: "train", "train[:10%]", "train+test".
    label_names: a name for each label.
    flip_labels: what each label becomes when the video is mirrored left and
      right; None: the set does not say.
    max_labels: of one record.
  """

  def __init__(
    self,
    directory: epath.PathLike,
    split: str,
    ids: Sequence[str] | None = None,
  ):
    """Reads the set's description; `open_set` is the function to call.

    Raises:
      ValueError: the split or an id is unknown, or the set's `flip_labels` are
        not one label for each of its classes.
    """
    self.directory = epath.Path(directory)
    self.split = split
    self._builder: Any = tfds.builder_from_directory(self.directory)
    metadata = self._builder.info.metadata
    flip = metadata.get("flip_labels")
    self.label_names = tuple(metadata.get("label_names") or ())
    self.flip_labels = None if flip is None else tuple(flip)
    if flip is not None and (
      len(flip) != len(self.label_names)
      or any(not 0 <= label < len(flip) for label in flip)
    ):
      raise ValueError(
        f"flip_labels={list(flip)} of {self.directory}: must be one label, "
        f"0..{len(self.label_names) - 1}, for each of the "
        f"{len(self.label_names)} classes"
      )
    self.max_labels = int(metadata.get("max_labels", 1))
    self._source: Any = None
    self._ids = None if ids is None else tuple(ids)
    self._order: list[int] | None = None
    names = set(self._builder.info.splits)
    try:
      self._length = len(self._records())
    except (ValueError, KeyError) as error:
      raise ValueError(
        f"split={split!r}: {self.directory} has {', '.join(sorted(names))}"
      ) from error
    if ids is not None:
      self._order = self._find(ids)
      self._length = len(self._order)
    if not self._length:
      raise ValueError(f"split={split!r}: it is empty")

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> dict[str, Any]:
    at = operator.index(index)
    if not 0 <= at < self._length:
      raise IndexError(f"index {index}: the split has {self._length} records")
    if self._order is not None:
      at = self._order[at]
    return _plain(self._records()[at])

  def __repr__(self) -> str:
    return f"VideoSet({os.fspath(self.directory)!r}, {self.split!r})"

  def __getstate__(self) -> dict[str, Any]:
    # Open files stay where they are.
    return {**self.__dict__, "_source": None, "_builder": None}

  def _records(self) -> Any:
    if self._source is None:
      if self._builder is None:
        self._builder = tfds.builder_from_directory(self.directory)
      self._source = self._builder.as_data_source(split=self.split)
    return self._source

  def _find(self, ids: Sequence[str]) -> list[int]:
    """Returns where each id is; reads the whole split once."""
    records = self._records()
    where = {_text(records[k]["id"]): k for k in range(len(records))}
    if missing := [i for i in ids if i not in where]:
      raise ValueError(
        f"ids: {len(missing)} of {len(ids)} are not in split {self.split!r}, "
        f"first {missing[0]!r}"
      )
    return [where[i] for i in ids]


def open_set(
  directory: epath.PathLike,
  split: str,
  ids: Sequence[str] | None = None,
) -> VideoSet:
  """Opens a built set.

  Args:
    directory: the folder of the set, or one above it that holds no other.
    split: as TFDS reads it: "train", "train[:10%]", "train+test".
    ids: the records to take, in this order; None: all.

  Raises:
    ValueError: no set is there, or several; the split or an id is unknown.
  """
  folder = epath.Path(directory)
  if (folder / "dataset_info.json").exists():
    found = [folder]
  else:
    # TFDS writes out / name / config / version; a set may have no config.
    found = sorted(
      path.parent
      for depth in (1, 2, 3)
      for path in folder.glob("*/" * depth + "dataset_info.json")
    )
    # TFDS writes aside first.
    found = [path for path in found if "incomplete" not in path.name]
  if not found:
    raise ValueError(
      f"directory={os.fspath(directory)!r}: no built set is there"
    )
  if len(found) > 1:
    raise ValueError(
      f"directory={os.fspath(directory)!r}: {len(found)} sets are there, name "
      f"one: {', '.join(os.fspath(path) for path in found)}"
    )
  return VideoSet(found[0], split, ids)


def _plain(record: Any) -> dict[str, Any]:
  """Returns a record in Python's and numpy's own types."""
  return {
    "video": bytes(record["video"]),
    "labels": np.asarray(record["labels"], np.int64),
    "segments": np.asarray(record["segments"], np.float32),
    "id": _text(record["id"]),
    "source_id": _text(record["source_id"]),
    "num_frames": int(record["num_frames"]),
  }


def _text(value: bytes | str) -> str:
  return value.decode() if isinstance(value, bytes) else value
