"""Keeps compiled programs in a folder, for the next start or another host.

Where nobody names a folder it is one of the user, on this machine: a network
takes up to minutes to compile, and the second start of a command need not. It
must never cost more than it gives, so a run goes on without it where it cannot
be.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import platform
import re
import tempfile
import zlib

import jax
from etils import epath

# Public, though named as if it were on trial: to begin with another folder.
from jax.experimental.compilation_cache import compilation_cache

from p3d_jax import files
from p3d_jax.progress import Bar

# Of the environment: the folder, where no config says it; or OFF.
VARIABLE = "P3D_COMPILED"
OFF = ("off", "none")
# Bytes that may be kept: P3D-199's training step on a CPU has 3 MB.
MOST = 2**30
# Bytes that must be left: JAX writes in place, and what it wrote half of when
# the disk was full it would find broken at each start.
ROOM = 32 * 2**20
# Lines of /proc/cpuinfo that say what code runs on a CPU, x86 and then ARM.
_CPU = ("vendor_id", "cpu family", "model", "flags", "CPU implementer",
        "CPU part", "CPU variant", "Features")  # fmt: skip
# Of the environment: threads that XLA computes with on CPUs.
_THREADS = ("PJRT_NPROC", "NPROC")
# Folders of `machine`, and JAX's files in them: beside them may be others'.
_KEPT = re.compile(r"\w+-\d+-[0-9a-f]{8}/.+-[0-9a-f]{64}-cache")
# What JAX compresses with where zstandard is not installed begins like this.
_ZLIB = b"x"


class _UnusableError(Exception):
  """The folder that nobody named cannot be used, in some words."""


def compile_cache(folder: epath.PathLike = "") -> None:
  """Makes JAX keep what it compiles, and look there first.

  Only the first process of a run writes, all read. What took less than a second
  to compile is not kept, JAX's own rule: it would be read no faster. It holds
  until this process ends, for what others compile in it too.

  Args:
    folder: made if need be; gs:// works too. "off": nothing is kept. "": what
      JAX's own variables or config say. Where they say nothing, a process that
      is alone keeps programs in the folder that the environment's P3D_COMPILED
      names, or in ~/.cache/p3d_jax/compiled: a folder in it for each kind of
      machine, MOST bytes in all. Where the user's cannot be written, a line
      says so.

  Raises:
    ValueError: it is a file, or cannot be made.
    OSError: it is on gs://, which cannot be reached.
  """
  given = os.fspath(folder)
  if given in OFF:
    _keep(None)
  elif given:
    _keep(_named(given, "config.compile.cache"))
  else:
    _default()


def _is_set() -> bool:
  """Whether JAX's variables or config name a folder, or want none."""
  said = jax.config.values
  return bool(
    said["jax_compilation_cache_dir"]
    or not said["jax_enable_compilation_cache"]
  )


def _keep(path: epath.PathLike | None) -> None:
  """Has JAX use a folder from now on."""
  jax.config.update(
    "jax_compilation_cache_dir", None if path is None else os.fspath(path)
  )
  # What is small may have taken long.
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  # A process that has compiled something keeps to the folder of that time.
  compilation_cache.reset_cache()


def _named(folder: str, name: str) -> epath.Path:
  """Makes a folder that somebody names.

  Raises:
    ValueError: it is a file, or cannot be made.
  """
  files.check_bucket(folder, name)
  path = files.absolute(folder)
  told = f"{name}={folder!r}"
  if path.exists() and not path.is_dir():
    raise ValueError(f"{told}: it is a file, not a folder")
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(f"{told}: {' '.join(str(error).split())}") from error
  if files.on_store(path):
    # XLA's caches inside it are of files, which it opens itself.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
  return path


def _default() -> None:
  """Keeps programs on this machine, unless it has no place for them."""
  told = os.environ.get(VARIABLE, "")
  # XLA has the processes of a run share the work of tuning a GPU's program: it
  # would wait for ever where one finds it here and another does not.
  if told in OFF or _is_set() or jax.process_count() > 1:
    return
  try:
    path = _of_variable(told) if told else _of_user()
  except (OSError, _UnusableError) as error:
    Bar("compile", 1).say(
      f"compiled programs are not kept: {' '.join(str(error).split())}; "
      f"{VARIABLE} names another folder for them, or is off"
    )
    return
  # XLA's own caches end a run where they cannot be written, and bring the name
  # of the folder into JAX's key.
  jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
  _keep(path)


