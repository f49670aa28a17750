r"""Table 1, ResNet-50: the 2D network on single frames of UCF101.

    p3d inflate resnet50.pth --model p3d63 --schedule S \
      --out weights/resnet50_S
    p3d train --config experiments/configs/ucf101_resnet50_frames.py \
      --workdir runs/ucf101_resnet50_frames
    p3d evaluate runs/ucf101_resnet50_frames --clips 20

The paper's accuracy is 80.8 (Table 1). `p3d paper table1 --data sets --weights
resnet50.pth --out table1` runs the whole table.
Not run: needs UCF101 (`p3d data build ucf101 --source DIR --out sets`) and a
ResNet-50 of ImageNet.
"""

from ml_collections import ConfigDict

from p3d_jax.paper import recipes


def get_config() -> ConfigDict:
  """Returns the recipe, whose fields have their sources beside them."""
  return recipes.ucf101_resnet50_frames()
