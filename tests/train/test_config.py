"""A config is checked in one line before anything runs."""

import inspect
import pathlib
import re
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from p3d_jax.train import config as configs
from p3d_jax.train import config_check, config_file, loop
from tests import small


def fields(config: ConfigDict, at: str = "") -> list[str]:
  names = []
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      names += fields(value, f"{at}{name}.")
    else:
      names.append(at + name)
  return names


def test_every_field_has_a_comment() -> None:
  lines = inspect.getsource(configs.default).splitlines()
  sections, commented, before = {"config": ""}, set(), ""
  for line in lines:
    if made := re.match(r"  config\.(\w+) = (\w+) = ConfigDict", line):
      sections[made[2]] = made[1] + "."
    elif (field := re.match(r"  (\w+)\.(\w+) = ", line)) and (
      "  # " in line or before.startswith("  # ")
    ):
      commented.add(sections[field[1]] + field[2])
    before = line
  assert commented == set(fields(configs.default()))


def test_the_default_can_be_run_and_is_locked() -> None:
  config = configs.default()
  with pytest.raises(AttributeError, match="stpes"):
    config.train.stpes = 3
  config.data.dir = "somewhere"
  config_check.check(config, devices=8)


def check_of(tmp_path: pathlib.Path, *flags: str) -> ConfigDict:
  file = small.config_file(tmp_path / "config.py")
  config = config_file.load(str(file), flags)
  config_check.check(config)
  return config


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("train.stpes=3", r"no field 'stpes'; did you mean 'steps'"),
    ("trian.steps=3", r"no field 'trian'; did you mean 'train'"),
    ("train.steps.more=3", r"no field 'more'"),
    ("train.steps=soon", "^--config.train.steps is 'soon': it .* whole number"),
    ("train.steps=1.5", "^--config.train.steps is '1.5': it .* whole number"),
    ("mesh.data=two", "^--config.mesh.data is 'two': it .* whole number"),
    ("watch.stall=soon", "^--config.watch.stall is 'soon': it .* a number, as"),
    ("augment.flip=maybe", "^--config.augment.flip is 'maybe': .* true or fal"),
    ("train.steps=0", r"config\.train\.steps is 0: .* between 1 and"),
    ("train.batch=0", r"config\.train\.batch is 0: .* between 1 and"),
    ("train.accumulate=3", r"train\.batch is 8: .* multiple of .*\(3\)"),
    ("norm.group=3", r"config\.norm\.group is 3: it must divide the 8"),
    ("norm.freeze=some", r"config\.norm\.freeze is 'some': .*all_but_first"),
    ("model.name=p3d64", r"config\.model\.name is 'p3d64': .* p3d63"),
    ("model.schedule=AXC", r"config\.model: schedule is 'AXC': .* \['X'\]"),
    ("model.schedule=A,B", r"config\.model: schedule is .*three"),
    ("model.stages=(1,1,1)", r"config\.model: stages is \(1, 1, 1\)"),
    ("model.width=0", r"config\.model: width is 0"),
    ("model.rule=mine", r"config\.model: rule is 'mine': .*released"),
    ("model.dtype=float16", r"config\.model\.dtype is 'float16'"),
    ("model.dropout=1.0", r"config\.model\.dropout is 1\.0"),
    ("preprocessing.crop=(99,99)", r"config\.preprocessing: crop.*\(36, 36\)"),
    ("preprocessing.crop=(16,16)", r"config\.preprocessing\.crop .* 32x32"),
    ("preprocessing.channels=HSV", r"channels is 'HSV': .* RGB, BGR, flow"),
    ("preprocessing.channels=flow", r"config\.preprocessing: mean=.* 2 fin"),
    ("input.timeout=-1.0", r"config\.input\.timeout is -1.0"),
    ("input.max_replaced=1.5", r"config\.input\.max_replaced is 1.5"),
    ("preprocessing.mean=(1.0,)", r"config\.preprocessing: mean"),
    ("augment.scales=(2.0,)", r"config\.augment: scales"),
    ("train.loss=l2", r"config\.train\.loss is 'l2'"),
    ("train.ema=1.0", r"config\.train\.ema is 1\.0"),
    ("optim.name=lion", r"config\.optim\.name is 'lion': .* sgd, adamw"),
    ("optim.learning_rate=nan", r"config\.optim\.learning_rate is nan"),
    ("optim.init_learning_rate=-1", r"init_learning_rate is -1"),
    ("optim.fresh_head_bias=-1", r"fresh_head_bias is -1"),
    ("init_form=run", r"no field 'init_form'; did you mean 'init_from'"),
    ("optim.freeze=('(',)", r"'\(' is no regular expression"),
    ("optim.multipliers=('^head',)", r"multipliers has '\^head': .*factor"),
    ("data.dir=", r"config\.data\.dir is empty"),
    ("seed=-1", r"config\.seed is -1"),
    ("eval.batch=0", r"config\.eval\.batch is 0"),
  ],
)
def test_a_mistake_is_one_line(
  tmp_path: pathlib.Path, flag: str, message: str
) -> None:
  with pytest.raises(configs.ConfigError, match=message) as caught:
    check_of(tmp_path, f"--config.{flag}")
  assert "\n" not in str(caught.value)


def test_batches_must_fit_the_devices() -> None:
  with pytest.raises(
    configs.ConfigError, match=r"train\.batch is 8.* the 3 devices"
  ):
    config_check.check(small.config(), devices=3)
  made = small.config(eval={"batch": 6})
  with pytest.raises(configs.ConfigError, match=r"eval\.batch is 6.* take 8"):
    config_check.check(made, devices=4)


