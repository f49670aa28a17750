"""The curves are those of metrics.jsonl, number by number."""

import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

from p3d_jax.visualize.curves import (
  curves_figure,
  curves_png,
  run_names,
  running_mean,
)
from tests.visualize.drawing import draw, pixels


def run(
  folder: pathlib.Path, lines: int, scale: float = 1.0, hits: int = 2
) -> list[dict[str, Any]]:
  """Writes a run's metrics.jsonl; returns its lines."""
  folder.mkdir(parents=True)
  rng = np.random.default_rng(lines)
  rows: list[dict[str, Any]] = []
  for k in range(1, lines + 1):
    loss = float(scale * (3 / k + rng.uniform()))
    row = {"step": 10 * k, "kind": "train", "loss": loss}
    rows.append(row | {"learning_rate": 0.1 / k, "accuracy": 0.5})
  for k in range(1, hits + 1):
    row = {"step": 10 * lines * k // hits, "kind": "eval"}
    rows.append(row | {"clip_hit@1": 30.0 * k, "video_hit@1": 40.0 * k})
  rows.append({"step": 10, "kind": "replaced", "problem": "no video"})
  text = "".join(json.dumps(row) + "\n" for row in rows)
  # A kill cut the last line short.
  (folder / "metrics.jsonl").write_text(text + '{"step": 99999, "kin')
  return rows


def column(rows: list[dict[str, Any]], kind: str, name: str) -> np.ndarray:
  found = [(r["step"], r[name]) for r in rows if r["kind"] == kind]
  return np.array(found).T


def drawn(axes: Any) -> list[np.ndarray]:
  return [np.array(line.get_data()) for line in axes.lines]


def test_lines_are_those_of_the_file(tmp_path: pathlib.Path) -> None:
  first, second = run(tmp_path / "one", 30), run(tmp_path / "two", 7, 2)
  figure = curves_figure([tmp_path / "one", tmp_path / "two"])
  loss, hits, rate = figure.axes
  for axes, kind, name in (
    (loss, "train", "loss"),
    (rate, "train", "learning_rate"),
  ):
    lines = drawn(axes)
    assert len(lines) == 2
    assert np.array_equal(lines[0], column(first, kind, name))
    assert np.array_equal(lines[1], column(second, kind, name))
  expected = [
    column(rows, "eval", name)
    for rows in (first, second)
    for name in ("video_hit@1", "clip_hit@1")
  ]
  for line, wanted in zip(drawn(hits), expected, strict=True):
    assert np.array_equal(line, wanted)
  # A colour a run; full and broken lines are the two metrics.
  colors = [line.get_color() for line in hits.lines]
  assert colors[0] == colors[1] != colors[2] == colors[3]
  styles = [line.get_linestyle() for line in hits.lines]
  assert styles == ["-", "--", "-", "--"]
  legend = hits.get_legend()
  assert [text.get_text() for text in legend.texts] == [
    "video hit@1",
    "clip hit@1",
  ]
  # Of one evaluation there are only marks: they tell the metrics apart too.
  marks = [(m.get_marker(), m.get_markersize()) for m in hits.lines]
  assert marks[0] == marks[2] != marks[1] == marks[3]
  shown = legend.get_lines()
  assert [(m.get_marker(), m.get_markersize()) for m in shown] == marks[:2]
  assert [m.get_linestyle() for m in shown] == ["-", "--"]
  # Both are seen where they are of one value: a dot within a hollow square.
  assert marks[0] == ("o", 4)
  assert (*marks[1], hits.lines[1].get_markerfacecolor()) == ("s", 7, "none")
  names = [text.get_text() for text in figure.legends[0].texts]
  assert names == ["one", "two"]


def test_long_runs_have_a_running_mean_and_say_so(
  tmp_path: pathlib.Path,
) -> None:
  rows = run(tmp_path / "run", 240)
  loss = curves_figure([tmp_path / "run"]).axes[0]
  faint, full = loss.lines
  steps, values = column(rows, "train", "loss")
  assert np.array_equal(faint.get_data(), [steps, values])
  assert faint.get_alpha() == 0.3
  # A twentieth of 240 lines, made odd: 13, six before and six after.
  mean = np.convolve(values, np.full(13, 1 / 13), "valid")
  x, y = full.get_data()
  assert np.array_equal(x, steps)
  np.testing.assert_allclose(y[6:-6], mean, rtol=1e-12)
  assert "mean of 13 lines" in loss.get_title(loc="right")
  # Few lines are drawn as they were logged.
  run(tmp_path / "short", 99)
  loss = curves_figure([tmp_path / "short"]).axes[0]
  assert len(loss.lines) == 1
  assert loss.get_title(loc="right") == "as logged"


def test_running_mean_by_hand() -> None:
  found = running_mean(np.array([1.0, 2.0, 6.0, 4.0]), 1)
  assert found.tolist() == [1.5, 3.0, 4.0, 5.0]
  assert running_mean(np.array([3.0]), 4).tolist() == [3.0]


def test_without_evaluations_two_panels_are_drawn(
  tmp_path: pathlib.Path,
) -> None:
  run(tmp_path / "run", 1, hits=0)
  loss, rate = curves_figure([tmp_path / "run"]).axes
  assert loss.get_ylabel() == "training loss"
  assert rate.get_ylabel() == "learning rate"
  # One line of the file is a dot.
  assert loss.lines[0].get_marker() == "o"


def test_the_speed_of_a_run(tmp_path: pathlib.Path) -> None:
  """The first line, of the compiled step alone, has no step time."""
  speeds = [{"clips_per_second": 10.0, "data_wait": 0.5}]
  for k, clips in enumerate((800.0, 1000.0, 900.0, 950.0)):
    found = {f"step_seconds_p{p}": p / 100 + k for p in (50, 90, 99)}
    found |= {"clips_per_second": clips, "clips_per_second_chip": clips / 8}
    found |= {"data_wait": 0.1 * k, "peak_share": 40.0 + k}
    speeds.append(found | {"device_memory_bytes": 2**30 * (3 + k)})
  rows = [
    {"step": 5 * k, "kind": "train", "loss": 1.0, **found}
    for k, found in enumerate(speeds, 1)
  ]
  (tmp_path / "run").mkdir()
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / "run" / "metrics.jsonl").write_text(text)
  _, panel = curves_figure([tmp_path / "run"]).axes
  assert panel.get_ylabel() == "seconds a step"
  (line,) = drawn(panel)
  assert line.tolist() == [[10, 15, 20, 25], [0.5, 1.5, 2.5, 3.5]]
  (shade,) = panel.collections
  corners = shade.get_paths()[0].vertices
  assert {tuple(corner) for corner in corners.round(2)} >= {
    (10, 0.5), (10, 0.99), (25, 3.5), (25, 3.99),
  }  # fmt: skip
  # Medians of 10, 800, 1000, 900, 950 and of 100 to 125; the mean of 0.5, 0,
  # 0.1, 0.2, 0.3; the highest of 3 to 6 GiB.
  assert panel.get_title(loc="left") == (
    "900 clips/s, 115.6 a chip, 22% waiting, 42% of the peak, 6.0 GiB"
  )
  # Of several runs there is no one speed.
  shutil.copytree(tmp_path / "run", tmp_path / "again")
  panel = curves_figure([tmp_path / "run", tmp_path / "again"]).axes[1]
  assert panel.get_title(loc="left") == ""


