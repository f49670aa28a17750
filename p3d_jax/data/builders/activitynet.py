"""ActivityNet v1.3: 19,994 untrimmed videos, 200 activities, segments of them.

10,024 videos are for training, 4,926 for validation and 5,044 for testing; the
labels of the last were not released.
"""

from __future__ import annotations

import collections
import json
import math
from collections.abc import Mapping
from typing import Any

from p3d_jax.data.builders import lists
from p3d_jax.data.builders.layout import (
  Dataset,
  Entry,
  Layout,
  Tree,
)

ANNOTATIONS = "activity_net.v1-3.min.json"
# Subset in the file -> list of the set, and the release's number of videos.
SUBSETS = {
  "training": ("train", 10024),
  "validation": ("validation", 4926),
  "testing": ("test", 5044),
}
CLASSES = 200


@lists.of_tree
def layout(tree: Tree) -> Layout:
  """Lays the videos against the release's annotations.

  Args:
    tree: folder with the annotations and the videos anywhere in it.

  Returns:
    A record a video, in the order of the annotations. Its labels are those of
    its annotations, each once; its segments are those that lie in the video
    and are longer than nothing, cut off where they reach beyond it.

  Raises:
    ValueError: the annotations are not there or not of their form, or none of
      the videos is there.
  """
  found = lists.find(tree, lists.named(ANNOTATIONS))
  path = lists.need(tree, found, ANNOTATIONS)
  document = _read(tree, path)
  label_names = _leaves(path, document)
  labels = {name: label for label, name in enumerate(label_names)}
  database = document["database"]

  def key(file: str) -> str:
    stem = lists.stem(file)
    # An id may itself begin so.
    return stem if stem in database else stem.removeprefix("v_")

  matches, told = lists.match_ids(database, tree.videos, key)
  lists.check_found(tree, matches.found, matches.missing, "v_ID.mp4 or ID.mp4")
  counts: collections.Counter[str] = collections.Counter()
  # All are read, whether their video is there or not.
  read = {
    video: _entry(path, video, value, labels, counts)
    for video, value in database.items()
  }
  gathered = lists.gather(
    (name for name, _ in SUBSETS.values()),
    ((SUBSETS[subset][0], video) for video, (_, subset) in read.items()),
    matches.found,
    lambda _, video, file: [Entry(path=file, **read[video][0])],
  )
  sizes = collections.Counter(subset for _, subset in read.values())
  notes = _notes(path, sizes, counts)
  notes += lists.class_notes(tree, len(label_names), CLASSES)
  notes += gathered.notes + told
  notes += lists.further_notes(matches.further)
  return Layout(
    entries=gathered.entries,
    label_names=label_names,
    lists=gathered.lists,
    missing=matches.missing,
    extra=lists.extra(tree, gathered.entries),
    notes=tuple(notes),
    files=(path,),
  )


def _read(tree: Tree, path: str) -> dict[str, Any]:
  """Reads the annotations; a key that comes twice would be lost silently."""

  def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
      counts = collections.Counter(key for key, _ in pairs)
      key, count = counts.most_common(1)[0]
      raise ValueError(f"{path}: {key!r} must come once, comes {count} times")
    return found

  try:
    document = json.loads(
      (tree.source / path).read_bytes(), object_pairs_hook=once
    )
  except json.JSONDecodeError as error:
    raise ValueError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
  except UnicodeDecodeError as error:
    raise ValueError(f"{path}: is not UTF-8 text: {error}") from None
  if not (
    isinstance(document, dict)
    and isinstance(document.get("database"), dict)
    and isinstance(document.get("taxonomy"), list)
  ):
    raise ValueError(
      f"{path}: must be an object with an object 'database' and a list "
      "'taxonomy'"
    )
  if not document["database"]:
    raise ValueError(f"{path}: 'database' must name videos; it is empty")
  return document


def _leaves(path: str, document: Mapping[str, Any]) -> tuple[str, ...]:
  """Returns the names of the taxonomy's leaves, sorted: the labels."""
  nodes = {}
  for node in document["taxonomy"]:
    if not (
      isinstance(node, dict)
      and isinstance(node.get("nodeName"), str)
      and isinstance(node.get("nodeId"), int)
      and isinstance(node.get("parentId"), int | None)
    ):
      raise ValueError(
        f"{path}: a node of 'taxonomy' must have nodeName, nodeId and "
        f"parentId, and is {node!r}"
      )
    nodes[node["nodeId"]] = node["nodeName"]
  parents = {node["parentId"] for node in document["taxonomy"]}
  leaves = sorted(name for i, name in nodes.items() if i not in parents)
  if not leaves:
    raise ValueError(f"{path}: 'taxonomy' must have leaves; it has none")
  for name, after in zip(leaves, leaves[1:], strict=False):
    if name == after:
      raise ValueError(f"{path}: two leaves of 'taxonomy' are named {name!r}")
  return tuple(leaves)


