"""The training loop: a table of contents, each line a call.

The step number is the whole position of a run: the data, the crops, dropout
and the learning rate are functions of it. So going on from a checkpoint is
going on with its step, to the bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from p3d_jax import files
from p3d_jax.checkpoint import model
from p3d_jax.checkpoint.model import Record
from p3d_jax.checkpoint.run import RunCheckpoints
from p3d_jax.data import pipeline
from p3d_jax.data.clips import Views
from p3d_jax.hosts.ends import PreemptedError
from p3d_jax.hosts.preempt import Notice
from p3d_jax.hosts.roll import current
from p3d_jax.hosts.together import Together
from p3d_jax.models import schedule
from p3d_jax.progress import Bar
from p3d_jax.train import config as configs
from p3d_jax.train import logs, optim, sharding, shared, step
from p3d_jax.train import state as states
from p3d_jax.train.compile_cache import compile_cache
from p3d_jax.train.meter import SILENT, Meter, falls_on, training_flops
from p3d_jax.train.metrics import summary
from p3d_jax.train.prepare import DATA, Run, prepare
from p3d_jax.train.profile import Profile
from p3d_jax.train.replaced import Replaced, check_evaluation
from p3d_jax.train.score import Scorer


@dataclasses.dataclass
class Desk:
  """What is open while a run goes on.

  Attributes:
    checkpoints: of the run.
    log: its metrics; only the first host writes.
    bar: shows how far it is.
    notice: that this machine is about to be taken away.
    preempted: whether a host had notice in a step that is settled: all hosts
      learn it at the same step.
  """

  checkpoints: RunCheckpoints
  log: logs.Logs
  bar: Bar
  notice: Notice
  preempted: bool = False


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
    devices: to train on; all by default, those of other hosts too.

  Returns:
    The metrics of the last evaluation.

  Raises:
    ValueError: if the config cannot be run, or the workdir is of another one.
    NonFiniteLossError: if the loss or its gradient does, with the step.
    PreemptedError: SIGTERM came, or a notice of the cloud's; the run is saved.
  """
  # Everything that can be refused is, before anything is written.
  run = prepare(config, workdir, devices)
  config = run.config
  shared.check_config(logs.config_json(config))
  compile_cache(config.compile.cache)
  _make(run.workdir)
  shared.check_shared(run.workdir, "workdir")
  checkpoints = RunCheckpoints(
    run.workdir,
    keep=config.checkpoint.keep,
    keep_best=config.checkpoint.keep_best,
  )
  watch = current().watch(
    config.watch.stall or None, run.workdir / "stalls", config.watch.lost
  )
  with watch, Notice() as notice, contextlib.closing(checkpoints):
    start = checkpoints.last() or 0
    _check_alike(run, start)
    _check_set(run, checkpoints, start)
    bar = Bar("train", config.train.steps, start, host=jax.process_index())
    if start == config.train.steps and not _owes(run, start):
      if jax.process_index() == 0:
        bar.say(f"{run.workdir} has reached step {start}: nothing to train")
      return _last_evaluation(run.workdir)
    state = _state(run, checkpoints)
    if jax.process_index() == 0:
      logs.write_config(run.workdir, config)
    run.start = run.start.without_weights()  # the host's memory is for clips
    log = logs.Logs(run.workdir, start, tensorboard=config.log.tensorboard)
    desk = Desk(checkpoints, log, bar, notice)
    with contextlib.closing(log), bar:
      if jax.process_index() == 0:
        bar.say(_opening(run, start))
      return _steps(run, desk, state)


