"""Classifies video files: any size, rate, length and orientation."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from etils import epath

from p3d_jax.checkpoint import model
from p3d_jax.data.clips import Views
from p3d_jax.data.decode import VideoError
from p3d_jax.data.guard import CrashError, HangError
from p3d_jax.data.pipeline import Decoding, Reading
from p3d_jax.train import sharding
from p3d_jax.train.score import Scorer


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What a network says of one file.

  Attributes:
    path: of the file.
    labels: names of the classes.
    scores: (classes,), the mean over the clips.
    times: (clips,), the middle of each clip, in seconds.
    clips: (clips, classes).
    error: why there are no scores, or None.
  """

  path: str
  labels: tuple[str, ...]
  scores: np.ndarray | None = None
  times: np.ndarray | None = None
  clips: np.ndarray | None = None
  error: str | None = None

  def top(self, k: int) -> list[tuple[str, float]]:
    """Returns the k highest scores with their names."""
    if self.scores is None:
      raise ValueError(f"{self.path} has no scores: {self.error}")
    order = np.argsort(-self.scores, kind="stable")[:k]
    return [(self.labels[i], float(self.scores[i])) for i in order]

  def to_json(self, k: int) -> dict[str, Any]:
    """Returns the path and the top k, or the error."""
    if self.error is not None:
      return {"path": self.path, "error": self.error}
    top = [{"label": name, "score": score} for name, score in self.top(k)]
    return {"path": self.path, "top": top}


def classifier(
  path: epath.PathLike, step: int | str = "last", *, flow: bool = False
) -> epath.Path:
  """Finds the checkpoint folder of a network that can classify videos.

  Args:
    path: a workdir, or a checkpoint folder.
    step: of a workdir: a number, "last" or "best".
    flow: whether it may read optical flow, as built sets can hold.

  Raises:
    ValueError: there is none, or its network has no classes or reads flow.
    OSError: it is on gs://, which cannot be reached.
  """
  folder = model.find(path, step)
  record = model.read_record(folder)
  if record.model["num_classes"] is None:
    raise ValueError(
      f"{folder} is a trunk, without classes: nothing can be classified by it"
    )
  if record.preprocessing.channels == "flow" and not flow:
    raise ValueError(f"{folder} reads flow, which video files do not hold")
  return folder


class Predictor:
  """A loaded network that classifies files, one after the other."""

  def __init__(
    self,
    path: epath.PathLike,
    step: int | str = "last",
    timeout: float | None = 60.0,
  ) -> None:
    """Loads a workdir or a checkpoint folder; see `p3d_jax.load`.

    Args:
      path: of it.
      step: of a workdir: a number, "last" or "best".
      timeout: seconds that decoding one file may take, in a process that is
        killed then; None: any number, in this process.

    Raises:
      ValueError: there is no such checkpoint, or it cannot classify videos.
    """
    module, variables, self.record = model.load(classifier(path, step))
    self._scorer = Scorer(
      module,
      self.record.preprocessing,
      self.record.scores,
      # One video is not worth splitting.
      sharding.mesh(sharding.local_device()),
    )
    self._variables = self._scorer.place(variables)
    self._decode = Decoding(Reading(timeout=timeout))

  def predict(self, path: epath.PathLike, clips: int) -> Prediction:
    """Classifies a file by uniform clips, centre crop, mean of the scores.

    Args:
      path: of a video.
      clips: how many. A video shorter than a clip holds its last frame.

    Returns:
      The prediction; its `error` says why a file could not be read.

    Raises:
      ArithmeticError: the network's scores are not finite.
    """
    try:
      starts, pixels = self._read(path, clips)
    except VideoError as error:
      return Prediction(str(path), self.record.labels, error=str(error))
    scores = self._scorer.clips(self._variables, pixels[None])[0]
    return Prediction(
      str(path), self.record.labels, scores.mean(0), starts, scores
    )

  def _read(
    self, path: epath.PathLike, clips: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Middle of each clip in seconds, and uint8 pixels of all."""
    try:
      found = self._decode(
        "eval_clips", os.fspath(path), self.record.preprocessing, Views(clips)
      )
    except (HangError, CrashError) as error:
      raise VideoError(f"{path}: {error}") from error
    return found["times"], found["clips"]

  def close(self) -> None:
    """Ends the process that decodes."""
    self._decode.close()


def predict(
  path: epath.PathLike,
  videos: Iterable[epath.PathLike],
  *,
  clips: int = 20,
  step: int | str = "last",
  timeout: float | None = 60.0,
) -> Iterator[Prediction]:
  """Classifies files with a workdir's network; see `Predictor`."""
  with contextlib.closing(Predictor(path, step, timeout)) as predictor:
    for video in videos:
      yield predictor.predict(video, clips)
