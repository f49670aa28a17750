"""Features against a plain loop over the videos; neighbours; broken runs."""

import argparse
import dataclasses
import functools
import json
import pathlib
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from jax.experimental import multihost_utils

import p3d_jax
from p3d_jax.checkpoint import model
from p3d_jax.cli.features import FEATURES
from p3d_jax.data import store
from p3d_jax.data.clips import Views
from p3d_jax.data.encode import encode
from p3d_jax.data.file_set import FileSet
from p3d_jax.data.flow_set import make_flow_set
from p3d_jax.data.sets import open_set
from p3d_jax.evaluate import feature_parts
from p3d_jax.evaluate import features as lib
from p3d_jax.evaluate.feature_file import Features, load_features
from p3d_jax.evaluate.features import _agreed, features, open_source, report
from p3d_jax.hosts import together
from p3d_jax.models.fold import Shift
from p3d_jax.train.score import Rows
from tests import small

VIEWS = Views(clips=3)
# Sums of some hundred float32 products in another order, through five stages:
# the largest difference measured here is 4e-7 of the largest value.
BOUND = 1e-5


@functools.cache
def checkpoint(scores: str = "softmax", trunk: bool = False) -> pathlib.Path:
  """A network with statistics drawn at random, as a folder."""
  module = small.network()
  record = dataclasses.replace(small.record(module), scores=scores)
  variables = small.variables(module)
  # Else all scores are 0 or 1, however they come about.
  head = variables["params"]["head"]["fc"]
  head["kernel"] *= 0.01
  if trunk:
    fields = {**record.model, "num_classes": None}
    record = dataclasses.replace(record, model=fields, labels=())
    del variables["params"]["head"]
  path = small.folder() / "checkpoint"
  model.save(path, variables, record)
  return path


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
  """Runs of the same step share one program, and those of a network one load.

  Both take seconds.
  """

  def jit(module: Any, record: Any, wanted: Any, mesh: Any) -> Any:
    held = dataclasses.replace(wanted, dtype="float32")  # the host's matter
    key = repr((module, record.preprocessing, record.scores, held, mesh))
    if key not in COMPILED:
      COMPILED[key] = JIT(module, record, wanted, mesh)
    return COMPILED[key]

  monkeypatch.setattr(lib, "jit_feature_step", jit)
  monkeypatch.setattr(model, "load", LOAD)


LOAD = functools.cache(model.load)
JIT = lib.jit_feature_step
COMPILED: dict[str, Any] = {}


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
  assert found.shape == expected.shape
  assert expected.std() > 0
  bound = BOUND * np.abs(expected).max()
  np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def assert_same(a: Features, b: Features) -> None:
  assert (a.ids, a.sources) == (b.ids, b.sources)
  np.testing.assert_array_equal(a.labels, b.labels)
  assert list(a.arrays) == list(b.arrays)
  for name, x in a.arrays.items():
    assert x.tobytes() == b.arrays[name].tobytes(), name


NAMES = ("prob", "pool5", "res3", "res2/block00")


@functools.cache
def applied() -> Any:
  """The network as a function of clips to NAMES, and its record."""
  module, variables, record = p3d_jax.load(checkpoint())
  apply = jax.jit(functools.partial(module.apply, endpoints=NAMES))
  return lambda clips: apply(variables, clips)[1], record


def plain(
  videos: Any, names: tuple[str, ...], clips: int = 3
) -> dict[str, np.ndarray]:
  """Endpoints of every clip, float64 (videos, clips, ...), one by one."""
  apply, record = applied()
  found: dict[str, list[np.ndarray]] = {name: [] for name in names}
  for k in range(len(videos)):
    frames = p3d_jax.read_clips(
      videos[k]["video"], record.preprocessing, clips=clips
    )
    said = apply(record.preprocess(frames))
    for name in names:
      found[name].append(np.asarray(said[name], np.float64))
  return {name: np.stack(rows) for name, rows in found.items()}


