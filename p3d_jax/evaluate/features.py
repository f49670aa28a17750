"""What a network says inside of videos: any endpoint, in one file.

Each video is read as views (clips and crops), the network runs on each, and the
mean over them is taken in float32 on the device. What comes out for a video is
a function of the video and the network: not of its neighbours in the batch.

A run writes parts into OUT.parts/ and, at the end, OUT. Killed and started
again, it goes on after the last part.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from p3d_jax.checkpoint import model, tree
from p3d_jax.checkpoint.model import Record
from p3d_jax.data.clips import Views
from p3d_jax.data.file_set import FileSet
from p3d_jax.data.pipeline import DEFAULT, Reading, check_channels
from p3d_jax.data.sets import VideoSet, open_set
from p3d_jax.evaluate.feature_file import check_format, read_about
from p3d_jax.evaluate.feature_parts import FINISHED, Parts
from p3d_jax.files import absolute, check_bucket, check_out
from p3d_jax.hosts import together
from p3d_jax.hosts.roll import current
from p3d_jax.hosts.together import Together
from p3d_jax.models import zoo
from p3d_jax.models.p3d import P3D, check_endpoints
from p3d_jax.preprocess import Preprocessing
from p3d_jax.progress import Bar
from p3d_jax.train import logs, sharding, step
from p3d_jax.train.score import STALL, each_video, inference

POOLS = ("mean", "none")
DTYPES = ("float32", "float16")

_VIEWS = Views()


@dataclasses.dataclass(frozen=True)
class Wanted:
  """Which features of a video are wanted.

  Attributes:
    endpoints: of the network, as `p3d.endpoint_names` lists them. "prob" is
      what the network's scores are: the softmax of its logits, or the sigmoid
      where the checkpoint says so.
    pool: "mean" of each map over its time and space; "none": whole maps (time,
      height, width, channels).
    per_clip: a row for each clip; False: the mean over the clips of a video.
      Crops are always averaged.
    views: clips and crops of each video.
    dtype: of the file, "float32" or "float16".
  """

  endpoints: tuple[str, ...] = ("pool5",)
  pool: str = "mean"
  per_clip: bool = False
  views: Views = _VIEWS
  dtype: str = "float32"

  def __post_init__(self) -> None:
    if not self.endpoints or len(set(self.endpoints)) < len(self.endpoints):
      raise ValueError(
        f"endpoints={self.endpoints}: must be one or more, each once"
      )
    for name, known in (("pool", POOLS), ("dtype", DTYPES)):
      value = getattr(self, name)
      if value not in known:
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(known)}")


@dataclasses.dataclass(frozen=True)
class Written:
  """What a run of `features` did.

  Attributes:
    out: the file.
    videos: of the source, read or not.
    shapes: of a row of each endpoint.
    problems: of the videos that could not be read and are left out, a line
      each.
    already: the file was there, of just this work, and nothing was done.
  """

  out: epath.Path
  videos: int
  shapes: dict[str, tuple[int, ...]]
  problems: tuple[str, ...]
  already: bool = False


def features(
  path: epath.PathLike,
  source: epath.PathLike | Sequence[epath.PathLike],
  out: epath.PathLike,
  *,
  split: str | None = None,
  endpoints: Sequence[str] = ("pool5",),
  pool: str = "mean",
  per_clip: bool = False,
  views: Views = _VIEWS,
  dtype: str = "float32",
  step: int | str = "last",
  batch: int = 8,
  save_every: int = 64,
  reading: Reading = DEFAULT,
  overwrite: bool = False,
) -> Written:
  """Writes the features of videos to a file.

  Args:
    path: a workdir, or a checkpoint folder; a trunk too.
    source: the folder of a built set, or folders of videos and files, which
      need no labels. Their ids are paths from the folder that all are in.
    out: file that ends in .npz, .parquet or .arrow. Parts stand in a folder
      beside it, OUT.parts, until it is whole; a run that was killed goes on.
      The first of several hosts writes, where all of them read.
    split: of a built set, or one of its lists; None: all of its videos.
    endpoints: see `Wanted`, as for the next four.
    pool: "mean" or "none".
    per_clip: a row for each clip.
    views: clips and crops of each video.
    dtype: "float32" or "float16".
    step: of a workdir: a number, "last" or "best".
    batch: videos at once, over all devices.
    save_every: videos of a part, rounded up to batches: what a run that is
      killed loses at most.
    reading: how videos are read.
    overwrite: replace a file of other features, and drop parts of them. A
      file of anything else is not replaced.

  Raises:
    ValueError: an argument is out of its range, the checkpoint or the source is
      not there, `out` holds other features, or no video can be read.
    ArithmeticError: features are not finite.
  """
  if isinstance(endpoints, str):
    raise ValueError(f"endpoints={endpoints!r}: must be a tuple of names")
  wanted = Wanted(tuple(endpoints), pool, per_clip, views, dtype)
  if save_every < 1:
    raise ValueError(f"save_every={save_every}: must be >= 1")
  check_format(out)
  check_out(out)
  folder = model.find(path, step)
  record = model.read_record(folder)
  fields = zoo.from_fields(record.model)
  check_endpoints(wanted.endpoints, fields.stages, fields.num_classes)
  videos = open_source(source, split)
  check_channels(videos, record.preprocessing.channels)
  mesh = sharding.mesh()
  sharding.check_batch(batch, mesh)
  module, variables, record = model.load(folder)
  work = _work(record, variables, videos, wanted)
  out = absolute(out)
  parts = Parts(out, work, videos, save_every)
  start = _agreed(lambda: parts.begin(overwrite))
  if start == FINISHED:
    return _written(out, already=True)
  net, place = inference(module, mesh)
  batches = each_video(
    Together(jit_feature_step(net, record, wanted, mesh)),
    place(variables),
    videos,
    record.preprocessing,
    views=views,
    batch=batch,
    mesh=mesh,
    start=start,
    labelled=False,
    reading=reading,
  )
  bar = Bar("features", len(videos), start=start, host=jax.process_index())
  with current().watch(STALL), bar:
    for rows in batches:
      # In the order asked for: what comes from a device is sorted by name.
      arrays = {n: narrow(n, rows.outputs[n], dtype) for n in wanted.endpoints}
      if jax.process_index() == 0:
        saved = parts.add(rows, arrays)
        bar.update(parts.stop, line=saved)
  data = videos.directory if isinstance(videos, VideoSet) else ""
  about = {"checkpoint": os.fspath(folder), "data": os.fspath(data), **work}
  _agreed(lambda: parts.finish({**about, "versions": logs.versions()}))
  return _written(out)


def open_source(
  source: epath.PathLike | Sequence[epath.PathLike], split: str | None = None
) -> VideoSet | FileSet:
  """Opens a built set, or video files in the place of one.

  Args:
    source: the folder of a set, or one above it; or folders and files.
    split: of a set; None: all of its videos.

  Raises:
    ValueError: nothing is there, or a split of files is asked for, or a set
      stands beside other sources.
  """
  single = isinstance(source, str | os.PathLike)
  given: Any = [source] if single else source
  for path in given:
    check_bucket(path, "source")
  paths = [absolute(path) for path in given]
  for path in paths:
    if _is_set(path):
      if len(paths) > 1:
        raise ValueError(
          f"{os.fspath(path)} is a built set: name it alone, not beside others"
        )
      return open_set(path, split or "all")
  if split is not None:
    raise ValueError(
      f"split={split!r}: only a built set has splits, and none is in "
      f"{', '.join(map(os.fspath, paths))}"
    )
  return FileSet(paths)


def _is_set(path: epath.Path) -> bool:
  """Whether a built set, or one that is not finished, is there or below."""
  return path.is_dir() and any(
    next(iter(path.glob("*/" * depth + name)), None) is not None
    for depth in range(4)  # as deep as open_set looks
    # Not "building" itself: a class of videos may have that name.
    for name in ("dataset_info.json", "building/lock", "building/*.json")
  )


def feature_step(
  module: P3D,
  preprocessing: Preprocessing,
  scores: str,
  wanted: Wanted,
  variables: Any,
  clips: jax.Array,
) -> dict[str, jax.Array]:
  """Computes the features of some videos.

  Args:
    module: the network.
    preprocessing: how pixels are normalised.
    scores: "softmax" or "sigmoid", what "prob" is.
    wanted: which features.
    variables: of the network.
    clips: uint8 (videos, views, time, height, width, channels), the crops of a
      clip one after the other.

  Returns:
    By endpoint, float32 (videos, ...), or (videos, clips, ...) of each clip.
  """
  flat = preprocessing.normalize(clips.reshape(-1, *clips.shape[2:]))
  asked = ["logits" if name == "prob" else name for name in wanted.endpoints]
  _, found = module.apply(
    variables, flat, endpoints=tuple(dict.fromkeys(asked))
  )
  turn = jax.nn.softmax if scores == "softmax" else jax.nn.sigmoid
  features = {}
  for name, source in zip(wanted.endpoints, asked, strict=True):
    x = found[source].astype(jnp.float32)
    if name == "prob":
      x = turn(x)
    if wanted.pool == "mean" and x.ndim == 5:
      x = x.mean((1, 2, 3))
    x = x.reshape(len(clips), -1, wanted.views.crops, *x.shape[1:])
    features[name] = x.mean(2) if wanted.per_clip else x.mean((1, 2))
  return features


def jit_feature_step(
  module: P3D, record: Record, wanted: Wanted, mesh: Mesh
) -> Callable[[Any, jax.Array], dict[str, jax.Array]]:
  """Compiles `feature_step` over a mesh: videos are split, features are not."""
  whole, rows = sharding.replicated(mesh), sharding.batched(mesh)
  return jax.jit(
    functools.partial(
      feature_step, module, record.preprocessing, record.scores, wanted
    ),
    in_shardings=(whole, rows),
    out_shardings=whole,
    compiler_options=step.options(mesh),
  )


def narrow(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
  """Returns an endpoint's features in the type of the file.

  Raises:
    ArithmeticError: they are not finite, or the type cannot hold them.
  """
  if not np.isfinite(array).all():
    raise ArithmeticError(
      f"the network's {name} is not finite: its variables are not, or its "
      "dtype is too narrow for them"
    )
  with np.errstate(over="ignore"):
    held = array.astype(dtype, copy=False)
  if not np.isfinite(held).all():
    raise ArithmeticError(
      f"dtype={dtype!r}: {name} reaches {np.abs(array).max():.0f}, more than "
      "it can hold"
    )
  return held


def report(written: Written) -> str:
  """Returns what was written as people read it."""
  about = read_about(written.out)
  views = Views(**about["views"])
  each = "a row for each clip" if about["per_clip"] else "a row for each video"
  read = written.videos - len(written.problems)
  lines = [f"{read} videos of {about['split']}, {views.told()}, {each}"]
  for name, shape in written.shapes.items():
    sides = " x ".join(map(str, shape))
    lines.append(f"  {name}  {sides}  {about['dtype']}")
  if written.problems:
    lines.append(f"{len(written.problems)} could not be read and are left out:")
    lines += [f"  {problem}" for problem in written.problems]
  said = "nothing to do, all of it is in" if written.already else "written to"
  return "\n".join([*lines, f"{said} {os.fspath(written.out)}"])


def _written(out: epath.Path, already: bool = False) -> Written:
  """What stands in a file of features."""
  about = read_about(out)
  return Written(
    out=out,
    videos=about["videos"],
    shapes={name: tuple(shape) for name, shape in about["shapes"].items()},
    problems=tuple(about["unreadable"]),
    already=already,
  )


# What `_agreed` tells the other hosts of an error on the first.
_FAILED = -2


def _agreed(call: Callable[[], int]) -> int:
  """Calls a function on the first host, and returns its number on all.

  Raises:
    ValueError: it failed on the first host, which raises what it did; the
      others would wait for it.
  """
  number, failed = 0, None
  if jax.process_index() == 0:
    try:
      number = call()
    except Exception as error:
      number, failed = _FAILED, error
  if jax.process_count() > 1:
    together.wait()  # an hour at most
    number = int(multihost_utils.broadcast_one_to_all(np.int32(number)))
  if failed is not None:
    raise failed
  if number == _FAILED:
    raise ValueError("the first host could not go on: it says why")
  return number


def _work(
  record: Record, variables: Any, videos: VideoSet | FileSet, wanted: Wanted
) -> dict[str, Any]:
  """All that features are a function of, in JSON types.

  The batch and the devices are not: they change a rounding, and a run that was
  killed for want of memory may go on with a smaller batch.
  """
  found = {
    **dataclasses.asdict(wanted),
    "source": os.fspath(videos.directory),
    "split": videos.split,
    "videos": len(videos),
    "sha256": record.sha256 or tree.digest(variables),
    "model": dict(record.model),
    "preprocessing": dataclasses.asdict(record.preprocessing),
    "scores": record.scores,
    "label_names": videos.label_names,
  }
  # A set may be built anew in its place.
  if isinstance(videos, VideoSet) and videos.listed:
    found["ids"] = _digest(videos.ids())
  if isinstance(videos, FileSet):
    files = [videos[k] for k in range(len(videos))]
    sizes = [[f["id"], _length(f["video"])] for f in files]
    found["files"] = _digest(sizes)
  return json.loads(json.dumps(found))


def _length(path: str) -> int:
  """Returns the bytes of a file; -1 of one that cannot be read, as a link."""
  try:
    return int(epath.Path(path).stat().length)
  except OSError:
    return -1  # reading it tells why


def _digest(content: Any) -> str:
  return hashlib.sha256(json.dumps(content).encode()).hexdigest()
