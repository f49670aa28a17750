"""A table runs its commands once, in order, and says which one failed."""

import json
import pathlib
from collections.abc import Sequence

import pytest

from p3d_jax.paper import run


class Recorder:
  """Stands for the command line: notes what it is told to run."""

  def __init__(self, statuses: dict[str, int] | None = None) -> None:
    self.ran: list[tuple[str, ...]] = []
    self.statuses = statuses or {}

  def __call__(self, words: Sequence[str]) -> int:
    self.ran.append(tuple(words))
    print("what a command prints")
    return self.statuses.get(words[0], 0)


def table(*commands: run.Command) -> run.Table:
  rows = run.Rows(
    ("network", "accuracy"), (("2D", 80.84), ("F", None)), ("A note.",)
  )
  return run.Table("table9", "Table 9", commands, lambda: rows)


def test_markdown_by_hand(tmp_path: pathlib.Path) -> None:
  text = run.run_table(table(), tmp_path, Recorder())
  assert text == (
    "Table 9\n\n"
    "| network | accuracy |\n"
    "|---------|----------|\n"
    "| 2D      | 80.8     |\n"
    "| F       | -        |\n\n"
    "A note.\n"
  )
  assert (tmp_path / "table9.md").read_text() == text
  found = json.loads((tmp_path / "table9.json").read_text())
  assert found["rows"] == [["2D", 80.84], ["F", None]]
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    "table9.json",
    "table9.md",
  ]


def test_what_is_done_is_not_run_and_the_rest_is_in_order(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  commands = [
    run.Command(("train", "a b")),
    run.Command(("evaluate", "a"), done=lambda: True),
    run.Command(("svm", "c")),
  ]
  recorder = Recorder()
  text = run.run_table(table(*commands), tmp_path / "x" / "y", recorder)
  assert recorder.ran == [("train", "a b"), ("svm", "c")]
  out, err = capsys.readouterr()
  assert out == ""
  assert "what a command prints" in err
  assert "[2/3] is done: p3d evaluate a\n" in err
  assert text.startswith("Table 9")
  lines = run.command_lines(table(*commands)).splitlines()
  assert lines == ["p3d train 'a b'", "p3d evaluate a", "p3d svm c"]


def test_a_failure_names_its_command_and_leaves_no_table(
  tmp_path: pathlib.Path,
) -> None:
  commands = [run.Command(("train", "a b")), run.Command(("svm", "c"))]
  recorder = Recorder({"train": 2})
  with pytest.raises(ValueError, match=r"`p3d train 'a b'` .* status 2") as e:
    run.run_table(table(*commands), tmp_path, recorder)
  assert "\n" not in str(e.value)
  assert recorder.ran == [("train", "a b")]
  assert list(tmp_path.iterdir()) == []


def test_unreadable_videos_are_an_answer_where_the_command_says_so(
  tmp_path: pathlib.Path,
) -> None:
  command = run.Command(("evaluate", "a"), answers=(0, 1))
  run.run_table(table(command), tmp_path, Recorder({"evaluate": 1}))
  with pytest.raises(ValueError, match="status 1"):
    run.run_table(table(run.Command(("svm",))), tmp_path, Recorder({"svm": 1}))


def test_an_interrupt_goes_up(tmp_path: pathlib.Path) -> None:
  command = run.Command(("train", "a"))
  with pytest.raises(KeyboardInterrupt):
    run.run_table(table(command), tmp_path, Recorder({"train": 130}))


def test_argparse_ending_the_process_is_a_failure(
  tmp_path: pathlib.Path,
) -> None:
  def ends(words: Sequence[str]) -> int:
    raise SystemExit(2)

  with pytest.raises(ValueError, match="`p3d svm` ended with status 2"):
    run.run_table(table(run.Command(("svm",))), tmp_path, ends)


def test_a_file_as_out_is_refused(tmp_path: pathlib.Path) -> None:
  file = tmp_path / "file"
  file.write_text("")
  recorder = Recorder()
  with pytest.raises(ValueError, match="--out is .*: it is a file"):
    run.run_table(table(run.Command(("train",))), file, recorder)
  assert recorder.ran == []
