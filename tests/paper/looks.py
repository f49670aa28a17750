"""Small datasets in their releases' layouts, whose answer is in the colours."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from p3d_jax import cli
from p3d_jax.checkpoint import model
from p3d_jax.data.builders import build
from p3d_jax.data.builders.table import DATASETS
from p3d_jax.data.encode import encode
from p3d_jax.models import zoo
from tests import small

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
YELLOW, CYAN, PINK, WHITE = (
  *((255, 255, 0), (0, 255, 255)),
  *((255, 0, 255), (255, 255, 255)),
)
ALL = (RED, GREEN, BLUE, YELLOW, CYAN, PINK, WHITE)
Colour = tuple[int, int, int]


@functools.cache
def film(*colours: Colour) -> bytes:
  """Four frames of each colour, 36x36 pixels: a clip each."""
  plane = np.ones((36, 36, 1), np.uint8)
  frames = [plane * np.array(c, np.uint8) for c in colours for _ in range(4)]
  return encode(frames, fps=8)


def put(root: pathlib.Path, name: str, *colours: Colour) -> None:
  path = root / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(film(*colours))


def write(root: pathlib.Path, name: str, lines: Sequence[str] | Any) -> None:
  """Writes lines, or JSON."""
  path = root / name
  path.parent.mkdir(parents=True, exist_ok=True)
  text = json.dumps(lines) if isinstance(lines, dict) else "\n".join(lines)
  path.write_text(text + "\n")


def built(name: str, source: pathlib.Path, out: pathlib.Path, **options: Any):
  """Builds a set as `p3d data build NAME` does; returns its folder."""
  return build.build_dataset(
    DATASETS[name],
    source,
    out,
    workers=1,
    max_missing=10_000,  # of the release's videos
    progress=False,
    options=options,
  ).folder


def clips(*colours: Colour) -> np.ndarray:
  """Returns normalised clips of one colour each, as the network takes them."""
  plane = np.ones((4, 32, 32, 1), np.uint8)
  pixels = [plane * np.array(colour, np.uint8) for colour in colours]
  return np.asarray(small.PREPROCESSING.normalize(np.stack(pixels)))


def far_apart(module: Any, variables: Any) -> Any:
  """Returns variables whose features of the colours are far from each other.

  Those of an untrained network have cosines of 0.99. Here the mean over the
  colours is taken away before the last ReLU of each stage.
  """
  lift = 1000.0  # so much above 0 that the ReLU lets everything pass
  apply = jax.jit(
    functools.partial(module.apply, endpoints=("res2", "res3", "res4", "res5"))
  )
  for stage in ("res2", "res3", "res4", "res5"):
    bn = variables["params"][stage]["block00"]["expand"]["bn"]
    bn["bias"] += lift
    _, ends = apply(variables, clips(*ALL))
    bn["bias"] -= ends[stage].mean((0, 1, 2, 3))
  return variables


def checkpoint(seed: int = 0) -> str:
  """An untrained network: colours are told apart without learning."""
  return _checkpoint(seed)


@functools.cache
def _checkpoint(seed: int) -> str:
  path = small.folder() / "checkpoint"
  module = small.network()
  made = far_apart(module, small.variables(module, seed))
  made["params"]["head"]["fc"]["kernel"] *= 0.01  # else all scores are 0 or 1
  model.save(path, made, small.record(module))
  return str(path)


def p3d(*words: object) -> int:
  """Runs a command line in this process."""
  return cli.main([str(word) for word in words])


def result(out: pathlib.Path, name: str) -> dict[str, Any]:
  """Reads the JSON of a table; its Markdown must be there too."""
  assert (out / f"{name}.md").read_text().count("|") > 8
  return json.loads((out / f"{name}.json").read_text())


def row(found: dict[str, Any], title: str) -> dict[str, Any]:
  """Returns the row of a table whose first cell is `title`, by columns."""
  (cells,) = [row for row in found["rows"] if row[0] == title]
  return dict(zip(found["columns"], cells, strict=True))


def planted(
  labels: Sequence[str],
  answers: dict[Colour, Sequence[float]],
  bias: Sequence[float] = (),
  **changes: Any,
) -> str:
  """Plants answers: a network that says of a colour what is asked for.

  Args:
    labels: of its classes.
    answers: colour -> the logits of a clip of it.
    bias: of the logits; () 0.
    **changes: of the preprocessing. With other channels than three colours
      there may be no answers, and all clips have the logits `bias`.

  Returns:
    A checkpoint.
  """
  module = zoo.build(
    None, num_classes=len(labels), width=4, stages=(1, 1, 1, 1)
  )
  pixels = dataclasses.replace(small.PREPROCESSING, **changes)
  made = small.variables(module)
  if len(pixels.mean) == 2:  # flow: any two of the colours' filters
    conv1 = made["params"]["stem"]["conv"]
    conv1["kernel"] = conv1["kernel"][..., :2, :]
  head = made["params"]["head"]["fc"]
  head["kernel"] = np.zeros_like(head["kernel"])
  head["bias"] = np.array(bias or [0.0] * len(labels), np.float32)
  if answers:
    made = far_apart(module, made)
    _, ends = module.apply(made, clips(*answers), endpoints=("pool5",))
    features = np.asarray(ends["pool5"], np.float64)
    wanted = np.array(list(answers.values())) - head["bias"]
    head["kernel"] = (np.linalg.pinv(features) @ wanted).astype(np.float32)
  path = small.folder() / "checkpoint"
  record = model.Record(
    model=zoo.to_fields(module),
    preprocessing=pixels,
    labels=tuple(labels),
    provenance={"kind": "test"},
  )
  model.save(path, made, record)
  return str(path)
