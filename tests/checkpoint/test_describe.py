"""What `p3d info` says: the facts of the record, in words."""

import dataclasses
import json
import pathlib
from typing import Any

import pytest

from p3d_jax.checkpoint import describe, model
from p3d_jax.models import zoo
from p3d_jax.preprocess import PREPROCESSINGS


def read(text: str) -> dict[str, str]:
  """Left column -> text; what has no name goes on where it stands."""
  found: dict[str, str] = {}
  name = ""
  for line in text.splitlines():
    left, right = line[:15].strip(), line[15:]
    # Names under a heading are told from it by the indentation.
    if left:
      name = left if line[0] != " " else f"{name.split('/')[0]}/{left}"
      assert name not in found
      found[name] = right
    else:
      found[name] += " " + right
  return found


def described(
  monkeypatch: pytest.MonkeyPatch,
  tmp_path: pathlib.Path,
  record: model.Record,
  report: dict[str, Any] | None = None,
) -> dict[str, str]:
  """Describes a folder that has the record and no weights at all."""
  folder = tmp_path / "mine"
  (folder / "model").mkdir(parents=True)
  content = json.dumps(record.to_json())
  (folder / "model" / "model.json").write_text(content)
  if report is not None:
    (folder / "report").mkdir()
    (folder / "report" / "report.json").write_text(json.dumps(report))
  monkeypatch.setattr(model, "find", lambda path, step: tmp_path / "mine")
  return read(describe.describe(folder))


def converted() -> model.Record:
  module = zoo.build("p3d199", num_classes=101)
  return model.Record(
    model=zoo.to_fields(module),
    preprocessing=PREPROCESSINGS["released_rgb"],
    labels=tuple(str(i) for i in range(101)),
    provenance={
      "kind": "converted",
      "source": {
        "name": "p3d199.pth",
        "kind": "port",
        "container": "torch",
        "sha256": "ab" * 32,
      },
      "choices": {"rule": "released", "stem_pool": None, "exact": False},
      "batches_tracked": {"res2/block00/reduce/bn": 7},
      "p3d_jax": "0.1.0",
      "jax": "0.10.2",
    },
    sha256="cd" * 32,
  )


def test_the_released_network(
  monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
  """Counts and letters are the README's table's and the authors' table's."""
  report = {
    "title": "",
    "used": {"params/a": ["x", "y"], "params/b": ["x"]},
    "unused": {"counts of batches": ["n1", "n2", "n3"]},
    "fresh": {"params/c": "Gaussian", "params/d": "Gaussian"},
    "notes": ["mind the gap"],
  }
  found = described(monkeypatch, tmp_path, converted(), report)
  assert found["model"] == "p3d199: 199 layers, 101 classes"
  assert found["schedule"] == "ABC"
  assert found["schedule/res2"] == "ABC"
  assert found["schedule/res3"] == "ABCABCAB"
  assert found["schedule/res4"] == "CAB" * 12
  assert found["schedule/res5"] == "SSS"
  formulas = "B = relu(s + t), C = relu(0.5 s + 0.5 t)"
  assert found["rule"] == f"released: {formulas}"
  assert found["stem pool"] == "ceil"
  assert "first 1x1x1" in found["stride"]
  assert "epsilon 1e-05" in found["batch norm"]
  assert found["parameters"].startswith("65,879,589, and ")
  pixels = found["preprocessing"]
  for part in ("16 frames, stride 1", "(released_rgb)", "182x242", "160x160"):
    assert part in pixels
  assert "BGR: (pixel - mean) / std" in pixels
  assert found["preprocessing/mean"] == "104, 117, 123"
  assert found["labels"].startswith("101: 0, 1, 2, 3, 4 and 96 more (numbers")
  assert found["provenance"] == "converted from p3d199.pth"
  assert found["provenance/kind"] == "port (torch)"
  assert found["provenance/sha256"] == "ab" * 32
  assert found["provenance/choices"] == "rule=released, exact=false"
  assert found["provenance/made with"] == "p3d_jax 0.1.0, jax 0.10.2"
  said = " ".join(found["report"].split())
  assert said == (
    "2 arrays of the source fill 2 leaves 3 not used: counts of batches "
    "2 leaves fresh: Gaussian note: mind the gap"
  )
  assert found["sha256"] == "cd" * 32
  assert found["format"] == "1"


def test_a_trunk_of_another_kind(
  monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
  module = zoo.build(
    "p3d63", num_classes=None, flavour="torchvision",
    schedule=("A", "BC", "S"), rule="port",
  )  # fmt: skip
  record = model.Record(
    model=zoo.to_fields(module),
    preprocessing=dataclasses.replace(
      PREPROCESSINGS["torchvision"], frames=8, stride=2, fps=12.5
    ),
    labels=(),
    provenance={"source": "a friend", "lot": {"a": [1]}},
  )
  found = described(monkeypatch, tmp_path, record)
  # conv1, 3 A and 2 B and 2 C of four layers, 6 S and res5's 3 of three, fc.
  assert found["model"] == "p3d63: 57 layers, no classifier (a trunk)"
  assert found["schedule"] == "A,BC,S"
  assert found["schedule/res3"] == "BCBC"
  assert found["rule"] == "port: B = s + relu(t), C = s + relu(t)"
  assert found["stem pool"] == "padded"
  assert "first 3x3" in found["stride"]
  assert "8 frames, stride 2, at 12.5 a second" in found["preprocessing"]
  assert "short side to 256, crop 224x224" in found["preprocessing"]
  assert "RGB: (pixel / 255 - mean) / std" in found["preprocessing"]
  assert found["labels"] == "none"
  assert found["provenance"] == "not recorded"
  assert found["provenance/made with"] == "source a friend"
  assert found["provenance/lot"] == '{"a": [1]}'
  assert found["sha256"].startswith("none")
  assert "report" not in found


def test_a_run_that_began_from_weights(
  monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
  origin = {
    "path": "weights/p3d63",
    "sha256": "ab" * 32,
    "head": "fresh",
    "source": "inflated",
  }
  record = dataclasses.replace(
    converted(),
    provenance={"kind": "trained", "step": 7, "init_from": origin},
  )
  found = described(monkeypatch, tmp_path, record)
  assert found["provenance"] == "trained, step 7"
  assert found["provenance/began from"] == (
    "weights/p3d63 (inflated), head fresh"
  )
  assert found["provenance/its sha256"] == "ab" * 32
