"""Whether all hosts of a run see the same files.

Each host reads the workdir and the weights by itself. Where it is a folder of
each host's own disk, or another process writes there meanwhile, they would
begin with different steps, and wait for each other for ever or train on
different numbers.
"""

from __future__ import annotations

import time

import jax
from etils import epath

from p3d_jax.hosts import together
from p3d_jax.train.texts import gathered

# Seconds that a file of another host may take to be seen: a network file system
# remembers for up to 60 that it was not there (acdirmax of nfs(5)).
SEEN = 90.0


def check_shared(file: epath.Path, name: str) -> None:
  """Refuses a folder that is not the same for all hosts; all of them call it.

  Args:
    file: that the first host has written into it.
    name: of the argument that the folder is.

  Raises:
    ValueError: a host does not see the file, or sees another; on all hosts.
  """
  if jax.process_count() == 1:
    return
  together.wait()  # until the first host has written it
  until = time.monotonic() + SEEN
  while not file.exists() and time.monotonic() < until:
    time.sleep(0.5)
  there = f"has {file.name}" if file.exists() else f"has no {file.name}"
  rule = "it must be one folder that all hosts see, as on gs://"
  check_same(there, f"{name} is {file.parent}", rule)


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
