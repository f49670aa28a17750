"""A plan for eight fake devices, and what is worked out from its numbers."""

import functools
import json
import math
import pathlib
import types

import jax
import numpy as np
import pytest

from p3d_jax import cli
from p3d_jax.checkpoint import model
from p3d_jax.files import UnreachableError
from p3d_jax.models import convs, count, zoo
from p3d_jax.pods import compiled, fit, plan, plan_report, roofline, topology
from p3d_jax.pods.cost import Collective, Cost
from p3d_jax.train import chips
from p3d_jax.train import config as configs
from p3d_jax.train.config import ConfigError
from tests import small

CLASSES, CLIP = 8, (4, 32, 32, 3)
GIB = 2**30


def slim(**sections):
  """The config of tests/small.py, of no data."""
  config = configs.default()
  config.model.update({"width": 4, "stages": (1, 1, 1, 1), "dropout": 0.2})
  config.preprocessing.update({"frames": 4, "resize": (36, 36)})
  config.preprocessing.crop = (32, 32)
  config.train.update({"batch": 8, "steps": 1000})
  for section, values in sections.items():
    config[section].update(values)
  return config


def command(file: pathlib.Path, *words: object) -> list[object]:
  """The words of `p3d plan` on the slim config."""
  config = file.with_name("slim.py")
  config.write_text(
    "from tests.pods.test_plan import slim\n\n\n"
    "def get_config():\n  return slim()\n"
  )
  return ["plan", f"--config={config}", f"--json={file}", *words]


@functools.cache
def planned(*words: object):
  """What `p3d plan` writes for eight CPU devices."""
  file = small.folder() / "plan.json"
  done = small.p3d_command(
    *command(file, "--topology=cpu", f"--classes={CLASSES}", *words)
  )
  assert done.returncode == 0, done.stderr
  return json.loads(file.read_text()), done.stdout


@functools.cache
def network():
  return count.count(
    zoo.build(None, num_classes=CLASSES, width=4, stages=(1, 1, 1, 1)),
    (1, *CLIP),
  )


def valid_multiply_adds(
  form: str, shape: tuple[int, ...] = CLIP
) -> tuple[int, int]:
  """Multiply-adds of a clip that are not on padding: all, and the stem's.

  Counted from the shapes that jax traces, an axis at a time.
  """
  module = zoo.build(None, num_classes=CLASSES, width=4, stages=(1, 1, 1, 1))
  clip = jax.ShapeDtypeStruct((1, *shape), np.float32)
  with convs.forced(form):
    variables = jax.eval_shape(module.init, jax.random.key(0), clip)
    traced = jax.make_jaxpr(lambda v, x: module.apply(v, x))(variables, clip)
  found = []
  for equation in count._equations(traced.jaxpr):
    if equation.primitive.name == "dot_general":
      found.append(count._multiply_adds(equation))
    if equation.primitive.name != "conv_general_dilated":
      continue
    x, kernel = (one.aval.shape for one in equation.invars)
    y = equation.outvars[0].aval.shape
    where = equation.params["dimension_numbers"]
    pairs = 1
    for axis, (stride, (pad, _)) in enumerate(
      zip(
        equation.params["window_strides"],
        equation.params["padding"],
        strict=True,
      ),
      2,
    ):
      taps = np.arange(kernel[where.rhs_spec[axis]])[:, None]
      at = np.arange(y[where.out_spec[axis]]) * stride + taps - pad
      pairs *= int(((at >= 0) & (at < x[where.lhs_spec[axis]])).sum())
    out, into = where.rhs_spec[:2]
    rows = x[where.lhs_spec[0]]  # frames are rows in the folded form
    found.append(pairs * rows * kernel[into] * kernel[out])
  return sum(found), found[0]


def test_parameters_and_flop():
  """A clip's training is three times its forward pass, less a gradient.

  Nobody asks for the gradient to the pixels. XLA drops products with frames
  that are padding, and the network folds its convolutions: 2%.
  """
  numbers, _ = planned()
  assert numbers["parameters"] == network().parameters
  flop = numbers["gflop_a_clip"]
  assert flop["forward"] == 2 * network().multiply_adds / 1e9
  whole, stem = valid_multiply_adds("folded")
  assert flop["training"] == pytest.approx(
    2 * (3 * whole - stem) / 1e9, rel=0.02
  )


