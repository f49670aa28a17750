"""The default config: every field, with its source; and what it builds.

An experiment is a file with a `get_config()` that changes about ten fields of
`default()`. The config is locked: a field that is not listed here is an error,
and code that reads a config has no defaults of its own. Where the paper states
no value the comment says so.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict, config_dict

from p3d_jax.data.clips import Augment
from p3d_jax.data.pipeline import Reading
from p3d_jax.models import p3d, zoo
from p3d_jax.preprocess import Preprocessing


class ConfigError(ValueError):
  """A config that cannot be run: names the field, the value and the rule."""


def default() -> ConfigDict:
  """Returns the P3D run of the paper's UCF101 study (Table 1)."""
  config = ConfigDict()
  config.seed = 0  # of the initialisation, the order, the crops and dropout
  # Weights that a new run begins with at step 0: a converted or inflated
  # folder, a workdir, or a step of one; "" begins with random ones. The head
  # comes along if the names of the classes are those of the data. To go on
  # with a run, give its --workdir again and leave this as it was.
  # What belongs to the weights is theirs then: the network but its dropout,
  # type and batch norms' training, and the pixels' channels, scale, mean, std.
  config.init_from = ""

  config.model = model = ConfigDict()
  model.name = "p3d63"  # a row of models/zoo.py; P3D on ResNet-50
  model.flavour = "released"  # a row of FLAVOURS in models/zoo.py
  # Letters of A, B, C, S, F in turn; three cycles, one a stage: "A,BC,S".
  model.schedule = "ABC"
  model.dropout = 0.9  # UCF101 study; 0.1 Sports-1M, 0.5 and 0.7 Kinetics
  model.dtype = "float32"  # or "bfloat16"; parameters stay float32
  model.precision = "default"  # of products: "default", "high", "highest"
  model.remat = False  # recompute blocks in the backward pass: less memory
  # What follows is None to take the row of the name or of the flavour.
  model.stages = config_dict.placeholder(tuple)  # blocks of res2 to res5
  model.width = config_dict.placeholder(int)  # channels of conv1
  model.rule = config_dict.placeholder(str)  # of B and C: RULES in blocks.py
  model.stem_pool = config_dict.placeholder(str)  # "ceil" or "padded"
  model.reduce_stride = config_dict.placeholder(bool)  # on the 1x1x1
  model.norm_epsilon = config_dict.placeholder(float)  # on variances
  # Deviation of the Gaussian that temporal kernels start from: "small" is all
  # that the authors state. None draws them as the other kernels (He).
  model.temporal_init_std = config_dict.placeholder(float)

  config.norm = norm = ConfigDict()
  # Which batch norms use and keep their moving statistics, scale and shift:
  # "none", "all_but_first" (the authors, from ImageNet weights) or "all".
  norm.freeze = "none"
  norm.momentum = 0.9  # share of the old value in the moving statistics
  norm.group = config_dict.placeholder(int)  # clips; None: the whole batch

  config.data = data = ConfigDict()
  data.dir = ""  # what `p3d data build` wrote, or the folder above it
  data.train_split = "train"  # or another of the set: "train1", "all[:90%]"
  data.eval_split = "test"  # what is scored while training, and after
  # Training clips lie in the labelled segments of a video (ActivityNet) and
  # have their label; a video without any is taken whole.
  data.segments = False
  # What opens a video, "module:class" (data/example.py); None: PyAV.
  data.decoder = config_dict.placeholder(str)
  # Local folder that a set on gs:// is copied to, once on each machine.
  data.cache = ""

  config.preprocessing = pixels = ConfigDict()
  pixels.frames = 16  # frames a clip
  pixels.stride = 1  # frames from one frame of a clip to the next
  pixels.fps = config_dict.placeholder(float)  # None: the file's own
  # Height and width in pixels; (n,): the short side; (): as they are.
  pixels.resize = (182, 242)
  pixels.crop = (160, 160)  # height and width in pixels
  pixels.channels = "BGR"  # of the authors' weights; or "RGB", "flow"
  pixels.scale = 1.0  # pixels are multiplied by it first
  # Subtracted next; in the order of the channels, as std is.
  pixels.mean = (104.0, 117.0, 123.0)
  pixels.std = (1.0, 1.0, 1.0)  # they are divided by it last

  config.augment = augment = ConfigDict()
  augment.random_crop = True  # else the centre crop
  augment.scales = ()  # sides of a random crop as shares of the short side
  augment.flip = True  # half of the clips, left to right
  augment.brightness = 0.0  # largest change, as a share
  augment.contrast = 0.0  # likewise
  augment.saturation = 0.0  # likewise

  config.train = train = ConfigDict()
  train.batch = 128  # clips a step, over all devices
  train.steps = 7_500  # UCF101 study
  train.accumulate = 1  # parts that a step's batch is computed in
  train.loss = "softmax"  # or "sigmoid", for several labels a video
  train.label_smoothing = 0.0  # share of the target spread over all classes
  # Decay of the averaged parameters, which evaluation and checkpoints then use,
  # with the batch norms' own moving statistics; 0 keeps none.
  train.ema = 0.0

  config.optim = optim = ConfigDict()
  optim.name = "sgd"  # or "adamw"
  # Before the multipliers; None takes the first of the next two for a run
  # from random weights, the second for one from `init_from`.
  optim.learning_rate = config_dict.placeholder(float)
  optim.scratch_learning_rate = 0.01  # not stated
  optim.init_learning_rate = 0.001  # UCF101 study, from ImageNet weights
  optim.schedule = "step"  # or "cosine", "constant"
  optim.decay_every = 3_000  # steps, of "step"
  optim.decay_factor = 0.1  # of "step"
  optim.warmup = 0  # steps of a linear rise from 0
  optim.momentum = 0.9  # not stated in the paper
  optim.nesterov = False  # of "sgd"
  optim.b1 = 0.9  # of "adamw"
  optim.b2 = 0.999  # of "adamw"
  optim.weight_decay = 5e-4  # not stated; never on batch norm and biases
  optim.clip_norm = 0.0  # largest norm of the gradient; 0 does not clip
  # (pattern, factor): regular expressions searched in names as
  # "res3/block02/spatial/conv/kernel".
  optim.multipliers = ()
  # Besides, where fc begins fresh on weights of `init_from`: the prototxts'
  # factors on the learning rate of its kernel and of its bias. From random
  # weights, and with a head that came along, all layers learn alike.
  optim.fresh_head_kernel = 10.0  # prototxts
  optim.fresh_head_bias = 20.0  # prototxts
  optim.freeze = ()  # patterns of parameters that do not learn

  # How the devices share the work: data x fsdp x space must be all of them.
  # Nothing of it changes a number but by rounding, so a run may go on with
  # another mesh.
  config.mesh = mesh = ConfigDict()
  mesh.data = config_dict.placeholder(int)  # None: the devices that are left
  # Devices that parameters and the optimiser's state are split over; they take
  # other clips each, as those of `data` do.
  mesh.fsdp = 1
  mesh.space = 1  # devices that the height of the frames is split over
  # First stage ("res2" to "res5") whose frames stand whole on each device,
  # because their height does not divide by `space` into more than one row;
  # None: all are split.
  mesh.gather = config_dict.placeholder(str)

  config.eval = evaluation = ConfigDict()
  evaluation.every = 500  # steps; 0: only at the end
  evaluation.clips = 20  # uniform clips a video, centre crop
  evaluation.batch = 8  # videos at once, over all devices

  config.checkpoint = checkpoint = ConfigDict()
  # Steps; the last one, and each one that is evaluated, are always saved.
  checkpoint.every = 500
  checkpoint.keep = 3  # newest steps kept, and besides:
  checkpoint.keep_best = 1  # steps of the highest video hit@1

  config.input = inputs = ConfigDict()
  # Grain's processes that read; 0: this one, which is enough where `timeout`
  # has each thread decode elsewhere. A script that trains with more needs the
  # line `if __name__ == "__main__":`.
  inputs.workers = 0
  inputs.threads = 2  # that decode, in each process
  # Seconds that decoding one example may take. Each thread then decodes in a
  # process of its own, which is killed if it takes longer; 0: in the thread.
  inputs.timeout = 60.0
  # Share of the last 1,000 clips whose video could not be read and was
  # replaced, above which training stops (counted anew where a run goes on); and
  # of the videos of an evaluation, of which one may always be unreadable.
  inputs.max_replaced = 0.01

  config.log = log = ConfigDict()
  # Steps a line of metrics.jsonl and TensorBoard; each evaluation and each
  # checkpoint ends one too.
  log.every = 20
  log.tensorboard = True  # event files in workdir/tensorboard

  config.profile = profile = ConfigDict()
  # A trace of some steps for TensorBoard and XProf, in workdir/profile.
  profile.steps = 0  # steps that are traced; 0: none
  profile.start = 10  # steps after the start of the run, past compilation

  config.watch = watch = ConfigDict()
  # Seconds that a step, a batch of an evaluation or a compilation may take;
  # then all hosts write their stacks and stop. 0: any.
  watch.stall = 1_800.0
  watch.lost = 60.0  # seconds without a sign of another host: it is lost

  config.compile = compiling = ConfigDict()
  # Folder that compiled programs are kept in for the next start; gs:// works.
  # "": what JAX_COMPILATION_CACHE_DIR names; else, for a process that is alone,
  # what P3D_COMPILED names, or ~/.cache/p3d_jax/compiled. "off": none.
  compiling.cache = ""
  return config.lock()


