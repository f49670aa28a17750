"""Compiled programs on gs:// and on disk."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator

import jax
import pytest

from p3d_jax.checkpoint import model
from p3d_jax.pods.launch_local import Share
from p3d_jax.train import compile_cache as module
from p3d_jax.train import logs
from p3d_jax.train.compile_cache import compile_cache
from p3d_jax.train.meter import CLOCK
from tests import bucket, small

# Says how often JAX found a program there, and how often it did not.
PROGRAM = """
import collections, sys
import jax, jax.numpy as jnp
from p3d_jax.train.compile_cache import compile_cache
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
compile_cache(sys.argv[2])  # another folder, which is in use
jax.jit(lambda x: x * 3)(2.0)
counts = collections.Counter()
jax.monitoring.register_event_listener(
  lambda name, **_: counts.update([name.rpartition("/")[2]])
)
compile_cache(sys.argv[1])
jax.jit(lambda x: jnp.sin(x) @ x.T * 3)(jnp.ones((5, 7)))
print(counts["cache_hits"], counts["cache_misses"])
"""


def compiled(folder: object) -> tuple[int, int]:
  """Compiles in a process of its own; returns hits and misses."""
  left_out = "JAX_COMPILATION_CACHE_DIR"
  env = small.environment() | bucket.running().environment
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM, str(folder), str(small.folder())],
    capture_output=True,
    text=True,
    env={name: value for name, value in env.items() if name != left_out},
  )
  assert done.returncode == 0, done.stderr
  assert "Error" not in done.stderr, done.stderr
  hits, misses = done.stdout.split()
  return int(hits), int(misses)


@pytest.mark.parametrize("kind", ["store", "folder"])
def test_the_second_process_compiles_nothing(
  kind: str, tmp_path: pathlib.Path
) -> None:
  home = f"test/{uuid.uuid4().hex}/programs"
  folder = f"gs://{home}" if kind == "store" else tmp_path / "programs"
  hits, misses = compiled(folder)
  assert hits == 0
  assert misses > 0
  buckets = bucket.running()
  if kind == "store":
    kept = [name for name in buckets.objects if name.startswith(home)]
  else:
    kept = [path.name for path in (tmp_path / "programs").glob("*-cache")]
  assert len(kept) == misses
  assert compiled(folder) == (misses, 0)
  if kind == "store":
    assert len(buckets.done("read", home)) == misses
    assert len(buckets.done("write", home)) == misses


def test_folders_that_cannot_be(tmp_path: pathlib.Path) -> None:
  (tmp_path / "file").write_text("")
  bucket.running()
  for folder, message in (
    (tmp_path / "file", "^config.compile.cache='.*/file': it is a file, not a"),
    (
      tmp_path / "file" / "x",
      "^config.compile.cache='.*/x': .*Not a dir",
    ),
    ("gs://tset/x", "^config.compile.cache='gs://tset/x': gs://tset cannot be"),
  ):
    with pytest.raises(ValueError, match=message):
      compile_cache(folder)


# Compiles with what the environment says; tells hits, misses and the folder.
BY_DEFAULT = """
import collections, json, sys
import jax, jax.numpy as jnp
from p3d_jax.train.compile_cache import compile_cache
counts = collections.Counter()
jax.monitoring.register_event_listener(
  lambda name, **_: counts.update([name.rpartition("/")[2]])
)
compile_cache(*sys.argv[1:])
jax.jit(lambda x: jnp.sin(x) @ x.T * 3)(jnp.ones((5, 7)))
folder = jax.config.jax_compilation_cache_dir
print(json.dumps([counts["cache_hits"], counts["cache_misses"], folder]))
"""


def environment(home: object, **names: str) -> dict[str, str]:
  """The environment of a user who has set nothing but some names."""
  unset = ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME", module.VARIABLE)
  found = small.environment() | {"HOME": str(home)}
  return {n: v for n, v in found.items() if n not in unset} | names


def by_default(
  home: object, *words: str, **names: str
) -> tuple[int, int, str | None, str]:
  """Compiles in a process; returns hits, misses, the folder, what it said."""
  done = subprocess.run(
    [sys.executable, "-c", BY_DEFAULT, *words],
    env=environment(home, **names),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  hits, misses, folder = json.loads(done.stdout)
  return hits, misses, folder, done.stderr


def kept(folder: pathlib.Path) -> list[str]:
  return sorted(path.name for path in folder.rglob("*-cache"))


def test_a_home_keeps_programs(tmp_path: pathlib.Path) -> None:
  home = tmp_path / ".cache" / "p3d_jax" / "compiled" / module.machine()
  hits, misses, folder, said = by_default(tmp_path)
  assert (hits, folder, said) == (0, str(home), "")
  assert misses == len(kept(home)) > 0
  assert home.stat().st_mode & 0o777 == 0o700
  assert by_default(tmp_path) == (misses, 0, str(home), "")
  assert [path.name for path in home.parent.iterdir()] == [module.machine()]


@pytest.mark.parametrize("part", [0, 0.5])
def test_a_program_that_was_half_written(
  part: float, tmp_path: pathlib.Path
) -> None:
  """Its process was killed: it is compiled again, and nothing is said."""
  _, misses, folder, _ = by_default(tmp_path)
  newest = max(
    pathlib.Path(str(folder)).iterdir(), key=lambda file: file.stat().st_mtime
  )
  whole = newest.read_bytes()
  newest.write_bytes(whole[: int(part * len(whole))])
  assert by_default(tmp_path) == (misses - 1, 1, folder, "")
  assert by_default(tmp_path) == (misses, 0, folder, "")


def test_the_environment_moves_it(tmp_path: pathlib.Path) -> None:
  home, other = tmp_path / "home", str(tmp_path / "x")
  name = module.machine()
  _, _, folder, _ = by_default(home, XDG_CACHE_HOME=other)
  assert folder == f"{other}/p3d_jax/compiled/{name}"
  # The specification has a relative one ignored.
  _, _, folder, _ = by_default(home, XDG_CACHE_HOME="x")
  assert folder == f"{home}/.cache/p3d_jax/compiled/{name}"
  shutil.rmtree(home)
  _, _, folder, _ = by_default(home, P3D_COMPILED=f"{other}/mine")
  assert folder == f"{other}/mine/{name}"
  # JAX's own count before ours, and the config's before both.
  _, misses, folder, _ = by_default(
    home, JAX_COMPILATION_CACHE_DIR=f"{other}/jax", P3D_COMPILED=f"{other}/no"
  )
  assert (misses > 0, folder) == (True, f"{other}/jax")
  _, misses, folder, _ = by_default(
    home, f"{other}/config", JAX_COMPILATION_CACHE_DIR=f"{other}/no"
  )
  assert (misses > 0, folder) == (True, f"{other}/config")
  assert not (tmp_path / "x" / "no").exists()
  assert not home.exists()


def test_nothing_is_kept(tmp_path: pathlib.Path) -> None:
  nothing = (0, 0, None, "")
  for word in module.OFF:
    assert by_default(tmp_path, P3D_COMPILED=word) == nothing
    assert by_default(tmp_path, word) == nothing
  jaxs = str(tmp_path / "jax")
  assert by_default(tmp_path, "off", JAX_COMPILATION_CACHE_DIR=jaxs) == nothing
  assert by_default(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false") == nothing
  assert list(tmp_path.iterdir()) == []


def test_a_home_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
  """A line says so, and everything goes on."""
  file = tmp_path / "file"
  file.write_text("")
  end = "; P3D_COMPILED names another folder for them, or is off\n"
  for home in (file, "/proc"):
    hits, misses, folder, said = by_default(home)
    assert (hits, misses, folder) == (0, 0, None)
    assert said.startswith("compiled programs are not kept: [Errno ")
    assert f"{home}/.cache" in said
    assert said.endswith(end)
    assert len(said.splitlines()) == 1
  whole = small.command("predict", tmp_path / "none", "film.mp4")
  done = subprocess.run(
    whole, env=environment(file), capture_output=True, text=True
  )
  assert done.returncode == 2
  assert len(done.stderr.splitlines()) == 2


def unset(monkeypatch: pytest.MonkeyPatch, home: pathlib.Path) -> None:
  """Has this process be one where nobody names a folder."""
  monkeypatch.setenv("HOME", str(home))
  for name in (module.VARIABLE, "XDG_CACHE_HOME"):
    monkeypatch.delenv(name, raising=False)
  jax.config.update("jax_compilation_cache_dir", None)
  monkeypatch.setattr(module, "_keep", lambda _: pytest.fail("it is used"))


@pytest.fixture
def again() -> Iterator[None]:
  """Puts back the folder of tests/fast.py; those of pods/ switch it off."""
  folder = jax.config.values["jax_compilation_cache_dir"]
  enabled = jax.config.values["jax_enable_compilation_cache"]
  jax.config.update("jax_enable_compilation_cache", True)
  yield
  jax.config.update("jax_enable_compilation_cache", enabled)
  module._keep(folder)


def test_why_it_cannot_be(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  again: None,
  capsys: pytest.CaptureFixture[str],
) -> None:
  def told() -> str:
    compile_cache()
    return capsys.readouterr().err

  with monkeypatch.context() as m:
    unset(m, tmp_path)
    m.setattr(module, "ROOM", 2**62)  # bytes that no disk has
    assert re.search("not kept: .*(too large|No space)", told())
  home = tmp_path / ".cache" / "p3d_jax" / "compiled" / module.machine()
  home.chmod(0o777)
  with monkeypatch.context() as m:
    unset(m, tmp_path)
    assert f"not kept: {home}: others may write there; " in told()
  with monkeypatch.context() as m:
    unset(m, tmp_path)
    # As of a user of a container who has no name.
    m.setattr(os.path, "expanduser", lambda path: path)
    assert "not kept: there is no home folder; " in told()


def test_a_folder_of_the_variable_that_cannot_be(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, again: None
) -> None:
  (tmp_path / "file").write_text("")
  for told, message in (
    (f"{tmp_path}/file", "^P3D_COMPILED='.*/file': it is a file, not a"),
    ("/proc/x", "^P3D_COMPILED='/proc/x': "),
    ("gs://test/x", "it must be a folder of this machine$"),
  ):
    with monkeypatch.context() as m:
      unset(m, tmp_path)
      m.setenv(module.VARIABLE, told)
      with pytest.raises(ValueError, match=message):
        compile_cache()


def test_machines_that_share_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
  """A program is for so many cores of a CPU, and JAX's key lacks the cores."""
  own = module.machine()
  assert re.fullmatch(r"\w+-\d+-[0-9a-f]{8}", own)
  assert module.machine() == own
  with monkeypatch.context() as m:
    m.setattr(os, "sched_getaffinity", lambda _: set(range(99)))
    assert "-99-" in module.machine()
  with monkeypatch.context() as m:
    m.setenv("PJRT_NPROC", "77")
    assert module.machine() != own
  text = pathlib.Path("/proc/cpuinfo").read_text()
  with monkeypatch.context() as m:
    m.setattr(
      pathlib.Path, "read_text", lambda _: text.replace(" sse2 ", " sse9 ")
    )
    assert (module.machine() == own) == (" sse2 " not in text)


