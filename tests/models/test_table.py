"""P3D-199 against the authors' layer table, executed by tests/reference.

The table runs in float64. So does the network once, and each of its endpoints
is the same to EXACT, which leaves no room for another network. In float32, with
precision "highest", TOLERANCE is what rounding may do: 160 convolutions in a
row round by 1e-7 each and every block amplifies what came before. Measured on
an x86-64 CPU, the worst endpoint (res5) of 16x160x160 is at 4.1e-5, PyTorch's
own float32 at 3.9e-5, while a wrong rule is off by more than a tenth.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p3d_jax.models import p3d, zoo
from tests.reference import names

table = pytest.importorskip(
  "tests.reference.table", reason="the reference runs on PyTorch"
)

EXACT = 1e-11
TOLERANCE = 1e-4
CLASSES = 487

# Batch, time, height, width. Odd lengths and sizes reach every ceil: 17 steps
# become 9, 5, 3 and 2; 47 pixels 24, 12, 6, 3 and 2.
SHAPES = [(2, 5, 65, 47), (2, 1, 32, 32), (1, 17, 33, 40)]
FULL = (1, 16, 160, 160)


@pytest.fixture(scope="module")
def weights():
  return table.random_weights(seed=0)


@pytest.fixture(scope="module")
def variables(weights):
  return table.to_tree(weights)


def model(**fields):
  fields = {"precision": "highest", **fields}
  return zoo.build("p3d199", num_classes=CLASSES, **fields)


def error(ours, reference):
  """max|a - b| / max|b|."""
  ours = np.asarray(ours, np.float64)
  assert ours.shape == reference.shape
  return np.abs(ours - reference).max() / np.abs(reference).max()


def joined_temporal_norms():
  """BN after T in B and C: those that no relu follows but a sum."""
  relus = {row["inputs"] for row in table.ROWS if row["type"] == "ReLU"}
  return [
    row["output"]
    for row in table.ROWS
    if row["type"] == "BN"
    and row["name"].endswith("_t")
    and row["output"] not in relus
  ]


def check_conditions(blobs):
  """A fifth of the units live everywhere; t negative in half the places."""
  for row in table.ROWS:
    if row["type"] == "ReLU":
      assert (blobs[row["output"]] > 0).double().mean() > 0.2, row["name"]
  norms = joined_temporal_norms()
  assert len(norms) == 31  # the 47 blocks less the 16 A
  for name in norms:
    assert 0.35 < (blobs[name] < 0).double().mean() < 0.65, name


def check_parity(found, blobs, time, tolerance):
  """Compares every endpoint of the network with its blob."""
  steps = time
  for _ in range(4):  # pool1 and the three temporal pools, all ceil mode
    steps = -(-steps // 2)
  errors = {
    endpoint: error(found[endpoint], table.to_endpoint(blobs[blob], steps))
    for endpoint, blob in names.ENDPOINTS.items()
  }
  assert set(errors) == set(found)
  worst = max(errors, key=lambda name: errors[name])
  print(f"worst of {len(errors)} endpoints: {worst} {errors[worst]:.1e}")
  assert errors[worst] <= tolerance, (worst, errors[worst])


def test_statistics_are_far_from_zero_and_one(weights):
  norms = [w for w in weights.values() if "var" in w]
  assert len(norms) == 202
  means = np.concatenate([w["mean"] for w in norms])
  variances = np.concatenate([w["var"] for w in norms])
  assert np.mean(np.abs(means) > 0.1) > 0.8
  assert np.mean(np.abs(np.log(variances)) > 0.5) > 0.7


def test_every_weight_has_its_place(variables):
  """The tree of the table's weights is the module's, leaf by leaf."""
  expected = jax.eval_shape(
    model().init, jax.random.key(0), jnp.zeros((1, 16, 160, 160, 3))
  )
  shapes = jax.tree.map(lambda leaf: leaf.shape, expected)
  assert jax.tree.map(lambda leaf: leaf.shape, variables) == shapes


def test_parameter_counts(weights):
  """P3D-199's counts follow from the rows, with fc of other sizes."""
  count = sum(
    w[leaf].size
    for w in weights.values()
    for leaf in ("kernel", "scale", "bias")
    if leaf in w
  )
  per_class = 2048 + 1
  assert count == 66_670_503
  assert count - (487 - 101) * per_class == 65_879_589
  assert count - (487 - 400) * per_class == 66_492_240
  statistics = sum(2 * w["mean"].size for w in weights.values() if "mean" in w)
  assert statistics == 172_288


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_endpoint(weights, variables, shape):
  check_shape(weights, variables, shape, jnp.float32, TOLERANCE)


def test_every_endpoint_exactly(weights, variables):
  with jax.enable_x64(True):
    check_shape(weights, variables, SHAPES[-1], jnp.float64, EXACT)


@pytest.mark.slow
def test_full_size(weights, variables):
  """The published shape."""
  check_shape(weights, variables, FULL, jnp.float32, TOLERANCE)
  with jax.enable_x64(True):
    check_shape(weights, variables, FULL, jnp.float64, EXACT)


def check_shape(weights, variables, shape, dtype, tolerance):
  clips = table.random_clips(np.random.default_rng(1), *shape)
  blobs = table.run(weights, clips)
  check_conditions(blobs)
  net = model(dtype=dtype)
  endpoints = p3d.endpoint_names(net.stages, CLASSES)
  # Not jitted: compiling 162 convolutions takes longer than running them.
  logits, found = net.apply(variables, clips, endpoints=endpoints)
  check_parity(found, blobs, shape[1], tolerance)
  np.testing.assert_array_equal(logits, found["logits"])


@pytest.mark.parametrize(
  "fields",
  [{"rule": "paper"}, {"rule": "port"}, {"stem_pool": "padded"}],
  ids=str,
)
def test_other_rules_differ(weights, variables, fields):
  """The test would see a wrong rule: each moves the logits a lot."""
  clips = table.random_clips(np.random.default_rng(1), *SHAPES[1])
  reference = table.to_endpoint(table.run(weights, clips)["fc_sports1m"], 1)
  assert error(model(**fields).apply(variables, clips), reference) > 0.1
