"""Functions in a process that can be killed."""

import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from p3d_jax.data.decode import VideoError
from p3d_jax.data.guard import (
  CrashError,
  Guard,
  GuardError,
  Guards,
  HangError,
)

HERE = "guarded"


def alive(pid: int) -> bool:
  """Whether a process is there and is no zombie."""
  stat = pathlib.Path(f"/proc/{pid}/stat")
  try:
    return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
  except FileNotFoundError:
    return False


def wait_until_gone(pid: int, seconds: float) -> None:
  end = time.monotonic() + seconds
  while alive(pid):
    assert time.monotonic() < end, "the process is still there"
    time.sleep(0.05)


def test_what_comes_back_is_what_was_returned() -> None:
  sent: dict[str, Any] = {
    "clip": np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)[:, ::-1],
    "empty": np.zeros((0, 4), np.float32),
    "number": np.float64(0.1) * np.ones(()),
    "bytes": b"\0\xff" * 70_000,
    "nothing": b"",
    "text": "日本 \n",
    "list": [1, None, [2.5, True]],
  }
  with Guard(60) as guard:
    got = guard.call(f"{HERE}:returned", **sent)
    assert guard.call(f"{HERE}:returned", a=1) == {"a": 1}
  assert got.keys() == sent.keys()
  for name, value in sent.items():
    if isinstance(value, np.ndarray):
      assert got[name].dtype == value.dtype
      assert got[name].shape == value.shape
      assert np.array_equal(got[name], value)
    else:
      assert got[name] == value


def test_one_process_serves_many_calls() -> None:
  with Guard(60) as guard:
    pids = {guard.call(f"{HERE}:pid")["pid"] for _ in range(5)}
  assert len(pids) == 1
  assert pids != {os.getpid()}
  wait_until_gone(pids.pop(), 30)


def test_an_error_of_the_video_is_told_and_the_process_goes_on() -> None:
  with Guard(60) as guard:
    pid = guard.call(f"{HERE}:pid")["pid"]
    with pytest.raises(VideoError, match="^line one line two$"):
      guard.call(f"{HERE}:refuses", "line one\n  line two")
    assert guard.call(f"{HERE}:pid")["pid"] == pid


@pytest.mark.parametrize("how", ["sleeps", "spins", "ignores_signals"], ids=str)
def test_what_never_returns_is_killed(how: str) -> None:
  with Guard(60) as guard:
    pid = guard.call(f"{HERE}:pid")["pid"]
    guard.timeout = 0.5
    began = time.monotonic()
    with pytest.raises(HangError, match="not done after 0.5 seconds"):
      guard.call(f"{HERE}:{how}")
    # The rest is the time to kill it; the machine may be busy.
    assert time.monotonic() - began < 30
    assert not alive(pid)
    guard.timeout = 60
    assert guard.call(f"{HERE}:pid")["pid"] != pid


@pytest.mark.parametrize(
  ("how", "name"),
  [("segfaults", "SIGSEGV"), ("aborts", "SIGABRT"), ("exits", "status 7")],
)
def test_what_takes_its_process_along_is_told(how: str, name: str) -> None:
  with Guard(60) as guard:
    with pytest.raises(CrashError, match=f"its process crashed .{name}"):
      guard.call(f"{HERE}:{how}")
    assert guard.call(f"{HERE}:returned", a=1) == {"a": 1}


def test_a_bug_is_no_error_of_the_video() -> None:
  with Guard(60) as guard:
    for name, said in (
      (f"{HERE}:has_a_bug", "KeyError: 'bug'"),
      (f"{HERE}:is_not_there", "AttributeError"),
      ("no_such_module:f", "ModuleNotFoundError"),
      (f"{HERE}:returns_objects", "TypeError"),
    ):
      with pytest.raises(GuardError, match=said):
        guard.call(name)


