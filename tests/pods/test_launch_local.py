"""Processes of one run on one machine: started, told apart, started again."""

import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from p3d_jax import cli
from p3d_jax.pods import launch_local, processes
from p3d_jax.pods.launch_local import Share, launch
from tests import small

# The words after it are Python that each process runs.
DRIVER = """
import os, sys
from p3d_jax.pods.launch_local import Share, launch
share = Share(int(sys.argv[1]), 1)
sys.exit(launch(
  [sys.executable, "-c", sys.argv[2]], lambda: share.environments(os.environ),
  restarts=int(sys.argv[3]), grace=float(sys.argv[4]),
))
"""
# What the processes of these tests begin with.
HEAD = """
import os, pathlib, signal, sys, time
k = int(os.environ["P3D_PROCESS"])
"""


def run(
  text: str, count: int = 2, *, restarts: int = 0, grace: float = 5.0
) -> int:
  """Launches Python in this process, which is the launcher then."""
  share = Share(count, 1)
  return launch(
    [sys.executable, "-c", HEAD + text],
    lambda: share.environments(os.environ),
    restarts=restarts,
    grace=grace,
  )


@pytest.fixture
def launcher() -> Iterator:
  """Starts launchers in processes of their own."""
  started: list[subprocess.Popen] = []

  def start(
    text: str, count: int = 2, restarts: int = 0, grace: float = 5.0
  ) -> subprocess.Popen:
    words = [sys.executable, "-c", DRIVER, str(count), HEAD + text]
    started.append(
      subprocess.Popen(
        [*words, str(restarts), str(grace)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=small.environment(),
      )
    )
    return started[-1]

  yield start
  for process in started:
    process.kill()
    process.communicate()


def wait_for(*files: pathlib.Path) -> list[str]:
  """Waits until files are there and written."""
  end = time.monotonic() + 60
  while not all(file.exists() and file.read_text() for file in files):
    assert time.monotonic() < end, f"no {files}"
    time.sleep(0.02)
  return [file.read_text() for file in files]


def wait_until(file: pathlib.Path, text: str) -> None:
  """Waits until a file has a text."""
  end = time.monotonic() + 60
  while not file.exists() or file.read_text() != text:
    assert time.monotonic() < end, f"no {text!r} in {file}"
    time.sleep(0.02)


def alive(pid: int) -> bool:
  """Whether a process runs; one that nobody has reaped does not."""
  try:
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
  except FileNotFoundError:
    return False
  return stat.rpartition(")")[2].split()[0] != "Z"


def gone(*pids: int) -> bool:
  """Waits until processes are gone."""
  end = time.monotonic() + 20
  while any(alive(pid) for pid in pids) and time.monotonic() < end:
    time.sleep(0.02)
  return not any(alive(pid) for pid in pids)


# What a process is given.


def test_environment_of_each_process() -> None:
  user = {"XLA_FLAGS": "--xla_a=1", "HOME": "/h", "P3D_PROCESS": "7"}
  one, two = Share(2, 4).environments(user)
  host, port = one["P3D_COORDINATOR"].split(":")
  assert host == "localhost"
  assert 1024 <= int(port) <= 65534
  assert one == {
    "HOME": "/h",
    "XLA_FLAGS": "--xla_a=1 --xla_force_host_platform_device_count=4",
    "JAX_PLATFORMS": "cpu",
    "P3D_COORDINATOR": f"localhost:{port}",
    "P3D_PROCESSES": "2",
    "P3D_PROCESS": "0",
    "PYTHONUNBUFFERED": "1",
  }
  assert two == one | {"P3D_PROCESS": "1"}
  (alone,) = Share(1, 1).environments({})
  assert alone["P3D_PROCESSES"] == "1"
  assert alone["XLA_FLAGS"] == "--xla_force_host_platform_device_count=1"


def test_gpus_are_shared_out() -> None:
  share = Share(2, 2, ("4", "5", "6", "7"))
  one, two = share.environments({"XLA_FLAGS": "--xla_a=1"})
  assert one["CUDA_VISIBLE_DEVICES"] == "4,5"
  assert two["CUDA_VISIBLE_DEVICES"] == "6,7"
  assert one["XLA_FLAGS"] == "--xla_a=1"
  assert "JAX_PLATFORMS" not in one
  with pytest.raises(ValueError, match="is 6: this machine has 4 GPUs"):
    Share(2, 3, ("4", "5", "6", "7"))


def test_the_gpus_of_this_machine(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  monkeypatch.setenv("PATH", str(tmp_path))
  with pytest.raises(ValueError, match="there is no nvidia-smi here"):
    launch_local.visible_gpus()
  tool = tmp_path / "nvidia-smi"
  tool.write_text(
    '#!/bin/sh\n[ "$*" = --list-gpus ] || exit 1\n'
    "echo 'GPU 0: A (UUID: GPU-1)'\necho 'GPU 1: A (UUID: GPU-2)'\n"
  )
  tool.chmod(0o755)
  assert launch_local.visible_gpus() == ("0", "1")
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-2")
  assert launch_local.visible_gpus() == ("3", "GPU-2")
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
  with pytest.raises(ValueError, match="no GPU that may be used"):
    launch_local.visible_gpus()


# What they print.


def test_lines_say_whose_they_are(capfd: pytest.CaptureFixture) -> None:
  text = "print('out', k); print('err', k, file=sys.stderr)"
  assert run(text, 3) == 0
  out, err = capfd.readouterr()
  assert sorted(out.splitlines()) == [f"[{k}] out {k}" for k in range(3)]
  assert sorted(err.splitlines()) == [f"[{k}] err {k}" for k in range(3)]


def test_lines_are_never_mixed(capfd: pytest.CaptureFixture) -> None:
  """Each line comes in two writes; 2 x 300 of them at the same time."""
  text = """
for i in range(300):
  os.write(1, b"a" * 50)
  os.write(1, b"%d" % k * 50 + b"\\n")
"""
  assert run(text) == 0
  lines = capfd.readouterr().out.splitlines()
  expected = [f"[{k}] " + "a" * 50 + str(k) * 50 for k in (0, 1)]
  assert sorted(lines) == [expected[0]] * 300 + [expected[1]] * 300


def test_a_line_without_an_end_is_not_held_back(launcher) -> None:
  process = launcher("print('no end', end=''); time.sleep(60)", 1)
  began = time.monotonic()
  assert process.stdout.readline() == "[0] no end\n"
  # The second that it is held, and the start of two Pythons on a busy machine.
  assert time.monotonic() - began < 30


def test_of_a_line_written_over_the_last_state_is_told(
  capfd: pytest.CaptureFixture,
) -> None:
  text = r"os.write(1, b'1 of 2\r2 of 2\r\nno end')"
  assert run(text, 1) == 0
  assert capfd.readouterr().out == "[0] 2 of 2\n[0] no end\n"


GLOO = (
  "[Gloo] Rank 0 is connected to {} peer ranks. "
  "Expected number of connected peer ranks is : 1"
)


@pytest.mark.parametrize(
  ("line", "told"),
  [
    pytest.param(GLOO.format(1), False, id="all have met"),
    pytest.param(GLOO.format(0), True, id="one is missing"),
    pytest.param(GLOO.format(1) + " and more", True, id="more"),
    pytest.param("step 3 " + GLOO.format(1), True, id="before"),
    pytest.param("[Gloo] Rank 0 has lost 1", True, id="something else"),
  ],
)
def test_only_what_says_nothing_is_left_out(
  line: str, told: bool, capfd: pytest.CaptureFixture
) -> None:
  assert run(f"print({line!r}); print('end')", 1) == 0
  lines = capfd.readouterr().out.splitlines()
  assert lines == [f"[0] {line}"] * told + ["[0] end"]


def test_a_line_longer_than_a_pipe(capfd: pytest.CaptureFixture) -> None:
  text = "print('x' * 300_000)"
  assert run(text, 1) == 0
  lines = capfd.readouterr().out.splitlines()
  assert "".join(line.removeprefix("[0] ") for line in lines) == "x" * 300_000
  # In parts that memory can hold: what was there, and one read more.
  longest = processes.LONGEST + (1 << 16)
  assert all(len(line) <= len("[0] ") + longest for line in lines)


def test_what_a_process_leaves_open_is_not_waited_for(tmp_path) -> None:
  """A grandchild that holds the pipes is killed with its parent's end."""
  text = f"""
import subprocess
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path({str(tmp_path / "left")!r}).write_text(str(left.pid))
"""
  began = time.monotonic()
  assert run(text, 1) == 0
  assert time.monotonic() - began < 60
  assert gone(int((tmp_path / "left").read_text()))


# How they end.


@pytest.mark.parametrize("status", [1, 2, 76, 130, 75 + 64])
def test_one_ends_badly_and_the_others_are_asked_to(
  status: int, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture
) -> None:
  """The other one says how it was ended."""
  ready, asked = tmp_path / "ready", tmp_path / "asked"
  text = f"""
def asked(number, frame):
  pathlib.Path({str(asked)!r}).write_text(str(number))
  sys.exit(0)
if k == 0:
  signal.signal(signal.SIGTERM, asked)
  pathlib.Path({str(ready)!r}).write_text("x")
  time.sleep(600)
while not os.path.exists({str(ready)!r}): time.sleep(0.01)
sys.exit({status})
"""
  assert run(text, grace=60) == status
  assert asked.read_text() == str(int(signal.SIGTERM))
  told = f"p3d launch: process 1 ended with status {status}"
  told += "; --restarts is 0" if status == 76 else ""
  assert capfd.readouterr().err == told + "\n"


def test_who_does_not_end_is_killed(tmp_path: pathlib.Path) -> None:
  ready = tmp_path / "ready"
  text = f"""
if k == 0:
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  pathlib.Path({str(ready)!r}).write_text(str(os.getpid()))
  time.sleep(600)
while not os.path.exists({str(ready)!r}): time.sleep(0.01)
sys.exit(3)
"""
  began = time.monotonic()
  assert run(text, grace=1.5) == 3
  assert 1.5 <= time.monotonic() - began < 60
  assert gone(int(ready.read_text()))


def test_a_mistake_goes_before_the_loss_that_it_was() -> None:
  """Process 1 has a mistake; process 0 ends first, because 1 is lost."""
  text = """
if k == 0: sys.exit(76)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
time.sleep(600)
"""
  # Process 0 may end before the handler of 1 is there: SIGTERM ends 1 then.
  text = text.replace("if k == 0:", "if k == 0: time.sleep(1);")
  assert run(text, restarts=5) == 2


# How they are started again.


def counting(tmp_path: pathlib.Path, ends: str) -> str:
  """Python that counts its starts in `n`, from 1, and then ends as told."""
  return f"""
mine = pathlib.Path({str(tmp_path)!r}) / f"starts {{k}}"
n = (len(mine.read_text()) if mine.exists() else 0) + 1
mine.write_text("x" * n)
{ends}
"""


def starts(tmp_path: pathlib.Path, k: int = 0) -> int:
  return len((tmp_path / f"starts {k}").read_text())


def test_preempted_runs_are_started_again(
  tmp_path: pathlib.Path, capfd: pytest.CaptureFixture
) -> None:
  """However often, and with new ports."""
  text = counting(tmp_path, "print(os.environ['P3D_COORDINATOR'])\n")
  assert run(text + "sys.exit(75 if n < 4 else 0)", 2, restarts=0) == 0
  assert starts(tmp_path, 0) == starts(tmp_path, 1) == 4
  out, err = capfd.readouterr()
  assert err.splitlines() == [
    f"p3d launch: preempted; starting all again (time {n}, not counted)"
    for n in (1, 2, 3)
  ]
  used = {line.split()[1] for line in out.splitlines()}
  assert 1 < len(used) <= 4  # a port may come twice, but hardly each time


def test_who_is_still_saving_is_not_disturbed(tmp_path: pathlib.Path) -> None:
  """SIGTERM would end process 1 by signal, and count."""
  ends = "time.sleep(k); sys.exit(75 if n == 1 else 0)"
  assert run(counting(tmp_path, ends), 2, restarts=0) == 0
  assert starts(tmp_path, 0) == starts(tmp_path, 1) == 2


def test_lost_hosts_and_deaths_are_counted(
  tmp_path: pathlib.Path, capfd: pytest.CaptureFixture
) -> None:
  ends = """
if n == 1: sys.exit(76)
if n == 2: os.kill(os.getpid(), signal.SIGKILL)
"""
  assert run(counting(tmp_path, ends), 1, restarts=2) == 0
  assert starts(tmp_path) == 3
  assert capfd.readouterr().err.splitlines() == [
    "p3d launch: process 0 ended with status 76; starting all again (1 of 2)",
    "p3d launch: process 0 was killed by SIGKILL; starting all again (2 of 2)",
  ]


def test_a_death_says_that_no_restarts_were_asked_for(
  capfd: pytest.CaptureFixture,
) -> None:
  assert run("os.kill(os.getpid(), signal.SIGKILL)", 1) == 128 + 9
  assert capfd.readouterr().err == (
    "p3d launch: process 0 was killed by SIGKILL; --restarts is 0\n"
  )


def test_the_help_says_what_a_signal_does(
  capsys: pytest.CaptureFixture,
) -> None:
  with pytest.raises(SystemExit):
    cli.main(["launch", "local", "--help"])
  told = " ".join(capsys.readouterr().out.split())
  assert "SIGTERM to one of the processes is a preemption" in told
  assert "SIGTERM to the launcher itself ends the run: all save" in told
  assert "an interrupt (Ctrl-C), but that nothing is saved" in told


def test_not_more_often_than_asked(
  tmp_path: pathlib.Path, capfd: pytest.CaptureFixture
) -> None:
  ends = "os.kill(os.getpid(), signal.SIGKILL)"
  assert run(counting(tmp_path, ends), 1, restarts=1) == 128 + 9
  assert starts(tmp_path) == 2
  assert capfd.readouterr().err.splitlines()[-1] == (
    "p3d launch: process 0 was killed by SIGKILL; started again 1 of 1 times"
  )


@pytest.mark.parametrize("status", [0, 1, 2, 130])
def test_an_end_that_stays(status: int, tmp_path: pathlib.Path) -> None:
  ends = f"sys.exit({status})"
  assert run(counting(tmp_path, ends), 1, restarts=9) == status
  assert starts(tmp_path) == 1


def test_one_preempted_among_others_is_counted(tmp_path: pathlib.Path) -> None:
  """Only if all have saved is a start free: else it could go on for ever."""
  ends = "sys.exit(75 if k == 0 else 0)"
  assert run(counting(tmp_path, ends), 2, restarts=2) == 75
  assert starts(tmp_path) == 3


# What comes from outside.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on_each_time(
  number: signal.Signals, launcher, tmp_path: pathlib.Path
) -> None:
  """Sent three times, it comes three times; nothing is started again.

  A process that swallows the first one, as it begins, has the others.
  """
  text = f"""
here = pathlib.Path({str(tmp_path)!r})
def came(number, frame):
  with open(here / f"came {{k}}", "a") as file:
    file.write(f"{{number}} ")
signal.signal(signal.{number.name}, came)
(here / f"ready {{k}}").write_text("x")
while not (here / "go").exists(): time.sleep(0.01)
sys.exit(75)
"""
  process = launcher(text, restarts=5)
  wait_for(tmp_path / "ready 0", tmp_path / "ready 1")
  for times in (1, 2, 3):
    process.send_signal(number)
    # One at a time: two that wait are one to the kernel.
    came = f"{int(number)} " * times
    wait_until(tmp_path / "came 0", came)
    wait_until(tmp_path / "came 1", came)
  assert process.poll() is None  # it waits for them
  (tmp_path / "go").write_text("x")
  out, err = process.communicate(timeout=60)
  assert process.returncode == 75, err
  for k in (0, 1):
    assert (tmp_path / f"came {k}").read_text() == came


def test_who_was_told_is_not_told_again_by_the_launcher(
  launcher, tmp_path: pathlib.Path
) -> None:
  """After SIGTERM to all, process 1 ends badly; 0 is saving meanwhile."""
  text = f"""
here = pathlib.Path({str(tmp_path)!r})
def came(number, frame):
  with open(here / f"came {{k}}", "a") as file:
    file.write("x")
signal.signal(signal.SIGTERM, came)
(here / f"ready {{k}}").write_text("x")
while not (here / f"came {{k}}").exists(): time.sleep(0.01)
if k == 0: time.sleep(1.5)
sys.exit(2 * k)
"""
  process = launcher(text, grace=60)
  wait_for(tmp_path / "ready 0", tmp_path / "ready 1")
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 2, err
  assert (tmp_path / "came 0").read_text() == "x"


def test_sigterm_before_anything_began_is_143(
  launcher, tmp_path: pathlib.Path
) -> None:
  text = f"""
pathlib.Path({str(tmp_path)!r}, f"ready {{k}}").write_text("x")
time.sleep(600)
"""
  process = launcher(text, restarts=5)
  wait_for(tmp_path / "ready 0", tmp_path / "ready 1")
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=60)
  assert process.returncode == 128 + 15


