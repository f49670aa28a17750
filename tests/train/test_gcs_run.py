"""A whole run on gs://: killed, gone on with, evaluated, told of."""

import functools
import json
import pathlib
import signal
import socket
import subprocess
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
from safetensors.numpy import load_file

import p3d_jax
from p3d_jax.checkpoint import model
from p3d_jax.data.clips import Views
from p3d_jax.data.sets import open_set
from p3d_jax.evaluate.evaluate import default_out, evaluate
from p3d_jax.evaluate.feature_file import load_features
from p3d_jax.evaluate.features import features
from p3d_jax.train.loop import train
from p3d_jax.visualize.curves import curves_png
from p3d_jax.visualize.report import Parts, report
from p3d_jax.weights.export import export
from tests import bucket, small

RUN, SHORT, SET = "test/runs/killed", "test/runs/short", "test/sets/camera"


@functools.cache
def stored() -> dict[str, Any]:
  """Puts a set into the bucket; returns the fields of a config for it."""
  data = pathlib.Path(small.dataset())
  for file in data.iterdir():
    bucket.running().put(f"{SET}/{file.name}", file.read_bytes())
  return {"dir": f"gs://{SET}", "cache": str(small.folder())}


@functools.cache
def short() -> dict[str, float]:
  """Trains two steps, each saved; the first is not kept."""
  return train(
    small.config(
      data=stored(),
      train={"steps": 2},
      checkpoint={"every": 1, "keep": 1, "keep_best": 0},
    ),
    f"gs://{SHORT}",
  )


def names(folder: str) -> list[str]:
  """Names of the objects of a folder, from it on."""
  objects = sorted(bucket.running().objects)
  return [n[len(folder) + 1 :] for n in objects if n.startswith(f"{folder}/")]


def test_a_short_run() -> None:
  """Its newest step can be loaded, and the one before is gone."""
  trained = short()
  assert "2/commit_success.txt" in names(f"{SHORT}/checkpoints")
  assert not names(f"{SHORT}/checkpoints/1")
  assert [line["step"] for line in lines("train", SHORT)] == [1, 2]
  _, _, record = p3d_jax.load(f"gs://{SHORT}")
  assert record.provenance["step"] == 2
  # Where the set is for others, not where this machine keeps its copy.
  assert record.provenance["data"] == f"gs://{SET}"
  assert lines("eval", SHORT)[-1]["video_hit@1"] == trained["video_hit@1"]
  assert [name for name in names(SHORT) if name.startswith("tensorboard/")]


def test_a_step_that_is_not_whole_is_none() -> None:
  """What says that it is whole is written last."""
  short()
  buckets = bucket.running()
  for name in names(f"{SHORT}/checkpoints/2"):
    content = buckets.objects[f"{SHORT}/checkpoints/2/{name}"]
    if name != "commit_success.txt":
      buckets.put(f"test/torn/checkpoints/4/{name}", content)
    buckets.put(f"test/torn/checkpoints/2/{name}", content)
  assert str(model.find("gs://test/torn")).endswith("/checkpoints/2")
  buckets.put("test/torn/checkpoints/4/commit_success.txt", b"")
  assert str(model.find("gs://test/torn")).endswith("/checkpoints/4")


def test_it_goes_on_only_with_its_config() -> None:
  short()
  config = small.config(data=stored(), train={"steps": 3})
  with pytest.raises(ValueError, match="config.train.steps was 2, is 3"):
    train(config, f"gs://{SHORT}")


def started(workdir: str | pathlib.Path) -> subprocess.Popen[str]:
  """Starts the run that is killed; it is the config in the bucket that says.

  All of its kind are processes of their own: a program that one of them kept
  compiled need not round as one that was compiled in this process.
  """
  return subprocess.Popen(
    small.command(
      "train", "--config=gs://test/config.py", "--workdir", workdir
    ),
    stderr=subprocess.PIPE,
    text=True,
    env=small.environment() | bucket.running().environment,
  )


