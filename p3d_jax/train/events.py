"""TensorBoard event files of scalars, without TensorFlow and without PyTorch.

A file is a sequence of records: the length, its checksum, an Event message, its
checksum (TensorFlow's record_writer.h). The few fields that scalars take are
encoded here by hand, by the numbers in event.proto and summary.proto.
"""

from __future__ import annotations

import os
import socket
import struct
import time

from etils import epath


class EventFile:
  """Appends scalars to an event file of its own in a folder."""

  def __init__(self, folder: epath.PathLike, step: int) -> None:
    """Makes the file.

    Args:
      folder: of TensorBoard's `--logdir`.
      step: after which this file goes on; what other files in the folder say
        of later steps is purged by TensorBoard.
    """
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{time.time_ns() // 1000}.{socket.gethostname()}.{os.getpid()}"
    self._out = (folder / f"events.out.tfevents.{name}").open("wb")
    self._write(0, _bytes(3, b"brain.Event:2"))  # file_version
    if step:
      start = _varint(1, 1)  # SessionLog.status: START
      self._write(step + 1, _bytes(7, start))

  def add(self, step: int, values: dict[str, float]) -> None:
    """Writes scalars of one step, by their tags."""
    summary = b"".join(
      _bytes(1, _bytes(1, tag.encode()) + _number(2, "<f", value))
      for tag, value in values.items()
    )
    self._write(step, _bytes(5, summary))

  def close(self) -> None:
    """Ends the file."""
    self._out.close()

  def _write(self, step: int, what: bytes) -> None:
    event = _number(1, "<d", time.time()) + _varint(2, step) + what
    length = struct.pack("<Q", len(event))
    self._out.write(length + _checksum(length) + event + _checksum(event))
    self._out.flush()


# Fields of protocol buffers: the number and the kind, then the content.


def _varint(field: int, value: int) -> bytes:
  return bytes([field << 3]) + _base128(value)


def _number(field: int, kind: str, value: float) -> bytes:
  wire = {"<d": 1, "<f": 5}[kind]
  return bytes([field << 3 | wire]) + struct.pack(kind, value)


def _bytes(field: int, content: bytes) -> bytes:
  return bytes([field << 3 | 2]) + _base128(len(content)) + content


def _base128(value: int) -> bytes:
  out = bytearray()
  while value >= 128:
    out.append(value & 127 | 128)
    value >>= 7
  return bytes([*out, value])


def _table() -> list[int]:
  table = []
  for byte in range(256):
    for _ in range(8):
      byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    table.append(byte)
  return table


_CRC32C = _table()  # Castagnoli's, reflected


def _checksum(content: bytes) -> bytes:
  """Masked CRC-32C, as the records of TensorFlow have it."""
  crc = 0xFFFFFFFF
  for byte in content:
    crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 255]
  crc ^= 0xFFFFFFFF
  masked = (crc >> 15 | crc << 17) + 0xA282EAD8
  return struct.pack("<I", masked & 0xFFFFFFFF)
