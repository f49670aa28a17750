r"""Table 3: pool5 and a linear SVM on the three splits of UCF101.

    p3d paper table3 --data sets --out table3 \
      --checkpoint runs/sports1m_p3d199

Trains no network: the config is the protocol, which the command takes from the
same place. The paper's mean accuracy: 88.6 (C3D 82.3, ResNet-152 83.5).
Not run: needs UCF101 (`p3d data build ucf101 --source DIR --out sets`) and a
P3D-199 of Sports-1M.
"""

from ml_collections import ConfigDict

from p3d_jax.paper import protocols


def get_config() -> ConfigDict:
  """Returns the protocol, to be read."""
  return protocols.get_config("ucf101_svm")
