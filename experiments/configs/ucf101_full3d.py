r"""Full 3D convolutions beside Table 1: ResNet-50 base, on UCF101.

    p3d inflate resnet50.pth --model p3d63 --schedule F \
      --out weights/resnet50_F
    p3d train --config experiments/configs/ucf101_full3d.py \
      --workdir runs/ucf101_full3d
    p3d evaluate runs/ucf101_full3d --clips 20

The paper's table has no such row, so there is no number to expect.
Not run: needs UCF101 (`p3d data build ucf101 --source DIR --out sets`) and a
ResNet-50 of ImageNet.
"""

from ml_collections import ConfigDict

from p3d_jax.paper import recipes


def get_config() -> ConfigDict:
  """Returns the recipe, whose fields have their sources beside them."""
  return recipes.ucf101_p3d("F")
