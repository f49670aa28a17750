"""Writes videos of a built set as files, to look at or to predict."""

from __future__ import annotations

import io
import os
import unicodedata

import av
from etils import epath

from p3d_jax.data.builders.layout import SUFFIXES
from p3d_jax.data.sets import VideoSet
from p3d_jax.files import write_aside

# Bytes of a file name. File systems take 255, some that encrypt names fewer,
# and while it is written a file has some more.
_LONGEST = 200
# Taken first where a format has many.
_USUAL = ("mp4", "mkv", "avi")
# Suffixes that FFmpeg does not say: those of a format that has this one too,
# and the usual one of a format of which it says none.
_ALSO = {"mp4": "m4v", "ogg": "ogv"}
_UNSAID = {"mpeg": "mpg", "mpegts": "ts", "asf": "wmv"}


def extract(
  videos: VideoSet, count: int, out: epath.PathLike
) -> list[epath.Path]:
  """Writes the first videos of a split, as they are stored.

  Args:
    videos: the split.
    count: how many; of a split that has fewer, all are written.
    out: folder, made if it is not there; files of the same name are replaced.

  Returns:
    The files, named "000012-label-id.suffix", by their place in the split.
    Several labels are joined by "+". What is no letter, digit or emoji, nor "."
    or "-", is "_", and a long name is cut. The suffix is the id's own if it has
    one that fits the video.

  Raises:
    ValueError: `count` is < 1.
  """
  if count < 1:
    raise ValueError(f"count={count}: must be >= 1")
  folder = epath.Path(out).expanduser()
  folder.mkdir(parents=True, exist_ok=True)
  files = []
  for index in range(min(count, len(videos))):
    record = videos[index]
    labels = "+".join(videos.label_names[i] for i in record["labels"])
    stem, suffix = _split(record["id"], record["video"])
    # The number keeps apart what the rest of the name does not.
    name = _safe("-".join(filter(None, (f"{index:06d}", labels, stem))))
    file = folder / (_cut(name, _LONGEST - len(suffix)) + suffix)
    write_aside(file, record["video"])
    files.append(file)
  return files


def _safe(name: str) -> str:
  """Returns a name that any system takes, and that leads out of no folder."""
  # Letters of all scripts, the marks on them, numbers, and emoji.
  return "".join(
    c
    if c in "+-._"
    or unicodedata.category(c)[0] in "LMN"
    or unicodedata.category(c) == "So"
    else "_"
    for c in name
  )


def _cut(name: str, size: int) -> str:
  """Returns as many whole characters of a name as fit into bytes of UTF-8."""
  return name.encode()[:size].decode(errors="ignore")


def _split(name: str, video: bytes) -> tuple[str, str]:
  """Returns the stem of an id, and the suffix for its video."""
  with av.open(io.BytesIO(video)) as container:
    said = container.format.extensions
    unsaid = _UNSAID.get(container.format.name, "video")
  known = {f".{suffix}" for suffix in said}
  known |= {f".{_ALSO[suffix]}" for suffix in said if suffix in _ALSO}
  stem, own = os.path.splitext(name)
  # A video that was encoded again is no longer what its name says.
  if own.lower() in SUFFIXES and (own.lower() in known or not known):
    return stem, own
  usual = next((s for s in _USUAL if f".{s}" in known), None)
  return name, f".{usual}" if usual else min(known, default=f".{unsaid}")