@pytest.fixture(scope="module")
def looped() -> dict[str, np.ndarray]:
  return plain(open_set(small.dataset(), "test"), NAMES)


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".arrow"])
def test_it_is_a_plain_loop_over_the_videos(
  tmp_path: pathlib.Path, suffix: str, looped: dict[str, np.ndarray]
) -> None:
  """Ten videos in batches of four; maps are averaged over time and space."""
  out = tmp_path / f"f{suffix}"
  written = features(
    checkpoint(),
    small.dataset(),
    out,
    split="test",
    endpoints=NAMES,
    views=VIEWS,
    batch=4,
  )
  found = load_features(out)
  videos = open_set(small.dataset(), "test")
  assert found.ids == tuple(videos.ids())
  assert found.sources == tuple(videos[k]["source_id"] for k in range(10))
  assert found.labels.tolist() == [
    videos[k]["labels"].tolist() for k in range(10)
  ]
  assert found.label_names == videos.label_names
  assert found.clip is None
  assert tuple(found.arrays) == NAMES
  for name, each in looped.items():
    maps = each.mean((2, 3, 4)) if each.ndim == 6 else each
    assert_close(found.arrays[name], maps.mean(1))
  about = found.about
  assert about["data"] == str(videos.directory)
  assert about["sha256"] == p3d_jax.load(checkpoint())[2].sha256
  assert (about["split"], about["pool"]) == ("test", "mean")
  assert about["views"] == dataclasses.asdict(VIEWS)
  assert about["checkpoint"] == str(checkpoint())
  assert written.shapes == {n: found.arrays[n].shape[1:] for n in NAMES}
  assert written.problems == ()
  assert [path.name for path in tmp_path.iterdir()] == [out.name]
  text = report(written)
  assert "10 videos of test, 3 clips each, centre crop" in text
  assert all(name in text for name in (*NAMES, str(out)))


def test_whole_maps_of_each_clip(
  tmp_path: pathlib.Path, looped: dict[str, np.ndarray]
) -> None:
  options: dict[str, Any] = {"split": "test", "endpoints": NAMES, "batch": 5}
  options |= {"views": VIEWS, "pool": "none"}
  features(checkpoint(), small.dataset(), tmp_path / "v.npz", **options)
  features(
    checkpoint(), small.dataset(), tmp_path / "c.npz", per_clip=True, **options
  )
  videos, clips = (load_features(tmp_path / n) for n in ("v.npz", "c.npz"))
  assert clips.clip is not None
  assert clips.clip.tolist() == [0, 1, 2] * 10
  assert clips.ids == tuple(np.repeat(videos.ids, 3).tolist())
  assert clips.sources == tuple(np.repeat(videos.sources, 3).tolist())
  np.testing.assert_array_equal(clips.labels, videos.labels.repeat(3, axis=0))
  for name, each in looped.items():
    assert_close(videos.arrays[name], each.mean(1))
    assert_close(clips.arrays[name], each.reshape(-1, *each.shape[2:]))


