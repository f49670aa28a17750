"""The roll, between real processes that are killed, stopped and held up.

Most do without jax, so that they start at once; times are bounds, not aims.
"""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from p3d_jax.hosts.json_lines import Line, Message
from p3d_jax.hosts.roll_hub import Member, standing
from tests import small

# What `p3d` does around a verb. `work` is one of the tests' few lines.
MEMBER = """
import os, sys, time
from p3d_jax.hosts import roll_hub
roll_hub.TICK = 0.1  # the tests wait for a tenth of the time
from p3d_jax.hosts import ends, meeting, stop
stop.LAST_WORDS = 2.0
from p3d_jax.hosts.roll_call import gather
port, process, wait, names, work = sys.argv[1:]
process, names = int(process), names.split(",")
try:
  with gather("localhost", int(port), process, names, float(wait)) as roll:
    print("here", flush=True)
    exec(work)
except ends.EndedError as error:
  print(f"p3d: {error}", file=sys.stderr)
  sys.exit(meeting.leave(error.status))
except ValueError as error:
  print(f"p3d: {error}", file=sys.stderr)
  sys.exit(meeting.leave(2))
print("done", flush=True)
"""
STEPS = """
for step in range(6000):
  roll.beat(f"step {step}")
  time.sleep(0.01)
"""


def free_port() -> int:
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return int(free.getsockname()[1])


