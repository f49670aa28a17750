"""Which videos of a feature file are trained on, and which are tested.

Either lists of the set that the features are of, such as UCF101's train1 and
test1, or two files. Nothing is lost on the way without a word: a video of a
list without features is an error, or, where it is allowed, counted.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from p3d_jax.data.sets import open_set
from p3d_jax.evaluate.feature_file import Features, load_features
from p3d_jax.files import absolute


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
  """Videos as the SVM takes them.

  Attributes:
    x: (videos, dims).
    labels: (videos, max labels), padded with -1.
    groups: int (videos,), the same for videos that were cut from one source.
    readable: (videos,) of bool; one without features counts as missed.
  """

  x: np.ndarray
  labels: np.ndarray
  groups: np.ndarray
  readable: np.ndarray

  def take(self, rows: np.ndarray) -> Samples:
    """Returns some of them, by position or by a mask."""
    return Samples(*(getattr(self, f.name)[rows] for f in _FIELDS))


_FIELDS = dataclasses.fields(Samples)


@dataclasses.dataclass(frozen=True)
class Pair:
  """A list of videos to train on, and one to test on.

  Attributes:
    train: its name, or its file.
    test: its name, or its file.
    train_rows: of the task's videos.
    test_rows: of the task's videos.
    left_out: training videos without features or labels.
    untested: test videos that their file lacks, as they could not be read.
      They count nowhere.
    shared_sources: test videos whose source is a training video's too.
  """

  train: str
  test: str
  train_rows: np.ndarray
  test_rows: np.ndarray
  left_out: int
  untested: int
  shared_sources: int

  def about(self) -> dict[str, Any]:
    """Returns what a result says of it."""
    names = ("train", "test", "left_out", "untested", "shared_sources")
    return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
  """Videos with features, and pairs of lists of them.

  Attributes:
    samples: all videos.
    names: of the classes.
    pairs: at least one.
    about: of the features: which checkpoint, set, views.
  """

  samples: Samples
  names: tuple[str, ...]
  pairs: tuple[Pair, ...]
  about: dict[str, Any]


def read_features(path: epath.PathLike, endpoint: str) -> Features:
  """Reads features that have a row a video, labels, and numbers.

  Raises:
    ValueError: they are not such, or none are of that endpoint.
  """
  found = load_features(path)
  where = os.fspath(path)
  if found.clip is not None:
    raise ValueError(
      f"{where} has a row for each clip: the mean over the clips of a video is "
      "needed, which is `p3d features` without --per-clip"
    )
  if not found.label_names:
    raise ValueError(
      f"{where} has no labels: they come from a built set, see `p3d data build`"
    )
  x = found.endpoint(endpoint).reshape(len(found.ids), -1)
  bad = np.flatnonzero(~np.isfinite(x).all(1))
  if bad.size:
    raise ValueError(
      f"{where}: {endpoint} of {bad.size} videos is not finite, first "
      f"{found.ids[bad[0]]!r}"
    )
  return found


def to_samples(features: Features, endpoint: str) -> Samples:
  """Returns the videos of a feature file; maps become long vectors."""
  x = features.endpoint(endpoint)
  # A video of no known source is one of its own.
  keys = [
    (source, "") if source else ("", name)
    for source, name in zip(features.sources, features.ids, strict=True)
  ]
  number = {key: k for k, key in enumerate(dict.fromkeys(keys))}
  return Samples(
    x=x.reshape(len(x), -1),
    labels=features.labels,
    groups=np.array([number[key] for key in keys], np.int64),
    readable=np.ones(len(x), bool),
  )


def open_task(
  features: epath.PathLike,
  test_features: epath.PathLike | None = None,
  *,
  train: Sequence[str] = (),
  test: Sequence[str] = (),
  data: epath.PathLike | None = None,
  endpoint: str = "pool5",
  max_missing: int = 0,
) -> Task:
  """Reads features, and which of them are for training and for testing.

  Args:
    features: file of all videos; with `test_features` of the training videos.
    test_features: file of the test videos.
    train: lists of the set, in pairs with `test`.
    test: lists of the set.
    data: folder of the set; None: the one that the features are of.
    endpoint: of the network.
    max_missing: how many videos of a list may have no features, and training
      videos no label. Training goes on without them, and in the test they
      count as missed. A file of test videos does not have the labels of those
      that could not be read: they count nowhere.

  Raises:
    ValueError: a file or a list is not there, lists are not in pairs, videos
      are in both of a pair, or more are missing.
  """
  _check_missing(max_missing)
  if len(train) != len(test):
    raise ValueError(
      f"{len(train)} lists to train on, and {len(test)} to test on: they are "
      "taken in pairs"
    )
  if bool(train) == (test_features is not None):
    raise ValueError(
      "name either lists of the set to train and to test on, or a second file "
      "of features, of the test videos"
    )
  if test_features is None:
    return _task_of_lists(
      features, list(zip(train, test, strict=True)), data, endpoint, max_missing
    )
  if data is not None:
    raise ValueError(
      f"data={os.fspath(data)!r}: only lists of one file need the set"
    )
  return _task_of_files(features, test_features, endpoint, max_missing)


def _task_of_files(
  train: epath.PathLike, test: epath.PathLike, endpoint: str, max_missing: int
) -> Task:
  """The task of training on one file and testing on another."""
  parts = [read_features(path, endpoint) for path in (train, test)]
  _check_alike(parts, (train, test), endpoint)
  for path, part in zip((train, test), parts, strict=True):
    check_unreadable(path, part, max_missing)
  first, second = parts
  width = max(part.labels.shape[1] for part in parts)
  # Paths below different folders may be alike.
  same = first.about.get("data") == second.about.get("data")
  joined = _joined if same else _apart
  ids = joined(first.ids, second.ids)
  everything = dataclasses.replace(
    first,
    ids=ids,
    arrays={endpoint: np.concatenate([p.endpoint(endpoint) for p in parts])},
    labels=np.concatenate([_widened(part.labels, width) for part in parts]),
    sources=joined(first.sources, second.sources),
    # A video that is in both is told below.
    clip=np.zeros(len(ids), np.int32),
  )
  samples = to_samples(everything, endpoint)
  rows = np.arange(len(ids))
  cut = len(first.ids)
  names = (os.fspath(train), os.fspath(test))
  pair = _pair(names, (rows[:cut], rows[cut:]), samples, ids, max_missing)
  unread = [len(part.about.get("unreadable", ())) for part in parts]
  pair = dataclasses.replace(
    pair, left_out=pair.left_out + unread[0], untested=unread[1]
  )
  return Task(samples, first.label_names, (pair,), first.about)


def _joined(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
  return first + second


def _apart(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
  """Names of two sets, so that none is in both; unknown ones stay so."""
  pairs = [("1 ", name) for name in first] + [("2 ", name) for name in second]
  return tuple(mark + name if name else "" for mark, name in pairs)


def _widened(labels: np.ndarray, width: int) -> np.ndarray:
  more = width - labels.shape[1]
  return np.pad(labels, ((0, 0), (0, more)), constant_values=-1)


def _check_alike(
  parts: Sequence[Features], paths: Sequence[epath.PathLike], endpoint: str
) -> None:
  """Raises a ValueError if two files do not go together."""
  first, second = parts
  where = " and ".join(map(os.fspath, paths))
  shapes = [part.endpoint(endpoint).shape[1:] for part in parts]
  if first.label_names != second.label_names:
    raise ValueError(f"the classes of {where} are not the same")
  if shapes[0] != shapes[1]:
    raise ValueError(
      f"{endpoint} of {where} has shapes {shapes[0]} and {shapes[1]}"
    )
  for name in ("sha256", "preprocessing", "pool"):
    values = [part.about.get(name) for part in parts]
    if None not in values and values[0] != values[1]:
      raise ValueError(f"{where} are not of one network: their {name} differs")


def check_unreadable(
  path: epath.PathLike, features: Features, max_missing: int
) -> None:
  """Raises a ValueError if a file lacks more videos than are allowed."""
  _check_missing(max_missing)
  unreadable = features.about.get("unreadable", ())
  if len(unreadable) > max_missing:
    raise ValueError(
      f"max_missing={max_missing}: {os.fspath(path)} lacks {len(unreadable)} "
      f"videos that could not be read, first {unreadable[0]}"
    )


def _check_missing(max_missing: int) -> None:
  if max_missing < 0:
    raise ValueError(f"max_missing={max_missing}: must be >= 0")


def _task_of_lists(
  path: epath.PathLike,
  lists: list[tuple[str, str]],
  data: epath.PathLike | None,
  endpoint: str,
  max_missing: int,
) -> Task:
  """The task of training and testing on lists of one file's set."""
  features = read_features(path, endpoint)
  folder = data or features.about.get("data")
  if not folder:
    raise ValueError(
      f"{os.fspath(path)} does not say which set its videos are of: name it "
      "with --data, for its lists"
    )
  if data is None and not absolute(folder).is_dir():
    raise ValueError(
      f"{os.fspath(path)} is of {folder}, which is not there: name the set "
      "with --data, for its lists"
    )
  opened = {name: open_set(folder, name) for pair in lists for name in pair}
  for videos in opened.values():
    if videos.label_names != features.label_names:
      raise ValueError(
        f"the classes of {os.fspath(path)} are not those of {videos.directory}"
      )
  ids = {name: videos.ids() for name, videos in opened.items()}
  where = {name: row for row, name in enumerate(features.ids)}
  samples = to_samples(features, endpoint)
  lost: dict[str, np.ndarray] = {}
  for name, of_list in ids.items():
    missing = [k for k, video in enumerate(of_list) if video not in where]
    if len(missing) > max_missing:
      raise ValueError(
        f"max_missing={max_missing}: {os.fspath(path)} lacks {len(missing)} of "
        f"the {len(of_list)} videos of {name}, first {of_list[missing[0]]!r}"
      )
    for k in missing:
      lost[of_list[k]] = opened[name][k]["labels"]
  names = features.ids + tuple(lost)
  samples = _with_lost(samples, list(lost.values()))
  where = {name: row for row, name in enumerate(names)}
  rows = {
    name: np.array([where[video] for video in of_list], np.int64)
    for name, of_list in ids.items()
  }
  pairs = tuple(
    _pair((a, b), (rows[a], rows[b]), samples, names, max_missing)
    for a, b in lists
  )
  return Task(samples, features.label_names, pairs, features.about)


