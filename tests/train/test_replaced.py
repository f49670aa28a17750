"""Training and evaluating with videos that cannot be read."""

import functools
import json
import pathlib
from typing import Any

import numpy as np
import pytest
from etils import epath

from p3d_jax.data import store
from p3d_jax.data.clips import Views
from p3d_jax.data.pipeline import Reading
from p3d_jax.data.sets import open_set
from p3d_jax.evaluate.evaluate import evaluate
from p3d_jax.train import logs
from p3d_jax.train import replaced as replacing
from p3d_jax.train.loop import train
from p3d_jax.train.replaced import (
  Replaced,
  TooManyUnreadableError,
  check_evaluation,
)
from tests import small

DECODER = "tests.bad_decoders:SometimesNoVideo"
BAD = {3: b"hang", 7: b"crash", 11: b"damaged"}


@functools.cache
def damaged_set() -> str:
  """16 and 10 videos, three of the first that cannot be read."""
  folder = small.folder() / "damaged"
  sound = [open_set(small.dataset(), split) for split in ("train", "test")]
  records = [dict(videos[k]) for videos in sound for k in range(len(videos))]
  for k, damage in BAD.items():
    records[k]["video"] = damage
  for record in records:
    record["segment_labels"] = []
  ids = [record["id"] for record in records]
  store.write_set(
    epath.Path(folder),
    store.Description("damaged", "", sound[0].label_names),
    ids,
    lambda k: records[k],
    lists={"train": ids[:16], "test": ids[16:], "bad": ids[:4]},
    documents={},
    report=lambda written: {},
    workers=1,
    progress=False,
  )
  return str(folder)


def config(**sections: dict[str, Any]) -> Any:
  data = {"dir": damaged_set(), "decoder": DECODER}
  reading = {"timeout": 4.0, "threads": 1, "max_replaced": 1.0}
  return small.config(
    **{
      **sections,
      "data": data | sections.get("data", {}),
      "input": reading | sections.get("input", {}),
    }
  )


def lines(workdir: pathlib.Path, kind: str) -> list[dict[str, Any]]:
  return [line for line in logs.read(workdir) if line["kind"] == kind]


def test_a_run_goes_past_what_hangs_and_crashes(tmp_path: pathlib.Path) -> None:
  train(config(), tmp_path)
  steps = lines(tmp_path, "train")
  # 4 steps of 8 are two epochs of 16, each with the same three.
  assert [line["step"] for line in steps] == [1, 2, 3, 4]
  assert steps[0]["replaced"] + steps[1]["replaced"] == 3
  assert steps[2]["replaced"] + steps[3]["replaced"] == 3
  problems = [line["problem"] for line in lines(tmp_path, "replaced")]
  assert len(problems) == 3  # each is said once
  for said in (
    "not done after 4 seconds", "crashed (SIGSEGV)", "Invalid data",
  ):  # fmt: skip
    assert sum(said in problem for problem in problems) == 1
  assert all(np.isfinite(line["loss"]) for line in steps)


def test_a_resumed_run_replaces_by_the_same(tmp_path: pathlib.Path) -> None:
  train(config(), tmp_path / "whole")
  # All threads and no guard but for what hangs: nothing of it changes a step.
  halted = config(input={"threads": 2})
  halted.train.steps = 2
  train(halted, tmp_path / "halted")
  record = json.loads((tmp_path / "halted" / "config.json").read_text())
  record["train"]["steps"] = 4
  (tmp_path / "halted" / "config.json").write_text(json.dumps(record))
  train(config(), tmp_path / "halted")
  said = [lines(tmp_path / run, "replaced") for run in ("whole", "halted")]
  assert [line["problem"] for line in said[0]] == [
    line["problem"] for line in said[1]
  ]
  one, two = (
    [
      {name: line[name] for name in ("step", "loss", "accuracy", "replaced")}
      for line in lines(tmp_path / run, "train")
    ]
    for run in ("whole", "halted")
  )
  assert one == two


def test_too_many_stop_the_run(tmp_path: pathlib.Path) -> None:
  with pytest.raises(
    TooManyUnreadableError,
    match=r"3 of the last 16 clips had to be replaced, more than "
    r"config.input.max_replaced=0.002 of 1000; the last: record .* "
    "`p3d data check`",
  ):
    train(config(input={"max_replaced": 0.002}), tmp_path)
  assert len(lines(tmp_path, "replaced")) == 3


