"""What is imported, and in which direction."""

import ast
import pathlib
import subprocess
import sys

import pytest

from tests import small

PACKAGE = small.ROOT / "p3d_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

EVERYTHING = """
import importlib, pkgutil, sys

class Blocked:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in ("tensorflow", "torch"):
      raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, Blocked())
import p3d_jax
for module in pkgutil.walk_packages(p3d_jax.__path__, "p3d_jax."):
  importlib.import_module(module.name)
  print(module.name)
for name in sys.modules:
  assert name.split(".")[0] not in ("tensorflow", "torch"), name
"""


def test_nothing_imports_tensorflow_or_torch() -> None:
  done = subprocess.run(
    [sys.executable, "-c", EVERYTHING],
    capture_output=True,
    text=True,
    env=small.environment(),
  )
  assert done.returncode == 0, done.stderr
  expected = {module_name(file) for file in FILES} - {"p3d_jax"}
  assert set(done.stdout.split()) == expected


def module_name(file: pathlib.Path) -> str:
  parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: pathlib.Path) -> set[str]:
  """Full names of what a file imports, wherever in it."""
  found = set()
  for node in ast.walk(ast.parse(file.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{file}: a relative import"
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


NO_JAX = ["models/schedule.py", "preprocess.py", "weights/names.py"]
NO_JAX += [
  file.relative_to(PACKAGE).as_posix()
  for file in FILES
  if file.is_relative_to(PACKAGE / "data")
]


@pytest.mark.parametrize("name", NO_JAX)
def test_no_jax_here(name: str) -> None:
  roots = {found.split(".")[0] for found in imports(PACKAGE / name)}
  assert not roots & {"jax", "flax", "optax", "orbax"}


# What a process that decodes imports: it starts in a third of a second.
LIGHT = ("example", "ingest", "inspect_video", "flow", "guard")
HEAVY = ("jax", "flax", "grain", "tensorflow_datasets", "matplotlib", "cv2")


@pytest.mark.parametrize("name", LIGHT)
def test_processes_that_decode_start_at_once(name: str) -> None:
  text = f"import p3d_jax.data.{name}, sys; print(*sys.modules)"
  done = subprocess.run(
    [sys.executable, "-c", text],
    capture_output=True,
    text=True,
    env=small.environment(),
  )
  assert done.returncode == 0, done.stderr
  loaded = {module.split(".")[0] for module in done.stdout.split()}
  assert "av" in loaded
  assert not loaded & set(HEAVY)


# Each may import itself and what stands before it in a line that has it.
ALLOWED = {
  "version": set(),
  "files": set(),
  "progress": set(),
  "preprocess": set(),
  "models": set(),
  "data": {"preprocess", "files", "progress"},
  "checkpoint": {"models", "preprocess", "files"},
  "weights": {"models", "preprocess", "checkpoint", "version", "files"},
  "hosts": {"files"},
  "train": {"models", "preprocess", "checkpoint", "weights", "data", "version"},
}
ALLOWED["train"] |= {"files", "progress", "hosts"}
ALLOWED["evaluate"] = ALLOWED["train"] | {"train"}
ALLOWED["pods"] = ALLOWED["evaluate"]
ALLOWED["visualize"] = ALLOWED["evaluate"] | {"evaluate"}
ALLOWED["paper"] = ALLOWED["visualize"] | {"visualize"}
ALLOWED["cli"] = {*ALLOWED, "cli"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: module_name(file))
def test_imports_run_one_way(file: pathlib.Path) -> None:
  name = module_name(file)
  if name == "p3d_jax":
    return  # the public names
  part = name.split(".")[1]
  used = {n.split(".")[1] for n in imports(file) if n.startswith("p3d_jax.")}
  assert used <= ALLOWED[part] | {part}
