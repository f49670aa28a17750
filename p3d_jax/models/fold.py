"""Batch norm folded into the convolutions: a network for inference alone.

A batch norm with moving statistics is a multiply and an add a channel, and the
multiply can be done once, to the kernel:

    gain = scale * rsqrt(var + epsilon)
    conv(x, kernel) * gain + (bias - mean * gain)           BatchNorm
    conv(x, kernel * gain) + (bias - mean * gain)           folded

in this order, gain, kernel and what is added each rounded once an operation, in
float32 at least. What changes is where the products of the convolution are
rounded: before the gain, or after it. So the two networks differ by roundings,
in values and in their derivatives to the clips.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from p3d_jax.models.norm import BatchNorm, gain_and_shift
from p3d_jax.models.p3d import P3D

Array = jax.Array
Path = tuple[str, ...]

_SHOWN = 8  # names in a message

# What a convolution and its batch norm have, by collection.
_CONV: tuple[Path, ...] = (("params", "conv", "kernel"),)
_NORM: tuple[Path, ...] = (
  ("params", "bn", "scale"),
  ("params", "bn", "bias"),
  ("batch_stats", "bn", "mean"),
  ("batch_stats", "bn", "var"),
)


class Shift(nn.Module):
  """What is left of a batch norm that is folded: adds `bias` to the channels.

  The fields are those that a network gives its norms (`P3D.norm`).

  Attributes:
    use_running_average: must be True: there are no statistics to take.
    momentum: not used.
    epsilon: not used; it is in the kernels.
    dtype: of the result; None keeps the type of the input.
  """

  use_running_average: bool = True
  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: Any = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Shifts x (batch, ..., channels).

    Raises:
      ValueError: in training.
    """
    if not self.use_running_average:
      raise ValueError(
        "train is True: batch norm is folded into the convolutions of this "
        "network, which is for inference; train the one that it was made from"
      )
    zeros = nn.initializers.zeros
    bias = self.param("bias", zeros, x.shape[-1:], jnp.float32)
    return (x + bias).astype(self.dtype or x.dtype)


def fold_batch_norm(module: P3D, variables: Any) -> tuple[P3D, Any]:
  """Folds the batch norms of a network into its convolutions.

  What is returned computes the same logits and endpoints, to rounding, with
  one add where a batch norm was. It cannot be trained, nor be kept in a
  checkpoint: fold what you load. `evaluate`, `predict` and `features` do.

  It may be traced (jit, vmap); arrays keep their shapes and places.

  Args:
    module: the network, with this package's `BatchNorm`.
    variables: of it, {"params": ..., "batch_stats": ...}; jax or numpy arrays.

  Returns:
    The network whose norms are `Shift`, and its variables {"params": ...}:
    each `.../conv/kernel` (time, height, width, in, out) times the gain of
    its output channel, each `.../bn/bias` (out,) less the mean times the gain,
    the head as it was; float32, or float64 of a float64 network.

  Raises:
    ValueError: the network has another norm, is folded already, or the
      variables have a convolution without its batch norm or the reverse.
  """
  if not _folds(module):
    raise ValueError(
      f"module.norm is {module.norm!r}: it must be {BatchNorm!r}; another one, "
      "or what is folded already, cannot be folded"
    )
  net, fold = for_inference(module)
  return net, fold(variables)


def for_inference(module: P3D) -> tuple[P3D, Callable[[Any], Any]]:
  """Returns the network that inference runs, and what makes its variables.

  Args:
    module: any network. With an injected norm it is run as it is.

  Returns:
    The network, folded if it can be; and a function of the variables of
    `module` that returns those of the network, as `fold_batch_norm` does.
  """
  if not _folds(module):
    return module, lambda variables: variables
  # How batch norm is trained means nothing here; and a frozen one would pass
  # for inference in training.
  net = module.clone(norm=Shift, freeze_norm="none", norm_group=None)
  return net, functools.partial(_folded, module.norm_epsilon, module.dtype)


def _folds(module: P3D) -> bool:
  """Whether the norm of a network is one whose arithmetic is known here."""
  return module.norm is BatchNorm


def _folded(epsilon: float, dtype: Any, variables: Any) -> Any:
  leaves = traverse_util.flatten_dict(variables)
  units = {p[1:-2] for p in leaves if p[-2:-1] in (("conv",), ("bn",))}
  _check_whole(leaves, units)
  at_least = jnp.promote_types(dtype, jnp.float32)
  for unit in sorted(units):  # a program is the same in all processes
    kernel, scale, bias, mean, var = (
      jnp.asarray(leaves.pop(_path(unit, leaf)), at_least)
      for leaf in _CONV + _NORM
    )
    gain, shift = gain_and_shift(mean, var, scale, bias, epsilon)
    leaves["params", *unit, "conv", "kernel"] = kernel * gain
    leaves["params", *unit, "bn", "bias"] = shift
  return traverse_util.unflatten_dict(leaves)


def _path(unit: Path, leaf: Path) -> Path:
  collection, *names = leaf
  return (collection, *unit, *names)


def _check_whole(leaves: Iterable[Path], units: Iterable[Path]) -> None:
  """Raises a ValueError unless each convolution has its norm, and no more."""
  given = set(leaves)
  expected = {_path(unit, leaf) for unit in units for leaf in _CONV + _NORM}
  # Parameters of neither are the head's, which no norm follows.
  rest = {
    p for p in given if p[0] != "params" or p[-2:-1] in (("conv",), ("bn",))
  }
  missing, unexpected = expected - given, rest - expected
  if missing or unexpected or not units:
    raise ValueError(
      "variables cannot be folded, each convolution must have its batch norm: "
      f"missing {_names(missing)}, unexpected {_names(unexpected)}"
    )


def _names(paths: Iterable[Path]) -> str:
  names = sorted("/".join(path) for path in paths)
  if len(names) > _SHOWN:
    return ", ".join([*names[:_SHOWN], f"... {len(names)} in all"])
  return ", ".join(names) or "none"