@pytest.mark.parametrize(
  ("flag", "value"),
  [
    ("model.stages=(1,2,1,1)", (1, 2, 1, 1)),
    ("model.width=8", 8),
    ("model.rule=paper", "paper"),
    ("model.stem_pool=padded", "padded"),
    ("model.reduce_stride=False", False),
    ("model.norm_epsilon=1e-3", 1e-3),
    ("model.temporal_init_std=0.01", 0.01),
    ("model.schedule=A,BC,S", "A,BC,S"),
    ("preprocessing.resize=(56,58)", (56, 58)),
    ("preprocessing.resize=56", (56,)),
    ("preprocessing.resize=()", ()),
    ("preprocessing.fps=12", 12.0),
    ("norm.group=4", 4),
    ("optim.multipliers=(('^head',2.0),)", (("^head", 2.0),)),
    ("optim.freeze=('^stem','bn/')", ("^stem", "bn/")),
    ("augment.scales=(1.0,0.75)", (1.0, 0.75)),
    ("augment.flip=false", False),
    ("train.ema=0.5", 0.5),
    ("optim.learning_rate=1", 1.0),
    ("init_from=runs/some folder", "runs/some folder"),
  ],
)
def test_a_flag_sets_a_field(
  tmp_path: pathlib.Path, flag: str, value: Any
) -> None:
  found: Any = check_of(tmp_path, f"--config.{flag}")
  for name in flag.partition("=")[0].split("."):
    found = found[name]
  assert found == value
  assert type(found) is type(value)


def test_what_the_flags_mean(tmp_path: pathlib.Path) -> None:
  config = check_of(
    tmp_path,
    "--config.model.schedule=A,BC,S",
    "--config.model.stages=(1,2,1,1)",
    "--config.preprocessing.resize=40",
    "--noconfig.augment.flip",
    "--config.augment.brightness",
    "0.25",
  )
  module = configs.network(config, 5)
  assert module.schedule == "A,BC,S"
  assert (module.num_classes, module.stages) == (5, (1, 2, 1, 1))
  assert configs.preprocessing(config).resize == 40
  augment = configs.augmentation(config)
  assert not augment.flip
  assert augment.jitter == (0.25, 0.0, 0.0)
  config.preprocessing.resize = ()
  assert configs.preprocessing(config).resize is None


def test_the_temporal_kernels_start_small() -> None:
  module = configs.network(small.config(model={"temporal_init_std": 1e-3}), 2)
  init = module.temporal_init
  assert init is not None
  assert 9e-4 < float(init(jax.random.key(0), (10_000,)).std()) < 1.1e-3
  assert configs.network(small.config(), 2).temporal_init is None


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("def get_config(:", r"bad\.py: .*syntax"),
    ("import nowhere_to_be_found", r"bad\.py:1: No module named"),
    ("x = 1", r"bad\.py: .*get_config"),
    ("def get_config():\n  return 3", r"must return a ConfigDict"),
    ("def get_config():\n  return [][1]", r"bad\.py:2: list index"),
    (
      "from p3d_jax.train.config import default\n"
      "def get_config():\n  c = default()\n  c.train.stpes = 3\n  return c",
      r"bad\.py:4: .*stpes",
    ),
    (
      "from ml_collections import ConfigDict\n"
      "def get_config():\n  return ConfigDict({'seed': 0})",
      r"missing \['augment', ",
    ),
  ],
)
def test_a_bad_file_is_one_line(
  tmp_path: pathlib.Path, text: str, message: str
) -> None:
  file = tmp_path / "bad.py"
  file.write_text(text)
  with pytest.raises(configs.ConfigError, match=message) as caught:
    config_check.check(config_file.load(str(file)))
  assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_stray_word(tmp_path: pathlib.Path) -> None:
  with pytest.raises(configs.ConfigError, match="there is no such file"):
    config_file.load(str(tmp_path / "none.py"))
  file = str(small.config_file(tmp_path / "config.py"))
  with pytest.raises(configs.ConfigError, match="'stray' is no flag"):
    config_file.load(file, ["stray"])
  with pytest.raises(configs.ConfigError, match="bogus"):
    config_file.load(file, ["--bogus=3"])


def test_a_colon_gives_the_file_a_word(tmp_path: pathlib.Path) -> None:
  file = tmp_path / "sweep.py"
  file.write_text(
    "from p3d_jax.train.config import default\n"
    "def get_config(name):\n  c = default()\n  c.data.dir = name\n  return c"
  )
  assert config_file.load(f"{file}:there").data.dir == "there"


@pytest.mark.parametrize(
  "fields",
  [
    {"data": {"dir": ""}},
    {"data": {"dir": "/not/there"}},
    {"data": {"train_split": "trian"}},
    {"optim": {"freeze": ("^nothing",)}},
    {"train": {"accumulate": 3}},
  ],
)
def test_nothing_is_written_when_a_run_is_refused(
  tmp_path: pathlib.Path, fields: dict[str, Any]
) -> None:
  with pytest.raises(ValueError, match=r".") as caught:
    loop.train(small.config(**fields), tmp_path / "run")
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "run").exists()


def test_the_demo_can_be_run() -> None:
  """As for the paper's runs, see tests/paper/test_configs.py."""
  demo = small.ROOT / "experiments" / "configs" / "demo.py"
  config_check.check(config_file.load(str(demo)))
