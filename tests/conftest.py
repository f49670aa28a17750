"""The tests compute on CPUs, with arithmetic that is the same everywhere."""

import os

# Before the first import of jax: a GPU would round differently, and two
# workers of pytest-xdist would each take all of its memory.
os.environ["JAX_PLATFORMS"] = "cpu"
# What the tests compile is not for the home of whoever runs them.
os.environ["P3D_COMPILED"] = "off"
# One thread a worker for PyTorch: as many as cores, times the workers of
# pytest-xdist, spin against each other and take five times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Most tests run a program once: LLVM's optimisation takes longer than it saves.
# `make test-all` sets the level itself, to what users get.
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
  )