class Run:
  """Some processes that call one roll."""

  def __init__(self, names: str = "a,b,c", wait: float = 60) -> None:
    self.names, self.wait, self.port = names, wait, free_port()
    self.started: list[subprocess.Popen[str]] = []

  def start(
    self, process: int, work: str = "", names: str | None = None
  ) -> subprocess.Popen[str]:
    words = [self.port, process, self.wait, names or self.names, work]
    started = subprocess.Popen(
      [sys.executable, "-c", MEMBER, *map(str, words)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env=small.environment(),
    )
    self.started.append(started)
    return started

  def begin(self, *works: str) -> list[subprocess.Popen[str]]:
    """Starts process 0, 1, ...; returns when all have come."""
    members = [self.start(k, work) for k, work in enumerate(works)]
    for member in members:
      assert member.stdout
      assert member.stdout.readline() == "here\n", ended(member)
    return members


@pytest.fixture
def run() -> Iterator[Run]:
  made = Run()
  yield made
  for process in made.started:
    process.kill()
    process.communicate()


def ended(process: subprocess.Popen[str], within: float = 30) -> str:
  """Waits for a process, so many seconds; returns its standard error."""
  return process.communicate(timeout=within)[1]


def lines(process: subprocess.Popen[str], within: float = 30) -> list[str]:
  """The lines that are ours."""
  text = ended(process, within).splitlines()
  return [line for line in text if line.startswith("p3d: ")]


def test_any_order(run: Run) -> None:
  late = [run.start(2), run.start(1)]
  time.sleep(1)
  for process in (run.start(0), *late):
    assert ended(process) == ""
    assert process.returncode == 0


def test_who_does_not_come_is_named_by_all_who_came(run: Run) -> None:
  run.names, run.wait = "a,,c,d,e", 2
  began = time.monotonic()
  came = [run.start(k) for k in (0, 4)]
  line = (
    "p3d: 3 of 5 hosts did not come within 2 s: process 1, process 2 (c), "
    "process 3 (d)"
  )
  for process in came:
    assert lines(process) == [line]
    assert process.returncode == 76
  assert time.monotonic() - began < 15


def test_process_0_says_whom_it_waits_for(run: Run) -> None:
  text = (
    "from p3d_jax.hosts import roll_hub\nroll_hub.NOTICE = 0.2\n"
    "from p3d_jax.hosts.roll_call import gather\n"
    f"gather('localhost', {run.port}, 0, ['', 'b', ''], 1.5)\n"
  )
  process = subprocess.run(
    [sys.executable, "-c", text],
    stderr=subprocess.PIPE,
    text=True,
    env=small.environment(),
  )
  first = process.stderr.splitlines()[0]
  assert first == "p3d: waiting for process 1 (b), process 2"


def test_one_that_came_and_died_did_not_come(run: Run) -> None:
  run.names, run.wait = "a,b,c", 3
  first, second = run.start(0), run.start(1)
  time.sleep(1.5)
  second.kill()
  assert lines(first) == [
    "p3d: 2 of 3 hosts did not come within 3 s: process 1 (b), process 2 (c)"
  ]


def test_no_coordinator(run: Run) -> None:
  run.wait = 1
  process = run.start(1)
  assert lines(process) == [
    f"p3d: process 0 (a) did not come: localhost:{run.port} could not be "
    "reached within 1 s (Connection refused)"
  ]
  assert process.returncode == 76


def test_who_does_not_fit_is_refused_and_no_other(run: Run) -> None:
  run.names = ",,"
  zero, one = run.start(0), run.start(1)
  time.sleep(1)
  twin, other = run.start(1), run.start(2, names=",,,,")
  host = socket.gethostname()
  assert lines(twin) == [
    f"p3d: two processes have the number 1: {host} came first, {host} is "
    "refused"
  ]
  assert lines(other) == [
    f"p3d: process 2 ({host}) is one of 5, process 0 one of 3"
  ]
  assert twin.returncode == other.returncode == 2
  for process in (zero, one, run.start(2)):
    assert ended(process) == ""
    assert process.returncode == 0


def test_who_is_refused_is_named_when_the_time_is_over(run: Run) -> None:
  run.names, run.wait = "a,b", 3
  zero = run.start(0)
  run.start(1, names="a,b,c,d")
  assert lines(zero) == [
    "p3d: 1 of 2 hosts did not come within 3 s: process 1 (b); "
    "process 1 (b) is one of 4, process 0 one of 2"
  ]


def test_a_second_process_0(run: Run) -> None:
  first = run.start(0)
  time.sleep(1)
  second = run.start(0)
  (line,) = lines(second)
  assert line == (
    f"p3d: port {run.port} of process 0 cannot be had (Address already in use):"
    " the coordinator's and the one above must be free; is there another "
    "process 0?"
  )
  assert second.returncode == 2
  for process in (run.start(1), run.start(2), first):
    assert ended(process) == ""


STRANGERS = [
  b"",
  b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
  b"\x16\x03\x01\x02\x00\x01\xfe\n\n",
  b"[1]\n",
  b'{"process": 1}\n',
  b'{"process": true, "processes": 3, "name": "x"}\n',
  b'{"process": 7, "processes": 3, "name": "x"}\n',
  b'{"process": 1, "processes": 3, "name": 5}\n',
  b'{"end": "hostile"}\n{"stopped": "hostile"}\n',
  b"[" * 60_000 + b"\n",
  b"x" * 1_000_000,
]


def test_strangers(run: Run) -> None:
  zero = run.start(0)
  held = []
  for words in STRANGERS:
    link = connected(run.port)
    threading.Thread(target=said, args=(link, words), daemon=True).start()
    held.append(link)
  connected(run.port).close()
  for process in (run.start(1), run.start(2), zero):
    assert ended(process) == ""
    assert process.returncode == 0


def test_a_line_without_an_end_is_no_friend() -> None:
  one, other = socket.socketpair()
  with one, other:
    line = Line(one)
    threading.Thread(target=said, args=(other, b"x" * 100_000)).start()
    heard: list[Message] | None = []
    for _ in range(1000):
      heard = line.read()
      if heard is None:
        break
      time.sleep(0.01)
    assert heard is None


def test_a_line_keeps_what_is_cut() -> None:
  one, other = socket.socketpair()
  with one, other:
    line = Line(one)
    other.sendall(b'{"a": 1}\n{"b"')
    assert line.read() == [{"a": 1}]
    assert line.read() == []
    other.sendall(b": 2}\n")
    assert line.read() == [{"b": 2}]
    other.close()
    assert line.read() is None


def connected(port: int) -> socket.socket:
  until = time.monotonic() + 10
  while True:
    try:
      return socket.create_connection(("localhost", port))
    except ConnectionRefusedError:
      assert time.monotonic() < until
      time.sleep(0.05)


def said(link: socket.socket, words: bytes) -> None:
  try:
    link.sendall(words)
  except OSError:  # it hung up
    return


@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed(run: Run, victim: int) -> None:
  members = run.begin(STEPS, STEPS, STEPS)
  members[victim].kill()
  began = time.monotonic()
  for k, process in enumerate(members):
    if k != victim:
      assert lines(process) == [f"p3d: process {victim} ({'ab'[victim]}) died"]
      assert process.returncode == 76
  # A closed connection is seen at once; Python's threads take turns.
  assert time.monotonic() - began < 5


@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_stopped(run: Run, victim: int) -> None:
  work = "roll.watch(None, lost=1.5)" + STEPS
  members = run.begin(work, work, work)
  time.sleep(0.5)  # in which process 0 has heard of the 1.5 s
  os.kill(members[victim].pid, signal.SIGSTOP)
  line = f"p3d: process {victim} ({'ab'[victim]}) hangs: no sign for 1.5 s"
  for k, process in enumerate(members):
    if k != victim:
      assert lines(process, within=20) == [line]
      assert process.returncode == 76
  # And if it wakes up again it does not go on alone.
  os.kill(members[victim].pid, signal.SIGCONT)
  assert lines(members[victim]) == [line]
  assert members[victim].returncode == 76


@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_stopped_for_less(run: Run, victim: int) -> None:
  run.names = "a,b"
  work = "roll.watch(None, lost=3)\ntime.sleep(4)"
  members = run.begin(work, work)
  time.sleep(0.5)
  os.kill(members[victim].pid, signal.SIGSTOP)
  time.sleep(2)
  os.kill(members[victim].pid, signal.SIGCONT)
  for process in members:
    assert ended(process) == ""
    assert process.returncode == 0


def test_one_stops_with_an_error(run: Run) -> None:
  bad = "time.sleep(0.5); raise ValueError('no video\\n in /data')"
  members = run.begin(STEPS, STEPS, bad)
  for process in members[:2]:
    assert lines(process) == ["p3d: process 2 (c) stopped: no video in /data"]
    assert process.returncode == 2
  assert "p3d: no video" in ended(members[2])
  assert members[2].returncode == 2


def test_process_0_stops_with_an_error(run: Run) -> None:
  members = run.begin("raise ValueError('full')", STEPS, STEPS)
  for process in members[1:]:
    assert lines(process) == ["p3d: process 0 (a) stopped: full"]
    assert process.returncode == 2
  assert lines(members[0]) == ["p3d: full"]
  assert members[0].returncode == 2


def test_an_error_that_nobody_catches(run: Run) -> None:
  run.names = "a,b"
  members = run.begin("1 / 0", STEPS)
  assert lines(members[1]) == ["p3d: process 0 (a) stopped: division by zero"]
  error = ended(members[0])
  assert error.rstrip().endswith("ZeroDivisionError: division by zero")
  assert members[0].returncode == 1


def test_the_same_error_in_all_is_told_by_each(run: Run) -> None:
  work = "time.sleep(0.3 * process); raise ValueError(f'batch in {process}')"
  for k, process in enumerate(run.begin(work, work, work)):
    assert lines(process) == [f"p3d: batch in {k}"]
    assert process.returncode == 2


def test_all_are_preempted(run: Run) -> None:
  work = "time.sleep(process / 2); raise ends.PreemptedError('saved step 7')"
  for process in run.begin(work, work, work):
    assert lines(process) == ["p3d: saved step 7"]
    assert process.returncode == 75


def test_the_first_to_be_done_waits_for_the_last(run: Run) -> None:
  members = run.begin("time.sleep(2)", "", "")
  time.sleep(1)
  assert [process.poll() for process in members] == [None] * 3
  began = time.monotonic()
  for process in members:
    assert ended(process) == ""
    assert process.returncode == 0
  assert time.monotonic() - began < 10


def test_one_dies_while_the_others_wait_for_it(run: Run) -> None:
  members = run.begin("", "", STEPS)
  time.sleep(1)
  members[2].kill()
  for process in members[:2]:
    assert lines(process) == ["p3d: process 2 (c) died"]
    assert process.returncode == 76


STALL = """
def reads_for_ever():
  time.sleep(600)
with roll.watch(1, epath.Path(OUT)):
  for step in range(43):
    roll.beat(f"step {step}")
  if process == 1:
    roll.beat("reading step 42")
  reads_for_ever()
"""


def stalls(out: pathlib.Path) -> str:
  return f"from etils import epath\nOUT = {str(out)!r}\n{STALL}"


def test_a_stalled_step_shows_the_stacks_of_all(
  run: Run, tmp_path: pathlib.Path
) -> None:
  out = tmp_path / "run"
  members = run.begin(*[stalls(out)] * 3)
  line = (
    "p3d: no step for 1 s: process 1 (b) stands at 'reading step 42', the "
    "others at 'step 42'"
  )
  for k, process in enumerate(members):
    error = ended(process)
    assert error.splitlines()[-1] == line
    assert error.count("in reads_for_ever") == 1
    assert process.returncode == 76
    stacks = (out / f"stall-host{k:03d}.txt").read_text()
    assert "in reads_for_ever" in stacks
    assert stacks.startswith(line.removeprefix("p3d: "))
  assert sorted(p.name for p in out.iterdir()) == [
    f"stall-host{k:03d}.txt" for k in range(3)
  ]


def test_a_host_that_is_stopped_is_named_by_a_stall(run: Run) -> None:
  run.names = "a,b"
  stall = "roll.watch(3, lost=60); roll.beat('step 1'); time.sleep(600)"
  members = run.begin(stall, stall)
  time.sleep(0.5)
  os.kill(members[1].pid, signal.SIGSTOP)
  (_, line) = lines(members[0])
  line = re.sub(r"for [23] s\)", "for 2 s)", line)
  assert line == (
    "p3d: no step for 3 s: process 1 (b) stands at 'step 1' (no sign of it for "
    "2 s), process 0 (a) at 'step 1'"
  )


def test_alone(tmp_path: pathlib.Path) -> None:
  work = stalls(tmp_path)
  text = (
    "import time, sys\n"
    "from p3d_jax.hosts import roll_hub\nroll_hub.TICK = 0.1\n"
    "from p3d_jax.hosts import meeting\nprocess = 0\n"
    "with meeting.join(meeting.Meeting()) as roll:\n"
    "  with roll.watch(0.5):\n    pass\n"
    "  time.sleep(1)\n"
    "  with roll.watch(1):\n"
    "    for step in range(8):\n      roll.beat('x'); time.sleep(0.25)\n"
    "  assert 'jax' not in sys.modules\n"
    f"  exec({work!r})\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", text],
    stderr=subprocess.PIPE,
    text=True,
    env=small.environment(),
  )
  assert done.returncode == 76
  assert done.stderr.splitlines()[-1] == (
    "p3d: no step for 1 s: it stands at 'step 42'"
  )
  assert "in reads_for_ever" in (tmp_path / "stall-host000.txt").read_text()


