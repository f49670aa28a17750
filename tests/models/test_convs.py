"""The forms of the convolutions against PyTorch in float64.

TOLERANCE is relative to the largest number of each array: a sum of 27 * 8
products, or of a few hundred pixels for the filter's gradient, in float32. The
worst measured is 6e-7.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p3d_jax.models import convs

torch = pytest.importorskip("torch", reason="the reference runs on PyTorch")

TOLERANCE = 2e-6

# Name -> taps, strides, in, out: every kind of convolution of the networks.
KINDS = {
  "stem": ((1, 7, 7), (1, 2, 2), 3, 8),
  "stem of flow": ((1, 7, 7), (1, 2, 2), 2, 8),
  "spatial": ((1, 3, 3), (1, 1, 1), 8, 4),
  "spatial, strided": ((1, 3, 3), (1, 2, 2), 8, 4),
  "few pixels": ((1, 3, 3), (1, 1, 1), 2, 40),
  "few pixels, strided": ((1, 3, 3), (1, 2, 2), 2, 40),
  "temporal": ((3, 1, 1), (1, 1, 1), 8, 4),
  "temporal, strided": ((3, 1, 1), (1, 2, 2), 8, 4),
  "point": ((1, 1, 1), (1, 1, 1), 8, 4),
  "point, strided": ((1, 1, 1), (1, 2, 2), 8, 4),
  "full": ((3, 3, 3), (1, 1, 1), 8, 4),
  "full, strided": ((3, 3, 3), (1, 2, 2), 8, 4),
  # Not in a network of the zoo, but the function takes it.
  "full, strided in time": ((3, 3, 3), (2, 2, 2), 8, 4),
}
# Time, height, width: odd and even, a single step, smaller than the kernel.
SIZES = [(4, 8, 6), (5, 9, 7), (1, 3, 2)]
# Name -> form and compiler's options: the networks' own, and jax's default.
WAYS = {
  "folded": ("folded", convs.compiler_options()),
  "folded, jax's options": ("folded", {}),
  "direct": ("direct", {}),
  "lanes": ("lanes", {}),
}


def padding_of(taps):
  return tuple(n // 2 for n in taps)


def draw(kind, size, seed=0):
  taps, _, channels, features = KINDS[kind]
  rng = np.random.default_rng(seed)
  x = rng.standard_normal((2, *size, channels)).astype(np.float32)
  kernel = rng.standard_normal((*taps, channels, features)).astype(np.float32)
  return x, kernel


def plain(kind, way):
  taps, strides, _, _ = KINDS[kind]
  pad = padding_of(taps)
  form, _ = WAYS[way]

  def run(x, kernel):
    return convs.conv(x, kernel, strides, pad, precision="highest", form=form)

  return run


def jit(function, way):
  """Only the outermost jit takes options."""
  return jax.jit(function, compiler_options=WAYS[way][1])


def call(kind, way):
  return jit(plain(kind, way), way)


def torch_conv(kind, x, kernel):
  """The same in PyTorch; tensors in our layout, float64."""
  taps, strides, _, _ = KINDS[kind]
  y = torch.nn.functional.conv3d(
    x.permute(0, 4, 1, 2, 3),
    kernel.permute(4, 3, 0, 1, 2),
    stride=strides,
    padding=padding_of(taps),
  )
  return y.permute(0, 2, 3, 4, 1)


def tensors(*arrays):
  return [torch.tensor(a, dtype=torch.float64) for a in arrays]


def assert_close(found, expected, tolerance=TOLERANCE):
  expected = np.asarray(expected, np.float64)
  assert found.shape == expected.shape
  scale = np.abs(expected).max()
  error = np.abs(np.asarray(found, np.float64) - expected).max()
  assert error <= tolerance * scale, error / scale


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_values(kind, size, way):
  x, kernel = draw(kind, size)
  expected = torch_conv(kind, *tensors(x, kernel))
  assert_close(call(kind, way)(x, kernel), expected)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES[1:], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_both_gradients(kind, size, way):
  """Reverse mode, to the clips and to the kernel."""
  x, kernel = draw(kind, size)
  leaves = [t.requires_grad_() for t in tensors(x, kernel)]
  expected = torch_conv(kind, *leaves)
  cotangent = np.random.default_rng(2).standard_normal(expected.shape)
  cotangent = cotangent.astype(np.float32)
  expected.backward(torch.tensor(cotangent, dtype=torch.float64))

  def gradients(x, kernel, cotangent):
    return jax.vjp(plain(kind, way), x, kernel)[1](cotangent)

  both = jit(gradients, way)(x, kernel, cotangent)
  for found, leaf in zip(both, leaves, strict=True):
    assert_close(found, leaf.grad)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES[1:], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_forward_mode(kind, size, way):
  """A convolution is bilinear: jvp is conv(dx, k) + conv(x, dk)."""
  primals, tangents = draw(kind, size), draw(kind, size, seed=3)
  x, kernel, dx, dkernel = tensors(*primals, *tangents)
  expected = torch_conv(kind, dx, kernel) + torch_conv(kind, x, dkernel)
  _, found = jax.jvp(call(kind, way), primals, tangents)
  assert_close(found, expected)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["stem", "temporal", "full"])
def test_vmap_over_clips_and_kernels(kind, way):
  """An ensemble: each member has its own kernel and its own clips."""
  members = [draw(kind, SIZES[1], seed) for seed in range(3)]
  xs, kernels = (np.stack(arrays) for arrays in zip(*members, strict=True))
  found = jax.vmap(call(kind, way))(xs, kernels)
  for i, member in enumerate(members):
    assert_close(found[i], torch_conv(kind, *tensors(*member)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["stem", "temporal", "full"])
def test_bfloat16(kind, way):
  """Of numbers that bfloat16 holds, the result is off by its own rounding.

  Half a unit of the last of 8 bits is 2^-9 = 0.2%; the folded form rounds
  after each of three taps. Measured: 0.4% and 0.4%.
  """
  x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in draw(kind, SIZES[1]))
  found = call(kind, way)(x, kernel)
  assert found.dtype == jnp.bfloat16
  wide = [np.asarray(a, np.float32) for a in (x, kernel)]
  expected = torch_conv(kind, *tensors(*wide))
  assert_close(found.astype(jnp.float32), expected, 1e-2)


def test_cpu_folds():
  """The tests run on CPUs, so the networks' tests are of the folded form."""
  assert convs.default_form() == "folded"
  x, kernel = draw("full", SIZES[0])
  jaxpr = jax.make_jaxpr(lambda x, k: convs.conv(x, k))(x, kernel)
  assert str(jaxpr).count("conv_general_dilated[") == 3


