"""Reads a config: a Python file with `get_config()`, and flags over it."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import pathlib
import re
import runpy
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from p3d_jax import files
from p3d_jax.train.config import ConfigError

# What a field of a type takes, where the parser's own words are Python's.
_TAKES = {
  bool: "true or false",
  int: "a whole number, as 4",
  float: "a number, as 0.5",
}


def load(file: str, overrides: Sequence[str] = ()) -> ConfigDict:
  """Runs a config file and applies `--config.x.y=v` flags.

  Args:
    file: path of a Python file with `get_config()`; what follows a colon is
      given to it. gs:// works too.
    overrides: flags as typed.

  Raises:
    ConfigError: if the file or a flag is wrong, in one line.
  """
  config = _run(file)
  for typed in overrides:
    _check_name(typed, config)
  values = flags.FlagValues()
  argv = ["p3d", *overrides]
  try:
    config_flags.DEFINE_config_dict(
      "config", config, flag_values=values, sys_argv=argv
    )
    rest = values(argv)
  except flags.IllegalFlagValueError as e:
    raise ConfigError(_wrong_value(e, config, overrides)) from e
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
    raise ConfigError(one_line(e)) from e
  if len(rest) > 1:
    raise ConfigError(f"{rest[1]!r} is no flag: write --config.FIELD=VALUE")
  return values.config


def _check_name(flag: str, config: ConfigDict) -> None:
  """Raises if a flag as typed names a field that is not there."""
  found = re.match(r"--?(?:no)?config\.([^=]*)", flag)
  at: Any = config
  for name in found[1].split(".") if found else ():
    if not isinstance(at, ConfigDict) or name not in at:
      names = list(at) if isinstance(at, ConfigDict) else []
      near = difflib.get_close_matches(name, names, 1)
      advice = f"; did you mean {near[0]!r}?" if near else ""
      raise ConfigError(
        f"{flag.partition('=')[0]}: the config has no field {name!r}{advice}"
      )
    at = at[name]


def _wrong_value(
  error: Exception, config: ConfigDict, typed: Sequence[str]
) -> str:
  """Says what a field takes that was given something else."""
  told = one_line(error)
  # --config.x=1 is one word, --config.x 1 are two.
  for flag in [*typed, *map("=".join, itertools.pairwise(typed))]:
    found = re.fullmatch(r"--?config\.([\w.]+)=(.*)", flag, re.DOTALL)
    if not found or not told.startswith(
      f"flag --config.{found[1]}={found[2]}:"
    ):
      continue
    *above, last = found[1].split(".")
    at = config
    for name in above:
      at = at[name]
    if takes := _TAKES.get(at.get_type(last)):
      return f"--config.{found[1]} is {found[2]!r}: it must be {takes}"
  return told


def _run(file: str) -> ConfigDict:
  """Returns what a config file's get_config() gives, locked."""
  found = re.fullmatch(r"((?:\w+://)?[^:]*)(?::(.*))?", file, re.DOTALL)
  path, argument = found.groups() if found else (file, None)
  with _local(path) as here:
    if here is None:
      raise ConfigError(f"--config is {file!r}: there is no such file")
    config = _called(path, here, [] if argument is None else [argument])
  if not isinstance(config, ConfigDict):
    raise ConfigError(f"{path}: get_config() must return a ConfigDict")
  return config.lock()


@contextlib.contextmanager
def _local(path: str) -> Iterator[str | None]:
  """Gives the path of a file on this machine; None: it is not there."""
  if not files.on_store(path):
    yield path if pathlib.Path(path).is_file() else None
    return
  files.check_bucket(path, "--config")
  try:
    found = files.absolute(path)
    content = found.read_bytes() if found.is_file() else None
  except OSError as error:
    raise ConfigError(f"--config is {path!r}: {one_line(error)}") from error
  if content is None:
    yield None
    return
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder, path.rpartition("/")[2])
    copy.write_bytes(content)
    yield str(copy)


def _called(path: str, here: str, arguments: Sequence[str]) -> Any:
  """Returns what get_config() of the file `here`, called `path`, gives."""
  try:
    return runpy.run_path(here)["get_config"](*arguments)
  except (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
  ) as error:
    lines = [
      frame.lineno
      for frame in traceback.extract_tb(error.__traceback__)
      if frame.filename == here
    ]
    at = f"{path}:{lines[-1]}" if lines else path
    raise ConfigError(f"{at}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
  """The message of an error in one line, without ml_collections' advice."""
  text = str(error.args[0] if error.args else error).split("\n")[0].strip()
  return f"{type(error).__name__}: {text}" if len(text) < 12 else text
