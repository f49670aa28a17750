"""Disks that are full or may not be written: a line, and nothing lost."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from p3d_jax.checkpoint import model
from p3d_jax.train.loop import train
from tests import small
from tests.train import launched

# No file may be larger than 20,000 bytes: a checkpoint's are.
FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
"""
# Root's right to write where nobody may is taken from it (prctl.h's
# PR_CAPBSET_DROP, capability.h's CAP_DAC_OVERRIDE).
READ_ONLY = """
import ctypes
ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)
"""


def trained(
  config: pathlib.Path, workdir: pathlib.Path, limit: str
) -> list[str]:
  """Trains in a process with a limit; it must fail. Returns its lines."""
  environment = small.environment()
  # A full disk is full for the cache too.
  del environment["JAX_COMPILATION_CACHE_DIR"]
  text = f"{limit}\nimport os, sys\nos.execv(sys.argv[1], sys.argv[1:])"
  words = small.command("train", "--config", config, "--workdir", workdir)
  done = subprocess.run(
    [sys.executable, "-c", text, *words],
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2, done.stderr
  return done.stderr.splitlines()


def test_a_full_disk(tmp_path: pathlib.Path) -> None:
  """Step 4 cannot be saved; step 2 stays, and the run goes on from it."""
  config = small.config_file(
    tmp_path / "config.py", "config.log.tensorboard = False"
  )
  workdir = tmp_path / "run"
  first = small.p3d_command(
    "train", "--config", config, "--workdir", workdir,
    "--config.checkpoint.every=2", "--config.checkpoint.keep=1",
  )  # fmt: skip
  assert first.returncode == 0, first.stderr
  checkpoints = workdir / "checkpoints"
  # As if it had been killed in step 3, before the disk was full.
  for step in checkpoints.iterdir():
    if step.name != "2":
      step.rename(tmp_path / step.name)
  if not (checkpoints / "2").exists():
    raise AssertionError("step 2 was not the best, and is gone")
  before = model.read_record(model.find(workdir)).sha256
  said = trained(config, workdir, FULL)
  assert said[-1].startswith(
    f"p3d train: a step cannot be saved in {checkpoints}, which keeps its "
    "older ones: "
  )
  assert "too large" in said[-1]
  assert not [line for line in said if "Traceback" in line]
  assert [path.name for path in checkpoints.iterdir()] == ["2"]
  _, _, record = model.load(workdir)
  assert record.sha256 == before


def test_a_workdir_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
  config = small.config_file(tmp_path / "config.py")
  folder = tmp_path / "read only"
  folder.mkdir(mode=0o500)
  assert trained(config, folder, READ_ONLY) == [
    f"p3d train: workdir is {folder}: the folder cannot be written to"
  ]
  assert trained(config, folder / "run", READ_ONLY) == [
    f"p3d train: workdir is {folder / 'run'}: it cannot be made: Permission "
    "denied"
  ]
  assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_a_workdir_of_each_hosts_own(tmp_path: pathlib.Path) -> None:
  """As /tmp/run is: no step could be saved whole, nor be gone on from."""
  processes = launched.started(
    2, tmp_path, launched.sections(), "--own-disks", devices=2
  )
  for process, (status, said) in enumerate(launched.ended(processes)):
    assert status == 1
    # (run_processes.py catches no ValueError.)
    assert said.splitlines()[-1] == (
      f"ValueError: workdir is {tmp_path / str(process)}: process 0 sees what "
      "process 0 has written, process 1 does not see what process 0 has "
      "written; it must be one folder of all hosts, as on gs://"
    )
  assert not list(tmp_path.rglob("config.json"))


def test_hosts_of_different_configs(tmp_path: pathlib.Path) -> None:
  """As where one machine has an old config: told, and nothing is begun."""
  processes = launched.started(
    2, tmp_path, launched.sections(), "--own-seed", devices=2
  )
  for status, said in launched.ended(processes):
    assert status == 1
    assert said.splitlines()[-1] == (
      "ValueError: the hosts have different configs: of process 0 config.seed "
      "is 0, of process 1 config.seed is 1"
    )
  assert not (tmp_path / "config.json").exists()


def test_hosts_of_different_sets(tmp_path: pathlib.Path) -> None:
  """As where one machine has an older build, with its labels in other order."""
  sets = small.dataset(), small.relabelled(tmp_path / "set")
  processes = launched.started(
    2,
    tmp_path / "run",
    launched.sections(),
    *("--own-sets", *sets),
    devices=2,
  )
  for status, said in launched.ended(processes):
    assert status == 1
    assert re.fullmatch(
      "ValueError: config.data.dir: process 0 reads 16 and 10 videos, sha256 "
      r"[0-9a-f]{64}, process 1 reads 16 and 10 videos, sha256 [0-9a-f]{64}"
      "; all hosts must have the same set",
      said.splitlines()[-1],
    )
  assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("part", ["variables", "train"])
def test_a_step_that_is_cut_short(tmp_path: pathlib.Path, part: str) -> None:
  """As by a copy that was broken off: one line, and not a page of Orbax's."""
  run = tmp_path / "run"
  shutil.copytree(small.trained(), run)
  step = run / "checkpoints" / "4"
  files = [path for path in (step / part).rglob("*") if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  os.truncate(largest, largest.stat().st_size // 2)
  (run / "metrics.jsonl").unlink()  # step 4 is still to be evaluated
  with pytest.raises(
    model.CheckpointError, match=f"{step} is damaged, or cannot be read: .*"
  ) as caught:
    train(small.config(), run)
  assert len(str(caught.value).splitlines()) == 1
  assert part in str(caught.value)
