"""The format on disk: what goes in comes out, and nothing else is let in."""

import _thread
import contextlib
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import p3d_jax
from p3d_jax.checkpoint import model, tree
from p3d_jax.models import zoo
from tests import small

MODULE = small.network(
  schedule=("A", "BC", "S"), rule="paper", stem_pool="padded"
)
VARIABLES = small.variables(MODULE)
RECORD = small.record(MODULE)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  path = tmp_path_factory.mktemp("checkpoint") / "mine"
  p3d_jax.save(path, VARIABLES, RECORD)
  return path


@pytest.fixture
def copy(saved: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(saved, tmp_path / "copy"))


def edit(path: pathlib.Path, **fields: Any) -> None:
  file = path / "model" / "model.json"
  content = json.loads(file.read_text()) | fields
  file.write_text(json.dumps({k: v for k, v in content.items() if v != "-"}))


def test_what_is_saved_is_loaded_to_the_bit(saved: pathlib.Path) -> None:
  module, variables, record = p3d_jax.load(saved)
  assert jax.tree.structure(variables) == jax.tree.structure(VARIABLES)
  for a, b in zip(
    jax.tree.leaves(variables), jax.tree.leaves(VARIABLES), strict=True
  ):
    np.testing.assert_array_equal(a, b)
    assert isinstance(a, jax.Array)
    assert not a.committed  # any mesh can take it
  assert zoo.to_fields(module) == zoo.to_fields(MODULE)
  digest = tree.digest(VARIABLES)
  assert record == dataclasses.replace(RECORD, sha256=digest)


def test_model_json(saved: pathlib.Path) -> None:
  content = json.loads((saved / "model" / "model.json").read_text())
  assert content == {
    "format": 1,
    "model": {
      "num_classes": 3,
      "stages": [1, 1, 1, 1],
      "width": 4,
      "schedule": ["A", "BC", "S"],
      "rule": "paper",
      "stem_pool": "padded",
      "reduce_stride": True,
      "dropout": 0.5,
      "norm_epsilon": 1e-05,
      "norm_momentum": 0.9,
      "dtype": "float32",
    },
    "preprocessing": small.PREPROCESSING.to_dict(),
    "labels": ["a", "b", "c"],
    "scores": "softmax",
    "provenance": {"kind": "test"},
    "sha256": tree.digest(VARIABLES),
  }


def test_the_digest_is_of_names_types_shapes_and_bytes() -> None:
  base = {"a": {"b": np.arange(6, dtype=np.float32)}}
  same = {"a": {"b": jax.numpy.arange(6, dtype=np.float32)}}
  assert tree.digest(base) == tree.digest(same)
  others: list[Any] = [
    {"a": {"c": base["a"]["b"]}},
    {"a": {"b": base["a"]["b"].astype(np.int32)}},
    {"a": {"b": base["a"]["b"].reshape(2, 3)}},
    {"a": {"b": base["a"]["b"] + 1}},
  ]
  assert len({tree.digest(t) for t in [base, *others]}) == 5


def test_a_folder_that_exists_is_refused(saved: pathlib.Path) -> None:
  with pytest.raises(model.CheckpointError, match="exists: name a folder"):
    p3d_jax.save(saved, VARIABLES, RECORD)


def wrong(kind: str) -> Any:
  leaves = dict(tree.flatten(VARIABLES))
  if kind == "missing":
    del leaves["params/head/fc/bias"]
  elif kind == "unknown":
    leaves["params/head/fc/gain"] = np.zeros(3, np.float32)
  elif kind == "shape":
    leaves["params/head/fc/bias"] = np.zeros(4, np.float32)
  else:
    leaves["params/head/fc/bias"] = np.zeros(3, np.int32)
  return tree.unflatten(leaves)


