"""A dataset on disk -> a built set, by its `Dataset` row."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from p3d_jax.data import store
from p3d_jax.data.builders.layout import Dataset, Entry, Layout
from p3d_jax.data.builders.lists import counted
from p3d_jax.data.decode import VideoError
from p3d_jax.data.exclude import read_excluded
from p3d_jax.data.guard import Guards
from p3d_jax.data.recode import check_side
from p3d_jax.data.store import Record, TooManyBrokenError, Written

# Changing what is stored changes the sets; say so here, and the key of a built
# set changes with it.
FORMAT = 1
# Names of a list of problems that are printed; report.json has all.
SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Built:
  """A set that was built, or found.

  Attributes:
    folder: of the set.
    report: what report.json says.
  """

  folder: epath.Path
  report: Mapping[str, Any]


def build_dataset(
  dataset: Dataset,
  source: epath.PathLike,
  out: epath.PathLike,
  *,
  options: Mapping[str, Any] | None = None,
  workers: int | None = None,
  max_missing: int = 0,
  exclude: epath.PathLike | None = None,
  side: int | None = None,
  timeout: float = 300.0,
  progress: bool = True,
) -> Built:
  """Builds a set of a folder of videos, goes on with one, or finds it built.

  Args:
    dataset: a row of `table.DATASETS`.
    source: the folder, as `dataset.expects` says.
    out: folder that sets are built under.
    options: of the dataset, by name; those left out have their default.
    workers: processes that read and re-encode; None: one for each core.
    max_missing: how many videos may be missing or broken, in all.
    exclude: file of the videos to leave out, as `p3d data check` writes it.
    side: short side in pixels, even, to re-encode to, with a keyframe every 8
      frames; None stores the files' own bytes. No video is enlarged.
    timeout: seconds that one video may take.
    progress: show a bar.

  Returns:
    The folder, whose name holds a hash of the options, of the lists and of the
    names, sizes and times of the videos; and the report.

  Raises:
    ValueError: an argument is out of its range, the folder is not laid out as
      expected, or more videos than `max_missing` are missing or broken.
  """
  values = _options(dataset, options or {})
  for name, value, least in (
    ("workers", workers, 1),
    ("max_missing", max_missing, 0),
  ):
    if value is not None and value < least:
      raise ValueError(f"{name}={value}: must be >= {least}")
  check_side(side)
  guards = Guards(timeout)  # starts nothing yet
  root = epath.Path(source).expanduser()
  if not root.is_dir():
    raise ValueError(f"source={os.fspath(source)!r}: must be a folder")
  store.check_place(out)
  sets = epath.Path(out).expanduser()
  if sets.exists() and not sets.is_dir():
    raise ValueError(f"out={os.fspath(out)!r}: must be a folder, not a file")
  layout = dataset.layout(root, **values)
  ids = collections.Counter(entry.id for entry in layout.entries)
  if len(ids) < len(layout.entries):
    raise ValueError(
      f"source={os.fspath(source)!r}: two records would have the id "
      f"{ids.most_common(1)[0][0]!r}"
    )
  entries, excluded, notes = _without(layout.entries, exclude)
  if not entries:
    raise ValueError(f"source={os.fspath(source)!r}: no video is left")
  _check_missing(layout, max_missing)
  key = _key(dataset, root, layout, entries, values, side)
  folder = sets / dataset.name / key / store.VERSION

  def report(written: Written) -> dict[str, Any]:
    told = _report(dataset, root, layout, excluded, written, side)
    return {**told, "notes": [*told["notes"], *notes]}

  with guards:

    def make(item: int) -> Record:
      return _record(guards, root, entries[item], side)

    try:
      store.write_set(
        folder,
        _description(dataset, layout, side),
        [entry.path for entry in entries],
        make,
        lists=layout.lists,
        documents=layout.documents,
        needs=layout.needs,
        report=report,
        workers=workers or os.cpu_count() or 1,
        max_broken=max_missing - len(layout.missing),
        progress=progress,
      )
    except TooManyBrokenError as error:
      raise TooManyBrokenError(
        f"{error}. Missing besides: {len(layout.missing)}; --max-missing is "
        f"{max_missing}. A larger one takes what is built; --exclude (`p3d "
        "data check` writes its file) makes another set, from the start"
      ) from None
  text = (folder / "report.json").read_text()
  return Built(folder, json.loads(text))


def summary(built: Built) -> str:
  """Returns what a user is to know of a set that was built, in lines."""
  report = built.report
  lines = [
    f"{counted(report['records'], 'record')} of {report['listed']}, "
    f"{counted(report['classes'], 'class', 'classes')}"
  ]
  for name in ("missing", "broken", "excluded", "extra"):
    items = report[name]
    if items:
      # Broken ones have a reason.
      shown = [
        ": ".join(i) if isinstance(i, list) else i for i in items[:SHOWN]
      ]
      more = ", ..." if len(items) > SHOWN else ""
      lines.append(f"{len(items)} {name}: {', '.join(shown)}{more}")
  for name, items in report["incomplete"].items():
    if items:
      lines.append(
        f"{name} left out, as a video of them is broken or excluded: "
        f"{len(items)}"
      )
  lines += report["notes"]
  splits = {"all": report["records"], **report["lists"]}
  lines.append("splits: " + ", ".join(f"{n} {c}" for n, c in splits.items()))
  return "\n".join(lines)


def _options(dataset: Dataset, given: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a value for each option of the dataset."""
  known = {option.name: option for option in dataset.options}
  if unknown := sorted(set(given) - set(known)):
    raise ValueError(
      f"{dataset.name} has no option {unknown[0]!r}; it has "
      f"{', '.join(known) or 'none'}"
    )
  values = {o.name: given.get(o.name, o.default) for o in dataset.options}
  for option in dataset.options:
    value = values[option.name]
    if option.choices and value not in option.choices:
      raise ValueError(
        f"{option.name}={value!r}: must be one of "
        f"{', '.join(map(str, option.choices))}"
      )
  return values


