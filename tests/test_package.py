"""What `pip install .` gives to someone without a checkout."""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

from tests import small

CONFIG = """
from p3d_jax.train import config as configs

def get_config():
  config = configs.default()
  config.data.dir = {data!r}
  config.model.width, config.model.stages = 4, (1, 1, 1, 1)
  config.preprocessing.frames = 2
  config.preprocessing.resize = config.preprocessing.crop = (32, 32)
  config.train.batch, config.train.steps = 2, 1
  config.eval.clips, config.eval.batch = 1, 2
  return config
"""


@pytest.mark.slow
def test_the_wheel_trains_from_any_folder(tmp_path: pathlib.Path) -> None:
  def run(*words: str, **more: str) -> None:
    done = subprocess.run(
      [sys.executable, *words],
      cwd=tmp_path,
      env={**os.environ, **more},
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 0, done.stderr

  wheels, site = tmp_path / "wheels", tmp_path / "site"
  pip = ("-m", "pip", "--disable-pip-version-check", "--quiet")
  run(*pip, "wheel", str(small.ROOT), "--no-deps", "--wheel-dir", str(wheels))
  (wheel,) = wheels.iterdir()
  names = zipfile.ZipFile(wheel).namelist()
  assert "p3d_jax/py.typed" in names
  assert not [n for n in names if n.startswith(("tests", "experiments"))]
  run(*pip, "install", "--no-deps", "--target", str(site), str(wheel))
  (tmp_path / "mine.py").write_text(CONFIG.format(data=small.dataset()))
  # Before anything that is installed, and away from the checkout.
  here = {"PYTHONPATH": str(site)}
  run("-c", f"import p3d_jax as p; assert {str(site)!r} in p.__file__", **here)
  p3d = str(site / "bin" / "p3d")
  run(p3d, "train", "--config=mine.py", "--workdir=run", **here)
  run(p3d, "evaluate", "run", "--clips=1", "--batch=2", **here)
  assert (tmp_path / "run" / "checkpoints" / "1").is_dir()
