"""Our side of `vs_torch`: the same weights, brought by `p3d_jax.convert`."""

from __future__ import annotations

import functools
import gc
import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import p3d_jax
from experiments.benchmarks import speed
from experiments.benchmarks.vs_torch import Case, serve


class Ours:
  """Holds one network at a time."""

  def __init__(self, folder: str) -> None:
    self.folder = pathlib.Path(folder)
    self._run: Any = None

  def begin(self, case: Case) -> np.ndarray:
    """Builds a case, runs it once and returns the logits of inference."""
    module, variables = self._network(case.model)
    frozen = "all_but_first" if case.what == "frozen" else "none"
    module = module.clone(
      dtype=jnp.dtype(case.dtype), dropout=0.0, freeze_norm=frozen
    )
    if case.what == "folded":
      module, variables = p3d_jax.fold_batch_norm(module, variables)
    variables = jax.device_put(variables)
    clips = jax.device_put(case.clips())
    forward = functools.partial(speed.forward, module, variables, clips)
    logits = np.asarray(forward())
    if case.trains:
      state = [variables]
      del variables, forward
      labels = jnp.zeros(case.batch, jnp.int32)

      def step() -> Any:
        state[0] = speed.train(module, state[0], clips, labels)
        return state[0]

      self._run = step
    else:
      self._run = forward
    for _ in range(3):
      self.round()
    return logits

  def round(self) -> float:
    """Returns the seconds of one run."""
    start = time.perf_counter()
    jax.block_until_ready(self._run())
    return time.perf_counter() - start

  def end(self) -> None:
    """Frees the case."""
    self._run = None
    jax.clear_caches()
    gc.collect()

  def _network(self, model: str) -> tuple[Any, Any]:
    folder = self.folder / model
    if not folder.exists():
      p3d_jax.convert(
        self.folder / f"{model}.safetensors",
        folder,
        rule="port",
        schedule="ABC",
        preprocessing="port",
      )
    module, variables, _ = p3d_jax.load(folder)
    return module, variables


if __name__ == "__main__":
  serve(Ours(sys.argv[2]))
