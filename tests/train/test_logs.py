"""What a run writes for people."""

import json
import pathlib

import pytest
from etils import epath
from tensorboard.backend.event_processing import event_accumulator

from p3d_jax.train import logs
from tests import bucket, small


def test_tensorboard_has_the_numbers_of_metrics_jsonl() -> None:
  workdir = small.trained()
  board = event_accumulator.EventAccumulator(str(workdir / "tensorboard"))
  board.Reload()
  lines = logs.read(workdir)
  assert [(line["step"], line["kind"]) for line in lines] == [
    (1, "train"),
    (2, "train"),
    (2, "eval"),
    (3, "train"),
    (4, "train"),
    (4, "eval"),
  ]
  count = 0
  for line in lines:
    for name in set(line) - {"step", "kind"}:
      events = board.Scalars(f"{line['kind']}/{name}")
      found = [e.value for e in events if e.step == line["step"]]
      assert found == [pytest.approx(line[name], rel=1e-6)]
      count += 1
  assert count == sum(len(board.Scalars(t)) for t in board.Tags()["scalars"])


def test_event_files_of_a_run_that_went_on(tmp_path: pathlib.Path) -> None:
  for start, stop in ((0, 6), (4, 8)):
    log = logs.Logs(epath.Path(tmp_path), start, tensorboard=True)
    for step in range(start + 1, stop + 1):
      log.write(step, "train", {"loss": float(100 * start + step)})
    log.close()
  board = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
  board.Reload()
  found = {e.step: e.value for e in board.Scalars("train/loss")}
  # Steps 5 and 6 are those of the second start.
  expected = {1: 1, 2: 2, 3: 3, 4: 4} | {s: 400 + s for s in (5, 6, 7, 8)}
  assert found == expected
  assert len(board.Scalars("train/loss")) == 8


def test_what_a_killed_host_has_synced_is_on_the_store(
  tmp_path: pathlib.Path,
) -> None:
  """Both files, before the 30 s after which an object is written anyway."""
  objects = bucket.running().objects
  log = logs.Logs(epath.Path("gs://test/logs/synced"), 0, tensorboard=True)
  log.write(1, "train", {"loss": 0.5})
  log.sync()  # and it is never closed
  written = {n: c for n, c in objects.items() if n.startswith("test/logs/")}
  line = {"step": 1, "kind": "train", "loss": 0.5}
  assert json.loads(written["test/logs/synced/metrics.jsonl"]) == line
  (events,) = [n for n in written if "/tensorboard/" in n]
  (tmp_path / pathlib.Path(events).name).write_bytes(written[events])
  board = event_accumulator.EventAccumulator(str(tmp_path))
  board.Reload()
  found = [(e.step, e.value) for e in board.Scalars("train/loss")]
  assert found == [(1, 0.5)]


def test_the_workdir_says_what_ran() -> None:
  workdir = small.trained()
  config = json.loads((workdir / "config.json").read_text())
  assert config["train"]["steps"] == 4
  assert config["preprocessing"]["resize"] == [36, 36]
  start = json.loads((workdir / "runs.jsonl").read_text().splitlines()[0])
  assert start["step"] == 0
  assert start["command"]
  assert {"jax", "flax", "optax", "p3d_jax", "python", "devices"} <= set(start)


def test_a_torn_last_line_is_left_out(tmp_path: pathlib.Path) -> None:
  file = tmp_path / "metrics.jsonl"
  lines = [{"step": s, "kind": "train", "loss": s / 2} for s in (1, 2, 3)]
  whole = "".join(json.dumps(line) + "\n" for line in lines)
  file.write_text(whole + '{"step": 4, "ki')
  assert logs.read(tmp_path) == lines
  log = logs.Logs(epath.Path(tmp_path), 2, tensorboard=False)
  log.write(3, "train", {"loss": 9.0})
  log.close()
  assert logs.read(tmp_path) == [
    *lines[:2],
    {"step": 3, "kind": "train", "loss": 9.0},
  ]


def test_a_workdir_keeps_its_config(tmp_path: pathlib.Path) -> None:
  workdir = epath.Path(tmp_path)
  logs.check_config(workdir, small.config())  # nothing is there yet
  logs.write_config(workdir, small.config())
  other = small.config(
    checkpoint={"every": 3, "keep": 9},
    log={"every": 7, "tensorboard": False},
    input={"threads": 5},
  )
  logs.check_config(workdir, other)
  logs.write_config(workdir, other)  # a second time, over the first
  other = small.config(optim={"learning_rate": 0.5}, train={"steps": 9})
  with pytest.raises(ValueError, match="another config") as caught:
    logs.check_config(workdir, other)
  for part in (
    "config.optim.learning_rate was 0.02, is 0.5",
    "config.train.steps was 4, is 9",
  ):
    assert part in str(caught.value)
  assert "\n" not in str(caught.value)
