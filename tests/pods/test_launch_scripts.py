"""The launchers of experiments/launch/: what they print, and what they run."""

import importlib
import itertools
import os
import pathlib
import re
import shlex
import subprocess
import sys
from types import ModuleType

import pytest

from experiments.launch import commands as shared
from experiments.launch import gke, gpus, slurm, tpu_pod
from p3d_jax import cli
from p3d_jax.train import config_check, config_file
from p3d_jax.version import __version__
from tests import small

DEMO = "experiments/configs/demo.py"
FLAG = "--config.data.dir=gs://b/my sets"
# A config that eight and sixteen devices can run, with an argument too.
CONFIG = """
from p3d_jax.train import config

def get_config(argument=None):
  made = config.default()
  made.data.dir = "gs://b/sets"
  made.data.cache = "/tmp/sets"
  made.train.batch = made.eval.batch = 16
  return made
"""
WHEEL = f"p3d_jax-{__version__}-py3-none-any.whl"
PLACE = "--project=p --zone=us-west4-a"
WORDS = {
  tpu_pod: "--name my-run --type v5litepod-16 --zone us-west4-a --project p "
  f"--bucket gs://b --config {DEMO}",
  gke: "--name my-run --type v5litepod-16 --cluster c --zone us-west4-a "
  f"--project p --bucket gs://b --base-image python:3.12 --config {DEMO}",
  slurm: "--name my-run --nodes 2 --gpus 4 --time 1-12 --workdir /runs/my-run "
  f"--config {DEMO}",
  gpus: f"--workdir runs/1 --config {DEMO}",
}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.chdir(small.ROOT)
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # no GPU, whatever is here


def arguments(module: ModuleType, *more: str):
  """The arguments of a launcher."""
  return module.parser().parse_args([*WORDS[module].split(), *more])


def tool(folder: pathlib.Path, name: str, text: str) -> None:
  """Makes a program of a line of shell; it first notes how it was called."""
  folder.mkdir(exist_ok=True)
  path = folder / name
  # A line a call; its words end with a byte that none of them has.
  note = f"printf '%s\\001' {name} \"$@\"; echo"
  path.write_text(
    f"#!/bin/bash\n{{ {note}; }} >> {folder.parent}/calls\n{text}\n"
  )
  path.chmod(0o755)


def calls(folder: pathlib.Path) -> list[list[str]]:
  """The command lines that the tools in `folder/bin` were called with."""
  path = folder / "calls"
  lines = path.read_text().splitlines() if path.exists() else []
  return [line.removesuffix("\x01").split("\x01") for line in lines]


def shell(
  text: str, folder: pathlib.Path, **environ: str
) -> subprocess.CompletedProcess[str]:
  """Runs bash with the tools of `folder/bin`, at home in `folder`."""
  path = f"{folder / 'bin'}:{os.environ['PATH']}"
  return subprocess.run(
    ["bash", "-c", text],
    cwd=folder,
    env={"PATH": path, "HOME": str(folder), **environ},
    capture_output=True,
    text=True,
    timeout=60,
  )


def refused(module: ModuleType, words: list[str], capsys) -> str:
  """Returns the one line of a launcher that refuses its arguments."""
  try:
    status = module.main(words)
  except SystemExit as error:
    status = int(error.code or 0)
  assert status == 2
  out, err = capsys.readouterr()
  assert out == ""
  assert err.count("\n") == 1
  return err


# TPU pods.


def test_commands_of_a_pod() -> None:
  args = arguments(tpu_pod, "--spot", "--restarts", "3", "--", FLAG)
  build, create, wait, copy, install, start, follow, delete = tpu_pod.commands(
    args
  )
  assert build == (
    [
      "python3",
      "-m",
      "pip",
      "wheel",
      "--quiet",
      "--no-deps",
      "--wheel-dir",
      "dist",
      ".",
    ]
  )
  assert (
    create
    == (
      f"gcloud compute tpus queued-resources create my-run {PLACE} "
      "--node-id=my-run --accelerator-type=v5litepod-16 "
      "--runtime-version=v2-alpha-tpuv5-lite --spot"
    ).split()
  )
  assert wait[:2] == ["bash", "-c"]
  assert (
    copy
    == (
      f"gcloud compute tpus tpu-vm scp dist/{WHEEL} {DEMO} my-run: {PLACE} "
      "--worker=all"
    ).split()
  )
  ssh = f"gcloud compute tpus tpu-vm ssh my-run {PLACE}".split()
  assert install == [
    *ssh,
    "--worker=all",
    "--command=if kill -0 $(cat p3d.pid 2> /dev/null) 2> /dev/null; then "
    "echo 'a run goes on here: see --follow' >&2; exit 1; fi; "
    "python3 -m pip install --user --quiet uv && "
    "~/.local/bin/uv venv --quiet --clear --python 3.12 ~/p3d && "
    "~/.local/bin/uv pip install --quiet --python ~/p3d/bin/python "
    f"'./{WHEEL}[tpu]' 'etils[epath-gcs]'",
  ]
  assert start[:-1] == [*ssh, "--worker=all"]
  train = "~/p3d/bin/p3d train --config=demo.py --workdir=gs://b/runs/my-run "
  # Quoted for the worker's shell, and in it for the one that starts again.
  words = shlex.split(start[-1])
  assert train + shlex.quote(FLAG) in words[words.index("-c") + 1]
  assert follow[:-1] == [*ssh, "--worker=0"]
  assert (
    delete
    == (
      f"gcloud compute tpus queued-resources delete my-run {PLACE} --force "
      "--quiet"
    ).split()
  )
  # A run that was started before is only followed.
  args.follow = True
  assert tpu_pod.commands(args) == [follow, delete]
  # A pod that was asked for before is not asked for again.
  args.follow, args.asked = False, True
  assert tpu_pod.commands(args) == [
    *(build, wait, copy, install, start, follow, delete)
  ]


