"""A host that dies, hangs or stalls: all end, say why, and can go on."""

import pathlib
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from p3d_jax.checkpoint import model
from tests import small
from tests.train import launched

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def fields(**watch: float) -> dict[str, Any]:
  return launched.sections(
    train={"steps": 5000}, checkpoint={"every": 5}, watch=watch
  )


def wait_for(what: Callable[[], bool], processes: list[Any]) -> None:
  until = time.monotonic() + 400
  while not what():
    assert time.monotonic() < until
    assert all(process.poll() is None for process in processes)
    time.sleep(0.05)


def test_a_host_dies_and_the_run_goes_on(tmp_path: pathlib.Path) -> None:
  processes = launched.started(2, tmp_path, fields(), devices=2)
  steps = tmp_path / "checkpoints"
  wait_for(lambda: (steps / "5" / "model").exists(), processes)
  processes[1].kill()
  began = time.monotonic()
  (first, said), (second, _) = launched.ended(processes, timeout=60)
  # jax by itself waits 100 s, and is then aborted.
  assert time.monotonic() - began < 20
  assert (first, second) == (76, -signal.SIGKILL)
  assert said.splitlines()[-1].startswith("p3d: process 1 (")
  assert said.splitlines()[-1].endswith(") died")
  at = int(model.find(tmp_path).name)
  assert at >= 5
  # Started again, it is the same run: to its notice some steps later.
  words = launched.done(
    2, tmp_path, fields(), "--stop", at + 2, devices=2, status=75
  )
  assert f"going on from step {at}:" in words[0]


def test_a_host_hangs(tmp_path: pathlib.Path) -> None:
  """Stopped as a whole: no sign, no stacks, and it is named by the other."""
  processes = launched.started(2, tmp_path, fields(lost=5), devices=2)
  wait_for(lambda: 3 in launched.losses(tmp_path), processes)
  processes[1].send_signal(signal.SIGSTOP)
  began = time.monotonic()
  (first, said), *_ = launched.ended(processes[:1], timeout=60)
  assert first == 76
  assert time.monotonic() - began < 30
  last = said.splitlines()[-1]
  assert last.startswith("p3d: process 1 (")
  assert last.endswith("hangs: no sign for 5 s")
  processes[1].send_signal(signal.SIGCONT)
  (second, _), *_ = launched.ended(processes[1:], timeout=60)
  assert second == 76  # nor does it wait for the other


def test_a_step_stalls_on_one_host(tmp_path: pathlib.Path) -> None:
  """Its reading waits for ever: both write their stacks, and say who."""
  processes = launched.started(
    2, tmp_path, fields(stall=60), "--hang", 4, devices=2
  )
  found = launched.ended(processes, timeout=400)
  assert [status for status, _ in found] == [76, 76]
  for process, (_, said) in enumerate(found):
    last = said.splitlines()[-1]
    assert "no step for 60 s: process 0 (" in last
    assert "stands at 'step 5', process 1 (" in last
    assert last.endswith(" at 'reading step 5'")
    stacks = tmp_path / "stalls" / f"stall-host{process:03d}.txt"
    assert ("in beat" in stacks.read_text()) == (process == 1)


def test_the_launcher_starts_a_run_again(tmp_path: pathlib.Path) -> None:
  """`p3d launch local` with a host that is killed: all go on by themselves."""
  config = small.config_file(
    tmp_path / "config.py",
    f"for name, values in {fields()!r}.items():\n"
    "  config[name].update(values)\nconfig.train.steps = 40",
  )
  workdir = tmp_path / "run"
  words = small.command(
    "launch", "local", "--processes", 2, "--restarts", 1, "--",
    "train", "--config", config, "--workdir", workdir,
  )  # fmt: skip
  with subprocess.Popen(
    words,
    env=small.environment(1),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  ) as launcher:
    wait_for(lambda: 6 in launched.losses(workdir), [launcher])
    children = pathlib.Path(
      f"/proc/{launcher.pid}/task/{launcher.pid}/children"
    ).read_text()
    subprocess.run(["kill", "-9", children.split()[1]], check=True)
    _, said = launcher.communicate(timeout=400)
  assert launcher.returncode == 0, said
  assert "[0] p3d: process 1 (" in said
  assert "1 of 1" in said  # restarts
  assert list(launched.losses(workdir)) == list(range(1, 41))
