"""Features of videos in one file: .npz, .parquet or .arrow, never a pickle.

A .npz holds an array of each endpoint under its name, so that
`numpy.load(path)["pool5"]` is enough for a script, and beside them "id",
"source", "labels", "clip" (in files of clips), "label_names" and "about". The
other two hold a row for each video or clip, with a column for each of these.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
from etils import epath

from p3d_jax.files import absolute, open_aside, reading_as

_KIND = "feature file"

# Names in a file that no endpoint can have.
OTHERS = ("id", "source", "labels", "clip", "label_names", "about")

# Of a table, under which the facts that are not of one row are.
_KEY = b"p3d_features"

# Bytes of features written at once to a table.
_CHUNK = 1 << 26


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
  """What a network says of some videos, a row for each video or clip.

  Attributes:
    ids: of the video of each row; of clips, those of one video are the same.
    arrays: by the name of the endpoint, float32 or float16 (rows, ...).
    labels: int32 (rows, max labels), padded with -1.
    label_names: of the classes; () without labels.
    sources: of each row, the footage that its video was cut from; "" unknown.
    clip: int32 (rows,), which clip of its video a row is; None: rows are
      videos.
    about: what can be written as JSON: "checkpoint", "sha256", "data" (the
      folder of the set, or ""), "split", "views", "pool", "versions".
  """

  ids: tuple[str, ...]
  arrays: dict[str, np.ndarray]
  labels: np.ndarray
  label_names: tuple[str, ...]
  sources: tuple[str, ...]
  clip: np.ndarray | None
  about: dict[str, Any]

  def __post_init__(self) -> None:
    """Raises a ValueError if the parts do not fit each other."""
    rows = len(self.ids)
    parts = {"sources": len(self.sources), "labels": len(self.labels)}
    parts |= {name: len(array) for name, array in self.arrays.items()}
    if self.clip is not None:
      parts["clip"] = len(self.clip)
    elif len(set(self.ids)) < rows:
      raise ValueError("ids: two rows of features are of the same video")
    for name, length in parts.items():
      if length != rows:
        raise ValueError(f"{name} has {length} rows: there are {rows} ids")
    for name, array in self.arrays.items():
      if name in OTHERS:
        raise ValueError(f"arrays: an endpoint cannot be named {name!r}")
      if array.dtype not in (np.float32, np.float16):
        raise ValueError(
          f"{name} is {array.dtype}: features are float32 or float16"
        )
    labels, classes = self.labels, len(self.label_names)
    if labels.ndim != 2 or labels.dtype != np.int32:
      raise ValueError("labels: they must be int32 (rows, max labels)")
    if labels.size and not (labels.min() >= -1 and labels.max() < classes):
      raise ValueError(
        f"labels are {labels.min()} to {labels.max()}: they must be -1, for "
        f"none, to {classes - 1}"
      )

  def endpoint(self, name: str) -> np.ndarray:
    """Returns (rows, ...) of an endpoint.

    Raises:
      ValueError: there are no features of that name.
    """
    if name not in self.arrays:
      raise ValueError(
        f"endpoint {name!r}: these features are of {', '.join(self.arrays)}"
      )
    return self.arrays[name]

  def take(self, ids: Sequence[str]) -> Features:
    """Returns the rows of some videos, in that order.

    Of a file of clips, all clips of each video, in the order of the file.

    Raises:
      ValueError: there are no features of one of the videos.
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(self.ids):
      rows.setdefault(name, []).append(row)
    missing = [name for name in ids if name not in rows]
    if missing:
      more = ", ..." if len(missing) > 3 else ""
      raise ValueError(
        f"ids: no features of {len(missing)} of {len(ids)} videos "
        f"({', '.join(missing[:3])}{more})"
      )
    index = np.array([row for name in ids for row in rows[name]], np.int64)
    return dataclasses.replace(
      self,
      ids=tuple(self.ids[row] for row in index),
      arrays={name: array[index] for name, array in self.arrays.items()},
      labels=self.labels[index],
      sources=tuple(self.sources[row] for row in index),
      clip=None if self.clip is None else self.clip[index],
    )


def check_format(path: epath.PathLike) -> None:
  """Raises a ValueError if a feature file cannot have this name here."""
  suffix = epath.Path(path).suffix
  if suffix not in _FORMATS:
    raise ValueError(
      f"{os.fspath(path)}: a feature file ends in {', '.join(_FORMATS)}"
    )
  if suffix != ".npz" and importlib.util.find_spec("pyarrow") is None:
    raise ValueError(
      f"{os.fspath(path)}: {suffix} needs pyarrow: pip install 'p3d_jax[arrow]'"
    )


