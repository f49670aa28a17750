"""Evaluation against a plain loop over the videos."""

import dataclasses
import json
import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import pytest

import p3d_jax
from p3d_jax import cli
from p3d_jax.data.clips import Views
from p3d_jax.data.sets import open_set
from p3d_jax.evaluate import evaluate as evaluations
from p3d_jax.evaluate.evaluate import default_out, evaluate, report
from p3d_jax.evaluate.predict import Predictor
from p3d_jax.train import sharding
from p3d_jax.train.score import Scorer
from tests import small


def test_it_is_a_plain_loop_over_the_videos(tmp_path: pathlib.Path) -> None:
  """Ten videos in batches of four: the two rows of padding do not count."""
  out = tmp_path / "evaluation.json"
  result = evaluate(small.trained(), views=Views(3), batch=4, out=out)
  module, variables, record = p3d_jax.load(small.trained())
  videos = open_set(small.dataset(), "test")
  apply = jax.jit(module.apply)
  clip_hits, first, five = [], [], []
  by_class: dict[str, list[bool]] = {name: [] for name in record.labels}
  for k in range(len(videos)):
    label = int(videos[k]["labels"][0])
    clips = p3d_jax.read_clips(videos[k]["video"], record.preprocessing, 3)
    logits = apply(variables, record.preprocess(clips))
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
  one = evaluate(small.trained(), views=Views(2), batch=10)
  other = evaluate(small.trained(), views=Views(2), batch=3, split="test")
  assert one == other


def test_other_splits_steps_and_mistakes(tmp_path: pathlib.Path) -> None:
  workdir = small.trained()
  result = evaluate(workdir, split="train[:3]", step=2, views=Views(1))
  assert result["videos"] == 3
  assert result["checkpoint"].endswith("checkpoints/2")
  with pytest.raises(ValueError, match=r"^split='valid'"):
    evaluate(workdir, split="valid")
  with pytest.raises(ValueError, match="no step 3"):
    evaluate(workdir, step=3)
  with pytest.raises(ValueError, match="no checkpoint and no workdir"):
    evaluate(tmp_path)


def test_the_default_place_of_the_result(tmp_path: pathlib.Path) -> None:
  run = small.trained()
  assert default_out(run) == run / "evaluation-4-test.json"
  assert default_out(str(run), 2, "train") == run / "evaluation-2-train.json"
  drawn = default_out(run, views=Views(5, "random", crops=3, seed=7))
  assert drawn == run / "evaluation-4-test-random7-3crops.json"
  best = default_out(run, "best", "train[:10%]+test")
  assert best is not None
  assert best.parent == run
  assert best.name in {f"evaluation-{n}-train__10__+test.json" for n in (2, 4)}
  assert default_out(run / "checkpoints" / "2") is None
  module = small.network()
  p3d_jax.save(tmp_path / "x", small.variables(module), small.record(module))
  assert default_out(tmp_path / "x") is None
  with pytest.raises(ValueError, match="no step 3"):
    default_out(run, 3)


def test_a_result_that_cannot_be_written_is_said_first(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Before the checkpoint, which is not there either, is looked for."""
  for out, message in (
    (tmp_path, "it is a folder, not a file"),
    (tmp_path / "none" / "x.json", "there is no such folder"),
  ):
    with pytest.raises(ValueError, match=f"^out='{out}': {message}"):
      evaluate(tmp_path / "missing", out=out)
  # The tests may run as root, who may write everywhere.
  monkeypatch.setattr(os, "access", lambda path, mode: False)
  with pytest.raises(ValueError, match=r"^out=.*cannot be written to"):
    evaluate(tmp_path / "missing", out=tmp_path / "x.json")


def test_a_set_that_moved(tmp_path: pathlib.Path) -> None:
  module, variables, record = p3d_jax.load(small.trained())
  gone = {**record.provenance, "data": str(tmp_path / "gone")}
  moved = dataclasses.replace(record, provenance=gone)
  p3d_jax.save(tmp_path / "x", variables, moved)
  with pytest.raises(ValueError, match=r"gone, and no built .* with --data$"):
    evaluate(tmp_path / "x")
  result = evaluate(tmp_path / "x", data=small.dataset(), views=Views(1))
  assert result["split"] == "test"


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_scores_that_are_not_numbers_are_no_result(
  scores: str, tmp_path: pathlib.Path
) -> None:
  _, variables, record = p3d_jax.load(small.trained())
  bad = jax.tree.map(lambda x: x * np.nan, variables)
  record = dataclasses.replace(record, scores=scores)
  p3d_jax.save(tmp_path / "x", bad, record)
  with pytest.raises(ArithmeticError, match="^[^\n]*not finite[^\n]*$"):
    evaluate(tmp_path / "x", data=small.dataset(), split="test", views=Views(1))
  (path,) = list(small.footage().glob("film 0.mp4"))
  with pytest.raises(ArithmeticError, match="not finite"):
    Predictor(tmp_path / "x").predict(path, clips=1)


def test_variables_cross_to_the_devices_once() -> None:
  module, variables, record = p3d_jax.load(small.trained())
  mesh = sharding.mesh()
  scorer = Scorer(module, record.preprocessing, record.scores, mesh)
  seen: list[list[jax.Array]] = []
  step = scorer._step

  def spy(variables: Any, clips: jax.Array) -> jax.Array:
    seen.append(jax.tree.leaves(variables))
    return step(variables, clips)

  scorer._step = spy
  videos = open_set(small.dataset(), "test")
  host = jax.tree.map(np.asarray, variables)
  scorer.videos(host, videos, views=Views(1), batch=4)
  assert len(seen) == 3
  for leaves in seen:
    assert all(x is y for x, y in zip(leaves, seen[0], strict=True))
    assert all(x.sharding == sharding.replicated(mesh) for x in leaves)


def test_a_set_of_other_classes_is_refused(tmp_path: pathlib.Path) -> None:
  module = small.network()
  p3d_jax.save(tmp_path / "x", small.variables(module), small.record(module))
  with pytest.raises(ValueError, match=r"name --data and --split"):
    evaluate(tmp_path / "x")
  with pytest.raises(ValueError, match=r"trained on: name --split$"):
    evaluate(tmp_path / "x", data=small.dataset())
  with pytest.raises(ValueError, match=r"8 \(pan_left, .*, not .*init_from$"):
    evaluate(tmp_path / "x", data=small.dataset(), split="test")


def test_a_step_that_comes_meanwhile_is_not_taken(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """The run goes on while it is evaluated: the file's name is what it holds."""
  run, later = tmp_path / "run", tmp_path / "4"
  others = shutil.ignore_patterns("evaluation-*")  # of other tests
  shutil.copytree(small.trained(), run, ignore=others)
  newest = run / "checkpoints" / "4"
  newest.rename(later)

  def saved(*args: Any) -> Any:
    later.rename(newest)
    return default_out(*args)

  monkeypatch.setattr(evaluations, "default_out", saved)
  assert cli.main(["evaluate", str(run), "--clips=1"]) == 0
  (out,) = run.glob("evaluation-*.json")
  assert out.name == "evaluation-2-test.json"
  assert json.loads(out.read_text())["checkpoint"].endswith("checkpoints/2")
