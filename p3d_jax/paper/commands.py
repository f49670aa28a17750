"""The command lines that tables share, and how each knows that it is done.

What is there is taken only if it is of the same checkpoint (by its sha256), set
and clips. Where that would throw work of hours away, it is an error instead.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from etils import epath

from p3d_jax.checkpoint import model
from p3d_jax.data.clips import Views
from p3d_jax.evaluate.feature_file import read_about
from p3d_jax.paper import recipes
from p3d_jax.paper.run import Command, read_json

NO_WEIGHTS = "none"  # as --weights: random ones


class How(NamedTuple):
  """How videos are read.

  Attributes:
    views: clips and crops of each.
    batch: videos at once.
    workers: processes that decode; 0: threads.
  """

  views: Views
  batch: int = 8
  workers: int = 0

  def words(self) -> list[str]:
    """Returns the flags of `p3d evaluate` and `p3d features`."""
    views = self.views
    words = ["--clips", str(views.clips), "--sampling", views.sampling]
    words += ["--crops", str(views.crops), "--batch", str(self.batch)]
    return [*words, "--workers", str(self.workers)]


def digest(path: epath.PathLike) -> str | None:
  """The sha256 of a checkpoint's variables; None where there is none yet."""
  try:
    return model.read_record(model.find(path)).sha256
  except model.CheckpointError:
    return None


def check_checkpoint(path: epath.PathLike) -> None:
  """Raises a ValueError if there is no such checkpoint."""
  model.find(path)


def config_words(recipe: str) -> list[str]:
  """Returns --config of a recipe; relative where that is below this folder."""
  path = os.path.abspath(recipes.__file__)
  near = os.path.relpath(path)
  file = path if near.startswith("..") else near
  return ["--config", f"{file}:{recipe}"]


def inflate(
  weights: str, out: str, network: str, schedule: str, *, flow: bool = False
) -> Command:
  """Makes a network of 2D weights.

  Args:
    weights: a file, or a checkpoint.
    out: folder of the network.
    network: name of the network, as "p3d63".
    schedule: of its blocks.
    flow: it reads optical flow.
  """
  words = ["inflate", weights, "--model", network, "--schedule", schedule]
  words += ["--flow"] if flow else []

  def done() -> bool:
    if digest(out) is None:
      return False
    source = model.read_record(model.find(out)).provenance.get("source", {})
    if source.get("sha256") != _weights_digest(weights):
      raise ValueError(
        f"{out} was made of other weights than --weights {weights}: name "
        "another --out, or remove that folder and the runs that began with it"
      )
    return True

  return Command((*words, "--out", out), done)


def _weights_digest(weights: str) -> str | None:
  """The sha256 of 2D weights as `p3d inflate` notes it."""
  path = epath.Path(weights).expanduser()
  if not path.is_file():
    return digest(path)
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def train(
  recipe: str,
  workdir: str,
  data: str,
  weights: str | None,
  flags: Sequence[str] = (),
) -> Command:
  """Trains a network, or goes on with it.

  Args:
    recipe: a name of `recipes.RECIPES`.
    workdir: of the run.
    data: folder of the set.
    weights: checkpoint that it begins with; None: what `flags` say.
    flags: "--config.FIELD=VALUE".
  """
  words = ["train", *config_words(recipe), "--workdir", workdir]
  words += [f"--config.data.dir={data}"]
  words += [] if weights is None else [f"--config.init_from={weights}"]

  def done() -> bool:
    # A run that is at its end says so and ends: no need to ask for that.
    if weights is not None and digest(workdir) is not None:
      record = model.read_record(model.find(workdir))
      began = record.provenance.get("init_from") or {}
      if began.get("sha256") != digest(weights):
        raise ValueError(
          f"{workdir} is of a run that began with another {weights}: name "
          "another --out, or remove that folder"
        )
    return False

  return Command((*words, *flags), done)


def random_weights() -> list[str]:
  """Returns the flags of a run that begins with random weights."""
  # What is frozen must have been learned.
  return ["--config.init_from=", "--config.norm.freeze=none"]