def save_features(path: epath.PathLike, features: Features) -> None:
  """Writes features; their arrays are not copied as a whole.

  Args:
    path: of a file that ends in .npz, .parquet or .arrow; one that is there is
      replaced once the new one is whole.
    features: to be written.

  Raises:
    ValueError: the path ends otherwise, or pyarrow is needed and missing.
  """
  check_format(path)
  with open_aside(path) as file:
    _FORMATS[epath.Path(path).suffix].save(file, features)


def load_features(path: epath.PathLike) -> Features:
  """Reads what `save_features` wrote.

  Raises:
    ValueError: it is not there, or no such file, or pyarrow is needed and
      missing.
    OSError: it cannot be read.
  """
  path = _present(path)
  with path.open("rb") as file, reading_as(path, _KIND):
    return _FORMATS[path.suffix].load(file)


def read_about(path: epath.PathLike) -> dict[str, Any]:
  """Reads the `about` of a feature file, and no arrays.

  Raises:
    ValueError: it is not there, or no such file, or pyarrow is needed and
      missing.
    OSError: it cannot be read.
  """
  path = _present(path)
  with path.open("rb") as file, reading_as(path, _KIND):
    return _FORMATS[path.suffix].about(file)


def _present(path: epath.PathLike) -> epath.Path:
  """Returns the path of a file that is there; a ValueError says it is not."""
  file = absolute(path)
  if file.is_dir():
    raise ValueError(f"{os.fspath(path)}: it is a folder, not a feature file")
  if not file.exists():
    raise ValueError(f"{os.fspath(path)}: there is no such file")
  check_format(path)
  return file


def _strings(values: Iterable[str]) -> np.ndarray:
  return np.array(list(values), np.str_)


def _save_npz(file: IO[bytes], features: Features) -> None:
  others = {
    "id": _strings(features.ids),
    "source": _strings(features.sources),
    "labels": features.labels,
    "label_names": _strings(features.label_names),
    "about": np.array(json.dumps(features.about)),
  }
  if features.clip is not None:
    others["clip"] = features.clip
  # Arrays go to the file in blocks: no second copy of them is made.
  np.savez(file, allow_pickle=False, **features.arrays, **others)


def _open_npz(file: IO[bytes]) -> Any:
  """Opens an archive that has what no file of features is without."""
  if not zipfile.is_zipfile(file):
    raise ValueError("it is no archive of arrays, or is cut short")
  # Not np.load: it advises to unpickle what it cannot read.
  read = np.lib.npyio.NpzFile(file, allow_pickle=False)
  missing = [n for n in OTHERS if n != "clip" and n not in read.files]
  if missing:
    raise ValueError(f"it has no {', '.join(missing)}")
  return read


def _load_npz(file: IO[bytes]) -> Features:
  with _open_npz(file) as read:
    names = [name for name in read.files if name not in OTHERS]
    return Features(
      ids=tuple(read["id"].tolist()),
      arrays={name: read[name] for name in names},
      labels=read["labels"],
      label_names=tuple(read["label_names"].tolist()),
      sources=tuple(read["source"].tolist()),
      clip=read["clip"] if "clip" in read.files else None,
      about=json.loads(read["about"].item()),
    )


def _about_npz(file: IO[bytes]) -> dict[str, Any]:
  with _open_npz(file) as read:
    return json.loads(read["about"].item())


def _schema(features: Features) -> Any:
  """The columns of a table; arrays are lists whose shapes stand beside."""
  import pyarrow as pa

  fields = [
    ("id", pa.string()),
    ("source", pa.string()),
    ("labels", pa.list_(pa.int32())),
  ]
  if features.clip is not None:
    fields.append(("clip", pa.int32()))
  for name, array in features.arrays.items():
    kind = pa.from_numpy_dtype(array.dtype)
    fields.append((name, pa.list_(kind, math.prod(array.shape[1:]))))
  facts = {
    "rows": len(features.ids),
    "label_names": features.label_names,
    "max_labels": features.labels.shape[1],
    "shapes": {name: a.shape[1:] for name, a in features.arrays.items()},
    "about": features.about,
  }
  return pa.schema(fields, {_KEY: json.dumps(facts).encode()})


