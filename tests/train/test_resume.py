"""A run that is killed between two steps and started again is the same run."""

import json
import os
import pathlib
import signal
import subprocess
import time
from typing import Any

import pytest

from p3d_jax.train import logs
from p3d_jax.train.meter import CLOCK
from tests import small

# What makes every step draw: dropout, crops, flips, colours, averages.
FIELDS = """
config.train.steps = 9
config.train.ema = 0.9
config.augment.brightness = 0.2
config.checkpoint.every = 2
config.checkpoint.keep = 2
config.eval.every = 4
config.log.every = 1
config.optim.name = "adamw"
config.optim.freeze = ("^res5/",)
"""


def lines(workdir: pathlib.Path) -> list[dict[str, Any]]:
  return [
    {name: value for name, value in line.items() if name not in CLOCK}
    for line in logs.read(workdir)
  ]


def steps(workdir: pathlib.Path) -> list[str]:
  return sorted(p.name for p in (workdir / "checkpoints").iterdir())


def kill_at(words: list[str], workdir: pathlib.Path, step: int) -> None:
  """Runs until metrics.jsonl shows a step, then SIGKILL."""
  with subprocess.Popen(
    words,
    env=small.environment(),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  ) as process:
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
      if any(line["step"] >= step for line in logs.read(workdir)):
        break
      time.sleep(0.01)
    assert process.poll() is None, "it ended before it was killed"
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit(tmp_path: pathlib.Path) -> None:
  config = small.config_file(tmp_path / "config.py", FIELDS)
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  done = small.p3d_command("train", "--config", config, "--workdir", whole)
  assert done.returncode == 0, done.stderr
  words = small.command("train", "--config", config, "--workdir", killed)
  kill_at(words, killed, 3)
  first = logs.read(killed)[-1]["step"]
  assert 3 <= first < 9
  # As a kill in the midst of a save, and of a line, would leave it.
  torn = killed / "checkpoints" / "6.orbax-checkpoint-tmp-123"
  torn.mkdir(parents=True, exist_ok=True)
  (torn / "part").write_text("half")
  with (killed / "metrics.jsonl").open("a") as out:
    out.write('{"step": 99, "ki')
  done = small.p3d_command(
    "train", "--config", config, "--workdir", killed,
    "--config.log.tensorboard=false", "--config.input.threads=1",
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert lines(killed) == lines(whole)
  numbers = [line["step"] for line in lines(whole) if line["kind"] == "train"]
  assert numbers == list(range(1, 10))
  starts = [
    json.loads(line)["step"]
    for line in (killed / "runs.jsonl").read_text().splitlines()
  ]
  assert starts[0] == 0
  assert len(starts) == 2
  assert not torn.exists()
  # The newest two, and the best of those that were evaluated (4, 8 and 9).
  scores = {
    line["step"]: line["video_hit@1"]
    for line in lines(whole)
    if line["kind"] == "eval"
  }
  assert set(scores) == {4, 8, 9}
  best = max(scores, key=lambda step: (scores[step], step))
  assert steps(whole) == steps(killed) == sorted({"8", "9", str(best)})
  for step in steps(whole):
    texts = [
      json.loads((run / "checkpoints" / step / "model/model.json").read_text())
      for run in (whole, killed)
    ]
    assert texts[0]["sha256"] == texts[1]["sha256"]
  other = small.p3d_command(
    "train", "--config", config, "--workdir", killed, "--config.train.ema=0.5"
  )
  assert other.returncode == 2
  assert "config.train.ema was 0.9, is 0.5" in other.stderr
  assert len(other.stderr.splitlines()) == 1
