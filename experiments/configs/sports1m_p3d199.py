r"""Table 2, P3D ResNet: P3D-199 on Sports-1M.

    p3d inflate resnet152.pth --model p3d199 --schedule ABC \
      --out weights/resnet152_ABC
    p3d train --config experiments/configs/sports1m_p3d199.py \
      --workdir runs/sports1m_p3d199
    p3d evaluate runs/sports1m_p3d199 --clips 20 --sampling random

The paper: clip hit@1 47.9, video hit@1 66.4, hit@5 87.4. `p3d paper table2
--data sets --weights resnet152.pth --out table2` runs it.
Not run: needs Sports-1M (`p3d data build sports1m --source DIR --out sets`,
about a million videos) and a ResNet-152 of ImageNet.
"""

from ml_collections import ConfigDict

from p3d_jax.paper import recipes


def get_config() -> ConfigDict:
  """Returns the recipe, whose fields have their sources beside them."""
  return recipes.sports1m_p3d199()