def test_batch_norm_is_folded(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """What is compiled has none, and neither have the variables it is given."""
  jit = lib.jit_feature_step
  seen: list[Any] = []

  def spy(module: Any, *rest: Any) -> Any:
    compiled = jit(module, *rest)

    def step(variables: Any, clips: Any) -> Any:
      seen.append((module.norm, set(variables)))
      return compiled(variables, clips)

    return step

  monkeypatch.setattr(lib, "jit_feature_step", spy)
  out = tmp_path / "f.npz"
  features(checkpoint(), small.dataset(), out, split="test[:2]", views=VIEWS)
  assert seen == [(Shift, {"params"})]


def test_crops_of_a_clip_are_averaged(tmp_path: pathlib.Path) -> None:
  """Of 36x36 pixels, 32x32 are cut at columns 0, 2 and 4, in rows 2 to 33."""
  features(
    checkpoint(),
    small.dataset(),
    tmp_path / "f.npz",
    split="test[:2]",
    views=Views(clips=2, crops=3),
    per_clip=True,
    batch=2,
  )
  apply, record = applied()
  videos = open_set(small.dataset(), "test[:2]")
  expected = []
  for k in range(2):
    frames = p3d_jax.read_frames(videos[k]["video"], resize=(36, 36))
    for start in (0, 8):  # of 12 frames, clips of 4
      clip = frames[start : start + 4, 2:34]
      crops = np.stack([clip[:, :, x : x + 32] for x in (0, 2, 4)])
      said = apply(record.preprocessing.normalize(crops))
      expected.append(np.asarray(said["pool5"], np.float64).mean(0))
  found = load_features(tmp_path / "f.npz")
  assert_close(found.arrays["pool5"], np.stack(expected))


def test_prob_is_what_the_checkpoint_says(tmp_path: pathlib.Path) -> None:
  found = {}
  for scores in ("softmax", "sigmoid"):
    out = tmp_path / f"{scores}.npz"
    features(
      checkpoint(scores),
      small.dataset(),
      out,
      split="test",
      endpoints=("prob", "logits"),
      per_clip=True,  # of which the one is a function of the other
      views=Views(clips=1),
      batch=5,
    )
    found[scores] = load_features(out).arrays
  logits = found["softmax"]["logits"].astype(np.float64)
  np.testing.assert_array_equal(found["sigmoid"]["logits"], logits)
  assert_close(found["sigmoid"]["prob"], 1 / (1 + np.exp(-logits)))
  power = np.exp(logits)
  assert_close(found["softmax"]["prob"], power / power.sum(1, keepdims=True))
  assert (np.abs(found["sigmoid"]["prob"].sum(1) - 1) > 0.01).all()


def test_a_trunk_has_features_and_no_classes(tmp_path: pathlib.Path) -> None:
  trunk = checkpoint(trunk=True)
  options: dict[str, Any] = {"split": "test", "views": Views(clips=1)}
  out = tmp_path / "trunk.npz"
  for name in ("prob", "logits"):
    with pytest.raises(ValueError, match=f"^endpoints has '{name}'"):
      features(trunk, small.dataset(), out, endpoints=(name,), **options)
  features(trunk, small.dataset(), out, **options)
  features(checkpoint(), small.dataset(), tmp_path / "whole.npz", **options)
  found = [load_features(tmp_path / f"{n}.npz") for n in ("trunk", "whole")]
  assert_close(*(each.arrays["pool5"] for each in found))


def test_all_splits_of_a_set(tmp_path: pathlib.Path) -> None:
  views = Views(clips=1)
  features(checkpoint(), small.dataset(), tmp_path / "f.npz", views=views)
  ids = load_features(tmp_path / "f.npz").ids
  both = [open_set(small.dataset(), name).ids() for name in ("train", "test")]
  assert sorted(ids) == sorted(both[0] + both[1])


@functools.cache
def many() -> pathlib.Path:
  """Twelve short films, in two folders, with names that count."""
  path = small.folder() / "many"
  for k in range(12):
    rng = np.random.default_rng(k)
    frames = rng.integers(0, 256, (6, 40, 48, 3)).astype(np.uint8)
    folder = path / ("first" if k < 3 else "second")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"film {k}.mp4").write_bytes(encode(list(frames), fps=25))
  (path / "notes.txt").write_text("no video")
  return path


def film(k: int) -> pathlib.Path:
  return many() / ("first" if k < 3 else "second") / f"film {k}.mp4"


def of_films(
  out: pathlib.Path, films: list[int], batch: int, **options: Any
) -> Features:
  """Features of some of the twelve films, in that order."""
  given: dict[str, Any] = {"views": Views(clips=2), "batch": batch}
  given |= {"endpoints": ("pool5", "res3")}
  features(checkpoint(), [film(k) for k in films], out, **given | options)
  return load_features(out)


def test_a_folder_of_videos(tmp_path: pathlib.Path) -> None:
  """However deep, without labels, and beside files that are none."""
  out = tmp_path / "f.npz"
  features(checkpoint(), many(), out, views=VIEWS, batch=4, endpoints=NAMES)
  found = load_features(out)
  assert sorted(found.ids) == sorted(
    f"{'first' if k < 3 else 'second'}/film {k}.mp4" for k in range(12)
  )
  assert found.labels.tolist() == [[-1]] * 12
  assert (found.label_names, found.about["data"]) == ((), "")
  assert found.sources == ("",) * 12
  expected = plain(FileSet([many()]), ("pool5",))["pool5"]
  assert_close(found.arrays["pool5"], expected.mean(1))


def test_a_class_may_be_named_as_a_mark_of_sets(tmp_path: pathlib.Path) -> None:
  """Scenes have a class "building", which is what a set being built has."""
  (tmp_path / "building").mkdir()
  (tmp_path / "building" / "a.mp4").touch()
  assert open_source(tmp_path).ids() == ["a.mp4"]
  (tmp_path / "building" / "lock").touch()
  with pytest.raises(ValueError, match="the set is not finished"):
    open_source(tmp_path)


