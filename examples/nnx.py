"""The networks from Flax NNX: `ToNNX` wraps a linen module, here a P3D.

Parameters, batch statistics and dropout become NNX state; nothing of the
network is written twice.

    python examples/nnx.py
"""

import jax
import jax.numpy as jnp
from flax import nnx

from p3d_jax.models.zoo import build

# One block a stage and 8 channels, to be quick; build("p3d63", ...) is the
# same to everything below.
network = build(num_classes=5, stages=(1, 1, 1, 1), width=8, dropout=0.5)
clips = jax.random.normal(jax.random.key(0), (4, 5, 64, 64, 3))

# `lazy_init` runs the linen module's init on the clips. "params" seeds that,
# "dropout" is drawn from at every training call.
rngs = nnx.Rngs(params=0, dropout=1)
model = nnx.bridge.lazy_init(nnx.bridge.ToNNX(network, rngs), clips)

# Evaluation: moving statistics, no dropout.
logits = model(clips)

# NNX keeps the two collections as types of variables, at the same paths.
params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
statistics = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


@nnx.jit
def train_loss(model: nnx.Module, clips: jax.Array) -> jax.Array:
  """Cross entropy of class 0, with live batch norm and dropout.

  `mutable` lets the call write the batch statistics back into the model.
  """
  logits = model(clips, train=True, mutable=["batch_stats"])
  return -jax.nn.log_softmax(logits)[:, 0].mean()


# Gradients are to the parameters; the statistics move by themselves.
before = jax.tree.map(jnp.copy, statistics)
losses = [float(train_loss(model, clips)) for _ in range(2)]
gradients = nnx.jit(nnx.grad(train_loss))(model, clips)
statistics = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

if __name__ == "__main__":
  print("logits", logits.shape)
  print("two draws of dropout, losses:", losses)
  norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradients)))
  print(f"norm of the gradient: {norm:.3f}")
