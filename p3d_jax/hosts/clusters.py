"""What SLURM or a TPU pod tells a process of those that it works with."""

from __future__ import annotations

import http.client
import itertools
import pathlib
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple

# jax's own port on TPU pods (jax/_src/clusters/cloud_tpu_cluster.py); the next
# one is the roll's. The TPU runtime's are 8431 and 8470 to 8479.
TPU_PORT = 8482
# The same job has the same port on all of its nodes. These lie above those
# that Linux gives to clients (32768 to 60999); each job takes two.
SLURM_PORTS = range(61440, 65534, 2)
# Devices on the bus; Google's have this vendor: its TPUs and network cards.
BUS = pathlib.Path("/sys/bus/pci/devices")
GOOGLE = "0x1ae0"
# Of the metadata server, which each virtual machine of Google's has.
TRIES = 3
TIMEOUT = 5.0  # seconds


class Cluster(NamedTuple):
  """One process, and those that it works with.

  Attributes:
    coordinator: "host:port" of process 0.
    processes: how many.
    process: the number of this one.
    names: the host of each process; empty if the cluster does not say.
    devices: the numbers of this process's GPUs; None: all that it sees.
  """

  coordinator: str
  processes: int
  process: int
  names: tuple[str, ...] = ()
  devices: tuple[int, ...] | None = None


def slurm(environ: Mapping[str, str]) -> Cluster | None:
  """Reads what `srun` sets for a task; None where there is no srun.

  A batch script that calls no srun is one process of no step: it is alone,
  however many tasks the job has.

  Args:
    environ: of the process. The names are those of srun's manual.
  """
  names = ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID")
  if not all(name in environ for name in (*names, "SLURM_STEP_NODELIST")):
    return None
  job, tasks, task = (_number(environ, name) for name in names)
  nodes = expand_nodes(environ["SLURM_STEP_NODELIST"])
  counts = expand_counts(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
  # A block of tasks a node is srun's default; other orders give no names.
  blocks = environ.get("SLURM_DISTRIBUTION", "block").startswith("block")
  known = len(counts) == len(nodes) and sum(counts) == tasks
  placed = known and (blocks or set(counts) == {1})
  names_of = [
    node for node, k in zip(nodes, counts, strict=False) for _ in range(k)
  ]
  port = SLURM_PORTS[job % len(SLURM_PORTS)]
  return Cluster(
    f"{nodes[0]}:{port}",
    tasks,
    task,
    tuple(names_of) if placed else (),
    _devices(environ, max(counts, default=1)),
  )


def _devices(
  environ: Mapping[str, str], neighbours: int
) -> tuple[int, ...] | None:
  """Returns a task's share of the GPUs that all tasks of its node see."""
  if neighbours == 1:
    return None
  local = _number(environ, "SLURM_LOCALID")
  visible = environ.get("CUDA_VISIBLE_DEVICES")
  if not visible:  # one each, as jax has it
    return (local,)
  share = len(visible.split(",")) // neighbours
  if not share:  # srun has given each task its own
    return None
  return tuple(range(share * local, share * (local + 1)))


def expand_nodes(nodes: str) -> list[str]:
  """Returns the names that SLURM's short form stands for.

  "a[1,07-09],b" is a1, a07, a08, a09 and b. Of several brackets in a name the
  last counts fastest.
  """
  found = []
  for item in re.findall(r"(?:\[[^\]]*\]|[^,\[])+", nodes):
    pieces = re.split(r"\[([^\]]*)\]", item)
    choices = [
      _range(piece) if k % 2 else [piece] for k, piece in enumerate(pieces)
    ]
    found += ["".join(choice) for choice in itertools.product(*choices)]
  if not found:
    raise ValueError(f"SLURM_STEP_NODELIST is {nodes!r}: it names no node")
  return found


def _range(text: str) -> list[str]:
  """Returns the numbers of "1,07-09", each as long as its range's first."""
  found = []
  for part in text.split(","):
    first, _, last = part.partition("-")
    width = len(first)
    numbers = range(int(first), int(last or first) + 1)
    found += [f"{number:0{width}d}" for number in numbers]
  return found


def expand_counts(counts: str) -> list[int]:
  """Returns the tasks of each node: "2(x3),1" is 2, 2, 2 and 1."""
  found = []
  for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts):
    found += [int(count)] * int(times or 1)
  return found


