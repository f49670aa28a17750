"""The mixers A, B, C (and S, F) side by side, and the bottleneck around them.

A mixer takes the reduced activations x to those the expansion takes; S is a
1x3x3 convolution with batch norm, T a 3x1x1 one:

    A  s = relu(S x)   out = relu(T s)          spatial, then temporal
    B  s = relu(S x)   out = join(s, T x)       both beside each other
    C  s = relu(S x)   out = join(s, T s)       a temporal branch on top
    S  out = relu(S x)                          2D, as in res5
    F  out = relu(bn(3x3x3 x))                  not factorised

`join` is data, a row of RULES: the release, the paper's text and the widely
used PyTorch port all compute another one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from p3d_jax.models import convs, norm

Array = jax.Array
ModuleDef = Callable[..., Any]


class Join(NamedTuple):
  """How a block adds its branches: act(spatial * s + temporal * t).

  Attributes:
    spatial: coefficient of s.
    temporal: coefficient of t.
    relu_temporal: whether t goes through the activation before the sum.
    relu_sum: whether the sum does.
  """

  spatial: float
  temporal: float
  relu_temporal: bool
  relu_sum: bool

  def __call__(self, s: Array, t: Array, activation: Callable) -> Array:
    """Adds s and t, both (batch, time, height, width, channels)."""
    if self.relu_temporal:
      t = activation(t)
    if (self.spatial, self.temporal) != (1.0, 1.0):
      s, t = self.spatial * s, self.temporal * t
    return activation(s + t) if self.relu_sum else s + t


RULES: dict[str, dict[str, Join]] = {
  # The Eltwise layers of the authors' prototxts: coeff 1 1 in B, 0.5 0.5 in C.
  "released": {"B": Join(1, 1, False, True), "C": Join(0.5, 0.5, False, True)},
  # The text of the paper: x + S x + T x in B, x + S x + T S x in C.
  "paper": {"B": Join(1, 1, False, True), "C": Join(1, 1, False, True)},
  # The PyTorch port: relu(t) before the sum, none after it, no 0.5.
  "port": {"B": Join(1, 1, True, False), "C": Join(1, 1, True, False)},
}


def join_of(rule: str, letter: str) -> Join:
  """Returns the row of a rule for block B or C.

  Raises:
    ValueError: if there is no such rule.
  """
  if rule not in RULES:
    raise ValueError(f"rule is {rule!r}: it must be one of {', '.join(RULES)}")
  return RULES[rule][letter]


@dataclasses.dataclass(frozen=True)
class Parts:
  """What all blocks of a network share, injected once at the top.

  Attributes:
    norm: makes a normalisation, called as `norm(name="bn")`.
    activation: elementwise.
    kernel_init: initialiser of all kernels but the temporal ones.
    temporal_init: initialiser of the temporal kernels; None takes the other.
    dtype: of the computation; None takes the promoted type of the inputs.
    precision: of the products, as in `jax.lax.Precision`.
    steps: that stand beside each other in the channels, see lanes.py.
  """

  norm: ModuleDef = norm.BatchNorm
  activation: Callable[[Array], Array] = nn.relu
  kernel_init: convs.Initializer = convs.he_normal
  temporal_init: convs.Initializer | None = None
  dtype: Any = None
  precision: Any = None
  steps: int = 1

  def conv(self, conv: type[convs.Conv], **fields: Any) -> convs.Conv:
    """Makes a convolution named `conv` with the shared settings."""
    init = self.kernel_init
    if conv is convs.TemporalConv and self.temporal_init is not None:
      init = self.temporal_init
    return conv(
      kernel_init=init,
      dtype=self.dtype,
      precision=self.precision,
      steps=self.steps,
      name="conv",
      **fields,
    )


class ConvNorm(nn.Module):
  """A convolution and its normalisation, named `conv` and `bn`.

  Attributes:
    conv: one of SpatialConv, TemporalConv, PointConv, FullConv.
    features: number of output channels.
    stride: of height and width, in pixels.
    parts: what the blocks share.
  """

  conv: type[convs.Conv]
  features: int
  stride: int = 1
  parts: Parts = Parts()

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps (batch, time, height, width, in) to as many steps of `features`."""
    strides = (1, self.stride, self.stride)
    conv = self.parts.conv(self.conv, features=self.features, strides=strides)
    bn = self.parts.norm(name="bn")
    return self._product(conv, bn, x) if self._expands(bn, x) else bn(conv(x))

  def _expands(self, bn: Any, x: Array) -> bool:
    """Whether statistics are cheaper of what is expanded than of the result."""
    size = x.shape[-1] // self.parts.steps
    wider = self.features >= 4 * size and size <= _MOST_EXPANDED
    return (
      convs.default_form() == "lanes"
      and self.conv is convs.PointConv
      and self.stride == 1
      and wider
      and type(bn) is norm.BatchNorm  # what another computes is not known
      and bn.live
      # Each group's gain would need a product of its own: slower.
      and bn.groups(x.shape[0]) == 1
      and _multiplies_exactly(self.parts, x)
    )

  def _product(self, conv: convs.Conv, bn: Any, x: Array) -> Array:
    """The same; the gain is in the kernel, and the wide result is read once."""
    steps, dtype = conv.steps, conv.dtype or x.dtype
    kernel = conv.weights(x.shape[-1] // steps)
    # It is used three times. Converted once, its three gradients are added
    # before they are rounded to the parameter's type.
    kernel = kernel.astype(jnp.promote_types(dtype, jnp.float32))
    mean, moments = norm.product_moments(
      x.astype(dtype), kernel[0, 0, 0], steps, conv.precision
    )
    wide = jax.ShapeDtypeStruct((*x.shape[:-1], steps * self.features), dtype)
    gain, shift = bn.affine(wide, norm.Moments(*(y[None] for y in moments)))
    scaled = kernel * gain[0]
    rounded = scaled.astype(dtype)
    # The mean is that of the product with the rounded kernel.
    lost = (scaled - rounded)[0, 0, 0]
    shift += jnp.dot(mean, lost, precision=jax.lax.Precision.HIGHEST)
    y = conv.convolved(x, rounded) + jnp.tile(shift[0], steps)
    return y.astype(bn.dtype or dtype)


# Channels of what is expanded, up to which a TPU moves fewer bytes with
# statistics from `norm.product_moments`: res2 to res4.
_MOST_EXPANDED = 256


def _multiplies_exactly(parts: Parts, x: Array) -> bool:
  """Whether products are of the numbers themselves.

  By default a TPU multiplies float32 as bfloat16. Statistics must be of what
  comes out, and they are not if they are computed beside it.
  """
  exact = parts.precision in ("highest", jax.lax.Precision.HIGHEST)
  # By jnp.dtype: "float32" and jnp.float32 are the same, and not equal.
  return exact or jnp.dtype(parts.dtype or x.dtype) != jnp.dtype(jnp.float32)


class Mixer(nn.Module):
  """What stands between the reduction and the expansion of a bottleneck.

  Maps (batch, time, height, width, in) to (batch, time, ceil(height / stride),
  ceil(width / stride), width).

  Attributes:
    width: number of output channels.
    stride: of height and width, in pixels.
    join: how B and C add their branches.
    parts: what the blocks share.
  """

  width: int
  stride: int = 1
  join: Join = RULES["released"]["B"]
  parts: Parts = Parts()

  def unit(
    self, conv: type[convs.Conv], name: str, stride: int = 1
  ) -> ConvNorm:
    """A convolution of `width` channels with its normalisation."""
    return ConvNorm(conv, self.width, stride, self.parts, name=name)

  def spatial(self, x: Array) -> Array:
    """Returns relu(S x); it carries the stride in every mixer but F."""
    unit = self.unit(convs.SpatialConv, "spatial", self.stride)
    return self.parts.activation(unit(x))


class MixerA(Mixer):
  """P3D-A: temporal after spatial."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns relu(T relu(S x))."""
    s = self.spatial(x)
    t = self.unit(convs.TemporalConv, "temporal")(s)
    return self.parts.activation(t)


class MixerB(Mixer):
  """P3D-B: temporal beside spatial; T takes the stride too."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns join(relu(S x), T x)."""
    s = self.spatial(x)
    t = self.unit(convs.TemporalConv, "temporal", self.stride)(x)
    return self.join(s, t, self.parts.activation)


class MixerC(Mixer):
  """P3D-C: spatial with a temporal branch on top of it."""

  join: Join = RULES["released"]["C"]

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns join(s, T s) with s = relu(S x)."""
    s = self.spatial(x)
    t = self.unit(convs.TemporalConv, "temporal")(s)
    return self.join(s, t, self.parts.activation)


class MixerS(Mixer):
  """Spatial only: the 2D bottleneck."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns relu(S x)."""
    return self.spatial(x)


class MixerF(Mixer):
  """A full 3x3x3 convolution, what P3D factorises."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns relu(bn(3x3x3 x))."""
    return self.parts.activation(
      self.unit(convs.FullConv, "full", self.stride)(x)
    )


MIXERS: dict[str, type[Mixer]] = {
  "A": MixerA,
  "B": MixerB,
  "C": MixerC,
  "S": MixerS,
  "F": MixerF,
}


class Bottleneck(nn.Module):
  """1x1x1 reduce, a mixer, 1x1x1 expand by four, and the shortcut.

  Maps (batch, time, height, width, in) to (batch, time, ceil(height / stride),
  ceil(width / stride), 4 width). A projection shortcut stands where the shape
  changes.

  Attributes:
    letter: of the mixer, a key of MIXERS.
    width: channels inside.
    stride: of height and width, in pixels.
    rule: a key of RULES, what B and C compute.
    reduce_stride: whether the first 1x1x1 carries the stride (the first ResNet
      and the release) or the 3x3 (torchvision's later variant).
    parts: what the blocks share.
  """

  letter: str
  width: int
  stride: int = 1
  rule: str = "released"
  reduce_stride: bool = True
  parts: Parts = Parts()

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns relu(shortcut x + expand(mix(relu(reduce x)))).

    Raises:
      ValueError: if there is no such letter or rule.
    """
    if self.letter not in MIXERS:
      raise ValueError(
        f"letter is {self.letter!r}: it must be one of {', '.join(MIXERS)}"
      )
    first, second = (self.stride, 1) if self.reduce_stride else (1, self.stride)
    y = self._point("reduce", self.width, first)(x)
    y = self.mixer(second)(self.parts.activation(y))
    y = self._point("expand", 4 * self.width)(y)
    if self.stride != 1 or x.shape[-1] != y.shape[-1]:
      x = self._point("shortcut", 4 * self.width, self.stride)(x)
    return self.parts.activation(x + y)

  def mixer(self, stride: int) -> Mixer:
    """The mixer; its parameters are named as the bottleneck's own."""
    fields: dict[str, Any] = {}
    if self.letter in "BC":
      fields["join"] = join_of(self.rule, self.letter)
    mixer = MIXERS[self.letter](self.width, stride, parts=self.parts, **fields)
    nn.share_scope(self, mixer)
    return mixer

  def _point(self, name: str, features: int, stride: int = 1) -> ConvNorm:
    return ConvNorm(convs.PointConv, features, stride, self.parts, name=name)
