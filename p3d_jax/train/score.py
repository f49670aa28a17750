"""Scores all videos of a split: N clips each, sharded over the devices."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from p3d_jax.data import pipeline
from p3d_jax.data.sets import VideoSet
from p3d_jax.models.p3d import P3D
from p3d_jax.preprocess import Preprocessing
from p3d_jax.train import sharding, step
from p3d_jax.train.metrics import Scores


class Scorer:
  """Scores videos with one compiled step, again and again while training.

  Attributes:
    module: the network.
    preprocessing: what it expects of pixels.
    mesh: that the videos are split over.
  """

  def __init__(
    self, module: P3D, preprocessing: Preprocessing, scores: str, mesh: Mesh
  ) -> None:
    self.module = module
    self.preprocessing = preprocessing
    self.mesh = mesh
    self._step = step.jit_eval_step(module, preprocessing, scores, mesh)

  def place(self, variables: Any) -> Any:
    """Puts variables on all devices, once for many calls of `clips`."""
    return jax.device_put(variables, sharding.replicated(self.mesh))

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
    scores = np.asarray(self._step(variables, batch["clips"]))
    if not np.isfinite(scores).all():
      raise ArithmeticError(
        "the network's scores are not finite: its variables are not, or its "
        "dtype is too narrow for them"
      )
    return scores

  def videos(
    self,
    variables: Any,
    videos: VideoSet,
    *,
    clips: int,
    batch: int,
    reading: pipeline.Reading = pipeline.DEFAULT,
    progress: Callable[[int], None] = lambda done: None,
  ) -> Scores:
    """Scores each video of a split once.

    Args:
      variables: of the network.
      videos: the split.
      clips: uniform clips a video.
      batch: videos at once, over all devices.
      reading: how videos are read.
      progress: called with the number of videos done.

    Raises:
      ArithmeticError: a score is not a number.
    """
    variables = self.place(variables)
    found: dict[int, np.ndarray] = {}
    labels: dict[int, np.ndarray] = {}
    problems: dict[int, str] = {}
    batches = pipeline.eval_batches(
      videos,
      self.preprocessing,
      clips=clips,
      batch=batch,
      reading=reading,
    )
    with contextlib.closing(batches):
      for rows in batches:
        scores = self.clips(variables, rows["clips"])
        for i, video in enumerate(rows["video"]):
          if video >= 0:  # the last batch is padded
            found[int(video)] = scores[i]
            labels[int(video)] = rows["labels"][i]
            if rows["problem"][i]:
              problems[int(video)] = str(rows["problem"][i])
        progress(len(found))
    order = sorted(found)
    return Scores(
      index=np.asarray(order),
      clips=np.stack([found[i] for i in order]),
      labels=np.stack([labels[i] for i in order]),
      readable=np.asarray([i not in problems for i in order]),
      problems=tuple(problems[i] for i in sorted(problems)),
    )
