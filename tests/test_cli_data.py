"""`p3d data check`, `show` and `flow`, as they are called."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from p3d_jax import cli
from p3d_jax.data.sets import open_set
from tests import small


def p3d(*words: object) -> int:
  return cli.main([str(word) for word in words])


def test_check_lists_what_build_leaves_out(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  videos = tmp_path / "videos"
  for k, film in enumerate(sorted(small.footage().glob("*.mp4"))):
    folder = videos / f"class {k % 2}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / film.name).write_bytes(film.read_bytes())
  assert p3d("data", "check", videos, "--min-frames", 40) == 0
  assert "5 videos: 5 ok" in capsys.readouterr().out
  (videos / "class 0" / "bad, empty.mp4").write_bytes(b"")
  bad = tmp_path / "bad.txt"
  assert p3d("data", "check", videos, "--out", bad) == 1
  said = capsys.readouterr().out
  assert "6 videos: 1 empty, 5 ok" in said
  assert "empty: class 0/bad, empty.mp4" in said
  assert said.endswith(f"1 listed in {bad}\n")
  also = tmp_path / "also.txt"
  assert p3d(
    "data", "check", videos, "--out", also, "--min-frames", 41,
    "--also", "too short",
  ) == 1  # fmt: skip
  assert f"6 listed in {also}" in capsys.readouterr().out

  build = ("data", "build", "folder", "--source", videos)
  out = tmp_path / "sets"
  assert p3d(*build, "--out", out) == 2
  assert "1 video cannot be read, 0 may be" in capsys.readouterr().err
  assert p3d(*build, "--out", out, "--exclude", bad) == 0
  output = capsys.readouterr()
  assert len(open_set(output.out.strip(), "all")) == 5
  assert "1 excluded: class 0/bad, empty.mp4" in output.err
  assert p3d("data", "check", output.out.strip()) == 0


def test_show_draws_what_training_or_evaluation_reads(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  config = small.config_file(tmp_path / "config.py")
  show = ("data", "show", small.dataset(), "--count", 3)
  sizes = set()
  for name, more in (
    ("default", ()),
    ("config", ("--config", config)),
    ("checkpoint", ("--checkpoint", small.trained(), "--split", "test")),
  ):
    out = tmp_path / f"{name}.png"
    assert p3d(*show, "--out", out, *more) == 0
    assert capsys.readouterr().out == f"{out}\n"
    with Image.open(out) as sheet:
      sizes.add(sheet.size)
      assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 1000
  assert len(sizes) == 2  # crops of 160, and of 32
  assert p3d(*show, "--out", tmp_path / "sheet.jpg") == 2
  assert "must end in .png" in capsys.readouterr().err


def test_flow_of_a_set_and_what_each_network_takes(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  pytest.importorskip("cv2", reason="optical flow is computed by OpenCV")
  words = ("data", "flow", small.dataset(), "--out", tmp_path)
  assert p3d(*words, "--method", "dis", "--bound", 8) == 0
  folder = capsys.readouterr().out.strip()
  flow, videos = open_set(folder, "train"), open_set(small.dataset(), "train")
  assert flow.channels == "flow"
  assert flow.ids() == videos.ids()
  assert flow.flip_labels == videos.flip_labels
  config = small.config_file(
    tmp_path / "flow.py",
    f"config.data.dir = {folder!r}\n"
    "config.preprocessing.channels = 'flow'\n"
    "config.preprocessing.mean = (128.0, 128.0)\n"
    "config.preprocessing.std = (16.0, 16.0)\n"
    "config.train.steps = 1\n",
  )
  run = tmp_path / "run"
  train = ("train", "--config", config, "--workdir", run)
  assert p3d(*train) == 0
  assert p3d("evaluate", run, "--clips", 2) == 0
  assert "10 videos of test, 2 clips each" in capsys.readouterr().out
  # Neither network takes the other's set.
  assert p3d("evaluate", run, "--data", small.dataset(), "--split", "test") == 2
  assert "channels='flow'" in capsys.readouterr().err
  assert p3d("evaluate", small.trained(), "--data", folder, "--clips", 2) == 2
  assert "holds optical flow" in capsys.readouterr().err
  wrong = (
    "--workdir",
    tmp_path / "other",
    "--config.data.dir",
    small.dataset(),
  )
  assert p3d(*train[:3], *wrong) == 2
  assert "holds RGB videos" in capsys.readouterr().err
  assert not (tmp_path / "other").exists()


def test_splits_that_a_config_names(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """A set of lists trains by their names, and says which there are."""
  videos = tmp_path / "videos"
  for k, film in enumerate(sorted(small.footage().glob("*.mp4"))):
    folder = videos / ("train" if k < 3 else "test") / f"class {k % 2}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / film.name).write_bytes(film.read_bytes())
  assert (
    p3d("data", "build", "folder", "--source", videos, "--out", tmp_path / "s")
    == 0
  )
  folder = capsys.readouterr().out.strip()
  config = small.config_file(
    tmp_path / "config.py",
    f"config.data.dir = {folder!r}\nconfig.train.steps = 1\n",
  )
  train = ("train", "--config", config)
  assert p3d(*train, "--workdir", tmp_path / "run") == 0
  assert "3 videos, 8 BGR clips" in capsys.readouterr().err
  assert (
    p3d(*train, "--workdir", tmp_path / "x", "--config.data.train_split=train1")
    == 2
  )
  error = capsys.readouterr().err
  assert "split='train1'" in error
  assert "has all, test, train" in error
