"""Weights from elsewhere, through the commands that use them."""

import dataclasses
import io
import json
import pathlib
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import jax
import numpy as np
import pytest

import p3d_jax
from p3d_jax import cli
from p3d_jax.checkpoint.model import Record
from p3d_jax.data.sets import open_set
from p3d_jax.evaluate import predict
from p3d_jax.models import zoo
from p3d_jax.models.p3d import abstract_variables
from p3d_jax.preprocess import PREPROCESSINGS
from tests import small

port = pytest.importorskip(
  "tests.reference.port", reason="the reference runs on PyTorch"
)
resnet = pytest.importorskip(
  "tests.reference.resnet", reason="the reference is transformers' ResNet"
)

# jit fuses what is computed one by one by hand: measured 2e-7, of scores in
# 0..1; without XLA's optimisation off it is more.
TOLERANCE = 2e-5


def p3d(*words: object) -> tuple[int, str, str]:
  """Runs `p3d ...` in this process; status, output, errors."""
  out, errors = io.StringIO(), io.StringIO()
  with redirect_stdout(out), redirect_stderr(errors):
    status = cli.main([str(word) for word in words])
  return status, out.getvalue(), errors.getvalue()


# The reference draws numbers for pixels that are not divided.
PIXELS = dataclasses.replace(small.PREPROCESSING, std=(1.0, 1.1, 1.2))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Labels of the small set, and its preprocessing."""
  folder = tmp_path_factory.mktemp("files")
  names = open_set(small.dataset(), "test").label_names
  (folder / "labels.txt").write_text("\n".join(names) + "\n")
  pixels = json.dumps(PIXELS.to_dict())
  (folder / "pixels.json").write_text(pixels)
  return folder


@pytest.fixture(scope="module")
def converted(files: pathlib.Path) -> pathlib.Path:
  net = port.P3D((1, 1, 1, 1), width=8, classes=8)
  port.old_file(files / "port.pth", port.random_(net, seed=0).state_dict())
  status, out, errors = p3d(
    "convert", files / "port.pth", "--out", files / "converted", "--rule",
    "port", "--schedule", "BCA", "--labels", files / "labels.txt",
    "--preprocessing", files / "pixels.json",
  )  # fmt: skip
  assert (status, errors) == (0, "")
  assert out.endswith(f"{files / 'converted'}\n")
  return files / "converted"


@pytest.fixture(scope="module")
def inflated(files: pathlib.Path) -> pathlib.Path:
  net = resnet.build(50, width=8, classes=8)
  state = resnet.torchvision_names(net.state_dict())
  tensors = {name: port.torch.from_numpy(v) for name, v in state.items()}
  port.torch.save(tensors, files / "resnet50.pth")
  status, _, errors = p3d(
    "inflate", files / "resnet50.pth", "--out", files / "inflated",
    "--labels", files / "labels.txt", "--preprocessing", files / "pixels.json",
  )  # fmt: skip
  assert (status, errors) == (0, "")
  return files / "inflated"


def by_hand(loaded: Any, video: Any, clips: int) -> np.ndarray:
  """Scores (clips, classes) by the lines of Python that the README has."""
  module, variables, record = loaded
  pixels = p3d_jax.read_clips(video, record.preprocessing, clips)
  logits: Any = module.apply(variables, record.preprocess(pixels))
  return np.asarray(jax.nn.softmax(logits), np.float64)


def test_evaluate_converted(
  converted: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  status, text, errors = p3d(
    "evaluate", converted, "--data", small.dataset(), "--split", "test",
    "--clips", 2, "--batch", 4, "--out", tmp_path / "found.json",
  )  # fmt: skip
  assert status == 0, errors
  found = json.loads((tmp_path / "found.json").read_text())
  videos, loaded = open_set(small.dataset(), "test"), p3d_jax.load(converted)
  clip, video, five = [], [], []
  for k in range(len(videos)):
    label = int(videos[k]["labels"][0])
    scores = by_hand(loaded, videos[k]["video"], 2)
    clip += [int(np.argmax(row)) == label for row in scores]
    ranked = np.argsort(-scores.mean(0), kind="stable")
    video.append(ranked[0] == label)
    five.append(label in ranked[:5])
  assert found["clip_hit@1"] == pytest.approx(100 * np.mean(clip))
  assert found["video_hit@1"] == pytest.approx(100 * np.mean(video))
  assert found["video_hit@5"] == pytest.approx(100 * np.mean(five))
  assert found["checkpoint"] == str(converted)
  assert tuple(found["per_class"]) == videos.label_names
  assert f"written to {tmp_path / 'found.json'}" in text


@pytest.mark.parametrize("kind", ["converted", "inflated"])
def test_predict(kind: str, request: pytest.FixtureRequest) -> None:
  folder = request.getfixturevalue(kind)
  paths = sorted(small.footage().glob("*.mp4"))[1:3]
  status, text, errors = p3d(
    "predict", folder, *paths, "--clips", 3, "--top", 8, "--json"
  )
  assert status == 0, errors
  rows = [json.loads(line) for line in text.splitlines()]
  assert [row["path"] for row in rows] == [str(path) for path in paths]
  labels = open_set(small.dataset(), "test").label_names
  loaded, tops = p3d_jax.load(folder), []
  for row, path in zip(rows, paths, strict=True):
    expected = by_hand(loaded, path, 3).mean(0)
    found = {top["label"]: top["score"] for top in row["top"]}
    np.testing.assert_allclose(
      [found[name] for name in labels], expected, atol=TOLERANCE
    )
    scores = [top["score"] for top in row["top"]]
    assert scores == sorted(scores, reverse=True)
    tops.append(expected)
  # Another video's scores, or those of another order of names, would show.
  assert np.abs(tops[0] - tops[1]).max() > 100 * TOLERANCE
  assert np.diff(np.sort(tops[0])).min() > 2 * TOLERANCE


@pytest.mark.parametrize(
  ("kind", "source", "laid"),
  [("converted", "port.pth", "BCA"), ("inflated", "resnet50.pth", "ABC")],
)
def test_info(
  kind: str, source: str, laid: str, request: pytest.FixtureRequest
) -> None:
  folder = request.getfixturevalue(kind)
  status, text, _ = p3d("info", folder)
  assert status == 0
  assert f"{kind} from {source}" in text
  status, text, _ = p3d("info", folder, "--json")
  assert status == 0
  record = json.loads(text)
  assert record["provenance"]["kind"] == kind
  assert record["model"]["schedule"] == laid
  names = open_set(small.dataset(), "test").label_names
  assert tuple(record["labels"]) == names
  assert record["preprocessing"] == PIXELS.to_dict()


def save(folder: pathlib.Path, kind: str) -> pathlib.Path:
  """A trunk, or a network of flow."""
  fields: dict[str, Any] = {"width": 4, "stages": (1, 1, 1, 1)}
  classes, pixels = (None, small.PREPROCESSING)
  if kind == "flow":
    classes, pixels = 8, PREPROCESSINGS["released_flow"]
  module = zoo.build(None, num_classes=classes, **fields)
  shapes = abstract_variables(module, len(pixels.mean))
  variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  names = () if classes is None else tuple("abcdefgh")
  record = Record(zoo.to_fields(module), pixels, names)
  p3d_jax.save(folder / kind, variables, record)
  return folder / kind


@pytest.mark.parametrize(
  ("kind", "rule"),
  [
    ("trunk", "is a trunk, without classes: nothing can be classified by it"),
    ("flow", "reads flow, which video files do not hold"),
  ],
  ids=("trunk", "flow"),
)
def test_what_classifies_no_videos_is_refused_first(
  kind: str, rule: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Before the weights are read, or a video."""
  folder = save(tmp_path, kind)
  monkeypatch.setattr(predict.model, "load", None)
  for words in (
    ("predict", folder, tmp_path / "missing.mp4"),
    ("evaluate", folder, "--data", tmp_path / "missing", "--split", "test"),
  )[: 1 if kind == "flow" else 2]:  # built sets can hold flow
    status, out, errors = p3d(*words)
    assert (status, out) == (2, "")
    assert errors == f"p3d {words[0]}: {folder} {rule}\n"
