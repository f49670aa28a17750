"""Which block stands where: the letters of a schedule laid over the stages.

A schedule is a string of letters used in turn over res2, res3 and res4 by one
running index, so 'ABC' does not start again at a stage (the authors' release),
or three strings, one a stage, each starting its own cycle ("A,BC,S" or a
tuple). res5 is always 2D.

    A  spatial, then temporal      B  spatial beside temporal
    C  spatial, then temporal beside it        (Figure 2 of the paper)
    S  spatial only: a 2D ResNet   F  a full 3x3x3 convolution

This file imports no jax: a config can be checked before a device is touched.
"""

from __future__ import annotations

from collections.abc import Sequence

# Letter -> convolution layers of its bottleneck, as the names of the networks
# count them: reduce and expand, and what stands between.
LAYERS = {"A": 4, "B": 4, "C": 4, "S": 3, "F": 3}
LETTERS = "".join(LAYERS)

Schedule = str | Sequence[str]


def check_stages(stages: Sequence[int]) -> tuple[int, int, int, int]:
  """Returns the numbers of blocks of res2 to res5, checked.

  Raises:
    ValueError: if there are not four, or one is not a positive integer.
  """
  stages = tuple(stages)
  if len(stages) != 4 or not all(isinstance(n, int) and n > 0 for n in stages):
    raise ValueError(
      f"stages is {stages}: it must be four positive numbers of blocks, "
      "for res2, res3, res4 and res5"
    )
  return stages


def letters(schedule: Schedule, stages: Sequence[int]) -> tuple[str, ...]:
  """Lays a schedule over the stages.

  Args:
    schedule: letters used in turn; or three such strings, for res2 to res4,
      as a tuple or with commas between them: "A,BC,S".
    stages: blocks in res2, res3, res4 and res5.

  Returns:
    Four strings of letters, one letter a block; that of res5 is all 'S'.

  Raises:
    ValueError: if a letter is unknown, a string empty, or there are not three.
  """
  stages = check_stages(stages)
  if isinstance(schedule, str):
    cycles = tuple(schedule.split(","))
  else:
    cycles = tuple(schedule)
  runs_on = len(cycles) == 1 and isinstance(schedule, str)
  if len(cycles) != 3 and not runs_on:
    raise ValueError(
      f"schedule is {cycles}: it must be one string, or three, one for each "
      "of res2, res3 and res4"
    )
  for cycle in cycles:
    unknown = set(cycle) - set(LETTERS)
    if not cycle or unknown:
      raise ValueError(
        f"schedule is {schedule!r}: it must be letters of {LETTERS}, "
        + (f"not {sorted(unknown)}" if unknown else "at least one")
      )
  if runs_on:
    total = sum(stages[:3])
    run = (cycles[0] * total)[:total]
    cuts = (0, stages[0], stages[0] + stages[1], total)
    laid = [run[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
  else:
    laid = [(c * n)[:n] for c, n in zip(cycles, stages, strict=False)]
  return (*laid, "S" * stages[3])


def depth(schedule: Schedule, stages: Sequence[int]) -> int:
  """Counts the layers as the networks' names do.

  conv1 + 4 a P3D block + 3 a 2D block + fc: P3D-63, P3D-131 and P3D-199 with
  'ABC', ResNet-50, -101 and -152 (151 + fc) with 'S'.

  Args:
    schedule: as in `letters`.
    stages: blocks in res2, res3, res4 and res5.
  """
  return 2 + sum(
    LAYERS[a] for stage in letters(schedule, stages) for a in stage
  )


def table(schedule: Schedule, stages: Sequence[int]) -> str:
  """Prints which block stands where, a line a stage."""
  laid = letters(schedule, stages)
  lines = [f"{'stage':<7}{'blocks':>6}  letters"]
  for number, stage in enumerate(laid, start=2):
    lines.append(f"res{number:<4}{len(stage):>6}  {stage}")
  lines.append(f"layers{depth(schedule, stages):>7}")
  return "\n".join(lines)
