"""The training loop: a table of contents, each line a call.

The step number is the whole position of a run: the data, the crops, dropout
and the learning rate are functions of it. So going on from a checkpoint is
going on with its step, to the bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Sequence
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from p3d_jax.checkpoint.model import Record
from p3d_jax.checkpoint.run import RunCheckpoints
from p3d_jax.data import pipeline
from p3d_jax.data.clips import Views
from p3d_jax.data.sets import VideoSet, open_set
from p3d_jax.models import p3d, schedule, zoo
from p3d_jax.preprocess import Preprocessing
from p3d_jax.progress import Bar
from p3d_jax.train import config as configs
from p3d_jax.train import config_check, init, logs, optim, sharding, step
from p3d_jax.train import recipe as recipes
from p3d_jax.train import state as states
from p3d_jax.train.meter import Meter, falls_on
from p3d_jax.train.metrics import summary
from p3d_jax.train.replaced import Replaced, check_evaluation
from p3d_jax.train.score import Scorer


@dataclasses.dataclass
class Run:
  """What the sections of `train` share.

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


def train(
  config: ConfigDict,
  workdir: epath.PathLike,
  *,
  devices: Sequence[jax.Device] | None = None,
) -> dict[str, float]:
  """Trains, or goes on with training, to the config's last step.

  Args:
    config: of `config.default()`'s fields.
    workdir: of the run; one that has a checkpoint goes on from it.
    devices: to train on; all by default.

  Returns:
    The metrics of the last evaluation.

  Raises:
    ValueError: if the config cannot be run, or the workdir is of another one.
    NonFiniteLossError: if the loss or its gradient does, with the step.
  """
  # Everything that can be refused is, before anything is written.
  run = prepare(config, workdir, devices)
  config = run.config
  run.workdir.mkdir(parents=True, exist_ok=True)
  logs.write_config(run.workdir, config)
  checkpoints = RunCheckpoints(
    run.workdir,
    keep=config.checkpoint.keep,
    keep_best=config.checkpoint.keep_best,
  )
  with contextlib.closing(checkpoints):
    start = checkpoints.last() or 0
    bar = Bar("train", config.train.steps, start)
    if start == config.train.steps:
      bar.say(f"{run.workdir} has reached step {start}: nothing to train")
      return _last_evaluation(run.workdir)
    state = _state(run, checkpoints)
    run.start = run.start.without_weights()  # the host's memory is for clips
    log = logs.Logs(run.workdir, start, tensorboard=config.log.tensorboard)
    with contextlib.closing(log), bar:
      bar.say(_opening(run, start))
      return _steps(run, state, checkpoints, log, bar)


def prepare(
  config: ConfigDict,
  workdir: epath.PathLike,
  devices: Sequence[jax.Device] | None = None,
) -> Run:
  """Checks a config against data, devices and workdir, and builds from it."""
  count = len(devices or jax.devices())
  config_check.check(config, count)
  mesh = sharding.mesh(devices, **config_check.mesh_sizes(config))
  directory = epath.Path(workdir).expanduser().absolute()
  if directory.exists() and not directory.is_dir():
    raise ValueError(f"workdir is {directory}: it is a file, not a folder")
  if (directory / "model" / "model.json").exists():
    raise ValueError(
      f"workdir is {directory}: it is a checkpoint, which config.init_from "
      "takes"
    )
  data = epath.Path(config.data.dir).expanduser().absolute()
  train_videos = open_set(data, config.data.train_split)
  eval_videos = open_set(data, config.data.eval_split)
  for videos in (train_videos, eval_videos):
    if not videos.label_names:
      raise ValueError(
        f"config.data.dir is {config.data.dir}: the set has no labels to learn"
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
    config, recipe.module, recipe.preprocessing, train_videos, start
  )
  return Run(
    config, directory, start, mesh, train_videos, eval_videos, recipe, record
  )


def _check_channels(config: ConfigDict, videos: VideoSet) -> None:
  """Refuses a set whose pixels are not the config's, or its weights'."""
  theirs = f", of config.init_from={config.init_from!r}" * bool(
    config.init_from
  )
  try:
    pipeline.check_channels(videos, config.preprocessing.channels)
  except ValueError as error:
    raise configs.ConfigError(f"config.{error}{theirs}") from None


def _record(
  config: ConfigDict,
  module: p3d.P3D,
  preprocessing: Preprocessing,
  videos: VideoSet,
  start: init.Start,
) -> Record:
  """Returns what the checkpoints of a run say of it."""
  origin = {"init_from": start.origin} if start.origin is not None else {}
  return Record(
    model=zoo.to_fields(module),
    preprocessing=preprocessing,
    labels=tuple(videos.label_names),
    scores=config.train.loss,
    provenance={
      "kind": "trained",
      "data": str(videos.directory),
      "config": logs.config_json(config),
      **origin,
      **logs.versions(),
    },
  )


def _state(run: Run, checkpoints: RunCheckpoints) -> states.TrainState:
  """Makes the state of step 0, or restores the newest step's."""
  restores = checkpoints.last() is not None
  # init.py and Orbax must mean the same step, or it would begin at random.
  assert restores or run.start.weights is not None or not run.config.init_from
  state = states.create(
    run.recipe.module,
    run.recipe.tx,
    run.mesh,
    channels=run.record.channels,
    seed=run.config.seed,
    ema=bool(run.config.train.ema),
    weights=None if restores else run.start.weights,
    abstract=restores,
  )
  return checkpoints.restore(state) if restores else state


