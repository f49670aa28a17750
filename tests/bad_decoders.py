"""Decoders that do what broken ones do; a guarded process imports them."""

import ctypes
import os
import time

from p3d_jax.data.decode import Video


class SometimesNoVideo(Video):
  """Does what the bytes say, and otherwise decodes them."""

  def __init__(self, source: bytes):
    if source == b"hang":
      while True:
        time.sleep(1)
    if source == b"crash":
      ctypes.string_at(0)
    if source == b"exit":
      os._exit(7)
    super().__init__(source)