def test_the_folder_is_bounded(tmp_path: pathlib.Path) -> None:
  digest, foreign = "0" * 64, tmp_path / "jax" / f"jit_x-{'0' * 64}-cache"
  machines = [f"x86_64-{cores}-01234567" for cores in (2, 64)]
  names = []
  for at, name in enumerate(["old", "read", "new"]):
    file = tmp_path / machines[at % 2] / f"jit_{name}-{digest}-cache"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(bytes(10))
    os.utime(file, (1_000 + at, 1_000 + at))
    names.append(file.name)
  old, read, new = names
  os.utime(tmp_path / machines[1] / read, (2_000, 1_001))
  others = [foreign, tmp_path / machines[0] / "notes-cache"]
  for other in others:
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(bytes(100))
    os.utime(other, (1, 1))

  def left() -> set[str]:
    return {
      path.name for path in tmp_path.rglob("*") if path.stat().st_size == 10
    }

  for most, expected in (
    (30, [old, read, new]),
    (29, [read, new]),
    (10, [read]),
    (9, []),
  ):
    module.shrink(tmp_path, most)
    assert left() == set(expected)
  assert all(other.exists() for other in others)


def ran(words: list[object], home: pathlib.Path, **names: str) -> str:
  done = subprocess.run(
    small.command(*words),
    env=environment(home, JAX_DEBUG_LOG_MODULES="jax._src.compiler", **names),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return done.stderr


def programs(home: pathlib.Path) -> list[str]:
  return [name for name in kept(home) if name.startswith("jit_train_step-")]


def numbers(run: pathlib.Path) -> tuple[object, object]:
  """The lines of a run, and the digest of its last checkpoint."""
  lines = [
    {name: value for name, value in line.items() if name not in CLOCK}
    for line in logs.read(run)
  ]
  return lines, model.read_record(model.find(run)).sha256


HIT = "Persistent compilation cache hit for 'jit_{}'"


@pytest.mark.slow
def test_a_kept_program_computes_the_same_to_the_bit(
  tmp_path: pathlib.Path,
) -> None:
  """Compiled, kept and read: also where a run goes on with the other."""
  config = small.config_file(tmp_path / "config.py")
  home = tmp_path / "home"
  step = HIT.format("train_step")

  def train(name: str, **names: str) -> str:
    words = ["train", "--config", config, "--workdir", tmp_path / name]
    return ran([*words], home, **names)

  assert HIT.format("") not in train("plain", P3D_COMPILED="off")
  assert not home.exists()
  assert step not in train("first")
  assert len(programs(home)) == 1
  before = kept(home)
  assert step in train("second")
  assert kept(home) == before  # of no program there are two
  # Two steps of a program that was compiled, two of one that was read.
  shutil.copytree(tmp_path / "plain", tmp_path / "resumed")
  shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "4")
  assert "going on from step 2" in train("resumed")
  for name in ("first", "second", "resumed"):
    assert numbers(tmp_path / name) == numbers(tmp_path / "plain"), name
  # Verbs keep theirs too.
  words = ["predict", tmp_path / "plain", small.footage() / "film 0.mp4"]
  assert HIT.format("eval_step") not in ran(words, tmp_path / "other")
  assert HIT.format("eval_step") in ran(words, tmp_path / "other")


# Tells the folder of each of two processes.
HOSTS = """
import jax
from p3d_jax.hosts import meeting
from p3d_jax.train.compile_cache import compile_cache
with meeting.join(meeting.Meeting(wait=120)):
  compile_cache()
  print(jax.config.values["jax_compilation_cache_dir"])
"""


def test_several_processes_keep_nothing(tmp_path: pathlib.Path) -> None:
  """All must find a program or none: they may compile it together."""
  begun = [
    subprocess.Popen(
      [sys.executable, "-c", HOSTS],
      env=each,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for each in Share(2, 1).environments(environment(tmp_path))
  ]
  said = [process.communicate(timeout=300) for process in begun]
  assert [process.returncode for process in begun] == [0, 0], said
  assert [out.splitlines()[-1] for out, _ in said] == ["None", "None"]
  assert list(tmp_path.iterdir()) == []