def operations(kind, size):
  """Names of the operations of XLA that a folded convolution is."""
  x, kernel = draw(kind, size)
  taps, strides, _, _ = KINDS[kind]
  jaxpr = jax.make_jaxpr(
    lambda x, k: convs.conv(x, k, strides, padding_of(taps), form="folded")
  )(x, kernel)
  names = [eqn.primitive.name for eqn in jaxpr.eqns]
  return [n for n in names if n in ("conv_general_dilated", "dot_general")]


def test_what_each_kind_is_folded_to():
  """One convolution of planes, or one product; taps of padding are cut off."""
  planes, product = ["conv_general_dilated"], ["dot_general"]
  assert operations("spatial", SIZES[1]) == planes
  assert operations("temporal", SIZES[1]) == planes
  assert operations("point, strided", SIZES[1]) == product
  assert operations("full", SIZES[1]) == 3 * planes
  # A single step: the taps before and after it see padding alone.
  assert operations("temporal", (1, 9, 7)) == product
  assert operations("full", (1, 9, 7)) == planes
  # Far fewer numbers in a plane than in the kernel, as in res5.
  assert operations("few pixels", (2, 2, 1)) == product


def test_the_options_take_convolutions_from_ynnpack():
  """They reach the compiler, which still knows them."""
  x = jax.ShapeDtypeStruct((2, 8, 40, 40, 64), jnp.float32)
  kernel = jax.ShapeDtypeStruct((1, 3, 3, 64, 64), jnp.float32)

  def compiled(options):
    run = jax.jit(
      lambda x, k: convs.conv(x, k, padding=(0, 1, 1), form="folded"),
      compiler_options=options,
    )
    return run.lower(x, kernel).compile().as_text()

  assert convs.compiler_options("tpu") == convs.compiler_options("gpu") == {}
  ours = compiled(convs.compiler_options("cpu"))
  assert "convolution(" in ours
  assert "__ynn_fusion" not in ours
  # With jax's own options it has them; if no longer, ours are to be measured.
  assert "__ynn_fusion" in compiled({})


