import io
import pathlib
import pickle
import subprocess
import sys

import av
import numpy as np
import pytest
from video_files import encode_video, number_of, numbered, sound_only

from p3d_jax.data import decode
from p3d_jax.data.builders.layout import Cut
from p3d_jax.data.decode import Video, VideoError
from p3d_jax.data.ingest import draw, ingest

FRAMES = numbered(100)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> str:
  path = tmp_path_factory.mktemp("films") / "a film, mit Ümlaut.mp4"
  path.write_bytes(encode_video(FRAMES, gop=30, bframes=3))
  return str(path)


def numbers(encoded: bytes) -> list[int]:
  video = Video(encoded)
  frames = video.read(range(video.num_frames), (64, 96))
  return [number_of(frame) for frame in frames]


def test_a_file_as_it_is(film: str) -> None:
  assert ingest(film, cut=None, side=None) == {
    "video": None,
    "num_frames": 100,
    "start": 0.0,
    "seconds": pytest.approx(4.0),
    "height": 64,
    "width": 96,
    "fps": pytest.approx(25.0),
  }


def test_a_smaller_video(film: str) -> None:
  result = ingest(film, cut=None, side=32)
  encoded = result.pop("video")
  assert result == {
    "num_frames": 100,
    "start": 0.0,
    "seconds": pytest.approx(4.0),
    "height": 32,
    "width": 48,
    "fps": pytest.approx(25.0),
  }
  assert len(numbers(encoded)) == 100
  assert encoded == ingest(film, cut=None, side=32)["video"]


@pytest.mark.parametrize("seed", [(0, 7), (1, 7), (2, 7), (3,)])
def test_a_cut_is_drawn_by_its_seed_alone(
  film: str, seed: tuple[int, ...]
) -> None:
  # Uniform over the 4 - 1 seconds where a second fits.
  start = np.random.default_rng(seed).uniform(0, 3)
  first = int(start * 25)  # on screen at `start`
  cut = Cut(1.0, seed)
  np.random.seed(sum(seed))  # noqa: NPY002  what must not matter
  result = ingest(film, cut=cut, side=None)
  found = numbers(result["video"])
  # 25 frame times lie in a second; one more frame began before it.
  assert found == list(range(first, first + 26))
  assert result["num_frames"] == 26
  assert result["start"] == pytest.approx(first / 25)
  assert result["seconds"] == pytest.approx(26 / 25)
  assert (result["height"], result["width"]) == (64, 96)
  assert ingest(film, cut=cut, side=None)["video"] == result["video"]


def test_draws_are_uniform_over_where_the_piece_fits() -> None:
  starts = [draw(Cut(5.0, (k,)), 25.0) for k in range(2000)]
  # A uniform draw from 0..20 has mean 10 and standard deviation 20/sqrt(12);
  # the mean of 2000 is off by 0.13, four times which is allowed.
  assert min(starts) < 0.1
  assert 19.9 < max(starts) <= 20
  assert np.mean(starts) == pytest.approx(10, abs=0.52)


@pytest.mark.parametrize("seconds", [4.0, 5.0, 100.0])
def test_a_video_shorter_than_the_cut_is_taken_whole(
  film: str, seconds: float
) -> None:
  result = ingest(film, cut=Cut(seconds, (0,)), side=None)
  assert numbers(result["video"]) == list(range(100))
  assert (result["start"], result["num_frames"]) == (0.0, 100)


def test_cut_and_smaller(film: str) -> None:
  result = ingest(film, cut=Cut(2.0, (5,)), side=32)
  assert (result["height"], result["width"]) == (32, 48)
  assert result["num_frames"] in (50, 51)


def zeros_in_the_middle() -> bytes:
  data = bytearray(encode_video(FRAMES, gop=30))
  middle = len(data) // 3
  data[middle : middle + 300] = bytes(300)
  return bytes(data)