def _steps(
  run: Run,
  state: states.TrainState,
  checkpoints: RunCheckpoints,
  log: logs.Logs,
  bar: Bar,
) -> dict[str, float]:
  """Goes from the state's step to the last one."""
  config, last = run.config, run.config.train.steps
  train_step = step.jit_train_step(run.recipe, state)
  scorer = Scorer(
    run.recipe.module, run.recipe.preprocessing, run.record.scores, run.mesh
  )
  start = int(state.step)
  meter = Meter(
    log,
    bar,
    rate=optim.learning_rate(config),
    batch=config.train.batch,
    every=config.log.every,
  )
  limit = config.input.max_replaced
  replaced = Replaced(log, bar, limit, logs.problems(run.workdir))
  evaluated: dict[str, float] = {}
  with contextlib.closing(_rows(run, start)) as rows:
    for done, row in enumerate(meter.timed(rows), start + 1):
      others = replaced.add(done, row)
      state, metrics = train_step(state, _placed(row, run.mesh))
      meter.add(done, metrics, others)
      evaluates = done == last or falls_on(done, config.eval.every)
      saves = done == last or falls_on(done, config.checkpoint.every)
      if evaluates or saves:
        meter.line()  # waits: a loss that is not finite ends here, unsaved
      problems: tuple[str, ...] = ()
      if evaluates:
        evaluated, problems = _evaluate(run, scorer, state, done, log, bar)
      if saves:
        checkpoints.save(state, _at(run.record, done), _score(evaluated, done))
      check_evaluation(problems, len(run.eval_videos), limit)
      if evaluates or saves:
        meter.restart()
  return {k: v for k, v in evaluated.items() if k != "step"}


def _rows(run: Run, start: int) -> Generator[pipeline.Batch, None, None]:
  """Reads this host's rows of each step; closing it ends the reading."""
  config = run.config
  share, shares = sharding.share(run.mesh)
  return pipeline.train_batches(
    run.train_videos,
    run.recipe.preprocessing,
    configs.augmentation(config),
    batch=config.train.batch,
    seed=config.seed,
    start_step=start,
    stop_step=config.train.steps,
    host=share,
    hosts=shares,
    segments=config.data.segments,
    reading=configs.reading(config),
  )


def _placed(rows: pipeline.Batch, mesh: Mesh) -> dict[str, Any]:
  """Returns the global arrays that a step takes."""
  kept = {name: rows[name] for name in ("clips", "labels")}
  return sharding.put(kept, mesh)


def _evaluate(
  run: Run,
  scorer: Scorer,
  state: states.TrainState,
  done: int,
  log: logs.Logs,
  bar: Bar,
) -> tuple[dict[str, float], tuple[str, ...]]:
  """Scores the evaluation split; returns metrics, and what was unreadable."""
  config, videos = run.config, len(run.eval_videos)
  bar.note(f"evaluating {videos} videos", line=True)
  scores = scorer.videos(
    state.variables,
    run.eval_videos,
    views=Views(config.eval.clips),
    batch=config.eval.batch,
    reading=configs.reading(config),
    progress=lambda scored: bar.note(f"evaluating {scored}/{videos}"),
  )
  metrics = summary(scores)
  log.write(done, "eval", metrics)
  for problem in scores.problems:
    bar.say(f"step {done}: {problem}; it counts as missed")
  bar.say(
    f"step {done}: clip hit@1 {metrics['clip_hit@1']:.1f}  "
    f"video hit@1 {metrics['video_hit@1']:.1f}  "
    f"video hit@5 {metrics['video_hit@5']:.1f}  "
    f"({metrics['videos']} videos, {metrics['clips_per_video']} clips each)"
  )
  return {"step": done, **metrics}, scores.problems


def _last_evaluation(workdir: epath.Path) -> dict[str, float]:
  """Returns the metrics of the last evaluation that a run has written."""
  lines = [line for line in logs.read(workdir) if line["kind"] == "eval"]
  last = lines[-1] if lines else {}
  return {k: v for k, v in last.items() if k not in ("step", "kind")}


def _score(evaluated: dict[str, float], done: int) -> dict[str, float] | None:
  """What ranks a checkpoint: an evaluation of this very step."""
  if evaluated.get("step") != done:
    return None
  return {name: float(v) for name, v in evaluated.items() if "hit@" in name}


def _at(record: Record, done: int) -> Record:
  provenance = {**record.provenance, "step": done}
  return dataclasses.replace(record, provenance=provenance)


def _opening(run: Run, start: int) -> str:
  batch, devices = run.config.train.batch, run.mesh.size
  verb = f"going on from step {start}" if start else "training"
  weights = f", from {run.start.note}" if run.start.note and not start else ""
  pixels, rate = run.recipe.preprocessing, run.config.optim.learning_rate
  size = "x".join(map(str, (pixels.frames, *pixels.crop_size)))
  module = run.recipe.module
  layers = schedule.depth(module.schedule, module.stages)
  return (
    f"{verb}: {layers} layers, {len(run.train_videos)} videos, "
    f"{batch} {pixels.channels} clips of {size} a step on {devices} "
    f"device{'s' * (devices > 1)}, learning rate {rate:g}, "
    f"workdir {run.workdir}{weights}"
  )
