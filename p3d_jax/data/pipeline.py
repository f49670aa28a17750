"""Global index -> example -> this host's rows of the global batch.

The example at global index i is a function of (seed, i): epoch i // n, a fresh
permutation of the n videos for each, and one generator for each example, which
every draw of its clip, crop, mirror and colours comes from. Step s is the
indices s * batch to (s + 1) * batch - 1, and a host reads its rows of them. So
the step number is all there is to save, and hosts, workers and threads change
nothing but the speed.

A video that cannot be read is replaced in training by another one, drawn from
(seed, i, attempt): the same one in every run. In testing it is said to be
unreadable.
"""

import contextlib
import dataclasses
import functools
import hashlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Generator
from typing import Any

import grain
import numpy as np
from absl import flags

from p3d_jax.data import example as examples
from p3d_jax.data.clips import Augment, Views
from p3d_jax.data.decode import VideoError
from p3d_jax.data.file_set import FileSet
from p3d_jax.data.guard import Guards, held_back, ignore_sigterm
from p3d_jax.data.sets import VideoSet
from p3d_jax.preprocess import Preprocessing

Batch = dict[str, np.ndarray]

# Streams of random numbers that never meet: an epoch's order, an example, and
# what replaces it if it cannot be read.
_EPOCH, _EXAMPLE, _REPLACEMENT = 0, 1, 2
# Videos tried for one example. That so many in turn cannot be read by chance
# takes a set of which most cannot.
ATTEMPTS = 10
# Characters of a text in a batch.
TEXT = 240


@dataclasses.dataclass(frozen=True)
class Reading:
  """How videos are read; with a sound decoder nothing of it changes a pixel.

  Attributes:
    workers: processes that read and decode; 0: this one.
    threads: that read, in each process.
    timeout: seconds that decoding one example may take. Each thread then
      decodes in a process of its own, which is killed if it takes longer. None
      decodes in the thread itself, where nothing can stop it.
    decoder: "module:class" that opens a video, as `example.DECODERS` says;
      None: that of the channels.
  """

  workers: int = 0
  threads: int = 2
  timeout: float | None = None
  decoder: str | None = None

  def __post_init__(self) -> None:
    if self.workers < 0 or self.threads < 1:
      raise ValueError(
        f"workers={self.workers}, threads={self.threads}: must be workers >= 0 "
        "and threads >= 1"
      )
    if self.timeout is not None and not self.timeout > 0:
      raise ValueError(f"timeout={self.timeout}: must be > 0 seconds, or None")


DEFAULT = Reading()


def train_batches(
  videos: VideoSet,
  preprocessing: Preprocessing,
  augment: Augment,
  *,
  batch: int,
  seed: int,
  start_step: int,
  stop_step: int,
  host: int = 0,
  hosts: int = 1,
  segments: bool = False,
  reading: Reading = DEFAULT,
) -> Generator[Batch, None, None]:
  """Yields this host's rows of each step's batch.

  Args:
    videos: an opened split.
    preprocessing: frames, stride, fps, resize and crop of a clip.
    augment: what is done at random.
    batch: rows of the global batch.
    seed: of the order and of every draw.
    start_step: first step.
    stop_step: the step to stop before.
    host: number of this host.
    hosts: how many there are; each takes batch / hosts rows that follow one
      another.
    segments: take clips from a video's labelled segments only: one is drawn,
      and its label is the clip's. A video without them is taken whole.
    reading: how, and with how many processes and threads.

  Yields:
    "clips" uint8 (rows, time, height, width, channels), "labels" int32 (rows,
    max_labels) with -1 after the last, "index" int64 (rows,), the global index,
    "replaced" int32 (rows,), how many videos could not be read before this
    one, and "problem" (rows,), text that says of the last of them why.

  Raises:
    ValueError: an argument is out of its range.
    VideoError: an example's video and all that replace it cannot be read.
  """
  check_channels(videos, preprocessing.channels)
  rows = _rows(batch, host, hosts)
  if seed < 0:
    raise ValueError(f"seed={seed}: must be >= 0")
  if not 0 <= start_step <= stop_step:
    raise ValueError(
      f"start_step={start_step}, stop_step={stop_step}: must be "
      "0 <= start_step <= stop_step"
    )

  call = Decoding(reading)

  def example(at: int) -> Batch:
    step, row = divmod(at, rows)
    index = (start_step + step) * batch + host * rows + row
    return train_example(
      videos, preprocessing, augment, seed, index, segments=segments, call=call
    )

  return _batches(example, (stop_step - start_step) * rows, rows, reading, call)


