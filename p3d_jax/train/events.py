"""TensorBoard event files of scalars, through TensorBoard's own messages.

Its EventFileWriter would import TensorFlow where that is installed, and
tensorboardX PyTorch; the messages and the record writer import neither.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from etils import epath
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from p3d_jax import files


class EventFile:
  """Appends scalars to an event file of its own in a folder."""

  def __init__(self, folder: epath.PathLike, step: int) -> None:
    """Makes the file.

    Args:
      folder: of TensorBoard's `--logdir`.
      step: after which this file goes on; what other files in the folder say
        of later steps is purged by TensorBoard.
    """
    folder = files.absolute(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{time.time_ns() // 1000}.{socket.gethostname()}.{os.getpid()}"
    # Of its own, so there is nothing in it.
    self._file = files.Growing(folder / f"events.out.tfevents.{name}")
    self._records = RecordWriter(self._file)
    self._write(file_version="brain.Event:2")
    if step:
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._write(step=step + 1, session_log=start)

  def add(self, step: int, values: dict[str, float]) -> None:
    """Writes scalars of one step, by their tags."""
    scalars = [
      summary_pb2.Summary.Value(tag=tag, simple_value=value)
      for tag, value in values.items()
    ]
    self._write(step=step, summary=summary_pb2.Summary(value=scalars))

  def sync(self) -> None:
    """Makes all scalars visible now, of a file on gs:// too."""
    self._file.sync()

  def close(self) -> None:
    """Ends the file."""
    self._records.close()

  def _write(self, **fields: Any) -> None:
    event = event_pb2.Event(wall_time=time.time(), **fields)
    self._records.write(event.SerializeToString())
    self._records.flush()
