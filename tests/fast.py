"""Compiles fast, and the same step once: these tests run it a few times."""

from collections.abc import Iterator

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests import small


@pytest.fixture(autouse=True, scope="package")
def compiles_fast() -> Iterator[None]:
  jax.config.update("jax_disable_most_optimizations", True)
  jax.config.update("jax_compilation_cache_dir", str(small.compiled()))
  compilation_cache.reset_cache()
  yield
  jax.config.update("jax_disable_most_optimizations", False)
  jax.config.update("jax_compilation_cache_dir", None)
  compilation_cache.reset_cache()