def test_names_are_as_short_as_tells_runs_apart(
  tmp_path: pathlib.Path,
) -> None:
  assert run_names(["/x/a/run", "/x/b/other"]) == ["run", "other"]
  assert run_names(["/x/a/run", "/x/b/run"]) == ["a/run", "b/run"]
  with pytest.raises(ValueError, match="twice"):
    run_names([tmp_path, f"{tmp_path}/"])


def test_a_name_is_no_formula(tmp_path: pathlib.Path) -> None:
  run(tmp_path / "a$x$", 3)
  figure = curves_figure([tmp_path / "a$x$"])
  assert figure.legends[0].texts[0].get_text() == r"a\$x\$"
  assert curves_png([tmp_path / "a$x$"])


def test_mistakes(tmp_path: pathlib.Path) -> None:
  run(tmp_path / "run", 3)
  with pytest.raises(ValueError, match="workdirs are 0: 1 to 10"):
    curves_png([])
  with pytest.raises(ValueError, match="workdirs are 11: 1 to 10"):
    curves_png([tmp_path / "run"] * 11)
  with pytest.raises(ValueError, match="nothing.*must be a workdir"):
    curves_png([tmp_path / "run", tmp_path / "nothing"])
  with pytest.raises(ValueError, match="must be a workdir|not whole"):
    curves_png([tmp_path / "run" / "metrics.jsonl"])
  (tmp_path / "bad").mkdir()
  (tmp_path / "bad" / "metrics.jsonl").write_text("{}{\n")
  with pytest.raises(ValueError, match=r"metrics.jsonl is no file of a run"):
    curves_png([tmp_path / "bad"])
  (tmp_path / "bad" / "metrics.jsonl").write_text("3\n{}\n")
  with pytest.raises(ValueError, match=r"metrics.jsonl is no file of a run"):
    curves_png([tmp_path / "bad"])


def test_the_verb(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  run(tmp_path / "run", 5)
  out = tmp_path / "curves.png"
  assert draw("curves", tmp_path / "run", "--out", out) == 0
  assert capsys.readouterr().out == f"written to {out}\n"
  shown = pixels(out.read_bytes())
  # 9 inches of 120 dots; a blue line of matplotlib's first colour is there.
  assert shown.shape[1] == 1080
  assert (shown == (31, 119, 180)).all(-1).sum() > 500


@pytest.mark.parametrize(
  ("out", "rule"),
  [
    ("curves.jpg", "must end in .png"),
    ("no/such/curves.png", "there is no such folder"),
    ("folder.png", "it is a folder"),
  ],
)
def test_out_is_checked_before_work(
  tmp_path: pathlib.Path, out: str, rule: str
) -> None:
  (tmp_path / "folder.png").mkdir()
  # The run is not there: that is not even looked at.
  with pytest.raises(ValueError, match=rule):
    draw("curves", tmp_path / "nothing", "--out", tmp_path / out)
