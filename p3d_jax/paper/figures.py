"""The paper's pictures: the PCA curve, t-SNE of UCF101, and classes.

Their numbers in the paper were not confirmed, so they have names.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from p3d_jax.data.clips import Views
from p3d_jax.evaluate.feature_file import read_about
from p3d_jax.files import absolute
from p3d_jax.paper import commands
from p3d_jax.paper.benchmarks import Choices, classify, read, result_of, source
from p3d_jax.paper.run import Command, Rows, Table


def _files(out: str, name: str) -> tuple[str, str]:
  """Returns the picture of a figure, and its JSON."""
  return os.path.join(out, f"{name}.png"), os.path.join(out, f"{name}.json")


def pca(choices: Choices) -> Table:
  """Returns the accuracy on UCF101 against the PCA size of pool5."""
  of = source(choices, "ucf101_svm")
  png, _ = _files(choices.out, "pca")
  curve = result_of(choices, of, "pca")

  def rows() -> Rows:
    found = read(curve)
    whole = found["without_pca"]
    return Rows(
      ("dimensions", "ours: mean of 3 splits"),
      (
        (f"{whole['size']}, no PCA", whole["video_hit@1"]),
        *((row["size"], row["video_hit@1"]) for row in found["sizes"]),
      ),
      (
        "![accuracy against PCA size](pca.png)",
        "The paper draws 500 down to 10 dimensions, without numbers.",
      ),
      {"ours": found},
    )

  return Table(
    "pca",
    "UCF101: accuracy of a linear SVM against the PCA size of pool5",
    (
      of.command,
      classify(choices, of, "pca"),
      Command(("draw", "pca", curve, "--out", png)),  # in a moment
    ),
    rows,
  )


def tsne(
  choices: Choices, count: int = 10_000, perplexity: float = 30.0
) -> Table:
  """Returns the t-SNE of UCF101's videos.

  Args:
    choices: of the user.
    count: videos at most; the paper's picture has 10,000.
    perplexity: how many neighbours a video has, about; the paper does not say.
  """
  of = source(choices, "ucf101_svm")
  png, table = _files(choices.out, "tsne")
  endpoint = of.protocol.endpoints[0]
  words = ["draw", "tsne", of.file, "--endpoint", endpoint]
  words += ["--count", str(count), "--perplexity", f"{perplexity:g}"]

  def drawn() -> dict[str, Any] | None:
    if not absolute(of.file).exists():
      return None
    about = read_about(of.file)
    names = ("sha256", "data", "split", "views", "pool")
    return {name: about[name] for name in names} | {"videos": about["videos"]}

  def rows() -> Rows:
    about = drawn() or {}
    return Rows(
      ("picture", "paper: videos", "ours: videos"),
      (("t-SNE of pool5", 10_000, min(count, about["videos"])),),
      (
        "![t-SNE of UCF101](tsne.png)",
        f"A point is a video, the mean of {Views(**about['views']).told()}; "
        f"colours are classes. Perplexity {perplexity:g}.",
      ),
      commands.picture_about((*words, "--out", png), png, about),
    )

  return Table(
    "tsne",
    "UCF101: t-SNE of pool5",
    (of.command, commands.picture(words, png, table, drawn)),
    rows,
  )


def classes(
  checkpoint: str,
  out: str,
  labels: Sequence[str] | None = None,
  steps: int = 200,
) -> Table:
  """Returns the pictures of classes, by gradient ascent from noise.

  Args:
    checkpoint: of the network.
    out: folder of the figure.
    labels: names of classes; None: the first of the network.
    steps: of the ascent.
  """
  commands.check_checkpoint(checkpoint)
  png, table = _files(out, "classes")
  words = ["draw", "classes", checkpoint, "--steps", str(steps)]
  words += ["--labels", *labels] if labels else []

  def drawn() -> dict[str, Any] | None:
    found = commands.digest(checkpoint)
    return None if found is None else {"sha256": found}

  def rows() -> Rows:
    return Rows(
      ("picture", "network"),
      (("classes", checkpoint),),
      (
        "![clips that the network takes for a class](classes.png)",
        f"{steps} steps of gradient ascent from noise; which classes the paper "
        "shows was not confirmed.",
      ),
      commands.picture_about((*words, "--out", png), png, drawn() or {}),
    )

  return Table(
    "classes",
    "Classes as the network sees them",
    (commands.picture(words, png, table, drawn),),
    rows,
  )