WHOLE = encode_video(FRAMES, gop=30, bframes=2)
MATROSKA = encode_video(FRAMES, container="matroska")
BROKEN = {
  "empty": (b"", "it is empty, a file of 0 bytes"),
  "text": (b"#!/bin/sh\necho hello\n" * 50, "Invalid data"),
  "noise": (np.random.default_rng(0).bytes(4000), "Invalid data"),
  "mp4 without its end": (WHOLE[: len(WHOLE) // 2], "Invalid data"),
  "matroska cut": (MATROSKA[: len(MATROSKA) // 2], "truncated"),
  "sound": (sound_only(), "no video"),
}


@pytest.mark.parametrize("cut", [None, Cut(1.0, (0,))], ids=["whole", "cut"])
@pytest.mark.parametrize("side", [None, 32])
@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_files_are_one_line(
  name: str, side: int | None, cut: Cut | None, tmp_path: pathlib.Path
) -> None:
  data, message = BROKEN[name]
  path = tmp_path / "broken film.mp4"
  path.write_bytes(data)
  with pytest.raises(VideoError, match=message) as caught:
    ingest(str(path), cut=cut, side=side)
  assert str(caught.value).startswith(f"{path}: ")
  assert "\n" not in str(caught.value)


def test_frames_that_cannot_be_decoded_are_found_with_a_side(
  tmp_path: pathlib.Path,
) -> None:
  path = tmp_path / "film.mp4"
  path.write_bytes(zeros_in_the_middle())
  # Its packets are all there, which is what is looked at without one.
  assert ingest(str(path), cut=None, side=None)["num_frames"] == 100
  with pytest.raises(VideoError) as caught:
    ingest(str(path), cut=None, side=32)
  assert str(caught.value).startswith(f"{path}: ")


def test_no_file_and_a_folder(tmp_path: pathlib.Path) -> None:
  with pytest.raises(VideoError, match=r"nowhere\.mp4: no such file"):
    ingest(str(tmp_path / "nowhere.mp4"), cut=None, side=None)
  with pytest.raises(VideoError, match="it is a folder"):
    ingest(str(tmp_path), cut=None, side=None)


def test_an_odd_side_is_a_mistake_before_anything_is_read() -> None:
  with pytest.raises(ValueError, match="side=31: must be an even") as caught:
    ingest("nowhere.mp4", cut=None, side=31)
  assert not isinstance(caught.value, VideoError)


def test_it_can_run_in_another_process(film: str) -> None:
  """Arguments and result go through a pipe; nothing heavy is imported."""
  cut = pickle.loads(pickle.dumps(Cut(1.0, (3, 4))))
  result = ingest(film, cut=cut, side=32)
  kinds = {key: type(value) for key, value in result.items()}
  assert kinds == {
    "video": bytes,
    "num_frames": int,
    "start": float,
    "seconds": float,
    "height": int,
    "width": int,
    "fps": float,
  }
  script = (
    "import sys, p3d_jax.data.ingest\n"
    "print([m for m in ('jax', 'flax', 'tensorflow', 'torch', 'grain',"
    " 'tensorflow_datasets') if m in sys.modules])"
  )
  run = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, check=True
  )
  assert run.stdout.strip() == "[]"


def test_the_file_is_not_read_into_memory(
  film: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Films are as long as they like; only their path is passed on."""
  sources: list[object] = []
  original = decode.Video.__init__

  def watching(self: Video, source: object, **kwargs: int) -> None:
    sources.append(source)
    original(self, source, **kwargs)

  monkeypatch.setattr(decode.Video, "__init__", watching)
  result = ingest(film, cut=Cut(1.0, (0,)), side=None)
  assert sources == [film, result["video"]]


def test_variable_rate_and_rotation(tmp_path: pathlib.Path) -> None:
  times = [0, 100, 500, 600, 650, 1700, 1733]
  path = tmp_path / "phone.mp4"
  path.write_bytes(
    encode_video(
      FRAMES[:7], times=times, setup=lambda s: s.set_display_rotation(90)
    )
  )
  result = ingest(str(path), cut=None, side=32)
  assert (result["height"], result["width"]) == (48, 32)
  assert result["num_frames"] == 7
  with av.open(io.BytesIO(result["video"])) as container:
    shown = [float(p.pts * p.time_base) for p in container.demux() if p.size]
  np.testing.assert_allclose(shown, np.array(times) / 1000, atol=1e-9)
