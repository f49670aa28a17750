"""How the processes of a run find each other: nothing but what they are told.

The environments are those that srun's manual, GKE and a TPU virtual machine's
metadata server document; the machine's own server is played by one here.
"""

import http.server
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from p3d_jax.hosts import clusters, meeting
from p3d_jax.hosts.clusters import Cluster
from p3d_jax.hosts.meeting import Meeting
from tests import small

SLURM = {
  "SLURM_JOB_ID": "4711",
  "SLURM_NTASKS": "5",
  "SLURM_PROCID": "3",
  "SLURM_LOCALID": "1",
  "SLURM_STEP_NODELIST": "gpu[08-10]",
  "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
}
LAUNCHED = {
  "P3D_COORDINATOR": "localhost:1234",
  "P3D_PROCESSES": "4",
  "P3D_PROCESS": "3",
}


@pytest.fixture(autouse=True)
def _no_machine(
  monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
  """The machine of the tests may be one of Google's."""
  monkeypatch.setattr(clusters, "BUS", tmp_path / "no bus")


@pytest.mark.parametrize(
  ("text", "names"),
  [
    ("n1", ["n1"]),
    ("n1,m", ["n1", "m"]),
    ("a[1,07-09,10],b-2", ["a1", "a07", "a08", "a09", "a10", "b-2"]),
    ("a[008-011]", ["a008", "a009", "a010", "a011"]),
    ("r[1-2]n[3-4]x", ["r1n3x", "r1n4x", "r2n3x", "r2n4x"]),
    ("tux[98-101]", ["tux98", "tux99", "tux100", "tux101"]),
  ],
  ids=["one", "two", "mixed", "zeros", "two-brackets", "grows"],
)
def test_nodes_of_slurm(text: str, names: list[str]) -> None:
  assert clusters.expand_nodes(text) == names


def test_tasks_of_slurm() -> None:
  assert clusters.expand_counts("2(x3),1") == [2, 2, 2, 1]
  assert clusters.expand_counts("12") == [12]


def test_slurm() -> None:
  found = Meeting().found(SLURM)
  # 4711 modulo 2047 pairs of ports is 617.
  assert found == Cluster(
    f"gpu08:{61440 + 2 * 617}",
    5,
    3,
    ("gpu08", "gpu08", "gpu09", "gpu09", "gpu10"),
    (1,),
  )


def test_the_ports_of_slurm_are_ports() -> None:
  for job in (0, 2046, 2047, 99_999_999):
    found = clusters.slurm(SLURM | {"SLURM_JOB_ID": str(job)})
    assert found is not None
    port = int(found.coordinator.rpartition(":")[2])
    assert 60_999 < port < 65_535
    assert port % 2 == 0


def test_names_where_slurm_deals_tasks_out() -> None:
  dealt = SLURM | {"SLURM_DISTRIBUTION": "cyclic"}
  found = clusters.slurm(dealt)
  assert found is not None
  assert found.names == ()
  one_each = {
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x3)",
  }
  found = clusters.slurm(dealt | one_each)
  assert found is not None
  assert found.names == ("gpu08", "gpu09", "gpu10")
  assert found.devices is None


@pytest.mark.parametrize(
  ("visible", "devices"),
  [("0,1,2,3,4,5,6,7", (4, 5, 6, 7)), ("0,1", (1,)), ("5", None), ("", (1,))],
  ids=["eight", "two", "own", "unsaid"],
)
def test_gpus_of_a_task(visible: str, devices: tuple[int, ...] | None) -> None:
  found = clusters.slurm(SLURM | {"CUDA_VISIBLE_DEVICES": visible})
  assert found is not None
  assert found.devices == devices


def test_a_batch_script_without_srun_is_alone() -> None:
  batch = {k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}
  assert Meeting().found(batch) is None


