r"""A run on a TPU pod of virtual machines: asked for, used and given back.

    python -m experiments.launch.tpu_pod --name my-run --type v5litepod-256 \
      --zone us-west4-a --project my-project --bucket gs://my-bucket \
      --config experiments/configs/sports1m_p3d199.py --spot --dry-run \
      -- --config.data.dir=gs://my-bucket/sets/sports1m \
      --config.init_from=gs://my-bucket/weights/resnet152_ABC \
      --config.data.cache=/tmp/sets --config.eval.batch=128 \
      --config.mesh.space=2 --config.mesh.gather=res5

Run it at the root of this repository. It builds the package, waits for the pod
as long as the queue takes, installs on all workers, starts `p3d train` on all
and follows the first one's log; the workdir is BUCKET/runs/NAME. On a worker a
shell starts the run again: always after status 75 (preempted), `--restarts`
times after 76 (a host was lost) or a death by a signal. A pod that is taken
away is asked for anew, `--renew` times. After the last step it is deleted; it
stays, for you to look at, after any other end, and costs money.

The run does not hang on this process: a lost connection is made anew, and if
this process was stopped, the same line with `--follow` goes on where it was.
Stopped while the pod was still in the queue, it is `--asked` that goes on.

The flags are those of
https://cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources/create,
.../queued-resources/describe, .../queued-resources/delete,
.../tpus/tpu-vm/ssh and .../tpus/tpu-vm/scp; the states those of
https://cloud.google.com/tpu/docs/queued-resources; the runtime versions are of
https://cloud.google.com/tpu/docs/runtimes (in 2026, for PyTorch and JAX). The
same pages say that this API gets no new kinds of TPU (TPU7x and later: gke.py).
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence

from experiments.launch import commands as shared
from experiments.launch.commands import Command, CommandError
from p3d_jax.version import __version__

# Kind -> software of its machines.
RUNTIMES = {
  "v2": "tpu-ubuntu2204-base",
  "v3": "tpu-ubuntu2204-base",
  "v4": "tpu-ubuntu2204-base",
  "v5litepod": "v2-alpha-tpuv5-lite",  # v5e
  "v5p": "v2-alpha-tpuv5",
  "v6e": "v2-alpha-tpuv6e",
}
WHEEL = f"p3d_jax-{__version__}-py3-none-any.whl"
# States of a request whose machines were taken away.
GONE = ("SUSPENDING", "SUSPENDED")
# Of ssh, and so of gcloud (_SSH_ERROR_EXIT_CODE in the SDK's command_lib/util/
# ssh/ssh.py): the connection was lost, which says nothing of the run.
NO_CONNECTION = 255
# A worker has no run, and none has left a status: the machine is about to go.
NO_RUN = 254
# Times in a row that following may fail, and seconds until the next try: a pod
# that is taken away is ACTIVE for some minutes yet.
TRIES, PAUSE = 20, 30
# Seconds of following that must have been a connection: gcloud tries for many
# minutes to make one.
HELD = 3600

# On a worker. Its own Python is 3.10, older than this package allows.
INSTALL = (
  "if kill -0 $(cat p3d.pid 2> /dev/null) 2> /dev/null;"
  " then echo 'a run goes on here: see --follow' >&2; exit 1; fi;"
  " python3 -m pip install --user --quiet uv"
  " && ~/.local/bin/uv venv --quiet --clear --python 3.12 ~/p3d"
  " && ~/.local/bin/uv pip install --quiet --python ~/p3d/bin/python"
  f" './{WHEEL}[tpu]' 'etils[epath-gcs]'"
)
# Waits while the request is in the queue, and says when its state changes.
WAIT = (
  "before=; failed=0; while true; do"
  " if ! state=$({describe}); then failed=$((failed + 1));"
  " [ $failed -lt {tries} ] || exit 1; sleep {pause}; continue; fi; failed=0;"
  ' if [ "$state" != "$before" ]; then echo "$state"; before=$state; fi;'
  " case $state in ACTIVE) exit 0 ;; FAILED|SUSPEND*|DELETING) exit 1 ;; esac;"
  " sleep {pause}; done"
)
# The statuses are those of p3d_jax/hosts/ends.py; above 128 they are deaths by
# a signal, 130 is an interrupt. What made a machine preempt the run may be
# still there a moment later.
AGAIN = (
  "left={restarts}; while true; do {command}; status=$?; case $status in"
  " 75) ;; 0|1|2|130) break ;;"
  " *) if [ $status -ne 76 ] && [ $status -le 128 ] || [ $left -le 0 ];"
  " then break; fi; left=$((left - 1)) ;; esac;"
  ' echo "ended with status $status: starting again ($left left to count)";'
  " sleep {pause}; done; echo $status > p3d.status"
)
# gcloud runs a command again if the connection was lost meanwhile.
START = (
  "if kill -0 $(cat p3d.pid 2> /dev/null) 2> /dev/null; then exit 0; fi;"
  " rm -f p3d.status; : > p3d.log;"
  " nohup setsid bash -c {again} >> p3d.log 2>&1 < /dev/null &"
  " echo $! > p3d.pid"
)
FOLLOW = (
  "tail -n {lines} -f --pid=$(cat p3d.pid) p3d.log;"
  f" exit $(cat p3d.status || echo {NO_RUN})"
)


def parser() -> shared.Parser:
  """Makes the parser."""
  made = shared.Parser("tpu_pod", __doc__)
  made.add_argument("--name", required=True, help="of the run")
  made.add_argument(
    "--type",
    required=True,
    help=f"{', '.join(f'{kind}-N' for kind in RUNTIMES)} (v5litepod is v5e)",
  )
  made.add_argument("--zone", required=True, help="as us-west4-a")
  made.add_argument("--project", required=True)
  made.add_argument("--bucket", required=True, help="as gs://my-bucket")
  made.add_argument(
    "--spot", action="store_true", help="cheaper, and taken away at any time"
  )
  made.add_argument("--runtime", help="default: that of the type")
  made.add_argument(
    "--restarts", type=int, default=5, help="of the run (default: 5)"
  )
  made.add_argument(
    "--renew",
    type=int,
    default=10,
    help="times that a pod taken away is asked for anew (default: 10)",
  )
  on = made.add_mutually_exclusive_group()
  on.add_argument(
    "--follow", action="store_true", help="a run that was started before"
  )
  on.add_argument(
    "--asked",
    action="store_true",
    help="the pod was asked for before; the run was not started",
  )
  return made


def check(args: argparse.Namespace) -> None:
  """Raises a ValueError for what Google Cloud would refuse."""
  shared.check_google(args)
  kind = re.fullmatch(r"([a-z0-9]+)-[1-9]\d*", args.type)
  if kind is None or kind[1] not in RUNTIMES:
    raise ValueError(
      f"--type is {args.type!r}: it must be one of "
      f"{', '.join(f'{kind}-N' for kind in RUNTIMES)}"
    )
  for name in ("restarts", "renew"):
    if getattr(args, name) < 0:
      raise ValueError(f"--{name} is {getattr(args, name)}: it must be >= 0")
  shared.check_slice(args.type)
  config = shared.check(args, shared.tpu_devices(args.type))
  # A disk can be attached to a pod that is there.
  shared.check_reachable(config, own=args.asked or args.follow)


def commands(args: argparse.Namespace) -> list[Command]:
  """Returns the commands from the request for the pod to its end."""
  asked = _ask(args)[1:] if args.asked else _ask(args)
  start = [_build(), *asked, *_start(args)]
  return [*([] if args.follow else start), _follow(args), _delete(args)]


def _build() -> Command:
  words = ["python3", "-m", "pip", "wheel", "--quiet", "--no-deps"]
  return [*words, "--wheel-dir", "dist", "."]


def _ask(args: argparse.Namespace) -> list[Command]:
  kind = args.type.partition("-")[0]
  create = [
    *_queued(args, "create"),
    f"--node-id={args.name}",
    f"--accelerator-type={args.type}",
    f"--runtime-version={args.runtime or RUNTIMES[kind]}",
    *(["--spot"] if args.spot else []),
  ]
  describe = shlex.join(_describe(args))
  wait = WAIT.format(describe=describe, tries=TRIES, pause=PAUSE)
  return [create, ["bash", "-c", wait]]


def _start(args: argparse.Namespace) -> list[Command]:
  config = shared.config_file(args)
  words = shared.train(
    args, os.path.basename(config), f"{args.bucket}/runs/{args.name}"
  )
  again = AGAIN.format(
    restarts=args.restarts,
    # The shell of a worker is to find its own home.
    command=f"~/p3d/bin/{shlex.join(words)}",
    pause=10,
  )
  return [
    [
      *("gcloud", "compute", "tpus", "tpu-vm", "scp"),
      *(f"dist/{WHEEL}", config, f"{args.name}:"),
      *_place(args),
      "--worker=all",
    ],
    _ssh(args, "all", INSTALL),
    _ssh(args, "all", START.format(again=shlex.quote(again))),
  ]


def _follow(args: argparse.Namespace, lines: str = "+1") -> Command:
  # A lost worker ends all, the first one too: its status is that of the run.
  return _ssh(args, "0", FOLLOW.format(lines=lines))


def _delete(args: argparse.Namespace) -> Command:
  return [*_queued(args, "delete"), "--force", "--quiet"]


def _describe(args: argparse.Namespace) -> Command:
  return [*_queued(args, "describe"), "--format=value(state.state)"]


def _queued(args: argparse.Namespace, verb: str) -> Command:
  words = ["gcloud", "compute", "tpus", "queued-resources", verb, args.name]
  return [*words, *_place(args)]


def _ssh(args: argparse.Namespace, worker: str, text: str) -> Command:
  words = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", args.name]
  return [*words, *_place(args), f"--worker={worker}", f"--command={text}"]


def _place(args: argparse.Namespace) -> list[str]:
  return [f"--project={args.project}", f"--zone={args.zone}"]


def work(args: argparse.Namespace) -> None:
  """Runs the commands, from the first again if the pod was taken away."""
  renewed = 0
  while True:
    try:
      *before, follow, delete = commands(args)
      shared.run(before)
      _followed(args, follow)
      shared.run([delete])
      return
    except CommandError as error:
      state = _state(args)
      if state and state not in GONE:
        told = _stays(args, state)
        raise CommandError(error.command, error.status, told) from error
      if not state or renewed == args.renew:
        raise
      try:
        shared.check_reachable(shared.check(args), own=False)
      except ValueError as disk:
        told = f"the pod is gone, and not asked for anew: {disk}"
        raise CommandError(error.command, error.status, told) from error
      renewed += 1
      told = f"the pod is gone; asking anew ({renewed} of {args.renew})"
      print(f"tpu_pod: {told}", file=sys.stderr, flush=True)
    shared.run([_delete(args)])
    args.follow = args.asked = False


def _followed(args: argparse.Namespace, follow: Command) -> None:
  """Follows a run to its end; a connection that was lost is made anew.

  It cannot be told from one that never was: gcloud answers both alike.
  """
  lost = 0
  while True:
    began = time.monotonic()
    try:
      shared.run([follow])
      return
    except CommandError as error:
      # 1 is gcloud's own answer for machines that are just being taken away.
      passes = error.status in (NO_CONNECTION, NO_RUN)
      passes = passes or bool(lost and error.status == 1)
      if time.monotonic() - began > HELD:
        lost = 0
      if not passes or lost == TRIES or _state(args) in GONE:
        raise
    lost += 1
    told = f"nothing to follow; again in {PAUSE} s ({lost} of {TRIES})"
    print(f"tpu_pod: {told}", file=sys.stderr, flush=True)
    time.sleep(PAUSE)
    follow = _follow(args, "20")  # the last lines, not all of them again


def _state(args: argparse.Namespace) -> str:
  """The state of the request; "": there is none, or nobody says."""
  done = subprocess.run(_describe(args), stdout=subprocess.PIPE, text=True)
  return done.stdout.strip() if done.returncode == 0 else ""


def _stays(args: argparse.Namespace, state: str) -> str:
  delete = shlex.join(_delete(args))
  return f"the pod is {state}, and costs money while ACTIVE, until: {delete}"


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the exit status."""
  args = parser().parse_args(argv)

  def show() -> str:
    check(args)
    return shared.lines(commands(args))

  return shared.main("tpu_pod", lambda: work(args), show, args.dry_run)


if __name__ == "__main__":
  sys.exit(main())
