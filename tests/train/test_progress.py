"""A bar on a terminal, plain lines elsewhere."""

import io

from rich.console import Console

from p3d_jax.train.progress import Bar


def console(terminal: bool) -> tuple[Console, io.StringIO]:
  out = io.StringIO()
  made = Console(
    file=out, force_terminal=terminal, width=120, soft_wrap=not terminal
  )
  return made, out


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
  bar = Bar("train", 100, start=50, console=made)
  bar.update(50)
  bar._began -= 60  # ten steps in a minute, forty to go
  bar.update(60)
  first, second = out.getvalue().splitlines()
  assert first.endswith("left ?")
  assert second.endswith("left 4:00")
