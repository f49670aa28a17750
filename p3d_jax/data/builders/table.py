"""The datasets that `p3d data build` makes of files on disk, by name."""

from __future__ import annotations

from p3d_jax.data.builders import (
  activitynet,
  aslan,
  dynamic_scene,
  folder,
  hmdb51,
  kinetics,
  sports1m,
  ucf101,
  yupenn,
)
from p3d_jax.data.builders.layout import Dataset

DATASETS: dict[str, Dataset] = {
  dataset.name: dataset
  for dataset in (
    ucf101.DATASET,
    hmdb51.DATASET,
    *kinetics.DATASETS,
    sports1m.DATASET,
    activitynet.DATASET,
    aslan.DATASET,
    yupenn.DATASET,
    dynamic_scene.DATASET,
    folder.DATASET,
  )
}
