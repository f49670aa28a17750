r"""Table 1, P3D, blocks A, B and C in turn: ResNet-50 base, on UCF101.

    p3d inflate resnet50.pth --model p3d63 --schedule ABC \
      --out weights/resnet50_ABC
    p3d train --config experiments/configs/ucf101_p3d_abc.py \
      --workdir runs/ucf101_p3d_abc
    p3d evaluate runs/ucf101_p3d_abc --clips 20

The paper's accuracy is 84.2 (Table 1). `p3d paper table1 --data sets --weights
resnet50.pth --out table1` runs the whole table.
Not run: needs UCF101 (`p3d data build ucf101 --source DIR --out sets`) and a
ResNet-50 of ImageNet.
"""

from ml_collections import ConfigDict

from p3d_jax.paper import recipes


def get_config() -> ConfigDict:
  """Returns the recipe, whose fields have their sources beside them."""
  return recipes.ucf101_p3d("ABC")
