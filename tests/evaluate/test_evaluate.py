"""Evaluation against a plain loop over the videos."""

import json
import pathlib

import jax
import numpy as np
import pytest

import p3d_jax
from p3d_jax.data.sets import open_set
from p3d_jax.evaluate.evaluate import evaluate, report
from tests import small


def test_it_is_a_plain_loop_over_the_videos(tmp_path: pathlib.Path) -> None:
  """Ten videos in batches of four: the two rows of padding do not count."""
  out = tmp_path / "evaluation.json"
  result = evaluate(small.trained(), clips=3, batch=4, out=out)
  module, variables, record = p3d_jax.load(small.trained())
  videos = open_set(small.dataset(), "test")
  apply = jax.jit(module.apply)
  clip_hits, first, five = [], [], []
  by_class: dict[str, list[bool]] = {name: [] for name in record.labels}
  for k in range(len(videos)):
    label = int(videos[k]["labels"][0])
    clips = p3d_jax.read_clips(videos[k]["video"], record.preprocessing, 3)
    logits = apply(variables, record.preprocessing.normalize(clips))
    scores = np.asarray(jax.nn.softmax(logits), np.float64)
    clip_hits += [int(np.argmax(row)) == label for row in scores]
    ranked = np.argsort(-scores.mean(0), kind="stable")
    first.append(ranked[0] == label)
    five.append(label in ranked[:5])
    by_class[record.labels[label]].append(first[-1])
  assert result["clip_hit@1"] == pytest.approx(100 * np.mean(clip_hits))
  assert result["video_hit@1"] == pytest.approx(100 * np.mean(first))
  assert result["video_hit@5"] == pytest.approx(100 * np.mean(five))
  assert (result["videos"], result["clips_per_video"]) == (10, 3)
  for name, found in by_class.items():
    row = result["per_class"][name]
    assert row["videos"] == len(found)
    if found:
      assert row["video_hit@1"] == pytest.approx(100 * np.mean(found))
    else:
      assert row["video_hit@1"] is None
  assert result == json.loads(out.read_text())
  assert result["sha256"] == record.sha256
  assert result["split"] == "test"
  text = report(result)
  for name in ("clip hit@1", "video hit@1", "video hit@5", *record.labels):
    assert name in text


def test_the_batch_does_not_matter() -> None:
  one = evaluate(small.trained(), clips=2, batch=10)
  other = evaluate(small.trained(), clips=2, batch=3, split="test")
  assert one == other


def test_other_splits_steps_and_mistakes(tmp_path: pathlib.Path) -> None:
  workdir = small.trained()
  result = evaluate(workdir, split="train[:3]", step=2, clips=1)
  assert result["videos"] == 3
  assert result["checkpoint"].endswith("checkpoints/2")
  with pytest.raises(ValueError, match=r"^split='valid'"):
    evaluate(workdir, split="valid")
  with pytest.raises(ValueError, match="no step 3"):
    evaluate(workdir, step=3)
  with pytest.raises(ValueError, match="no checkpoint and no workdir"):
    evaluate(tmp_path)


def test_a_set_of_other_classes_is_refused(tmp_path: pathlib.Path) -> None:
  module = small.network()
  p3d_jax.save(tmp_path / "x", small.variables(module), small.record(module))
  with pytest.raises(ValueError, match=r"name --data and --split"):
    evaluate(tmp_path / "x")
  with pytest.raises(ValueError, match=r"classes of .* are not those of"):
    evaluate(tmp_path / "x", data=small.dataset(), split="test")
