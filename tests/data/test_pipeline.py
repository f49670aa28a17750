import contextlib
import copy
import dataclasses
import hashlib
import multiprocessing
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest
from video_files import encode_video, number_of, numbered

from p3d_jax.data.clips import Augment, Views
from p3d_jax.data.decode import VideoError
from p3d_jax.data.pipeline import (
  Reading,
  eval_batches,
  train_batches,
  train_example,
)
from p3d_jax.data.sets import VideoSet
from p3d_jax.preprocess import Preprocessing

RECORD = Preprocessing(frames=4, resize=32, crop=24)
# Everything that draws.
AUGMENT = Augment(scales=(1.0, 0.8), flip=True, jitter=(0.3, 0.3, 0.3))
BATCH = 8
# Six steps of 8 are two epochs of 24.
STEPS = 6
Batches = list[dict[str, np.ndarray]]


def train(
  videos: Any, **more: Any
) -> Generator[dict[str, np.ndarray], None, None]:
  arguments = {"batch": BATCH, "seed": 5, "start_step": 0, "stop_step": STEPS}
  how = {k: more.pop(k) for k in ("workers", "threads", "timeout") if k in more}
  arguments["reading"] = Reading(**how)
  return train_batches(videos, RECORD, AUGMENT, **{**arguments, **more})


