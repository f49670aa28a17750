"""The tests compute on CPUs, with arithmetic that is the same everywhere."""

import os

# Before the first import of jax: a GPU would round differently, and two
# workers of pytest-xdist would each take all of its memory.
os.environ["JAX_PLATFORMS"] = "cpu"
# One thread a worker for PyTorch: as many as cores, times the workers of
# pytest-xdist, spin against each other and take five times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
