"""Opens a built set: a split, or a list of ids, of the records in a folder."""

import functools
import hashlib
import json
import operator
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from p3d_jax import files
from p3d_jax.data import set_cache


class VideoSet:
  """The records of one split, by number.

  A record is a dict: "video" (bytes of an encoded video), "labels" (int64
  (labels,)), "segments" (float32 (segments, 2), seconds), "segment_labels"
  (int64 (segments,), or (0,) where the labels are of the whole video), "id",
  "source_id" (str) and "num_frames" (int). It can be pickled: each process
  opens the files for itself, when it first reads.

  Attributes:
    directory: the folder of the set.
    folder: of this machine, which is read: the same, or a copy of gs://.
    split: "train", "train[:10%]", "train+test"; a split of TFDS, or one of the
      set's lists of ids.
    label_names: a name for each label.
    channels: "RGB", or "flow" where the videos are optical flow.
    metadata: all that the set says of itself, as the "bound" of its flow.
    flip_labels: what each label becomes when the video is mirrored left and
      right; None: the set does not say.
    max_labels: of one record.
  """

  def __init__(
    self,
    directory: epath.PathLike,
    split: str,
    ids: Sequence[str] | None = None,
    copy: epath.PathLike | None = None,
  ):
    """Reads the set's description; `open_set` is the function to call.

    Args:
      directory: the folder of the set.
      split: of it.
      ids: the records to take, in this order; None: all.
      copy: folder of this machine with a copy of the set, to be read instead.

    Raises:
      ValueError: the split or an id is unknown, or the set's `flip_labels` are
        not one label for each of its classes.
    """
    self.directory = epath.Path(directory)
    self.split = split
    self.folder = self.directory if copy is None else epath.Path(copy)
    self._builder: Any = tfds.builder_from_directory(self.folder)
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
    self.metadata = dict(metadata)
    self.max_labels = int(metadata.get("max_labels", 1))
    self.channels = str(metadata.get("channels", "RGB"))
    self._source: Any = None
    self._order: np.ndarray | None = None
    # The split of TFDS that holds the records.
    self._stored = split
    if self.listed:
      self._stored = "videos"  # all of them
      self._order = _listed(self.folder, split)
    try:
      self._length = len(self._records())
    except (ValueError, KeyError) as error:
      names = ", ".join(sorted(self._builder.info.splits))
      raise ValueError(
        f"split={split!r}: {self.directory} has {names}"
      ) from error
    if ids is not None:
      self._order = self._find(ids)
    if self._order is not None:
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
      at = int(self._order[at])
    return _plain(self._records()[at])

  def __repr__(self) -> str:
    return f"VideoSet({os.fspath(self.directory)!r}, {self.split!r})"

  def __getstate__(self) -> dict[str, Any]:
    # Open files stay where they are.
    return {**self.__dict__, "_source": None, "_builder": None}

  def _records(self) -> Any:
    if self._source is None:
      if self._builder is None:
        self._builder = tfds.builder_from_directory(self.folder)
      self._source = self._builder.as_data_source(split=self._stored)
    return self._source

  @property
  def listed(self) -> bool:
    """Whether the set keeps its ids and lists of them beside the records."""
    return bool((self.folder / "ids.json").exists())

  def digest(self) -> str:
    """Returns the sha256 of what is in the split, but for the videos' bytes.

    It is of the labels and the ids, in order; of a set without lists, of the
    numbers and sizes of its records instead.
    """
    info = self._builder.info
    stored: Any = [
      (name, part.shard_lengths, part.num_bytes)
      for name, part in sorted(info.splits.items())
    ]
    said = {
      "labels": [self.label_names, self.flip_labels, self.max_labels],
      "channels": self.channels,
      "ids": self.ids() if self.listed else [self.split, stored],
    }
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()

  def document(self, name: str) -> Any:
    """Returns JSON that the set keeps, as ASLAN's "pairs".

    Raises:
      ValueError: there is none of that name.
    """
    file = self.folder / "documents" / f"{name}.json"
    if not re.fullmatch(r"\w+", name) or not file.exists():
      raise ValueError(f"name={name!r}: {self.directory} has no such document")
    return json.loads(file.read_text())

  def ids(self) -> list[str]:
    """Returns the ids of the records, in order.

    A set without lists has to be read once for it.
    """
    if self.listed:
      stored = _read_ids(self.folder)
      return [stored[k] for k in self._order]  # type: ignore[union-attr]
    return [self[k]["id"] for k in range(len(self))]

  def _find(self, ids: Sequence[str]) -> np.ndarray:
    """Returns where in the stored split each id of this one is."""
    order = np.arange(self._length) if self._order is None else self._order
    here = dict(zip(self.ids(), order.tolist(), strict=True))
    if missing := [i for i in ids if i not in here]:
      raise ValueError(
        f"ids: {len(missing)} of {len(ids)} are not in split {self.split!r}, "
        f"first {missing[0]!r}"
      )
    return np.array([here[i] for i in ids], np.int64)


_PART = re.compile(r"([\w.-]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")