def test_arguments_are_the_state_and_the_batch():
  """A device's share: all of the state, one clip of the eight."""
  numbers, _ = planned()
  counted = network()
  state = 2 * counted.parameters + counted.statistics  # weights and momentum
  steps = 2  # that of the state, and the schedule's own
  expected = 4 * (state + steps) + math.prod(CLIP) + 4  # and a label
  assert numbers["memory"]["arguments"] == expected
  memory = numbers["memory"]
  parts = ("arguments", "temporaries", "outputs", "program")
  assert memory["total"] == sum(memory[part] for part in parts)


def test_gradients_are_reduced_once():
  """Each gradient, two sums for each batch norm, the loss and the accuracy."""
  # On a CPU, taps that see padding alone are cut off: two of three in res3 and
  # res4, which have one step, and eight of nine in res5, which has one pixel.
  unseen = 2 * (8 * 8 + 16 * 16) + 8 * 32 * 32
  work, _ = planned()
  (row,) = work["collectives"]
  assert (row["kind"], row["group"]) == ("all-reduce", 8)
  counted = network()
  numbers = counted.parameters - unseen + counted.statistics
  assert row["bytes"] == 4 * numbers + 8
  assert row["sent"] == 2 * 7 / 8 * row["bytes"]


def test_bytes_moved_are_those_of_xla():
  """There is no loop, and one memory: XLA's own analysis sees the same."""
  work = planned()[0]["chip_and_step"]
  assert work["bytes_moved"] == pytest.approx(
    work["xla_bytes_all_memories_loops_once"], rel=0.01
  )


def test_nothing_is_invented_for_a_chip_that_is_not_known():
  numbers, text = planned()
  assert numbers["memory"]["usable"] is None
  for name in ("chip", "source", "bounds", "decode", "days"):
    assert numbers[name] is None
  assert "not known" in text
  assert "clips/s" not in text


def test_parts_of_a_batch_are_multiplied():
  """Four parts of 8 clips cost what 32 clips do, and XLA counts one part.

  Each part reduces its gradients; the state does not grow.
  """
  one, _ = planned()
  four, _ = planned("--batch=32", "--config.train.accumulate=4")
  assert four["loops"].count(4) == 1
  assert 4 not in one["loops"]
  assert four["gflop_a_clip"]["training"] == pytest.approx(
    one["gflop_a_clip"]["training"], rel=0.02
  )
  work, single = four["chip_and_step"], one["chip_and_step"]
  assert work["gflop"] == pytest.approx(4 * single["gflop"], rel=0.02)
  assert work["xla_gflop_loops_once"] < 1.2 * single["xla_gflop_loops_once"]
  assert 3 < work["bytes_moved"] / single["bytes_moved"] < 5
  sent = sum(row["sent"] for row in four["collectives"])
  assert sent == pytest.approx(4 * single["bytes_sent"], rel=0.01)


@pytest.mark.parametrize(
  ("words", "message"),
  [
    pytest.param(
      ("--topology=cpu:1",),
      "config.data.dir is empty; --classes=N says how many classes there are",
      id="classes",
    ),
    pytest.param(
      ("--topology=v5e:3x5",),
      "'v5e:3x5': known are v5e and v6e: 1x1,",
      id="3x5",
    ),
    pytest.param(
      (
        "--topology=cpu:1",
        "--classes=8",
        "--batch=9",
        "--config.train.accumulate=2",
      ),
      "(--topology=cpu:1: 1 device, mesh.data=None, mesh.fsdp=1, "
      "mesh.space=1)\n",
      id="batch",
    ),
    pytest.param(
      ("--topology=cpu", "--decode-ms=0"), "--decode-ms is 0", id="decode"
    ),
    pytest.param(
      ("--topology=cpu", "--json=/no/such/plan.json"),
      "--json='/no/such/plan.json': there is no such folder",
      id="json",
    ),
    pytest.param(
      # Not after the compilation, which may take half an hour.
      ("--topology=cpu", f"--classes={CLASSES}", "--json=/"),
      "--json='/': it is a folder, not a file",
      id="json folder",
    ),
    pytest.param(
      ("--topology=cpu", "--config.train.bath=9"),
      "no field 'bath'; did you mean 'batch'?",
      id="field",
    ),
  ],
)
def test_mistakes_are_one_line(words, message, tmp_path, capsys):
  assert cli.main(command(tmp_path / "plan.json", *words)) == 2
  told = capsys.readouterr().err
  assert message in told
  assert told.count("\n") == 1
  assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize(
  "name", ["v9:1x1", "v5e:3x5", "v5e", "v4:4x4x6", "v4:2x2", "v5p:0x4x4", "tpu"]
)
def test_unknown_topologies_list_the_known(name):
  with pytest.raises(ValueError, match="known are v5e and v6e.*v4.*cpu:N"):
    topology.find(name)


