"""The version of the package, and those of what its numbers come from."""

import importlib.metadata
import platform

__version__ = "0.1.0"  # setup.cfg reads it from here

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


def versions() -> dict[str, str]:
  """Returns name -> version of this package, Python and what computes."""
  found = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return found | {
    "p3d_jax": __version__,
    "python": platform.python_version(),
  }