def tpu_pod(environ: Mapping[str, str]) -> Cluster | None:
  """Reads what a TPU machine knows of its pod; None where there is no TPU.

  Kubernetes (GKE) says it in the environment, a TPU virtual machine has a
  metadata server. The names of both are those that jax reads
  (jax/_src/clusters/cloud_tpu_cluster.py).

  Args:
    environ: of the process.

  Raises:
    ValueError: if a part is missing, or a machine of Google's has no answer.
  """
  if "tpu" not in (environ.get("JAX_PLATFORMS") or "tpu"):
    return None
  addresses = environ.get("TPU_PROCESS_ADDRESSES")
  addresses = addresses or environ.get("TPU_WORKER_HOSTNAMES")
  if addresses:
    worker = _number(environ, "TPU_WORKER_ID") if "," in addresses else 0
    return _pod(environ, addresses, worker)
  if environ.get("TPU_SKIP_MDS_QUERY") or not _on_google():
    return None
  number = _metadata(environ, "agent-worker-number")
  if number is None:  # a machine of Google's without TPUs
    return None
  addresses = _metadata(environ, "worker-network-endpoints") or "localhost"
  said = re.findall(
    r"^(\w+)\s*:\s*'?(.*?)'?\s*$",
    _metadata(environ, "tpu-env") or "",
    re.MULTILINE,
  )
  return _pod({**dict(said), **environ}, addresses, int(number))


def _pod(environ: Mapping[str, str], addresses: str, worker: int) -> Cluster:
  """Makes the cluster of a worker of a slice, of several slices if so."""
  workers = [_address(text) for text in addresses.split(",")]
  slices = int(environ.get("MEGASCALE_NUM_SLICES") or 1)
  own = int(environ.get("MEGASCALE_SLICE_ID") or 0)
  first = environ.get("MEGASCALE_COORDINATOR_ADDRESS") or workers[0]
  names = [
    workers[k] if part == own else f"slice {part}, worker {k}"
    for part in range(slices)
    for k in range(len(workers))
  ]
  return Cluster(
    f"{first.partition(':')[0]}:{TPU_PORT}",
    slices * len(workers),
    own * len(workers) + worker,
    tuple(names),
  )


def _address(worker: str) -> str:
  """Returns the host of "host", "host:port", or the older "name:id:host"."""
  parts = worker.strip().split(":")
  return parts[2] if len(parts) == 3 else parts[0]


def _on_google() -> bool:
  """Whether Google's devices are on the bus: asking elsewhere would hang."""
  vendors = BUS.glob("*/vendor")
  return any(file.read_text().strip() == GOOGLE for file in vendors)


def _metadata(environ: Mapping[str, str], key: str) -> str | None:
  """Asks the machine's metadata server; None if it does not know the key."""
  host = environ.get("GCE_METADATA_IP", "metadata.google.internal")
  url = f"http://{host}/computeMetadata/v1/instance/attributes/{key}"
  request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
  # No proxy knows what this machine is.
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  problem: Exception | None = None
  for attempt in range(TRIES):
    time.sleep(attempt)
    try:
      with opener.open(request, timeout=TIMEOUT) as answer:
        return str(answer.read().decode())
    except urllib.error.HTTPError as error:
      if error.code == 404:
        return None
      problem = error
    except (OSError, http.client.HTTPException) as error:
      problem = error
  raise ValueError(
    f"{host} does not say whether this machine is one of a TPU pod ({problem}):"
    " give --processes, 1 if it is alone"
  )


def _number(environ: Mapping[str, str], name: str) -> int:
  text = environ.get(name, "")
  if not text.isdigit():
    raise ValueError(f"{name} is {text!r}: it must be a number")
  return int(text)
