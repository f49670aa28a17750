"""The command line in processes of its own: words in, lines and status out."""

import json
import pathlib

import matplotlib.image
import pytest
from ml_collections import ConfigDict

import p3d_jax
from p3d_jax import cli
from p3d_jax.train.config import default
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
  shown = small.p3d_command("info", run)
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
  assert "--timeline is /not/there/a.png" in capsys.readouterr().err


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
  assert cli.main(["models", "--blocks", "p3d199"]) == 0
  assert "layers    199" in capsys.readouterr().out
  assert cli.main(["models", "--blocks", "p3d198"]) == 2
  assert "'p3d198'" in capsys.readouterr().err
  assert cli.main(["info", "/not/there"]) == 2
  assert cli.main(["evaluate", "/not/there", "--bogus"]) == 2
  assert "unknown argument '--bogus'" in capsys.readouterr().err