@functools.cache
def killed() -> str:
  """Trains until the second checkpoint is half written; returns what it said.

  All is on gs://: the set, the config file, the workdir.
  """
  buckets, data = bucket.running(), stored()
  config = small.config_file(
    small.folder() / "config.py", f"config.data.update({data!r})"
  )
  buckets.put("test/config.py", config.read_bytes())
  process = started(f"gs://{RUN}")

  def kill(method: str, what: str, name: str) -> int | None:
    # Its numbers: some of them are there, and model.json may be.
    if what == "write" and f"{RUN}/checkpoints/4/variables/ocdbt" in name:
      process.send_signal(signal.SIGKILL)
    return None

  buckets.refuse = kill
  said = process.communicate(timeout=300)[1]
  buckets.refuse = lambda *_: None
  assert process.returncode == -signal.SIGKILL, said
  return said


@functools.cache
def gone_on() -> None:
  """Goes on with it."""
  killed()
  process = started(f"gs://{RUN}")
  said = process.communicate(timeout=300)[1]
  assert process.returncode == 0, said


@functools.cache
def undisturbed() -> pathlib.Path:
  """The same run, on a disk."""
  killed()  # the config and the set are in the bucket
  workdir = small.folder() / "run"
  process = started(workdir)
  said = process.communicate(timeout=300)[1]
  assert process.returncode == 0, said
  return workdir


def lines(kind: str, run: str | pathlib.Path = RUN) -> list[dict[str, Any]]:
  """The metrics of a run without what is of its clock."""
  if isinstance(run, str):
    text = bucket.running().objects[f"{run}/metrics.jsonl"].decode()
  else:
    text = (run / "metrics.jsonl").read_text()
  timed = ("second", "wait", "memory", "peak", "util")
  return [
    {k: v for k, v in line.items() if not any(word in k for word in timed)}
    for line in map(json.loads, text.splitlines())
    if line["kind"] == kind
  ]


@pytest.mark.slow
def test_a_torn_step_is_none() -> None:
  """Some of its objects are there; the one that says it is whole is not."""
  killed()
  objects = bucket.running().objects
  assert any(name.startswith(f"{RUN}/checkpoints/4/") for name in objects)
  assert f"{RUN}/checkpoints/4/commit_success.txt" not in objects
  assert f"{RUN}/checkpoints/2/commit_success.txt" in objects
  assert str(model.find(f"gs://{RUN}")) == f"gs://{RUN}/checkpoints/2"
  # The lines of what is saved are saved.
  assert [line["step"] for line in lines("train")][:2] == [1, 2]


@pytest.mark.slow
def test_it_goes_on_to_the_bit() -> None:
  """As the same run on a disk that nothing disturbed."""
  gone_on()
  for kind in ("train", "eval"):
    assert lines(kind) == lines(kind, undisturbed())
  own, other = (p3d_jax.load(p) for p in (f"gs://{RUN}", undisturbed()))
  assert own[2].sha256 == other[2].sha256
  jax.tree.map(np.testing.assert_array_equal, own[1], other[1])
  runs = bucket.running().objects[f"{RUN}/runs.jsonl"].decode().splitlines()
  assert [json.loads(line)["step"] for line in runs] == [0, 2]


@pytest.mark.slow
def test_it_is_evaluated() -> None:
  """From the set that it was trained on, by the copies that the run names."""
  gone_on()
  trained = lines("eval")[-1]
  out = default_out(f"gs://{RUN}")
  assert str(out) == f"gs://{RUN}/evaluation-4-test.json"
  result = evaluate(f"gs://{RUN}", out=out)
  objects = bucket.running().objects
  assert json.loads(objects[f"{RUN}/evaluation-4-test.json"]) == json.loads(
    json.dumps(result)
  )
  assert f"{RUN}/evaluation-4-test.npz" in objects
  again = evaluate(f"gs://{RUN}", out=None, views=Views(2))
  for name in ("clip_hit@1", "video_hit@1", "mAP"):
    assert again[name] == pytest.approx(trained[name], abs=1e-4), name


