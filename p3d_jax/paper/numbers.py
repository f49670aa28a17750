"""The paper's numbers, which stand beside ours in each table."""

from __future__ import annotations

from typing import NamedTuple


class Network(NamedTuple):
  """A row of Table 1.

  Attributes:
    size: in MB, of which the paper does not say how many bytes one has.
    speed: frames per second of the 2D network, clips per second of the others.
    accuracy: on UCF101, in percent.
  """

  size: float
  speed: float
  accuracy: float


# Table 1, UCF101; by what the blocks are, "frames" the 2D ResNet-50. The full
# 3D network is not in it.
TABLE1 = {
  "frames": Network(92, 15.0, 80.8),
  "p3d_a": Network(98, 9.0, 83.7),
  "p3d_b": Network(98, 8.8, 82.8),
  "p3d_c": Network(98, 8.6, 83.0),
  "p3d_abc": Network(98, 8.8, 84.2),
}


class Sports1M(NamedTuple):
  """A row of Table 2, in percent."""

  clip_hit_1: float
  video_hit_1: float
  video_hit_5: float


# Table 2, Sports-1M; by the row's title. The first sees 120 frames at once, and
# is above P3D in the paper's own table.
TABLE2 = {
  "Convolutional pooling, 120 frames": Sports1M(70.8, 72.3, 90.8),
  "Deep Video, single frame": Sports1M(41.1, 59.3, 77.7),
  "Deep Video, slow fusion": Sports1M(41.9, 60.9, 80.2),
  "C3D": Sports1M(44.9, 60.0, 84.4),
  "C3D, I380K pre-trained": Sports1M(46.1, 61.1, 85.2),
  "ResNet-152, 2D": Sports1M(46.5, 64.6, 86.4),
  "P3D ResNet": Sports1M(47.9, 66.4, 87.4),
}

# UCF101 by a linear SVM, the mean of the three splits, in percent. The last
# has hand-made features (IDT) besides, which are not made here.
UCF101 = {
  "C3D": 82.3,
  "ResNet-152, 2D": 83.5,
  "P3D ResNet": 88.6,
  "P3D ResNet with IDT": 93.7,
}

# ActivityNet v1.3, validation, in percent.
ACTIVITYNET = {"video_hit@1": 75.12, "video_hit@3": 87.71, "mAP": 78.86}

# ASLAN, in percent.
ASLAN = {"accuracy": 80.8, "auc": 87.9}

# Leave one video out, in percent; by dataset.
SCENES = {"dynamic_scene": 94.6, "yupenn": 99.5}

# The authors' release on Kinetics-400, video hit@1 in percent: in their issue
# tracker, and not in the paper. What both make together is not told.
KINETICS = {"rgb": 72.1, "flow": 61.2}