def _listed(directory: epath.Path, split: str) -> np.ndarray:
  """Returns where the records of a split are, by the set's lists of ids.

  Args:
    directory: of the set.
    split: names joined by "+", each with a slice or without, "train[:10%]".

  Returns:
    int64 (records,), positions in the stored order.
  """
  where = {name: k for k, name in enumerate(_read_ids(directory))}
  parts = []
  for part in split.split("+"):
    match = _PART.fullmatch(part.strip())
    file = directory / "lists" / f"{match[1]}.json" if match else None
    if match and match[1] == "all":
      ids = list(where)
    elif file is not None and file.exists():
      ids = json.loads(file.read_text())
    else:
      known = sorted(path.stem for path in (directory / "lists").glob("*.json"))
      raise ValueError(
        f"split={split!r}: {directory} has {', '.join(['all', *known])}; a "
        "part of one is as all[:10%] or all[20:30]"
      )
    assert match
    start, stop = (
      _edge(text, len(ids), default)
      for text, default in ((match[2], 0), (match[3], len(ids)))
    )
    parts += [where[i] for i in ids[start:stop]]
  return np.array(parts, np.int64)


def _edge(text: str | None, count: int, default: int) -> int:
  """Returns an end of a slice: a number of records, or a percentage."""
  if text is None:
    return default
  if not text.endswith("%"):
    return int(text)
  percent = int(text[:-1])
  if abs(percent) > 100:
    raise ValueError(f"split: {text} must be within -100% and 100%")
  # From the end for -1%, which of a few records would round to the start.
  return round((percent if percent >= 0 else 100 + percent) * count / 100)


@functools.lru_cache(maxsize=4)
def _read_ids(directory: epath.Path) -> tuple[str, ...]:
  return tuple(json.loads((directory / "ids.json").read_text()))


def open_set(
  directory: epath.PathLike,
  split: str,
  ids: Sequence[str] | None = None,
  *,
  cache: epath.PathLike = "",
  name: str = "directory",
) -> VideoSet:
  """Opens a built set.

  Args:
    directory: the folder of the set, or one above it that holds no other. One
      on gs:// is copied to this machine first, or what is missing of it.
    split: "train", "train[:10%]", "train+test"; a split of TFDS, or one of the
      set's lists of ids.
    ids: the records to take, in this order; None: all.
    cache: the folder for copies of sets on gs://; "": the environment's
      P3D_CACHE.
    name: of the argument that `directory` is, for what is wrong with it.

  Raises:
    ValueError: no set is there, or several; the split or an id is unknown; the
      set is on gs://, and `cache` is not a folder that can take it.
    OSError: the set is on gs://, which cannot be reached.
  """
  found = find_set(directory, name)
  copy = None
  if files.on_store(found):
    copy = set_cache.local_copy(found, cache or set_cache.named())
  return VideoSet(found, split, ids, copy)


def find_set(directory: epath.PathLike, name: str = "directory") -> epath.Path:
  """Returns the folder of the only set at or below a folder.

  Args:
    directory: the folder; gs:// works too.
    name: of the argument that it is, for what is wrong with it.

  Raises:
    ValueError: no set is there, or several.
    OSError: it is on gs://, which cannot be reached.
  """
  given = f"{name}={os.fspath(directory)!r}"
  files.check_bucket(directory, name)
  # Absolute: what records a set is read from other folders too.
  folder = files.absolute(directory)
  if (folder / "dataset_info.json").exists():
    found = [folder]
  else:
    # TFDS writes out / name / config / version; a set may have no config.
    found = sorted(
      path.parent
      for depth in (1, 2, 3)
      for path in folder.glob("*/" * depth + "dataset_info.json")
    )
    # TFDS writes aside first, store.py in place.
    found = [
      path
      for path in found
      if "incomplete" not in path.name and not (path / "building").exists()
    ]
  if not found and any(
    any(folder.glob("*/" * depth + "building")) for depth in range(4)
  ):
    raise ValueError(
      f"{given}: the set is not finished; the same `p3d data build` goes on "
      "with it"
    )
  if not found:
    raise ValueError(f"{given}: no built set is there")
  if len(found) > 1:
    newest = sorted(found, key=_written_at, reverse=True)
    raise ValueError(
      f"{given}: {len(found)} sets are there, name one; the newest first: "
      f"{', '.join(map(_about, newest))}"
    )
  return found[0]


def _written_at(folder: epath.Path) -> float:
  return float((folder / "dataset_info.json").stat().mtime)


def _about(folder: epath.Path) -> str:
  """Returns the path of a set with its size, to tell it from others."""
  info = json.loads((folder / "dataset_info.json").read_text())
  records = sum(
    int(count) for split in info["splits"] for count in split["shardLengths"]
  )
  return f"{os.fspath(folder)} ({records} records)"


def _plain(record: Any) -> dict[str, Any]:
  """Returns a record in Python's and numpy's own types."""
  return {
    "video": bytes(record["video"]),
    "labels": np.asarray(record["labels"], np.int64),
    "segments": np.asarray(record["segments"], np.float32),
    "segment_labels": np.asarray(record.get("segment_labels", ()), np.int64),
    "id": _text(record["id"]),
    "source_id": _text(record["source_id"]),
    "num_frames": int(record["num_frames"]),
  }


def _text(value: bytes | str) -> str:
  return value.decode() if isinstance(value, bytes) else value
