"""The table of a simple mp4: which bytes are which frame, and when it is shown.

FFmpeg's way in, made for any file, takes a quarter of the time of decoding a
clip: it looks for what a file is, decodes its first frames, reads all packets.
The videos of a set, as encode.py writes them, need none of it. Only what is as
simple as those is read here; to all else `read_table` says no.
"""

import dataclasses
import struct

import numpy as np

# Boxes that may stand at each level: those that are read, and those that change
# no frame (free space, texts, bit rate, the shape of a pixel). What is left out
# does: colours (colr), B-frames (ctts), fragments (moof, mvex).
_FILE = frozenset((b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"))
_MOVIE = frozenset((b"mvhd", b"trak", b"udta"))
_TRACK = frozenset((b"tkhd", b"edts", b"mdia", b"udta"))
_MEDIA = frozenset((b"mdhd", b"hdlr", b"minf"))
_INFO = frozenset((b"vmhd", b"hdlr", b"dinf", b"stbl"))
_TABLE = frozenset((b"stsd", b"stts", b"stss", b"stsc", b"stsz", b"stco"))
_H264 = frozenset((b"avcC", b"btrt", b"pasp"))

# One place to look for the frames: this file.
_HERE = struct.pack(">3I4sI", 0, 1, 12, b"url ", 1)
# The display matrix that changes nothing, in 16.16 and 2.30 bits.
_UPRIGHT = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
# Bytes of a description of video before the boxes in it.
_VIDEO = 78

FASTEST = 1000  # frames a second

Span = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Table:
  """The frames of a video, stored in the order they are shown in.

  Attributes:
    offsets: int64 (frames,), the first byte of each.
    sizes: int64 (frames,), bytes of each.
    keys: int64 (keys,), ascending from 0: those that decoding can start from.
    step: ticks from one frame to the next.
    rate: ticks a second.
    extradata: what the decoder has to know before the first frame.
    size: (width, height) in pixels that are shown of what is coded.
  """

  offsets: np.ndarray
  sizes: np.ndarray
  keys: np.ndarray
  step: int
  rate: int
  extradata: bytes
  size: tuple[int, int]


class _Other(Exception):  # noqa: N818
  """It is no such file."""


def read_table(data: bytes) -> Table | None:
  """Reads the table of an mp4.

  Args:
    data: the file.

  Returns:
    None unless the file is whole, holds H.264 and nothing else, shows every
    frame upright, each as long as the others and in the order they are stored
    in, and says nothing of colours outside the H.264.
  """
  try:
    return _read(data)
  except (_Other, KeyError, struct.error):
    return None


def _read(data: bytes) -> Table:
  file = _boxes(data, (0, len(data)), _FILE)
  movie = _boxes(data, file[b"moov"], _MOVIE)
  track = _boxes(data, movie[b"trak"], _TRACK)
  media = _boxes(data, track[b"mdia"], _MEDIA)
  info = _boxes(data, media[b"minf"], _INFO)
  table = _boxes(data, info[b"stbl"], _TABLE)
  sources = _boxes(data, info[b"dinf"], frozenset((b"dref",)))
  start, end = sources[b"dref"]
  _only(data[start:end] == _HERE)
  (kind,) = _unpack(">8x4s", data, media[b"hdlr"])
  _only(kind == b"vide")

  count, step, rate = _times(data, movie, track, media, table)
  sizes = _sizes(data, table[b"stsz"])
  offsets = _offsets(data, table, sizes)
  _only(len(sizes) == count and bool(np.all(sizes > 0)))
  _only(bool(np.all(offsets + sizes <= len(data))))
  keys = np.arange(count)
  if b"stss" in table:
    keys = _column(data, table[b"stss"]) - 1
  _only(len(keys) > 0 and keys[0] == 0 and keys[-1] < count)
  _only(bool(np.all(np.diff(keys) > 0)))
  extradata, size = _description(data, table)
  return Table(offsets, sizes, keys, step, rate, extradata, size)


def _times(
  data: bytes,
  movie: dict[bytes, Span],
  track: dict[bytes, Span],
  media: dict[bytes, Span],
  table: dict[bytes, Span],
) -> tuple[int, int, int]:
  """Returns how many frames there are, ticks of each, and ticks a second."""
  # Where each of these starts with 0, it is of the version with 32-bit times.
  zero, movie_rate, matrix = _unpack(">I8xI20x36s", data, movie[b"mvhd"])
  _only(zero == 0 and movie_rate > 0 and matrix == _UPRIGHT)
  version, matrix = _unpack(">B39x36s", data, track[b"tkhd"])
  _only(version == 0 and matrix == _UPRIGHT)
  zero, rate, duration = _unpack(">I8xII", data, media[b"mdhd"])
  # FFmpeg has clocks of 31 bits.
  _only(zero == 0 and 0 < rate < 1 << 31)
  zero, entries, count, step = _unpack(">IIII", data, table[b"stts"])
  _only(zero == 0 and entries == 1 and step > 0)
  _only(count * step == duration and rate <= FASTEST * step)
  if b"edts" in track:
    # Shown is all of it from the start on, at its own speed.
    edits = _boxes(data, track[b"edts"], frozenset((b"elst",)))
    found = _unpack(">IIIiI", data, edits[b"elst"])
    _only(found[:2] == (0, 1) and found[3:] == (0, 1 << 16))
    _only(found[2] * rate >= duration * movie_rate)
  return count, step, rate


def _sizes(data: bytes, span: Span) -> np.ndarray:
  """Returns the bytes of each frame."""
  one_for_all, count = _unpack(">4xII", data, span)
  start, end = span
  if one_for_all:
    _only(count * one_for_all <= len(data))
    return np.full(count, one_for_all, np.int64)
  _only(end - start == 12 + 4 * count)
  return np.frombuffer(data, ">u4", count, start + 12).astype(np.int64)


def _offsets(
  data: bytes, table: dict[bytes, Span], sizes: np.ndarray
) -> np.ndarray:
  """Returns the first byte of each frame; they lie in chunks, end to end."""
  chunks = _column(data, table[b"stco"])
  # (first chunk, from 1, frames in each, number of their description).
  runs = _column(data, table[b"stsc"], 3)
  first = runs[:, 0] - 1
  _only(len(runs) > 0 and first[0] == 0 and first[-1] < len(chunks))
  _only(bool(np.all(np.diff(first) > 0) and np.all(runs[:, 2] == 1)))
  frames = np.repeat(runs[:, 1], np.diff(first, append=len(chunks)))
  _only(int(frames.sum()) == len(sizes))
  before = np.cumsum(sizes) - sizes
  starts = np.cumsum(frames) - frames
  _only(bool(np.all(frames > 0)))
  return before + np.repeat(chunks - before[starts], frames)


def _description(
  data: bytes, table: dict[bytes, Span]
) -> tuple[bytes, tuple[int, int]]:
  """Returns what the decoder has to know, and (width, height) in pixels."""
  start, end = table[b"stsd"]
  _only(_unpack(">II", data, (start, end)) == (0, 1))
  described = _boxes(data, (start + 8, end), frozenset((b"avc1",)))
  start, end = described[b"avc1"]
  width, height = _unpack(">24xHH", data, (start, end))
  _only(width > 0 and height > 0)
  start, end = _boxes(data, (start + _VIDEO, end), _H264)[b"avcC"]
  return data[start:end], (width, height)


def _boxes(
  data: bytes, span: Span, known: frozenset[bytes]
) -> dict[bytes, Span]:
  """Returns where the content of each box is; free space may be repeated."""
  found: dict[bytes, Span] = {}
  at, end = span
  while at < end:
    size, name = struct.unpack_from(">I4s", data, at)
    _only(8 <= size <= end - at and name in known)
    _only(name not in found or name == b"free")
    found[name] = at + 8, at + size
    at += size
  return found


def _column(data: bytes, span: Span, width: int = 1) -> np.ndarray:
  """Returns a list of numbers, int64 (rows,), or (rows, width)."""
  zero, rows = _unpack(">II", data, span)
  start, end = span
  _only(zero == 0 and end - start == 8 + 4 * rows * width)
  numbers = np.frombuffer(data, ">u4", rows * width, start + 8)
  numbers = numbers.astype(np.int64)
  return numbers if width == 1 else numbers.reshape(rows, width)


def _unpack(form: str, data: bytes, span: Span) -> tuple:
  """Unpacks the beginning of a box."""
  start, end = span
  _only(end - start >= struct.calcsize(form))
  return struct.unpack_from(form, data, start)


def _only(true: bool) -> None:
  if not true:
    raise _Other