def evaluate(
  checkpoint: str,
  out: str,
  how: How,
  *,
  data: str | None = None,
  split: str | None = None,
  hits: Sequence[int] = (1, 5),
) -> Command:
  """Evaluates a checkpoint.

  Args:
    checkpoint: a workdir or a folder of variables.
    out: JSON file of the result.
    how: videos are read.
    data: folder of the set; None: the run's.
    split: of it; None: the run's.
    hits: k of hit@k.
  """
  words = ["evaluate", checkpoint]
  words += [] if data is None else ["--data", data]
  words += [] if split is None else ["--split", split]
  words += [*how.words(), "--hits", *map(str, hits), "--out", out]

  def done() -> bool:
    found = read_json(out)
    return (
      found is not None
      and found.get("sha256") is not None
      and found["sha256"] == digest(checkpoint)
      and found["data"] == (data or trained_on(checkpoint))
      and (split is None or found["split"] == split)
      and found.get("views") == dataclasses.asdict(how.views)
      and all(f"video_hit@{k}" in found for k in hits)
      and epath.Path(out).with_suffix(".npz").exists()
    )

  # 1: some videos could not be read, which the result says.
  return Command(tuple(words), done, answers=(0, 1))


def trained_on(checkpoint: str) -> str | None:
  """The folder of the set that a run was trained on; None: not known."""
  return model.read_record(model.find(checkpoint)).provenance.get("data")


def features(
  checkpoint: str,
  data: str,
  out: str,
  how: How,
  *,
  split: str,
  endpoints: Sequence[str],
  pool: str,
) -> Command:
  """Takes features of the videos of a set; see `p3d features`."""
  words = ["features", checkpoint, data, "--split", split]
  words += ["--endpoint", *endpoints, "--pool", pool]
  words += [*how.words(), "--out", out]

  def done() -> bool:
    if not epath.Path(out).exists():
      return False
    found = read_about(out)
    wanted: dict[str, Any] = {
      "sha256": digest(checkpoint) or found.get("sha256"),
      "source": data,
      "split": split,
      "endpoints": list(endpoints),
      "pool": pool,
      "views": dataclasses.asdict(how.views),
    }
    other = [name for name in wanted if found.get(name) != wanted[name]]
    if other:
      raise ValueError(
        f"{out} holds other features, by {', '.join(other)}: name another "
        "--out, or remove that file"
      )
    # Without a sha256 in the checkpoint, the command itself compares.
    return digest(checkpoint) is not None

  return Command(tuple(words), done, answers=(0, 1))


def of_features(
  words: Sequence[str],
  out: str,
  file: str,
  *,
  key: str = "features",
  same: Callable[[dict[str, Any]], bool] = lambda found: True,
) -> Command:
  """A command that reads a file of features and writes JSON.

  Args:
    words: all but --out.
    out: JSON file of the result.
    file: of the features.
    key: field of the result that holds what the features say of themselves.
    same: whether a result was made by these words.
  """

  def done() -> bool:
    found = read_json(out)
    if found is None or not epath.Path(file).exists():
      return False
    about, said = read_about(file), found.get(key, {})
    names = ("sha256", "data", "split", "views", "pool")
    return all(said.get(n) == about.get(n) for n in names) and same(found)

  return Command((*words, "--out", out), done)


def picture(
  words: Sequence[str],
  out: str,
  table: str,
  of: Callable[[], dict[str, Any] | None],
) -> Command:
  """A command that draws.

  Args:
    words: all but --out.
    out: PNG file.
    table: JSON file of the table that the picture is of, which says what was
      drawn: its "about" is what `picture_about` returns.
    of: what is drawn; None while that is not there.
  """
  command = (*words, "--out", out)

  def done() -> bool:
    found, now = read_json(table), of()
    return (
      found is not None
      and now is not None
      and epath.Path(out).exists()
      and found.get("about") == picture_about(command, out, now)
    )

  return Command(command, done)


def picture_about(
  words: Sequence[str], out: str, of: dict[str, Any]
) -> dict[str, Any]:
  """Returns what a table says of its picture."""
  content = epath.Path(out).read_bytes()
  return {
    "picture": os.path.basename(out),
    "sha256": hashlib.sha256(content).hexdigest(),
    "words": list(words),
    "of": of,
  }
