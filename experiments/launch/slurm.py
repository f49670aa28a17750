r"""A run on the GPU machines of a SLURM cluster: a script for sbatch.

    python -m experiments.launch.slurm --name my-run --nodes 2 --gpus 8 \
      --time 24:00:00 --partition gpu --workdir /shared/runs/my-run \
      --config experiments/configs/sports1m_p3d199.py --dry-run \
      -- --config.data.dir=/shared/sets/sports1m --config.eval.batch=16 \
      --config.init_from=/shared/weights/resnet152_ABC

Writes NAME.sbatch and submits it; `--dry-run` prints lines that do the same.
`p3d` must be on the PATH of the job (activate its environment before), and the
workdir and the config on a file system that all nodes share.

One process a node has all GPUs of it. srun brings SIGTERM to each process:
120 seconds before the time is over, and at a preemption where the cluster has
`PreemptParameters=send_user_signal` (or gives a grace time, which begins with
SIGTERM). All save then and end with status 75, and the job asks to be queued
again, as after 76 (a host was lost) and deaths by a signal; SLURM counts all
alike, and `--restarts` is the most. `scancel` brings SIGTERM too, but ends the
run: it is saved and not queued again.

`--kill-on-bad-exit=0` lets each process end by itself: they watch one another,
and the one that writes may still be saving.

The flags are those of https://slurm.schedmd.com/sbatch.html (--signal,
--requeue, --open-mode; SLURM_RESTART_COUNT) and
https://slurm.schedmd.com/srun.html (--label, --kill-on-bad-exit); preemption:
https://slurm.schedmd.com/preempt.html; the states of a job that was cancelled:
https://wiki.umiacs.umd.edu/umiacs/index.php/SLURM/Preemption.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import shlex
import sys
from collections.abc import Sequence

from experiments.launch import commands as shared
from experiments.launch.commands import Command

# Seconds before the end of the job's time.
WARNING = 120
# Those times of sbatch that have hours: a number alone is minutes there, and
# two are minutes and seconds.
TIME = re.compile(r"\d+-\d+(:[0-5]\d){0,2}|\d+(:[0-5]\d){2}")


def parser() -> shared.Parser:
  """Makes the parser."""
  made = shared.Parser("slurm", __doc__)
  made.add_argument("--name", required=True, help="of the run")
  made.add_argument("--workdir", required=True, help="of the run")
  made.add_argument("--nodes", type=int, default=1, help="default: 1")
  made.add_argument("--gpus", type=int, default=8, help="a node (default: 8)")
  made.add_argument("--cpus", type=int, help="cores a node; default: SLURM's")
  made.add_argument("--time", required=True, help="HH:MM:SS or D-HH")
  made.add_argument("--partition")
  made.add_argument("--account")
  made.add_argument(
    "--restarts", type=int, default=50, help="of the job (default: 50)"
  )
  return made


def check(args: argparse.Namespace) -> None:
  """Raises a ValueError for what SLURM would refuse, or could not share."""
  if not re.fullmatch(r"[\w.-]+", args.name):
    raise ValueError(
      f"--name is {args.name!r}: it must be letters, digits, '.', '_' and '-'"
    )
  if not TIME.fullmatch(args.time):
    raise ValueError(
      f"--time is {args.time!r}: it must be HH:MM:SS or D-HH[:MM[:SS]], as "
      "24:00:00 (to SLURM 24 is minutes)"
    )
  for name, least in (("nodes", 1), ("gpus", 1), ("cpus", 1), ("restarts", 0)):
    given = getattr(args, name)
    if given is not None and given < least:
      raise ValueError(f"--{name} is {given}: it must be >= {least}")
  for name in ("partition", "account"):
    given = getattr(args, name)
    if given is not None and not re.fullmatch(r"[\w.,-]+", given):
      raise ValueError(f"--{name} is {given!r}: it must be a name")
  shared.check(args, args.nodes * args.gpus)


def script(args: argparse.Namespace) -> str:
  """Returns the script."""
  options = [
    f"--job-name={args.name}",
    f"--nodes={args.nodes}",
    "--ntasks-per-node=1",
    f"--gpus-per-node={args.gpus}",
    f"--time={args.time}",
    "--requeue",
    f"--signal=TERM@{WARNING}",
    "--open-mode=append",
    f"--output={args.name}-%j.log",
  ]
  srun = ["srun", "--label", "--kill-on-bad-exit=0"]
  if args.cpus is not None:
    options.append(f"--cpus-per-task={args.cpus}")
    # srun no longer takes it from the job (since 22.05).
    srun.append(f"--cpus-per-task={args.cpus}")
  if args.partition is not None:
    options.append(f"--partition={args.partition}")
  if args.account is not None:
    options.append(f"--account={args.account}")
  train = shared.train(args, shared.config_file(args), args.workdir)
  head = "\n".join(f"#SBATCH {option}" for option in options)
  return f"""#!/bin/bash
{head}

# SIGTERM is for the processes; this shell waits until they have saved.
trap : TERM
{shlex.join([*srun, *train])}
status=$?
echo "ended with status $status after ${{SLURM_RESTART_COUNT:-0}} restarts"
# 75: preempted, saved; 76: a host was lost; above 128: a death by a signal.
if [ $status -eq 75 ] || [ $status -eq 76 ] ||
  {{ [ $status -gt 128 ] && [ $status -ne 130 ]; }}; then
  # Was it scancel? JSON has all states of the job, and not COMPLETING alone.
  if scontrol --json show job "$SLURM_JOB_ID" 2> /dev/null |
    grep -q '"CANCELLED"'; then
    echo "cancelled: not queued again"
  elif [ "${{SLURM_RESTART_COUNT:-0}}" -lt {args.restarts} ]; then
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit $status
"""


def file(args: argparse.Namespace) -> str:
  """Returns the name of the script."""
  return f"{args.name}.sbatch"


def commands(args: argparse.Namespace) -> list[Command]:
  """Returns the command that submits the script."""
  return [["sbatch", file(args)]]


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the exit status."""
  args = parser().parse_args(argv)

  def show() -> str:
    check(args)
    write = f"cat > {file(args)} << 'END OF SCRIPT'\n{script(args)}"
    return f"{write}END OF SCRIPT\n{shared.lines(commands(args))}"

  def work() -> None:
    pathlib.Path(file(args)).write_text(script(args))
    shared.run(commands(args))

  return shared.main("slurm", work, show, args.dry_run)


if __name__ == "__main__":
  sys.exit(main())
