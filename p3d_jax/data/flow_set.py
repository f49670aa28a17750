"""A built set of videos -> a set of their optical flow."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from p3d_jax.data import flow, store
from p3d_jax.data.guard import LONGEST, Guards
from p3d_jax.data.sets import VideoSet, open_set
from p3d_jax.data.store import Record, Written


def make_flow_set(
  directory: epath.PathLike,
  out: epath.PathLike,
  *,
  method: str = "tvl1",
  bound: float = flow.BOUND,
  side: int | None = None,
  workers: int | None = None,
  max_broken: int = 0,
  timeout: float | None = 60.0,
  progress: bool = True,
) -> epath.Path:
  """Computes the flow of each video of a set, or goes on with it.

  Ids, labels, segments, lists and documents are those of the set. A frame of
  flow stands at the time of the first of its two frames, so segments in
  seconds mean the same.

  Args:
    directory: of the set, as `open_set` takes it.
    out: folder that sets are built under; not that of the set itself.
    method: one of `flow.METHODS`.
    bound: motion, in pixels a frame, beyond which it is clipped.
    side: short side, in pixels, to which frames are resized before the flow is
      computed; None: as they are.
    workers: processes that compute, one core each; None: one for each core.
    max_broken: how many videos may fail; they are left out, and listed in
      report.json.
    timeout: seconds that a video may take for each of its frames; None: any
      number. TV-L1 takes about one at 320x240 pixels.
    progress: show a bar.

  Returns:
    The folder of the flow set, whose name holds a hash of the set and of the
    options.

  Raises:
    ValueError: an argument is out of its range, no set or one of flow is
      there, OpenCV is not installed, or more videos than `max_broken` fail.
  """
  flow.check_options(method, bound, side)
  flow.computing(method)  # is OpenCV there?
  for name, value, least in (
    ("workers", workers, 1),
    ("max_broken", max_broken, 0),
  ):
    if value is not None and value < least:
      raise ValueError(f"{name}={value}: must be >= {least}")
  store.check_place(out)
  source = _read_source(directory)
  options = {"method": method, "bound": float(bound), "side": side}
  folder = epath.Path(out).expanduser() / f"{source.name}_flow"
  folder = folder / f"{method}_{_key(source, options)}" / store.VERSION

  def report(written: Written) -> dict[str, Any]:
    return _report(source, options, written)

  with Guards(timeout) as guards:

    def make(item: int) -> Record:
      return _record(guards, timeout, source.videos[item], options)

    store.write_set(
      folder,
      _description(source, options),
      source.ids,
      make,
      lists=source.lists,
      documents=source.documents,
      needs=source.needs,
      report=report,
      workers=workers or os.cpu_count() or 1,
      max_broken=max_broken,
      progress=progress,
      title="flow",
    )
  return folder


@dataclasses.dataclass(frozen=True)
class _Source:
  """The set that flow is made of.

  Attributes:
    videos: all its records.
    ids: of each record.
    name: of the dataset.
    text: that describes it.
    metadata: of TFDS.
    lists: name of a split -> ids.
    documents: name -> JSON.
    needs: see `store.whole`.
  """

  videos: VideoSet
  ids: Sequence[str]
  name: str
  text: str
  metadata: Mapping[str, Any]
  lists: Mapping[str, Sequence[str]]
  documents: Mapping[str, Any]
  needs: Mapping[str, Any]


def _read_source(directory: epath.PathLike) -> _Source:
  """Reads what a set says of itself, and the ids of its records."""
  videos = open_set(directory, "all")
  if videos.channels == "flow":
    raise ValueError(
      f"directory={os.fspath(directory)!r}: must be a set of videos; it is one "
      "of flow"
    )
  folder = videos.folder
  info: Any = tfds.builder_from_directory(folder).info
  ids = videos.ids()
  if len(set(ids)) < len(ids):
    raise ValueError(
      f"directory={os.fspath(directory)!r}: two of its records have one id"
    )
  lists = _json_files(folder / "lists")
  if not lists and set(info.splits) != {store.SPLIT}:
    # A set that TFDS wrote has splits instead.
    lists = {name: open_set(folder, name).ids() for name in info.splits}
  return _Source(
    videos=videos,
    ids=ids,
    name=info.name,
    text=info.description,
    metadata=dict(info.metadata or {}),
    lists=lists,
    documents=_json_files(folder / "documents"),
    needs=_json_files(folder / "needs"),
  )


def _json_files(folder: epath.Path) -> dict[str, Any]:
  if not folder.exists():
    return {}
  return {
    path.stem: json.loads(path.read_text())
    for path in sorted(folder.glob("*.json"))
  }


def _record(
  guards: Guards,
  timeout: float | None,
  record: Record,
  options: Mapping[str, Any],
) -> Record:
  """Makes one record of flow, in a process that can be killed."""
  if timeout is not None:
    timeout = min(timeout * max(record["num_frames"], 1), LONGEST)
  made = guards.call_within(
    timeout, "p3d_jax.data.flow:encode_flow", record["video"], **options
  )
  return {
    **record,
    "video": made["video"],
    "num_frames": made["num_frames"],
  }


def _description(
  source: _Source, options: Mapping[str, Any]
) -> store.Description:
  kept = dict(source.metadata)
  label_names = tuple(kept.pop("label_names", None) or ())
  max_labels = int(kept.pop("max_labels", 1))
  kept.pop("channels", None)
  return store.Description(
    name=f"{source.name}_flow",
    text=f"Optical flow of: {source.text}",
    label_names=label_names,
    max_labels=max_labels,
    channels="flow",
    metadata={
      **kept,
      "bound": options["bound"],
      "method": options["method"],
      "flow_side": options["side"],
    },
  )


def _report(
  source: _Source, options: Mapping[str, Any], written: Written
) -> dict[str, Any]:
  """What report.json says, under the names that a built set has."""
  stored = set(written.ids)
  return {
    "dataset": f"{source.name}_flow",
    "source": os.fspath(source.videos.directory),
    **options,
    "listed": len(source.ids),
    "records": len(written.ids),
    "classes": len(source.videos.label_names),
    "lists": {
      name: sum(i in stored for i in ids) for name, ids in source.lists.items()
    },
    "missing": [],
    "excluded": [],
    "extra": [],
    "notes": [],
    "incomplete": store.whole(source.documents, source.needs, written.ids)[1],
  }


def _key(source: _Source, options: Mapping[str, Any]) -> str:
  """Returns a hash of the set and the options.

  The set by what describes it, and by the names of its folder and the one
  above: they hold a hash of what its videos were made of.
  """
  folder = source.videos.folder
  described = (folder / "dataset_info.json").read_text()
  names = [folder.parent.name, folder.name]
  content = [flow.FORMAT, names, described, list(source.ids), dict(options)]
  text = json.dumps([*content, source.lists], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]