@pytest.mark.parametrize(
  ("kind", "runtime"),
  [
    ("v4-8", "tpu-ubuntu2204-base"),
    ("v5litepod-1", "v2-alpha-tpuv5-lite"),
    ("v5p-8", "v2-alpha-tpuv5"),
    ("v6e-16", "v2-alpha-tpuv6e"),
  ],
)
def test_the_software_of_a_type(kind: str, runtime: str) -> None:
  """The table of https://cloud.google.com/tpu/docs/runtimes."""
  args = arguments(tpu_pod, "--type", kind, "--", FLAG)
  tpu_pod.check(args)
  create = tpu_pod.commands(args)[1]
  assert f"--runtime-version={runtime}" in create
  assert "--spot" not in create
  args = arguments(tpu_pod, "--type", kind, "--runtime", "new")
  assert "--runtime-version=new" in tpu_pod.commands(args)[1]


def on_a_worker(
  folder: pathlib.Path, statuses: list[int], *more: str
) -> subprocess.CompletedProcess[str]:
  """Runs what a worker is to start, and then what follows it, in a shell."""
  next_status = 'echo "out of p3d"; read -r s < ~/next; sed -i 1d ~/next'
  tool(folder / "bin", "sleep", "")
  tool(folder / "p3d", "p3d", f"{next_status}; exit $s")
  (folder / "p3d" / "bin").mkdir()
  (folder / "p3d" / "p3d").rename(folder / "p3d" / "bin" / "p3d")
  (folder / "next").write_text("".join(f"{s}\n" for s in statuses))
  *_, start, follow, _ = tpu_pod.commands(arguments(tpu_pod, *more))
  assert shell(start[-1].removeprefix("--command="), folder).returncode == 0
  return shell(follow[-1].removeprefix("--command="), folder)


@pytest.mark.parametrize(
  ("statuses", "restarts", "starts", "status"),
  [
    pytest.param([0], 0, 1, 0, id="done"),
    pytest.param([75, 75, 75, 0], 0, 4, 0, id="preempted"),
    pytest.param([76, 137, 0], 2, 3, 0, id="lost"),
    pytest.param([76, 75, 76, 76, 0], 2, 4, 76, id="lost too often"),
    pytest.param([2], 9, 1, 2, id="mistake"),
    pytest.param([130], 9, 1, 130, id="interrupted"),
    pytest.param([127], 9, 1, 127, id="not installed"),
  ],
)
def test_a_worker_starts_again(
  statuses: list[int],
  restarts: int,
  starts: int,
  status: int,
  tmp_path: pathlib.Path,
) -> None:
  done = on_a_worker(
    tmp_path, statuses, "--restarts", str(restarts), "--", FLAG
  )
  assert done.returncode == status, done.stderr
  train = ["p3d", "train", "--config=demo.py", "--workdir=gs://b/runs/my-run"]
  p3d = [words for words in calls(tmp_path) if words[0] == "p3d"]
  assert p3d == [[*train, FLAG]] * starts
  lines = done.stdout.splitlines()
  assert lines.count("out of p3d") == starts
  assert len(lines) == 2 * starts - 1  # and one for each new start


def test_a_worker_that_is_started_twice_runs_once(
  tmp_path: pathlib.Path,
) -> None:
  """gcloud sends a command again if the connection is lost meanwhile."""
  *_, start, _, _ = tpu_pod.commands(arguments(tpu_pod))
  (tmp_path / "p3d" / "bin").mkdir(parents=True)
  run = tmp_path / "p3d" / "bin" / "p3d"
  run.write_text("#!/bin/bash\necho out of p3d\nread -r\nexit 2\n")
  run.chmod(0o755)
  os.mkfifo(tmp_path / "in")
  text = start[-1].removeprefix("--command=").replace("/dev/null &", "in &")
  end = "echo > in; while kill -0 $(cat p3d.pid); do sleep 0.05; done"
  done = shell(f"({text}); ls p3d.log; ({text}); {end}", tmp_path)
  assert "p3d.log" in done.stdout  # at once: it is followed at once
  assert (tmp_path / "p3d.log").read_text() == "out of p3d\n"
  assert (tmp_path / "p3d.status").read_text() == "2\n"


def test_a_machine_that_is_shut_down_is_not_the_end(
  tmp_path: pathlib.Path,
) -> None:
  """Its shell is killed before it can say how the run has ended."""
  *_, follow, _ = tpu_pod.commands(arguments(tpu_pod))
  (tmp_path / "p3d.log").write_text("step 7\n")
  text = "sleep 0 & echo $! > p3d.pid; wait; "
  text += follow[-1].removeprefix("--command=")
  done = shell(text, tmp_path)
  assert done.stdout == "step 7\n"
  assert done.returncode == tpu_pod.NO_RUN


