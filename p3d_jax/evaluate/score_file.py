"""The file of a split's video scores, which `p3d evaluate` writes."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import zipfile
from typing import Any

import numpy as np
from etils import epath

from p3d_jax.files import absolute, reading_as, write_aside
from p3d_jax.train.metrics import Scores

# Stands in every file; a file of another layout will have another.
_FORMAT = "p3d_jax video scores 1"

_ARRAYS = ("ids", "scores", "labels", "label_names", "readable")


@dataclasses.dataclass(frozen=True)
class VideoScores:
  """The scores of a split's videos, each the mean over its clips.

  Attributes:
    ids: of the videos.
    scores: float32 (videos, classes).
    labels: int32 (videos, max labels), padded with -1.
    label_names: of the classes.
    readable: (videos,) of bool; one that could not be read counts as missed,
      whatever stands in its scores.
    about: where the scores are from; what JSON can hold.
  """

  ids: tuple[str, ...]
  scores: np.ndarray
  labels: np.ndarray
  label_names: tuple[str, ...]
  readable: np.ndarray
  about: dict[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    """Raises a ValueError if the fields do not fit each other."""
    _check(self)

  def to_scores(self) -> Scores:
    """Returns them as the metrics take them, as if of one clip a video."""
    return Scores(
      index=np.arange(len(self.ids)),
      clips=self.scores[:, None],
      labels=self.labels,
      readable=self.readable,
    )


def _check(scores: VideoScores) -> None:
  """Raises a ValueError that names the field which does not fit."""
  videos, classes = len(scores.ids), len(scores.label_names)
  labels = scores.labels
  for name, found, kind, shape in (
    ("scores", scores.scores, np.float32, (videos, classes)),
    ("labels", labels, np.int32, (videos, *labels.shape[1:2])),
    ("readable", scores.readable, np.bool_, (videos,)),
  ):
    if found.dtype != kind or found.shape != shape:
      raise ValueError(
        f"{name} is {found.dtype} {found.shape}: for {videos} ids and "
        f"{classes} classes it must be {np.dtype(kind)} {shape}"
      )
  if labels.ndim != 2:
    raise ValueError(f"labels is {labels.shape}: it must be (videos, labels)")
  if labels.size and not (labels.min() >= -1 and labels.max() < classes):
    raise ValueError(
      f"labels are {labels.min()} to {labels.max()}: they must be -1, for "
      f"none, to {classes - 1}"
    )
  if not np.isfinite(scores.scores[scores.readable]).all():
    raise ValueError("scores are not finite, of videos that were readable")


def save_scores(path: epath.PathLike, scores: VideoScores) -> None:
  """Writes scores to an .npz file, whole or not at all.

  Args:
    path: of the file; it ends in .npz. gs:// works too.
    scores: of a split.

  Raises:
    ValueError: the name does not end in .npz.
  """
  _check_name(path)
  content = io.BytesIO()
  np.savez(
    content,
    format=np.asarray(_FORMAT),
    ids=np.asarray(scores.ids, str),
    scores=scores.scores,
    labels=scores.labels,
    label_names=np.asarray(scores.label_names, str),
    readable=scores.readable,
    about=np.asarray(json.dumps(scores.about)),
  )
  write_aside(path, content.getvalue())


def load_scores(path: epath.PathLike) -> VideoScores:
  """Reads what `save_scores` wrote.

  Args:
    path: of the .npz file. gs:// works too.

  Raises:
    ValueError: it is not there, or is no such file; nothing in it is ever
      unpickled.
    OSError: it cannot be read.
  """
  _check_name(path)
  file = absolute(path)
  if not file.is_file():
    raise ValueError(f"{os.fspath(path)}: there is no such file")
  content = file.read_bytes()
  with reading_as(path, "file of video scores"):
    found = _arrays(content)
    return VideoScores(
      ids=tuple(found["ids"].tolist()),
      scores=found["scores"],
      labels=found["labels"],
      label_names=tuple(found["label_names"].tolist()),
      readable=found["readable"],
      about=_about(str(found["about"])),
    )


def _arrays(content: bytes) -> dict[str, np.ndarray]:
  """Reads the arrays of a file; a ValueError says what is wrong with it."""
  if not zipfile.is_zipfile(io.BytesIO(content)):
    raise ValueError("it is no archive of arrays, or is cut short")
  # Not np.load: it advises to unpickle what it cannot read.
  archive = np.lib.npyio.NpzFile(io.BytesIO(content), allow_pickle=False)
  wanted = ("format", *_ARRAYS, "about")
  missing = [name for name in wanted if name not in archive]
  if missing:
    raise ValueError(f"it has no {', '.join(missing)}")
  found = {name: archive[name] for name in wanted}
  if not all(isinstance(array, np.ndarray) for array in found.values()):
    raise ValueError("what it holds are not arrays")
  if str(found["format"]) != _FORMAT:
    raise ValueError(f"its format is {str(found['format'])!r}, not {_FORMAT!r}")
  for name in ("ids", "label_names"):
    if found[name].ndim != 1 or found[name].dtype.kind != "U":
      raise ValueError(f"its {name} are no list of names")
  return found


def _about(text: str) -> dict[str, Any]:
  """Reads the JSON of a file."""
  about = json.loads(text)
  if not isinstance(about, dict):
    raise ValueError("its about is no JSON object")
  return about


def _check_name(path: epath.PathLike) -> None:
  """Refuses a name that is not of such a file."""
  if not os.fspath(path).endswith(".npz"):
    raise ValueError(f"{os.fspath(path)}: a file of scores ends in .npz")
