r"""Table 4: pool5 and a linear SVM on ActivityNet v1.3, validation.

    p3d paper table4 --data sets --out table4 \
      --checkpoint runs/sports1m_p3d199

Trains no network: the config is the protocol, which the command takes from the
same place. The paper: top-1 75.12, top-3 87.71, mAP 78.86.
Not run: needs ActivityNet (`p3d data build activitynet --source DIR --out
sets`) and a P3D-199 of Sports-1M.
"""

from ml_collections import ConfigDict

from p3d_jax.paper import protocols


def get_config() -> ConfigDict:
  """Returns the protocol, to be read."""
  return protocols.get_config("activitynet_svm")
