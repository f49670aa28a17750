import numpy as np
from video_files import footage

from p3d_jax.data import decode
from p3d_jax.data.encode import encode


def test_encode_is_h264_with_short_groups_and_the_same_every_time() -> None:
  frames = list(footage(0, 24))
  encoded = encode(frames, 25)
  assert encoded == encode(frames, 25)
  video = decode.Video(encoded)
  assert b"avc1" in encoded
  assert [k for k, _ in video._keys] == [0, 8, 16]
  # The brightness; half of the colour's resolution is lost.
  grey = (video.read([5])[0] - frames[5].astype(float)) @ [0.299, 0.587, 0.114]
  assert np.abs(grey).mean() < 3