def eval_batches(
  videos: VideoSet | FileSet,
  preprocessing: Preprocessing,
  *,
  views: Views,
  batch: int,
  start: int = 0,
  labelled: bool = True,
  host: int = 0,
  hosts: int = 1,
  reading: Reading = DEFAULT,
) -> Generator[Batch, None, None]:
  """Yields this host's rows of batches that hold every video once, in order.

  Args:
    videos: an opened split, or files.
    preprocessing: frames, stride, fps, resize and crop of a clip.
    views: clips and crops of each video.
    batch: videos of the global batch.
    start: position of the first video.
    labelled: whether a record without a label is refused.
    host: number of this host.
    hosts: how many there are.
    reading: how, and with how many processes and threads.

  Yields:
    "clips" uint8 (rows, views, time, height, width, channels), "times" float32
    (rows, views), the middle of each in seconds, "labels" int32 (rows,
    max_labels) with -1 after the last, "video" int32 (rows,), the position in
    the split, "source" (rows,), text, the same for videos of one source, and
    "problem" (rows,), text that says why a video cannot be read; its clips are
    then zeros. The last batch is filled up with rows of zeros, video -1.

  Raises:
    ValueError: an argument is out of its range.
  """
  check_channels(videos, preprocessing.channels)
  rows = _rows(batch, host, hosts)
  if not 0 <= start <= len(videos):
    raise ValueError(f"start={start}: must be within 0..{len(videos)}")
  steps = -(-(len(videos) - start) // batch)

  call = Decoding(reading)

  def example(at: int) -> Batch:
    step, row = divmod(at, rows)
    video = start + step * batch + host * rows + row
    return eval_example(
      videos, preprocessing, views, video, labelled=labelled, call=call
    )

  return _batches(example, steps * rows, rows, reading, call)


class Decoding:
  """Calls the functions of example.py: here, or where they can be killed."""

  def __init__(self, reading: Reading) -> None:
    """Starts nothing yet."""
    self._decoder = reading.decoder
    self._guards = Guards(reading.timeout) if reading.timeout else None

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    # Unpickled in a worker of Grain's, which outlives a parent that is killed.
    if (parent := multiprocessing.parent_process()) is not None:
      threading.Thread(target=_end_with, args=(parent,), daemon=True).start()

  def __call__(self, name: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Returns what the function of this name does with these arguments."""
    kwargs["decoder"] = self._decoder
    if self._guards is None:
      return getattr(examples, name)(*args, **kwargs)
    return self._guards.call(f"{examples.__name__}:{name}", *args, **kwargs)

  def close(self) -> None:
    """Ends the processes that decode."""
    if self._guards is not None:
      self._guards.close()


def _end_with(parent: Any) -> None:
  """Waits for the end of a process, and ends this one."""
  parent.join()
  os._exit(1)


_HERE = Decoding(DEFAULT)


def train_example(
  videos: VideoSet,
  preprocessing: Preprocessing,
  augment: Augment,
  seed: int,
  index: int,
  *,
  segments: bool = False,
  labelled: bool = True,
  call: Callable[..., dict[str, Any]] = _HERE,
) -> Batch:
  """Reads the example at a global index; see `train_batches`.

  With `labelled` False a record may be without a label.
  """
  count = len(videos)
  epoch, position = divmod(index, count)
  at = int(epoch_order(count, seed, epoch)[position])
  draws = np.random.SeedSequence(seed, spawn_key=(_EXAMPLE, index))
  problem = ""
  for attempt in range(ATTEMPTS):
    if attempt:
      key = (_REPLACEMENT, index, attempt)
      which, draws = np.random.SeedSequence(seed, spawn_key=key).spawn(2)
      at = int(np.random.default_rng(which).integers(count))
    record = videos[at]
    try:
      clip, labels = _train_clip(
        record,
        _checked(record, videos, labelled),
        videos,
        preprocessing,
        augment,
        draws,
        segments,
        call,
      )
    except VideoError as error:
      problem = str(error)
      continue
    return {
      "clips": clip,
      "labels": _padded(labels, videos.max_labels),
      "index": np.asarray(index, np.int64),
      "replaced": np.asarray(attempt, np.int32),
      "problem": _text(problem),
    }
  raise VideoError(f"{ATTEMPTS} videos in turn cannot be read; {problem}")


def _train_clip(
  record: dict[str, Any],
  labels: np.ndarray,
  videos: VideoSet,
  preprocessing: Preprocessing,
  augment: Augment,
  draws: np.random.SeedSequence,
  segments: bool,
  call: Callable[..., dict[str, Any]],
) -> tuple[np.ndarray, np.ndarray]:
  """Reads a clip of one video; returns it and its labels."""
  segment_labels = record.get("segment_labels", ())
  of_segments = segments and len(segment_labels) > 0
  try:
    read = call(
      "train_clip",
      record["video"],
      preprocessing,
      augment,
      draws,
      segments=record["segments"] if of_segments else None,
    )
  except ValueError as error:
    raise VideoError(f"record {record['id']!r}: {error}") from error
  if of_segments:
    labels = np.asarray(segment_labels)[[read["segment"]]]
  if read["flipped"] and videos.flip_labels is not None:
    labels = np.asarray(videos.flip_labels)[labels]
  return read["clip"], labels


def eval_example(
  videos: VideoSet | FileSet,
  preprocessing: Preprocessing,
  views: Views,
  video: int,
  *,
  labelled: bool = True,
  call: Callable[..., dict[str, Any]] = _HERE,
) -> Batch:
  """Reads the clips of one video; see `eval_batches`.

  With `labelled` False a record may be without a label.
  """
  channels = len(preprocessing.mean)
  shape = (views.count, preprocessing.frames, *preprocessing.crop_size)
  empty: Batch = {
    "clips": np.zeros((*shape, channels), np.uint8),
    "times": np.zeros(views.count, np.float32),
    "labels": np.full(videos.max_labels, -1, np.int32),
    "video": np.asarray(-1, np.int32),
    "source": _text(""),
    "problem": _text(""),
  }
  if video >= len(videos):
    return empty
  record = videos[video]
  found: Batch = {
    **empty,
    "labels": _padded(_checked(record, videos, labelled), videos.max_labels),
    "video": np.asarray(video, np.int32),
    "source": _name(record["source_id"]),
  }
  try:
    read = call(
      "eval_clips", record["video"], preprocessing, views, record["id"]
    )
  except ValueError as error:
    text = f"record {record['id']!r}: {error}"
    return {**found, "problem": _text(text)}
  times = read["times"].astype(np.float32)
  return {**found, "clips": read["clips"], "times": times}


@functools.lru_cache(maxsize=2)
def epoch_order(videos: int, seed: int, epoch: int) -> np.ndarray:
  """Returns the order, int64 (videos,), in which an epoch takes the videos."""
  rng = np.random.default_rng(
    np.random.SeedSequence(seed, spawn_key=(_EPOCH, epoch))
  )
  return rng.permutation(videos)


def check_channels(videos: VideoSet | FileSet, channels: str) -> None:
  """Refuses pixels that a set does not hold.

  Raises:
    ValueError: the set is optical flow and `channels` is not "flow", or the
      other way round.
  """
  if (videos.channels == "flow") != (channels == "flow"):
    holds = "optical flow" if videos.channels == "flow" else "RGB videos"
    makes = "" if videos.channels == "flow" else ", `p3d data flow` makes flow"
    raise ValueError(
      f"preprocessing.channels={channels!r}: {videos.directory} holds "
      f"{holds}{makes}"
    )


def _rows(batch: int, host: int, hosts: int) -> int:
  """Returns how many rows of the global batch are this host's."""
  if batch < 1 or hosts < 1 or batch % hosts:
    raise ValueError(f"batch={batch}: must be a multiple of hosts={hosts}")
  if not 0 <= host < hosts:
    raise ValueError(f"host={host}: must be within 0..{hosts - 1}")
  return batch // hosts


def _checked(
  record: dict[str, Any], videos: VideoSet | FileSet, labelled: bool
) -> np.ndarray:
  """Returns a record's labels.

  Raises:
    ValueError: there are more than the set declares, or one is no class of it.
  """
  labels = np.asarray(record["labels"])
  if len(labels) > videos.max_labels:
    raise ValueError(
      f"record {record['id']!r}: {len(labels)} labels, the set declares "
      f"max_labels={videos.max_labels}"
    )
  if labelled and not len(labels):
    raise ValueError(
      f"record {record['id']!r}: it has no label; take a split that has them"
    )
  classes = len(videos.label_names)
  if len(wrong := labels[(labels < 0) | (labels >= classes)]):
    raise ValueError(
      f"record {record['id']!r}: label {wrong[0]} must be within "
      f"0..{classes - 1}, the set has {classes} classes"
    )
  return labels


def _padded(labels: np.ndarray, max_labels: int) -> np.ndarray:
  """Returns labels as int32 (max_labels,), -1 after the last."""
  out = np.full(max_labels, -1, np.int32)
  out[: len(labels)] = labels
  return out


def _text(text: str) -> np.ndarray:
  """Returns a text as batches hold it; all of one width, so that they stack."""
  return np.asarray(text, f"<U{TEXT}")


def _name(text: str) -> np.ndarray:
  """Returns a name as batches hold it; one that is too long, as its sha256."""
  if len(text) > TEXT:
    text = hashlib.sha256(text.encode()).hexdigest()
  return _text(text)


def _batches(
  example: Callable[[int], Batch],
  count: int,
  rows: int,
  reading: Reading,
  call: Decoding,
) -> Generator[Batch, None, None]:
  """Reads examples 0 to count - 1 in order, `rows` to a batch.

  The reading begins with the first batch, and closing what is returned ends
  it.
  """
  if not count:
    return
  # The batches are made before the reader, so that what a worker process hands
  # over is a batch, and worker w of W makes batches w, w + W, ...; made after
  # it, a batch would mix the examples of all workers. So a thread decodes a
  # whole batch, one video after the other, and the memory that reading takes
  # is `threads` batches a process, under way or waiting, beside the one given.
  dataset = (
    grain.MapDataset.range(count)
    .map(example)
    .batch(rows)
    .to_iter_dataset(
      grain.ReadOptions(
        num_threads=reading.threads, prefetch_buffer_size=reading.threads
      )
    )
  )
  if reading.workers:
    # Grain reads an absl flag here, which fails in a program that has none.
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    dataset = dataset.mp_prefetch(
      grain.MultiprocessingOptions(num_workers=reading.workers),
      worker_init_fn=_ignore_sigterm,
    )
  # What decodes ends first: a thread that waits for it would hold the end up.
  with contextlib.closing(iter(dataset)) as batches, contextlib.closing(call):
    if reading.workers:
      _start(batches)
    yield from batches


def _start(batches: grain.DatasetIterator) -> None:
  """Starts the worker processes, which no SIGTERM ends."""
  # Asked for its state, Grain makes the workers' iterators in this thread, and
  # starts them from it. Otherwise threads of its own do both, later.
  batches.get_state()
  with held_back():
    batches.start_prefetch()


def _ignore_sigterm(worker: int, workers: int) -> None:
  """A worker's first words: a notice goes to the parent, which still reads.

  Closing ends a worker by an event or SIGKILL, and it ends with its parent; but
  what multiprocessing itself would end at exit, it would end by SIGTERM and
  wait. Grain closes its iterators before.
  """
  ignore_sigterm()