def same(one: Batches, two: Batches) -> None:
  assert len(one) == len(two)
  for a, b in zip(one, two, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      assert a[key].dtype == b[key].dtype
      assert np.array_equal(a[key], b[key]), key


def together(hosts: list[Batches]) -> Batches:
  """The global batches: rows of host 0, then of host 1, ..."""
  return [
    {key: np.concatenate([rows[key] for rows in step]) for key in step[0]}
    for step in zip(*hosts, strict=True)
  ]


@pytest.fixture(scope="module")
def reference(train_set: VideoSet) -> Batches:
  """One host, no worker, one thread."""
  return list(train(train_set, threads=1))


def test_a_batch(reference: Batches) -> None:
  assert len(reference) == STEPS
  for step, batch in enumerate(reference):
    assert batch.keys() == {
      "clips", "labels", "index", "replaced", "problem",
    }  # fmt: skip
    assert batch["clips"].shape == (BATCH, 4, 24, 24, 3)
    assert batch["clips"].dtype == np.uint8
    assert batch["labels"].shape == (BATCH, 1)
    assert batch["labels"].dtype == np.int32
    assert batch["index"].dtype == np.int64
    assert batch["index"].tolist() == list(range(step * 8, step * 8 + 8))


@pytest.mark.parametrize(
  ("hosts", "reading"),
  [
    (1, {}),
    (1, {"workers": 2}),
    (1, {"timeout": 60}),
    (1, {"timeout": 60, "workers": 1}),
    (2, {}),
    (2, {"timeout": 60, "threads": 1}),
    (4, {"workers": 2}),
  ],
  ids=str,
)
def test_hosts_and_workers_change_nothing(
  hosts: int, reading: dict[str, int], train_set: VideoSet, reference: Batches
) -> None:
  """Clips (crops, mirrors, colours and all), labels and indices."""
  parts = [
    list(train(train_set, host=host, hosts=hosts, **reading))
    for host in range(hosts)
  ]
  assert parts[0][0]["clips"].shape[0] == BATCH // hosts
  same(together(parts), reference)


@pytest.mark.parametrize(("start", "workers"), [(1, 0), (4, 0), (5, 2)])
def test_the_step_is_the_whole_state(
  start: int, workers: int, train_set: VideoSet, reference: Batches
) -> None:
  same(
    list(train(train_set, start_step=start, workers=workers)),
    reference[start:],
  )


def test_another_seed_is_another_stream(
  train_set: VideoSet, reference: Batches
) -> None:
  other = next(train(train_set, seed=6))
  assert not np.array_equal(other["clips"], reference[0]["clips"])
  assert not np.array_equal(other["labels"], reference[0]["labels"])


class Numbered:
  """Stands for a set: video k has 12 + k frames that show 40 k and on."""

  flip_labels: tuple[int, ...] | None = None
  max_labels = 3
  label_names = tuple("abcdefghijk")
  channels = "RGB"
  directory = "numbered"

  def __init__(self, count: int = 10):
    self.videos = [
      encode_video(numbered(40 * count)[40 * k : 40 * k + 12 + k])
      for k in range(count)
    ]

  def __len__(self) -> int:
    return len(self.videos)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {
      "video": self.videos[index],
      "labels": np.array([index, index + 1][: 1 + index % 2]),
      "id": f"film {index}",
      "source_id": f"source {index}",
    }


@pytest.fixture(scope="module")
def numbers() -> Any:
  return Numbered()


WHOLE = Preprocessing(frames=4, stride=3, resize=None, crop=(64, 96))


def read(numbers: Any, **more: Any) -> tuple[np.ndarray, np.ndarray, Any]:
  """Reads four epochs; returns which videos, which frames, and labels."""
  batches = train_batches(
    numbers, WHOLE, Augment(), **{"batch": 5, "seed": 1, "start_step": 0,
    "stop_step": 8, **more},
  )  # fmt: skip
  clips, labels = [], []
  for batch in batches:
    clips += [[number_of(frame) for frame in clip] for clip in batch["clips"]]
    labels += batch["labels"].tolist()
  frames = np.array(clips)
  return frames[:, 0] // 40, frames % 40, labels


def test_every_epoch_is_a_fresh_order_of_all_videos(numbers: Any) -> None:
  videos, frames, labels = read(numbers)
  epochs = videos.reshape(4, 10)
  assert (np.sort(epochs, axis=1) == np.arange(10)).all()
  assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4
  # Clips have the stride, stay inside, and start anew in each epoch.
  assert (np.diff(frames, axis=1) == 3).all()
  starts = np.zeros((4, 10), int)
  for epoch in range(4):
    starts[epoch, epochs[epoch]] = frames[10 * epoch : 10 * epoch + 10, 0]
  assert (starts <= 12 + np.arange(10) - 10).all()
  assert (starts.std(axis=0) > 0).sum() >= 7
  # One or two labels, then -1.
  for video, row in zip(videos, labels, strict=True):
    assert row == ([video, video + 1, -1] if video % 2 else [video, -1, -1])


def test_a_batch_across_the_end_of_an_epoch(numbers: Any) -> None:
  # 7 does not divide 10: the stream of examples is the same one.
  videos, frames, _ = read(numbers, batch=7, stop_step=4)
  expected, expected_frames, _ = read(numbers)
  assert videos.tolist() == expected[:28].tolist()
  assert np.array_equal(frames, expected_frames[:28])


def test_labels_follow_the_mirror_where_the_set_says_how(
  train_set: VideoSet,
) -> None:
  flipping = Augment(random_crop=False, flip=True)
  undeclared = copy.copy(train_set)
  undeclared.flip_labels = None
  arguments: dict[str, Any] = {
    "batch": 24, "seed": 5, "start_step": 0, "stop_step": 1,
  }  # fmt: skip
  plain, moved, kept = (
    next(train_batches(videos, RECORD, augment, **arguments))
    for videos, augment in (
      (train_set, dataclasses.replace(flipping, flip=False)),
      (train_set, flipping),
      (undeclared, flipping),
    )
  )
  table = np.array([1, 0, 2, 3, 4, 5, 7, 6])
  mirrored = 0
  for row in range(24):
    before, after = plain["clips"][row], moved["clips"][row]
    flipped = np.array_equal(before[:, :, ::-1], after)
    assert flipped != np.array_equal(before, after)
    label = plain["labels"][row, 0]
    assert moved["labels"][row, 0] == (table[label] if flipped else label)
    assert kept["labels"][row, 0] == label
    mirrored += flipped
  assert 4 < mirrored < 20
  assert np.array_equal(moved["clips"], kept["clips"])


@pytest.mark.parametrize(("hosts", "workers"), [(1, 0), (2, 0), (1, 2)])
def test_evaluation_reads_every_video_once(
  hosts: int, workers: int, held_out_set: VideoSet
) -> None:
  # 16 videos in batches of 6: 18 rows.
  parts = [
    list(
      eval_batches(
        held_out_set, RECORD, views=Views(3), batch=6, host=host, hosts=hosts,
        reading=Reading(workers=workers),
      )
    )
    for host in range(hosts)
  ]  # fmt: skip
  batches = together(parts)
  assert [batch["video"].tolist() for batch in batches] == [
    [0, 1, 2, 3, 4, 5],
    [6, 7, 8, 9, 10, 11],
    [12, 13, 14, 15, -1, -1],
  ]
  for batch in batches:
    assert batch["clips"].shape == (6, 3, 4, 24, 24, 3)
    assert batch["video"].dtype == np.int32
    for row, video in enumerate(batch["video"]):
      if video < 0:
        assert batch["labels"][row].tolist() == [-1]
        assert not batch["clips"][row].any()
      else:
        expected = held_out_set[int(video)]["labels"]
        assert batch["labels"][row].tolist() == expected.tolist()


def test_evaluation_takes_uniform_clips(numbers: Any) -> None:
  batch = next(eval_batches(numbers, WHOLE, views=Views(2), batch=4))
  shown = [
    [[number_of(f) for f in clip] for clip in video] for video in batch["clips"]
  ]
  # A clip spans 10 frames; video k has 12 + k.
  assert shown == [
    [
      list(range(40 * k, 40 * k + 10, 3)),
      list(range(40 * k + k + 2, 40 * k + k + 12, 3)),
    ]
    for k in range(4)
  ]


class Damaged(Numbered):
  """Some of its videos are bytes of which the tests' decoders know."""

  def __init__(self, count: int, damaged: dict[int, bytes]):
    super().__init__(count)
    self.damaged = damaged

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = super().__getitem__(index)
    return {**record, "video": self.damaged.get(index, record["video"])}


# What each kind of damage is said to be, by the decoder of bad_decoders.py.
KINDS = {
  b"damaged": "Invalid data",
  b"hang": "not done after 3 seconds",
  b"crash": "crashed .SIGSEGV",
  b"exit": "crashed .status 7",
}
GUARDED = Reading(
  threads=1, timeout=3.0, decoder="tests.bad_decoders:SometimesNoVideo"
)


@pytest.mark.parametrize("damage", KINDS, ids=lambda kind: kind.decode())
def test_a_video_that_cannot_be_read_is_replaced(damage: bytes) -> None:
  videos: Any = Damaged(8, {2: damage})
  arguments: dict[str, Any] = {
    "batch": 8, "seed": 0, "start_step": 0, "stop_step": 2,
  }  # fmt: skip
  sound = list(
    train_batches(Numbered(8), WHOLE, Augment(), **arguments)  # type: ignore[arg-type]
  )
  batches = list(
    train_batches(videos, WHOLE, Augment(), **arguments, reading=GUARDED)
  )
  for before, batch in zip(sound, batches, strict=True):
    of_two = before["labels"][:, 0] == 2
    assert of_two.sum() == 1
    (row,) = np.flatnonzero(of_two)
    assert batch["replaced"][row] >= 1
    assert batch["problem"][row].startswith("record 'film 2': ")
    assert re.search(KINDS[damage], str(batch["problem"][row]))
    # What takes its place is another video, with its own label.
    shown = number_of(batch["clips"][row][0]) // 40
    assert shown == batch["labels"][row, 0] != 2
    # Nothing else changes.
    for name in ("clips", "labels", "index"):
      assert np.array_equal(batch[name][~of_two], before[name][~of_two])
    assert not batch["replaced"][~of_two].any()
    assert (batch["problem"][~of_two] == "").all()


def test_what_replaces_a_video_is_the_same_in_every_run() -> None:
  videos: Any = Damaged(6, {1: b"damaged", 4: b"damaged"})
  arguments: dict[str, Any] = {"batch": 6, "seed": 3, "stop_step": 6}
  whole = list(
    train_batches(videos, WHOLE, Augment(), start_step=0, **arguments)
  )
  later = list(
    train_batches(
      videos, WHOLE, Augment(), start_step=3, **arguments,
      reading=Reading(threads=2, timeout=60),
    )
  )  # fmt: skip
  same(later, whole[3:])
  assert all((batch["replaced"] > 0).sum() == 2 for batch in whole)
  # Not one and the same video each time, and at times a second attempt.
  stand_ins = {
    int(label)
    for batch in whole
    for label in batch["labels"][batch["replaced"] > 0, 0]
  }
  assert len(stand_ins) >= 3
  assert stand_ins <= {0, 2, 3, 5}
  assert max(batch["replaced"].max() for batch in whole) >= 2


def test_what_replaces_a_video_is_read_from_anywhere(
  numbers: Any,
) -> None:
  """Which video it is tells nothing of the place of the clip in it."""
  drawn: list[tuple[int, float]] = []

  def call(name: str, video: bytes, *args: Any, **kwargs: Any) -> Any:
    del name, kwargs
    if not drawn or drawn[-1][0] >= 0:
      drawn.append((-1, 0.0))  # the first of each example cannot be read
      raise VideoError("damaged")
    draws = args[-1]
    start = float(np.random.default_rng(draws).random())
    drawn[-1] = numbers.videos.index(video), start
    return {"clip": np.zeros(0), "flipped": False, "segment": None}

  for index in range(400):
    train_example(numbers, WHOLE, Augment(), 0, index, call=call)
  which, starts = np.array(drawn).T
  assert len(which) == 400
  assert set(which) == set(range(10))
  # 400 independent pairs are within 0.2 but once in 10,000 times.
  assert abs(np.corrcoef(which, starts)[0, 1]) < 0.2


def test_a_set_without_a_sound_video_ends_in_an_error() -> None:
  videos: Any = Damaged(2, {0: b"damaged", 1: b"damaged"})
  batches = train_batches(
    videos, WHOLE, Augment(), batch=1, seed=0, start_step=0, stop_step=1
  )
  with pytest.raises(VideoError, match="10 videos in turn cannot be read; rec"):
    next(batches)


@pytest.mark.parametrize("damage", KINDS, ids=lambda kind: kind.decode())
def test_evaluation_says_what_cannot_be_read(damage: bytes) -> None:
  videos: Any = Damaged(4, {2: damage})
  (batch,) = eval_batches(
    videos, WHOLE, views=Views(2), batch=4, reading=GUARDED
  )
  (expected,) = eval_batches(
    Numbered(4),  # type: ignore[arg-type]
    WHOLE,
    views=Views(2),
    batch=4,
  )
  assert re.search(f"film 2.*{KINDS[damage]}", str(batch["problem"][2]))
  assert not batch["clips"][2].any()
  assert (
    batch["problem"].tolist()[:2] + batch["problem"].tolist()[3:] == [""] * 3
  )
  for name in ("labels", "video"):
    assert np.array_equal(batch[name], expected[name])
  others = [0, 1, 3]
  assert np.array_equal(batch["clips"][others], expected["clips"][others])


def test_flow_and_rgb_are_told_apart() -> None:
  videos: Any = Numbered(2)
  videos.channels = "flow"
  arguments: dict[str, Any] = {"views": Views(1), "batch": 2}
  with pytest.raises(
    ValueError, match="channels='RGB': numbered holds optical"
  ):
    eval_batches(videos, WHOLE, **arguments)
  flow = dataclasses.replace(
    WHOLE, channels="flow", mean=(128, 128), std=(1, 1)
  )
  videos.channels = "RGB"
  with pytest.raises(ValueError, match="channels='flow': numbered holds RGB"):
    eval_batches(videos, flow, **arguments)


class Segmented(Numbered):
  """Frames 4 to 7 are of class 5, frames 12 on of class 9."""

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {
      **super().__getitem__(index),
      "labels": np.array([5, 9]),
      "segments": np.array([[0.16, 0.32], [0.48, 9.0]], np.float32),
      "segment_labels": np.array([5, 9]),
    }


def test_clips_of_segments_have_the_label_of_theirs() -> None:
  videos: Any = Segmented(10)
  every = dataclasses.replace(WHOLE, stride=1, frames=3)
  seen = set()
  for batch in train_batches(
    videos, every, Augment(), batch=10, seed=0, start_step=0, stop_step=8,
    segments=True,
  ):  # fmt: skip
    for clip, labels in zip(batch["clips"], batch["labels"], strict=True):
      shown = [number_of(frame) % 40 for frame in clip]
      label, *rest = labels.tolist()
      assert rest == [-1, -1]
      if label == 5:  # 25 frames a second
        assert set(shown) <= {4, 5, 6, 7}
        assert len(set(shown)) == 3
      else:
        # Video 0 has 12 frames: its last is on screen from then on.
        assert label == 9
        assert min(shown) >= 11
      seen.add(label)
  assert seen == {5, 9}
  (whole,) = train_batches(
    videos, every, Augment(), batch=4, seed=0, start_step=0, stop_step=1
  )
  assert whole["labels"].tolist() == [[5, 9, -1]] * 4


class Labelled(Numbered):
  flip_labels = tuple(range(11))
  labels = [0]

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {**super().__getitem__(index), "labels": np.array(self.labels)}


@pytest.mark.parametrize("reads", ["train", "eval"])
@pytest.mark.parametrize(
  ("labels", "message"),
  [
    ([0, 11], r"label 11 must be within 0\.\.10, the set has 11 classes"),
    ([-1], r"label -1 must be within 0\.\.10, the set has 11 classes"),
    ([0, 1, 2, 3], "4 labels, the set declares max_labels=3"),
    ([], "it has no label"),
  ],
)
def test_labels_that_the_set_does_not_have(
  labels: list[int], message: str, reads: str
) -> None:
  videos: Any = Labelled(1)
  videos.labels = labels
  flip = Augment(flip=True)
  batches = (
    train_batches(
      videos, WHOLE, flip, batch=1, seed=0, start_step=0, stop_step=1
    )
    if reads == "train"
    else eval_batches(videos, WHOLE, views=Views(1), batch=1)
  )
  with pytest.raises(ValueError, match=f"record 'film 0': {message}"):
    next(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_closing_ends_the_reading(workers: int, train_set: VideoSet) -> None:
  before = set(multiprocessing.active_children())
  batches = train(train_set, workers=workers)
  next(batches)
  batches.close()
  assert list(batches) == []
  for process in set(multiprocessing.active_children()) - before:
    process.join(timeout=60)
    assert not process.is_alive()
  for unread in (train(train_set), train(train_set, start_step=STEPS)):
    unread.close()
    assert list(unread) == []


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"hosts": 3}, "batch=8: must be a multiple of hosts=3"),
    ({"host": 2, "hosts": 2}, "host=2"),
    ({"seed": -1}, "seed=-1"),
    ({"start_step": 9}, "start_step=9, stop_step=6"),
    ({"workers": -1}, "workers=-1"),
    ({"threads": 0}, "threads=0"),
    ({"timeout": -1}, "timeout=-1"),
  ],
)
def test_argument_errors(
  arguments: dict[str, Any], message: str, train_set: VideoSet
) -> None:
  with pytest.raises(ValueError, match=message):
    train(train_set, **arguments)


