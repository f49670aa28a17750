"""Tables 3 to 6: what the representation is worth, on five benchmarks.

Features of one network, by the rows of `protocols.py`, and what reads them.
Tables and figures over the same videos share the file of features in OUT.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from p3d_jax.data.clips import Views
from p3d_jax.paper import commands, numbers
from p3d_jax.paper.commands import How
from p3d_jax.paper.protocols import PROTOCOLS, Protocol
from p3d_jax.paper.run import Command, Rows, Table, read_json
from p3d_jax.paper.sets import find_set


class Choices(NamedTuple):
  """What the user said.

  Attributes:
    checkpoint: of the network whose features are taken.
    data: the folder above the sets.
    out: folder of the table.
    clips: of a video.
    sampling: of clips; None: the protocol's.
    batch: videos at once.
    workers: processes that decode.
    max_missing: videos that may have no features.
  """

  checkpoint: str
  data: str
  out: str
  clips: int | None = None
  sampling: str | None = None
  batch: int = 8
  workers: int = 0
  max_missing: int = 0


class Source(NamedTuple):
  """The features of a benchmark's videos.

  Attributes:
    protocol: of the benchmark.
    data: folder of its set.
    file: of the features.
    command: that makes it.
  """

  protocol: Protocol
  data: str
  file: str
  command: Command


def source(choices: Choices, name: str) -> Source:
  """Returns the features that a row of PROTOCOLS needs.

  Raises:
    ValueError: there is no such checkpoint or set.
  """
  protocol = PROTOCOLS[name]
  commands.check_checkpoint(choices.checkpoint)
  data = find_set(choices.data, protocol.dataset, protocol.splits)
  views = Views(
    choices.clips or protocol.clips,
    choices.sampling or protocol.sampling,
    protocol.crops,
  )
  file = os.path.join(choices.out, f"features-{protocol.dataset}.npz")
  command = commands.features(
    choices.checkpoint,
    data,
    file,
    How(views, choices.batch, choices.workers),
    split=protocol.split,
    endpoints=protocol.endpoints,
    pool=protocol.pool,
  )
  return Source(protocol, data, file, command)


def result_of(choices: Choices, of: Source, verb: str | None = None) -> str:
  """Returns the file of what a verb makes of features."""
  verb = verb or of.protocol.verb
  return os.path.join(choices.out, f"{verb}-{of.protocol.dataset}.json")


def read(path: str) -> dict[str, Any]:
  """Reads what a command of the table wrote."""
  found = read_json(path)
  assert found is not None  # its command ended well
  return found


def classify(choices: Choices, of: Source, verb: str | None = None) -> Command:
  """Returns the command that reads the features of a benchmark.

  Args:
    choices: of the user.
    of: the features.
    verb: "svm", "pca", "scenes" or "similarity"; None: the protocol's.
  """
  protocol = of.protocol
  verb = verb or protocol.verb
  words = [verb, of.file]
  if protocol.train:
    words += ["--train", *protocol.train, "--test", *protocol.test]
  if verb == "similarity":
    words += ["--endpoints", *protocol.endpoints]
  else:
    words += ["--endpoint", *protocol.endpoints]
  words += ["--normalize", protocol.normalize]
  words += ["--costs", *(f"{cost:g}" for cost in protocol.costs)]
  if protocol.folds is not None:
    words += ["--folds", str(protocol.folds)]
  if verb == "svm":
    words += ["--hits", *map(str, protocol.hits)]
  words += ["--max-missing", str(choices.max_missing)]

  def same(found: dict[str, Any]) -> bool:
    pairs = list(zip(protocol.train, protocol.test, strict=True))
    lists = [(s["train"], s["test"]) for s in found.get("splits", ())]
    folds = found["folds"] if protocol.folds is not None else None
    endpoints = tuple(found.get("endpoints", (found.get("endpoint"),)))
    return (
      lists == pairs
      and folds == protocol.folds
      and endpoints == protocol.endpoints
      and found["normalize"] == protocol.normalize
      and tuple(found["costs"]) == protocol.costs
    )

  out = result_of(choices, of, verb)
  key = "features_about" if verb == "similarity" else "features"
  return commands.of_features(words, out, of.file, key=key, same=same)


def _table(
  name: str,
  title: str,
  sources: Sequence[Source],
  choices: Choices,
  rows: Callable[[], Rows],
) -> Table:
  """Features of each benchmark, then what reads them."""
  lines = [of.command for of in sources]
  lines += [classify(choices, of) for of in sources]
  return Table(name, title, tuple(lines), rows)


def table3(choices: Choices) -> Table:
  """Returns Table 3: UCF101 by a linear SVM on pool5."""
  of = source(choices, "ucf101_svm")

  def rows() -> Rows:
    found = read(result_of(choices, of))
    accuracy = "video_hit@1"
    ours = [found["mean"][accuracy]]
    ours += [split[accuracy] for split in found["splits"]]
    nothing = (None,) * len(ours)
    return Rows(
      ("network", "paper: mean of 3 splits", "ours: mean")
      + tuple(f"ours: split {k}" for k in range(1, len(ours))),
      tuple(
        (title, paper, *(ours if title == "P3D ResNet" else nothing))
        for title, paper in numbers.UCF101.items()
      ),
      (_how(of, found), *_videos(found["splits"])),
      {"paper": numbers.UCF101, "ours": found},
    )

  title = "UCF101: linear SVM on pool5 of one network, accuracy in percent"
  return _table("table3", title, [of], choices, rows)


def table4(choices: Choices) -> Table:
  """Returns Table 4: ActivityNet's validation videos."""
  of = source(choices, "activitynet_svm")

  def rows() -> Rows:
    found = read(result_of(choices, of))
    ours = found["mean"]
    titles = {"video_hit@1": "top-1", "video_hit@3": "top-3", "mAP": "mAP"}
    return Rows(
      ("number", "paper", "ours"),
      tuple(
        (shown, f"{numbers.ACTIVITYNET[key]:.2f}", f"{ours[key]:.2f}")
        for key, shown in titles.items()
      ),
      (_how(of, found), *_videos(found["splits"])),
      {"paper": numbers.ACTIVITYNET, "ours": found},
    )

  title = "ActivityNet v1.3, validation: linear SVM on pool5, in percent"
  return _table("table4", title, [of], choices, rows)