# A gcloud whose states, and words at which it fails, are lines of files; it
# fails with status 7, or with one in a line of its own.
GCLOUD = """
case "$*" in *describe*)
  state=$(head -n 1 states)
  [ $(wc -l < states) -eq 1 ] || sed -i 1d states
  [ "$state" != OFFLINE ] || exit 1
  echo "$state"
  exit 0
esac
if [ -s fails ] && [[ "$*" == *"$(head -n 1 fails)"* ]]; then
  sed -i 1d fails
  status=7
  if [ -s statuses ]; then status=$(head -n 1 statuses); sed -i 1d statuses; fi
  exit $status
fi
"""


def pod(folder: pathlib.Path, states: str, fails: str = "") -> None:
  """Makes the tools of a pod, which do nothing."""
  tool(folder / "bin", "gcloud", GCLOUD)
  tool(folder / "bin", "python3", "")
  tool(folder / "bin", "sleep", "")
  (folder / "states").write_text("".join(f"{s}\n" for s in states.split()))
  (folder / "fails").write_text(fails)


@pytest.mark.parametrize(
  ("states", "status", "told"),
  [
    ("ACTIVE", 0, "ACTIVE"),
    (
      "CREATING WAITING_FOR_RESOURCES WAITING_FOR_RESOURCES PROVISIONING "
      "ACTIVE",
      0,
      "CREATING WAITING_FOR_RESOURCES PROVISIONING ACTIVE",
    ),
    ("WAITING_FOR_RESOURCES FAILED", 1, "WAITING_FOR_RESOURCES FAILED"),
    ("ACCEPTED SUSPENDED", 1, "ACCEPTED SUSPENDED"),
    # One answer of many that does not come is not the end of a long wait.
    ("WAITING_FOR_RESOURCES OFFLINE ACTIVE", 0, "WAITING_FOR_RESOURCES ACTIVE"),
    ("OFFLINE", 1, ""),
  ],
)
def test_waiting_for_a_pod(
  states: str, status: int, told: str, tmp_path: pathlib.Path
) -> None:
  """The states are those of https://cloud.google.com/tpu/docs/queued-resources."""
  pod(tmp_path, states)
  wait = tpu_pod.commands(arguments(tpu_pod))[2]
  done = shell(shlex.join(wait), tmp_path)
  assert done.returncode == status
  assert done.stdout.split() == told.split()


def launched(
  module: ModuleType,
  folder: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  *more: str,
) -> int:
  """Runs a launcher with the tools of `folder/bin`, in that folder."""
  config = folder / DEMO
  config.parent.mkdir(parents=True)
  config.write_text(CONFIG)
  monkeypatch.chdir(folder)
  monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
  return module.main([*WORDS[module].split(), *more])