MESSAGES = {
  "missing": r"missing params/head/fc/bias$",
  "unknown": r"unknown params/head/fc/gain$",
  "shape": r"fc/bias is \(\(4,\), 'float32'\), not \(\(3,\), 'float32'\)$",
  "type": r"fc/bias is \(\(3,\), 'int32'\), not \(\(3,\), 'float32'\)$",
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_other_variables_are_not_saved(
  tmp_path: pathlib.Path, kind: str
) -> None:
  with pytest.raises(model.CheckpointError, match=MESSAGES[kind]):
    p3d_jax.save(tmp_path / "x", wrong(kind), RECORD)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", MESSAGES)
def test_other_variables_are_not_loaded(copy: pathlib.Path, kind: str) -> None:
  shutil.rmtree(copy / "variables")
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(copy / "variables", wrong(kind))
  with pytest.raises(model.CheckpointError, match=MESSAGES[kind]) as caught:
    p3d_jax.load(copy)
  assert "\n" not in str(caught.value)


def test_a_changed_number_is_found(copy: pathlib.Path) -> None:
  leaves = dict(tree.flatten(VARIABLES))
  bias = leaves["params/head/fc/bias"]
  leaves["params/head/fc/bias"] = bias.at[0].add(1e-3)
  shutil.rmtree(copy / "variables")
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(copy / "variables", tree.unflatten(leaves))
  with pytest.raises(model.CheckpointError, match="sha256 .* damaged"):
    p3d_jax.load(copy)


@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "no metadata"])
def test_damaged_files_are_one_line(copy: pathlib.Path, how: str) -> None:
  if how == "gone":
    shutil.rmtree(copy / "variables")
  elif how == "no metadata":
    (copy / "variables" / "_METADATA").unlink()
  else:
    # All of them: some hold only what another file holds too.
    files = [p for p in copy.glob("variables/**/d/*") if p.is_file()]
    assert files
    for file in files:
      content = file.read_bytes()
      flipped = bytes(255 - byte for byte in content)
      damaged = flipped if how == "flipped" else content[: len(content) // 2]
      file.write_bytes(damaged)
  with pytest.raises(model.CheckpointError) as caught:
    p3d_jax.load(copy)
  assert "\n" not in str(caught.value)
  assert str(copy) in str(caught.value)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"format": 2}, "format is 2: this p3d_jax reads 1"),
    ({"labels": "-"}, "fields are"),
    ({"more": 1}, "fields are"),
    ({"labels": ["a", "b"]}, "labels are 2 names: the model has 3"),
    ({"scores": "tanh"}, "scores is 'tanh'"),
    ({"preprocessing": {}}, "preprocessing record: .*missing keys"),
    ({"model": {}}, "model.json: "),
  ],
)
def test_a_record_that_is_none(
  copy: pathlib.Path, fields: dict[str, Any], message: str
) -> None:
  edit(copy, **fields)
  with pytest.raises(model.CheckpointError, match=message) as caught:
    p3d_jax.load(copy)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "3"])
def test_a_model_json_that_is_none(copy: pathlib.Path, text: str) -> None:
  (copy / "model" / "model.json").write_text(text)
  with pytest.raises(model.CheckpointError, match=r"model\.json: "):
    p3d_jax.load(copy)