def _make(workdir: epath.Path) -> None:
  """Makes the folder of a run, or refuses one that cannot be written."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    files.check_folder(workdir, "workdir")
  except OSError as error:
    raise ValueError(
      f"workdir is {workdir}: it cannot be made: {error.strerror or error}"
    ) from error


def _check_set(run: Run, checkpoints: RunCheckpoints, start: int) -> None:
  """Raises if a run would go on with other videos than it began with."""
  if not start:
    return
  record = model.read_record(checkpoints.directory / str(start))
  then, now = record.provenance, run.record.provenance
  same = DATA if DATA in then else "data"  # of older runs we know no more
  if then[same] != now[same]:
    raise ValueError(
      f"config.data.dir is {run.config.data.dir!r}: it is not the set of the "
      f"run in {run.workdir}, which began with {then['data']}"
    )


def _check_alike(run: Run, start: int) -> None:
  """Raises if the hosts would not begin with the same numbers.

  `init_from` may be a run that goes on: each host took its newest step. Sets
  may stand on each host's own disk.
  """
  begun = f"stands at step {start}"
  if run.start.origin is not None:
    begun += f", began with {run.start.origin['sha256']}"
  rule = "all hosts must read the same: is another run writing there?"
  shared.check_same(begun, f"workdir is {run.workdir}", rule)
  shared.check_same(
    f"reads {len(run.train_videos)} and {len(run.eval_videos)} videos, sha256 "
    f"{run.record.provenance[DATA]}",
    "config.data.dir",
    "all hosts must have the same set",
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
  return checkpoints.restore(state, run.record) if restores else state


def _steps(run: Run, desk: Desk, state: states.TrainState) -> dict[str, float]:
  """Goes from the state's step to the last one."""
  config, start = run.config, int(state.step)
  train_step = Together(step.jit_train_step(run.recipe, state))
  scorer = Scorer(
    run.recipe.module, run.recipe.preprocessing, run.record.scores, run.mesh
  )
  replaced = Replaced(
    desk.log,
    desk.bar,
    config.input.max_replaced,
    config.train.batch,
    logs.problems(run.workdir),
  )

  def settled(number: int, metrics: dict[str, float]) -> None:
    replaced.count(number, int(metrics["replaced"]))
    desk.preempted = desk.preempted or metrics["notice"] > 0

  meter = _meter(run, desk, settled)
  evaluated: dict[str, float] = {}
  if _owes(run, start):
    evaluated = _evaluate(run, desk, scorer, state, start)
  profile = Profile(
    run.workdir,
    start=config.profile.start,
    steps=config.profile.steps,
    first_step=start,
    last_step=config.train.steps,
    bar=desk.bar,
    paused=meter.paused,
  )
  alone = jax.process_count() == 1
  with contextlib.closing(_rows(run, start)) as rows, profile:
    for done, row in enumerate(meter.timed(rows), start + 1):
      current().beat(f"step {done}")
      replaced.hold(done, row)
      placed = _placed(row, desk.notice, run.mesh)
      state, metrics = profile.step(done, train_step, state, placed)
      meter.add(done, metrics)
      profile.after(done)
      if _saves(config, done):
        meter.line()  # waits: a loss that is not finite ends here, unsaved
        _save(run, desk, state, done)
      # Of several hosts, each must hear of the notice of another first.
      if desk.preempted or (alone and desk.notice.given):
        _leave(run, desk, meter, state, done)
      if _evaluates(config, done):
        evaluated = _evaluate(run, desk, scorer, state, done)
      if _saves(config, done):
        meter.restart()
      current().beat(f"reading step {done + 1}")
  return evaluated


def _evaluates(config: ConfigDict, done: int) -> bool:
  last = config.train.steps
  return done == last or falls_on(done, config.eval.every)


def _saves(config: ConfigDict, done: int) -> bool:
  """Whether a step is saved: before an evaluation too, which may be stopped."""
  return _evaluates(config, done) or falls_on(done, config.checkpoint.every)


def _owes(run: Run, done: int) -> bool:
  """Whether a run that goes on was stopped in the evaluation of its step."""
  return (
    done > 0
    and _evaluates(run.config, done)
    and not any(
      line["kind"] == "eval" and line["step"] == done
      for line in logs.read(run.workdir)
    )
  )


def _meter(
  run: Run, desk: Desk, settled: Callable[[int, dict[str, float]], None]
) -> Meter:
  config = run.config
  return Meter(
    desk.log,
    desk.bar,
    rate=optim.learning_rate(config),
    batch=config.train.batch,
    every=config.log.every,
    devices=run.mesh.size,
    flops_per_clip=training_flops(
      run.recipe.module, run.recipe.preprocessing, run.mesh.devices.flat[0]
    ),
    settled=settled,
    seen=desk.log.open,
  )


def _save(run: Run, desk: Desk, state: states.TrainState, done: int) -> None:
  """Starts saving a step; what the logs say of it is there before it is."""
  desk.log.sync()
  desk.checkpoints.save(state, _at(run.record, done))