def test_neighbours_do_not_matter(tmp_path: pathlib.Path) -> None:
  """The same numbers, to the bit, beside whatever and wherever in a batch."""
  runs = {
    "a": ([0, 1, 2, 3], 4),
    "b": ([0, 7, 8, 9], 4),
    "c": ([9, 8, 0, 7], 4),
    "d": ([4, 5, 6, 7, 0], 4),  # alone with three rows of padding
  }
  rows = {}
  for name, (films, batch) in runs.items():
    found = of_films(tmp_path / f"{name}.npz", films, batch)
    at = [k for k, i in enumerate(found.ids) if i.endswith("film 0.mp4")]
    rows[name] = {n: x[at[0]] for n, x in found.arrays.items()}
    assert len(at) == 1
    assert len(found.ids) == len(films)
  for name in "bcd":
    for endpoint, x in rows["a"].items():
      assert x.tobytes() == rows[name][endpoint].tobytes(), (name, endpoint)


def test_the_batch_hardly_matters(tmp_path: pathlib.Path) -> None:
  """Of another batch, a program is compiled that may add in another order."""
  films = list(range(7))
  two, four = (of_films(tmp_path / f"{b}.npz", films, b) for b in (2, 4))
  assert two.ids == four.ids
  for name, x in two.arrays.items():
    assert_close(x, four.arrays[name])


EIGHT = """
import sys
import jax
from p3d_jax.data.clips import Views
from p3d_jax.evaluate.features import features
assert jax.device_count() == 8
features(
  sys.argv[1], sys.argv[2], sys.argv[3], split="test", batch=8,
  views=Views(clips=3), endpoints=("prob", "pool5", "res3", "res2/block00"),
)
"""


def test_eight_devices_are_as_one(
  tmp_path: pathlib.Path, looped: dict[str, np.ndarray]
) -> None:
  """Ten videos: the second batch has one or no video on each device."""
  out = tmp_path / "eight.npz"
  subprocess.run(
    [sys.executable, "-c", EIGHT, checkpoint(), small.dataset(), out],
    check=True,
    env=small.environment(devices=8),
  )
  found = load_features(out)
  one = tmp_path / "one.npz"
  features(
    checkpoint(),
    small.dataset(),
    one,
    split="test",
    batch=4,
    views=VIEWS,
    endpoints=NAMES,
  )
  expected = load_features(one)
  assert (found.ids, found.sources) == (expected.ids, expected.sources)
  np.testing.assert_array_equal(found.labels, expected.labels)
  for name in NAMES:
    assert_close(found.arrays[name], expected.arrays[name])
    each = looped[name]
    maps = each.mean((2, 3, 4)) if each.ndim == 6 else each
    assert_close(found.arrays[name], maps.mean(1))


def stopping_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
  """Makes the next runs fail there; returns where each run begins."""
  starts = []
  whole = lib.each_video

  def each_video(*args: Any, start: int = 0, **options: Any) -> Iterator[Any]:
    starts.append(start)
    for k, rows in enumerate(whole(*args, start=start, **options)):
      if k == batches:
        raise KeyboardInterrupt
      yield rows

  monkeypatch.setattr(lib, "each_video", each_video)
  return starts


@pytest.mark.parametrize("per_clip", [False, True], ids=["videos", "clips"])
def test_a_broken_run_goes_on(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, per_clip: bool
) -> None:
  """Parts of four of ten videos: a batch of two is done once more."""
  films = list(range(10))
  options: dict[str, Any] = {"per_clip": per_clip, "save_every": 4}
  whole = of_films(tmp_path / "whole.npz", films, 2, **options)
  out = tmp_path / "broken.npz"
  with monkeypatch.context() as patch:
    stopping_after(3, patch)
    with pytest.raises(KeyboardInterrupt):
      of_films(out, films, 2, **options)
  assert not out.exists()
  parts = tmp_path / "broken.npz.parts"
  assert {p.name for p in parts.iterdir()} == {"work.json", "000000000000.npz"}
  # What a kill amid the writing of a part leaves.
  (parts / ".000000000004.npz.part").write_bytes(b"half")
  with monkeypatch.context() as patch:
    starts = stopping_after(99, patch)
    found = of_films(out, films, 2, **options)
  assert starts == [4]
  assert_same(found, whole)
  assert found.about == whole.about
  assert not parts.exists()


