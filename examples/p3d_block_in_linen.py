"""Pseudo-3D blocks in a network that is not ours.

`PerFrame` is somebody's small image network, run on every frame of a clip: it
knows nothing about time. Between its two convolutions stands one of our
bottlenecks, with the normalisation of the host network injected, and the clip
is no longer a bag of frames.

    python examples/p3d_block_in_linen.py
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from p3d_jax.models.blocks import Bottleneck, Parts


class PerFrame(nn.Module):
  """A user's own network: clips (batch, time, height, width, 3) to logits.

  Attributes:
    letter: of the block in the middle, 'A', 'B', 'C', 'S' or 'F'; see
      p3d_jax/models/blocks.py.
  """

  letter: str

  @nn.compact
  def __call__(self, clips: jax.Array) -> jax.Array:
    """Returns (batch, 10)."""
    # linen's own convolution folds the leading axes: each frame alone.
    x = nn.Conv(16, (3, 3), strides=(2, 2), use_bias=False, name="first")(clips)
    x = nn.relu(x)
    # The one line of ours. Four times `width` channels come out, so that 4 * 4
    # go in and out and the shortcut is the identity. `Parts` has what all
    # blocks share; this network normalises groups, whatever the batch.
    parts = Parts(norm=lambda name: nn.GroupNorm(num_groups=4, name=name))
    x = Bottleneck(self.letter, width=4, parts=parts, name="p3d")(x)
    x = nn.relu(nn.Conv(32, (3, 3), strides=(2, 2), name="second")(x))
    return nn.Dense(10, name="classes")(x.mean((1, 2, 3)))


def order_matters(letter: str) -> float:
  """Returns how much the logits move when the frames are played backwards."""
  clips = jax.random.normal(jax.random.key(0), (2, 8, 32, 32, 3))
  network = PerFrame(letter)
  variables = network.init(jax.random.key(1), clips)
  forwards = jnp.asarray(network.apply(variables, clips))
  backwards = jnp.asarray(network.apply(variables, clips[:, ::-1]))
  return float(jnp.abs(forwards - backwards).max())


if __name__ == "__main__":
  for letter in "SABC":
    print(f"{letter}: frames reversed move the logits by", end=" ")
    print(f"{order_matters(letter):.1e}")
