"""What all launchers share: their arguments, and lists of command lines.

A launcher makes its commands from its arguments and does nothing else with
them than to print them (`--dry-run`) or to run one after the other.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from ml_collections import ConfigDict

from p3d_jax import files
from p3d_jax.train import config_check
from p3d_jax.train import config_file as config_files

# Of instances, TPUs and buckets on Google Cloud (RFC 1035), at most so long:
# https://cloud.google.com/compute/docs/naming-resources
GOOGLE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
ZONE = re.compile(r"[a-z]+-[a-z]+\d+-[a-z]")
# Kind of TPU -> numbers that its types end with: cloud.google.com/tpu/docs/v2,
# v3, v4, v5e, v5p, v6e, and .../regions-zones. They count the chips of v5e and
# v6e, and the TensorCores, two a chip, of the others.
_LITE = (1, 4, 8, 16, 32, 64, 128, 256)
SLICES = {
  "v2": (8, 32, 128, 256, 512),
  "v3": (8, 32, 64, 128, 256, 512, 1024, 2048),
  "v4": (8, 16, 32, 64),
  "v5litepod": _LITE,  # v5e
  "v5p": (8, 16, 32, 64),
  "v6e": _LITE,
}
# And any number of cubes of 4x4x4 chips, up to so many TensorCores.
CUBE = 128
CUBES = {"v4": 8192, "v5p": 12288}

Command = list[str]


class CommandError(RuntimeError):
  """A command ended badly, so that those after it were not run.

  Attributes:
    command: it.
    status: its exit status.
  """

  def __init__(self, command: Command, status: int, more: str = "") -> None:
    """Says which; and more, if there is."""
    told = f"status {status} of: {shlex.join(command)}"
    super().__init__(f"{told}; {more}" if more else told)
    self.command = command
    self.status = status


class Parser(argparse.ArgumentParser):
  """Has the arguments of every launcher, and tells a mistake in one line."""

  def __init__(self, prog: str, doc: str | None) -> None:
    super().__init__(
      prog=prog, description=(doc or "").split("\n")[0], allow_abbrev=False
    )
    self.add_argument("--config", required=True, help="a Python config file")
    self.add_argument(
      "--dry-run", action="store_true", help="print the commands, run none"
    )
    self.add_argument(
      "flags",
      nargs="*",
      metavar="-- --config.FIELD=VALUE",
      help="fields of the config",
    )

  def error(self, message: str) -> NoReturn:
    """Ends the process with status 2."""
    self.exit(2, f"{self.prog}: {message}\n")


def check(args: argparse.Namespace, devices: int | None = None) -> ConfigDict:
  """Refuses what no launcher can run, before anything is rented.

  Args:
    args: of the launcher.
    devices: that the run will have; None: not known.

  Returns:
    The config.

  Raises:
    ValueError: the config is not there, a flag is none of the config, or
      training would refuse the config on so many devices.
  """
  if not pathlib.Path(config_file(args)).is_file():
    raise ValueError(f"--config is {args.config!r}: there is no such file")
  for flag in args.flags:
    if not flag.startswith("--config."):
      raise ValueError(f"{flag!r} is no field: write --config.FIELD=VALUE")
  config = config_files.load(args.config, args.flags)
  if devices is not None:
    config_check.check(config, devices)
  return config


def check_reachable(config: ConfigDict, own: bool) -> None:
  """Refuses folders that machines which are yet to be rented do not have.

  Args:
    config: of the run.
    own: whether the machines may have folders of their own, as of a disk that
      was attached to them; they are named by absolute paths.

  Raises:
    ValueError: the data or the weights to begin with are not on gs://.
  """
  for field in ("init_from", "data.dir"):
    given = config_check.get(config, field)
    if not given or files.on_store(given):
      continue
    if own and pathlib.PurePath(given).is_absolute():
      continue
    raise ValueError(
      f"config.{field} is {given!r}: the machines do not have it; copy it to "
      f"the bucket, and give --config.{field}=gs://..."
    )


def check_google(args: argparse.Namespace, longest: int = 63) -> None:
  """Refuses names that Google Cloud would refuse after minutes.

  Raises:
    ValueError: the name of the run, the zone or the bucket cannot be one.
  """
  if not GOOGLE_NAME.fullmatch(args.name) or len(args.name) > longest:
    raise ValueError(
      f"--name is {args.name!r}: Google Cloud takes at most {longest} small "
      "letters, digits and hyphens, a letter first and no hyphen last"
    )
  if not ZONE.fullmatch(args.zone):
    raise ValueError(f"--zone is {args.zone!r}: it must be like us-west4-a")
  if not re.fullmatch(r"gs://[^/\s]+", args.bucket):
    raise ValueError(f"--bucket is {args.bucket!r}: it must be like gs://name")


def check_slice(kind: str) -> None:
  """Refuses a TPU type, as "v5litepod-17", of which there is no such slice.

  Raises:
    ValueError: the kind is known, and has none of that size.
  """
  name, _, count = kind.partition("-")
  sizes, most = SLICES.get(name), CUBES.get(name, 0)
  if sizes is None or int(count) in sizes:
    return
  if int(count) % CUBE == 0 and int(count) <= most:
    return
  known = ", ".join(map(str, sizes))
  more = f" and multiples of {CUBE} up to {most}" if most else ""
  raise ValueError(
    f"--type is {kind!r}: there is no such slice; of {name} there are "
    f"{known}{more}"
  )


def tpu_devices(kind: str) -> int | None:
  """Returns the devices that jax has of a TPU type; None: not known.

  Args:
    kind: as "v5litepod-16". It counts the chips of v5e and v6e, each a device,
      and the TensorCores of the others; of v4 and v5p two are a device.
  """
  name, _, count = kind.partition("-")
  cores = {"v2": 1, "v3": 1, "v4": 2, "v5litepod": 1, "v5p": 2, "v6e": 1}
  return int(count) // cores[name] if name in cores else None


def config_file(args: argparse.Namespace) -> str:
  """The path of the config; what follows a colon is given to it."""
  path: str = args.config.partition(":")[0]
  return path


def train(args: argparse.Namespace, config: str, workdir: str) -> Command:
  """Returns the words of `p3d train`.

  Args:
    args: of the launcher; a colon and what follows in its config stays.
    config: where the config file is on the machine that trains.
    workdir: of the run.
  """
  _, colon, argument = args.config.partition(":")
  words = [f"--config={config}{colon}{argument}", f"--workdir={workdir}"]
  return ["p3d", "train", *words, *args.flags]


def run(commands: Sequence[Command]) -> None:
  """Runs commands in their order, and shows each before.

  Raises:
    CommandError: one ended badly; those after it were not run.
  """
  for command in commands:
    print(f"+ {shlex.join(command)}", flush=True)
    try:
      status = subprocess.run(command).returncode
    except OSError as error:
      raise ValueError(f"{command[0]}: {error.strerror}") from error
    if status == -signal.SIGINT:
      raise KeyboardInterrupt
    if status:
      # A death by a signal as a shell has it.
      raise CommandError(command, status if status > 0 else 128 - status)


def become(command: Command) -> NoReturn:
  """Shows a command and becomes it: signals are then its own.

  Raises:
    ValueError: there is no such program.
  """
  print(f"+ {shlex.join(command)}", flush=True)
  try:
    os.execvp(command[0], command)
  except OSError as error:
    raise ValueError(f"{command[0]}: {error.strerror}") from error


def main(
  prog: str, work: Callable[[], None], show: Callable[[], str], dry: bool
) -> int:
  """Shows or does the work of a launcher; tells a mistake in one line.

  Args:
    prog: name of the launcher.
    work: runs the commands.
    show: returns what `--dry-run` prints; it checks the arguments first.
    dry: whether only that is wanted.

  Returns:
    The exit status.
  """
  try:
    shown = show()
    if dry:
      print(shown)
    else:
      work()
  except ValueError as error:
    print(f"{prog}: {error}", file=sys.stderr)
    return 2
  except CommandError as error:
    print(f"{prog}: {error}", file=sys.stderr)
    return error.status
  except KeyboardInterrupt:
    print(f"{prog}: interrupted; what was started goes on", file=sys.stderr)
    return 130
  return 0


def lines(commands: Sequence[Command]) -> str:
  """Returns commands as a shell takes them, one a line."""
  return "\n".join(shlex.join(command) for command in commands)
