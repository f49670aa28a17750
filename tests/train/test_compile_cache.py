"""Compiled programs on gs:// and on disk."""

import pathlib
import subprocess
import sys
import uuid

import pytest

from p3d_jax.train.compile_cache import compile_cache
from tests import bucket, small

# Says how often JAX found a program there, and how often it did not.
PROGRAM = """
import collections, sys
import jax, jax.numpy as jnp
from p3d_jax.train.compile_cache import compile_cache
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
compile_cache(sys.argv[2])  # another folder, which is in use
jax.jit(lambda x: x * 3)(2.0)
counts = collections.Counter()
jax.monitoring.register_event_listener(
  lambda name, **_: counts.update([name.rpartition("/")[2]])
)
compile_cache(sys.argv[1])
jax.jit(lambda x: jnp.sin(x) @ x.T * 3)(jnp.ones((5, 7)))
print(counts["cache_hits"], counts["cache_misses"])
"""


def compiled(folder: object) -> tuple[int, int]:
  """Compiles in a process of its own; returns hits and misses."""
  left_out = "JAX_COMPILATION_CACHE_DIR"
  env = small.environment() | bucket.running().environment
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM, str(folder), str(small.folder())],
    capture_output=True,
    text=True,
    env={name: value for name, value in env.items() if name != left_out},
  )
  assert done.returncode == 0, done.stderr
  assert "Error" not in done.stderr, done.stderr
  hits, misses = done.stdout.split()
  return int(hits), int(misses)


@pytest.mark.parametrize("kind", ["store", "folder"])
def test_the_second_process_compiles_nothing(
  kind: str, tmp_path: pathlib.Path
) -> None:
  home = f"test/{uuid.uuid4().hex}/programs"
  folder = f"gs://{home}" if kind == "store" else tmp_path / "programs"
  hits, misses = compiled(folder)
  assert hits == 0
  assert misses > 0
  buckets = bucket.running()
  if kind == "store":
    kept = [name for name in buckets.objects if name.startswith(home)]
  else:
    kept = [path.name for path in (tmp_path / "programs").glob("*-cache")]
  assert len(kept) == misses
  assert compiled(folder) == (misses, 0)
  if kind == "store":
    assert len(buckets.done("read", home)) == misses
    assert len(buckets.done("write", home)) == misses


def test_folders_that_cannot_be(tmp_path: pathlib.Path) -> None:
  (tmp_path / "file").write_text("")
  bucket.running()
  for folder, message in (
    (tmp_path / "file", "^config.compile.cache='.*/file': it is a file, not a"),
    (
      tmp_path / "file" / "x",
      "^config.compile.cache='.*/x': .*Not a dir",
    ),
    ("gs://tset/x", "^config.compile.cache='gs://tset/x': gs://tset cannot be"),
  ):
    with pytest.raises(ValueError, match=message):
      compile_cache(folder)
