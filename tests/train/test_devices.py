"""One device and eight fake ones give the same losses."""

import json
import pathlib
import subprocess
import sys

import pytest

from p3d_jax.train import logs
from tests import small

RUN = """
import json, sys
import jax
from p3d_jax.train.loop import train
from tests import small
count, workdir, sections = int(sys.argv[1]), sys.argv[2], sys.argv[3]
assert jax.device_count() == 8
config = small.config(**json.loads(sections))
train(config, workdir, devices=jax.devices()[:count])
"""


# Measured 4e-7 with live norms and 1.4e-6 with ghost ones, on two CPU cores.
BOUND = 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["live", "ghost"])
def test_one_device_and_eight(tmp_path: pathlib.Path, norm: str) -> None:
  sections = {
    "train": {"batch": 32, "steps": 5},
    "eval": {"every": 0},
    "optim": {"learning_rate": 0.002},
    "norm": {"group": 8 if norm == "ghost" else None},
    "data": {"dir": small.dataset()},
  }
  found = {}
  for count in (1, 8):
    workdir = tmp_path / str(count)
    subprocess.run(
      [sys.executable, "-c", RUN, str(count), workdir, json.dumps(sections)],
      check=True,
      env=small.environment(devices=8),
    )
    found[count] = logs.read(workdir)
  for one, eight in zip(found[1], found[8], strict=True):
    assert one["step"] == eight["step"]
    if one["kind"] == "train":
      assert eight["loss"] == pytest.approx(one["loss"], rel=BOUND)
