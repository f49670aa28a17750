"""Writes videos of a built set as files, to look at or to predict."""

from __future__ import annotations

import io
import re

import av
from etils import epath

from p3d_jax.data.sets import VideoSet
from p3d_jax.files import write_aside

_LONGEST = 200  # characters of a file name; file systems take 255 bytes
_SUFFIXES = ("mp4", "mkv", "avi", "mpg")  # taken first where a format has many


def extract(
  videos: VideoSet, count: int, out: epath.PathLike
) -> list[epath.Path]:
  """Writes the first videos of a split, as they are stored.

  Args:
    videos: the split.
    count: how many.
    out: folder, made if it is not there; files of the same name are replaced.

  Returns:
    The files, named "000012-label-id.suffix", by their place in the split;
    several labels are joined by "+", and a long name is cut.

  Raises:
    ValueError: `count` is not between 1 and the size of the split.
  """
  if not 1 <= count <= len(videos):
    raise ValueError(
      f"count={count}: must be between 1 and the {len(videos)} videos of "
      f"{videos.split}"
    )
  folder = epath.Path(out)
  folder.mkdir(parents=True, exist_ok=True)
  files = []
  for index in range(count):
    record = videos[index]
    labels = "+".join(videos.label_names[i] for i in record["labels"])
    # The number keeps apart what the rest of the name does not.
    name = f"{index:06d}-{labels}-{record['id']}"
    # A name of the data never leads out of the folder.
    name = re.sub(r"[^\w+.-]", "_", name, flags=re.ASCII)
    suffix = f".{_suffix(record['video'])}"
    file = folder / (name[: _LONGEST - len(suffix)] + suffix)
    write_aside(file, record["video"])
    files.append(file)
  return files


def _suffix(video: bytes) -> str:
  """The usual suffix of a video's container."""
  with av.open(io.BytesIO(video)) as container:
    known = container.format.extensions
  return next((s for s in _SUFFIXES if s in known), min(known, default="video"))
