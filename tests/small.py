"""What many tests take: a tiny set of videos, a slim network, a short run."""

import atexit
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from p3d_jax.checkpoint.model import Record
from p3d_jax.data.builders import camera_motion
from p3d_jax.data.encode import encode
from p3d_jax.models import p3d, zoo
from p3d_jax.preprocess import Preprocessing
from p3d_jax.train import config as configs
from p3d_jax.train.loop import train

ROOT = pathlib.Path(__file__).parent.parent

PREPROCESSING = Preprocessing(
  frames=4,
  resize=(36, 36),
  crop=(32, 32),
  channels="BGR",
  mean=(120.0, 125.0, 130.0),
  std=(60.0, 64.0, 68.0),
)


def folder() -> pathlib.Path:
  """Makes a folder that is there until the tests end."""
  path = pathlib.Path(tempfile.mkdtemp(prefix="p3d-test-"))
  atexit.register(shutil.rmtree, path, ignore_errors=True)
  return path


@functools.cache
def footage() -> pathlib.Path:
  """Five videos of 40 frames of 48x64 pixels: noise that drifts."""
  path = folder()
  for k in range(5):
    rng = np.random.default_rng(k)
    coarse = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
    still = np.kron(coarse, np.ones((4, 4, 1), np.uint8))
    frames = [np.roll(still, (k - 2) * t, axis=1) for t in range(40)]
    (path / f"film {k}.mp4").write_bytes(encode(frames, fps=25))
  return path


@functools.cache
def dataset() -> str:
  """Builds 16 and 10 videos of 12 frames, 40x40 pixels, eight classes."""
  built = camera_motion.build_camera_motion(
    folder(),
    footage(),
    train_videos=16,
    test_videos=10,
    size=40,
    frames=12,
    progress=False,
  )
  return str(built)


def config(**sections: dict[str, Any]) -> ConfigDict:
  """The config of a short run; `train={"steps": 3}` changes fields."""
  made = configs.default()
  fields: dict[str, Any] = {
    "data": {"dir": dataset()},
    "model": {"width": 4, "stages": (1, 1, 1, 1), "dropout": 0.2},
    "preprocessing": {
      name: getattr(PREPROCESSING, name)
      for name in ("frames", "resize", "crop", "channels", "mean", "std")
    },
    "train": {"batch": 8, "steps": 4},
    "optim": {"learning_rate": 0.02, "multipliers": ()},
    "eval": {"every": 2, "clips": 2, "batch": 8},
    "checkpoint": {"every": 2},
    "log": {"every": 1},
  }
  for section in fields:
    made[section].update(fields[section])
  for section, values in sections.items():
    made[section].update(values)
  return made


def config_file(path: pathlib.Path, text: str = "") -> pathlib.Path:
  """Writes a config file of `config()`; `text` are lines about `config`."""
  fields = config().to_dict()
  body = "\n".join(f"  {line}" for line in text.splitlines())
  path.write_text(
    "from p3d_jax.train import config as configs\n\n"
    "def get_config():\n"
    "  config = configs.default()\n"
    f"  config.update({fields!r})\n{body}\n  return config\n"
  )
  return path


def command(*words: object) -> list[str]:
  """The command line of `p3d ...`."""
  return [sys.executable, "-m", "p3d_jax.cli", *map(str, words)]


def environment(devices: int = 1) -> dict[str, str]:
  """The environment of a process with that many CPU devices."""
  flag = f"--xla_force_host_platform_device_count={devices}"
  path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
  return os.environ | {
    "PYTHONPATH": path,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": flag,
    # The processes of one test session compile each step once.
    "JAX_COMPILATION_CACHE_DIR": str(compiled()),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }


@functools.cache
def compiled() -> pathlib.Path:
  """The folder in which the processes keep what they have compiled."""
  return folder()


def p3d_command(*words: object) -> subprocess.CompletedProcess[str]:
  """Runs `p3d ...` in a process of its own."""
  return subprocess.run(
    command(*words), capture_output=True, text=True, env=environment()
  )


@functools.cache
def trained() -> pathlib.Path:
  """A workdir of four steps with checkpoints at 2 and 4."""
  path = folder() / "run"
  train(config(), path)
  return path


def relabelled(folder: pathlib.Path) -> pathlib.Path:
  """Copies the set; the first two of its labels have changed places."""
  (found,) = pathlib.Path(dataset()).rglob("dataset_info.json")
  shutil.copytree(found.parent, folder)
  file = folder / "metadata.json"
  metadata = json.loads(file.read_text())
  names = metadata["label_names"]
  metadata["label_names"] = [names[1], names[0], *names[2:]]
  file.write_text(json.dumps(metadata))
  return folder


def network(**fields: Any) -> p3d.P3D:
  """A network that compiles in seconds."""
  slim: dict[str, Any] = {"width": 4, "stages": (1, 1, 1, 1)}
  return zoo.build(None, num_classes=3, **slim | fields)


def variables(module: p3d.P3D, seed: int = 0) -> Any:
  """Variables with statistics far from 0 and 1."""
  clips = jax.ShapeDtypeStruct((1, 1, 32, 32, 3), np.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), clips)
  rng = np.random.default_rng(seed)

  def draw(path: Any, leaf: Any) -> np.ndarray:
    name = path[-1].key
    if name in ("scale", "var"):
      value = rng.uniform(0.5, 1.5, leaf.shape)
    else:
      value = 0.3 * rng.standard_normal(leaf.shape)
    return jax.numpy.asarray(value.astype(leaf.dtype))

  return jax.tree_util.tree_map_with_path(draw, shapes)


def record(module: p3d.P3D) -> Record:
  """The record of such a network."""
  return Record(
    model=zoo.to_fields(module),
    preprocessing=PREPROCESSING,
    labels=("a", "b", "c"),
    provenance={"kind": "test"},
  )


def pixels(*lead: int, seed: int = 0) -> np.ndarray:
  """uint8 clips (*lead, 4, 32, 32, 3)."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (*lead, 4, 32, 32, 3)).astype(np.uint8)