def _batches(features: Features, schema: Any) -> Iterator[Any]:
  """Gives the rows of a table, some at a time."""
  import pyarrow as pa

  each = sum(array[:1].nbytes for array in features.arrays.values())
  step = max(_CHUNK // max(each, 1), 1)
  for start in range(0, len(features.ids), step):
    rows = slice(start, start + step)
    labels = [[int(i) for i in row if i >= 0] for row in features.labels[rows]]
    columns: list[Any] = [features.ids[rows], features.sources[rows], labels]
    if features.clip is not None:
      columns.append(features.clip[rows])
    arrays = [
      pa.array(column, schema.field(i).type) for i, column in enumerate(columns)
    ]
    for array in features.arrays.values():
      flat = np.ascontiguousarray(array[rows]).reshape(-1)
      size = math.prod(array.shape[1:])
      arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), size))
    yield pa.record_batch(arrays, schema=schema)


def _facts(schema: Any) -> dict[str, Any]:
  if _KEY not in (schema.metadata or {}):
    raise ValueError("a table, but not of features")
  return json.loads(schema.metadata[_KEY])


def _features(schema: Any, batches: Iterable[Any]) -> Features:
  """Reads a table, some rows at a time into arrays that are there once."""
  facts = _facts(schema)
  rows = facts["rows"]
  arrays = {}
  for name, shape in facts["shapes"].items():
    kind = schema.field(name).type.value_type.to_pandas_dtype()
    arrays[name] = np.empty((rows, *shape), kind)
  labels = np.full((rows, facts["max_labels"]), -1, np.int32)
  others: dict[str, list[Any]] = {"id": [], "source": []}
  if "clip" in schema.names:
    others["clip"] = []
  done = 0
  for batch in batches:
    # Arrow believes what a file says of itself: an offset past the end of a
    # column would end the process, not the call.
    batch.validate(full=True)
    for name, found in others.items():
      found += batch.column(name).to_pylist()
    for row, of_row in enumerate(batch.column("labels").to_pylist(), done):
      labels[row, : len(of_row)] = of_row
    part = slice(done, done + batch.num_rows)
    for name, array in arrays.items():
      flat = batch.column(name).flatten().to_numpy(zero_copy_only=False)
      array[part] = flat.reshape(array[part].shape)
    done = part.stop
  if done != rows:
    raise ValueError(f"it has {done} of {rows} rows")
  clip = np.array(others["clip"], np.int32) if "clip" in others else None
  return Features(
    ids=tuple(others["id"]),
    arrays=arrays,
    labels=labels,
    label_names=tuple(facts["label_names"]),
    sources=tuple(others["source"]),
    clip=clip,
    about=facts["about"],
  )


def _save_parquet(file: IO[bytes], features: Features) -> None:
  from pyarrow import parquet

  schema = _schema(features)
  with parquet.ParquetWriter(file, schema) as writer:
    for batch in _batches(features, schema):
      writer.write_batch(batch)


def _load_parquet(file: IO[bytes]) -> Features:
  from pyarrow import parquet

  with parquet.ParquetFile(file) as read:
    # One group of rows at a time: each is as large as it was written.
    groups = (read.read_row_group(k) for k in range(read.num_row_groups))
    batches = (batch for group in groups for batch in group.to_batches())
    return _features(read.schema_arrow, batches)


def _about_parquet(file: IO[bytes]) -> dict[str, Any]:
  from pyarrow import parquet

  return _facts(parquet.read_schema(file))["about"]


def _save_arrow(file: IO[bytes], features: Features) -> None:
  import pyarrow as pa

  schema = _schema(features)
  with pa.ipc.new_file(file, schema) as writer:
    for batch in _batches(features, schema):
      writer.write_batch(batch)


def _load_arrow(file: IO[bytes]) -> Features:
  import pyarrow as pa

  with pa.ipc.open_file(file) as read:
    batches = (read.get_batch(k) for k in range(read.num_record_batches))
    return _features(read.schema, batches)


def _about_arrow(file: IO[bytes]) -> dict[str, Any]:
  import pyarrow as pa

  with pa.ipc.open_file(file) as read:
    return _facts(read.schema)["about"]


class _Format(NamedTuple):
  """How files of a suffix are written and read."""

  save: Callable[[IO[bytes], Features], None]
  load: Callable[[IO[bytes]], Features]
  about: Callable[[IO[bytes]], dict[str, Any]]


_FORMATS = {
  ".npz": _Format(_save_npz, _load_npz, _about_npz),
  ".parquet": _Format(_save_parquet, _load_parquet, _about_parquet),
  ".arrow": _Format(_save_arrow, _load_arrow, _about_arrow),
}