@pytest.mark.slow
def test_its_pages() -> None:
  gone_on()
  page = report(f"gs://{RUN}", parts=Parts(videos=1, classes=0))
  assert str(page) == f"gs://{RUN}/report.html"
  html = bucket.running().objects[f"{RUN}/report.html"].decode()
  assert html.rstrip().endswith("</html>")
  assert curves_png([f"gs://{RUN}"]).startswith(b"\x89PNG")


def test_its_features(monkeypatch: pytest.MonkeyPatch) -> None:
  """Kept in parts of four videos while they are computed."""
  short()
  monkeypatch.setenv("P3D_CACHE", stored()["cache"])
  out = f"gs://{SHORT}/features.npz"
  features(f"gs://{SHORT}", f"gs://{SET}", out, split="test", save_every=4)
  found = load_features(out)
  assert list(found.ids) == open_set(small.dataset(), "test").ids()
  left = [n for n in bucket.running().objects if n.startswith(out[5:])]
  assert left == [out[5:]]  # no parts


def test_checkpoints_and_files_of_weights() -> None:
  short()
  _, variables, record = p3d_jax.load(f"gs://{SHORT}")
  p3d_jax.save("gs://test/saved/one", variables, record)
  _, again, said = p3d_jax.load("gs://test/saved/one")
  jax.tree.map(np.testing.assert_array_equal, variables, again)
  assert said.sha256 == record.sha256
  with pytest.raises(model.CheckpointError, match="one exists"):
    p3d_jax.save("gs://test/saved/one", variables, record)
  local = small.folder() / "a.safetensors"
  export(f"gs://{SHORT}", "gs://test/saved/a.safetensors", to="safetensors")
  export(f"gs://{SHORT}", local, to="safetensors")
  written = bucket.running().objects["test/saved/a.safetensors"]
  # As numbers: the order of its header is not always the same.
  numbers, own = safetensors.numpy.load(written), load_file(local)
  assert set(numbers) == set(own)
  for name, array in own.items():
    np.testing.assert_array_equal(numbers[name], array)


def test_a_bucket_that_is_not_there() -> None:
  with pytest.raises(ValueError, match="^workdir='gs://tset/run': gs://tset"):
    train(small.config(), "gs://tset/run")


@pytest.mark.slow
def test_two_processes_of_one_machine() -> None:
  """The set is copied once, and what one host writes is written once."""
  buckets, folder = bucket.running(), "test/runs/two"
  data = stored() | {"cache": str(small.folder())}
  file = small.folder() / "config.py"
  config = small.config_file(file, f"config.data.update({data!r})")
  with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
  before = len(buckets.done("read", SET))
  processes = [
    subprocess.Popen(
      small.command(
        "train",
        f"--config={config}",
        f"--workdir=gs://{folder}",
        "--config.compile.cache=gs://test/programs",
      ),
      stderr=subprocess.PIPE,
      text=True,
      env=small.environment(2)
      | buckets.environment
      | {
        "P3D_COORDINATOR": f"127.0.0.1:{port}",
        "P3D_PROCESSES": "2",
        "P3D_PROCESS": str(k),
      },
    )
    for k in range(2)
  ]
  said = [process.communicate(timeout=600)[1] for process in processes]
  assert [process.returncode for process in processes] == [0, 0], said
  read = buckets.done("read", SET)[before:]
  assert len(read) == len(set(read)) > 0
  assert names("test/programs")
  runs = buckets.objects[f"{folder}/runs.jsonl"].decode().splitlines()
  assert len(runs) == 1
  # Four devices instead of one: equal to the rounding of sums. A clip more or
  # less changes a loss by far more.
  losses = [
    [line["loss"] for line in lines("train", run)]
    for run in (folder, small.trained())
  ]
  assert losses[0] == pytest.approx(losses[1], rel=1e-3)
  _, _, record = p3d_jax.load(f"gs://{folder}")
  assert record.provenance["step"] == 4


def test_nothing_is_renamed() -> None:
  """By anything of the above, Orbax among it."""
  short()
  assert bucket.running().done("rename") == []
  written = bucket.running().done("write")
  assert written
  assert [name for name in written if name.endswith(".part")] == []
