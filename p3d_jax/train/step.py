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
from p3d_jax.models import convs
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
    layout: where the arrays inside of a step live; None leaves it to XLA.
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
  layout: sharding.Layout | None = None


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
      (rows, max labels) padded with -1, and counts int32 (rows,) by any name.

  Returns:
    The state after the step, and its "loss", "accuracy" (share of clips whose
    highest logit is one of their labels), "gradient_norm", and the sum of each
    count over the rows of all hosts.
  """
  counts = dict(batch)
  clips, labels = counts.pop("clips"), counts.pop("labels")
  key = jax.random.fold_in(jax.random.key(recipe.seed), state.step)
  params = state.params
  if recipe.layout is not None:
    params = recipe.layout.whole(params)
  compute = _gradients if recipe.accumulate == 1 else _accumulated
  grads, (stats, metrics) = compute(
    recipe, params, state.batch_stats, clips, labels, key
  )
  if recipe.layout is not None:
    grads = recipe.layout.split(grads)
  updates, opt_state = recipe.tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  learning = [
    leaf
    for name, leaf in tree.flatten(grads).items()
    if name not in recipe.frozen
  ]
  metrics["gradient_norm"] = optax.tree.norm(learning)
  metrics |= {name: rows.sum() for name, rows in counts.items()}
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
  recipe: Recipe,
  params: Any,
  stats: Any,
  clips: Array,
  labels: Array,
  key: Any,
  places: tuple[Array, int] | None = None,
) -> tuple[Any, tuple[Any, dict[str, Array]]]:
  module = recipe.module
  part: dict[str, Any] = {} if places is None else {"places": places}
  if recipe.layout is not None:
    module = module.clone(on_stage=recipe.layout.stage)

  def loss_fn(params: Any) -> tuple[Array, tuple[Any, dict[str, Array]]]:
    logits, mutated = module.apply(
      {"params": params, "batch_stats": stats},
      recipe.preprocessing.normalize(clips),
      train=True,
      **part,
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
  recipe: Recipe,
  params: Any,
  stats: Any,
  clips: Array,
  labels: Array,
  key: Any,
) -> tuple[Any, tuple[Any, dict[str, Array]]]:
  """Computes `_gradients` of some parts, one after the other.

  Gradients, moving statistics and metrics are the mean over the parts. With
  frozen batch norm, or statistics over groups of clips, that is what the whole
  batch gives; live batch norm sees one part at a time.
  """
  group = recipe.module.norm_group or 1
  rows = (clips, labels, jnp.arange(len(clips)))
  parts = sharding.split(rows, recipe.accumulate, group)
  if recipe.layout is not None:
    parts = recipe.layout.parts(parts)

  def add(total: Any, part: Any) -> tuple[Any, dict[str, Array]]:
    clips_of, labels_of, places = part
    grads, (new, metrics) = _gradients(
      recipe, params, stats, clips_of, labels_of, key, (places, len(clips))
    )
    # Of the statistics the changes: the mean of frozen ones themselves would be
    # off by a rounding, and step by step they would drift.
    changes = jax.tree.map(jnp.subtract, new, stats)
    return jax.tree.map(jnp.add, total, (grads, changes)), metrics

  zeros = jax.tree.map(jnp.zeros_like, (params, stats))
  total, metrics = jax.lax.scan(add, zeros, parts)
  grads, changes = jax.tree.map(lambda x: x / recipe.accumulate, total)
  new = jax.tree.map(jnp.add, stats, changes)
  return grads, (new, jax.tree.map(jnp.mean, metrics))


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
  recipe: Recipe, state: TrainState
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
  """Compiles `train_step` where a state lives; the old one's memory is taken.

  Args:
    recipe: of the run, with a layout.
    state: arrays, or shapes with shardings; batches are placed by
      `sharding.put`.
  """
  assert recipe.layout is not None
  places = jax.tree.map(lambda x: x.sharding, state)
  whole = sharding.replicated(recipe.layout.mesh)
  return jax.jit(
    functools.partial(train_step, recipe),
    in_shardings=(places, None),
    out_shardings=(places, whole),
    donate_argnums=0,
    compiler_options=options(recipe.layout.mesh),
  )


def jit_eval_step(
  module: P3D, preprocessing: Preprocessing, scores: str, mesh: Mesh
) -> Callable[[Any, Array], Array]:
  """Compiles `eval_step` over a mesh: videos are split, scores are not."""
  whole = sharding.replicated(mesh)
  return jax.jit(
    functools.partial(eval_step, module, preprocessing, scores),
    in_shardings=(whole, None),
    out_shardings=whole,
    compiler_options=options(mesh),
  )


def options(mesh: Mesh) -> dict[str, str]:
  """Returns what a step over a mesh is compiled with."""
  return convs.compiler_options(mesh.devices.flat[0].platform)
