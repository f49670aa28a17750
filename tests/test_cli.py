"""The command line in processes of its own: words in, lines and status out."""

import json
import pathlib
import subprocess
import sys
from typing import Any

import matplotlib.image
import pytest
from ml_collections import ConfigDict

import p3d_jax
from p3d_jax import cli
from p3d_jax.checkpoint import model
from p3d_jax.train.config import default
from p3d_jax.train.prepare import DATA
from p3d_jax.weights.merge import Report
from tests import small


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--config.train.stpes=3", "has no field 'stpes'; did you mean 'steps'?"),
    ("--config.model.schedule=AXC", "schedule is 'AXC'"),
    ("--config.preprocessing.crop=(999,999)", "must be at most the resize"),
    ("--config.preprocessing.resize=(20,20)", "must be at most the resize"),
    ("--config.model.stages=(1,1,1)", "stages is (1, 1, 1)"),
    ("--config.train.accumulate=3", "multiple of train.accumulate (3)"),
    ("--config.data.dir=", "config.data.dir is empty"),
    ("--config.data.dir=/not/there", "no built set is there"),
    ("--config.optim.freeze=('^had',)", "'^had' fits no parameter"),
    ("--bogus=1", "bogus"),
    ("stray", "'stray' is no flag"),
  ],
)
def test_a_mistake_ends_in_one_line(
  tmp_path: pathlib.Path,
  capfd: pytest.CaptureFixture[str],
  flag: str,
  message: str,
) -> None:
  """In this process, which is faster; a few in their own below."""
  config = small.config_file(tmp_path / "config.py")
  run = tmp_path / "run"
  words = ["train", f"--config={config}", f"--workdir={run}", flag]
  assert cli.main(words) == 2
  said = capfd.readouterr()
  assert said.out == ""
  assert said.err.startswith("p3d train: ")
  assert len(said.err.splitlines()) == 1
  assert message in said.err
  assert not run.exists()