def test_a_pod_s_commands_are_run_in_order(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
  pod(tmp_path, "PROVISIONING ACTIVE")
  expected = tpu_pod.commands(arguments(tpu_pod, "--", FLAG))
  assert launched(tpu_pod, tmp_path, monkeypatch, "--", FLAG) == 0
  ran = [words for words in calls(tmp_path) if "describe" not in words]
  assert ran == [*expected[:2], ["sleep", "30"], *expected[3:]]
  shown = [x[2:] for x in capfd.readouterr().out.splitlines() if x[:2] == "+ "]
  assert [shlex.split(line) for line in shown] == expected


def test_a_pod_that_cannot_be_used_stops_there(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
  pod(tmp_path, "ACTIVE", fails="tpu-vm scp\n")
  *_, copy, _, _, _, delete = tpu_pod.commands(arguments(tpu_pod))
  assert launched(tpu_pod, tmp_path, monkeypatch) == 7
  *_, last, state = calls(tmp_path)
  assert last == copy
  assert "describe" in state
  assert capfd.readouterr().err == (
    f"tpu_pod: status 7 of: {shlex.join(copy)}; the pod is ACTIVE, and costs "
    f"money while ACTIVE, until: {shlex.join(delete)}\n"
  )


def test_a_request_that_failed_is_not_made_again(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
  """No quota, say: the next one would fail as well."""
  pod(tmp_path, "ACCEPTED FAILED")
  assert launched(tpu_pod, tmp_path, monkeypatch) == 1
  assert sum("create" in words for words in calls(tmp_path)) == 1
  assert not any("scp" in words for words in calls(tmp_path))
  assert "; the pod is FAILED, and costs" in capfd.readouterr().err


def test_a_pod_that_was_taken_away_is_asked_for_anew(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
  """While it trains, twice; only one request more is allowed."""
  states = "ACTIVE SUSPENDED ACTIVE SUSPENDED"
  pod(tmp_path, states, fails="--worker=0\n--worker=0\n")
  expected = tpu_pod.commands(arguments(tpu_pod))
  *before, delete = [*expected[:2], *expected[3:]]
  assert launched(tpu_pod, tmp_path, monkeypatch, "--renew", "1") == 7
  ran = [words for words in calls(tmp_path) if "describe" not in words]
  assert ran == [*before, delete, *before]
  err = capfd.readouterr().err.splitlines()
  assert err[0] == "tpu_pod: the pod is gone; asking anew (1 of 1)"
  assert err[1:] == [f"tpu_pod: status 7 of: {shlex.join(before[-1])}"]


@pytest.mark.parametrize(
  ("statuses", "states", "follows", "status"),
  [
    pytest.param([255, 255], "ACTIVE", 3, 0, id="the run goes on"),
    pytest.param([255, 1], "ACTIVE", 3, 0, id="and gcloud sees it late"),
    pytest.param([1], "ACTIVE", 1, 1, id="a run that failed"),
    pytest.param([255, 76], "ACTIVE", 2, 76, id="a run that is lost"),
    pytest.param([255] * 9, "ACTIVE", 4, 255, id="it never comes back"),
    pytest.param([254] * 9, "ACTIVE", 4, 254, id="nothing runs there"),
    # Machines are gone before the request says so.
    pytest.param(
      [255, 1],
      "ACTIVE ACTIVE SUSPENDING SUSPENDED ACTIVE",
      3,
      0,
      id="the pod is taken away",
    ),
  ],
)
def test_a_lost_connection_is_not_the_end_of_a_run(
  statuses: list[int],
  states: str,
  follows: int,
  status: int,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(tpu_pod, "TRIES", 3)
  monkeypatch.setattr(tpu_pod.time, "sleep", lambda seconds: None)
  # Each try takes ten minutes: gcloud makes several of its own.
  clock = itertools.count(step=600)
  monkeypatch.setattr(tpu_pod.time, "monotonic", lambda: next(clock))
  pod(tmp_path, states, fails="--worker=0\n" * len(statuses))
  (tmp_path / "statuses").write_text("".join(f"{s}\n" for s in statuses))
  assert launched(tpu_pod, tmp_path, monkeypatch) == status
  ran = calls(tmp_path)
  assert sum("--worker=0" in words for words in ran) == follows
  assert sum("create" in words for words in ran) == 1 + ("SUSP" in states)
  # After a good end alone the pod is given back; else it is asked for anew.
  assert ("delete" in ran[-1]) == (status == 0)


def test_a_connection_that_held_counts_anew(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """And shows the last lines again, not all of them."""
  monkeypatch.setattr(tpu_pod, "TRIES", 1)
  monkeypatch.setattr(tpu_pod.time, "sleep", lambda seconds: None)
  clock = itertools.count(step=2 * tpu_pod.HELD)
  monkeypatch.setattr(tpu_pod.time, "monotonic", lambda: next(clock))
  pod(tmp_path, "ACTIVE", fails="--worker=0\n" * 5)
  (tmp_path / "statuses").write_text("255\n" * 5)
  assert launched(tpu_pod, tmp_path, monkeypatch) == 0
  follows = [words for words in calls(tmp_path) if "--worker=0" in words]
  assert "tail -n +1 -f" in follows[0][-1]
  assert ["tail -n 20 -f" in words[-1] for words in follows[1:]] == [True] * 5


def test_a_pod_with_a_disk_of_its_own_is_not_asked_for_anew(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
  """The new one would not have it."""
  pod(tmp_path, "ACTIVE SUSPENDED", fails="--worker=0\n")
  words = ["--asked", "--", "--config.data.dir=/mnt/disk/set"]
  assert launched(tpu_pod, tmp_path, monkeypatch, *words) == 7
  assert not any("create" in words for words in calls(tmp_path))
  told = "the pod is gone, and not asked for anew: config.data.dir is '/mnt"
  assert told in capfd.readouterr().err


def test_nothing_is_installed_over_a_run(tmp_path: pathlib.Path) -> None:
  tool(tmp_path / "bin", "python3", "exit 1")
  *_, install, _, _, _ = tpu_pod.commands(arguments(tpu_pod))
  text = install[-1].removeprefix("--command=")
  run = "sleep 60 & echo $! > p3d.pid"
  done = shell(f"{run}; ({text}); s=$?; kill $!; wait; exit $s", tmp_path)
  assert done.returncode == 1
  assert done.stderr.startswith("a run goes on here: see --follow\n")
  assert calls(tmp_path) == []
  shell(text, tmp_path)  # that one has ended
  assert calls(tmp_path)[0][:3] == ["python3", "-m", "pip"]


# GKE.


def test_commands_of_gke() -> None:
  place = "--cluster=c --project=p --zone=us-west4-a"
  create, wait = gke.commands(arguments(gke, "--", FLAG))
  begin = f"xpk workload create --workload=my-run {place} "
  begin += "--tpu-type=v5litepod-16 --num-slices=1 "
  end = "--max-restarts=50 --restart-on-exit-codes=75,76 "
  end += "--termination-grace-period-seconds=120"
  image = "--base-docker-image=python:3.12 --script-dir=. "
  train = f"exec p3d train --config={DEMO} --workdir=gs://b/runs/my-run"
  assert create == [
    *f"{begin}{image}{end}".split(),
    "--command=pip install --quiet '.[tpu]' 'etils[epath-gcs]' && "
    f"{train} '{FLAG}'",
  ]
  assert wait == (
    f"xpk workload list {place} --wait-for-job-completion=my-run".split()
  )
  words = WORDS[gke].replace("--base-image python:3.12", "--image gcr.io/p/i")
  args = gke.parser().parse_args([*words.split(), "--restarts", "7"])
  assert gke.commands(args)[0] == [
    *f"{begin}--docker-image=gcr.io/p/i {end}".replace("50", "7").split(),
    f"--command={train}",
  ]


@pytest.mark.parametrize(
  ("kind", "takes"),
  [
    ("tpu7x-2x2x1", True),
    ("tpu7x-128", True),
    ("v5litepod-16", True),
    ("v5litepod-4x4", False),
    ("tpu7x-", False),
    ("tpu7x-2x", False),
  ],
)
def test_types_of_xpk(kind: str, takes: bool) -> None:
  """Newer kinds have their topology in the name; nothing is known of them."""
  words = WORDS[gke].replace("v5litepod-16", kind).split()
  fields = ["--config.data.dir=gs://b/set", "--config.eval.batch=16"]
  args = gke.parser().parse_args([*words, "--", *fields])
  if takes:
    gke.check(args)
  else:
    with pytest.raises(ValueError, match="it must be like v5litepod-256"):
      gke.check(args)


def test_sigterm_reaches_a_run_in_a_container(tmp_path: pathlib.Path) -> None:
  """xpk starts the command in a shell, and sends SIGTERM to that shell.

  This bash becomes its last command unasked; older ones need the `exec`.
  """
  tool(tmp_path / "bin", "pip", "")
  tool(
    tmp_path / "bin",
    "p3d",
    "trap 'exit 75' TERM; echo ready > ready; while true; do sleep 0.05; done",
  )
  command = gke.commands(arguments(gke))[0][-1].removeprefix("--command=")
  done = shell(
    f"({command}) & while ! [ -s ready ]; do sleep 0.05; done; "
    "kill -TERM $!; wait $!",
    tmp_path,
  )
  assert done.returncode == 75
  assert [words[0] for words in calls(tmp_path)] == ["pip", "p3d"]


def test_a_run_that_is_killed_is_137_in_a_container(
  tmp_path: pathlib.Path,
) -> None:
  """xpk 1.16.0 starts again after 42 and 127 to 255, and what it is told."""
  tool(tmp_path / "bin", "pip", "")
  tool(tmp_path / "bin", "p3d", "kill -KILL $$")
  create, _ = gke.commands(arguments(gke))
  # Its wrapper ends with the status of this subshell.
  command = create[-1].removeprefix("--command=")
  done = shell(f"({command}) & wait $!; exit $?", tmp_path)
  (told,) = [x for x in create if x.startswith("--restart-on-exit-codes=")]
  again = {42, *range(127, 256), *map(int, told.partition("=")[2].split(","))}
  assert done.returncode == 137
  assert {75, 76, 137} <= again
  assert not {0, 1, 2} & again


def test_gke_stops_at_a_failure(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
  tool(tmp_path / "bin", "xpk", "exit 5")
  assert launched(gke, tmp_path, monkeypatch) == 5
  (create,) = calls(tmp_path)
  assert create == gke.commands(arguments(gke))[0]
  assert capfd.readouterr().err == f"gke: status 5 of: {shlex.join(create)}\n"
  tool(tmp_path / "bin", "xpk", "")
  assert gke.main(WORDS[gke].split()) == 0
  assert calls(tmp_path)[1:] == gke.commands(arguments(gke))


# SLURM.


def test_script_of_slurm() -> None:
  args = arguments(
    slurm, *["--cpus", "32", "--partition", "a", "--account", "b"]
  )
  args.flags = [FLAG]
  lines = slurm.script(args).splitlines()
  assert lines[0] == "#!/bin/bash"
  assert [x.removeprefix("#SBATCH ") for x in lines if "#SBATCH" in x] == [
    "--job-name=my-run",
    "--nodes=2",
    "--ntasks-per-node=1",
    "--gpus-per-node=4",
    "--time=1-12",
    "--requeue",
    "--signal=TERM@120",
    "--open-mode=append",
    "--output=my-run-%j.log",
    "--cpus-per-task=32",
    "--partition=a",
    "--account=b",
  ]
  (srun,) = [shlex.split(line) for line in lines if line.startswith("srun")]
  assert srun == [
    *["srun", "--label", "--kill-on-bad-exit=0", "--cpus-per-task=32"],
    *f"p3d train --config={DEMO} --workdir=/runs/my-run".split(),
    FLAG,
  ]


@pytest.mark.parametrize(
  ("status", "restarts", "again"),
  [
    *((status, 0, True) for status in (75, 76, 137, 143)),
    *((status, 0, False) for status in (0, 1, 2, 127, 130)),
    pytest.param(75, 49, True, id="once more"),
    pytest.param(75, 50, False, id="often enough"),
  ],
)
def test_slurm_queues_again(
  status: int, restarts: int, again: bool, tmp_path: pathlib.Path
) -> None:
  tool(tmp_path / "bin", "srun", f"exit {status}")
  tool(tmp_path / "bin", "scontrol", "")
  count = {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
  text = slurm.script(arguments(slurm))
  done = shell(text, tmp_path, SLURM_JOB_ID="17", **count)
  assert done.returncode == status
  assert done.stderr == ""
  requeue = ["scontrol", "requeue", "17"]
  assert [x for x in calls(tmp_path) if "requeue" in x] == [requeue] * again


@pytest.mark.parametrize(
  ("states", "again"),
  [
    ('"job_state": [\n  "CANCELLED",\n  "COMPLETING"\n]', False),
    ('"job_state": "CANCELLED"', False),  # before SLURM 23.11
    ('"job_state": ["RUNNING"], "comment": "never CANCELLED"', True),
  ],
  ids=["cancelled", "one state", "runs"],
)
def test_a_job_that_is_cancelled_does_not_come_back(
  states: str, again: bool, tmp_path: pathlib.Path
) -> None:
  """`scancel` is SIGTERM, too: the processes save, and end with 75."""
  tool(tmp_path / "bin", "srun", "exit 75")
  tool(
    tmp_path / "bin",
    "scontrol",
    f"if [ $1 = --json ]; then cat << 'END'\n{states}\nEND\nfi",
  )
  done = shell(slurm.script(arguments(slurm)), tmp_path, SLURM_JOB_ID="17")
  assert done.returncode == 75
  assert done.stderr == ""
  asked, *queued = calls(tmp_path)[1:]
  assert asked == ["scontrol", "--json", "show", "job", "17"]
  assert queued == [["scontrol", "requeue", "17"]] * again


def test_the_script_of_a_job_waits_for_its_processes(
  tmp_path: pathlib.Path,
) -> None:
  """SIGTERM to the shell of the job is not its end: srun still saves."""
  saving = "echo x > ready; for i in $(seq 10); do sleep 0.05; done; exit 75"
  tool(tmp_path / "bin", "srun", saving)
  tool(tmp_path / "bin", "scontrol", "")
  (tmp_path / "job").write_text(slurm.script(arguments(slurm)))
  text = "bash job & while ! [ -s ready ]; do sleep 0.02; done; kill -TERM $!; "
  # A signal ends bash's `wait` only if it comes to that bash.
  done = shell(f"{text} wait $!", tmp_path, SLURM_JOB_ID="17")
  assert done.returncode == 75
  assert calls(tmp_path)[-1] == ["scontrol", "requeue", "17"]


def test_a_job_is_written_and_submitted(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
  """And what `--dry-run` prints, pasted into a shell, does the same."""
  tool(tmp_path / "bin", "sbatch", "")
  flags = ["--", "--config.data.dir=/sets of 'A $B'"]
  assert launched(slurm, tmp_path, monkeypatch, *flags) == 0
  written = (tmp_path / "my-run.sbatch").read_text()
  (tmp_path / "my-run.sbatch").unlink()
  capfd.readouterr()
  assert slurm.main([*WORDS[slurm].split(), "--dry-run", *flags]) == 0
  assert not (tmp_path / "my-run.sbatch").exists()
  assert shell(capfd.readouterr().out, tmp_path).returncode == 0
  assert (tmp_path / "my-run.sbatch").read_text() == written
  assert calls(tmp_path) == [["sbatch", "my-run.sbatch"]] * 2


# One machine.


def test_command_of_one_machine() -> None:
  (command,) = gpus.commands(arguments(gpus, "--", FLAG))
  train = ["train", f"--config={DEMO}", "--workdir=runs/1", FLAG]
  launch = [
    "p3d",
    "launch",
    "local",
    "--gpus",
    "--processes=1",
    "--restarts=5",
    "--",
  ]
  assert command == [*launch, *train]
  args = cli.parser().parse_args(command[1:])
  assert args.command == train
  assert (args.processes, args.restarts, args.gpus) == (1, 5, True)


def test_signals_are_those_of_the_run(tmp_path: pathlib.Path) -> None:
  """The launcher becomes the command: nothing is left behind."""
  trap = "trap 'echo saved; exit 75' TERM; echo ready; "
  tool(tmp_path / "bin", "p3d", f"{trap} while true; do sleep 0.05; done")
  (tmp_path / "experiments" / "configs").mkdir(parents=True)
  (tmp_path / DEMO).write_text(CONFIG)
  with subprocess.Popen(
    [sys.executable, "-m", "experiments.launch.gpus", *WORDS[gpus].split()],
    stdout=subprocess.PIPE,
    text=True,
    cwd=tmp_path,
    env=small.environment()
    | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
  ) as process:
    assert process.stdout is not None
    assert process.stdout.readline().startswith("+ p3d launch local --gpus")
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.stdout.read() == "saved\n"
  assert process.returncode == 75


def test_the_gpus_that_are_there_must_divide_the_batch(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
  words = ["--", "--config.train.batch=12"]
  assert launched(gpus, tmp_path, monkeypatch, *words) == 2
  assert "times the 8 devices" in capsys.readouterr().err


# All of them.


@pytest.mark.parametrize("module", WORDS, ids=lambda m: m.__name__[19:])
def test_a_dry_run_prints_lines_that_can_be_pasted(
  module: ModuleType,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture,
) -> None:
  monkeypatch.setattr(subprocess, "run", None)
  monkeypatch.setattr(subprocess, "Popen", None)
  config = tmp_path / "my config.py"
  config.write_text(CONFIG)
  monkeypatch.chdir(tmp_path)
  words = [
    w if w != DEMO else "my config.py:two" for w in WORDS[module].split()
  ]
  assert module.main([*words, "--dry-run", "--", FLAG]) == 0
  commands = module.commands(module.parser().parse_args([*words, "--", FLAG]))
  lines = capsys.readouterr().out.splitlines()[-len(commands) :]
  assert [shlex.split(line) for line in lines] == commands
  assert list(tmp_path.iterdir()) == [config]


def changed(words: str, name: str, value: str | None) -> list[str]:
  """Replaces the value of an argument; None leaves the argument out."""
  found = words.split()
  at = found.index(name)
  found[at : at + 2] = [] if value is None else [name, value]
  return found


@pytest.mark.parametrize(
  ("module", "name", "value", "told"),
  [
    (tpu_pod, "--zone", None, "the following arguments are required: --zone"),
    (tpu_pod, "--zone", "us-west4", "--zone is 'us-west4': it must be like"),
    (tpu_pod, "--name", "My-run", "--name is 'My-run': Google Cloud takes"),
    (tpu_pod, "--name", "a" * 64, "takes at most 63 small letters"),
    (tpu_pod, "--bucket", "my-bucket", "--bucket is 'my-bucket': it must be"),
    (tpu_pod, "--bucket", "gs://b/a", "--bucket is 'gs://b/a': it must be"),
    (tpu_pod, "--type", "v5e-16", "--type is 'v5e-16': it must be one of v2-N"),
    (tpu_pod, "--type", "v5litepod", "--type is 'v5litepod': it must be one"),
    (
      tpu_pod,
      "--type",
      "v5litepod-17",
      "--type is 'v5litepod-17': there is no such slice; of v5litepod there "
      "are 1, 4, 8, 16, 32, 64, 128, 256\n",
    ),
    (
      gke,
      "--type",
      "v5p-100",
      "of v5p there are 8, 16, 32, 64 and multiples of 128 up to 12288\n",
    ),
    (
      tpu_pod,
      "--config",
      "no.py",
      "--config is 'no.py': there is no such",
    ),
    (gke, "--cluster", None, "the following arguments are required: --cluster"),
    (gke, "--name", "a" * 41, "takes at most 40 small letters"),
    (
      gke,
      "--config",
      "/etc/hosts",
      "'/etc/hosts': it must be below this",
    ),
    (gke, "--base-image", None, "one of the arguments --image --base-image is"),
    (gke, "--type", "16", "--type is '16': it must be like v5litepod-256"),
    (slurm, "--time", None, "the following arguments are required: --time"),
    *(
      (slurm, "--time", time, f"--time is '{time}': it must be HH:MM:SS or D-")
      for time in ("a day", "24", "24:00", "1-", "2:60:00", "1-12:0", "1:2:3:4")
    ),
    (slurm, "--name", "my run", "--name is 'my run': it must be letters"),
    (slurm, "--nodes", "0", "--nodes is 0: it must be >= 1"),
    (gpus, "--config", "no.py", "--config is 'no.py': there is no such"),
  ],
)
def test_mistakes_are_one_line_and_nothing_is_run(
  module: ModuleType,
  name: str,
  value: str | None,
  told: str,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture,
) -> None:
  monkeypatch.setattr(subprocess, "run", None)
  words = changed(WORDS[module], name, value)
  assert told in refused(module, words, capsys)
  assert told in refused(module, [*words, "--dry-run"], capsys)


@pytest.mark.parametrize(
  ("module", "flags", "told"),
  [
    (
      tpu_pod,
      ["--config.train.bath=9"],
      "no field 'bath'; did you mean 'batch'",
    ),
    (
      tpu_pod,
      ["--config.train.batch=24"],
      "config.train.batch is 24: it must be a multiple of train.accumulate (1) "
      "times the 16 devices",
    ),
    (gke, ["--config.train.batch=24"], "times the 16 devices"),
    (slurm, ["--config.train.batch=12"], "times the 8 devices"),
    (gpus, ["--config.train.batch=many"], "config.train.batch"),
  ],
  ids=["field", "tpu_pod", "gke", "slurm", "gpus"],
)
def test_a_config_that_cannot_run_is_told_before_anything_is_rented(
  module: ModuleType,
  flags: list[str],
  told: str,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture,
) -> None:
  monkeypatch.setattr(subprocess, "run", None)
  assert launched(module, tmp_path, monkeypatch, "--", *flags) == 2
  out, err = capsys.readouterr()
  assert out == ""
  assert err.count("\n") == 1
  assert told in err


@pytest.mark.parametrize(
  ("kind", "devices"),
  [
    ("v2-8", 8),
    ("v4-32", 16),
    ("v5litepod-16", 16),
    ("v5p-8", 4),
    ("x-8", None),
  ],
)
def test_devices_of_a_type(kind: str, devices: int | None) -> None:
  assert shared.tpu_devices(kind) == devices


@pytest.mark.parametrize(
  ("kind", "there"),
  [
    # cloud.google.com/tpu/docs/v5e: 1x1 to 16x16; v2: five types.
    *((f"v5litepod-{n}", True) for n in (1, 4, 8, 16, 32, 64, 128, 256)),
    *((f"v6e-{n}", False) for n in (2, 17, 24, 512)),
    ("v2-512", True),
    ("v2-64", False),
    ("v3-2048", True),
    # .../v5p: 2x2x1 to 16x16x24 chips of two cores.
    *((f"v5p-{n}", True) for n in (8, 16, 64, 128, 256, 4096, 12288)),
    *((f"v5p-{n}", False) for n in (4, 24, 192, 12416)),
    # .../v4: 12x12x24 chips is one of its examples, 4,096 are a pod.
    *((f"v4-{n}", True) for n in (2 * 12 * 12 * 24, 8192)),
    ("v4-12288", False),
    ("tpu7x-8", True),  # not in the table: xpk knows
    ("tpu7x-2x2x1", True),
  ],
)
def test_slices_that_there_are(kind: str, there: bool) -> None:
  if there:
    shared.check_slice(kind)
  else:
    with pytest.raises(ValueError, match=f"'{kind}': there is no such slice"):
      shared.check_slice(kind)


@pytest.mark.parametrize("module", [tpu_pod, gke], ids=["tpu_pod", "gke"])
@pytest.mark.parametrize("field", ["init_from", "data.dir"])
@pytest.mark.parametrize("value", ["weights/mine", "/home/me/mine", "~/mine"])
def test_what_a_pod_does_not_have_is_told_before_it_is_rented(
  module: ModuleType,
  field: str,
  value: str,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture,
) -> None:
  monkeypatch.setattr(subprocess, "run", None)
  flags = ["--", f"--config.{field}={value}"]
  assert launched(module, tmp_path, monkeypatch, *flags) == 2
  assert capsys.readouterr() == (
    "",
    f"{module.__name__.rpartition('.')[2]}: config.{field} is {value!r}: the "
    "machines do not have it; copy it to the bucket, and give "
    f"--config.{field}=gs://...\n",
  )


def test_a_disk_of_a_pod_that_is_there(capsys: pytest.CaptureFixture) -> None:
  """docs/pods.md: a large set is on a disk that is attached to it."""
  there = ["--", "--config.data.dir=/mnt/disk/sets"]
  tpu_pod.check(arguments(tpu_pod, "--asked", *there))
  tpu_pod.check(arguments(tpu_pod, "--follow", *there))
  words = WORDS[gke].replace("--base-image python:3.12", "--image gcr.io/p/i")
  gke.check(gke.parser().parse_args([*words.split(), *there]))
  there = ["--", "--config.data.dir=sets"]
  with pytest.raises(ValueError, match="the machines do not have it"):
    tpu_pod.check(arguments(tpu_pod, "--asked", *there))


def test_other_mistakes(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
  monkeypatch.setattr(subprocess, "run", None)
  words = [*WORDS[gpus].split(), "--", "--workdir=there"]
  assert refused(gpus, words, capsys) == (
    "gpus: '--workdir=there' is no field: write --config.FIELD=VALUE\n"
  )
  words = [*WORDS[gpus].split(), "--processes", "0"]
  assert refused(gpus, words, capsys) == (
    "gpus: --processes is 0: it must be >= 1\n"
  )


def test_a_tool_that_is_not_there(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
  monkeypatch.setenv("PATH", str(tmp_path))
  assert refused_tool(capsys) == "gke: xpk: No such file or directory\n"


def refused_tool(capsys: pytest.CaptureFixture) -> str:
  assert gke.main([*WORDS[gke].split(), "--", FLAG]) == 2
  out, err = capsys.readouterr()
  assert out.startswith("+ xpk workload create")
  return err


PAGES = [small.ROOT / "docs" / "pods.md"]
PAGES += sorted((small.ROOT / "experiments" / "launch").glob("*.py"))
EXAMPLE = re.compile(
  r"^    python -m (experiments\.launch\..*(?:\n     .*)*)", re.M
)
EXAMPLES = [
  pytest.param(text, id=f"{page.name}-{k}")
  for page in PAGES
  for k, text in enumerate(EXAMPLE.findall(page.read_text()))
]


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_are_commands(
  text: str, capsys: pytest.CaptureFixture
) -> None:
  """Each `python -m experiments.launch...` of the page and the docstrings."""
  name, *words = shlex.split(text.replace("\\\n", " "))
  at = words.index("--") if "--" in words else len(words)
  words[at:at] = ["--dry-run"]
  assert importlib.import_module(name).main(words) == 0
  assert capsys.readouterr().out


def test_there_are_examples() -> None:
  assert len(EXAMPLES) >= 4


CHIPS = re.findall(
  r"^\| (\d+) \| \d+ \| (?:`(--config[^`]*)`)?",
  (small.ROOT / "docs" / "pods.md").read_text(),
  re.M,
)


@pytest.mark.parametrize(("chips", "flags"), CHIPS)
def test_the_flags_for_some_chips(chips: str, flags: str) -> None:
  """The page's table has what a recipe of 128 clips needs, and no more."""
  file = "experiments/configs/kinetics_rgb.py"
  config = config_file.load(file, ["--config.data.dir=x", *flags.split()])
  config_check.check(config, int(chips))
  assert config.train.batch == 128
  for flag in flags.split() if int(chips) > 8 else ():
    fewer = [other for other in flags.split() if other != flag]
    config = config_file.load(file, ["--config.data.dir=x", *fewer])
    if "gather" not in flag:  # heights are the mesh's own check
      with pytest.raises(ValueError, match="must be a multiple of"):
        config_check.check(config, int(chips))


def test_the_table_is_read() -> None:
  assert [chips for chips, _ in CHIPS] == ["1", "8", "64", "256"]
