"""Runs that were never trained, to make pages of in a second."""

import dataclasses
import functools
import json
import pathlib
import shutil
from typing import Any

from etils import epath

from p3d_jax.checkpoint import model
from p3d_jax.data.clips import Views
from p3d_jax.data.sets import open_set
from p3d_jax.evaluate.score_file import VideoScores, save_scores
from p3d_jax.models import zoo
from p3d_jax.train import config as configs
from p3d_jax.train import logs
from p3d_jax.train.metrics import per_class, summary
from tests import small


def random_run(folder: pathlib.Path) -> pathlib.Path:
  """Makes a workdir on `small.dataset()`: random weights, and logs of 4 steps.

  Nothing of it is evaluated.
  """
  module = zoo.build(None, num_classes=8, width=4, stages=(1, 1, 1, 1))
  record = model.Record(
    model=zoo.to_fields(module),
    preprocessing=small.PREPROCESSING,
    labels=open_set(small.dataset(), "test").label_names,
    provenance={
      "kind": "trained",
      "data": small.dataset(),
      "config": logs.config_json(small.config()),
      "step": 4,
    },
  )
  variables = small.variables(module)
  model.save(folder / "checkpoints" / "4", variables, record)
  log = logs.Logs(epath.Path(folder), 0, tensorboard=False)
  for step in range(1, 5):
    log.write(step, "train", {"loss": 2.0 / step, "learning_rate": 0.01})
  log.write(4, "eval", {"clip_hit@1": 12.5, "video_hit@1": 20.0})
  log.close()
  return folder


def bare_run(
  folder: pathlib.Path, scores: VideoScores, **about: Any
) -> dict[str, Any]:
  """Makes a workdir of a checkpoint and an evaluation, and nothing else.

  Args:
    folder: of the run.
    scores: of the evaluation, of three classes.
    **about: fields of its JSON that are so.

  Returns:
    That JSON.
  """
  shutil.copytree(_checkpoint(scores.label_names), folder / "checkpoints" / "7")
  record = model.read_record(model.find(folder))
  found = {
    **summary(scores.to_scores()),
    "views": dataclasses.asdict(Views(2)),
    "per_class": per_class(scores.to_scores(), scores.label_names),
    "problems": [],
    "data": "/no/set <here>",
    "split": "test",
    "sha256": record.sha256,
    **about,
  }
  (folder / "evaluation-7-test.json").write_text(json.dumps(found))
  of = {name: found[name] for name in ("sha256", "data", "split", "views")}
  scores = dataclasses.replace(scores, about=of)
  save_scores(folder / "evaluation-7-test.npz", scores)
  return found


@functools.cache
def _checkpoint(labels: tuple[str, ...]) -> pathlib.Path:
  """Writes a checkpoint of random weights, which many runs copy."""
  net = small.network()
  record = dataclasses.replace(
    small.record(net),
    labels=labels,
    provenance={
      "kind": "trained",
      "data": "/no/set <here>",
      "config": logs.config_json(configs.default()),
    },
  )
  folder = small.folder() / "checkpoint"
  model.save(folder, small.variables(net), record)
  return folder