def table5(choices: Choices) -> Table:
  """Returns Table 5: ASLAN's pairs of videos."""
  of = source(choices, "aslan_similarity")

  def rows() -> Rows:
    found = read(result_of(choices, of))
    return Rows(
      ("number", "paper", "ours", "ours +-"),
      (
        (
          "accuracy",
          numbers.ASLAN["accuracy"],
          found["accuracy"],
          found["accuracy_standard_error"],
        ),
        ("AUC", numbers.ASLAN["auc"], found["auc"], found["auc_deviation"]),
      ),
      (
        f"{found['pairs']} pairs in {len(found['folds'])} folds; "
        f"{found['numbers']} similarities of {', '.join(found['endpoints'])}, "
        f"{_views(found['features_about']['views'])}. +- is the standard error "
        "of the accuracy, and the deviation of the AUC over folds.",
        f"Similarities: {found['similarities_source']}.",
      ),
      {"paper": numbers.ASLAN, "ours": found},
    )

  title = "ASLAN: same action or not, in percent"
  return _table("table5", title, [of], choices, rows)


SCENES = ("dynamic_scene", "yupenn")


def table6(choices: Choices, names: Sequence[str] = SCENES) -> Table:
  """Returns Table 6: dynamic scenes, each video left out once.

  Args:
    choices: of the user.
    names: of SCENES, those to run.
  """
  sources = [source(choices, name) for name in names]

  def rows() -> Rows:
    found = {o.protocol.dataset: read(result_of(choices, o)) for o in sources}
    accuracy = "video_hit@1"
    return Rows(
      ("dataset", "paper", "ours", "videos"),
      tuple(
        (
          of.protocol.title,
          numbers.SCENES[of.protocol.dataset],
          found[of.protocol.dataset][accuracy],
          found[of.protocol.dataset]["videos"],
        )
        for of in sources
      ),
      tuple(
        f"{of.protocol.title}: {_how(of, found[of.protocol.dataset])}"
        for of in sources
      ),
      {"paper": numbers.SCENES, "ours": found},
    )

  title = "Dynamic scenes: leave one video out, accuracy in percent"
  return _table("table6", title, sources, choices, rows)


def _how(of: Source, found: dict[str, Any]) -> str:
  """Says what a number is of."""
  costs = ", ".join(f"{cost:g}" for cost in found["costs"])
  several = len(found["costs"]) > 1
  chosen = f"chosen from {costs} by cross-validation" if several else costs
  return (
    f"{found['endpoint']}, {_views(found['features']['views'])}; normalised: "
    f"{found['normalize']}; cost {chosen}. The paper states neither "
    "normalisation nor cost."
  )


def _views(views: dict[str, Any]) -> str:
  return f"mean of {Views(**views).told()}"


def _videos(splits: Sequence[dict[str, Any]]) -> tuple[str, ...]:
  """Says how many videos there were, and which were lost."""
  lines = []
  for split in splits:
    lost = split.get("unreadable", 0) + split.get("untested", 0)
    lost += split["left_out"]
    lines.append(
      f"{split['test']}: {split['videos']} videos, {split['train_videos']} to "
      f"train on; {lost} could not be used"
    )
  return ("; ".join(lines) + ".",)
