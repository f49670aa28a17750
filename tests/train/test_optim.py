"""The optimiser against PyTorch's and against numbers worked out by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from p3d_jax.checkpoint import tree
from p3d_jax.train import optim
from tests import small

PARAMS = {
  "stem/conv/kernel": (1, 7, 7, 3, 4),
  "stem/bn/scale": (4,),
  "stem/bn/bias": (4,),
  "res2/block00/spatial/conv/kernel": (1, 3, 3, 4, 4),
  "res2/block00/spatial/bn/scale": (4,),
  "head/fc/kernel": (4, 3),
  "head/fc/bias": (3,),
}


def params(seed: int = 0) -> Any:
  rng = np.random.default_rng(seed)
  return tree.unflatten(
    {
      name: jnp.asarray(rng.standard_normal(shape), jnp.float32)
      for name, shape in PARAMS.items()
    }
  )


def config(freeze_norm: str = "none", **fields: Any) -> ConfigDict:
  plain = {"schedule": "constant", "learning_rate": 0.1, "weight_decay": 0.0}
  made = small.config(optim=plain | fields, train={"steps": 10})
  made.norm.freeze = freeze_norm
  return made


def walk(config: ConfigDict, steps: int = 3) -> dict[str, np.ndarray]:
  """Parameters after steps whose gradients are drawn."""
  now = params()
  tx = optim.optimizer(config, now)
  state = tx.init(now)
  update = jax.jit(tx.update)
  for step in range(steps):
    updates, state = update(params(step + 1), state, now)
    now = optax.apply_updates(now, updates)
  return {name: np.asarray(leaf) for name, leaf in tree.flatten(now).items()}


def test_plan_says_what_each_name_does() -> None:
  fields = {
    "multipliers": (("^head/fc/kernel", 10.0), ("^head/", 2.0)),
    "freeze": ("^stem/conv",),
  }
  plan = optim.plan(params(), config(**fields).optim, "none")
  assert plan == {
    "stem/conv/kernel": (False, 1.0, True),
    "stem/bn/scale": (True, 1.0, False),
    "stem/bn/bias": (True, 1.0, False),
    "res2/block00/spatial/conv/kernel": (True, 1.0, True),
    "res2/block00/spatial/bn/scale": (True, 1.0, False),
    "head/fc/kernel": (True, 20.0, True),
    "head/fc/bias": (True, 2.0, False),
  }


@pytest.mark.parametrize(
  ("freeze", "frozen"),
  [
    ("none", set()),
    ("all_but_first", {"res2/block00/spatial/bn/scale"}),
    ("all", {n for n in PARAMS if "/bn/" in n}),
  ],
)
def test_scale_and_shift_of_frozen_norms_do_not_learn(
  freeze: str, frozen: set[str]
) -> None:
  made = config(freeze)
  plan = optim.plan(params(), made.optim, freeze)
  assert {name for name, rule in plan.items() if not rule.learns} == frozen
  after, before = walk(made), tree.flatten(params())
  same = {n for n in after if np.array_equal(after[n], before[n])}
  assert same == frozen


def test_the_plan_of_a_network_has_no_decay_on_norms_and_biases() -> None:
  names = small.variables(small.network())["params"]
  plan = optim.plan(names, config().optim, "none")
  for name, rule in plan.items():
    assert rule.decays == name.endswith("kernel"), name


def test_a_frozen_parameter_has_no_state() -> None:
  made = config(name="adamw", freeze=("^res2", "^stem"))
  state = optim.optimizer(made, params()).init(params())
  shapes = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim]
  assert sorted(shapes) == [(3,), (3,), (4, 3), (4, 3)]


@pytest.mark.parametrize("field", ["multipliers", "freeze"])
def test_a_pattern_that_fits_nothing_is_an_error(field: str) -> None:
  value = (("^had/", 2.0),) if field == "multipliers" else ("^had/",)
  made = config(**{field: value})
  with pytest.raises(ValueError, match=r"^config\.optim: '\^had/' fits no"):
    optim.optimizer(made, params())


def by_torch(kind: str, decay: float, factor: float, **fields: Any) -> Any:
  torch = pytest.importorskip("torch", reason="PyTorch is the reference")
  names = list(PARAMS)
  now = tree.flatten(params())
  leaves = [torch.nn.Parameter(torch.tensor(np.asarray(now[n]))) for n in names]
  groups = [
    {
      "params": [leaf],
      "weight_decay": decay if name.endswith("kernel") else 0.0,
      "lr": 0.1 * (factor if name.startswith("head") else 1.0),
    }
    for name, leaf in zip(names, leaves, strict=True)
  ]
  made = getattr(torch.optim, kind)(groups, **fields)
  for step in range(3):
    grads = tree.flatten(params(step + 1))
    for name, leaf in zip(names, leaves, strict=True):
      leaf.grad = torch.tensor(np.asarray(grads[name]))
    made.step()
  return {n: x.detach().numpy() for n, x in zip(names, leaves, strict=True)}


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_that_of_pytorch(nesterov: bool) -> None:
  expected = by_torch("SGD", 0.05, 3.0, momentum=0.9, nesterov=nesterov)
  ours = walk(
    config(
      name="sgd",
      nesterov=nesterov,
      weight_decay=0.05,
      multipliers=(("^head/", 3.0),),
    )
  )
  for name in PARAMS:
    np.testing.assert_allclose(ours[name], expected[name], atol=2e-6)


def test_adamw_is_that_of_pytorch() -> None:
  expected = by_torch("AdamW", 0.05, 3.0, betas=(0.8, 0.95))
  fields = {"name": "adamw", "b1": 0.8, "b2": 0.95, "weight_decay": 0.05}
  ours = walk(config(**fields, multipliers=(("^head/", 3.0),)))
  for name in PARAMS:
    np.testing.assert_allclose(ours[name], expected[name], atol=5e-6)


def test_sgd_by_hand() -> None:
  made = config(weight_decay=0.5, momentum=0.5)
  made.optim.learning_rate = 0.1
  tx = optim.optimizer(made, params())
  now, grad = params(), jax.tree.map(jnp.ones_like, params())
  now = jax.tree.map(jnp.ones_like, now)
  state = tx.init(now)
  for _ in range(2):
    updates, state = tx.update(grad, state, now)
    now = optax.apply_updates(now, updates)
  flat = tree.flatten(now)
  # Kernel: v = 1.5, w = 0.85; v = 0.75 + 1.425 = 2.175, w = 0.6325.
  np.testing.assert_allclose(flat["head/fc/kernel"], 0.6325, rtol=1e-6)
  # Bias: v = 1, w = 0.9; v = 1.5, w = 0.75.
  np.testing.assert_allclose(flat["head/fc/bias"], 0.75, rtol=1e-6)


def test_only_what_learns_counts_in_the_norm_that_is_clipped() -> None:
  made = config(clip_norm=1.0, momentum=0.0, freeze=("^stem", "^res2"))
  before, grads = tree.flatten(params()), tree.flatten(params(1))
  norm = np.sqrt(
    sum(float((grads[n] ** 2).sum()) for n in grads if n.startswith("head"))
  )
  assert norm > 1
  after = walk(made, steps=1)
  for name in ("head/fc/kernel", "head/fc/bias"):
    expected = before[name] - 0.1 * grads[name] / norm
    np.testing.assert_allclose(after[name], expected, atol=1e-6)
  np.testing.assert_array_equal(
    after["stem/conv/kernel"], before["stem/conv/kernel"]
  )


@pytest.mark.parametrize(
  ("fields", "steps", "expected"),
  [
    (
      {"schedule": "step", "decay_every": 4, "decay_factor": 0.1},
      (0, 3, 4, 7, 8),
      (1, 1, 0.1, 0.1, 0.01),
    ),
    (
      {"schedule": "step", "decay_every": 4, "warmup": 5},
      (0, 1, 3, 4, 5),
      (0.2, 0.4, 0.8, 0.1, 0.1),
    ),
    # Half a cosine over the steps that follow the rise.
    ({"schedule": "cosine"}, (0, 5, 10), (1, 0.5, 0)),
    (
      {"schedule": "cosine", "warmup": 2},
      (0, 1, 2, 4, 6, 10),
      (0.5, 1, 1, (1 + np.cos(np.pi / 4)) / 2, 0.5, 0),
    ),
    ({"schedule": "constant", "warmup": 4}, (0, 3, 9), (0.25, 1, 1)),
  ],
)
def test_schedules_by_hand(
  fields: dict[str, Any], steps: tuple[int, ...], expected: tuple[float, ...]
) -> None:
  rate = optim.learning_rate(config(**fields | {"learning_rate": 1.0}))
  got = [float(rate(jnp.asarray(step))) for step in steps]
  np.testing.assert_allclose(got, expected, atol=1e-6)
