"""One encoded video -> one training clip, or the clips that test it.

These run in the process that decodes (guard.py), which knows nothing else: so
nothing heavy is imported here.
"""

import importlib
from typing import Any

import numpy as np

from p3d_jax.data.clips import Augment, Views, random_clip
from p3d_jax.preprocess import Preprocessing

# What opens a video, by what its pixels are: a class called with the encoded
# bytes, with `timeline`, `times`, `read`, `clip_indices` and `read_clips` as
# decode.Video has them.
DECODERS = {
  "RGB": "p3d_jax.data.decode:Video",
  "BGR": "p3d_jax.data.decode:Video",
  "flow": "p3d_jax.data.flow:FlowVideo",
}


def train_clip(
  video: bytes,
  preprocessing: Preprocessing,
  augment: Augment,
  seed: np.random.SeedSequence,
  *,
  decoder: str | None = None,
  segments: np.ndarray | None = None,
) -> dict[str, Any]:
  """Reads one clip at random, cropped and varied.

  Args:
    video: encoded.
    preprocessing: frames, stride, fps, resize and crop of a clip.
    augment: what is done at random.
    seed: what every draw comes from.
    decoder: "module:class" that opens the video; None: that of `DECODERS`.
    segments: (segments, 2) in seconds. One is drawn, and the clip from it;
      None takes the whole video.

  Returns:
    "clip" uint8 (time, height, width, channels), "flipped", and "segment",
    which one was drawn (None without).

  Raises:
    ValueError: it cannot be read.
  """
  rng = np.random.default_rng(seed)
  stored = open_video(video, preprocessing, decoder)
  timeline = stored.timeline(preprocessing.fps)
  segment = None
  if segments is not None:
    segment = int(rng.integers(len(segments)))
    timeline = within(timeline, stored.times, *segments[segment])
  chosen = random_clip(
    len(timeline), preprocessing.frames, preprocessing.stride, rng
  )
  clip, flipped = augment.read(
    stored, timeline[chosen], preprocessing.resize, preprocessing.crop_size, rng
  )
  return {"clip": clip, "flipped": flipped, "segment": segment}


def eval_clips(
  video: bytes | str,
  preprocessing: Preprocessing,
  views: Views,
  name: str = "",
  *,
  decoder: str | None = None,
) -> dict[str, Any]:
  """Reads the clips and crops that test a video.

  Args:
    video: encoded, or the path of one.
    preprocessing: frames, stride, fps, resize and crop of a clip.
    views: which clips and crops.
    name: of the video, which random clips are a function of.
    decoder: "module:class" that opens the video; None: that of `DECODERS`.

  Returns:
    "clips" uint8 (views, time, height, width, channels), the crops of a clip
    one after the other, and "times" (views,), the middle of each in seconds.

  Raises:
    ValueError: it cannot be read.
  """
  stored = open_video(video, preprocessing, decoder)
  indices = stored.clip_indices(preprocessing, views, name)
  times = np.repeat(stored.times[indices].mean(axis=1), views.crops)
  clips = stored.read_clips(indices, preprocessing, crops=views.crops)
  return {"clips": clips, "times": times}


def open_video(
  video: bytes | str, preprocessing: Preprocessing, decoder: str | None = None
) -> Any:
  """Opens a video with a decoder, or with that of its channels."""
  module, name = (decoder or DECODERS[preprocessing.channels]).split(":")
  return getattr(importlib.import_module(module), name)(video)


def within(
  timeline: np.ndarray, times: np.ndarray, start: float, end: float
) -> np.ndarray:
  """Returns the frames of a timeline that are shown in a segment.

  Args:
    timeline: (frames,), indices into the video, ascending.
    times: (num_frames,), seconds at which each frame of the video appears.
    start: of the segment, in seconds.
    end: of the segment, in seconds; not part of it.

  Returns:
    (frames,), at least one: a segment between two frames, or after the last,
    is the frame on screen at its start.
  """
  at = times[timeline]
  inside = timeline[(at >= start) & (at < end)]
  if len(inside):
    return inside
  last = max(int(np.searchsorted(at, start, side="right")) - 1, 0)
  return timeline[last : last + 1]