def _entry(
  path: str,
  video: str,
  value: Any,
  labels: Mapping[str, int],
  counts: collections.Counter[str],
) -> tuple[dict[str, Any], str]:
  """Returns the fields of a video's record but its path, and its subset."""
  where = f"{path}: video {video!r}"
  if not isinstance(value, dict):
    raise ValueError(f"{where}: must be an object, and is {value!r}")
  subset = value.get("subset")
  if not isinstance(subset, str) or subset not in SUBSETS:
    raise ValueError(
      f"{where}: subset must be one of {', '.join(SUBSETS)}, and is {subset!r}"
    )
  duration: Any = value.get("duration")
  if not _seconds(duration):
    raise ValueError(
      f"{where}: duration must be a number of seconds, and is {duration!r}"
    )
  annotations = value.get("annotations", [])
  if not isinstance(annotations, list):
    raise ValueError(f"{where}: annotations must be a list")
  segments = []
  names = []
  for annotation in annotations:
    name, segment = _annotation(where, annotation, labels)
    names.append(name)
    usable = _usable(segment, duration, counts)
    if usable:
      segments.append((*usable, name))
  if names and not segments:
    counts["whole"] += 1
  if not names and subset != "testing":
    counts["bare"] += 1
  fields = {
    "id": video,
    "labels": tuple(sorted(set(names))),
    "segments": tuple((start, end) for start, end, _ in segments),
    "segment_labels": tuple(name for _, _, name in segments),
    "source_id": video,
  }
  return fields, subset


def _annotation(
  where: str, annotation: Any, labels: Mapping[str, int]
) -> tuple[int, tuple[float, float]]:
  """Returns the label and the (start, end) in seconds of an annotation."""
  fields = annotation if isinstance(annotation, dict) else {}
  segment = fields.get("segment")
  if not (
    isinstance(segment, list)
    and len(segment) == 2
    and all(map(_seconds, segment))
  ):
    raise ValueError(
      f"{where}: an annotation must have a label and a segment [start, end] "
      f"in seconds, and is {annotation!r}"
    )
  name = fields.get("label")
  if not isinstance(name, str) or name not in labels:
    raise ValueError(f"{where}: label {name!r} is no leaf of 'taxonomy'")
  return labels[name], (float(segment[0]), float(segment[1]))


def _seconds(value: Any) -> bool:
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and math.isfinite(value)
  )


def _usable(
  segment: tuple[float, float],
  duration: float,
  counts: collections.Counter[str],
) -> tuple[float, float] | None:
  """Returns what of a segment lies in the video; counts what is changed."""
  start, end = max(segment[0], 0.0), min(segment[1], float(duration))
  if segment[1] <= segment[0]:
    counts["empty"] += 1
    return None
  if end <= start:
    counts["beyond"] += 1
    return None
  if (start, end) != segment:
    counts["cut"] += 1
  return start, end


def _notes(
  path: str, sizes: Mapping[str, int], counts: Mapping[str, int]
) -> list[str]:
  notes = []
  released = {subset: count for subset, (_, count) in SUBSETS.items()}
  if any(sizes.get(subset, 0) != released[subset] for subset in SUBSETS):
    here = ", ".join(f"{sizes.get(subset, 0)} {subset}" for subset in SUBSETS)
    there = ", ".join(f"{released[subset]} {subset}" for subset in SUBSETS)
    notes.append(f"videos in {path}: {here}; the release has {there}")
  for what, text in (
    ("empty", "segments left out that end where they start or before"),
    ("beyond", "segments left out that lie beyond the video's duration"),
    ("cut", "segments cut off where the video's duration ends or starts"),
    ("whole", "videos that keep no segment, and count as labelled throughout"),
    ("bare", "training or validation videos without annotations and labels"),
  ):
    if counts.get(what):
      notes.append(f"{text}: {counts[what]}")
  return notes


DATASET = Dataset(
  name="activitynet",
  title="ActivityNet v1.3, 200 activities in 19,994 untrimmed videos",
  expects="""\
DIR/
  activity_net.v1-3.min.json   in any folder
  v1-3/train_val/              the videos, in folders as you like
    v_ID.mp4                   any container; ID.mp4 does as well, and so do
                               'TITLE [ID].mp4' and TITLE-ID.mp4
  v1-3/test/
    v_ID.mkv
The label of an activity is its place among the 200 leaves of the taxonomy
sorted by name. The case of an id matters. Of several files of one video the
first by path is taken, and the others are counted as extra.""",
  known_from=(
    "The json: the release's download page, which explains its fields and "
    "gives the numbers of videos. v_ID.EXT in train_val/ and test/, with "
    "mp4, mkv and webm mixed: the listing of a copy of the release's own "
    "archives. Sorting the 200 names is this project's choice; empty and "
    "overlong segments are known from the release's issue tracker."
  ),
  lists="train, validation, test (whose labels were not released)",
  layout=layout,
)
