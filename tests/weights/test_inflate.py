"""Inflation against transformers' ResNet, a 2D network that we did not write.

On a clip of one repeated frame an exactly inflated network is the 2D network:
every rule, schedule, depth and place of the stride. TOLERANCE is what rounding
may do: float32 over up to 152 layers against float64. Measured: 4e-7 to 1e-6;
the wrong place of the stride is off by 3e-2 and more.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from p3d_jax.checkpoint import tree
from p3d_jax.models import zoo
from p3d_jax.weights import fill, inflate, source

resnet = pytest.importorskip(
  "tests.reference.resnet", reason="the reference is transformers' ResNet"
)

TOLERANCE = 1e-4
WIDTH, CLASSES = 8, 11
STEPS = 3  # frames: odd, so that temporal pools have a window that hangs over
RULES = ("released", "paper", "port")
# The rule is about B and C; A, S and F are the same network under all three.
JOINED = ("ABC", "B", "C", "CA,FB,SC")
ALONE = ("A", "S", "F")


def images():
  rng = np.random.default_rng(1)
  return rng.standard_normal((2, 3, 49, 40))


def still(pictures):
  """Clips (batch, time, height, width, channels) of one frame each."""
  frames = pictures.transpose(0, 2, 3, 1)[:, None]
  return np.repeat(frames, STEPS, axis=1).astype(np.float32)


def error(ours, reference):
  """max|a - b| / max|b|."""
  ours = np.asarray(ours, np.float64)
  return np.abs(ours - reference).max() / np.abs(reference).max()


@pytest.fixture(
  scope="module",
  params=[
    50,
    pytest.param(101, marks=pytest.mark.slow),
    pytest.param(152, marks=pytest.mark.slow),
  ],
)
def depth(request):
  return request.param


@pytest.fixture(scope="module")
def references(depth, tmp_path_factory):
  """Stride on the 1x1 or not -> (the 2D network, its file, its logits)."""
  found = {}
  for first in (False, True):
    net = resnet.build(
      depth,
      width=WIDTH,
      classes=CLASSES,
      downsample_in_bottleneck=first,
      seed=depth,
    )
    folder = tmp_path_factory.mktemp("resnet")
    resnet.save_transformers(net, folder)
    found[first] = source.read(folder), resnet.logits(net, images())
  return found


def flat_leaves(found, reduce_stride):
  module = fill.network(
    found, flavour="torchvision", schedule="S", reduce_stride=reduce_stride
  )
  variables, _ = fill.fill(found, module)
  return module, tree.flatten(variables)


def logits(module, leaves, clips):
  variables = tree.unflatten({k: jnp.asarray(v) for k, v in leaves.items()})
  return module.clone(precision="highest").apply(variables, clips)


def inflated(module, flat, channels=3, **options):
  made = inflate.inflate(flat, module, channels, **options)
  return {leaf: m.value for leaf, m in made.items()}


@pytest.mark.parametrize("rule", RULES)
def test_a_still_clip_is_the_picture(references, rule):
  errors = []
  for first, (found, expected) in references.items():
    flat_module, flat = flat_leaves(found, first)
    for schedule in JOINED + (ALONE if rule == "released" else ()):
      module = flat_module.clone(schedule=schedule, rule=rule)
      leaves = inflated(module, flat, exact=True)
      errors.append(error(logits(module, leaves, still(images())), expected))
      assert errors[-1] < TOLERANCE, (schedule, first)
  print(f"worst of {len(errors)} networks: {max(errors):.1e}")


def test_the_place_of_the_stride_matters(references):
  found, expected = references[True]
  module, flat = flat_leaves(found, False)
  assert error(logits(module, flat, still(images())[:, :1]), expected) > 3e-2


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory):
  """A slim ResNet-50 of schedule S and its leaves."""
  folder = tmp_path_factory.mktemp("resnet50")
  net = resnet.build(50, width=WIDTH, classes=CLASSES)
  resnet.save_transformers(net, folder)
  return flat_leaves(source.read(folder), False)


def test_random_filters_are_small_and_their_own(resnet50):
  flat_module, flat = resnet50
  module = flat_module.clone(schedule="ABC")
  made = inflate.inflate(flat, module, 3, temporal_std=0.02, seed=7)
  kernels = {
    leaf: m.value
    for leaf, m in made.items()
    if leaf.endswith("temporal/conv/kernel")
  }
  assert len(kernels) == 3 + 4 + 6
  drawn = np.concatenate([k.ravel() for k in kernels.values()])
  # 65,000 draws: mean and deviation are within five of their own deviations.
  assert abs(drawn.mean()) < 5 * 0.02 / np.sqrt(drawn.size)
  assert abs(drawn.std() / 0.02 - 1) < 5 / np.sqrt(2 * drawn.size)
  assert len(np.unique(drawn)) > 0.99 * drawn.size  # no two kernels alike
  for leaf, m in made.items():
    assert bool(m.fresh) == ("/temporal/" in leaf)
    if not m.fresh:
      np.testing.assert_array_equal(m.value, flat[leaf])
  # A draw is a function of the seed and of the leaf's own name.
  other = inflated(module.clone(schedule="A"), flat, temporal_std=0.02, seed=7)
  for leaf, kernel in kernels.items():
    np.testing.assert_array_equal(kernel, other[leaf])
  third = inflated(module, flat, temporal_std=0.02, seed=8)
  assert not any(np.array_equal(k, third[leaf]) for leaf, k in kernels.items())


def test_full_kernels_hold_the_picture_filters_in_their_middle(resnet50):
  flat_module, flat = resnet50
  module = flat_module.clone(schedule="F")
  made = inflated(module, flat, temporal_std=0.02)
  for leaf, kernel in made.items():
    if leaf.endswith("full/conv/kernel"):
      flat_kernel = flat[leaf.replace("full", "spatial")]
      np.testing.assert_array_equal(kernel[1], flat_kernel[0])
      outer = np.concatenate([kernel[0].ravel(), kernel[2].ravel()])
      assert 0.015 < outer.std() < 0.025


def test_flow_reads_grey(resnet50):
  """Flow of (1.5 g, 1.5 g) meets conv1 as the grey picture (g, g, g) does."""
  flat_module, flat = resnet50
  module = flat_module.clone(schedule="ABC")
  grey = still(images()[:, :1])
  rgb = logits(module, inflated(module, flat, exact=True), grey.repeat(3, -1))
  leaves = inflated(module, flat, channels=2, exact=True)
  flow = logits(module, leaves, 1.5 * grey.repeat(2, -1))
  # The mean over three inputs is rounded to float32 once.
  assert error(flow, np.asarray(rgb, np.float64)) < 1e-5


def test_a_head_is_kept_or_drawn(resnet50):
  flat_module, flat = resnet50
  headless = {k: v for k, v in flat.items() if "/head/" not in k}
  module = flat_module.clone(num_classes=400)
  made = inflate.inflate(headless, module, 3)
  kernel, bias = (made[f"params/head/fc/{k}"] for k in ("kernel", "bias"))
  assert kernel.value.shape == (32 * WIDTH, 400)
  assert kernel.fresh
  deviation = 1 / np.sqrt(32 * WIDTH)
  assert abs(kernel.value.std() / deviation - 1) < 0.05
  assert not bias.value.any()
  kept = inflate.inflate(flat, flat_module, 3)["params/head/fc/kernel"]
  np.testing.assert_array_equal(kept.value, flat["params/head/fc/kernel"])


def test_another_depth_is_refused(resnet50):
  flat_module, flat = resnet50
  with pytest.raises(ValueError, match="res3/block03.* have no place"):
    inflate.inflate(flat, flat_module.clone(stages=(3, 3, 6, 3)), 3)
  with pytest.raises(ValueError, match="res3/block04/.*has no source"):
    inflate.inflate(flat, flat_module.clone(stages=(3, 5, 6, 3)), 3)
  with pytest.raises(ValueError, match="is .* in 2D"):
    inflate.inflate(flat, zoo.build(num_classes=CLASSES, width=16), 3)
