"""Two steps beside each other in the channels: narrow layers on a TPU.

A TPU keeps arrays in rows of 128 lanes, and the channels lie along them: the 64
channels of the stem and of res2 take twice their bytes, the three of a clip
forty times. So on TPUs these layers compute on folded clips,

    folded[:, v, ..., :c] = x[:, 2 v]
    folded[:, v, ..., c:] = x[:, 2 v + 1]

with kernels folded to match. Half of such a kernel is zeros, which a matrix
unit of 128 x 128 multiplies in the time of the 64 x 64 that fill a quarter.
Parameters, statistics and endpoints are those of the network, to rounding
(tests/models/test_lanes.py); what flax captures inside of it stands folded.
`python -m experiments.benchmarks.tpu_bytes` measures what it saves.

It is the form of training, and of inference with batch norms. Networks whose
batch norms are folded into the convolutions (fold.py) are computed directly.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array

STEPS = 2  # beside each other
LANES = 128


def fit(clips: Array, width: int) -> bool:
  """Returns whether pairs of steps fit the lanes, and come out even.

  Args:
    clips: (batch, time, height, width, channels).
    width: channels of conv1.
  """
  _, time, *pixels, _ = clips.shape
  # Pool1 takes two frames, and conv1 is of stride 2.
  even = time % (2 * STEPS) == 0 and all(size % 2 == 0 for size in pixels)
  return even and STEPS * width <= LANES


def unfold(x: Array) -> Array:
  """Returns the clips that stand folded.

  Args:
    x: (batch, time / 2, height, width, 2 channels).

  Returns:
    (batch, time, height, width, channels).
  """
  batch, time, *pixels, channels = x.shape
  x = x.reshape(batch, time, *pixels, STEPS, channels // STEPS)
  return jnp.moveaxis(x, -2, 2).reshape(
    batch, STEPS * time, *pixels, channels // STEPS
  )


def fold_kernel(kernel: Array) -> Array:
  """Returns the kernel that convolves folded clips, with stride 1 in time.

  Args:
    kernel: (time, height, width, in, out), of 1 or 3 steps.

  Returns:
    (time, height, width, 2 in, 2 out). Between the first (i = 0) or second
    (i = 1) step of a pair that is seen and the step j of a pair that comes out,
    d pairs before it, lie 2 d + i - j steps: that tap connects them.
  """
  taps, none = len(kernel), jnp.zeros_like(kernel[0])

  def apart(steps: int) -> Array:
    tap = steps + taps // 2
    return kernel[tap] if 0 <= tap < taps else none

  pairs = range(-(taps // 2), taps // 2 + 1)
  both = range(STEPS)
  return jnp.stack(
    [
      jnp.block([[apart(STEPS * d + i - j) for j in both] for i in both])
      for d in pairs
    ]
  )


def stem_clips(clips: Array) -> tuple[Array, Array]:
  """Lays the 2x2 pixels of a stride, and frames 4 v and 4 v + 2, side by side.

  Args:
    clips: (batch, time, height, width, channels); see `fit`.

  Returns:
    (batch time / 4, 8 channels, height / 2, width / 2) twice: of frames 4 v and
    4 v + 2, and of those that are pooled with them, 4 v + 1 and 4 v + 3. The
    channels are first: so few would fill a tenth of the lanes.
  """
  batch, time, height, width, channels = clips.shape
  x = clips.reshape(batch * (time // 4), STEPS, 2, height, width, channels)
  folded = STEPS * channels

  def corners(x: Array) -> Array:
    x = x.transpose(0, 1, 4, 2, 3).reshape(-1, folded, height, width)
    parts = [x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return jnp.concatenate(parts, axis=1)

  return corners(x[:, :, 0]), corners(x[:, :, 1])


def stem_kernel(kernel: Array) -> Array:
  """Returns the kernel of stride 1 for `stem_clips`.

  Args:
    kernel: (1, 7, 7, in, out), of stride 2 and padding 3.

  Returns:
    (4, 4, 8 in, 2 out), which pads 2 pixels before and 1 behind.
  """
  _, rows, columns, channels, features = kernel.shape
  # Tap k of pixel 2 x + k - 3 is corner (k + 1) % 2 of tap (k + 1) // 2.
  x = jnp.pad(kernel[0], ((1, 0), (1, 0), (0, 0), (0, 0)))
  rows, columns = (rows + 1) // 2, (columns + 1) // 2
  x = x.reshape(rows, 2, columns, 2, channels, features)
  x = x.transpose(0, 2, 1, 3, 4, 5)
  none = jnp.zeros_like(x)
  x = jnp.stack(
    [jnp.concatenate([x, none], -1), jnp.concatenate([none, x], -1)], 4
  )  # rows, columns, corner, corner, frame, in, out
  return x.reshape(rows, columns, 4 * STEPS * channels, STEPS * features)
