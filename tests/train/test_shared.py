"""Two real processes compare their configs."""

import json
import subprocess
import sys
from typing import Any

from p3d_jax.pods.launch_local import Share
from tests import small

# For each pair of configs it says the error of `check_config`, or null. A
# field "version" is that of the package.
COMPARES = """
import json, sys
import jax
from p3d_jax import version
from p3d_jax.hosts import meeting
from p3d_jax.train import shared

with meeting.join(meeting.Meeting(wait=120)):
  said = []
  for pair in json.loads(sys.argv[1]):
    config = pair[jax.process_index()]
    version.__version__ = config.pop("version", "0.1.0")
    try:
      said.append(shared.check_config(config))
    except ValueError as error:
      said.append(str(error))
  print(json.dumps(said))
"""


def compared(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[Any]:
  """Returns what both of two processes say of each pair of configs."""
  words = [sys.executable, "-c", COMPARES, json.dumps(pairs)]
  processes = [
    subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    for environment in Share(2, 1).environments(small.environment())
  ]
  said = [process.communicate(timeout=600)[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0]
  one, other = (json.loads(text.splitlines()[-1]) for text in said)
  assert one == other
  found: list[Any] = one
  return found


def test_configs_of_two_hosts() -> None:
  same = {"seed": 0, "input": {"workers": 0}, "data": {"dir": "/a"}}
  own = {"seed": 0, "input": {"workers": 2}, "data": {"dir": "/b"}}
  names = [f"class {k}" for k in range(100)]  # some 1,000 characters
  others = [*names[:-1], "class x"]
  more = {"seed": 0, "model": {"width": 4}}
  cases: list[tuple[dict[str, Any], dict[str, Any], str | None]] = [
    (same, own, None),
    ({"names": names}, {"names": names}, None),
    (
      {"seed": 0},
      {"seed": 1},
      "of process 0 config.seed is 0, of process 1 config.seed is 1",
    ),
    (
      {"names": names},
      {"names": others},
      'of process 0 config.names is ... "class 98", "class 99"], of process 1 '
      'config.names is ... "class 98", "class x"]',
    ),
    (
      {"seed": 0, "version": "0.1.0"},
      {"seed": 0, "version": "0.2.0"},
      "of process 0 p3d_jax is 0.1.0, of process 1 p3d_jax is 0.2.0",
    ),
    (
      {"seed": 0},
      more,
      "of process 0 config.model.width is not there, of process 1 "
      "config.model.width is 4",
    ),
    (
      more,
      {"seed": 0},
      "of process 0 config.model.width is 4, of process 1 "
      "config.model.width is not there",
    ),
  ]
  said = compared([(one, other) for one, other, _ in cases])
  start = "the hosts have different configs: "
  assert said == [text and start + text for *_, text in cases]
