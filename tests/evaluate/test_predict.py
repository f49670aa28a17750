"""Prediction of files: what `p3d_jax.load` gives in ten lines of Python."""

import contextlib
import io
import pathlib
from typing import Any

import av
import jax
import numpy as np
import pytest

import p3d_jax
from p3d_jax.evaluate.predict import Prediction, Predictor, predict
from tests import small


def write(path: pathlib.Path, frames: int, size: tuple[int, int]) -> Any:
  """A video with a frame rate, a size and a container of its own."""
  rng = np.random.default_rng(frames)
  height, width = size
  coarse = rng.integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
  still = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
  out = io.BytesIO()
  with av.open(out, "w", format="matroska") as container:
    stream: Any = container.add_stream("libx264", rate=10)
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    for t in range(frames):
      picture = np.roll(still, 3 * t, axis=1)
      frame = av.VideoFrame.from_ndarray(picture, "rgb24")
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  path.write_bytes(out.getvalue())
  return path


@pytest.fixture(scope="module")
def predictor() -> Predictor:
  return Predictor(small.trained())


@pytest.mark.parametrize(
  ("frames", "size"), [(30, (48, 64)), (30, (72, 40)), (2, (40, 40))]
)
def test_the_scores_are_those_of_ten_lines_of_python(
  predictor: Predictor,
  tmp_path: pathlib.Path,
  frames: int,
  size: tuple[int, int],
) -> None:
  path = write(tmp_path / "a video.mkv", frames, size)
  got = predictor.predict(path, clips=5)
  module, variables, record = p3d_jax.load(small.trained())
  clips = p3d_jax.read_clips(path, record.preprocessing, 5)
  logits = module.apply(variables, record.preprocess(clips))
  expected = np.asarray(jax.nn.softmax(logits))
  assert got.scores is not None
  assert got.times is not None
  # jit fuses what is computed one by one here.
  np.testing.assert_allclose(got.clips, expected, atol=2e-5)
  np.testing.assert_allclose(got.scores, expected.mean(0), atol=2e-5)
  assert got.error is None
  assert got.labels == record.labels
  last = (frames - 1) / 10
  assert np.all(np.diff(got.times) >= 0)
  assert got.times[0] >= 0
  assert got.times[-1] <= last + 1e-6
  if frames == 30:
    # Four frames a clip: 0 to 3 first, 26 to 29 last.
    np.testing.assert_allclose(got.times[[0, -1]], [0.15, 2.75], atol=1e-3)


def test_record_preprocess_does_it_from_whole_frames(
  predictor: Predictor, tmp_path: pathlib.Path
) -> None:
  """Frames of any size, resized after decoding: a rounding apart."""
  path = write(tmp_path / "video.mkv", 4, (48, 64))
  frames = p3d_jax.read_frames(path)
  record = predictor.record
  ours = record.preprocess(frames)
  theirs = record.preprocess(
    p3d_jax.read_clips(path, record.preprocessing, 1)[0]
  )
  assert ours.shape == theirs.shape == (4, 32, 32, 3)
  # Measured 0.033 on noise of full contrast, in deviations of 60 levels.
  assert np.abs(ours - theirs).mean() < 0.05
  # Where nothing is resized, to the bit.
  path = write(tmp_path / "small.mkv", 4, (36, 36))
  clips = p3d_jax.read_clips(path, record.preprocessing, 1)[0]
  np.testing.assert_array_equal(
    record.preprocess(p3d_jax.read_frames(path)),
    record.preprocess(clips),
  )


def test_what_cannot_be_read_is_said(
  predictor: Predictor, tmp_path: pathlib.Path
) -> None:
  bad = tmp_path / "empty.mp4"
  bad.write_bytes(b"")
  for path in (bad, tmp_path / "missing.mp4", tmp_path):
    got = predictor.predict(path, 2)
    assert got.scores is None
    assert got.error is not None
    assert str(path) in got.error
    assert "\n" not in got.error
    assert got.to_json(5) == {"path": str(path), "error": got.error}
    with pytest.raises(ValueError, match="has no scores"):
      got.top(1)


def test_top_names_the_highest_first() -> None:
  made = Prediction("x", ("a", "b", "c"), scores=np.array([0.2, 0.5, 0.2]))
  assert made.top(2) == [("b", 0.5), ("a", 0.2)]  # of equals the first
  assert len(made.top(9)) == 3
  assert made.to_json(1) == {
    "path": "x",
    "top": [{"label": "b", "score": 0.5}],
  }


def test_a_file_that_hangs_is_an_error_of_the_file(
  tmp_path: pathlib.Path,
) -> None:
  """No decoding is done in a ten thousandth of a second."""
  path = write(tmp_path / "a video.mkv", 30, (48, 64))
  with contextlib.closing(Predictor(small.trained(), timeout=1e-4)) as hasty:
    got = hasty.predict(path, clips=2)
  assert got.error == (
    f"{path}: it was not done after 0.0001 seconds, and its process was killed"
  )
  assert got.scores is None
  here = Predictor(small.trained(), timeout=None).predict(path, clips=2)
  (there,) = predict(small.trained(), [path], clips=2)
  assert np.array_equal(here.scores, there.scores)
  assert np.array_equal(here.times, there.times)