def _of_variable(told: str) -> pathlib.Path:
  """Returns the folder for this machine in the one that P3D_COMPILED names.

  Raises:
    ValueError: it cannot be written to, or is none of this machine.
  """
  if files.on_store(told):
    raise ValueError(
      f"{VARIABLE}={told!r}: it must be a folder of this machine"
    )
  path = pathlib.Path(_named(told, VARIABLE)) / machine()
  try:
    _prepare(path)
  except OSError as error:
    raise ValueError(f"{VARIABLE}={told!r}: {error.strerror}") from error
  return path


def _of_user() -> pathlib.Path:
  """Returns the folder for this machine in the user's own.

  Raises:
    OSError: it cannot be written to.
    _UnusableError: there is none, or it is not the user's own.
  """
  path = _home() / machine()
  _prepare(path)
  found = path.stat()
  # Whoever writes there runs code in this process.
  if found.st_uid != os.geteuid() or found.st_mode & 0o002:
    raise _UnusableError(f"{path}: others may write there")
  return path


def _home() -> pathlib.Path:
  """Returns the folder of this user for compiled programs."""
  base = os.environ.get("XDG_CACHE_HOME", "")
  if not os.path.isabs(base):  # the specification has others ignored
    base = os.path.expanduser("~/.cache")
  if not os.path.isabs(base):
    raise _UnusableError("there is no home folder")
  return pathlib.Path(base) / "p3d_jax" / "compiled"


def machine() -> str:
  """Names the machine that a program is compiled for.

  Nodes of a cluster may share a home. XLA splits what it compiles for a CPU by
  the cores that this process may use, and JAX's key does not say so: 2 cores'
  program would keep 2 of another node's 64 busy. The CPU's instructions are in
  the key, and here again: others end a process.
  """
  cores = os.cpu_count()
  if hasattr(os, "sched_getaffinity"):  # not on macOS
    cores = len(os.sched_getaffinity(0))
  text = [f"{name}={os.environ.get(name)}" for name in _THREADS]
  with contextlib.suppress(OSError):
    cpu = pathlib.Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    lines = (line.partition(":") for line in cpu.splitlines())
    text += [line for name, _, line in lines if name.strip() in _CPU]
  digest = hashlib.sha256("\n".join(text).encode()).hexdigest()[:8]
  return f"{platform.machine()}-{cores}-{digest}"


def _prepare(path: pathlib.Path) -> None:
  """Makes a folder with room in it; raises the OSError that is in the way."""
  path.mkdir(parents=True, exist_ok=True, mode=0o700)
  shrink(path.parent, MOST)
  _mend(path)
  with tempfile.TemporaryFile(dir=path) as file:
    if hasattr(os, "posix_fallocate"):  # not on macOS
      os.posix_fallocate(file.fileno(), 0, ROOM)


def _mend(path: pathlib.Path) -> None:
  """Removes the newest program if it is half of one.

  JAX writes in place. It would warn at each start of what a process had begun
  that was killed, and never write it anew.
  """
  with contextlib.suppress(FileNotFoundError):  # another process removed it
    newest = max(
      path.glob("*-cache"), key=lambda file: file.stat().st_mtime, default=None
    )
    if newest is None:
      return
    content = newest.read_bytes()
    try:
      if content.startswith(_ZLIB) or not content:
        zlib.decompress(content)
    except zlib.error:
      newest.unlink()


def shrink(folder: pathlib.Path, most: int) -> None:
  """Removes the programs that were not used for longest.

  JAX could do so itself, with a package more, and with a lock that each reading
  waits for. Most file systems note a file's reading once a day.

  Args:
    folder: of folders of programs.
    most: bytes that may be left.
  """
  kept = []
  for file in folder.glob("*/*-cache"):
    if not _KEPT.fullmatch(f"{file.parent.name}/{file.name}"):
      continue
    with contextlib.suppress(FileNotFoundError):  # another process removed it
      stat = file.stat()
      kept.append((max(stat.st_atime, stat.st_mtime), stat.st_size, file))
  total = sum(size for _, size, _ in kept)
  for _, size, file in sorted(kept):
    if total <= most:
      return
    file.unlink(missing_ok=True)
    total -= size
