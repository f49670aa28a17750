"""Global index -> example -> this host's rows of the global batch.

The example at global index i is a function of (seed, i): epoch i // n, a fresh
permutation of the n videos for each, and one generator for each example, which
every draw of its clip, crop, mirror and colours comes from. Step s is the
indices s * batch to (s + 1) * batch - 1, and a host reads its rows of them. So
the step number is all there is to save, and hosts, workers and threads change
nothing but the speed.
"""

import contextlib
import functools
from collections.abc import Callable, Generator
from typing import Any

import grain
import numpy as np
from absl import flags

from p3d_jax.data.clips import Augment, random_clip
from p3d_jax.data.decode import Video, VideoError
from p3d_jax.data.sets import VideoSet
from p3d_jax.preprocess import Preprocessing

Batch = dict[str, np.ndarray]

# Streams of random numbers that never meet: an epoch's order, an example.
_EPOCH, _EXAMPLE = 0, 1


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
  workers: int = 0,
  threads: int = 2,
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
    workers: processes that read; 0 reads in this one.
    threads: that read, in each process.

  Yields:
    "clips" uint8 (rows, time, height, width, 3), "labels" int32 (rows,
    max_labels) with -1 after the last, "index" int64 (rows,), the global index.

  Raises:
    ValueError: an argument is out of its range.
    VideoError: a video cannot be read; the line names it.
  """
  rows = _rows(batch, host, hosts)
  if seed < 0:
    raise ValueError(f"seed={seed}: must be >= 0")
  if not 0 <= start_step <= stop_step:
    raise ValueError(
      f"start_step={start_step}, stop_step={stop_step}: must be "
      "0 <= start_step <= stop_step"
    )

  def example(at: int) -> Batch:
    step, row = divmod(at, rows)
    index = (start_step + step) * batch + host * rows + row
    return train_example(videos, preprocessing, augment, seed, index)

  return _read(example, (stop_step - start_step) * rows, rows, workers, threads)


def eval_batches(
  videos: VideoSet,
  preprocessing: Preprocessing,
  *,
  clips: int,
  batch: int,
  host: int = 0,
  hosts: int = 1,
  workers: int = 0,
  threads: int = 2,
) -> Generator[Batch, None, None]:
  """Yields this host's rows of batches that hold every video once, in order.

  Args:
    videos: an opened split.
    preprocessing: frames, stride, fps, resize and crop of a clip.
    clips: of each video, spread evenly over it.
    batch: videos of the global batch.
    host: number of this host.
    hosts: how many there are.
    workers: processes that read; 0 reads in this one.
    threads: that read, in each process.

  Yields:
    "clips" uint8 (rows, clips, time, height, width, 3), "labels" int32 (rows,
    max_labels) with -1 after the last, "video" int32 (rows,), the position in
    the split. The last batch is filled up with rows of zeros, video -1.

  Raises:
    ValueError: an argument is out of its range.
    VideoError: a video cannot be read; the line names it.
  """
  rows = _rows(batch, host, hosts)
  steps = -(-len(videos) // batch)

  def example(at: int) -> Batch:
    step, row = divmod(at, rows)
    video = step * batch + host * rows + row
    return eval_example(videos, preprocessing, clips, video)

  return _read(example, steps * rows, rows, workers, threads)


def train_example(
  videos: VideoSet,
  preprocessing: Preprocessing,
  augment: Augment,
  seed: int,
  index: int,
) -> Batch:
  """Reads the example at a global index; see `train_batches`."""
  count = len(videos)
  epoch, position = divmod(index, count)
  order = epoch_order(count, seed, epoch)
  record = videos[int(order[position])]
  labels = _checked(record, videos)
  rng = np.random.default_rng(
    np.random.SeedSequence(seed, spawn_key=(_EXAMPLE, index))
  )
  try:
    video = Video(record["video"])
    timeline = video.timeline(preprocessing.fps)
    clip = random_clip(
      len(timeline), preprocessing.frames, preprocessing.stride, rng
    )
    frames = video.read(timeline[clip], preprocessing.resize)
    frames, flipped = augment(frames, preprocessing.crop_size, rng)
  except ValueError as error:
    raise VideoError(f"record {record['id']!r}: {error}") from error
  if flipped and videos.flip_labels is not None:
    labels = np.asarray(videos.flip_labels)[labels]
  return {
    "clips": frames,
    "labels": _padded(labels, videos.max_labels),
    "index": np.asarray(index, np.int64),
  }


def eval_example(
  videos: VideoSet, preprocessing: Preprocessing, clips: int, video: int
) -> Batch:
  """Reads the clips of one video; see `eval_batches`."""
  if video >= len(videos):
    shape = (clips, preprocessing.frames, *preprocessing.crop_size, 3)
    return {
      "clips": np.zeros(shape, np.uint8),
      "labels": np.full(videos.max_labels, -1, np.int32),
      "video": np.asarray(-1, np.int32),
    }
  record = videos[video]
  labels = _checked(record, videos)
  try:
    stored = Video(record["video"])
    indices = stored.clip_indices(preprocessing, clips)
    frames = stored.read_clips(indices, preprocessing, crop=True)
  except ValueError as error:
    raise VideoError(f"record {record['id']!r}: {error}") from error
  return {
    "clips": frames,
    "labels": _padded(labels, videos.max_labels),
    "video": np.asarray(video, np.int32),
  }


@functools.lru_cache(maxsize=2)
def epoch_order(videos: int, seed: int, epoch: int) -> np.ndarray:
  """Returns the order, int64 (videos,), in which an epoch takes the videos."""
  rng = np.random.default_rng(
    np.random.SeedSequence(seed, spawn_key=(_EPOCH, epoch))
  )
  return rng.permutation(videos)


def _rows(batch: int, host: int, hosts: int) -> int:
  """Returns how many rows of the global batch are this host's."""
  if batch < 1 or hosts < 1 or batch % hosts:
    raise ValueError(f"batch={batch}: must be a multiple of hosts={hosts}")
  if not 0 <= host < hosts:
    raise ValueError(f"host={host}: must be within 0..{hosts - 1}")
  return batch // hosts


def _checked(record: dict[str, Any], videos: VideoSet) -> np.ndarray:
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


def _read(
  example: Callable[[int], Batch],
  count: int,
  rows: int,
  workers: int,
  threads: int,
) -> Generator[Batch, None, None]:
  """Reads examples 0 to count - 1 in order, `rows` to a batch.

  The arguments are checked here, the reading begins with the first batch, and
  closing what is returned ends it.
  """
  if workers < 0 or threads < 1:
    raise ValueError(
      f"workers={workers}, threads={threads}: must be workers >= 0 and threads "
      ">= 1"
    )
  return _batches(example, count, rows, workers, threads)


def _batches(
  example: Callable[[int], Batch],
  count: int,
  rows: int,
  workers: int,
  threads: int,
) -> Generator[Batch, None, None]:
  """Yields what `_read` reads."""
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
      grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    )
  )
  if workers:
    # Grain reads an absl flag here, which fails in a program that has none.
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    dataset = dataset.mp_prefetch(
      grain.MultiprocessingOptions(num_workers=workers)
    )
  with contextlib.closing(iter(dataset)) as batches:
    yield from batches
