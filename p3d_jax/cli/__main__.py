"""`python -m p3d_jax.cli VERB ...`."""

import sys

from p3d_jax.cli import main

if __name__ == "__main__":
  sys.exit(main())
