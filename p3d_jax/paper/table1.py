"""Table 1: 2D, A, B, C, A to C in turn and full 3D under one budget.

The paper's is UCF101 on ImageNet's ResNet-50. The same table on camera_motion
takes the demo's slim network from random weights, on videos that anybody can
make: it runs where no dataset is.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from p3d_jax.checkpoint import model
from p3d_jax.paper import numbers
from p3d_jax.paper.commands import (
  NO_WEIGHTS,
  config_words,
  digest,
  inflate,
  random_weights,
  train,
  trained_on,
)
from p3d_jax.paper.run import Command, Rows, Table, read_json
from p3d_jax.paper.sets import names_of_sets
from p3d_jax.train import config_file

CAMERA_MOTION = "camera_motion"  # as --data: build it


class Network(NamedTuple):
  """A row.

  Attributes:
    title: as it is shown.
    schedule: of its blocks.
    recipe: what follows the data's name in that of its recipe.
  """

  title: str
  schedule: str
  recipe: str


NETWORKS = {
  "frames": Network("2D (S), single frames", "S", "frames"),
  "p3d_a": Network("P3D-A", "A", "p3d_a"),
  "p3d_b": Network("P3D-B", "B", "p3d_b"),
  "p3d_c": Network("P3D-C", "C", "p3d_c"),
  "p3d_abc": Network("P3D (A, B, C in turn)", "ABC", "p3d_abc"),
  "full3d": Network("full 3D (F)", "F", "full3d"),
}


class Protocol(NamedTuple):
  """How one dataset is tested.

  Attributes:
    recipes: network -> its recipe.
    frames: of a video that the 2D network scores.
    clips: of a video that the others score.
    batch: videos at once.
    weights: whether the networks begin with ImageNet's weights.
  """

  recipes: dict[str, str]
  frames: int
  clips: int
  batch: int
  weights: bool


PROTOCOLS = {
  # Numbers of test frames and clips of the UCF101 study: not stated.
  "ucf101": Protocol(
    {
      "frames": "ucf101_resnet50_frames",
      "p3d_a": "ucf101_p3d_a",
      "p3d_b": "ucf101_p3d_b",
      "p3d_c": "ucf101_p3d_c",
      "p3d_abc": "ucf101_p3d_abc",
      "full3d": "ucf101_full3d",
    },
    frames=20,
    clips=20,
    batch=8,
    weights=True,
  ),
  # Its videos have 24 frames: four clips of 16 see all of them.
  CAMERA_MOTION: Protocol(
    {key: f"camera_motion_{key}" for key in NETWORKS},
    frames=20,
    clips=4,
    batch=32,
    weights=False,
  ),
}


class Choices(NamedTuple):
  """What the user said.

  Attributes:
    data: CAMERA_MOTION, to build it, or a built set or the folder above it.
    out: folder of the table.
    weights: file of a ResNet-50, "none" for random ones, or None.
    seeds: of which each makes a run of each network.
    steps: of each run; None: the recipe's.
    overrides: "FIELD=VALUE" of the configs.
  """

  data: str
  out: str
  weights: str | None = None
  seeds: tuple[int, ...] = (0, 1, 2)
  steps: int | None = None
  overrides: tuple[str, ...] = ()


def table1(choices: Choices) -> Table:
  """Returns the table over some data.

  Raises:
    ValueError: an argument is out of its range, or no such set is there.
  """
  name, data, build = _data(choices)
  protocol = PROTOCOLS[name]
  _check(choices, name, protocol)
  flags = _flags(choices, protocol)
  for recipe in protocol.recipes.values():
    config_file.load(config_words(recipe)[1], flags)  # a wrong field, now
  commands = [*build, *_inflations(choices, protocol)]
  for seed in choices.seeds:
    for key in NETWORKS:
      commands += _train_and_evaluate(choices, protocol, key, seed, data, flags)
  workdirs = [_workdir(choices, key, choices.seeds[0]) for key in NETWORKS]
  commands.append(_speed(choices, workdirs))
  return Table(
    name="table1",
    title=f"Table 1 on {name}",
    commands=tuple(commands),
    read=lambda: _read(choices, name),
  )


def _data(choices: Choices) -> tuple[str, str, list[Command]]:
  """Returns the name of the data, its folder, and what builds it."""
  if choices.data == CAMERA_MOTION:
    folder = os.path.join(choices.out, "data")
    words = ("data", "build", CAMERA_MOTION, "--out", folder)
    return CAMERA_MOTION, folder, [Command(words)]
  folders = [epath.Path(choices.data)]
  folders = [folders[0] / name for name in PROTOCOLS] + folders
  for folder in folders:
    if names := names_of_sets(folder):
      break
  else:
    raise ValueError(f"--data is {choices.data}: no built set is there")
  if len(names) > 1 or names[0] not in PROTOCOLS:
    raise ValueError(
      f"--data is {choices.data}: it holds {', '.join(names)}, and table1 is "
      f"for one of {', '.join(PROTOCOLS)}"
    )
  return names[0], os.fspath(folder), []


def _check(choices: Choices, name: str, protocol: Protocol) -> None:
  if protocol.weights and choices.weights is None:
    raise ValueError(
      f"--weights is missing: on {name} the networks begin with a ResNet-50 of "
      "ImageNet, a file that `p3d inflate` reads; 'none' begins with random "
      "weights"
    )
  if not protocol.weights and choices.weights is not None:
    raise ValueError(
      f"--weights is {choices.weights}: on {name} the networks begin with "
      "random weights"
    )
  if len(set(choices.seeds)) < len(choices.seeds) or min(choices.seeds) < 0:
    raise ValueError(
      f"--seeds are {' '.join(map(str, choices.seeds))}: they must be "
      "different whole numbers >= 0"
    )
  if choices.steps is not None and choices.steps < 1:
    raise ValueError(f"--steps is {choices.steps}: it must be >= 1")


def _flags(choices: Choices, protocol: Protocol) -> list[str]:
  """Returns the flags of all runs."""
  flags = []
  if choices.weights == NO_WEIGHTS:
    flags += random_weights()
  if choices.steps is not None:
    flags.append(f"--config.train.steps={choices.steps}")
  return [*flags, *(f"--config.{field}" for field in choices.overrides)]


def _workdir(choices: Choices, key: str, seed: int) -> str:
  return os.path.join(choices.out, "runs", f"{key}-{seed}")


def _weights(choices: Choices, key: str) -> str:
  return os.path.join(choices.out, "weights", key)


def _inflations(choices: Choices, protocol: Protocol) -> list[Command]:
  """Returns what makes each network of the 2D weights."""
  if not protocol.weights or choices.weights in (None, NO_WEIGHTS):
    return []
  return [
    inflate(choices.weights, _weights(choices, key), "p3d63", of.schedule)
    for key, of in NETWORKS.items()
  ]


def _train_and_evaluate(
  choices: Choices,
  protocol: Protocol,
  key: str,
  seed: int,
  data: str,
  flags: Sequence[str],
) -> list[Command]:
  """Returns the two commands of one run."""
  workdir = _workdir(choices, key, seed)
  weights = None
  if protocol.weights and choices.weights != NO_WEIGHTS:
    weights = _weights(choices, key)
  seeded = [f"--config.seed={seed}", *flags]
  clips = protocol.frames if key == "frames" else protocol.clips
  out = os.path.join(workdir, "evaluation.json")
  words = ["evaluate", workdir, "--clips", str(clips)]
  words += ["--batch", str(protocol.batch), "--out", out]
  return [
    train(protocol.recipes[key], workdir, data, weights, seeded),
    Command(tuple(words), _evaluated(workdir, out, clips), answers=(0, 1)),
  ]


def _evaluated(workdir: str, out: str, clips: int) -> Callable[[], bool]:
  def done() -> bool:
    found = read_json(out)
    return (
      found is not None
      and digest(workdir) is not None
      and found.get("sha256") == digest(workdir)
      and found.get("data") == trained_on(workdir)
      and found.get("clips_per_video") == clips
    )

  return done


def _speed(choices: Choices, workdirs: Sequence[str]) -> Command:
  out = os.path.join(choices.out, "speed.json")

  def done() -> bool:
    found = read_json(out)
    return found is not None and [
      network["sha256"] for network in found["networks"]
    ] == [digest(workdir) for workdir in workdirs]

  return Command(("paper", "speed", *workdirs, "--out", out), done)


COLUMNS = (
  "network",
  "parameters",
  "size, MB",
  "speed",
  "clip hit@1",
  "video hit@1, mean",
  "least",
  "paper: size, MB",
  "paper: speed",
  "paper: accuracy",
)


def _read(choices: Choices, name: str) -> Rows:
  """Reads what the commands wrote."""
  speeds = read_json(os.path.join(choices.out, "speed.json"))
  assert speeds is not None  # the last command wrote it
  about: dict[str, Any] = {"data": name, "networks": {}}
  rows = []
  for key, speed in zip(NETWORKS, speeds["networks"], strict=True):
    found = _of_network(choices, key) | {"speed": speed}
    about["networks"][key] = found
    rows.append(_row(key, found))
  runs = about["networks"]["p3d_abc"]["runs"]
  about["machine"] = speeds["machine"]
  return Rows(COLUMNS, tuple(rows), _notes(choices, runs, about), about)


def _of_network(choices: Choices, key: str) -> dict[str, Any]:
  """Returns size and accuracies of a row."""
  workdirs = [_workdir(choices, key, seed) for seed in choices.seeds]
  runs = []
  for seed, workdir in zip(choices.seeds, workdirs, strict=True):
    found = read_json(os.path.join(workdir, "evaluation.json"))
    assert found is not None  # its command wrote it
    kept = ("clip_hit@1", "video_hit@1", "videos", "clips_per_video", "split")
    runs.append({"seed": seed, **{name: found[name] for name in kept}})
  record = model.read_record(model.find(workdirs[0]))
  leaves = jax.tree.leaves(model.abstract_variables(record))
  trained = model.abstract_variables(record)["params"]
  return {
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(trained)),
    "bytes": sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in leaves),
    "steps": record.provenance["step"],
    "batch": record.provenance["config"]["train"]["batch"],
    "runs": runs,
  }


def _row(key: str, found: dict[str, Any]) -> tuple[Any, ...]:
  video = [run["video_hit@1"] for run in found["runs"]]
  clip = [run["clip_hit@1"] for run in found["runs"]]
  paper = numbers.TABLE1.get(key)
  unit = "frame/s" if key == "frames" else "clip/s"
  theirs = (
    (f"{paper.size:.0f}", f"{paper.speed} {unit}", paper.accuracy)
    if paper
    else (None, None, None)
  )
  return (
    NETWORKS[key].title,
    f"{found['parameters']:,}",
    f"{found['bytes'] / 1e6:.2f}",
    f"{found['speed']['per_second']:,.1f} {unit}",
    statistics.fmean(clip),
    statistics.fmean(video),
    min(video),
    *theirs,
  )


def _notes(
  choices: Choices, runs: list[dict[str, Any]], about: dict[str, Any]
) -> tuple[str, ...]:
  """Says what the numbers are of."""
  one, frames = about["networks"]["p3d_abc"], about["networks"]["frames"]
  seeds = ", ".join(map(str, choices.seeds))
  return (
    f"{runs[0]['videos']} videos of {runs[0]['split']}, "
    f"{runs[0]['clips_per_video']} clips each "
    f"({frames['runs'][0]['clips_per_video']} frames for 2D), centre crop; "
    f"seeds {seeds}; {one['steps']} steps of {one['batch']} clips for all. The "
    "paper's columns are UCF101's, on ResNet-50.",
    "MB are 10^6 bytes, of float32 parameters and moving statistics. Speed is "
    "scoring alone, from pixels in memory, all networks in turn, the median of "
    f"{len(one['speed']['rounds'])} rounds: {about['machine']}.",
  )
