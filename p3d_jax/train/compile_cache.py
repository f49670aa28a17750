"""Keeps compiled programs in a folder, for the next start or another host."""

from __future__ import annotations

import os

import jax
from etils import epath

# Public, though named as if it were on trial: to begin with another folder.
from jax.experimental.compilation_cache import compilation_cache

from p3d_jax import files


def compile_cache(folder: epath.PathLike) -> None:
  """Makes JAX keep what it compiles, and look there first.

  Only the first process of a run writes, all read. What took less than a second
  to compile is not kept, JAX's own rule: it would be read no faster.

  Args:
    folder: made if need be; gs:// works too. "": nothing is changed, so that
      JAX's own environment variables count.

  Raises:
    ValueError: it is a file, or cannot be made.
    OSError: it is on gs://, which cannot be reached.
  """
  if not os.fspath(folder):
    return
  files.check_bucket(folder, "config.compile.cache")
  path = files.absolute(folder)
  name = f"config.compile.cache={os.fspath(folder)!r}"
  if path.exists() and not path.is_dir():
    raise ValueError(f"{name}: it is a file, not a folder")
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(f"{name}: {' '.join(str(error).split())}") from error
  jax.config.update("jax_compilation_cache_dir", os.fspath(path))
  # What is small may have taken long.
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  if files.on_store(path):
    # XLA's caches inside it are of files, which it opens itself.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
  # A process that has compiled something keeps to the folder of that time.
  compilation_cache.reset_cache()
