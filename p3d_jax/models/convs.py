"""The three convolutions of a Pseudo-3D network, and how to compute them.

The maths stands once, in `conv`: a convolution over (time, height, width) with
explicit padding and no bias. How it is computed is chosen by platform, because
the choice is worth a factor of two either way and, for one gradient, of eighty:

* `direct` is XLA's own 3D convolution, the form for GPUs.
* `lanes` is the form for TPUs: direct convolutions too, but a network puts two
  steps of its narrow layers beside each other (lanes.py) and takes statistics
  of what is expanded before it is (`norm.product_moments`). A training step of
  P3D-63 then moves 0.38 of plain flax's bytes (v5e, by its compiler).
* `folded` is 2D convolutions, the form for CPUs: 1x3x3 is one of (height,
  width) planes, 3x1x1 one of (time, pixels) planes, 3x3x3 three of them added,
  and 1x1x1 a matrix product. XLA's CPU backend computes the filter gradient of
  a 3D convolution naively: the stem's takes 23 s for two clips of 16x160x160,
  folded 0.1 s (two cores).

The forms agree in values and in all derivatives (tests/models/test_convs.py,
test_lanes.py); none has a custom gradient, so jvp, vjp and vmap all work.
`python -m experiments.benchmarks.convs` measures them; `compiler_options` has
XLA compute the planes as fast as it can.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxlib
from jax import lax

from p3d_jax.models import lanes

Array = jax.Array
Initializer = Callable[..., Any]
Form = Literal["direct", "folded", "lanes"]
Triple = tuple[int, int, int]

_LAYOUT = ("NDHWC", "DHWIO", "NDHWC")
_PLANES = ("NHWC", "HWIO", "NHWC")

# Numbers of a kernel to one of a plane, above which `_patches` is faster: at
# 160 pixels res5 has 184 and res4 23, res3 has 3.
_FEW_PIXELS = 16

# He et al. 2015, as in the ResNets; fan-out counts the taps of the kernel.
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


FORMS = ("direct", "folded", "lanes")
_forced: contextvars.ContextVar[Form | None] = contextvars.ContextVar(
  "form of convolutions", default=None
)


_FORM_OF: dict[str, Form] = {"cpu": "folded", "tpu": "lanes"}


def form_of(platform: str) -> Form:
  """Returns the fastest form on a platform ("cpu", "gpu", "tpu")."""
  return _FORM_OF.get(platform, "direct")


def default_form() -> Form:
  """Returns the form of convolutions for which none is named.

  It is the fastest one on the platform that jax computes on by default, unless
  `forced` names another. A computation that is put elsewhere
  (`jax.default_device`) takes it too.
  """
  return _forced.get() or form_of(jax.default_backend())


# jaxlib 0.10 gives 2D convolutions on CPUs to YNNPACK by default, which takes
# 1.2 to 3.7 times as long for these networks' as Eigen, the way before it; the
# matrix products and sums that it gets as well stay with it. The option is on
# trial there: another jaxlib may not know it, and refuse to compile.
_OPTIONS_OF = "0.10."
_OPTIONS: dict[str, dict[str, str]] = {
  "cpu": {
    "xla_cpu_experimental_ynn_fusion_type": (
      "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    )
  }
}


def compiler_options(platform: str | None = None) -> dict[str, str]:
  """Returns the compiler's options that make these networks fastest.

      forward = jax.jit(module.apply, compiler_options=compiler_options())

  They choose how XLA computes convolutions; results differ by the rounding of
  float32. All of this package's own steps are compiled with them. jax takes
  options of the outermost jit alone, and refuses them inside another.

  Args:
    platform: "cpu", "gpu" or "tpu"; None takes jax's default.

  Returns:
    Names and values; none where there is nothing to gain, or the jaxlib is
    another than they were measured with.
  """
  if not jaxlib.__version__.startswith(_OPTIONS_OF):
    return {}
  return dict(_OPTIONS.get(platform or jax.default_backend(), {}))


@contextlib.contextmanager
def forced(form: Form) -> Iterator[None]:
  """Has networks that are traced meanwhile take a form.

  It is for programs that another platform will run. What jax has traced before
  stays as it was: trace a function of your own.

  Args:
    form: a row of FORMS.

  Raises:
    ValueError: if it is no form.
  """
  _check_form(form)
  token = _forced.set(form)
  try:
    yield
  finally:
    _forced.reset(token)


def _check_form(form: str) -> None:
  if form not in FORMS:
    raise ValueError(f"form is {form!r}: it must be one of {', '.join(FORMS)}")


def conv(
  x: Array,
  kernel: Array,
  strides: Triple = (1, 1, 1),
  padding: Triple = (0, 0, 0),
  *,
  precision: Any = None,
  form: Form | None = None,
) -> Array:
  """Convolves clips with a kernel, zero-padded by the same amount on both ends.

  Args:
    x: (batch, time, height, width, in).
    kernel: (time, height, width, in, out), in taps.
    strides: (time, height, width), in steps and pixels.
    padding: (time, height, width), in steps and pixels, at each end.
    precision: of the products, as in `jax.lax.Precision`.
    form: "folded" or another, which is direct; None takes the platform's
      `default_form`.

  Returns:
    (batch, time', height', width', out).

  Raises:
    ValueError: if `form` is not a form, or the kernel does not fit the clips.
  """
  form = form or default_form()
  _check_form(form)
  if x.ndim != 5 or kernel.ndim != 5 or x.shape[-1] != kernel.shape[-2]:
    raise ValueError(
      f"clips {x.shape} and kernel {kernel.shape} do not fit: they must be "
      "(batch, time, height, width, in) and (time, height, width, in, out)"
    )
  if form == "folded":
    return _folded(x, kernel, strides, padding, precision)
  return lax.conv_general_dilated(
    x,
    kernel,
    strides,
    [(p, p) for p in padding],
    dimension_numbers=_LAYOUT,
    precision=precision,
  )


def _folded(
  x: Array, kernel: Array, strides: Triple, padding: Triple, precision: Any
) -> Array:
  """`conv` as convolutions of planes, or as one matrix product."""
  kernel, pads = _seen(x.shape[1:4], kernel, strides, padding)
  if kernel.shape[:3] == (1, 1, 1) and not any(sum(pads, ())):
    return _product(x, kernel, strides, precision)
  if kernel.shape[1:3] == (1, 1) and not any(sum(pads[1:], ())):
    # Planes of (time, pixels): each pixel alone.
    x = x[:, :, :: strides[1], :: strides[2]]
    batch, time, height, width, channels = x.shape
    planes = x.reshape(batch, time, height * width, channels)
    y = _planes(planes, kernel[:, 0], (strides[0], 1), pads[:2], precision)
    return y.reshape(batch, y.shape[1], height, width, y.shape[-1])
  # Planes of (height, width), those of a temporal tap at once.
  if any(pads[0]):
    x = jnp.pad(x, ((0, 0), pads[0], (0, 0), (0, 0), (0, 0)))
  steps = (x.shape[1] - len(kernel)) // strides[0] + 1
  span = (steps - 1) * strides[0] + 1
  terms = []
  for tap, spatial in enumerate(kernel):
    seen = lax.slice_in_dim(x, tap, tap + span, strides[0], axis=1)
    planes = seen.reshape(-1, *x.shape[2:])
    terms.append(_planes(planes, spatial, strides[1:], pads[1:], precision))
  y = functools.reduce(jnp.add, terms)
  return y.reshape(-1, steps, *y.shape[1:])


def _seen(
  sizes: Sequence[int], kernel: Array, strides: Triple, padding: Triple
) -> tuple[Array, list[tuple[int, int]]]:
  """Cuts off the taps that see nothing but padding, as of a single step.

  Returns:
    The kernel, and the padding that is left, low and high, of each axis.
  """
  cuts, pads = [], []
  for size, taps, stride, pad in zip(
    sizes, kernel.shape, strides, padding, strict=False
  ):
    out = (size + 2 * pad - taps) // stride + 1
    low = min(max(pad - (out - 1) * stride, 0), taps - 1)
    high = max(min(taps, size + pad), low + 1)
    cuts.append(slice(low, high))
    # Of what the last window sees, not more: no padding stays behind it.
    end = (out - 1) * stride + high - low - (pad - low)
    pads.append((pad - low, max(end - size, 0)))
  return kernel[tuple(cuts)], pads


def _product(x: Array, kernel: Array, strides: Triple, precision: Any) -> Array:
  """1x1x1: one matrix product."""
  x = x[:, :: strides[0], :: strides[1], :: strides[2]]
  # Two axes, not five: XLA's CPU backend then computes the filter gradient as
  # a plain matrix product too, three times as fast.
  rows = x.reshape(-1, x.shape[-1])
  y = jnp.dot(rows, kernel[0, 0, 0], precision=precision)
  return y.reshape(*x.shape[:-1], -1)


def _planes(
  x: Array,
  kernel: Array,
  strides: tuple[int, int],
  pads: Sequence[tuple[int, int]],
  precision: Any,
) -> Array:
  """Convolves (planes, rows, columns, in) with (rows, columns, in, out)."""
  # Whatever the batch, which may be open in an export.
  if kernel.size > _FEW_PIXELS * math.prod(x.shape[1:]):
    return _patches(x, kernel, strides, pads, precision)
  return lax.conv_general_dilated(
    x, kernel, strides, pads, dimension_numbers=_PLANES, precision=precision
  )


def _patches(
  x: Array,
  kernel: Array,
  strides: tuple[int, int],
  pads: Sequence[tuple[int, int]],
  precision: Any,
) -> Array:
  """`_planes` as one matrix product with what each window sees.

  For few pixels and many channels, as in res5: the gradient to the input is a
  convolution with the kernel turned around, and to turn it takes XLA three
  times as long as to convolve.
  """
  rows, columns, _, features = kernel.shape
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  height = (x.shape[1] - rows) // strides[0] + 1
  width = (x.shape[2] - columns) // strides[1] + 1
  down, right = (height - 1) * strides[0] + 1, (width - 1) * strides[1] + 1
  seen = [
    x[:, i : i + down : strides[0], j : j + right : strides[1]]
    for i in range(rows)
    for j in range(columns)
  ]
  patches = jnp.concatenate(seen, axis=-1).reshape(-1, kernel[..., 0].size)
  y = jnp.dot(patches, kernel.reshape(-1, features), precision=precision)
  return y.reshape(-1, height, width, features)


class Conv(nn.Module):
  """A bias-free convolution of clips with one `kernel`, 5-D.

  Clips (batch, time, height, width, in) give (batch, time', height', width',
  features). The padding is (taps - 1) / 2 on both ends of each axis, so stride
  1 keeps the size and stride 2 gives ceil(size / 2).

  Attributes:
    features: number of output channels.
    taps: (time, height, width) of the kernel, odd numbers.
    strides: (time, height, width), in steps and pixels.
    kernel_init: initialiser of the kernel (time, height, width, in, out).
    dtype: of the computation; None takes the promoted type of the inputs.
    param_dtype: of the kernel.
    precision: of the products, as in `jax.lax.Precision`.
    steps: that stand beside each other in the channels, see lanes.py.
  """

  features: int
  taps: Sequence[int]
  strides: Sequence[int] = (1, 1, 1)
  kernel_init: Initializer = he_normal
  dtype: Any = None
  param_dtype: Any = jnp.float32
  precision: Any = None
  steps: int = 1

  def __call__(self, x: Array) -> Array:
    """Returns the clips, convolved."""
    return self.convolved(x, self.weights(x.shape[-1] // self.steps))

  @nn.compact
  def weights(self, channels: int) -> Array:
    """Returns the kernel (time, height, width, channels, features)."""
    shape = (*self.taps, channels, self.features)
    return self.param("kernel", self.kernel_init, shape, self.param_dtype)

  def convolved(self, x: Array, kernel: Array) -> Array:
    """Returns the clips, convolved with a kernel of this one's shape."""
    x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
    strides: Triple = tuple(self.strides)  # type: ignore[assignment]
    time, height, width = self.taps
    if self.steps > 1:
      if strides[0] != 1:
        raise ValueError(
          f"strides are {strides}: with {self.steps} steps beside each other "
          "that of time must be 1"
        )
      kernel = lanes.fold_kernel(kernel)
    return conv(
      x,
      kernel,
      strides,
      (time // 2, height // 2, width // 2),
      precision=self.precision,
    )


class SpatialConv(Conv):
  """1x3x3: each frame alone; S of the paper."""

  taps: Sequence[int] = (1, 3, 3)


class TemporalConv(Conv):
  """3x1x1: each pixel alone, along time; T of the paper."""

  taps: Sequence[int] = (3, 1, 1)


class PointConv(Conv):
  """1x1x1: a linear map of the channels, at each pixel of each step."""

  taps: Sequence[int] = (1, 1, 1)


class FullConv(Conv):
  """3x3x3: space and time at once, what the paper factorises."""

  taps: Sequence[int] = (3, 3, 3)
