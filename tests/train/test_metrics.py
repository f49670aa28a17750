"""Metrics on scores that can be read with the eye."""

import numpy as np

from p3d_jax.train import metrics

LABELS = np.array([[0, -1], [1, -1], [1, 2], [2, -1]])
CLIPS = np.array(
  [
    [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]],  # mean 0.4 0.5 0.1: clip yes, video no
    [[0.1, 0.8, 0.1], [0.5, 0.4, 0.1]],  # mean 0.3 0.6 0.1: video yes
    [[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]],  # mean 0.45 0.1 0.45: tie, so 0
    [[0.3, 0.1, 0.6], [0.2, 0.1, 0.7]],  # both yes
  ]
)


def scores() -> metrics.Scores:
  return metrics.Scores(np.arange(4), CLIPS, LABELS, np.ones(4, bool))


def test_summary() -> None:
  assert metrics.summary(scores()) == {
    "clip_hit@1": 100 * 5 / 8,
    "video_hit@1": 50.0,
    "video_hit@5": 100.0,
    "videos": 4,
    "clips_per_video": 2,
    "unreadable": 0,
  }


def test_what_cannot_be_read_counts_as_missed() -> None:
  readable = np.array([True, True, True, False])
  some = metrics.Scores(np.arange(4), CLIPS, LABELS, readable, ("why",))
  assert metrics.summary(some) == {
    "clip_hit@1": 100 * 3 / 8,  # both clips of the last were right
    "video_hit@1": 25.0,
    "video_hit@5": 75.0,
    "videos": 4,
    "clips_per_video": 2,
    "unreadable": 1,
  }
  table = metrics.per_class(some, ("a", "b", "c"))
  assert table["c"] == {"video_hit@1": 0.0, "videos": 2}


def test_of_equal_scores_the_lower_index_wins() -> None:
  same = np.full((3, 4), 0.25)
  labels = np.array([[0], [1], [3]])
  assert metrics.hits(same, labels, 1).tolist() == [True, False, False]
  assert metrics.hits(same, labels, 2).tolist() == [True, True, False]
  assert metrics.hits(same, labels, 9).tolist() == [True, True, True]


def test_padding_is_no_label() -> None:
  none = np.array([[-1, -1]])
  assert not metrics.hits(np.ones((1, 3)), none, 3).any()


def test_hit_at_k() -> None:
  falling = np.array([[6, 5, 4, 3, 2, 1]])
  for label in range(6):
    for k in (1, 5):
      got = metrics.hits(falling, np.array([[label]]), k)[0]
      assert got == (label < k)


def test_per_class() -> None:
  table = metrics.per_class(scores(), ("a", "b", "c", "d"))
  assert table == {
    "a": {"video_hit@1": 0.0, "videos": 1},
    "b": {"video_hit@1": 50.0, "videos": 2},
    "c": {"video_hit@1": 50.0, "videos": 2},  # both labels of video 2 count
    "d": {"video_hit@1": None, "videos": 0},
  }
