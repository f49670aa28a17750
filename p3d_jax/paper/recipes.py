"""The runs of the paper as configs: a function each, a source a number.

    p3d train --config p3d_jax/paper/recipes.py:ucf101_p3d_abc --workdir RUN

Each changes some fields of `train/config.py:default()`; the files in
experiments/configs/ are their doors. Where the paper states a number, its
table or section is beside it; "not stated" is our choice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from p3d_jax.train import config as configs


def _ucf101_study(config: ConfigDict) -> None:
  """Sets what all networks of the UCF101 study share (Table 1).

  Batch, steps and learning rate are stated for P3D. Those of the 2D network
  were not found: it has the same, so that all have one budget.
  """
  config.data.dir = "sets/ucf101"
  # Which of the three splits is not stated in what was found; the first.
  config.data.train_split, config.data.eval_split = "train1", "test1"
  config.model.name = "p3d63"  # on ResNet-50
  config.model.dropout = 0.9
  # All batch norms but conv1's stay as they begin: stated for the 2D baseline,
  # and in the prototxts of the P3D release.
  config.norm.freeze = "all_but_first"
  config.train.batch, config.train.steps = 128, 7_500
  config.optim.init_learning_rate = 0.001
  config.optim.schedule = "step"
  config.optim.decay_every, config.optim.decay_factor = 3_000, 0.1
  config.optim.momentum, config.optim.weight_decay = 0.9, 5e-4  # not stated


def ucf101_resnet50_frames() -> ConfigDict:
  """Table 1, ResNet-50: the 2D network on single frames."""
  config = configs.default()
  _ucf101_study(config)
  config.init_from = "weights/resnet50_S"
  config.model.schedule = "S"
  config.preprocessing.frames = 1
  config.preprocessing.resize = (240, 320)  # height x width
  config.preprocessing.crop = (224, 224)
  config.augment.random_crop = True
  config.augment.flip = True  # stated for P3D; not for this one
  return config


def ucf101_p3d(schedule: str) -> ConfigDict:
  """Table 1, P3D: clips of 16 frames at 182x242 (height x width), crop 160.

  Args:
    schedule: "A", "B", "C" or "ABC"; "F", the full 3D network, is not in the
      paper's table. Whether the paper's begin with ImageNet's ResNet-50 or with
      the 2D baseline is told in two ways: ImageNet's here.
  """
  config = configs.default()
  _ucf101_study(config)
  config.init_from = f"weights/resnet50_{schedule}"
  config.model.schedule = schedule
  config.preprocessing.frames = 16
  config.preprocessing.resize = (182, 242)
  config.preprocessing.crop = (160, 160)
  config.augment.random_crop = config.augment.flip = True
  return config


def _sports1m(config: ConfigDict) -> None:
  """Sets what both networks on Sports-1M share (Table 2)."""
  config.data.dir = "sets/sports1m"
  config.model.dropout = 0.1
  config.norm.freeze = "all_but_first"  # prototxts
  config.train.batch, config.train.steps = 128, 150_000
  config.optim.init_learning_rate = 0.001
  config.optim.schedule = "step"
  config.optim.decay_every, config.optim.decay_factor = 60_000, 0.1
  config.optim.momentum, config.optim.weight_decay = 0.9, 5e-4  # not stated
  # A pass over 200,000 test videos takes hours: at the end only.
  config.eval.every = 0
  config.checkpoint.every = 5_000


def sports1m_p3d199() -> ConfigDict:
  """Table 2, P3D ResNet: on ResNet-152.

  Resize, crop and flip are those of the UCF101 study.

  The paper cuts five shorts of five seconds from each training video and takes
  its clip from one of them: `p3d data build sports1m` makes these shorts, each
  a record.
  """
  config = configs.default()
  _sports1m(config)
  config.init_from = "weights/resnet152_ABC"
  config.model.name = "p3d199"
  config.preprocessing.resize = (182, 242)
  config.preprocessing.crop = (160, 160)
  return config


def sports1m_resnet152() -> ConfigDict:
  """Table 2, ResNet-152: 2D, on single frames; its settings are not stated.

  They are those of P3D, with the frames of the UCF101 study's 2D baseline.
  """
  config = configs.default()
  _sports1m(config)
  config.init_from = "weights/resnet152_S"
  config.model.name = "p3d199"
  config.model.schedule = "S"
  config.preprocessing.frames = 1
  config.preprocessing.resize = (240, 320)
  config.preprocessing.crop = (224, 224)
  return config


def kinetics_rgb() -> ConfigDict:
  """The release's Kinetics-400 network on RGB.

  Its prototxt states the network, dropout and rates of layers. How long it was
  trained is not stated: as on Sports-1M; pixels are as in the UCF101 study.
  """
  config = configs.default()
  _sports1m(config)
  config.init_from = "weights/resnet152_ABC"
  config.data.dir = "sets/kinetics400"
  config.data.eval_split = "validation"
  config.model.name = "p3d199"
  config.model.dropout = 0.5  # prototxt
  return config


def kinetics_flow() -> ConfigDict:
  """The release's Kinetics-400 network on optical flow."""
  config = kinetics_rgb()
  config.init_from = "weights/resnet152_flow"
  config.data.dir = "sets/kinetics400_flow"  # `p3d data flow` names it
  config.model.dropout = 0.7  # prototxt
  config.preprocessing.channels = "flow"
  # TV-L1 flow, rescaled to 0..255.
  config.preprocessing.mean, config.preprocessing.std = (128.0,) * 2, (1.0,) * 2
  # Prototxt: conv1 and bn_conv1 learn five times as fast.
  config.optim.multipliers = (("^stem/", 5.0),)
  return config


