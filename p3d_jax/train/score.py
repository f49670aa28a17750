"""Scores all videos of a split: some views each, sharded over the devices."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from p3d_jax.data import pipeline
from p3d_jax.data.clips import Views
from p3d_jax.data.file_set import FileSet
from p3d_jax.data.sets import VideoSet
from p3d_jax.hosts.ends import PreemptedError
from p3d_jax.hosts.roll import current
from p3d_jax.hosts.together import Together
from p3d_jax.models.fold import for_inference
from p3d_jax.models.p3d import P3D
from p3d_jax.preprocess import Preprocessing
from p3d_jax.train import sharding, step, texts
from p3d_jax.train.metrics import Scores

# Seconds that a batch may take where no config says it: hosts that wait for one
# that hangs end then.
STALL = 1_800.0

# Maps variables and clips, uint8 (rows, views, time, height, width, channels),
# to arrays (rows, ...) that are whole on all devices.
Step = Callable[[Any, jax.Array], Any]

# Maps variables, of this process or of a mesh, to those that inference runs on,
# whole on all devices.
Place = Callable[[Any], Any]


def inference(module: P3D, mesh: Mesh) -> tuple[P3D, Place]:
  """Returns the network that inference runs on a mesh, and its variables' way.

  Batch norm is folded into the convolutions, on the devices, once for all the
  clips that follow; a network with an injected norm stays as it is.

  Args:
    module: the network.
    mesh: where it runs.

  Returns:
    The network to compile, and what makes its variables from those of
    `module`; the variables that it is given stay as they are.
  """
  net, fold = for_inference(module)
  jitted = jax.jit(fold, out_shardings=sharding.replicated(mesh))
  return net, lambda variables: jitted(sharding.gathered(variables, mesh))


@dataclasses.dataclass(frozen=True)
class Rows:
  """What a batch of videos gave, padding left out.

  Attributes:
    index: (rows,), position of each video in its split.
    labels: int32 (rows, max labels), padded with -1.
    times: (rows, views), the middle of each view in seconds.
    sources: of each video, the same for those of one source.
    problems: why a video could not be read; "" where it could.
    outputs: of the step, numpy arrays (rows, ...).
  """

  index: np.ndarray
  labels: np.ndarray
  times: np.ndarray
  sources: tuple[str, ...]
  problems: tuple[str, ...]
  outputs: Any


def each_video(
  step: Step,
  variables: Any,
  videos: VideoSet | FileSet,
  preprocessing: Preprocessing,
  *,
  views: Views,
  batch: int,
  mesh: Mesh,
  start: int = 0,
  labelled: bool = True,
  reading: pipeline.Reading = pipeline.DEFAULT,
  notice: Callable[[], bool] = lambda: False,
) -> Iterator[Rows]:
  """Runs a step over each video once, on all devices of all hosts.

  A host reads its share of each batch; what comes out is the same on all.

  Args:
    step: that is run, compiled over the mesh.
    variables: of the network that is compiled, on all devices.
    videos: a split, or files.
    preprocessing: frames, stride, fps, resize and crop of a clip.
    views: clips and crops of each video.
    batch: videos at once, over all devices.
    mesh: that they are split over.
    start: position of the first video.
    labelled: whether a record without a label is refused.
    reading: how videos are read.
    notice: whether this machine is about to be taken away.

  Yields:
    The rows of each batch, in the order of the split.

  Raises:
    ValueError: an argument is out of its range.
    PreemptedError: `notice` says so, on this host or another.
  """
  sharding.check_batch(batch, mesh)
  share, shares = sharding.share(mesh)
  batches = pipeline.eval_batches(
    videos,
    preprocessing,
    views=views,
    batch=batch,
    start=start,
    labelled=labelled,
    host=share,
    hosts=shares,
    reading=reading,
  )
  # The devices compute a batch while the one before it is kept, and, in one
  # process, while the next is read: two batches of clips are on them. Several
  # processes ask each other about a batch first, and wait for the last one.
  under_way: tuple[pipeline.Batch, Any] | None = None
  with contextlib.closing(batches):
    for rows in batches:
      clips = sharding.put({"clips": rows.pop("clips")}, mesh)["clips"]
      rows["notice"] = np.full(len(rows["video"]), notice(), np.int32)
      said = _gathered(rows, mesh)
      preempted = said["notice"].any()
      outputs = None if preempted else step(variables, clips)
      if under_way is not None:
        yield _kept(*under_way)
      if preempted:
        raise PreemptedError("preempted")
      under_way = said, outputs
      current().beat("a batch is under way")
  if under_way is not None:
    yield _kept(*under_way)


def _kept(rows: pipeline.Batch, outputs: Any) -> Rows:
  """Waits for a batch, and leaves out what fills up the last one."""
  outputs = jax.tree.map(np.asarray, outputs)
  current().beat(f"video {int(rows['video'].max()) + 1}")
  real = rows["video"] >= 0
  return Rows(
    index=rows["video"][real],
    labels=rows["labels"][real],
    times=rows["times"][real],
    sources=tuple(rows["source"][real].tolist()),
    problems=tuple(rows["problem"][real].tolist()),
    outputs=jax.tree.map(lambda x: x[real], outputs),
  )


def _gathered(rows: pipeline.Batch, mesh: Mesh) -> pipeline.Batch:
  """Returns the rows of all hosts, whole on each."""
  if jax.process_count() == 1:
    return rows  # nobody to ask, nor to wait for the devices
  placed = sharding.put(_coded(rows), mesh)
  kinds = [(name, x.shape, x.dtype.name) for name, x in placed.items()]
  return _decoded(_gather(mesh, tuple(kinds))(placed))


# A run evaluates again and again. On several hosts what is compiled takes one
# kind of rows, and hosts wait for each other where it is made.
@functools.lru_cache(maxsize=16)
def _gather(mesh: Mesh, kinds: tuple[Any, ...]) -> Together:
  """Compiles, once for such rows, what makes them whole on each device."""
  del kinds  # a key
  whole = sharding.replicated(mesh)
  return Together(jax.jit(lambda rows: rows, out_shardings=whole))


def _coded(rows: pipeline.Batch) -> pipeline.Batch:
  return {
    name: texts.coded(values) if values.dtype.kind == "U" else values
    for name, values in rows.items()
  }


def _decoded(rows: dict[str, jax.Array]) -> pipeline.Batch:
  values = {name: np.asarray(x) for name, x in rows.items()}
  for name in ("source", "problem"):
    values[name] = texts.decoded(values[name])
  return values


class Scorer:
  """Scores videos with one compiled step, again and again while training.

  Attributes:
    preprocessing: what it expects of pixels.
    mesh: that the videos are split over.
  """

  def __init__(
    self, module: P3D, preprocessing: Preprocessing, scores: str, mesh: Mesh
  ) -> None:
    self.preprocessing = preprocessing
    self.mesh = mesh
    net, self._place = inference(module, mesh)
    jitted = step.jit_eval_step(net, preprocessing, scores, mesh)
    # With several processes all calls are of batches of one shape.
    self._step = Together(jitted)

  def place(self, variables: Any) -> Any:
    """Puts variables on all devices, once for many calls of `clips`.

    Args:
      variables: of the network, as it was trained.

    Returns:
      Those of the network that scores: batch norm is folded.
    """
    return self._place(variables)

  def clips(self, variables: Any, clips: np.ndarray) -> np.ndarray:
    """Scores clips.

    Args:
      variables: of the network, as `place` returns them.
      clips: uint8 (videos, clips, time, height, width, channels).

    Returns:
      (videos, clips, classes), each in 0..1.

    Raises:
      ArithmeticError: a score is not a number. (It would be taken for a vote
        for the first class.)
    """
    batch = sharding.put({"clips": clips}, self.mesh)
    return finite(np.asarray(self._step(variables, batch["clips"])))

  def videos(
    self,
    variables: Any,
    videos: VideoSet,
    *,
    views: Views,
    batch: int,
    reading: pipeline.Reading = pipeline.DEFAULT,
    progress: Callable[[int], None] = lambda done: None,
    notice: Callable[[], bool] = lambda: False,
  ) -> Scores:
    """Scores each video of a split once.

    Args:
      variables: of the network.
      videos: the split.
      views: clips and crops of each video.
      batch: videos at once, over all devices.
      reading: how videos are read.
      progress: called with the number of videos done.
      notice: whether this machine is about to be taken away.

    Raises:
      ArithmeticError: a score is not a number.
      PreemptedError: `notice` says so, on this host or another.
    """
    # Clip scores of a large split are gigabytes: they are held once.
    clips = np.zeros((0, 0, 0), np.float32)
    labels = np.full((len(videos), videos.max_labels), -1, np.int32)
    problems: list[str] = []
    batches = each_video(
      self._step,
      self.place(variables),
      videos,
      self.preprocessing,
      views=views,
      batch=batch,
      mesh=self.mesh,
      reading=reading,
      notice=notice,
    )
    for rows in batches:
      scores = finite(rows.outputs)
      if not clips.size:
        clips = np.zeros((len(videos), *scores.shape[1:]), scores.dtype)
      clips[rows.index], labels[rows.index] = scores, rows.labels
      problems += rows.problems
      progress(len(problems))
    # In the order of the split, and none twice.
    assert len(problems) == len(videos)
    return Scores(
      index=np.arange(len(videos)),
      clips=clips,
      labels=labels,
      readable=np.asarray([not problem for problem in problems]),
      problems=tuple(problem for problem in problems if problem),
    )


def finite(scores: np.ndarray) -> np.ndarray:
  """Returns what it is given.

  Raises:
    ArithmeticError: a score is not a number.
  """
  if not np.isfinite(scores).all():
    raise ArithmeticError(
      "the network's scores are not finite: its variables are not, or its "
      "dtype is too narrow for them"
    )
  return scores