def test_a_run_that_broke_at_its_end(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """All parts are there, and the file is not: nothing is computed again."""
  films, out = [0, 1, 2], tmp_path / "f.npz"
  whole = of_films(tmp_path / "whole.npz", films, 2)

  def full(*args: Any) -> None:
    raise OSError("no space left")

  with monkeypatch.context() as patch:
    patch.setattr(feature_parts.Parts, "finish", full)
    with pytest.raises(OSError, match="no space left"):
      of_films(out, films, 2)
  with monkeypatch.context() as patch:
    starts = stopping_after(0, patch)  # not one batch
    assert_same(of_films(out, films, 2), whole)
  assert starts == [3]
  assert not (tmp_path / "f.npz.parts").exists()


KILLED = """
import os, sys
from p3d_jax.data.clips import Views
from p3d_jax.evaluate import feature_parts
from p3d_jax.evaluate.features import features
save = feature_parts.save_features
def killed(path, part):
  save(path, part)
  if path.name.startswith("000000000004"):
    os.kill(os.getpid(), 9)
feature_parts.save_features = killed
features(
  sys.argv[1], sys.argv[3:], sys.argv[2], batch=2, save_every=4,
  views=Views(clips=2), endpoints=("pool5", "res3"),
)
"""


def test_a_killed_run_goes_on(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  films, out = list(range(10)), tmp_path / "killed.npz"
  words = [checkpoint(), out, *map(film, films)]
  run = subprocess.run(
    [sys.executable, "-c", KILLED, *map(str, words)], env=small.environment()
  )
  assert run.returncode == -9
  starts = stopping_after(99, monkeypatch)
  found = of_films(out, films, 2, save_every=4)
  assert starts == [8]
  whole = of_films(tmp_path / "whole.npz", films, 2)
  # The processes compile at other levels (tests/conftest.py).
  assert found.ids == whole.ids
  for name, x in whole.arrays.items():
    assert_close(found.arrays[name], x)


def test_a_file_that_is_there(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  out = tmp_path / "f.npz"
  found = of_films(out, [0, 1], 2)
  before = out.read_bytes()
  starts = stopping_after(99, monkeypatch)
  again = features(
    checkpoint(),
    [film(0), film(1)],
    out,
    batch=1,  # does not matter
    views=Views(clips=2),
    endpoints=("pool5", "res3"),
  )
  assert again.already
  assert "nothing to do" in report(again)
  assert starts == []
  others: list[tuple[list[int], dict[str, Any], str]] = [
    ([0, 2], {}, "its files is"),
    ([0, 1, 2], {}, "its videos is 2, not 3"),
    ([0, 1], {"views": Views(clips=3)}, "its views.clips is 2, not 3"),
    ([0, 1], {"pool": "none"}, 'its pool is "mean", not "none"'),
  ]
  for films, options, said in others:
    with pytest.raises(
      ValueError, match=f"there are other features .{said}.*give --overwrite$"
    ):
      of_films(out, films, 2, **options)
  assert out.read_bytes() == before
  new = of_films(out, [0, 1, 2], 2, overwrite=True)
  assert new.ids == (*found.ids, "film 2.mp4")
  out.write_bytes(b"my thesis")
  for overwrite in (False, True):
    with pytest.raises(ValueError, match="is not replaced.*no feature file"):
      of_films(out, [0, 1, 2], 2, overwrite=overwrite)
  assert out.read_bytes() == b"my thesis"
  assert [p.name for p in tmp_path.iterdir()] == ["f.npz"]


def test_the_same_weights_may_be_another_network(
  tmp_path: pathlib.Path,
) -> None:
  """What pixels become, and scores, is no weight; features are of both."""
  out = tmp_path / "f.npz"
  of_films(out, [0], 1)
  other = tmp_path / "other"
  shutil.copytree(checkpoint(), other)
  file = next(other.rglob("model.json"))
  said = json.loads(file.read_text())
  said["preprocessing"]["scale"] *= 2
  file.write_text(json.dumps(said))
  for path, difference in (
    (other, "its preprocessing.scale is"),
    (checkpoint("sigmoid"), 'its scores is "softmax", not "sigmoid"'),
  ):
    with pytest.raises(ValueError, match=difference):
      features(
        path,
        [film(0)],
        out,
        batch=1,
        views=Views(clips=2),
        endpoints=("pool5", "res3"),
      )


def test_a_video_of_the_same_name(tmp_path: pathlib.Path) -> None:
  """A file that was replaced is not taken for the old one."""
  source = tmp_path / "videos"
  source.mkdir()
  video = source / "a.mp4"
  video.write_bytes(film(0).read_bytes())
  out = tmp_path / "f.npz"
  features(checkpoint(), source, out, views=Views(clips=1))
  video.write_bytes(film(1).read_bytes())
  with pytest.raises(ValueError, match="its files is"):
    features(checkpoint(), source, out, views=Views(clips=1))


def test_parts_of_other_work_are_not_mixed(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  out, parts = tmp_path / "f.npz", tmp_path / "f.npz.parts"
  with monkeypatch.context() as patch:
    stopping_after(1, patch)
    with pytest.raises(KeyboardInterrupt):
      of_films(out, [0, 1, 2, 3], 2, save_every=1)
  there = {p.name: p.read_bytes() for p in parts.iterdir()}
  with pytest.raises(ValueError, match="holds parts of other features") as said:
    of_films(out, [0, 1, 2, 3], 2, dtype="float16")
  assert "\n" not in str(said.value)
  assert there == {p.name: p.read_bytes() for p in parts.iterdir()}
  found = of_films(out, [0, 1, 2, 3], 2, dtype="float16", overwrite=True)
  assert found.arrays["pool5"].dtype == np.float16
  assert not parts.exists()
  # A folder that is not ours is never touched.
  out, parts = tmp_path / "g.npz", tmp_path / "g.npz.parts"
  parts.mkdir()
  (parts / "thesis.txt").write_text("mine")
  for overwrite in (False, True):
    with pytest.raises(ValueError, match="something else is"):
      of_films(out, [0], 1, overwrite=overwrite)
  assert (parts / "thesis.txt").read_text() == "mine"


def test_a_part_is_missing(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  out, parts = tmp_path / "f.npz", tmp_path / "f.npz.parts"
  with monkeypatch.context() as patch:
    stopping_after(2, patch)
    with pytest.raises(KeyboardInterrupt):
      of_films(out, list(range(6)), 2, save_every=1)
  (parts / "000000000000.npz").unlink()
  with pytest.raises(ValueError, match="lacks the part before 000000000002"):
    of_films(out, list(range(6)), 2)


def test_videos_that_cannot_be_read(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  source = tmp_path / "videos"
  source.mkdir()
  for k in range(3):
    (source / f"{k}.mp4").write_bytes(film(k).read_bytes())
  (source / "1 broken.mp4").write_bytes(b"no video")
  out = tmp_path / "f.npz"
  words = [checkpoint(), source, "--out", out, "--clips", 2, "--batch", 2]
  words += ["--timeout", 0, "--endpoint", "pool5", "res3"]
  for said in ("written to", "nothing to do"):
    assert command(*words) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 videos of files, 2 clips each")
    assert lines[3] == "1 could not be read and are left out:"
    assert "'1 broken.mp4'" in lines[4]
    assert said in lines[5]
  found = load_features(out)
  assert found.ids == ("0.mp4", "1.mp4", "2.mp4")
  expected = plain(FileSet([film(k) for k in range(3)]), ("pool5",), clips=2)
  assert_close(found.arrays["pool5"], expected["pool5"].mean(1))
  bad = source / "1 broken.mp4"
  words[1], words[3] = bad, tmp_path / "g.npz"
  with pytest.raises(ValueError, match=r"^no video could be read; .*1 broken"):
    command(*words)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["f.npz", "videos"]


def test_a_link_that_leads_nowhere(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """It is a video that cannot be read; once it leads to one, other work."""
  source, out = tmp_path / "videos", tmp_path / "f.npz"
  source.mkdir()
  (source / "0.mp4").write_bytes(film(0).read_bytes())
  (source / "lost.mp4").symlink_to(tmp_path / "film.mp4")
  words = [checkpoint(), source, "--out", out, "--clips", 1, "--timeout", 0]
  for _ in range(2):
    assert command(*words) == 1
    assert "'lost.mp4'" in capsys.readouterr().out
  assert load_features(out).ids == ("0.mp4",)
  (tmp_path / "film.mp4").write_bytes(film(1).read_bytes())
  with pytest.raises(ValueError, match="its files is"):
    command(*words)
  assert command(*words, "--overwrite") == 0
  assert load_features(out).ids == ("0.mp4", "lost.mp4")


def command(*words: object) -> int:
  """Runs `p3d features` in this process."""
  parser = argparse.ArgumentParser()
  FEATURES.arguments(parser)
  return FEATURES.run(parser.parse_args([str(word) for word in words]))


def test_the_command_line(tmp_path: pathlib.Path) -> None:
  """What it asks for is what the function is asked for."""
  words = "--split test[:3] --endpoint res3 prob --pool none --per-clip"
  words += " --clips 2 --sampling random --crops 3 --seed 5 --batch 2"
  words += " --dtype float16 --timeout 0"
  a, b = tmp_path / "a.npz", tmp_path / "b.npz"
  assert command(checkpoint(), small.dataset(), "--out", a, *words.split()) == 0
  features(
    checkpoint(),
    small.dataset(),
    b,
    split="test[:3]",
    endpoints=("res3", "prob"),
    pool="none",
    per_clip=True,
    views=Views(clips=2, sampling="random", crops=3, seed=5),
    batch=2,
    dtype="float16",
  )
  assert_same(load_features(a), load_features(b))
  assert load_features(a).about == load_features(b).about


def test_half_precision_is_rounded_once(tmp_path: pathlib.Path) -> None:
  wide = of_films(tmp_path / "32.npz", [0, 1], 2)
  half = of_films(tmp_path / "16.npz", [0, 1], 2, dtype="float16")
  for name, x in wide.arrays.items():
    assert half.arrays[name].dtype == np.float16
    np.testing.assert_array_equal(half.arrays[name], x.astype(np.float16))


def test_numbers_that_are_none() -> None:
  big = np.array([[1.0, -7e4]], np.float32)
  assert lib.narrow("res3", big, "float32").tolist() == big.tolist()
  with pytest.raises(ArithmeticError, match=r"'float16': res3 reaches 70000"):
    lib.narrow("res3", big, "float16")
  with pytest.raises(ArithmeticError, match="res3 is not finite"):
    lib.narrow("res3", np.array([np.nan], np.float32), "float32")


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"out": "f.csv"}, r"ends in \.npz, \.parquet, \.arrow$"),
    ({"out": "no/f.npz"}, "there is no such folder"),
    ({"endpoints": ("res9",)}, "^endpoints has 'res9'"),
    ({"endpoints": "pool5"}, "^endpoints='pool5': must be a tuple"),
    ({"endpoints": ()}, "must be one or more, each once"),
    ({"endpoints": ("prob", "prob")}, "must be one or more, each once"),
    ({"pool": "max"}, "^pool='max': must be one of mean, none"),
    ({"dtype": "float64"}, "^dtype='float64': must be one of float32, float16"),
    ({"batch": 0}, "^batch is 0"),
    ({"save_every": 0}, "^save_every=0: must be >= 1"),
    ({"split": "valid"}, "^split='valid': .* has test, train"),
    ({"split": "test", "source": "videos"}, "only a built set has splits"),
    ({"source": "none"}, "there is no such file"),
    ({"source": "."}, "no videos are there"),
    ({"source": ("set", "videos")}, "is a built set: name it alone"),
    ({"path": "."}, "no checkpoint and no workdir"),
    ({"step": 7}, "is one checkpoint: name the workdir"),
  ],
  ids=[
    *("suffix", "folder", "endpoint", "one word", "no endpoint", "twice"),
    *("pool", "dtype", "batch", "save_every", "split", "split of files"),
    *("no file", "no videos", "a set beside", "no checkpoint", "step"),
  ],
)
def test_mistakes_are_told_before_work(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  fields: dict[str, Any],
  message: str,
) -> None:
  monkeypatch.setattr(model, "load", None)  # would be the first work
  places: dict[str, Any] = {"set": small.dataset(), "videos": many()}
  fields = {"path": None, "source": "set", "out": "f.npz"} | fields
  source = fields.pop("source")
  given: Any = [
    places.get(name, tmp_path / name)
    for name in ([source] if isinstance(source, str) else source)
  ]
  path = checkpoint() if fields["path"] is None else tmp_path / fields["path"]
  out = tmp_path / fields["out"]
  del fields["path"], fields["out"]
  with pytest.raises(ValueError, match=message) as error:
    features(path, given, out, **fields)
  assert "\n" not in str(error.value)
  assert list(tmp_path.iterdir()) == []


@functools.cache
def stored() -> epath.Path:
  """A set with lists, of four films: 0, 2 and 1 train, 3 and 1 test."""

  def make(item: int) -> dict[str, Any]:
    return {
      "video": film(item).read_bytes(),
      "labels": [item % 2],
      "segments": np.zeros((0, 2), np.float32),
      "segment_labels": [],
      "id": f"c/{item}",
      "source_id": f"film {item // 2}",
      "num_frames": 6,
    }

  folder = epath.Path(small.folder()) / "films" / "0123456789ab" / store.VERSION
  store.write_set(
    folder,
    store.Description(
      name="films",
      text="Films.",
      label_names=("still", "moving"),
      max_labels=1,
      metadata={"flip_labels": [0, 1], "side": None},
    ),
    [f"c/{k}.mp4" for k in range(4)],
    make,
    lists={"train1": ["c/0", "c/2", "c/1"], "test1": ["c/3", "c/1"]},
    documents={},
    report=lambda written: {"records": len(written.ids)},
    workers=1,
    progress=False,
  )
  return folder


def test_sets_with_lists(tmp_path: pathlib.Path) -> None:
  views = Views(clips=1)
  for split, films in ((None, (0, 1, 2, 3)), ("train1", (0, 2, 1))):
    out = tmp_path / f"{split}.npz"
    features(checkpoint(), stored(), out, split=split, views=views)
    found = load_features(out)
    assert found.ids == tuple(f"c/{k}" for k in films)
    assert found.labels.tolist() == [[k % 2] for k in films]
    assert found.sources == tuple(f"film {k // 2}" for k in films)
  out = tmp_path / "f.npz"
  with pytest.raises(
    ValueError, match=r"'train1\+test1': 'c/1' is in it twice"
  ):
    features(checkpoint(), stored(), out, split="train1+test1", views=views)
  with pytest.raises(ValueError, match="has all, test1, train1"):
    features(checkpoint(), stored(), out, split="train", views=views)


def test_flow_networks_read_flow_sets(tmp_path: pathlib.Path) -> None:
  flows = make_flow_set(
    stored(),
    tmp_path / "flow",
    bound=8,
    method="dis",
    workers=1,
    progress=False,
  )
  module = small.network()
  clips = jax.ShapeDtypeStruct((1, 1, 32, 32, 2), np.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), clips)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: rng.uniform(0.1, 0.5, x.shape).astype(x.dtype), shapes
  )
  record = small.record(module)
  flow = dataclasses.replace(
    record.preprocessing, channels="flow", mean=(128.0,) * 2, std=(64.0,) * 2
  )
  network = tmp_path / "network"
  model.save(
    network, variables, dataclasses.replace(record, preprocessing=flow)
  )
  out = tmp_path / "f.npz"
  views = Views(clips=2)
  for source, holds in ((stored(), "RGB videos"), (many(), "RGB videos")):
    with pytest.raises(ValueError, match=f"'flow': .* holds {holds}"):
      features(network, source, out, views=views)
  with pytest.raises(ValueError, match="'BGR': .* holds optical flow"):
    features(checkpoint(), flows, out, views=views)
  features(network, flows, out, views=views)
  found = load_features(out)
  assert found.ids == tuple(f"c/{k}" for k in range(4))
  assert len(np.unique(found.arrays["pool5"], axis=0)) == 4


def test_parts_are_put_together_once(tmp_path: pathlib.Path) -> None:
  """48 MB in 12 parts: the whole stands in memory once, beside one part."""
  videos = FileSet([film(k) for k in range(12)])
  work = {"per_clip": False, "views": {"clips": 1}}
  about = {**work, "videos": 12}
  out = epath.Path(tmp_path / "f.npz")
  parts = feature_parts.Parts(out, work, videos, save_every=1)
  assert parts.begin(False) == 0
  rng = np.random.default_rng(0)
  expected = rng.standard_normal((12, 1_000_000)).astype(np.float32)
  for k in range(12):
    rows = Rows(
      index=np.array([k]),
      labels=np.array([[-1]], np.int32),
      times=np.zeros((1, 1)),
      sources=("",),
      problems=("",),
      outputs=None,
    )
    parts.add(rows, {"res5": expected[k : k + 1]})
  tracemalloc.start()
  try:
    assert parts.finish(about) == 12
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  # The whole, one part as it is read, and numpy's block of 16 MiB.
  assert peak < expected.nbytes * 1.5
  np.testing.assert_array_equal(load_features(out).arrays["res5"], expected)


def test_an_error_of_the_first_host_is_told_to_the_others(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """They would wait for its number."""
  told: list[int] = []

  def broadcast(number: Any) -> Any:
    told.append(int(number))
    return told[0]  # of the first host

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", broadcast)
  monkeypatch.setattr(together, "wait", lambda: None)

  def fails() -> int:
    raise OSError("no space")

  with pytest.raises(OSError, match="^no space$"):
    _agreed(fails)
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  with pytest.raises(ValueError, match="^the first host could not go on"):
    _agreed(fails)
  assert len(told) == 2
  told[0] = 7
  assert _agreed(fails) == 7