def test_nobody_outlives_a_launcher_that_is_killed(
  launcher, tmp_path: pathlib.Path
) -> None:
  text = f"""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({str(tmp_path)!r}, f"pid {{k}}").write_text(str(os.getpid()))
time.sleep(600)
"""
  process = launcher(text)
  pids = [
    int(text) for text in wait_for(tmp_path / "pid 0", tmp_path / "pid 1")
  ]
  assert all(alive(pid) for pid in pids)
  process.kill()
  assert gone(*pids)


def test_nobody_outlives_a_launcher_whose_reader_is_gone(
  launcher, tmp_path: pathlib.Path
) -> None:
  """As with `p3d launch ... | head -n 1`."""
  text = f"""
pathlib.Path({str(tmp_path)!r}, f"pid {{k}}").write_text(str(os.getpid()))
while True:
  print("more")
  time.sleep(0.05)
"""
  process = launcher(text)
  pids = [
    int(text) for text in wait_for(tmp_path / "pid 0", tmp_path / "pid 1")
  ]
  process.stdout.readline()
  process.stdout.close()
  assert gone(process.pid, *pids)


# The command line.


@pytest.mark.parametrize(
  ("words", "told"),
  [
    pytest.param(
      "--processes 2 -- models",
      "p3d launch: VERB is 'models': it must be one of train, evaluate, "
      "features",
      id="verb",
    ),
    pytest.param(
      "--processes 0 -- evaluate run",
      "p3d launch: --processes is 0: it must be >= 1",
      id="processes",
    ),
    pytest.param(
      "--processes 2 --devices-per-process 0 -- evaluate run",
      "p3d launch: --devices-per-process is 0: it must be >= 1",
      id="devices",
    ),
    pytest.param(
      "--processes 2 --restarts -1 -- evaluate run",
      "p3d launch: --restarts is -1: it must be >= 0",
      id="restarts",
    ),
    pytest.param(
      "--processes 2 --grace nan -- evaluate run",
      "p3d launch: --grace is nan: it must be >= 0",
      id="grace",
    ),
    pytest.param(
      "--processes 2 --gpus -- evaluate run",
      "p3d launch: --processes is 2: it must divide the 3 GPUs, or give "
      "--devices-per-process",
      id="gpus",
    ),
    pytest.param(
      "--processes 2 -- evaluate",
      "p3d evaluate: the following arguments are required: WORKDIR",
      id="arguments of the verb",
    ),
    pytest.param(
      "--processes 2",
      "p3d launch local: the following arguments are required: VERB",
      id="no verb",
    ),
  ],
)
def test_mistakes_are_told_before_anything_starts(
  words: str,
  told: str,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture,
) -> None:
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
  monkeypatch.setattr(processes, "Process", None)  # none is started
  try:
    status = cli.main(["launch", "local", *words.split()])
  except SystemExit as error:  # the parser's
    status = int(error.code or 0)
  assert status == 2
  assert capsys.readouterr().err == told + "\n"