@pytest.mark.parametrize(
  ("name", "most"),
  [
    ("v5e:32x32", "of v5e there is at most 16x16; known"),
    ("v6e:16x32", "of v6e there is at most 16x16; known"),
    ("v4:16x16x20", "of v4 there is at most 16x16x16; known"),
    ("v5p:16x20x24", "of v5p there is at most 16x16x24; known"),
  ],
)
def test_what_is_larger_than_the_largest(name, most):
  with pytest.raises(ValueError, match=f"is '{name}': {most}"):
    topology.find(name)


@pytest.mark.parametrize(
  ("value", "digits", "text"),
  [
    (0, 3, "0"),
    (26_880, 3, "26,900"),
    (116_624.3, 4, "116,600"),
    (8.1318, 3, "8.13"),
    (36.8, 3, "36.8"),
    (100.2, 3, "100"),
    (999.96, 4, "1,000"),
    (1602.4, 4, "1,602"),
    (2.0, 2, "2"),
    (0.00305, 2, "0.0031"),
    (0.0000123, 2, "0.000012"),
  ],
)
def test_numbers_are_for_people(value, digits, text):
  """Rounded by hand: so many digits, no power of ten, no zeros at the end."""
  assert plan_report._number(value, digits) == text


def test_a_step_that_no_host_can_feed():
  """At 10 s a clip, 1,280 clips/s take 12,800 cores of 112."""
  config = slim(train={"batch": 4096, "steps": 10})
  found = plan.numbers(config, place(), step(), decode=10_000.0)
  lines = plan_report.report(found).splitlines()
  (told,) = [line for line in lines if line.startswith("decoding")]
  assert told.endswith(
    "1,280 clips/s a host at 10000 ms of CPU take 12,800 vCPUs, more than the "
    "112 it has"
  )
  # Ten steps of 50 ms; 114 times as long as the hosts decode.
  (told,) = [line for line in lines if line.startswith("days")]
  assert told.endswith(
    "under 0.001 at least for 10 steps, under 0.001 as fast as the hosts decode"
  )


def test_without_libtpu_it_says_what_to_install(monkeypatch):
  find_spec = topology.importlib.util.find_spec
  monkeypatch.setattr(
    topology.importlib.util,
    "find_spec",
    lambda name: None if name == "libtpu" else find_spec(name),
  )
  with pytest.raises(ValueError, match=r"pip install 'p3d_jax\[tpu\]'$"):
    topology.find("v4:4x4x8")


def test_more_cpu_devices_than_jax_has_begun_with():
  assert len(jax.devices()) == 1
  with pytest.raises(ValueError, match="begun with 1 CPU devices"):
    topology.find("cpu:3")


