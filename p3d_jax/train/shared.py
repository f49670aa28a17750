"""Whether all hosts of a run have the same config, and see the same files.

Each host reads its config, the workdir and the weights by itself. Where they
differ, or where the workdir is a folder of each host's own disk, they would
train on different numbers, or wait for each other for ever.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from typing import Any

import jax
from etils import epath

from p3d_jax import version
from p3d_jax.files import write_aside
from p3d_jax.hosts import together
from p3d_jax.train.texts import apart, gathered, gathered_whole

# Seconds that a file of another host may take to be seen: a network file system
# remembers for up to 60 that it was not there (acdirmax of nfs(5)).
SEEN = 90.0
MARK = ".hosts"  # in a workdir, while the hosts look whether it is the same
# What a host may have of its own: its cores, its disk.
OWN = ("input.", "data.dir", "data.cache")


def check_config(config: dict[str, Any]) -> None:
  """Refuses hosts that were started with different configs.

  Args:
    config: of this host, in JSON types.

  Raises:
    ValueError: with the first field that differs; on all hosts.
  """
  if jax.process_count() == 1:
    return
  lines = [f"config.{line}" for line in _lines(config, "")]
  lines.insert(0, f"p3d_jax is {version.__version__}")
  own = dict(line.split(" is ", 1) for line in lines)
  digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
  together.wait()
  if len(set(gathered([digest], 1))) == 1:
    return
  texts = gathered_whole(json.dumps([jax.process_index(), own]))
  said: dict[int, dict[str, str]] = dict(json.loads(text) for text in texts)
  for process, theirs in said.items():
    for field in said[0] | theirs:
      ours, other = (of.get(field, "not there") for of in (said[0], theirs))
      if ours != other:
        ours, other = apart(ours, other)
        raise ValueError(
          f"the hosts have different configs: of process 0 {field} is {ours}, "
          f"of process {process} {field} is {other}"
        )


def _lines(values: dict[str, Any], at: str) -> list[str]:
  """Returns "field is value" of each field that all hosts must share."""
  lines = []
  for name, value in sorted(values.items()):
    field = f"{at}{name}"
    if isinstance(value, dict):
      lines += _lines(value, f"{field}.")
    elif not field.startswith(OWN):
      lines.append(f"{field} is {json.dumps(value)}")
  return lines


def check_shared(folder: epath.Path, name: str) -> None:
  """Refuses a folder that is not the same for all hosts; all of them call it.

  Args:
    folder: that the first host can write in.
    name: of the argument that it is.

  Raises:
    ValueError: a host does not see what the first one writes; on all hosts.
  """
  if jax.process_count() == 1:
    return
  file, first = folder / MARK, jax.process_index() == 0
  own = [uuid.uuid4().hex] if first else []
  if first:
    write_aside(file, own[0])
  together.wait()
  (mark,) = gathered(own, 1)
  until = time.monotonic() + SEEN
  while not (seen := _reads(file, mark)) and time.monotonic() < until:
    time.sleep(0.5)
  there = "sees" if seen else "does not see"
  rule = "it must be one folder of all hosts, as on gs://"
  found = f"{there} what process 0 has written"
  check_same(found, f"{name} is {folder}", rule)
  if first:
    file.unlink(missing_ok=True)


def _reads(file: epath.Path, mark: str) -> bool:
  return file.exists() and file.read_text() == mark


def check_same(found: str, name: str, rule: str) -> None:
  """Refuses what the hosts have not found alike; all of them call it.

  Args:
    found: what this host has found, in some words.
    name: what they looked at.
    rule: what must hold.

  Raises:
    ValueError: another host has found something else; on all hosts.
  """
  if jax.process_count() == 1:
    return
  together.wait()
  # The number is in the text: hosts that found nothing alike are told apart.
  texts = gathered([f"{jax.process_index()} {found}"], 1)
  said = dict(text.split(" ", 1) for text in texts)
  for process, theirs in said.items():
    if theirs != said["0"]:
      raise ValueError(
        f"{name}: process 0 {said['0']}, process {process} {theirs}; {rule}"
      )
