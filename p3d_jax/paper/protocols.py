"""How each benchmark of the representation is run: a row each.

Nothing is trained but an SVM: the features are those of one network, the
paper's P3D-199 of Sports-1M. `benchmarks.py` makes its command lines of these
rows; the files in experiments/configs/ are their doors.

What the paper says: the mean of pool5 over 20 clips, a linear SVM, the lists,
and for ASLAN the four endpoints and 12 similarities, L2-normalised. What is
not stated, and chosen here:

- Which 20 clips: spread evenly over the video, so that a feature is a function
  of the video alone (random clips, as in the test on Sports-1M, are
  `--sampling random`).
- ActivityNet's videos are taken whole, and not their segments.
- Normalisation and cost of the SVM: evaluate/linear_svm.py says why.
"""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from p3d_jax.paper import numbers


@dataclasses.dataclass(frozen=True)
class Protocol:
  """A benchmark.

  Attributes:
    title: of the dataset.
    dataset: its name in `p3d data build`.
    verb: of the command that reads the features.
    expected: the paper's numbers, in percent, by their names in what the verb
      writes.
    split: videos whose features are taken.
    train: lists to train on, in pairs with `test`; () where the verb parts the
      videos itself.
    test: lists to test on.
    endpoints: of the network.
    pool: of maps: "mean", or "none" for whole maps.
    clips: of a video, whose features are averaged.
    sampling: of clips: "uniform" or "random".
    crops: of a clip.
    normalize: of features, or of a pair's similarities.
    costs: of the SVM; of several, one is chosen by cross-validation.
    folds: of that; None: the benchmark's own.
    hits: k of hit@k, where the verb has them.
  """

  title: str
  dataset: str
  verb: str
  expected: dict[str, float]
  split: str = "all"
  train: tuple[str, ...] = ()
  test: tuple[str, ...] = ()
  endpoints: tuple[str, ...] = ("pool5",)
  pool: str = "mean"
  clips: int = 20
  sampling: str = "uniform"
  crops: int = 1
  normalize: str = "l2"
  costs: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
  folds: int | None = 3
  hits: tuple[int, ...] = ()

  @property
  def splits(self) -> tuple[str, ...]:
    """Returns the lists that the set must have."""
    return (self.split, *self.train, *self.test)


_SPLITS = ("1", "2", "3")  # the official ones of UCF101

PROTOCOLS = {
  "ucf101_svm": Protocol(
    "UCF101",
    "ucf101",
    "svm",
    {"video_hit@1": numbers.UCF101["P3D ResNet"]},
    train=tuple(f"train{k}" for k in _SPLITS),
    test=tuple(f"test{k}" for k in _SPLITS),
    hits=(1, 5),
  ),
  "activitynet_svm": Protocol(
    "ActivityNet v1.3, validation",
    "activitynet",
    "svm",
    dict(numbers.ACTIVITYNET),
    split="train+validation",  # those for testing have no labels
    train=("train",),
    test=("validation",),
    hits=(1, 3),
  ),
  "aslan_similarity": Protocol(
    "ASLAN",
    "aslan",
    "similarity",
    dict(numbers.ASLAN),
    # The paper's res5c and res4b35: the last blocks of these stages.
    endpoints=("prob", "pool5", "res5", "res4"),
    pool="none",
    costs=(1e-2, 1e-1, 1.0, 10.0, 1e2, 1e3, 1e4, 1e5),
    folds=None,
  ),
  "dynamic_scene": Protocol(
    "Dynamic Scene",
    "dynamic_scene",
    "scenes",
    {"video_hit@1": numbers.SCENES["dynamic_scene"]},
  ),
  "yupenn": Protocol(
    "YUPENN",
    "yupenn",
    "scenes",
    {"video_hit@1": numbers.SCENES["yupenn"]},
  ),
}


def get_config(name: str) -> ConfigDict:
  """Returns a row of PROTOCOLS as a config, to be read; it trains nothing.

  Raises:
    ValueError: there is none of that name.
  """
  if name not in PROTOCOLS:
    raise ValueError(f"{name!r} must be one of {', '.join(PROTOCOLS)}")
  return ConfigDict(dataclasses.asdict(PROTOCOLS[name]))