def _without(
  entries: tuple[Entry, ...], exclude: epath.PathLike | None
) -> tuple[tuple[Entry, ...], list[str], list[str]]:
  """Leaves out what the user's list names.

  Returns:
    The rest, the paths left out, and notes. That a name is no listed video is
    no error: it may be an extra one, or one that was deleted meanwhile.
  """
  if exclude is None:
    return entries, [], []
  names = read_excluded(exclude)
  kept = tuple(entry for entry in entries if entry.path not in names)
  excluded = {entry.path for entry in entries if entry.path in names}
  others = sorted(names - excluded)
  notes = [
    f"names of --exclude that are no listed video: {len(others)}, such as "
    f"{name}"
    for name in others[:1]
  ]
  return kept, sorted(excluded), notes


def _check_missing(layout: Layout, max_missing: int) -> None:
  missing = layout.missing
  if len(missing) > max_missing:
    more = ", ..." if len(missing) > SHOWN else ""
    raise ValueError(
      f"{counted(len(missing), 'video')} missing, --max-missing is "
      f"{max_missing}: {', '.join(missing[:SHOWN])}{more}"
    )


def _record(
  guards: Guards, root: epath.Path, entry: Entry, side: int | None
) -> Record:
  """Reads one video, in a process that can be killed."""
  path = os.fspath(root / entry.path)
  try:
    made = guards.call(
      "p3d_jax.data.ingest:ingest", path, cut=entry.cut, side=side
    )
  except VideoError as error:
    # Reports name the video as the lists do, from the source on.
    raise type(error)(str(error).removeprefix(f"{path}: ")) from error
  video = made["video"]
  segments = entry.segments
  return {
    "video": epath.Path(path).read_bytes() if video is None else video,
    "labels": list(entry.labels),
    "segments": np.asarray(
      segments or [[0.0, made["seconds"]]], np.float32
    ).reshape(-1, 2),
    "segment_labels": list(entry.segment_labels),
    "id": entry.id,
    "source_id": entry.source_id or entry.id,
    "num_frames": made["num_frames"],
  }


def _description(
  dataset: Dataset, layout: Layout, side: int | None
) -> store.Description:
  most = max((len(entry.labels) for entry in layout.entries), default=1)
  return store.Description(
    name=dataset.name,
    text=dataset.title,
    label_names=layout.label_names,
    max_labels=max(most, 1),
    metadata={"side": side},
  )


def _report(
  dataset: Dataset,
  root: epath.Path,
  layout: Layout,
  excluded: list[str],
  written: Written,
  side: int | None,
) -> dict[str, Any]:
  """What report.json says; every list in full."""
  stored = set(written.ids)
  return {
    "dataset": dataset.name,
    "source": os.fspath(root),
    "side": side,
    "listed": len(layout.entries) + len(layout.missing),
    "records": len(written.ids),
    "classes": len(layout.label_names),
    "lists": {
      name: sum(i in stored for i in ids) for name, ids in layout.lists.items()
    },
    "missing": list(layout.missing),
    "excluded": excluded,
    "extra": list(layout.extra),
    "notes": list(layout.notes),
    "incomplete": store.whole(layout.documents, layout.needs, written.ids)[1],
  }


def _key(
  dataset: Dataset,
  root: epath.Path,
  layout: Layout,
  entries: tuple[Entry, ...],
  options: Mapping[str, Any],
  side: int | None,
) -> str:
  """Returns a hash of all that decides the records."""
  digest = hashlib.sha256()

  def add(value: Any) -> None:
    digest.update(json.dumps(value, sort_keys=True).encode() + b"\n")

  add([FORMAT, dataset.name, dict(options), side, layout.label_names])
  for file in layout.files:
    add([file, hashlib.sha256((root / file).read_bytes()).hexdigest()])
  add({name: list(ids) for name, ids in layout.lists.items()})
  last = ""
  for entry in entries:
    cut = entry.cut and (entry.cut.seconds, entry.cut.seed)
    add([entry.id, entry.path, entry.labels, entry.source_id, cut])
    add([entry.segments, entry.segment_labels])
    if entry.path != last:  # the pieces of a video follow one another
      add(_stamp(root, entry.path))
    last = entry.path
  return digest.hexdigest()[:12]


def _stamp(root: epath.Path, path: str) -> list[int]:
  """Returns the size in bytes and the time in seconds of a video."""
  try:
    if "://" in os.fspath(root):
      stat = (root / path).stat()
      return [stat.length, int(stat.mtime)]
    # A path of epath for each of half a million would take as long again.
    here = os.stat(os.path.join(root, path))
    return [here.st_size, int(here.st_mtime)]
  except OSError:
    return [-1, 0]  # a link that leads nowhere: it is found broken
