"""Which block stands where, from the authors' table; pure Python."""

import csv
import pathlib
import subprocess
import sys

import pytest

from p3d_jax.models import schedule
from tests.reference import names

STAGES = {63: (3, 4, 6, 3), 131: (3, 4, 23, 3), 199: (3, 8, 36, 3)}


def table_letters():
  """The letters of P3D-199, block by block, from what the rows read.

  A: T reads S, and the expansion reads T alone. B: T reads the reduction, as S
  does. C: T reads S, and a sum of both is expanded. No T: a 2D block.
  """
  path = pathlib.Path(__file__).parents[1] / "reference/p3d199_layers.csv"
  with path.open(newline="") as file:
    inputs = {row["name"]: row["inputs"] for row in csv.DictReader(file)}
  found = {}
  for block, ours in names.BLOCKS.items():
    spatial = f"bn{block}_branch2b"
    temporal = inputs.get(f"res{block}_branch2b_t")
    joined = f"res{block}_branch2b_st" in inputs
    if temporal is None:
      letter = "S"
    elif temporal == spatial:
      letter = "C" if joined else "A"
    else:
      assert temporal == inputs[f"res{block}_branch2b"]
      assert joined
      letter = "B"
    stage, _ = ours.split("/")
    found[stage] = found.get(stage, "") + letter
  return tuple(found.values())


def test_letters_of_the_authors_table():
  assert schedule.letters("ABC", STAGES[199]) == table_letters()


def test_one_running_index():
  """The last block of res3 is a B and the first of res4 a C, in P3D-199."""
  laid = schedule.letters("ABC", STAGES[199])
  assert laid[0] == "ABC"
  assert laid[1] == "ABCABCAB"
  assert laid[2] == "CAB" * 12
  assert laid[3] == "SSS"
  for layers in (63, 131):  # res4 begins with a B
    assert schedule.letters("ABC", STAGES[layers])[2][0] == "B"


def test_three_cycles():
  """Three strings start again at each stage, and stop where it does."""
  laid = schedule.letters(("AB", "C", "SFA"), (3, 4, 2, 1))
  assert laid == ("ABA", "CCCC", "SF", "S")
  assert schedule.letters("AB,C,SFA", (3, 4, 2, 1)) == laid
  with pytest.raises(ValueError, match="one string, or three"):
    schedule.letters("AB,C", (3, 4, 2, 1))
  assert schedule.letters(["A", "A", "A"], (1, 1, 1, 2)) == (
    "A",
    "A",
    "A",
    "SS",
  )


@pytest.mark.parametrize("layers", STAGES)
def test_names_are_sums(layers):
  assert schedule.depth("ABC", STAGES[layers]) == layers
  blocks = sum(STAGES[layers][:3])
  assert layers == 1 + 4 * blocks + 3 * 3 + 1


@pytest.mark.parametrize(
  ("stages", "layers"),
  [(STAGES[63], 50), (STAGES[131], 101), (STAGES[199], 152)],
)
def test_2d_names_are_sums(stages, layers):
  """The ResNets that P3D-63, -131 and -199 stand on."""
  assert schedule.depth("S", stages) == layers


def test_table_prints():
  assert schedule.table("ABC", STAGES[63]).splitlines() == [
    "stage  blocks  letters",
    "res2        3  ABC",
    "res3        4  ABCA",
    "res4        6  BCABCA",
    "res5        3  SSS",
    "layers     63",
  ]


@pytest.mark.parametrize(
  ("cycle", "message"),
  [
    ("ABX", r"schedule is 'ABX'.*letters of ABCSF.*\['X'\]"),
    ("", "schedule is ''.*at least one"),
    (("A", "B"), r"schedule is \('A', 'B'\).*three"),
    (("A", "", "C"), "at least one"),
    ("abc", "letters of ABCSF"),
  ],
)
def test_bad_schedules(cycle, message):
  with pytest.raises(ValueError, match=message):
    schedule.letters(cycle, STAGES[63])


@pytest.mark.parametrize(
  "stages", [(3, 4, 6), (3, 4, 6, 0), (3, 4, -1, 3), (3, 4, 6.0, 3), ()]
)
def test_bad_stages(stages):
  with pytest.raises(ValueError, match="stages is .*four positive"):
    schedule.letters("ABC", stages)


def test_imports_no_jax():
  """A config is checked before a device is touched."""
  path = pathlib.Path(schedule.__file__)
  script = (
    "import importlib.util as u, sys;"
    f"spec = u.spec_from_file_location('schedule', {str(path)!r});"
    "module = u.module_from_spec(spec); spec.loader.exec_module(module);"
    "assert module.depth('ABC', (3, 4, 6, 3)) == 63;"
    "assert 'jax' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", script], check=True)