def camera_motion(schedule: str) -> ConfigDict:
  """The slim network of the demo on its eight motions; nothing is the paper's.

  Args:
    schedule: letters of the blocks.
  """
  config = configs.default()
  config.data.dir = "data/camera_motion"
  config.model.schedule = schedule
  # From random weights, so every batch norm is live. 16 channels fill a vector
  # register; 24 took three times as long.
  config.model.width, config.model.stages = 16, (1, 1, 1, 1)
  config.model.dropout = 0.0
  pixels = config.preprocessing
  pixels.resize, pixels.crop = (64,), (48, 48)
  pixels.channels = "RGB"
  pixels.mean, pixels.std = (128.0,) * 3, (64.0,) * 3
  # The third film has other colours than the two.
  config.augment.brightness = config.augment.contrast = 0.2
  config.augment.saturation = 0.3
  config.train.batch, config.train.steps = 32, 500
  config.optim.name, config.optim.weight_decay = "adamw", 0.05
  config.optim.scratch_learning_rate = 0.004
  config.optim.schedule, config.optim.warmup = "cosine", 40
  # AdamW gives each layer steps of the same size, a fresh head's too.
  config.optim.fresh_head_kernel = config.optim.fresh_head_bias = 1.0
  config.eval.every, config.eval.clips, config.eval.batch = 0, 4, 32
  config.checkpoint.every = 100
  return config


def camera_motion_frames() -> ConfigDict:
  """The same on single frames, which do not show the motion."""
  config = camera_motion("S")
  config.preprocessing.frames = 1
  return config


RECIPES: dict[str, Callable[[], ConfigDict]] = {
  "ucf101_resnet50_frames": ucf101_resnet50_frames,
  "ucf101_p3d_a": functools.partial(ucf101_p3d, "A"),
  "ucf101_p3d_b": functools.partial(ucf101_p3d, "B"),
  "ucf101_p3d_c": functools.partial(ucf101_p3d, "C"),
  "ucf101_p3d_abc": functools.partial(ucf101_p3d, "ABC"),
  "ucf101_full3d": functools.partial(ucf101_p3d, "F"),
  "sports1m_p3d199": sports1m_p3d199,
  "sports1m_resnet152": sports1m_resnet152,
  "kinetics_rgb": kinetics_rgb,
  "kinetics_flow": kinetics_flow,
  "camera_motion_frames": camera_motion_frames,
  "camera_motion_p3d_a": functools.partial(camera_motion, "A"),
  "camera_motion_p3d_b": functools.partial(camera_motion, "B"),
  "camera_motion_p3d_c": functools.partial(camera_motion, "C"),
  "camera_motion_p3d_abc": functools.partial(camera_motion, "ABC"),
  "camera_motion_full3d": functools.partial(camera_motion, "F"),
}


def get_config(name: str) -> ConfigDict:
  """Returns the config of a name in RECIPES.

  Raises:
    ValueError: there is none of that name.
  """
  if name not in RECIPES:
    raise ValueError(f"{name!r} must be one of {', '.join(RECIPES)}")
  return RECIPES[name]()