def _leave(
  run: Run, desk: Desk, meter: Meter, state: states.TrainState, done: int
) -> None:
  """Saves a run between two steps, and ends it.

  Raises:
    PreemptedError: always.
  """
  meter.settle()
  if not _saves(run.config, done):
    seen = [
      {n: v for n, v in metrics.items() if n not in SILENT}
      for metrics in meter.seen
    ]
    desk.log.note(done, logs.OPEN, {"metrics": seen})
    _save(run, desk, state, done)
  desk.checkpoints.wait()
  raise _preempted(run, done)


def _preempted(run: Run, done: int) -> PreemptedError:
  return PreemptedError(
    f"preempted: step {done} is saved in {run.workdir}, and the same command "
    "goes on from it"
  )


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


def _placed(rows: pipeline.Batch, notice: Notice, mesh: Mesh) -> dict[str, Any]:
  """Returns the global arrays that a step takes."""
  kept = {name: rows[name] for name in ("clips", "labels")}
  kept["replaced"] = (rows["replaced"] > 0).astype(np.int32)
  kept["notice"] = np.full(len(rows["clips"]), notice.given, np.int32)
  return sharding.put(kept, mesh)


def _evaluate(
  run: Run, desk: Desk, scorer: Scorer, state: states.TrainState, done: int
) -> dict[str, float]:
  """Scores the evaluation split with the state of a step that is saved.

  Raises:
    PreemptedError: a host had notice.
    TooManyUnreadableError: too many videos cannot be read.
  """
  config, videos = run.config, len(run.eval_videos)
  desk.bar.note(f"evaluating {videos} videos", line=None)
  try:
    scores = scorer.videos(
      state.variables,
      run.eval_videos,
      views=Views(config.eval.clips),
      batch=config.eval.batch,
      reading=configs.reading(config),
      progress=lambda scored: desk.bar.note(
        f"evaluating {scored}/{videos}", line=None
      ),
      notice=lambda: desk.notice.given,
    )
  except PreemptedError:
    desk.checkpoints.wait()
    raise _preempted(run, done) from None
  metrics = summary(scores)
  found = {name: float(v) for name, v in metrics.items() if "hit@" in name}
  desk.checkpoints.score(done, found)
  desk.log.write(done, "eval", metrics)
  desk.log.sync()
  if jax.process_index() == 0:
    _tell(desk.bar, done, metrics, scores.problems)
  check_evaluation(scores.problems, videos, config.input.max_replaced)
  return metrics


def _tell(
  bar: Bar, done: int, metrics: dict[str, float], problems: tuple[str, ...]
) -> None:
  for problem in problems:
    bar.say(f"step {done}: {problem}; it counts as missed")
  bar.say(
    f"step {done}: clip hit@1 {metrics['clip_hit@1']:.1f}  "
    f"video hit@1 {metrics['video_hit@1']:.1f}  "
    f"video hit@5 {metrics['video_hit@5']:.1f}  "
    f"({metrics['videos']} videos, {metrics['clips_per_video']} clips each)"
  )


def _last_evaluation(workdir: epath.Path) -> dict[str, float]:
  """Returns the metrics of the last evaluation that a run has written."""
  lines = [line for line in logs.read(workdir) if line["kind"] == "eval"]
  last = lines[-1] if lines else {}
  return {k: v for k, v in last.items() if k not in ("step", "kind")}


def _at(record: Record, done: int) -> Record:
  provenance = {**record.provenance, "step": done}
  return dataclasses.replace(record, provenance=provenance)


def _opening(run: Run, start: int) -> str:
  batch, devices = run.config.train.batch, run.mesh.size
  processes = jax.process_count()
  hosts = f" of {processes} hosts" * (processes > 1)
  verb = f"going on from step {start}" if start else "training"
  weights = f", from {run.start.note}" if run.start.note and not start else ""
  pixels, rate = run.recipe.preprocessing, run.config.optim.learning_rate
  size = "x".join(map(str, (pixels.frames, *pixels.crop_size)))
  module = run.recipe.module
  layers = schedule.depth(module.schedule, module.stages)
  return (
    f"{verb}: {layers} layers, {len(run.train_videos)} videos, "
    f"{batch} {pixels.channels} clips of {size} a step on {devices} "
    f"device{'s' * (devices > 1)}{hosts}, learning rate {rate:g}, "
    f"workdir {run.workdir}{weights}"
  )
