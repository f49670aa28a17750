"""What a run is made of, checked and built before anything is written."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import jax
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from p3d_jax import files
from p3d_jax.checkpoint.model import Record
from p3d_jax.data import pipeline
from p3d_jax.data.sets import VideoSet, open_set
from p3d_jax.models import p3d, zoo
from p3d_jax.preprocess import Preprocessing
from p3d_jax.train import config as configs
from p3d_jax.train import config_check, init, logs, sharding, step
from p3d_jax.train import recipe as recipes

# In the provenance of a checkpoint: which videos it was trained and scored on.
DATA = "data_sha256"


@dataclasses.dataclass
class Run:
  """What the sections of the loop share.

  Attributes:
    config: of the run, resolved: see init.py.
    workdir: of the run.
    start: the weights that it begins with.
    mesh: that clips are split over.
    train_videos: the split that is trained on.
    eval_videos: the split that is evaluated.
    recipe: what a training step needs.
    record: of the network, written with each checkpoint.
  """

  config: ConfigDict
  workdir: epath.Path
  start: init.Start
  mesh: Mesh
  train_videos: VideoSet
  eval_videos: VideoSet
  recipe: step.Recipe
  record: Record


def prepare(
  config: ConfigDict,
  workdir: epath.PathLike,
  devices: Sequence[jax.Device] | None = None,
) -> Run:
  """Checks a config against data, devices and workdir, and builds from it.

  Args:
    config: of `config.default()`'s fields.
    workdir: of the run; it need not exist.
    devices: to train on; all by default, those of other hosts too.

  Returns:
    The run. Nothing is written yet, but the cache of a set on gs://.

  Raises:
    ValueError: names what cannot be: a field and its value, the data's folder,
      the workdir, or the weights that the run would begin with.
  """
  config_check.check(config, len(devices or jax.devices()))
  mesh = sharding.mesh(devices, **config_check.mesh_sizes(config))
  directory = _directory(workdir)
  train_videos, eval_videos = (
    _labelled(config, split)
    for split in (config.data.train_split, config.data.eval_split)
  )
  start = init.begin(config, directory, train_videos.label_names)
  config = start.config
  _check_channels(config, train_videos)
  _check_channels(config, eval_videos)
  logs.check_config(directory, config)
  recipe = recipes.recipe(config, len(train_videos.label_names), mesh)
  init.check_weights(
    start,
    p3d.abstract_variables(recipe.module, len(recipe.preprocessing.mean)),
  )
  record = _record(
    config,
    recipe.module,
    recipe.preprocessing,
    (train_videos, eval_videos),
    start,
  )
  return Run(
    config, directory, start, mesh, train_videos, eval_videos, recipe, record
  )


def _directory(workdir: epath.PathLike) -> epath.Path:
  """Returns the folder of a workdir, or refuses what cannot be one."""
  files.check_bucket(workdir, "workdir")
  directory = files.absolute(workdir)
  if directory.exists() and not directory.is_dir():
    raise ValueError(f"workdir is {directory}: it is a file, not a folder")
  if (directory / "model" / "model.json").exists():
    raise ValueError(
      f"workdir is {directory}: it is a checkpoint, which config.init_from "
      "takes"
    )
  return directory


def _labelled(config: ConfigDict, split: str) -> VideoSet:
  """Opens a split of the config's set, or refuses one without labels."""
  data = config.data
  videos = open_set(data.dir, split, cache=data.cache, name="config.data.dir")
  if not videos.label_names:
    raise ValueError(
      f"config.data.dir is {data.dir}: the set has no labels to learn"
    )
  return videos


def _check_channels(config: ConfigDict, videos: VideoSet) -> None:
  """Refuses a set whose pixels are not the config's, or its weights'."""
  theirs = f", of config.init_from={config.init_from!r}" * bool(
    config.init_from
  )
  try:
    pipeline.check_channels(videos, config.preprocessing.channels)
  except ValueError as error:
    raise configs.ConfigError(f"config.{error}{theirs}") from None


def _digest(splits: Sequence[VideoSet]) -> str:
  """Returns the sha256 of what is in some splits."""
  texts = " ".join(videos.digest() for videos in splits)
  return hashlib.sha256(texts.encode()).hexdigest()


def _record(
  config: ConfigDict,
  module: p3d.P3D,
  preprocessing: Preprocessing,
  splits: Sequence[VideoSet],
  start: init.Start,
) -> Record:
  """Returns what the checkpoints of a run say of it."""
  origin = {"init_from": start.origin} if start.origin is not None else {}
  return Record(
    model=zoo.to_fields(module),
    preprocessing=preprocessing,
    labels=tuple(splits[0].label_names),
    scores=config.train.loss,
    provenance={
      "kind": "trained",
      "data": str(splits[0].directory),
      DATA: _digest(splits),
      "config": logs.config_json(config),
      **origin,
      **logs.versions(),
    },
  )