def place(hosts=64, count=256, **fields):
  """A pod of v5e of which nothing is compiled for."""
  devices = tuple(
    types.SimpleNamespace(platform="tpu", process_index=i * hosts // count)
    for i in range(count)
  )
  chip = chips.named("v5e")
  made = topology.Topology("v5e:16x16", devices, chip, hosts, 112)
  return topology.dataclasses.replace(made, **fields)


def step(flop=197e12 * 0.02, moved=819e9 * 0.05, sent=0.0, total=8 * GIB):
  """A step of 20 ms by its products and of 50 ms by its bytes."""
  collective = Collective("collective-permute", int(sent), 256)
  return compiled.Step(
    parameters=66_000_000,
    forward_flop=37 * 10**9,
    memory=compiled.Memory(total // 2, total // 4, total // 8, total // 8),
    cost=Cost(flop, moved, (collective,), ()),
    xla_flop=flop,
    xla_bytes=moved,
    clips_read=64,
    seconds=200.0,
  )


def test_bounds_by_hand():
  chip = chips.named("v5e")
  # 200 GB/s: 2 GB take 10 ms.
  least = roofline.bounds(step(sent=2e9).cost, chip)
  assert least.compute == pytest.approx(0.020)
  assert least.memory == pytest.approx(0.050)
  assert least.interconnect == pytest.approx(0.010)
  assert least.binds == "memory"
  assert least.step == pytest.approx(0.050)
  # Six passes over float32 numbers of the highest precision.
  assert roofline.bounds(step().cost, chip, 6).compute == pytest.approx(0.120)
  assert roofline.bounds(step().cost, chip, 6).binds == "compute"


def test_numbers_by_hand():
  """4,096 clips in 50 ms; each host decodes 64 of them."""
  config = slim(train={"batch": 4096, "steps": 1_728_000})
  found = plan.numbers(config, place(), step(), decode=10.0)
  assert found["bounds"]["clips_a_second"] == pytest.approx(81_920)
  assert found["bounds"]["clips_a_second_a_chip"] == pytest.approx(320)
  decode = found["decode"]
  # 1,280 clips/s at 10 ms are 12.8 of 112 cores: they wait for the chips.
  assert decode["clips_a_second_a_host"] == pytest.approx(1280)
  assert decode["cores_needed"] == pytest.approx(12.8)
  assert decode["clips_a_second"] == pytest.approx(81_920)
  # 86,400 s a day hold 1,728,000 steps of 50 ms.
  assert found["days"]["chips"] == pytest.approx(1)
  assert found["days"]["with_decoding"] == pytest.approx(1)
  # At 175 ms a clip they need 224 cores, twice theirs: half as fast.
  slow = plan.numbers(config, place(), step(), decode=175.0)
  assert slow["decode"]["cores_needed"] == pytest.approx(224)
  assert slow["decode"]["clips_a_second"] == pytest.approx(40_960)
  assert slow["days"]["with_decoding"] == pytest.approx(2)
  assert "2 as fast as the hosts decode" in plan_report.report(slow)


def test_precision_counts_only_for_float32():
  config = slim(model={"precision": "highest"}, train={"batch": 4096})
  assert plan.numbers(config, place(), step(), 10)["bounds"]["passes"] == 6
  config.model.dtype = "bfloat16"
  assert plan.numbers(config, place(), step(), 10)["bounds"]["passes"] == 1


def test_decoding_is_measured_with_and_without_a_guard():
  assert plan.decode_ms(slim()) == 10.1
  assert plan.decode_ms(slim(input={"timeout": 0.0})) == 9.1


@pytest.mark.parametrize(
  ("space", "hosts", "clips"),
  [
    pytest.param(1, 4, 8, id="own clips"),
    pytest.param(2, 4, 8, id="devices of a host share"),
    pytest.param(4, 4, 16, id="two hosts share"),
    pytest.param(8, 4, 32, id="all share"),
    pytest.param(1, 1, 32, id="one host"),
  ],
)
def test_clips_that_a_host_reads(space, hosts, clips):
  """32 clips on 8 devices; hosts that split frames read the same clips."""
  devices = [
    types.SimpleNamespace(process_index=i * hosts // 8) for i in range(8)
  ]
  mesh = types.SimpleNamespace(
    devices=np.array(devices).reshape(8 // space, 1, space),
    shape={"data": 8 // space, "fsdp": 1, "space": space},
  )
  assert compiled._clips_read(32, mesh) == clips


OOM = (
  "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the "
  "total memory required for HLO temporaries (28.00G) exceeds available HBM "
  "(15.75G). HLO module: jit_f.\nSee https://openxla.org/xla/errors/error_1000"
)


def test_by_how_much_it_does_not_fit():
  needs, has = compiled.too_big(OOM)
  assert (needs, has) == (28 * GIB, 15.75 * GIB)
  told = plan_report.too_big(needs, has)
  assert "needs 28 GiB a chip, which has 15.8 GiB: 12.2 GiB too much" in told
  assert compiled.too_big(OOM.replace("28.00G", "900M"))[0] == 900 * 2**20
  assert compiled.too_big("RESOURCE_EXHAUSTED: something") == (None, None)


def test_a_step_that_compiles_and_takes_more_than_there_is():
  usable = chips.named("v5e").hbm_usable
  assert fit.check(step(total=8 * GIB), place()).memory.total == 8 * GIB
  with pytest.raises(compiled.TooBigError) as caught:
    fit.check(step(total=20 * GIB), place())
  assert (caught.value.needs, caught.value.has) == (20 * GIB, usable)
  unknown = place(chip=None, cores=None)
  assert fit.check(step(total=20 * GIB), unknown)


class Device:
  """A device that nothing is put on."""

  platform = "tpu"

  def __init__(self, place, host):
    self.id, self.process_index = place, host


def searched(monkeypatch, needs, config=None, devices=1):
  """What a search tries where a step takes `needs(config)` GiB of 15.75."""
  tried = []

  def compile_step(config, place, classes):
    tried.append(config)
    return step(total=int(needs(config) * GIB))

  monkeypatch.setattr(fit, "compile_step", compile_step)
  config = slim(train={"batch": 64}) if config is None else config
  here = place(devices=tuple(Device(i, i // 4) for i in range(devices)))
  error = compiled.TooBigError(
    round(needs(config) * GIB), chips.named("v5e").hbm_usable
  )
  found = fit.search(config, here, CLASSES, error)
  assert len(found) == len(tried) <= fit.MOST
  return [(fit.flags(one.changes), one.step is not None) for one in found]


REMAT, PARTS = "--config.model.remat=True", "--config.train.accumulate="


def test_what_fits_is_tried_in_order(monkeypatch):
  """40 GiB of activations: 4 parts are the least that can help, and do."""
  needs = lambda c: (20 if c.model.remat else 40) / c.train.accumulate  # noqa: E731
  assert searched(monkeypatch, needs) == [(REMAT, False), (PARTS + "4", True)]


def test_more_parts_are_tried_if_some_do_not_help_enough(monkeypatch):
  """12 GiB stay whatever is done: of 28 more, an eighth fits besides them."""
  needs = lambda c: 12 + (20 if c.model.remat else 28) / c.train.accumulate  # noqa: E731
  assert searched(monkeypatch, needs) == [
    (REMAT, False),
    (PARTS + "4", False),
    (PARTS + "8", True),
  ]


def test_two_changes_are_for_what_neither_does(monkeypatch):
  """Parts leave 14 GiB of one clip's activations, half with remat."""

  def needs(c):
    clip = 7 if c.model.remat else 14
    return 4 + clip + (12 if c.train.accumulate == 1 else 0)

  config = slim(train={"batch": 4})
  assert searched(monkeypatch, needs, config) == [
    (REMAT, False),
    (PARTS + "2", False),
    (PARTS + "4", False),
    (REMAT + " " + PARTS + "2", True),
  ]


def test_a_batch_of_one_clip_cannot_be_cut(monkeypatch):
  config = slim(train={"batch": 1})
  assert searched(monkeypatch, lambda c: 40, config) == [(REMAT, False)]
  config.model.remat = True
  assert searched(monkeypatch, lambda c: 40, config) == []


def test_fewer_clips_where_they_cannot_be_cut(monkeypatch):
  """45 clips are in no 2, 4 or 8 parts: of 30 GiB, 23 clips take 15.3."""
  config = slim(train={"batch": 45}, model={"remat": True})
  assert searched(monkeypatch, lambda c: c.train.batch * 30 / 45, config) == [
    ("--config.train.batch=23", True)
  ]


def test_devices_share_clips_where_each_has_one(monkeypatch):
  """Eight clips on eight devices: halves of frames, in two parts.

  The frames of 32 pixels are 8 high in res2, then 4, 2 and 1: the last does
  not divide.
  """
  config = slim(model={"remat": True})

  def needs(c):
    return 20 / c.train.accumulate

  assert searched(monkeypatch, needs, config, devices=8) == [
    (
      PARTS + "2 --config.mesh.space=2 --config.mesh.gather=res4",
      True,
    )
  ]


def test_the_state_is_split_where_that_can_help(monkeypatch):
  """A hair too much: 35,092 parameters with their state are half a MiB."""
  usable = chips.named("v5e").hbm_usable / GIB

  def needs(c):
    return usable + (1e-4 if c.mesh.fsdp == 1 else -1e-4)

  config = slim(model={"remat": True})
  found = searched(monkeypatch, needs, config, devices=8)
  assert ("--config.mesh.fsdp=4", True) in found


@pytest.mark.parametrize("searches", [True, False], ids=["search", "no search"])
def test_what_does_not_fit_is_status_1(searches, monkeypatch, tmp_path, capsys):
  """28 of 15.75 GiB; what would fit is printed, and written."""

  def compile_step(config, place, classes):
    if config.train.accumulate == 1:
      raise compiled.TooBigError(28 * GIB, round(15.75 * GIB))
    return step(total=15 * GIB)

  for module in (compiled, fit):
    monkeypatch.setattr(module, "compile_step", compile_step)
  file = tmp_path / "plan.json"
  words = command(file, "--topology=cpu:1", "--classes=8")
  words += [] if searches else ["--no-search"]
  assert cli.main(words) == 1
  told = capsys.readouterr()
  line = (
    "p3d plan: the step does not fit: it needs 28 GiB a chip, which has "
    "15.8 GiB: 12.2 GiB too much"
  )
  assert told.err.splitlines()[0] == line
  found = json.loads(file.read_text())
  assert (found["fits"], found["needs"]) == (False, 28 * GIB)
  assert len(found["tried"]) == 2 * searches
  assert (
    "  fits, 15 GiB a chip: --config.train.accumulate=2" in told.out
  ) == searches


def test_labels_come_from_the_set_or_the_command_line():
  config = slim(data={"dir": small.dataset()})
  assert len(plan.labels(config, None)) == 8
  assert plan.labels(config, None)[0] == "pan_left"
  assert len(plan.labels(config, 8)) == 8
  with pytest.raises(ConfigError, match="--classes is 9: the set .* has 8"):
    plan.labels(config, 9)
  config.data.dir = "/no/such/set"
  assert len(plan.labels(config, 400)) == 400
  with pytest.raises(ConfigError, match="'/no/such/set'.*--classes=N"):
    plan.labels(config, None)
  config.data.dir = "gs://bucket/sets/kinetics"  # hundreds of gigabytes
  assert len(plan.labels(config, 400)) == 400
  with pytest.raises(ConfigError, match="have to be copied.*--classes=N"):
    plan.labels(config, None)


def test_the_network_of_init_from_is_that_of_its_weights(tmp_path):
  module = small.network(width=8)
  path = tmp_path / "weights"
  model.save(path, small.variables(module), small.record(module))
  config = configs.default()
  config.init_from = str(path)
  resolved, note = plan.resolved(config, ("a", "b", "c"))
  assert (resolved.model.width, resolved.model.stages) == (8, (1, 1, 1, 1))
  assert "head kept" in note
  config.init_from = str(tmp_path / "elsewhere")
  resolved, note = plan.resolved(config, ("a", "b", "c"))
  assert resolved.model.width is None
  assert "is not here" in note


def test_weights_on_a_store_need_no_network(monkeypatch):
  """But a bucket that is not there is a mistake, where that can be known."""
  config = configs.default()
  config.init_from = "gs://b/weights/mine"

  def refuses(error):
    def check_bucket(path, name):
      raise error(f"{name}={path!r}: no")

    monkeypatch.setattr(plan.files, "check_bucket", check_bucket)

  refuses(UnreachableError)
  resolved, note = plan.resolved(config, ("a", "b", "c"))
  assert resolved == config
  assert "config.init_from is 'gs://b/weights/mine': it is not here" in note
  refuses(ValueError)
  with pytest.raises(ValueError, match="config.init_from='gs://b/weights"):
    plan.resolved(config, ("a", "b", "c"))