def convolutions(form=None):
  """How many convolutions of XLA a traced 3x3x3 one is."""
  x, kernel = draw("full", SIZES[0])
  # A function of its own: jax keeps what it has traced.
  jaxpr = jax.make_jaxpr(lambda x, k: convs.conv(x, k, form=form))(x, kernel)
  return str(jaxpr).count("conv_general_dilated[")


def test_a_form_is_forced_for_another_platform():
  """A TPU's program is compiled on a CPU: one convolution, not three."""
  assert convs.form_of("cpu") == "folded"
  assert convs.form_of("gpu") == "direct"
  assert convs.form_of("tpu") == "lanes"
  with convs.forced("direct"):
    assert convs.default_form() == "direct"
    assert convolutions() == 1
    assert convolutions("folded") == 3  # what is named wins
    with convs.forced("folded"):
      assert convolutions() == 3
    assert convolutions() == 1
  assert convolutions() == 3


def test_a_forced_form_ends_with_an_error():
  with pytest.raises(KeyError), convs.forced("direct"):
    raise KeyError
  assert convs.default_form() == "folded"
  with (
    pytest.raises(ValueError, match="form is 'fast'.*direct, folded, lanes"),
    convs.forced("fast"),
  ):
    pass


@pytest.mark.parametrize(
  ("conv", "taps"),
  [
    (convs.SpatialConv, (1, 3, 3)),
    (convs.TemporalConv, (3, 1, 1)),
    (convs.PointConv, (1, 1, 1)),
    (convs.FullConv, (3, 3, 3)),
  ],
)
def test_modules_alone(conv, taps):
  """A module is `conv` with its own kernel, padded to keep the size."""
  x, _ = draw("full", SIZES[1])
  module = conv(features=4, precision="highest")
  variables = jax.jit(module.init)(jax.random.key(0), x)
  assert jax.tree.map(jnp.shape, variables) == {
    "params": {"kernel": (*taps, 8, 4)}
  }
  expected = torch.nn.functional.conv3d(
    *(
      t.permute(*axes)
      for t, axes in zip(
        tensors(x, variables["params"]["kernel"]),
        ((0, 4, 1, 2, 3), (4, 3, 0, 1, 2)),
        strict=True,
      )
    ),
    padding=padding_of(taps),
  )
  found = module.apply(variables, x)
  assert found.shape == (*x.shape[:-1], 4)
  assert_close(found, expected.permute(0, 2, 3, 4, 1))


def test_module_types():
  """dtype is that of the computation, param_dtype that of the kernel."""
  x, _ = draw("full", SIZES[0])
  module = convs.FullConv(features=4, dtype=jnp.bfloat16)
  y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
  assert variables["params"]["kernel"].dtype == jnp.float32
  assert y.dtype == jnp.bfloat16
  narrow = convs.FullConv(features=4, param_dtype=jnp.bfloat16)
  variables = jax.eval_shape(narrow.init, jax.random.key(0), x)
  assert variables["params"]["kernel"].dtype == jnp.bfloat16


def test_errors():
  x, kernel = draw("full", SIZES[0])
  with pytest.raises(ValueError, match="form is 'fast'.*direct, folded, lanes"):
    convs.conv(x, kernel, form="fast")
  with pytest.raises(ValueError, match=r"kernel \(3, 3, 3, 8, 4\) do not fit"):
    convs.conv(x[..., :5], kernel)
  with pytest.raises(ValueError, match="do not fit"):
    convs.conv(x[0], kernel)