def test_mistakes_in_a_process(tmp_path: pathlib.Path) -> None:
  config = small.config_file(tmp_path / "config.py")
  run = tmp_path / "run"
  for words, message in (
    (["--config", config, "--config.train.stpes=3"], "no field 'stpes'"),
    (["--config", tmp_path / "no.py"], "there is no such file"),
  ):
    done = small.p3d_command("train", "--workdir", run, *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert not run.exists()


def test_overrides_reach_the_run(tmp_path: pathlib.Path) -> None:
  """Tuples and fields that are None by default, set as typed."""
  config = small.config_file(tmp_path / "config.py")
  run = tmp_path / "a run"
  done = small.p3d_command(
    "train", "--config", config, "--workdir", run,
    "--config.model.stages=(1,1,1,1)", "--config.model.width=2",
    "--config.model.rule=paper", "--config.preprocessing.resize=(38,40)",
    "--config.preprocessing.crop=(32,36)", "--config.norm.group", "4",
    "--config.train.steps=2", "--noconfig.log.tensorboard",
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert "train 2/2" in done.stderr
  assert "\x1b" not in done.stderr
  module, _, record = p3d_jax.load(run)
  assert (module.width, module.rule) == (2, "paper")
  assert record.preprocessing.resize == (38, 40)
  assert record.preprocessing.crop == (32, 36)
  saved = json.loads((run / "config.json").read_text())
  assert saved["norm"]["group"] == 4
  again = small.p3d_command(
    "train", "--config", config, "--workdir", run, "--config.model.width=2"
  )
  assert again.returncode == 2
  assert len(again.stderr.splitlines()) == 1
  assert "another config: config." in again.stderr
  shown = small.p3d_command("info", run, "--json")
  assert json.loads(shown.stdout)["model"]["width"] == 2


@pytest.mark.slow
def test_a_loss_that_is_not_finite(tmp_path: pathlib.Path) -> None:
  config = small.config_file(tmp_path / "config.py")
  done = small.p3d_command(
    "train", "--config", config, "--workdir", tmp_path / "run",
    "--config.optim.learning_rate=1e6", "--config.optim.weight_decay=1e3",
    "--config.train.steps=60", "--config.eval.every=0",
  )  # fmt: skip
  assert done.returncode == 2
  last = done.stderr.splitlines()[-1]
  assert last.startswith("p3d train: the ")
  assert " of step " in last
  assert "Traceback" not in done.stderr


def test_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
  run = str(small.trained())
  assert cli.main(["evaluate", run, "--clips=2"]) == 0
  first = capsys.readouterr().out
  for part in ("clip hit@1", "video hit@1", "video hit@5", "10 videos of test"):
    assert part in first
  (file,) = pathlib.Path(run).glob("evaluation-*-test.json")
  result = json.loads(file.read_text())
  assert f"video hit@1 {result['video_hit@1']:.1f}" in first
  assert cli.main(["evaluate", run, "--clips=2"]) == 0  # over the first file
  assert capsys.readouterr().out == first
  for words, message in (
    ([run, "--clips=0"], "--clips is 0"),
    ([run, "--step=3"], "no step 3"),
    ([run, "--split=nothing"], "split='nothing'"),
    ([str(small.dataset())], "no checkpoint and no workdir"),
  ):
    assert cli.main(["evaluate", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_predict_goes_on_after_a_bad_file(tmp_path: pathlib.Path) -> None:
  good = sorted(small.footage().glob("*.mp4"))[:2]  # with spaces in the names
  empty, text = tmp_path / "empty.mp4", tmp_path / "notes.doc"
  empty.write_bytes(b"")
  text.write_text("not a video\n" * 50)
  files = [good[0], tmp_path / "missing.mp4", empty, text, good[1]]
  words = ["predict", small.trained(), *files, "--clips", 3]
  plain = small.p3d_command(*words, "--top", 2)
  assert plain.returncode == 1
  errors = plain.stderr.splitlines()
  assert len(errors) == 3, plain.stderr
  for line, file in zip(errors, files[1:4], strict=True):
    assert line.startswith("p3d predict: ")
    assert str(file) in line
  lines = plain.stdout.splitlines()
  assert [lines[0], lines[3]] == [str(good[0]), str(good[1])]
  assert len(lines) == 6
  told = small.p3d_command(*words, "--json")
  assert told.returncode == 1
  rows = [json.loads(line) for line in told.stdout.splitlines()]
  assert [row["path"] for row in rows] == [str(file) for file in files]
  assert ["error" in row for row in rows] == [False, True, True, True, False]
  assert len(rows[0]["top"]) == 5
  best = rows[0]["top"][0]
  assert lines[1].split() == [f"{best['score']:.3f}", best["label"]]


def test_predict_draws_a_timeline(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  video = str(sorted(small.footage().glob("*.mp4"))[0])
  run, out = str(small.trained()), tmp_path / "out.png"
  words = ["predict", run, video, "--clips=4", f"--timeline={out}", "--json"]
  assert cli.main(words) == 0
  said = capsys.readouterr()
  assert json.loads(said.out)["path"] == video  # nothing else on stdout
  picture = matplotlib.image.imread(out)
  assert picture.shape == (432, 1080, 4)
  assert picture[..., :3].std() > 0.02
  words = ["predict", run, video, video, f"--timeline={out}"]
  assert cli.main(words) == 2
  assert "--timeline draws one video: 2" in capsys.readouterr().err


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
  """Of a run; --json is model.json. The words: checkpoint/test_describe.py."""
  run = small.trained()
  assert cli.main(["info", str(run)]) == 0
  text = capsys.readouterr().out
  # conv1, A, B and C of four layers, S of three, fc.
  network = "stages 1, 1, 1, 1, width 4: 17 layers, 8 classes"
  for line in (
    f"checkpoint     {run}/checkpoints/4",
    f"model          {network}",
    "provenance     trained, step 4",
    f"  its sha256   {model.read_record(model.find(run)).provenance[DATA]}",
  ):
    assert line in text.splitlines()
  assert f"p3d_jax {p3d_jax.__version__}" in text
  for line in text.splitlines():
    assert len(line) <= 80 or "/" in line  # paths are not cut
  assert cli.main(["info", str(run), "--json", "--step=2"]) == 0
  shown = json.loads(capsys.readouterr().out)
  file = run / "checkpoints" / "2" / "model" / "model.json"
  assert shown == json.loads(file.read_text())
  assert shown["sha256"] not in text  # of another step


def test_config_lists_every_field(capsys: pytest.CaptureFixture[str]) -> None:
  assert cli.main(["config"]) == 0
  printed = capsys.readouterr().out
  config = default()
  for section in config:
    if isinstance(config[section], ConfigDict):
      for field in config[section]:
        assert f".{field} = " in printed
  with pytest.raises(SystemExit, match="0"):
    cli.main(["--version"])
  assert p3d_jax.__version__ in capsys.readouterr().out


def test_a_traceback_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setenv("P3D_DEBUG", "1")
  with pytest.raises(ValueError, match="no checkpoint and no workdir"):
    cli.main(["info", "/not/there"])


def test_a_timeline_without_a_folder(
  capsys: pytest.CaptureFixture[str],
) -> None:
  words = ["predict", "/not/there", "a.mp4", "--timeline=/not/there/a.png"]
  assert cli.main(words) == 2
  assert "--timeline='/not/there/a.png': there is no" in capsys.readouterr().err


HELP = """
import sys
from p3d_jax import cli

for verb in cli.VERBS:
  try:
    cli.main([verb, "--help"])
  except SystemExit as stop:
    assert stop.code == 0
slow = {"jax", "numpy", "flax", "torch", "orbax"} & set(sys.modules)
assert not slow, slow
"""


def test_help_is_there_at_once() -> None:
  """No verb imports what it runs with before it runs."""
  done = subprocess.run(
    [sys.executable, "-c", HELP],
    capture_output=True,
    text=True,
    env=small.environment(),
  )
  assert done.returncode == 0, done.stderr
  for verb in ("inflate", "convert", "verify", "export"):
    assert f"usage: p3d {verb}" in done.stdout


ENDING = """
import atexit
from p3d_jax.cli import __main__ as process

class Held:
  def __del__(self):
    print("Python's own end")

held, main = Held(), process.main

def main_with_a_hook():
  atexit.register(print, "a hook")
  return main()

process.main = main_with_a_hook
process.run()
"""


def test_the_process_ends_before_python_does(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """Its exit hooks are called, and nothing after them, as nothing is lost."""

  def ended(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
      [sys.executable, "-c", ENDING, *words], text=True, check=False, **more
    )

  done = ended("models", capture_output=True)
  assert (done.returncode, done.stderr) == (0, "")
  lines = done.stdout.splitlines()
  assert "p3d199" in done.stdout
  assert lines[-1] == "a hook"
  refused = ended("info", "/not/there", capture_output=True)
  assert (refused.returncode, refused.stdout) == (2, "a hook\n")
  monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
  with open("/dev/full", "w") as full:
    lost = ended("models", stdout=full, stderr=subprocess.PIPE)
  assert lost.returncode == 120
  assert "No space left on device" in lost.stderr


@pytest.mark.parametrize(
  ("words", "home", "given"),
  [
    (
      ["inflate", "r50.pth", "--out=o"],
      "inflate_file.inflate",
      {
        "model": None, "schedule": "ABC", "rule": "released", "exact": False,
        "temporal_std": None, "flow": False, "num_classes": None,
        "labels": None, "reduce_stride": None, "stem_pool": None,
        "preprocessing": None, "seed": 0, "check_layers": True,
      },
    ),
    (
      [
        "inflate", "r50.pth", "--out=o", "--model=p3d63", "--schedule=A,BC,S",
        "--rule=paper", "--exact", "--temporal-std=0.1", "--flow",
        "--num-classes=7", "--labels=l.txt", "--reduce-stride=no",
        "--preprocessing=port", "--seed=3", "--stem-pool=ceil",
        "--no-layer-check",
      ],
      "inflate_file.inflate",
      {
        "model": "p3d63", "schedule": "A,BC,S", "rule": "paper", "exact": True,
        "temporal_std": 0.1, "flow": True, "num_classes": 7, "labels": "l.txt",
        "reduce_stride": False, "preprocessing": "port", "seed": 3,
        "stem_pool": "ceil", "check_layers": False,
      },
    ),
    (
      [
        "convert", "p3d.pth", "--out=o", "--model=p3d199", "--schedule=ABC",
        "--rule=port", "--stem-pool=padded", "--preprocessing=p.json",
        "--labels=l.txt", "--reduce-stride=yes", "--no-layer-check",
      ],
      "convert.convert",
      {
        "model": "p3d199", "schedule": "ABC", "rule": "port",
        "stem_pool": "padded", "preprocessing": "p.json", "labels": "l.txt",
        "reduce_stride": True, "check_layers": False,
      },
    ),
    (
      ["convert", "p3d.pth", "--out=o"],
      "convert.convert",
      {
        "model": None, "schedule": None, "rule": None, "stem_pool": None,
        "preprocessing": None, "labels": None, "reduce_stride": None,
        "check_layers": True,
      },
    ),
  ],
)  # fmt: skip
def test_words_reach_the_conversion(
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
  words: list[str],
  home: str,
  given: dict[str, Any],
) -> None:
  seen: list[Any] = []

  def convert(*paths: str, **options: Any) -> Report:
    seen.append((paths, options))
    return Report(title="what was made")

  monkeypatch.setattr(f"p3d_jax.weights.{home}", convert)
  assert cli.main(words) == 0
  assert seen == [((words[1], "o"), given)]
  first, *_, last = capsys.readouterr().out.splitlines()
  assert (first, last) == ("what was made", "o")


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
  assert cli.main(["models", "--blocks", "p3d199"]) == 0
  assert "layers    199" in capsys.readouterr().out
  assert cli.main(["models", "--blocks", "p3d198"]) == 2
  assert "'p3d198'" in capsys.readouterr().err
  assert cli.main(["info", "/not/there"]) == 2
  assert cli.main(["evaluate", "/not/there", "--bogus"]) == 2
  assert "unknown argument '--bogus'" in capsys.readouterr().err
