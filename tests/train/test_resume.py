"""A run that is stopped, however it is, and started again is the same run."""

import json
import os
import pathlib
import random
import signal
import subprocess
import time
from typing import Any

import pytest

from p3d_jax.checkpoint import model
from p3d_jax.hosts.ends import PreemptedError
from p3d_jax.train import logs, score
from p3d_jax.train.loop import train
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
    if line["kind"] != logs.OPEN
  ]


def same(one: pathlib.Path, other: pathlib.Path) -> None:
  """The same lines, and the same numbers in the last checkpoint, to the bit."""
  assert lines(one) == lines(other)
  digests = {model.read_record(model.find(run)).sha256 for run in (one, other)}
  assert len(digests) == 1


def steps(workdir: pathlib.Path) -> list[str]:
  return sorted(p.name for p in (workdir / "checkpoints").iterdir())


def kill_at(
  words: list[str],
  workdir: pathlib.Path,
  step: int,
  signal_number: int = signal.SIGKILL,
) -> tuple[int, str]:
  """Runs until metrics.jsonl shows a step, then sends a signal.

  Returns:
    The status, and what it said.
  """
  with subprocess.Popen(
    words,
    env=small.environment(),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
      if any(line["step"] >= step for line in logs.read(workdir)):
        break
      time.sleep(0.01)
    assert process.poll() is None, "it ended before it was killed"
    os.kill(process.pid, signal_number)
    _, said = process.communicate()
    return process.returncode, said


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit(tmp_path: pathlib.Path) -> None:
  config = small.config_file(tmp_path / "config.py", FIELDS)
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  done = small.p3d_command("train", "--config", config, "--workdir", whole)
  assert done.returncode == 0, done.stderr
  words = small.command("train", "--config", config, "--workdir", killed)
  assert kill_at(words, killed, 3)[0] == -signal.SIGKILL
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


@pytest.mark.slow
def test_a_preempted_run_goes_on_to_the_bit(tmp_path: pathlib.Path) -> None:
  """SIGTERM between two lines and two checkpoints: nothing is done again."""
  fields = (
    f"{FIELDS}config.log.every = 4\nconfig.checkpoint.every = 100\n"
    "config.train.steps = 14\nconfig.eval.every = 0"
  )
  config = small.config_file(tmp_path / "config.py", fields)
  whole, stopped = tmp_path / "whole", tmp_path / "stopped"
  done = small.p3d_command("train", "--config", config, "--workdir", whole)
  assert done.returncode == 0, done.stderr
  words = small.command("train", "--config", config, "--workdir", stopped)
  status, said = kill_at(words, stopped, 4, signal.SIGTERM)
  assert status == 75
  step = int(model.find(stopped).name)
  assert 4 < step < 14
  assert said.splitlines()[-1] == (
    f"p3d train: preempted: step {step} is saved in {stopped}, and the same "
    "command goes on from it"
  )
  again = small.p3d_command("train", "--config", config, "--workdir", stopped)
  assert again.returncode == 0, again.stderr
  same(whole, stopped)


def test_an_evaluation_that_was_stopped_is_made_first(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Notice comes while step 2 of 4 is evaluated: the step is there already."""
  plain = score.Scorer.videos

  def noticed(self: Any, *args: Any, **kwargs: Any) -> Any:
    return plain(self, *args, **kwargs | {"notice": lambda: True})

  with monkeypatch.context() as patched:
    patched.setattr(score.Scorer, "videos", noticed)
    with pytest.raises(PreemptedError):
      train(small.config(), tmp_path)
  assert [(x["step"], x["kind"]) for x in logs.read(tmp_path)] == [
    (1, "train"),
    (2, "train"),
  ]
  assert steps(tmp_path) == ["2"]
  train(small.config(), tmp_path)
  same(tmp_path, small.trained())
  assert (
    model.find(tmp_path, "best").name
    == model.find(small.trained(), "best").name
  )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_at_random_moments(tmp_path: pathlib.Path) -> None:
  """SIGKILL while it starts, trains, saves, evaluates: nothing is lost."""
  fields = (
    f"{FIELDS}config.train.steps = 120\nconfig.checkpoint.every = 3\n"
    "config.eval.every = 30\nconfig.log.tensorboard = False"
  )
  config = small.config_file(tmp_path / "config.py", fields)
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  done = small.p3d_command("train", "--config", config, "--workdir", whole)
  assert done.returncode == 0, done.stderr
  words = small.command("train", "--config", config, "--workdir", killed)
  # With what the first run has compiled. From the start to the first new line
  # nothing can be lost but time, so most kills come after it.
  rng, kills, seen = random.Random(0), 0, 0
  while kills < 20:
    with subprocess.Popen(
      words,
      env=small.environment(),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    ) as process:
      early = kills % 5 == 4  # while it reads its checkpoint, or before
      until = time.monotonic() + 300
      while not early and time.monotonic() < until:
        if process.poll() is not None or _newest(killed) > seen:
          break
        time.sleep(0.005)
      time.sleep(rng.uniform(0, 3 if early else 0.4))
      if process.poll() is not None:
        assert process.returncode == 0, process.communicate()[1]
        break
      process.kill()
      process.communicate()
    kills, seen = kills + 1, _newest(killed)
  assert kills == 20, "it was done before: take more steps"
  done = small.p3d_command("train", "--config", config, "--workdir", killed)
  assert done.returncode == 0, done.stderr
  same(whole, killed)


def _newest(workdir: pathlib.Path) -> int:
  return max((line["step"] for line in logs.read(workdir)), default=0)
