"""A trace has the steps that were asked for, and no others."""

import contextlib
import gzip
import io
import json
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from p3d_jax.progress import Bar
from p3d_jax.train import profile as profiles
from p3d_jax.train.loop import train
from p3d_jax.train.meter import Meter
from p3d_jax.train.profile import Profile
from tests import small
from tests.bucket import Buckets


@jax.jit
def squared_and_halved(x: jax.Array) -> jax.Array:
  return x @ x / 2


def made(workdir: Any, bar: Bar, stop: int, **fields: Any) -> Profile:
  plain: dict[str, Any] = {"first_step": 0, "paused": contextlib.nullcontext}
  return Profile(workdir, last_step=stop, bar=bar, **plain | fields)


def run(workdir: Any, stop: int, first_step: int = 0, **fields: int) -> str:
  """Takes steps of that function; returns what is said."""
  out = io.StringIO()
  bar = Bar("train", stop, console=Console(file=out, width=1000))
  x = jnp.ones((8, 8)) / 4
  with made(workdir, bar, stop, first_step=first_step, **fields) as profile:
    for number in range(first_step + 1, stop + 1):
      x = profile.step(number, squared_and_halved, x)
      profile.after(number)
  # The result is that of the steps without a profile.
  assert float(x[0, 0]) == 0.25
  return out.getvalue()


def traced(folder: pathlib.Path, host: str = "host000") -> list[int]:
  """Step numbers in a trace, which both of its files must have alike."""
  plane = jax.profiler.ProfileData.from_file(str(folder / f"{host}.xplane.pb"))
  numbers, functions = [], set()
  for line in (line for p in plane.planes for line in p.lines):
    for event in line.events:
      functions.add(event.name)
      if event.name == "train":
        numbers.append(dict(event.stats)["step_num"])
  # What XLA calls the compiled function.
  assert any("squared_and_halved" in name for name in functions)
  with gzip.open(folder / f"{host}.trace.json.gz") as file:
    events = json.load(file)["traceEvents"]
  shown = [event for event in events if event.get("name") == "train"]
  assert [int(event["args"]["step_num"]) for event in shown] == numbers
  return numbers


def test_the_steps_that_were_asked_for(tmp_path: pathlib.Path) -> None:
  said = run(tmp_path, stop=9, start=2, steps=3)
  folder = tmp_path / "profile" / "plugins" / "profile" / "steps3-5"
  assert traced(folder) == [3, 4, 5]
  # One line, with where it is.
  assert said.splitlines() == [
    f"step 5: a trace of steps 3 to 5 is in {tmp_path}/profile: TensorBoard "
    "with the package xprof shows it"
  ]


def test_a_run_that_goes_on_counts_from_there(tmp_path: pathlib.Path) -> None:
  run(tmp_path, stop=12, first_step=7, start=1, steps=2)
  folder = tmp_path / "profile" / "plugins" / "profile"
  assert [path.name for path in folder.iterdir()] == ["steps9-10"]
  assert traced(folder / "steps9-10") == [9, 10]


def test_a_run_that_ends_before(tmp_path: pathlib.Path) -> None:
  said = run(tmp_path / "short", stop=4, start=2, steps=50)
  folder = tmp_path / "short" / "profile" / "plugins" / "profile" / "steps3-4"
  assert traced(folder) == [3, 4]
  assert "a trace of steps 3 to 4" in said
  said = run(tmp_path / "shorter", stop=9, first_step=7, start=2, steps=50)
  assert said == (
    "profile.start is 2: steps 10 to 59 would be traced, but the run ends at "
    "step 9: there will be no trace\n"
  )
  assert run(tmp_path / "none", stop=2, start=2, steps=0) == ""
  assert not (tmp_path / "shorter").exists()
  assert not (tmp_path / "none").exists()


