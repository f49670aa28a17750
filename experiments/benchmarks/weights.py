"""Time and memory of bringing weights: each command in a process of its own.

    python -m experiments.benchmarks.weights

The sources are random numbers in files of real names, shapes and sizes, made
with numpy: a ResNet-152 as torchvision names it, and from it P3D-199 exported
by the port's names.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import safetensors.numpy

from experiments.benchmarks import timing
from p3d_jax.models import zoo
from p3d_jax.weights import fill, names

# Runs `p3d` and says how much memory it took; ru_maxrss is in KiB on Linux.
RUN = """
import resource, sys
from p3d_jax import cli
status = cli.main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(status)
"""


def main() -> None:
  """Prints a row for each command."""
  print(timing.machine(), end="\n\n")
  print("| command | seconds | peak memory, GB |\n|---|---|---|")
  with tempfile.TemporaryDirectory() as folder:
    _resnet_152(pathlib.Path(folder, "resnet152.safetensors"))
    for command in (
      "inflate resnet152.safetensors --model p3d199 --out p3d199",
      "inflate resnet152.safetensors --exact --out exact",
      "export p3d199 --to safetensors --out port.safetensors",
      "convert port.safetensors --out again",
      "export p3d199 --to stablehlo --out p3d199.hlo",
    ):
      seconds, memory = _run(command, folder)
      print(f"| `p3d {command}` | {seconds:.1f} | {memory:.2f} |", flush=True)


def _resnet_152(path: pathlib.Path) -> None:
  module = zoo.build(
    "p3d199", num_classes=1000, schedule="S", flavour="torchvision"
  )
  rng = np.random.default_rng(0)
  arrays = {}
  for leaf, shape in fill.leaf_shapes(module, 3).items():
    if leaf.startswith("params/head/"):
      name = f"fc.{'weight' if leaf.endswith('kernel') else 'bias'}"
    else:
      name = names.array(names.TORCHVISION, leaf)
    if len(shape) == 5:
      shape = (*shape[:2:-1], *shape[1:3])  # out, in, height, width
    values = rng.uniform(0.1, 1, shape[::-1] if len(shape) == 2 else shape)
    arrays[name] = values.astype(np.float32)
  safetensors.numpy.save_file(arrays, path)


def _run(command: str, folder: str) -> tuple[float, float]:
  """Returns seconds and peak memory in GB."""
  start = time.perf_counter()
  done = subprocess.run(
    [sys.executable, "-c", RUN, *command.split()],
    cwd=folder,
    check=True,
    capture_output=True,
    text=True,
  )
  seconds = time.perf_counter() - start
  return seconds, int(done.stdout.splitlines()[-1]) * 1024 / 1e9


if __name__ == "__main__":
  main()