def test_flags_then_launcher_then_slurm_then_alone() -> None:
  assert Meeting().found({}) is None
  both = SLURM | LAUNCHED
  assert Meeting().found(both) == Cluster("localhost:1234", 4, 3)
  said = Meeting("[::1]:99", 2, 0)
  assert said.found(both) == Cluster("[::1]:99", 2, 0)
  assert Meeting(process=1).found(both) == Cluster("localhost:1234", 4, 1)
  assert Meeting(processes=1).found(SLURM) is None
  assert Meeting().found(SLURM | {"P3D_PROCESSES": "1"}) is None
  assert Meeting().found(SLURM | {"SLURM_NTASKS": "1"}) is None


@pytest.mark.parametrize(
  ("meeting", "environ", "message"),
  [
    pytest.param(
      Meeting("a:1", 2),
      {},
      "--process (or P3D_PROCESS) is missing: --coordinator, --processes and "
      "--process go together",
      id="missing",
    ),
    pytest.param(
      Meeting("a:1", 2, 2),
      {},
      "--process is 2: it must be below --processes=2",
      id="too-high",
    ),
    pytest.param(
      Meeting("a:1", 2, -1), {}, "--process is -1: it must be >= 0", id="below"
    ),
    pytest.param(
      Meeting("a:1", 0, 0), {}, "--processes is 0: it must be >= 1", id="none"
    ),
    pytest.param(
      Meeting(),
      LAUNCHED | {"P3D_PROCESSES": "four"},
      "P3D_PROCESSES is four: it must be >= 1",
      id="word",
    ),
    pytest.param(
      Meeting("a", 2, 1), {}, "--coordinator is 'a': it must be", id="no-port"
    ),
    pytest.param(
      Meeting("a:65535", 2, 1),
      {},
      "--coordinator is 'a:65535': it must be host:port, with a port of 1 to "
      "65534 (the one above it is taken too)",
      id="last-port",
    ),
    pytest.param(Meeting(wait=0), {}, "--wait is 0: it must be > 0", id="wait"),
    pytest.param(
      Meeting(),
      SLURM | {"SLURM_PROCID": ""},
      "SLURM_PROCID is '': it must be a number",
      id="slurm",
    ),
    pytest.param(
      Meeting(),
      {"TPU_WORKER_HOSTNAMES": "a,b"},
      "TPU_WORKER_ID is '': it must be a number",
      id="tpu",
    ),
  ],
)
def test_mistakes(
  meeting: Meeting, environ: dict[str, str], message: str
) -> None:
  with pytest.raises(ValueError) as raised:
    meeting.found(environ)
  assert str(raised.value).startswith(message)


def test_a_pod_on_kubernetes() -> None:
  environ = {"TPU_WORKER_HOSTNAMES": "w-0.job,w-1.job", "TPU_WORKER_ID": "1"}
  found = Meeting().found(environ)
  assert found == Cluster("w-0.job:8482", 2, 1, ("w-0.job", "w-1.job"))
  assert Meeting().found(environ | {"JAX_PLATFORMS": "cpu"}) is None
  assert Meeting().found(environ | {"JAX_PLATFORMS": "tpu,cpu"}) == found
  assert Meeting().found({"TPU_WORKER_HOSTNAMES": "localhost"}) is None


def test_two_slices() -> None:
  environ = {
    "TPU_WORKER_HOSTNAMES": "w-0,w-1",
    "TPU_WORKER_ID": "1",
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "first:8080",
  }
  names = ("slice 0, worker 0", "slice 0, worker 1", "w-0", "w-1")
  assert Meeting().found(environ) == Cluster("first:8482", 4, 3, names)


class Metadata(http.server.BaseHTTPRequestHandler):
  """What a machine's metadata server answers."""

  attributes: dict[str, str] = {}
  status = 404
  asked = 0

  def do_GET(self) -> None:  # noqa: N802
    type(self).asked += 1
    assert self.headers["Metadata-Flavor"] == "Google"
    key = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
    found = self.attributes.get(key)
    self.send_response(self.status if found is None else 200)
    self.end_headers()
    self.wfile.write((found or "").encode())

  def log_message(self, format: str, *args: object) -> None:
    pass


