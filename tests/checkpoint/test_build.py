"""`p3d_jax.build` takes a name or a checkpoint."""

import pathlib
import subprocess
import sys
from typing import Any

import pytest

import p3d_jax
from p3d_jax.checkpoint import model
from p3d_jax.models import zoo
from tests import small


def saved(path: pathlib.Path, **fields: Any) -> Any:
  network = small.network(**fields)
  model.save(path, small.variables(network), small.record(network))
  return network


def test_a_folder_is_the_network_that_it_holds(tmp_path: pathlib.Path) -> None:
  path = tmp_path / "weights"
  network = saved(path, schedule=("A", "BC", "S"), rule="paper", dropout=0.3)
  for name in (path, str(path)):
    assert zoo.to_fields(p3d_jax.build(name)) == zoo.to_fields(network)
  assert p3d_jax.build(small.trained()).num_classes == 8
  step = small.trained() / "checkpoints" / "2"
  assert p3d_jax.build(step) == p3d_jax.build(small.trained())


def test_fields_win_over_the_folder(tmp_path: pathlib.Path) -> None:
  path = tmp_path / "weights"
  network = saved(path, rule="paper", stem_pool="padded", norm_epsilon=1e-3)
  before = zoo.to_fields(network)

  def changes(**fields: Any) -> dict[str, Any]:
    after = zoo.to_fields(p3d_jax.build(path, **fields))
    return {k: v for k, v in after.items() if v != before[k]}

  assert changes() == {}
  assert changes(num_classes=7) == {"num_classes": 7}
  assert changes(num_classes=None) == {"num_classes": None}
  assert changes(dropout=0.25, schedule="S") == {
    "dropout": 0.25,
    "schedule": "S",
  }
  # A flavour is its whole row.
  assert changes(flavour="released") == {
    "rule": "released",
    "stem_pool": "ceil",
    "norm_epsilon": 1e-5,
  }
  assert changes(flavour="released", rule="paper", norm_epsilon=1e-3) == {
    "stem_pool": "ceil"
  }


def test_a_name_is_a_row_of_the_table() -> None:
  assert p3d_jax.build("p3d131", num_classes=5) == zoo.build(
    "p3d131", num_classes=5
  )
  fields: dict[str, Any] = {"stages": (1, 1, 1, 1), "width": 8}
  assert p3d_jax.build(num_classes=5, flavour="port", **fields) == zoo.build(
    num_classes=5, flavour="port", **fields
  )


@pytest.mark.parametrize(
  ("name", "fields", "message"),
  [
    ("p3d64", {}, r"^name is 'p3d64': .* p3d63, p3d131, p3d199, or the folder"),
    (pathlib.Path("p3d64"), {}, r"^name is 'p3d64'"),
    ("", {}, r"^name is '': "),
    (".", {}, r" is no checkpoint and no workdir"),
    ("p3d63", {}, r"^num_classes is left out"),
    (None, {"width": 4}, r"^num_classes is left out"),
    ("RUN", {"flavour": "mine"}, r"^flavour is 'mine'"),
    ("RUN", {"widht": 4}, r"^'widht' is no field of P3D"),
  ],
)
def test_a_mistake_is_one_line(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  name: Any,
  fields: dict[str, Any],
  message: str,
) -> None:
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match=message) as caught:
    p3d_jax.build(small.trained() if name == "RUN" else name, **fields)
  assert "\n" not in str(caught.value)


def test_a_name_does_without_orbax() -> None:
  text = (
    "import sys, p3d_jax; p3d_jax.build('p3d63', num_classes=3); "
    "sys.exit(any(m.split('.')[0] == 'orbax' for m in sys.modules))"
  )
  done = subprocess.run([sys.executable, "-c", text], env=small.environment())
  assert done.returncode == 0