def test_a_real_verb_in_two_processes(tmp_path: pathlib.Path) -> None:
  """Both come to `p3d evaluate`, which has no such checkpoint."""
  words = shlex.split("launch local --processes 2 -- evaluate 'no run'")
  done = subprocess.run(
    small.command(*words),
    cwd=tmp_path,
    capture_output=True,
    text=True,
    env=small.environment(),
  )
  assert done.returncode == 2
  # Gloo, which joins their CPUs, prints to it in each process.
  assert done.stdout == ""
  *lines, last = done.stderr.splitlines()
  assert re.fullmatch(r"p3d launch: process [01] ended with status 2", last)
  # The first one's end may be quicker than the other one's own line.
  assert any(re.match(r"\[[01]\] p3d evaluate: .*no run", x) for x in lines)
  assert all(re.match(r"\[[01]\] p3d evaluate: ", x) for x in lines)


@pytest.mark.slow
def test_two_processes_evaluate_as_one(tmp_path: pathlib.Path) -> None:
  """The same numbers to rounding, told once, from a real training run."""
  run = [small.trained(), "--split", "train[:11]", "--clips", "3"]
  one, two = tmp_path / "one.json", tmp_path / "two.json"
  done = small.p3d_command("evaluate", *run, "--batch", "3", "--out", one)
  assert done.returncode == 0, done.stderr
  launch = shlex.split("launch local --processes 2 --devices-per-process 4 --")
  launched = small.p3d_command(
    *launch, "evaluate", *run, "--batch", "8", "--out", two
  )
  assert launched.returncode == 0, launched.stderr
  report = done.stdout.replace(str(one), str(two)).splitlines()
  assert launched.stdout.splitlines() == [f"[0] {line}" for line in report]
  # Scores are equal to 1e-5; these are means of hits, which would have to tie.
  first, other = (json.loads(path.read_text()) for path in (one, two))
  for name in ("videos", "clip_hit@1", "video_hit@1", "video_hit@5", "mAP"):
    assert other[name] == pytest.approx(first[name], abs=1e-9)
