r"""Table 5: do two videos of ASLAN show the same action?

    p3d paper table5 --data sets --out table5 \
      --checkpoint runs/sports1m_p3d199

Trains no network: the config is the protocol, which the command takes from the
same place. The paper: accuracy 80.8, AUC 87.9; which 12 similarities it takes
was not confirmed, see p3d_jax/evaluate/similarity.py.
Not run: needs ASLAN (`p3d data build aslan --source DIR --out sets`) and a
P3D-199 of Sports-1M.
"""

from ml_collections import ConfigDict

from p3d_jax.paper import protocols


def get_config() -> ConfigDict:
  """Returns the protocol, to be read."""
  return protocols.get_config("aslan_similarity")
