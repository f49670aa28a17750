r"""Table 2, ResNet-152: the 2D network on single frames of Sports-1M.

    p3d inflate resnet152.pth --model p3d199 --schedule S \
      --out weights/resnet152_S
    p3d train --config experiments/configs/sports1m_resnet152.py \
      --workdir runs/sports1m_resnet152
    p3d evaluate runs/sports1m_resnet152 --clips 20 --sampling random

The paper: clip hit@1 46.5, video hit@1 64.6, hit@5 86.4. `p3d paper table2
--frames --data sets --weights resnet152.pth --out table2` runs it.
Not run: needs Sports-1M (`p3d data build sports1m --source DIR --out sets`,
about a million videos) and a ResNet-152 of ImageNet.
"""

from ml_collections import ConfigDict

from p3d_jax.paper import recipes


def get_config() -> ConfigDict:
  """Returns the recipe, whose fields have their sources beside them."""
  return recipes.sports1m_resnet152()