def _with_lost(samples: Samples, labels: list[np.ndarray]) -> Samples:
  """Adds videos of which there are only labels."""
  if not labels:
    return samples
  width = max(samples.labels.shape[1], *(len(row) for row in labels))
  added = np.full((len(labels), width), -1, np.int32)
  for row, of_video in zip(added, labels, strict=True):
    row[: len(of_video)] = of_video
  count = len(labels)
  new = samples.groups.max() + 1 + np.arange(count)
  x = np.zeros((count, samples.x.shape[1]), samples.x.dtype)
  return Samples(
    x=np.concatenate([samples.x, x]),
    labels=np.concatenate([_widened(samples.labels, width), added]),
    groups=np.concatenate([samples.groups, new]),
    readable=np.concatenate([samples.readable, np.zeros(count, bool)]),
  )


def _pair(
  names: tuple[str, str],
  rows: tuple[np.ndarray, np.ndarray],
  samples: Samples,
  ids: Sequence[str],
  max_missing: int,
) -> Pair:
  """A pair whose lists are apart, without what cannot be trained on."""
  train, test = rows
  both = sorted({ids[k] for k in train} & {ids[k] for k in test})
  if both:
    raise ValueError(
      f"train {names[0]} and test {names[1]}: {len(both)} videos are in both, "
      f"first {both[0]!r}"
    )
  labelled = np.any(samples.labels >= 0, axis=1)
  bare = train[samples.readable[train] & ~labelled[train]]
  if len(bare) > max_missing:
    raise ValueError(
      f"max_missing={max_missing}: {len(bare)} of the {len(train)} videos of "
      f"{names[0]} have no label to train on, first {ids[bare[0]]!r}"
    )
  if not labelled[test].any():
    raise ValueError(f"test {names[1]}: none of its videos has a label")
  kept = train[samples.readable[train] & labelled[train]]
  found = samples.labels[kept]
  if len(np.unique(found[found >= 0])) < 2:
    raise ValueError(
      f"train {names[0]}: its {len(kept)} videos are of fewer than two classes"
    )
  shared = np.isin(samples.groups[test], samples.groups[kept])
  return Pair(*names, kept, test, len(train) - len(kept), 0, int(shared.sum()))