def test_an_evaluation_counts_them_as_missed(tmp_path: pathlib.Path) -> None:
  """Of the list of four, one hangs."""
  result = evaluate(
    small.trained(),
    data=damaged_set(),
    split="bad",
    views=Views(2),
    reading=Reading(timeout=4.0, decoder=DECODER),
  )
  sound = evaluate(
    small.trained(), data=damaged_set(), split="bad[:3]", views=Views(2)
  )
  assert result["videos"] == 4
  assert result["unreadable"] == 1
  assert len(result["problems"]) == 1
  assert "not done after 4 seconds" in result["problems"][0]
  for name in ("clip_hit@1", "video_hit@1", "video_hit@5"):
    assert result[name] == pytest.approx(sound[name] * 3 / 4)


def test_an_evaluation_of_which_too_much_is_missing_stops_the_run(
  tmp_path: pathlib.Path,
) -> None:
  strict = config(
    data={"train_split": "test", "eval_split": "bad"},
    input={"max_replaced": 0.0},
  )
  with pytest.raises(TooManyUnreadableError, match="1 of 4 videos of the eval"):
    train(strict, tmp_path)
  # What was trained is not lost with it.
  (line,) = lines(tmp_path, "eval")
  assert line["step"] == 2
  assert line["unreadable"] == 1
  assert (tmp_path / "checkpoints" / "2").is_dir()


class Heard:
  """Stands for the log and the bar."""

  def __init__(self) -> None:
    self.heard: list[str] = []

  def say(self, text: str) -> None:
    self.heard.append(text)

  def note(self, step: int, kind: str, fields: dict[str, str]) -> None:
    self.heard.append(f"{step} {kind} {fields['problem']}")


def step(replaced: Replaced, number: int, problem: str = "") -> None:
  """A step of one clip, which may stand for another."""
  rows = {
    "replaced": np.array([bool(problem)], np.int32),
    "problem": np.array([problem]),
  }
  replaced.hold(number, rows)
  replaced.count(number, int(rows["replaced"].sum()))


def test_the_rate_is_of_the_last_thousand() -> None:
  heard: Any = Heard()
  replaced = Replaced(heard, heard, 0.002, batch=1)
  step(replaced, 1, "a")
  step(replaced, 2, "a")  # 2 of 1,000 may be
  for number in range(3, 1001):
    step(replaced, number)
  step(replaced, 1001, "b")  # the first "a" is out
  step(replaced, 1002, "c")  # the second is out as well
  with pytest.raises(TooManyUnreadableError, match="3 of the last 1000 clips"):
    step(replaced, 1003, "d")
  assert heard.heard[:2] == [
    "step 1: a; another video takes its place", "1 replaced a",
  ]  # fmt: skip
  assert len(heard.heard) == 8  # each of a, b, c, d twice


def test_steps_are_counted_when_they_are_settled() -> None:
  """Two steps are under way while the first is counted."""
  heard: Any = Heard()
  replaced = Replaced(heard, heard, 1.0, batch=3)
  for number, problems in ((1, ["a", "", "b"]), (2, ["", "", "c"])):
    found = np.array(problems)
    replaced.hold(number, {"replaced": found != "", "problem": found})
  replaced.count(1, 2)
  assert heard.heard[1::2] == ["1 replaced a", "1 replaced b"]
  replaced.count(2, 1)
  assert heard.heard[5] == "2 replaced c"


def test_hosts_exchange_no_more_than_their_rows(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """Of 256 hosts' 4,096 clips, 16 texts each; the first one says them."""
  heard: Any = Heard()
  asked: list[int] = []

  def gathered(texts: list[str], most: int) -> list[str]:
    asked.append(most)
    return texts

  monkeypatch.setattr(replacing, "gathered", gathered)
  monkeypatch.setattr(replacing.jax, "process_index", lambda: 7)
  replaced = Replaced(heard, heard, 1.0, batch=4096)
  found = np.array(["a"] + [""] * 15)
  replaced.hold(1, {"replaced": found != "", "problem": found})
  replaced.count(1, 1)
  assert asked == [16]
  assert heard.heard == ["1 replaced a"]  # which the log of this host drops


def test_a_limit_of_zero_stops_at_the_first() -> None:
  heard: Any = Heard()
  replaced = Replaced(heard, heard, 0.0, batch=1)
  step(replaced, 1)
  step(replaced, 2)
  with pytest.raises(TooManyUnreadableError, match="1 of the last 3 clips"):
    step(replaced, 3, "a")


def test_the_share_of_an_evaluation() -> None:
  check_evaluation(("a",), 100, 0.01)
  check_evaluation(("a",), 4, 0.01)  # one may always be
  with pytest.raises(TooManyUnreadableError, match="1 of 4 videos.*first: a"):
    check_evaluation(("a",), 4, 0.0)
  with pytest.raises(TooManyUnreadableError, match="2 of 100 videos.*first: a"):
    check_evaluation(("a", "b"), 100, 0.01)
