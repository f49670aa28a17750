"""A bar on a terminal, plain lines elsewhere."""

import io

from rich.console import Console

from p3d_jax.progress import Bar


def console(terminal: bool) -> tuple[Console, io.StringIO]:
  out = io.StringIO()
  made = Console(
    file=out, force_terminal=terminal, width=120, soft_wrap=not terminal
  )
  return made, out


class Clock:
  """Seconds that pass when the test says so."""

  now = 1e6

  def __call__(self) -> float:
    return self.now


def test_lines_without_a_terminal() -> None:
  made, out = console(terminal=False)
  with Bar("train", 10, start=4, console=made) as bar:
    bar.say("step 4: [video hit@1] 12.5")
    bar.update(5, {"loss": "1.25"}, line=False)
    bar.update(7, {"loss": "0.5000", "clips/s": "3.0"})
    bar.update(10)
  lines = out.getvalue().splitlines()
  assert lines[0] == "step 4: [video hit@1] 12.5"
  assert lines[1].startswith("train 7/10  loss 0.5000  clips/s 3.0  left 0:0")
  assert lines[2].startswith("train 10/10")
  assert len(lines) == 3
  assert "\x1b" not in out.getvalue()


def test_a_bar_on_a_terminal() -> None:
  made, out = console(terminal=True)
  with Bar("train", 10, console=made) as bar:
    bar.update(3, {"loss": "0.5000"}, line=False)
    bar.say("a line above")
  text = out.getvalue()
  assert "\x1b[" in text
  for part in ("train", "3/10", "loss 0.5000", "a line above"):
    assert part in text


def test_the_time_left_is_of_fresh_steps() -> None:
  made, out = console(terminal=False)
  clock = Clock()
  bar = Bar("train", 2000, start=50, console=made, clock=clock)
  bar.update(50)
  clock.now += 60
  bar.update(1040)  # 990 in a minute, 960 to go
  clock.now += 6000
  bar.update(1050)  # 1000 in 6060 s, 950 to go
  lines = out.getvalue().splitlines()
  assert [line.rsplit("left ")[1] for line in lines] == ["?", "0:58", "1:35:57"]


def test_slow_steps_have_a_time_left_on_a_terminal() -> None:
  """Two minutes a step: more than rich's own column remembers."""
  made, out = console(terminal=True)
  clock = Clock()
  with Bar("train", 10, console=made, clock=clock) as bar:
    bar.update(0, {"loss": "2.0000"})
    for step in (1, 2):
      clock.now += 120
      bar.advance(step)
  last = out.getvalue().split("train ")[-1]
  for part in ("2/10", "loss 2.0000", "left 16:00"):
    assert part in last


def test_a_line_a_minute_and_one_at_the_end() -> None:
  made, out = console(terminal=False)
  clock = Clock()
  with Bar("evaluate", 100, console=made, clock=clock) as bar:
    for done in range(1, 101):
      clock.now += 25
      bar.update(done, line=None)
  shown = [line.split()[1] for line in out.getvalue().splitlines()]
  # After 75 seconds, 150, ...: the first whole 25 beyond a minute.
  assert shown == [f"{k}/100" for k in (*range(3, 100, 3), 100)]


def test_advance_prints_no_line() -> None:
  made, out = console(terminal=False)
  clock = Clock()
  with Bar("train", 10, console=made, clock=clock) as bar:
    clock.now += 5
    bar.advance(5)
    assert out.getvalue() == ""
    bar.update(5)
  assert out.getvalue() == "train 5/10  left 0:05\n"


def test_notes_come_once_a_minute_too() -> None:
  made, out = console(terminal=False)
  clock = Clock()
  with Bar("train", 100, console=made, clock=clock) as bar:
    bar.update(10)
    for scored in range(0, 200, 10):
      bar.note(f"evaluating {scored}/200", line=None)
      clock.now += 25
    bar.update(20, line=None)  # 50 s after the last line
  lines = [line.split("  ")[:2] for line in out.getvalue().splitlines()]
  shown = [f"evaluating {k}/200" for k in range(30, 200, 30)]
  assert lines[1:] == [["train 10/100", text] for text in shown]
  assert lines[0][0] == "train 10/100"


def test_the_time_left_can_be_counted_anew() -> None:
  """A compilation of an hour, then ten steps of a second."""
  made, out = console(terminal=False)
  clock = Clock()
  bar = Bar("train", 61, console=made, clock=clock)
  clock.now += 3600
  bar.restart(1)
  bar.update(1)
  clock.now += 10
  bar.update(11)
  lines = out.getvalue().splitlines()
  assert [line.rsplit("left ")[1] for line in lines] == ["?", "0:50"]


def test_other_hosts_only_say_who_they_are() -> None:
  for terminal in (False, True):
    made, out = console(terminal)
    clock = Clock()
    with Bar("train", 10, console=made, clock=clock, host=3) as bar:
      bar.update(5, {"loss": "1.0"})
      bar.advance(6)
      clock.now += 600
      bar.note("evaluating 1/2", line=True)
      bar.update(10, line=None)
      bar.say("step 4: a video is broken")
    assert out.getvalue().rstrip() == "host 3: step 4: a video is broken"