@pytest.fixture
def machine(
  monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> Iterator[str]:
  """The address of the metadata server of a machine of Google's."""
  (tmp_path / "0000:00:04.0").mkdir()
  (tmp_path / "0000:00:04.0" / "vendor").write_text("0x1ae0\n")
  monkeypatch.setattr(clusters, "BUS", tmp_path)
  monkeypatch.setattr(Metadata, "asked", 0)
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize(
  "endpoints",
  ["10.0.0.2,10.0.0.3", "unknown:unknown:10.0.0.2,unknown:unknown:10.0.0.3"],
  ids=["new", "old"],
)
def test_a_pod_of_virtual_machines(
  machine: str, monkeypatch: pytest.MonkeyPatch, endpoints: str
) -> None:
  said = {
    "agent-worker-number": "1",
    "worker-network-endpoints": endpoints,
    "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\nZONE: 'z'\n",
  }
  monkeypatch.setattr(Metadata, "attributes", said)
  environ = {"GCE_METADATA_IP": machine, "http_proxy": "http://127.0.0.1:1"}
  names = ("10.0.0.2", "10.0.0.3")
  found = Meeting().found(environ)
  assert found == Cluster("10.0.0.2:8482", 2, 1, names)
  said["tpu-env"] += (
    "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '0'\n"
    "MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.2:8080'\n"
  )
  found = Meeting().found(environ)
  assert found is not None
  assert (found.processes, found.process) == (4, 1)
  said["worker-network-endpoints"] = "10.0.0.2"
  said["tpu-env"] = ""
  assert Meeting().found(environ) is None


def test_a_machine_of_googles_without_tpus(machine: str) -> None:
  assert Meeting().found({"GCE_METADATA_IP": machine}) is None
  assert Metadata.asked == 1


def test_a_machine_that_does_not_say(
  machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(clusters, "TRIES", 2)
  monkeypatch.setattr(Metadata, "status", 503)
  with pytest.raises(ValueError, match="give --processes, 1 if it is alone"):
    Meeting().found({"GCE_METADATA_IP": machine})
  assert Metadata.asked == 2
  environ = {"GCE_METADATA_IP": machine, "TPU_SKIP_MDS_QUERY": "1"}
  assert Meeting().found(environ) is None


def test_no_machine_of_googles_is_not_asked(
  machine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
  monkeypatch.setattr(clusters, "BUS", tmp_path / "none")
  assert Meeting().found({"GCE_METADATA_IP": machine}) is None
  assert Metadata.asked == 0


def test_alone_is_without_jax() -> None:
  text = (
    "import sys\nfrom p3d_jax.hosts import meeting\n"
    "with meeting.join(meeting.Meeting()) as roll:\n"
    "  assert roll is meeting.current()\n"
    "  assert (roll.process, roll.processes) == (0, 1)\n"
    "  meeting.current().beat('step 1')\n"
    "assert 'jax' not in sys.modules\n"
    "import threading; assert threading.active_count() == 1\n"
    "sys.exit(meeting.leave(3))\n"
  )
  done = subprocess.run([sys.executable, "-c", text], env=small.environment())
  assert done.returncode == 3


def test_the_coordinators_port_is_taken() -> None:
  with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    with pytest.raises(ValueError, match=f"port {port} of process 0 cannot be"):
      meeting.join(Meeting(f"localhost:{port}", 2, 0, wait=1))


# A sum over all processes, again and again; what `p3d` does around it.
JAX = """
import sys, time
import numpy as np
from p3d_jax.hosts import ends, meeting
work = sys.argv[1]
try:
  with meeting.join(meeting.Meeting(wait=60)) as roll:
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    mesh = Mesh(np.array(jax.devices()), ("all",))
    split = NamedSharding(mesh, PartitionSpec("all"))
    own = np.full(2, 1.0 + roll.process, np.float32)
    rows = jax.make_array_from_process_local_data(split, own)
    total = jax.jit(lambda x: x.sum())
    assert int(total(rows)) == 2 * 1 + 2 * 2
    print("here", flush=True)
    last = 100_000
    for step in range(last):
      roll.beat(f"step {step}")
      if step == 50:
        exec(work)
      if step == last:
        break
      total(rows).block_until_ready()
except ends.EndedError as error:
  print(f"p3d: {error}", file=sys.stderr)
  sys.exit(meeting.leave(error.status))
except ValueError as error:
  print(f"p3d: {error}", file=sys.stderr)
  sys.exit(meeting.leave(2))
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
  made: list[subprocess.Popen[str]] = []
  yield made
  for process in made:
    process.kill()
    process.communicate()


def begin(started: list[subprocess.Popen[str]], *works: str) -> None:
  """Starts processes of two devices each, as a launcher does."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  for k, work in enumerate(works):
    meeting = {
      "P3D_COORDINATOR": f"localhost:{port}",
      "P3D_PROCESSES": str(len(works)),
      "P3D_PROCESS": str(k),
    }
    started.append(
      subprocess.Popen(
        [sys.executable, "-c", JAX, work],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=small.environment(2) | meeting,
      )
    )
  for process in started:
    assert process.stdout
    # Gloo writes to the standard output too.
    assert "here\n" in iter(process.stdout.readline, ""), process.communicate()


def last_line(process: subprocess.Popen[str]) -> str:
  """What it says last, without the name of this machine."""
  error = process.communicate(timeout=60)[1].splitlines()[-1]
  return error.replace(f" ({socket.gethostname()})", "")


def test_jax_meets_and_parts(started: list[subprocess.Popen[str]]) -> None:
  began = time.monotonic()
  begin(started, "last = 60", "last = 60; time.sleep(1.5)")
  for process in started:
    assert "p3d" not in process.communicate(timeout=60)[1]
    assert process.returncode == 0
  assert time.monotonic() - began < 60


@pytest.mark.parametrize("victim", [0, 1])
def test_a_host_dies_in_a_sum(
  started: list[subprocess.Popen[str]], victim: int
) -> None:
  begin(started, "", "")
  time.sleep(1)
  began = time.monotonic()
  started[victim].send_signal(signal.SIGKILL)
  other = started[1 - victim]
  # Where process 0 dies, threads of jax in C++ say something at the same time.
  said = f"p3d: process {victim} ({socket.gethostname()}) died"
  assert said in other.communicate(timeout=60)[1]
  assert other.returncode == 76
  # jax alone takes 100 s to see that process 1 is gone.
  assert time.monotonic() - began < 10


@pytest.mark.parametrize("victim", [0, 1])
def test_a_host_stops_in_a_sum(
  started: list[subprocess.Popen[str]], victim: int
) -> None:
  works = ["", ""]
  works[victim] = "raise ValueError('the disk is full')"
  begin(started, *works)
  other = started[1 - victim]
  assert last_line(other) == f"p3d: process {victim} stopped: the disk is full"
  assert other.returncode == 2
  assert last_line(started[victim]) == "p3d: the disk is full"
  assert started[victim].returncode == 2


def test_a_stall_in_a_sum(
  started: list[subprocess.Popen[str]], tmp_path: pathlib.Path
) -> None:
  watch = (
    "from etils import epath; "
    f"roll.watch(2, epath.Path({str(tmp_path)!r}), lost=30)"
  )
  begin(
    started, watch, f"{watch}; roll.beat('reading step 51'); time.sleep(99)"
  )
  line = (
    "p3d: no step for 2 s: process 0 stands at 'step 50', process 1 at "
    "'reading step 51'"
  )
  for process in started:
    assert last_line(process) == line
    assert process.returncode == 76
  # Process 0 is in the sum, where no exception would reach it.
  stacks = [(tmp_path / f"stall-host{k:03d}.txt").read_text() for k in range(2)]
  waits = 1 + JAX.splitlines().index("      total(rows).block_until_ready()")
  assert f'"<string>", line {waits} in <module>' in stacks[0]
  assert f'"<string>", line {waits} in <module>' not in stacks[1]