def test_a_process_that_does_not_start_is_no_error_of_the_video(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(sys, "executable", "/bin/false")
  with Guard(60) as guard, pytest.raises(GuardError) as caught:
    guard.call(f"{HERE}:pid")
  # The machine's, so `p3d` tells it in one line.
  assert isinstance(caught.value, OSError)
  assert "did not start (status 1): it said nothing" in str(caught.value)


def test_threads_have_a_process_each_and_closing_ends_them_all() -> None:
  guards = Guards(60)
  barrier = threading.Barrier(3)
  pids: list[int] = []
  ends: list[str] = []

  def work() -> None:
    with guards.borrow() as guard:
      pids.append(guard.call(f"{HERE}:pid")["pid"])
      barrier.wait()
      try:
        guard.call(f"{HERE}:sleeps")
      except GuardError as error:
        ends.append(str(error))

  threads = [threading.Thread(target=work) for _ in range(2)]
  for thread in threads:
    thread.start()
  barrier.wait()
  time.sleep(0.2)
  began = time.monotonic()
  guards.close()
  for thread in threads:
    thread.join(10)
    assert not thread.is_alive()
  assert time.monotonic() - began < 10  # and not the 60 of the time-out
  assert ends == ["it was closed while it worked"] * 2
  assert len(set(pids)) == 2
  for pid in pids:
    wait_until_gone(pid, 30)
  with pytest.raises(GuardError, match="closed"):
    guards.call(f"{HERE}:pid")


def test_a_pickled_pool_has_processes_of_its_own() -> None:
  with Guards(60) as guards:
    pid = guards.call(f"{HERE}:pid")["pid"]
    with pickle.loads(pickle.dumps(guards)) as copy:
      assert copy.timeout == 60
      assert copy.call(f"{HERE}:pid")["pid"] != pid


def test_a_child_of_a_killed_parent_does_not_stay() -> None:
  """Idle it reads the end of the socket; at work the system's alarm ends it."""
  text = (
    "import sys, os, threading, time\n"
    "from p3d_jax.data.guard import Guard\n"
    "guards = [Guard(0.5), Guard(60)]\n"
    "pids = [g.call('guarded:pid')['pid'] for g in guards]\n"
    "threading.Thread(target=guards[0].call, args=('guarded:spins',)).start()\n"
    "time.sleep(0.2)\n"
    "print(*pids, flush=True)\n"
    "os.kill(os.getpid(), 9)\n"
  )
  path = os.pathsep.join(sys.path)
  done = subprocess.run(
    [sys.executable, "-c", text],
    capture_output=True,
    text=True,
    env=os.environ | {"PYTHONPATH": path},
  )
  assert done.returncode == -signal.SIGKILL, done.stderr
  busy, idle = map(int, done.stdout.split())
  wait_until_gone(idle, 30)
  wait_until_gone(busy, 2 * 0.5 + 5 + 30)


def test_sigterm_is_for_the_parent() -> None:
  """A child that is sent it from its start on answers all the same."""
  done = threading.Event()
  sent: set[int] = set()

  def storm() -> None:
    while not done.wait(0.001):
      if pid := guard.pid:
        os.kill(pid, signal.SIGTERM)
        sent.add(pid)

  with Guard(60) as guard:
    thread = threading.Thread(target=storm)
    thread.start()
    try:
      pids = {guard.call(f"{HERE}:pid")["pid"] for _ in range(100)}
    finally:
      done.set()
      thread.join()
  assert len(pids) == 1
  assert sent == pids
  wait_until_gone(pids.pop(), 30)


def test_what_crashes_once_is_called_again(tmp_path: pathlib.Path) -> None:
  with Guards(60) as guards:
    marker = str(tmp_path / "marker")
    assert guards.call(f"{HERE}:crashes_once", marker) == {"done": True}
    with pytest.raises(CrashError):
      guards.call(f"{HERE}:segfaults")


def test_the_current_folder_holds_no_modules(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  (tmp_path / "signal.py").write_text("raise SystemExit('shadowed')")
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
  with Guard(60) as guard:
    assert guard.call(f"{HERE}:returned", a=1) == {"a": 1}


def test_a_closed_guard_starts_nothing() -> None:
  guard = Guard(60)
  guard.close()
  with pytest.raises(GuardError, match="closed"):
    guard.call(f"{HERE}:pid")


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf"), 1e7])
def test_a_timeout_that_is_none(timeout: float) -> None:
  with pytest.raises(ValueError, match="timeout="):
    Guard(timeout)
  with pytest.raises(ValueError, match="timeout="):
    Guards(timeout)
