r"""P3D-199 on Kinetics-400, optical flow: of the authors' release.

    p3d inflate resnet152.pth --model p3d199 --schedule ABC --flow \
      --out weights/resnet152_flow
    p3d train --config experiments/configs/kinetics_flow.py \
      --workdir runs/kinetics_flow
    p3d evaluate runs/kinetics_flow --clips 20 --sampling random

The authors' released weights: video hit@1 61.2, by their issue tracker. `p3d
paper kinetics --data sets --weights resnet152.pth --out kinetics` runs this,
the other stream and their fusion.
Not run: needs Kinetics-400 (`p3d data build kinetics400 --source DIR --out
sets`, `p3d data flow sets/kinetics400 --out sets`) and a ResNet-152 of
ImageNet.
"""

from ml_collections import ConfigDict

from p3d_jax.paper import recipes


def get_config() -> ConfigDict:
  """Returns the recipe, whose fields have their sources beside them."""
  return recipes.kinetics_flow()