def test_find(saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
  root = tmp_path / "run" / "checkpoints"
  for step, score in ((2, 50.0), (10, 75.0), (12, 75.0), (14, None)):
    shutil.copytree(saved, root / str(step))
    if score is not None:
      (root / str(step) / "metrics").mkdir()
      text = json.dumps({"video_hit@1": score})
      (root / str(step) / "metrics" / "metrics").write_text(text)
  (root / "20").mkdir()  # being written
  (root / "16.orbax-checkpoint-tmp-1").mkdir()
  run = tmp_path / "run"
  assert str(model.find(saved)) == str(saved)
  assert model.find(run).name == "14"
  assert model.find(run, "best").name == "12"  # the later of the best
  assert model.find(run, 2).name == "2"
  assert model.find(root / "10").name == "10"
  with pytest.raises(model.CheckpointError, match="step is 'best', but"):
    model.find(root / "10", "best")
  with pytest.raises(model.CheckpointError, match=r"step 3: .*2, 10, 12, 14"):
    model.find(run, 3)
  with pytest.raises(model.CheckpointError, match="no checkpoint and no work"):
    model.find(tmp_path / "nowhere")
  (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
  with pytest.raises(model.CheckpointError, match="no step 'last'"):
    model.find(tmp_path / "empty")
  with pytest.raises(model.CheckpointError, match="no step was evaluated"):
    model.find(tmp_path / "empty", "best")
  (tmp_path / "a.pth").write_text("")
  with pytest.raises(model.CheckpointError, match="is a file, .*p3d convert"):
    model.find(tmp_path / "a.pth")
  (tmp_path / "begun" / model.CHECKPOINTS).mkdir(parents=True)
  with pytest.raises(model.CheckpointError, match="it has no checkpoint yet"):
    model.find(tmp_path / "begun")


def patch_saving(patch: pytest.MonkeyPatch, save: Any) -> None:
  patch.setattr(ocp.JsonCheckpointHandler, "save", save)
  patch.setattr(ocp.JsonCheckpointHandler, "async_save", save)


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_a_save_that_fails_leaves_nothing(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  error: type[BaseException],
) -> None:
  def full(*args: Any, **kwargs: Any) -> Any:
    assert list(tmp_path.iterdir()) != [path]
    raise error("No space\nleft on device")

  path = tmp_path / "x"
  other = tmp_path / "y.orbax-checkpoint-tmp"
  other.mkdir()  # of another save
  raised = error if error is KeyboardInterrupt else model.CheckpointError
  with monkeypatch.context() as patch:
    patch_saving(patch, full)
    with pytest.raises(raised, match="No space") as caught:
      p3d_jax.save(path, VARIABLES, RECORD)
  if raised is model.CheckpointError:
    assert str(caught.value) == (
      f"{path} cannot be written: No space left on device"
    )
  assert list(tmp_path.iterdir()) == [other]
  p3d_jax.save(path, VARIABLES, RECORD)
  p3d_jax.load(path)


FULL = """
import resource, sys
import jax, numpy as np
import p3d_jax
from tests import small
module = small.network(width=16)
variables = jax.tree.map(np.asarray, small.variables(module))
# No file may be larger: as on a full disk, only some writes fail.
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
  p3d_jax.save(sys.argv[1], variables, small.record(module))
except p3d_jax.checkpoint.model.CheckpointError as error:
  sys.exit(str(error))
"""


def test_a_full_disk(tmp_path: pathlib.Path) -> None:
  """Orbax gives up at once, while TensorStore goes on writing in the folder."""
  words = [sys.executable, "-c", FULL, str(tmp_path / "x")]
  done = subprocess.run(
    words, capture_output=True, text=True, env=small.environment()
  )
  assert "Event loop is closed" not in done.stderr
  said = f"{tmp_path / 'x'} cannot be written: "
  # Orbax and asyncio log what each of their threads met, before and after it.
  (line,) = [v for v in done.stderr.splitlines() if v.startswith(said)]
  assert "File too large" in line
  assert done.returncode == 1
  assert list(tmp_path.iterdir()) == []


def test_ctrl_c_waits_for_the_threads_that_write(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """What they wrote is whole, then; and nothing stands beside it."""
  save = ocp.JsonCheckpointHandler.async_save

  async def interrupted(*args: Any, **kwargs: Any) -> Any:
    _thread.interrupt_main()
    time.sleep(0.5)
    return await save(*args, **kwargs)

  path = tmp_path / "x"
  with monkeypatch.context() as patch:
    patch.setattr(ocp.JsonCheckpointHandler, "async_save", interrupted)
    # asyncio takes a Ctrl-C that comes while it runs, and where what it runs is
    # done by then nothing is raised.
    with contextlib.suppress(KeyboardInterrupt):
      p3d_jax.save(path, VARIABLES, RECORD)
  assert list(tmp_path.iterdir()) == [path]
  p3d_jax.load(path)


@pytest.mark.parametrize("kind", ["link", "under a file", "nowhere"])
def test_a_place_that_cannot_be(tmp_path: pathlib.Path, kind: str) -> None:
  (tmp_path / "file").write_text("")
  path, message = tmp_path / "link", "exists: name a folder that does not"
  if kind == "link":
    path.symlink_to(tmp_path / "nowhere")
  else:
    # The kernel lets nobody, root neither, make a folder in /proc.
    above = tmp_path / "file" if kind == "under a file" else "/proc"
    path, message = pathlib.Path(above) / "x", "cannot be written: "
  before = sorted(tmp_path.iterdir())
  with pytest.raises(model.CheckpointError) as caught:
    p3d_jax.save(path, VARIABLES, RECORD)
  assert str(caught.value).startswith(f"{path} {message}")
  assert "\n" not in str(caught.value)
  assert sorted(tmp_path.iterdir()) == before


LOAD = """
import sys
import jax, numpy as np
import p3d_jax
from p3d_jax.checkpoint import model, tree
from p3d_jax.train import sharding
from p3d_jax.train.score import Scorer
from tests import small
path, verb, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
assert jax.device_count() == count
if verb == "save":
  module = small.network()
  whole = sharding.replicated(sharding.mesh())
  v = jax.device_put(small.variables(module), whole)
  p3d_jax.save(path, v, small.record(module))
else:
  module, v, record = p3d_jax.load(path)
  scorer = Scorer(module, record.preprocessing, "softmax", sharding.mesh())
  placed = scorer.place(v)
  assert scorer.clips(placed, small.pixels(8, 1)).shape == (8, 1, 3)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("writes", "reads"), [(8, 1), (1, 8)])
def test_it_moves_between_numbers_of_devices(
  tmp_path: pathlib.Path, writes: int, reads: int
) -> None:
  for verb, count in (("save", writes), ("load", reads)):
    words = [sys.executable, "-c", LOAD, str(tmp_path / "x"), verb, str(count)]
    subprocess.run(words, check=True, env=small.environment(devices=count))