def test_a_step_that_fails_ends_the_trace(tmp_path: pathlib.Path) -> None:
  def fail(x: jax.Array) -> jax.Array:
    raise RuntimeError("lost")

  def steps() -> None:
    bar = Bar("train", 9, console=Console(file=io.StringIO()))
    with made(tmp_path, bar, 9, start=0, steps=5) as profile:
      x = profile.step(1, squared_and_halved, jnp.ones((8, 8)) / 4)
      profile.step(2, fail, x)

  with pytest.raises(RuntimeError, match="lost"):
    steps()
  folder = tmp_path / "profile" / "plugins" / "profile" / "steps1-5"
  assert traced(folder) == [1, 2]
  run(tmp_path / "next", stop=3, start=0, steps=1)  # the profiler is free


def test_the_profiler_s_own_work_is_in_a_pause(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Also that of writing the trace, which may go to a store."""
  happened: list[object] = []

  @contextlib.contextmanager
  def paused() -> Any:
    happened.append("pause")
    yield
    happened.append("end of it")

  def noting(name: str) -> Any:
    return lambda *_, **__: happened.append(name)

  monkeypatch.setattr(jax.profiler, "start_trace", noting("start"))
  monkeypatch.setattr(jax.profiler, "stop_trace", noting("stop"))
  monkeypatch.setattr(profiles.files, "upload", noting("upload"))
  bar = Bar("train", 4, console=Console(file=io.StringIO()))
  fields: dict[str, Any] = {"start": 1, "steps": 2, "paused": paused}
  with made(tmp_path, bar, 4, **fields) as profile:
    for number in range(1, 5):
      profile.step(number, happened.append, number)
      happened.append("added")
      profile.after(number)
  assert happened == [
    1, "added",
    "pause", "start", "end of it", 2, "added",
    3, "added", "pause", "stop", "upload", "end of it",
    4, "added",
  ]  # fmt: skip


def test_a_run_knows_the_time_of_a_step_before_its_trace_is_written(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  happened: list[str] = []

  def noted(owner: Any, name: str) -> None:
    real = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
      happened.append(name)
      return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)

  noted(Meter, "add")
  noted(Meter, "paused")
  noted(jax.profiler, "start_trace")
  noted(jax.profiler, "stop_trace")
  config = small.config(
    train={"steps": 3},
    eval={"every": 0, "clips": 1},
    profile={"start": 1, "steps": 1},
  )
  train(config, tmp_path)
  assert happened == [
    "add", "paused", "start_trace", "add", "paused", "stop_trace", "add",
  ]  # fmt: skip
  assert (tmp_path / "profile/plugins/profile/steps2-2").is_dir()


def test_each_host_has_its_own_file(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """All in one folder; of several, one says where."""
  said = []
  for host in (0, 3):
    monkeypatch.setattr(jax, "process_index", lambda host=host: host)
    said.append(run(tmp_path, stop=2, start=0, steps=2))
  folder = tmp_path / "profile" / "plugins" / "profile" / "steps1-2"
  assert traced(folder, "host000") == traced(folder, "host003") == [1, 2]
  assert [len(text.splitlines()) for text in said] == [1, 0]


GS = """
import sys
from tests.train.test_profile import run
print(run("gs://test/run", stop=3, start=1, steps=2), end="")
"""


def test_a_workdir_on_a_store(tmp_path: pathlib.Path) -> None:
  """The profiler writes files of this machine alone: they are copied."""
  with Buckets() as buckets:
    done = subprocess.run(
      [sys.executable, "-c", GS],
      capture_output=True,
      text=True,
      env=small.environment() | buckets.environment,
    )
    assert done.returncode == 0, done.stderr
    written = dict(buckets.objects)
  assert "is in gs://test/run/profile: " in done.stdout
  folder = "test/run/profile/plugins/profile/steps2-3"
  assert sorted(written) == [
    f"{folder}/host000.trace.json.gz", f"{folder}/host000.xplane.pb",
  ]  # fmt: skip
  for name, content in written.items():
    (tmp_path / pathlib.Path(name).name).write_bytes(content)
  assert traced(tmp_path) == [2, 3]