def test_no_steps_is_no_batch(train_set: VideoSet) -> None:
  assert list(train(train_set, start_step=6)) == []


# In a group of its own. Given "storm", it sends that group SIGTERM all the time
# from before it reads, and ignores its own.
READS = """
import hashlib, os, signal, sys, threading, time
sys.path[:0] = {path!r}

def storm():
  while True:
    os.killpg(0, signal.SIGTERM)
    time.sleep(0.01)

if __name__ == "__main__":
  from test_pipeline import *
  if "storm" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(target=storm, daemon=True).start()
  batches = train_batches(
    Numbered(4), WHOLE, Augment(), batch=2, seed=0, start_step=0,
    stop_step=10_000,
    reading=Reading(workers=int(sys.argv[1]), timeout=60),
  )
  for number in range(int(sys.argv[2])):
    print(hashlib.sha256(next(batches)["clips"]).hexdigest(), flush=True)
"""


def reads(
  folder: pathlib.Path, *words: object
) -> tuple[subprocess.Popen[str], str]:
  """Starts READS; returns it and the mark of its processes."""
  script = folder / "reads.py"
  path = [os.path.dirname(__file__), *sys.path]
  script.write_text(READS.format(path=path))
  process = subprocess.Popen(
    [sys.executable, str(script), *map(str, words)],
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {"P3D_TEST": str(folder)},
    start_new_session=True,
  )
  return process, f"P3D_TEST={folder}"


