"""Metrics on scores that can be read with the eye, and against scikit-learn."""

import dataclasses
import math

import numpy as np
import pytest
import sklearn.metrics

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
    "video_avg_hit@1": 50.0,
    "video_avg_hit@5": 100.0,
    # class 0: 0 of 1; 1: video 1 of 1 and 2; 2: video 3 of 2 and 3
    "mean_class_accuracy": pytest.approx(100 * (0 + 1 / 2 + 1 / 2) / 3),
    # class 0: second of four; 1: first, and at the end tied with video 3;
    # 2: first and second
    "mAP": pytest.approx(100 * (1 / 2 + (1 + 2 / 4) / 2 + 1) / 3),
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
    "video_avg_hit@1": 25.0,
    "video_avg_hit@5": 75.0,
    "mean_class_accuracy": pytest.approx(100 * (0 + 1 / 2 + 0) / 3),
    # class 1: video 3, tied with a positive before, is no false alarm now;
    # 2: video 3 was first, is not found, and hides nothing from video 2
    "mAP": pytest.approx(100 * (1 / 2 + (1 + 2 / 3) / 2 + 1 / 2) / 3),
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


def test_several_labels_have_two_hits_at_k() -> None:
  """Of video 2, labels 1 and 2, the two highest are 0 and 2."""
  found = metrics.summary(scores(), ks=(2, 3))
  assert found["video_hit@2"] == 100.0
  assert found["video_avg_hit@2"] == 100 * (1 + 1 + 1 / 2 + 1) / 4
  assert found["video_avg_hit@3"] == 100.0
  assert "video_hit@1" not in found
  one = dataclasses.replace(scores(), labels=LABELS[:, :1])
  assert not [name for name in metrics.summary(one) if "avg" in name]


def test_a_label_that_stands_twice_is_one() -> None:
  twice = np.array([[0, 0, -1], [1, -1, 1], [1, 2, 1], [2, -1, -1]])
  other = dataclasses.replace(scores(), labels=twice)
  assert metrics.summary(other) == metrics.summary(scores())
  assert (metrics.confusion(other) == metrics.confusion(scores())).all()


def test_videos_without_a_label_count_in_nothing() -> None:
  """The one added would be a false alarm for class 0, were it taken so."""
  added = metrics.Scores(
    index=np.arange(5),
    clips=np.concatenate([CLIPS, [[[0.9, 0.1, 0.0]] * 2]]),
    labels=np.concatenate([LABELS, [[-1, -1]]]),
    readable=np.ones(5, bool),
  )
  expected = metrics.summary(scores()) | {"videos": 5, "unlabelled": 1}
  assert metrics.summary(added) == expected
  assert (metrics.confusion(added) == metrics.confusion(scores())).all()
  nothing = dataclasses.replace(added, labels=np.full((5, 2), -1))
  found = metrics.summary(nothing)
  for name in ("clip_hit@1", "video_hit@1", "mean_class_accuracy", "mAP"):
    assert math.isnan(found[name])
  assert (found["videos"], found["unlabelled"]) == (5, 5)
  assert metrics.confusion(nothing).sum() == 0


def test_k_below_one_is_refused() -> None:
  with pytest.raises(ValueError, match=r"^ks=\(1, 0\): each k .* >= 1$"):
    metrics.summary(scores(), ks=(1, 0))


@pytest.mark.parametrize(
  ("score", "positive", "expected"),
  [
    ([9, 8, 7, 6, 5], [1, 0, 1, 0, 1], (1 + 2 / 3 + 3 / 5) / 3),
    # 1/2 at recall 1/2, but 2/3 at recall 1: VOC takes the higher
    ([9, 8, 7], [0, 1, 1], 2 / 3),
    ([5, 5], [1, 0], 1 / 2),
    ([5, 5], [0, 1], 1 / 2),
    ([9, 5, 5, 5], [0, 1, 0, 1], 2 / 4),
    ([9, 5, -np.inf, -np.inf], [0, 1, 1, 0], 1 / 2 / 2),
    ([-np.inf, 3], [1, 0], 0.0),
    ([3, 2], [1, 1], 1.0),
  ],
  ids=[
    "falling",
    "interpolated",
    "tied",
    "tied-reversed",
    "three-tied",
    "not-scored",
    "none-scored",
    "all-positive",
  ],
)
def test_average_precision_by_hand(
  score: list[float], positive: list[int], expected: float
) -> None:
  found = metrics.average_precision(
    np.asarray(score, float), np.asarray(positive, bool)
  )
  assert found == pytest.approx(expected, abs=1e-12)


def test_average_precision_of_no_positive_is_no_number() -> None:
  found = metrics.average_precision(np.ones(3), np.zeros(3, bool))
  assert math.isnan(found)


