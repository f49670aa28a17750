"""Table 2 and Kinetics: networks tested on what they are trained for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from p3d_jax.data.clips import Views
from p3d_jax.paper import commands, numbers
from p3d_jax.paper.commands import NO_WEIGHTS, How
from p3d_jax.paper.run import Command, Rows, Table, read_json
from p3d_jax.paper.sets import find_set
from p3d_jax.train import config_file


class Network(NamedTuple):
  """A network that is trained and tested.

  Attributes:
    title: as it is shown.
    recipe: a name of `recipes.RECIPES`.
    dataset: as `find_set` takes it.
    split: that it is tested on.
    schedule: of its blocks.
    flag: of the command line that names its checkpoint.
    flow: it reads optical flow.
  """

  title: str
  recipe: str
  dataset: str
  split: str
  schedule: str = "ABC"
  flag: str = "--checkpoint"
  flow: bool = False


SPORTS1M = {
  "p3d": Network("P3D ResNet", "sports1m_p3d199", "sports1m", "test"),
  "frames": Network(
    "ResNet-152, 2D",
    "sports1m_resnet152",
    "sports1m",
    "test",
    schedule="S",
    flag="--frames-checkpoint",
  ),
}
KINETICS = {
  "rgb": Network("RGB", "kinetics_rgb", "kinetics400", "validation"),
  "flow": Network(
    "flow",
    "kinetics_flow",
    "kinetics400_flow",
    "validation",
    flag="--flow-checkpoint",
    flow=True,
  ),
}


class Choices(NamedTuple):
  """What the user said.

  Attributes:
    data: the folder above the sets.
    out: folder of the table.
    checkpoints: network -> its checkpoint; those that have none are trained.
    weights: file of a ResNet-152 to train from, or "none" for random ones.
    steps: of training; None: the recipe's.
    overrides: "FIELD=VALUE" of the configs.
    clips: of a video; the paper's on Sports-1M are 20.
    sampling: of clips; the paper's are random.
    batch: videos at once.
    workers: processes that decode.
  """

  data: str
  out: str
  checkpoints: dict[str, str]
  weights: str | None = None
  steps: int | None = None
  overrides: tuple[str, ...] = ()
  clips: int = 20
  sampling: str = "random"
  batch: int = 8
  workers: int = 0


def table2(choices: Choices, names: Sequence[str] = ("p3d",)) -> Table:
  """Returns Table 2: Sports-1M.

  Args:
    choices: of the user.
    names: of SPORTS1M, the networks to test.
  """
  lines = _commands(choices, {name: SPORTS1M[name] for name in names})
  keys = ("clip_hit@1", "video_hit@1", "video_hit@5")

  def rows() -> Rows:
    ours = {name: _read(choices, SPORTS1M[name]) for name in names}
    by_title = {SPORTS1M[name].title: ours[name] for name in names}
    return Rows(
      ("network",)
      + tuple(f"paper: {key.replace('_', ' ')}" for key in keys)
      + tuple(f"ours: {key.replace('_', ' ')}" for key in keys),
      tuple(
        (title, *paper, *(by_title.get(title, {}).get(key) for key in keys))
        for title, paper in numbers.TABLE2.items()
      ),
      (_tested(next(iter(ours.values()))),),
      {
        "paper": {k: row._asdict() for k, row in numbers.TABLE2.items()},
        "ours": ours,
      },
    )

  title = "Sports-1M, in percent"
  return Table("table2", title, tuple(lines), rows)


def kinetics(choices: Choices, weights: Sequence[float] | None = None) -> Table:
  """Returns RGB, flow and both on Kinetics-400.

  Args:
    choices: of the user.
    weights: of RGB and flow in their fusion; None: equal.
  """
  lines = _commands(choices, KINETICS)
  fused = os.path.join(choices.out, "kinetics-fused.json")
  files = [
    _result(choices, of)[: -len("json")] + "npz" for of in KINETICS.values()
  ]
  words = ["fuse", *files, "--hits", "1", "5", "--out", fused]
  if weights is not None:
    words += ["--weights", *(f"{weight:g}" for weight in weights)]
  lines.append(Command(tuple(words)))  # in seconds

  def rows() -> Rows:
    ours = {name: _read(choices, of) for name, of in KINETICS.items()}
    both = read_json(fused)
    assert both is not None  # its command ended well
    ours["fused"] = both["fused"]
    share = " and ".join(f"{row['weight']:.2f}" for row in both["streams"])
    titles = {name: of.title for name, of in KINETICS.items()}
    titles["fused"] = f"both, by {share}"
    return Rows(
      ("stream", "release: video hit@1", "ours: video hit@1")
      + ("ours: video hit@5", "ours: clip hit@1"),
      tuple(
        (
          title,
          numbers.KINETICS.get(name),
          ours[name]["video_hit@1"],
          ours[name]["video_hit@5"],
          ours[name].get("clip_hit@1"),
        )
        for name, title in titles.items()
      ),
      (
        _tested(ours["rgb"]),
        "The release's numbers are its authors' in their issue tracker; with "
        "which clips is not stated. The paper has no table of it.",
      ),
      {"paper": numbers.KINETICS, "ours": ours, "streams": both["streams"]},
    )

  title = "Kinetics-400, in percent"
  return Table("kinetics", title, tuple(lines), rows)


def _commands(choices: Choices, networks: dict[str, Network]) -> list[Command]:
  """Trains what has no checkpoint, and tests all."""
  missing = [
    of for name, of in networks.items() if name not in choices.checkpoints
  ]
  _check(choices, missing)
  how = How(
    Views(choices.clips, choices.sampling), choices.batch, choices.workers
  )
  lines = []
  for name, of in networks.items():
    splits = (of.split, "train") if of in missing else (of.split,)
    data = find_set(choices.data, of.dataset, splits)
    checkpoint = choices.checkpoints.get(name)
    if checkpoint is None:
      checkpoint = os.path.join(choices.out, "runs", of.recipe)
      lines += _training(choices, of, data, checkpoint)
    out = _result(choices, of)
    lines.append(
      commands.evaluate(checkpoint, out, how, data=data, split=of.split)
    )
  return lines


def _check(choices: Choices, missing: Sequence[Network]) -> None:
  for path in choices.checkpoints.values():
    commands.check_checkpoint(path)
  if missing and choices.weights is None:
    of = missing[0]
    raise ValueError(
      f"{of.flag} or --weights is missing: {of.title} is a checkpoint that is "
      "tested, or is trained from a ResNet-152 of ImageNet, a file that `p3d "
      "inflate` reads ('none': from random weights)"
    )
  if choices.steps is not None and choices.steps < 1:
    raise ValueError(f"--steps is {choices.steps}: it must be >= 1")
  for of in missing:  # a wrong field, before hours of work
    config_file.load(commands.config_words(of.recipe)[1], _flags(choices))


def _flags(choices: Choices) -> list[str]:
  flags = commands.random_weights() if choices.weights == NO_WEIGHTS else []
  if choices.steps is not None:
    flags.append(f"--config.train.steps={choices.steps}")
  return [*flags, *(f"--config.{field}" for field in choices.overrides)]


def _training(
  choices: Choices, of: Network, data: str, workdir: str
) -> list[Command]:
  """Inflates the 2D weights and trains."""
  if choices.weights == NO_WEIGHTS or choices.weights is None:
    return [commands.train(of.recipe, workdir, data, None, _flags(choices))]
  folder = os.path.join(choices.out, "weights", of.recipe)
  return [
    commands.inflate(
      choices.weights, folder, "p3d199", of.schedule, flow=of.flow
    ),
    commands.train(of.recipe, workdir, data, folder, _flags(choices)),
  ]


def _result(choices: Choices, of: Network) -> str:
  """Returns the file of an evaluation; its scores end in .npz."""
  return os.path.join(choices.out, f"{of.recipe}.json")


def _read(choices: Choices, of: Network) -> dict[str, Any]:
  """Returns an evaluation; its classes stay in its file."""
  found = read_json(_result(choices, of))
  assert found is not None  # its command ended well
  return {k: v for k, v in found.items() if k != "per_class"}


def _tested(found: dict[str, Any]) -> str:
  lost = found["unreadable"]
  missed = f"; {lost} could not be read and count as missed" if lost else ""
  return (
    f"{found['videos']} videos of {found['split']}, "
    f"{Views(**found['views']).told()}{missed}."
  )