def test_alone_after_an_error_it_watches_again() -> None:
  """As in a notebook, where the next cell trains without meeting anybody."""
  text = (
    "import time\n"
    "from p3d_jax.hosts import meeting, roll\n"
    "roll.TICK = 0.1\n"
    "try:\n"
    "  with meeting.join(meeting.Meeting()) as met, met.watch(5):\n"
    "    raise ValueError\n"
    "except ValueError:\n"
    "  time.sleep(0.5)\n"
    "with roll.current().watch(0.5):\n"
    "  time.sleep(5)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", text],
    stderr=subprocess.PIPE,
    text=True,
    env=small.environment(),
  )
  assert done.returncode == 76, done.stderr


def test_an_abort_in_c_waits_for_the_line() -> None:
  text = """
import ctypes, threading, time
from p3d_jax.hosts import stop
stop.hold_aborts()
def later():
  time.sleep(0.5)
  stop.stop("process 0 died")
threading.Thread(target=later).start()
ctypes.CDLL(None).abort()
"""
  done = subprocess.run(
    [sys.executable, "-c", text],
    stderr=subprocess.PIPE,
    text=True,
    env=small.environment(),
  )
  assert done.stderr == "p3d: process 0 died\n"
  assert done.returncode == 76


def test_nobody_reads_what_it_says(run: Run) -> None:
  run.names = "a,b"
  fill = "os.write(2, b'x' * 65536)\n" + STEPS  # the whole pipe
  members = run.begin(fill, STEPS)
  time.sleep(0.5)
  members[1].kill()
  members[0].wait(timeout=15)
  assert members[0].returncode == 76


def member(process: int, at: str, seen: float = 99.0) -> Member:
  line = None
  return Member(process, f"h{process}", line, seen, at)  # type: ignore[arg-type]


@pytest.mark.parametrize(
  ("places", "expected"),
  [
    pytest.param(
      ["x", "x", "y", "x"],
      "process 2 (h2) stands at 'y', the others at 'x'",
      id="one",
    ),
    pytest.param(
      ["x", "x", "y", "y", "z", "x"],
      "process 4 (h4) stands at 'z', process 2 (h2), process 3 (h3) stand at "
      "'y', the others at 'x'",
      id="three-places",
    ),
    pytest.param(["x", "x"], "all stand at 'x'", id="all"),
    pytest.param(
      ["x", "y"],
      "process 0 (h0) stands at 'x', process 1 (h1) at 'y'",
      id="two",
    ),
  ],
)
def test_who_stands_where(places: Sequence[str], expected: str) -> None:
  members = [member(k, place) for k, place in enumerate(places)]
  assert standing(members, 100.0) == expected