@pytest.mark.parametrize("levels", [0, 4, 40], ids=["untied", "4", "40"])
def test_average_precision_against_scikit_learn(levels: int) -> None:
  """Its curve, also of tied scores, made monotone and summed by hand."""
  rng = np.random.default_rng(levels)
  positive = rng.random(300) < 0.2
  score = rng.random(300) + 0.3 * positive
  if levels:
    score = np.round(score * levels)
  precision, recall, _ = sklearn.metrics.precision_recall_curve(positive, score)
  best = np.maximum.accumulate(precision[:-1])  # its recall falls
  expected = float(np.sum(best * (recall[:-1] - recall[1:])))
  found = metrics.average_precision(score, positive)
  assert found == pytest.approx(expected, abs=1e-12)
  if not levels:  # where ties leave few steps, there is little to raise
    plain = sklearn.metrics.average_precision_score(positive, score)
    assert found > plain + 0.001


def drawn(videos: int, classes: int, several: bool) -> metrics.Scores:
  """Draws scores that are right now and then, of all classes but the last."""
  rng = np.random.default_rng(7)
  labels = rng.integers(0, classes - 1, (videos, 2))
  labels[rng.random(videos) < 0.5, 1] = -1
  labels = labels if several else labels[:, :1]
  clips = rng.random((videos, 1, classes))
  clips[np.arange(videos), 0, labels[:, 0]] += 0.3
  return metrics.Scores(
    np.arange(videos), clips, labels, rng.random(videos) < 0.9
  )


def test_map_is_that_of_a_list_of_predictions() -> None:
  """Walked down by hand, as ActivityNet does: what was not read is not in it.

  Class 5 has no video, and does not count.
  """
  some = drawn(60, 6, several=True)
  assert not some.readable.all()
  found = []
  for label in range(5):
    wanted = {v for v in range(60) if label in some.labels[v]}
    handed_in = [v for v in range(60) if some.readable[v]]
    handed_in.sort(key=lambda v: -some.videos[v, label])
    curve, right = [], 0
    for rank, video in enumerate(handed_in, 1):
      if video in wanted:
        right += 1
        curve.append(right / rank)
    found.append(sum(max(curve[k:]) for k in range(right)) / len(wanted))
  got = metrics.average_precisions(some)
  np.testing.assert_allclose(got[:5], found, rtol=1e-12)
  assert math.isnan(got[5])
  mean = metrics.summary(some)["mAP"]
  assert mean == pytest.approx(100 * np.mean(found), rel=1e-12)


def test_the_order_of_the_videos_does_not_matter() -> None:
  """Scores of one digit: most are tied."""
  some = drawn(90, 6, several=True)
  some = dataclasses.replace(some, clips=np.round(some.clips, 1))
  expected = metrics.summary(some)
  for seed in range(3):
    order = np.random.default_rng(seed).permutation(90)
    moved = metrics.Scores(
      index=order,
      clips=some.clips[order],
      labels=some.labels[order],
      readable=some.readable[order],
    )
    # A mean of thirds may round otherwise in another order.
    assert metrics.summary(moved) == pytest.approx(expected, rel=1e-12)


def test_against_scikit_learn() -> None:
  some = drawn(400, 7, several=False)
  some = dataclasses.replace(some, readable=np.ones(400, bool))
  truth, videos = some.labels[:, 0], some.videos
  names = list(range(7))
  found = metrics.summary(some, ks=(1, 3))
  for k in (1, 3):
    share = sklearn.metrics.top_k_accuracy_score(
      truth, videos, k=k, labels=names
    )
    assert found[f"video_hit@{k}"] == pytest.approx(100 * share)
  top = videos.argmax(1)
  # scikit-learn warns of the class without videos that was predicted.
  with pytest.warns(UserWarning, match="not in y_true"):
    balanced = sklearn.metrics.balanced_accuracy_score(truth, top)
  assert found["mean_class_accuracy"] == pytest.approx(100 * balanced)
  table = sklearn.metrics.confusion_matrix(truth, top, labels=names)
  assert (metrics.confusion(some) == table).all()
  assert table[:, 6].any()
  assert not table[6].any()


def test_confusion_by_hand() -> None:
  labels = np.array([[0, -1], [1, -1], [1, 2], [2, 1]])
  table = metrics.confusion(dataclasses.replace(scores(), labels=labels))
  assert table.tolist() == [
    [0.0, 1.0, 0.0],
    [0.5, 1.0, 0.0],  # half of video 2, which was taken for 0
    [0.5, 0.0, 1.0],  # video 3 is right, and all in its row
  ]


def test_confusion_counts_what_was_read() -> None:
  some = drawn(80, 5, several=True)
  table = metrics.confusion(some)
  assert table.sum() == pytest.approx(some.readable.sum())
  hits = metrics.video_hits(some, 1)
  assert np.trace(table) == hits.sum()
