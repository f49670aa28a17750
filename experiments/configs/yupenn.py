r"""Table 6: YUPENN, leave one video out, pool5 and a linear SVM.

    p3d paper table6 --sets yupenn --data sets --out table6 \
      --checkpoint runs/sports1m_p3d199

Trains no network: the config is the protocol, which the command takes from the
same place. The paper's accuracy: 99.5.
Not run: needs YUPENN (`p3d data build yupenn --source DIR --out sets`) and a
P3D-199 of Sports-1M.
"""

from ml_collections import ConfigDict

from p3d_jax.paper import protocols


def get_config() -> ConfigDict:
  """Returns the protocol, to be read."""
  return protocols.get_config("yupenn")