def preprocessing(config: ConfigDict) -> Preprocessing:
  """Returns what the config says of pixels."""
  fields = config.preprocessing.to_dict()
  for name in ("resize", "crop"):
    if len(fields[name]) == 1:
      fields[name] = fields[name][0]
  fields["resize"] = fields["resize"] or None
  return Preprocessing(**fields)


def augmentation(config: ConfigDict) -> Augment:
  """Returns how the config varies training clips."""
  a = config.augment
  return Augment(
    random_crop=a.random_crop,
    scales=tuple(a.scales),
    flip=a.flip,
    jitter=(a.brightness, a.contrast, a.saturation),
  )


def reading(config: ConfigDict) -> Reading:
  """Returns how the config reads videos."""
  return Reading(
    workers=config.input.workers,
    threads=config.input.threads,
    timeout=config.input.timeout or None,
    decoder=config.data.decoder,
  )


def network(config: ConfigDict, num_classes: int) -> p3d.P3D:
  """Builds the network of the config, as it trains."""
  m = config.model
  fields: dict[str, Any] = {
    name: m[name]
    for name in (
      "stages",
      "width",
      "rule",
      "stem_pool",
      "reduce_stride",
      "norm_epsilon",
    )
    if m[name] is not None
  }
  if m.temporal_init_std is not None:
    fields["temporal_init"] = nn.initializers.normal(m.temporal_init_std)
  return zoo.build(
    m.name,
    num_classes=num_classes,
    flavour=m.flavour,
    schedule=m.schedule,
    dropout=m.dropout,
    dtype=jnp.dtype(m.dtype),
    precision=m.precision,
    remat=m.remat,
    norm_momentum=config.norm.momentum,
    norm_group=config.norm.group,
    freeze_norm=config.norm.freeze,
    **fields,
  )
