r"""A run on a TPU slice of a GKE cluster, with xpk.

    python -m experiments.launch.gke --name my-run --type v5litepod-256 \
      --cluster my-cluster --zone us-west4-a --project my-project \
      --bucket gs://my-bucket --base-image python:3.12 \
      --config experiments/configs/sports1m_p3d199.py --dry-run \
      -- --config.data.dir=gs://my-bucket/sets/sports1m \
      --config.init_from=gs://my-bucket/weights/resnet152_ABC \
      --config.data.cache=/tmp/sets --config.eval.batch=128 \
      --config.mesh.space=2 --config.mesh.gather=res5

Run it at the root of this repository: with `--base-image`, xpk puts that folder
into an image on top of it, and each container installs the package first. With
`--image` the image has the package, and the config at the same path. The
cluster is made once, with `xpk cluster create`, which knows `--spot`.

The set of jobs is started again `--restarts` times: for 75 (preempted) and 76
(a host was lost), which are asked for here, and for 42 and 127 to 255, for
which xpk does so unasked. Deaths by a signal are among these (137: killed, or
out of memory), an interrupt (130) too; Kubernetes counts all alike.
The second command waits for the end, a week at most, and says in its status
whether it was a good one (0) or not (125).

`exec` makes the run the process that xpk's wrapper sends SIGTERM on to.

The flags are those of xpk 1.16.0 (https://pypi.org/project/xpk), which has them
in src/xpk/parser/workload.py, and the wrapper in src/xpk/core/
docker_container.py; what they mean, at
https://github.com/AI-Hypercomputer/xpk/blob/main/docs/usage/workloads.md and
.../docs/usage/docker.md.
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

# Characters of a workload's name (xpk's src/xpk/parser/validators.py).
LONGEST_NAME = 40
# Those with a topology are of kinds that `commands.SLICES` does not know.
TYPE = re.compile(
  rf"[a-z0-9]+-[1-9]\d*|(?!({'|'.join(shared.SLICES)})-)[a-z0-9]+-\d+(x\d+)+"
)
INSTALL = "pip install --quiet '.[tpu]' 'etils[epath-gcs]'"
# Seconds from the notice to the end of a container, to save in. Of a spot
# machine that is taken away Google leaves fewer.
GRACE = 120


def parser() -> shared.Parser:
  """Makes the parser."""
  made = shared.Parser("gke", __doc__)
  made.add_argument("--name", required=True, help="of the run")
  made.add_argument(
    "--type", required=True, help="as v5litepod-256, tpu7x-4x4x4"
  )
  made.add_argument("--cluster", required=True)
  made.add_argument("--zone", required=True, help="as us-west4-a")
  made.add_argument("--project", required=True)
  made.add_argument("--bucket", required=True, help="as gs://my-bucket")
  images = made.add_mutually_exclusive_group(required=True)
  images.add_argument("--image", help="that has p3d_jax")
  images.add_argument("--base-image", help="that has Python >= 3.11 and pip")
  made.add_argument(
    "--restarts", type=int, default=50, help="of all hosts (default: 50)"
  )
  return made


def check(args: argparse.Namespace) -> None:
  """Raises a ValueError for what xpk or Google Cloud would refuse."""
  shared.check_google(args, LONGEST_NAME)
  config = pathlib.PurePath(shared.config_file(args))
  if args.base_image and (config.is_absolute() or ".." in config.parts):
    raise ValueError(
      f"--config is {args.config!r}: it must be below this folder, which is "
      "what comes into the image"
    )
  if not TYPE.fullmatch(args.type):
    raise ValueError(
      f"--type is {args.type!r}: it must be like v5litepod-256, or tpu7x-4x4x4"
    )
  if args.restarts < 0:
    raise ValueError(f"--restarts is {args.restarts}: it must be >= 0")
  shared.check_slice(args.type)
  config = shared.check(args, shared.tpu_devices(args.type))
  # Of a base image it is known that it has only Python.
  shared.check_reachable(config, own=args.image is not None)


def commands(args: argparse.Namespace) -> list[Command]:
  """Returns the commands: the workload, and waiting for its end."""
  place = [
    f"--cluster={args.cluster}",
    f"--project={args.project}",
    f"--zone={args.zone}",
  ]
  config = shared.config_file(args)
  run = shlex.join(
    shared.train(args, config, f"{args.bucket}/runs/{args.name}")
  )
  if args.image:
    image = [f"--docker-image={args.image}"]
    command = f"exec {run}"
  else:
    image = [f"--base-docker-image={args.base_image}", "--script-dir=."]
    command = f"{INSTALL} && exec {run}"
  create = [
    *("xpk", "workload", "create", f"--workload={args.name}", *place),
    *(f"--tpu-type={args.type}", "--num-slices=1", *image),
    f"--max-restarts={args.restarts}",
    "--restart-on-exit-codes=75,76",
    f"--termination-grace-period-seconds={GRACE}",
    f"--command={command}",
  ]
  wait = [
    *("xpk", "workload", "list", *place),
    f"--wait-for-job-completion={args.name}",
  ]
  return [create, wait]


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the exit status."""
  args = parser().parse_args(argv)

  def show() -> str:
    check(args)
    return shared.lines(commands(args))

  return shared.main(
    "gke", lambda: shared.run(commands(args)), show, args.dry_run
  )


if __name__ == "__main__":
  sys.exit(main())
