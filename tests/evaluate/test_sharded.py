"""Evaluation on many devices and processes is that on one, to the video."""

import json
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from p3d_jax.data.clips import Views
from p3d_jax.evaluate.evaluate import evaluate
from p3d_jax.evaluate.score_file import VideoScores, load_scores
from tests import small

# A number that nothing divides. On 8 devices a batch is 16 rows, 5 of them
# padding; on two processes it is 8, and the second one's share of the last, 4
# rows, is padding alone.
VIDEOS = 11
SPLIT = f"train[:{VIDEOS}]"
SCRIPT = """
import sys
import jax
run, out, split, batch, processes, process, port = sys.argv[1:]
if int(processes) > 1:
  jax.distributed.initialize(
    f"localhost:{port}", int(processes), int(process), initialization_timeout=60
  )
assert jax.device_count() == 8, jax.devices()
from p3d_jax.data.clips import Views
from p3d_jax.evaluate.evaluate import evaluate
result = evaluate(
  run, split=split, views=Views(3), batch=int(batch), out=out
)
assert result["videos"] == 11
"""


def sharded(out: pathlib.Path, processes: int, batch: int) -> None:
  """Evaluates in some processes of 8 devices together."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  run = str(small.trained())
  started = [
    subprocess.Popen(
      [sys.executable, "-c", SCRIPT, run, str(out), SPLIT]
      + [str(x) for x in (batch, processes, process, port)],
      stderr=subprocess.PIPE,
      text=True,
      env=small.environment(8 // processes),
    )
    for process in range(processes)
  ]
  for process in started:
    _, error = process.communicate(timeout=600)
    assert process.returncode == 0, error


def same(one: VideoScores, other: VideoScores) -> None:
  """Ids, labels and counts exactly; sums of floats in another order to 1e-5."""
  assert one.ids == other.ids
  assert np.array_equal(one.labels, other.labels)
  assert np.array_equal(one.readable, other.readable)
  np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
  ("processes", "batch"),
  [pytest.param(1, 16, id="one"), pytest.param(2, 8, id="two")],
)
def test_eight_devices_score_as_one(
  processes: int, batch: int, tmp_path: pathlib.Path
) -> None:
  one, many = tmp_path / "one.json", tmp_path / "many.json"
  run = small.trained()
  expected = evaluate(run, split=SPLIT, views=Views(3), batch=3, out=one)
  sharded(many, processes, batch)
  result = json.loads(many.read_text())
  assert result["videos"] == expected["videos"] == VIDEOS
  assert {k: v["videos"] for k, v in result["per_class"].items()} == {
    k: v["videos"] for k, v in expected["per_class"].items()
  }
  same(
    load_scores(many.with_suffix(".npz")), load_scores(one.with_suffix(".npz"))
  )
  # Hits are of whole videos: a score off by 1e-5 would have to be a tie.
  for name in ("clip_hit@1", "video_hit@1", "video_hit@5", "mAP"):
    assert result[name] == pytest.approx(expected[name], abs=1e-9)


def test_a_batch_that_the_devices_do_not_divide() -> None:
  text = SCRIPT.replace("assert result", "")
  done = subprocess.run(
    [sys.executable, "-c", text, str(small.trained()), "none.json", SPLIT]
    + ["12", "1", "0", "0"],
    capture_output=True,
    text=True,
    env=small.environment(8),
  )
  assert "batch is 12: it must be a multiple of the 8 devices" in done.stderr
