"""Trees of small files in the layouts of datasets."""

import functools
import io
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import av
import numpy as np
import pytest
from etils import epath
from video_files import encode_video, numbered

from p3d_jax.data.builders.layout import Dataset, Layout


def write_tree(
  root: pathlib.Path,
  videos: Iterable[str] = (),
  lists: Mapping[str, str | bytes] | None = None,
) -> epath.Path:
  """Writes videos, whose bytes no layout looks at, and lists."""
  for name in videos:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"video " + name.encode())
  for name, text in (lists or {}).items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
  root.mkdir(exist_ok=True)
  return epath.Path(root)


def labels_of(layout: Layout) -> dict[str, tuple[str, ...]]:
  """Returns id -> names of the labels, in the order of the records."""
  return {
    entry.id: tuple(layout.label_names[k] for k in entry.labels)
    for entry in layout.entries
  }


def refused(dataset: Dataset, source: epath.Path, **options: object) -> str:
  """Returns the message that a layout is refused with, which is one line."""
  with pytest.raises(ValueError) as error:
    dataset.layout(source, **options)
  message = str(error.value)
  assert "\n" not in message
  return message


@functools.cache
def video(frames: int, container: str = "mp4") -> bytes:
  """A video of so many frames of 32x48 pixels, which tell it from others."""
  pictures = numbered(frames, 32, 48)
  if container == "avi":
    return encode_video(pictures, container="avi", codec="mpeg4")
  return encode_video(pictures, container=container)


@functools.cache
def uneven() -> bytes:
  """Five frames, at no constant rate."""
  times = [0, 40, 300, 340, 900]
  return encode_video(numbered(5, 32, 48), times=times)


@functools.cache
def audio_only() -> bytes:
  """An mp4 that holds sound and no picture."""
  file = io.BytesIO()
  with av.open(file, "w", format="mp4") as out:
    stream: Any = out.add_stream("aac", rate=16000)
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 1024), np.float32), "fltp", "mono"
    )
    frame.sample_rate = 16000
    out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
  return file.getvalue()


def broken(kind: str, container: str = "mp4") -> bytes:
  """What is no video: "zero" bytes, "cut" in the middle, or "audio" only."""
  whole = video(12, container)
  kinds = {"zero": b"", "cut": whole[: len(whole) // 2], "audio": audio_only()}
  return kinds[kind]
