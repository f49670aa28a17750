"""One step of training and one of evaluation: pure functions, and their jit.

    train_step(recipe, state, batch) -> (state, metrics)
    eval_step(module, preprocessing, scores, variables, clips) -> scores

Clips cross to the device as uint8 and are normalised there. Dropout draws from
(seed, step), so a step is a function of its state and its batch alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from p3d_jax.checkpoint import tree
from p3d_jax.models.p3d import P3D
from p3d_jax.preprocess import Preprocessing
from p3d_jax.train import sharding
from p3d_jax.train.state import TrainState

Array = jax.Array
Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What a training step needs besides its state and its batch.

  Attributes:
    module: the network.
    tx: the optimiser.
    preprocessing: how pixels are normalised.
    loss: "softmax" or "sigmoid".
    label_smoothing: share of the target spread over all classes.
    accumulate: parts that the batch is computed in, one after the other.
    ema: decay of the averaged parameters; 0 keeps none.
    seed: of dropout.
    frozen: names of parameters that do not learn; their gradients are not in
      the norm that is reported, and so need not be computed.
  """

  module: P3D
  tx: optax.GradientTransformation
  preprocessing: Preprocessing
  loss: str = "softmax"
  label_smoothing: float = 0.0
  accumulate: int = 1
  ema: float = 0.0
  seed: int = 0
  frozen: frozenset[str] = frozenset()


def multi_hot(labels: Array, num_classes: int) -> Array:
  """Maps labels (rows, max labels), padded with -1, to (rows, classes) of 0, 1.

  one_hot of -1 is all zero, so padding adds nothing.
  """
  return jax.nn.one_hot(labels, num_classes).max(axis=1)


def loss_of(
  logits: Array, labels: Array, kind: str, label_smoothing: float
) -> Array:
  """Returns the loss of each clip (rows,).

  Args:
    logits: (rows, classes).
    labels: (rows, max labels), padded with -1.
    kind: "softmax": cross-entropy against the mean of the labels' one-hots;
      "sigmoid": binary cross-entropies of all classes, added.
    label_smoothing: share of the target spread evenly: over the classes for
      softmax, over yes and no for sigmoid.
  """
  classes = logits.shape[-1]
  target = multi_hot(labels, classes)
  if kind == "softmax":
    target /= jnp.maximum(target.sum(-1, keepdims=True), 1)
    target = optax.smooth_labels(target, label_smoothing)
    return optax.softmax_cross_entropy(logits, target)
  target = target * (1 - label_smoothing) + label_smoothing / 2
  return optax.sigmoid_binary_cross_entropy(logits, target).sum(-1)


def train_step(
  recipe: Recipe, state: TrainState, batch: Batch
) -> tuple[TrainState, dict[str, Array]]:
  """Takes one step.

  Args:
    recipe: what stays the same.
    state: before the step.
    batch: "clips" uint8 (rows, time, height, width, channels), "labels" int32
      (rows, max labels) padded with -1.

  Returns:
    The state after the step, and its "loss", "accuracy" (share of clips whose
    highest logit is one of their labels) and "gradient_norm".
  """
  key = jax.random.fold_in(jax.random.key(recipe.seed), state.step)
  clips, labels = batch["clips"], batch["labels"]
  if recipe.accumulate == 1:
    grads, (stats, metrics) = _gradients(
      recipe, state.params, state.batch_stats, clips, labels, key
    )
  else:
    grads, stats, metrics = _accumulated(recipe, state, clips, labels, key)
  updates, opt_state = recipe.tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  learning = [
    leaf
    for name, leaf in tree.flatten(grads).items()
    if name not in recipe.frozen
  ]
  metrics["gradient_norm"] = optax.tree.norm(learning)
  ema = state.ema
  if recipe.ema:
    ema = optax.incremental_update(params, ema, 1 - recipe.ema)
  state = state.replace(
    step=state.step + 1,
    params=params,
    batch_stats=stats,
    opt_state=opt_state,
    ema=ema,
  )
  return state, metrics


def _gradients(
  recipe: Recipe, params: Any, stats: Any, clips: Array, labels: Array, key: Any
) -> tuple[Any, tuple[Any, dict[str, Array]]]:
  def loss_fn(params: Any) -> tuple[Array, tuple[Any, dict[str, Array]]]:
    logits, mutated = recipe.module.apply(
      {"params": params, "batch_stats": stats},
      recipe.preprocessing.normalize(clips),
      train=True,
      mutable=["batch_stats"],
      rngs={"dropout": key},
    )
    loss = loss_of(logits, labels, recipe.loss, recipe.label_smoothing).mean()
    best = logits.argmax(-1)[:, None]
    hit = (best == labels).any(-1).mean()
    kept = mutated.get("batch_stats", stats)
    return loss, (kept, {"loss": loss, "accuracy": hit})

  return jax.grad(loss_fn, has_aux=True)(params)


def _accumulated(
  recipe: Recipe, state: TrainState, clips: Array, labels: Array, key: Any
) -> tuple[Any, Any, dict[str, Array]]:
  """Gradients as the mean over parts; batch statistics go from one to the next.

  Live batch norm sees one part at a time, as it would see one ghost group.
  """
  parts = sharding.split((clips, labels), recipe.accumulate)
  keys = jax.random.split(key, recipe.accumulate)

  def body(carry: Any, part: Any) -> tuple[Any, dict[str, Array]]:
    total, stats = carry
    (clips, labels), key = part
    grads, (stats, metrics) = _gradients(
      recipe, state.params, stats, clips, labels, key
    )
    return (jax.tree.map(jnp.add, total, grads), stats), metrics

  zeros = jax.tree.map(jnp.zeros_like, state.params)
  (total, stats), metrics = jax.lax.scan(
    body, (zeros, state.batch_stats), (parts, keys)
  )
  grads = jax.tree.map(lambda g: g / recipe.accumulate, total)
  return grads, stats, jax.tree.map(jnp.mean, metrics)


def eval_step(
  module: P3D,
  preprocessing: Preprocessing,
  scores: str,
  variables: Any,
  clips: Array,
) -> Array:
  """Scores the clips of some videos.

  Args:
    module: the network.
    preprocessing: how pixels are normalised.
    scores: "softmax" or "sigmoid".
    variables: of the network.
    clips: uint8 (videos, clips, time, height, width, channels).

  Returns:
    (videos, clips, classes), each in 0..1.
  """
  flat = preprocessing.normalize(clips.reshape(-1, *clips.shape[2:]))
  logits: Any = module.apply(variables, flat)
  turn = jax.nn.softmax if scores == "softmax" else jax.nn.sigmoid
  return turn(logits).reshape(*clips.shape[:2], -1)


def jit_train_step(
  recipe: Recipe, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
  """Compiles `train_step` over a mesh; the old state's memory is taken."""
  whole, rows = sharding.replicated(mesh), sharding.batched(mesh)
  return jax.jit(
    functools.partial(train_step, recipe),
    in_shardings=(whole, rows),
    out_shardings=(whole, whole),
    donate_argnums=0,
  )


def jit_eval_step(
  module: P3D, preprocessing: Preprocessing, scores: str, mesh: Mesh
) -> Callable[[Any, Array], Array]:
  """Compiles `eval_step` over a mesh: videos are split, scores are not."""
  whole, rows = sharding.replicated(mesh), sharding.batched(mesh)
  return jax.jit(
    functools.partial(eval_step, module, preprocessing, scores),
    in_shardings=(whole, rows),
    out_shardings=whole,
  )