def of_the_test(mark: str) -> list[int]:
  """Processes that have a mark in their environment."""
  found = []
  for file in pathlib.Path("/proc").glob("[0-9]*/environ"):
    with contextlib.suppress(OSError):
      if mark.encode() in file.read_bytes():
        found.append(int(file.parent.name))
  return found


def wait_until_none(mark: str) -> None:
  end = time.monotonic() + 30
  while left := of_the_test(mark):
    assert time.monotonic() < end, left
    time.sleep(0.1)


@pytest.mark.parametrize(
  ("kill", "number"),
  [(os.kill, signal.SIGKILL), (os.killpg, signal.SIGTERM)],
  ids=["alone", "group"],
)
def test_a_killed_parent_leaves_no_process(
  kill: Callable[[int, int], None], number: int, tmp_path: pathlib.Path
) -> None:
  """Neither the worker that reads nor those that decode for it."""
  process, mark = reads(tmp_path, 1, 10_000)
  assert process.stdout is not None
  assert process.stdout.readline()
  assert len(of_the_test(mark)) >= 3  # itself, the worker, a decoder
  kill(process.pid, number)
  process.communicate()
  assert process.returncode == -number
  wait_until_none(mark)


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_to_the_group_disturbs_no_reading(
  workers: int, tmp_path: pathlib.Path
) -> None:
  """The parent's notice; all that it started goes on, and ends with it."""
  process, mark = reads(tmp_path, workers, 6, "storm")
  said, _ = process.communicate()
  assert process.returncode == 0
  wait_until_none(mark)  # nor does it wait for them: its reading is not closed
  undisturbed = train_batches(
    Numbered(4), WHOLE, Augment(), batch=2, seed=0, start_step=0, stop_step=6
  )
  digests = [hashlib.sha256(b["clips"]).hexdigest() for b in undisturbed]
  assert said.split() == digests
