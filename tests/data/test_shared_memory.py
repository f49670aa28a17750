"""Memory that two processes share."""

import os

import numpy as np

from p3d_jax.data.shared_memory import Shared


def test_what_is_laid_in_is_seen_from_the_other_side() -> None:
  ours = Shared()
  theirs = Shared(os.dup(ours.fd))
  rng = np.random.default_rng(0)
  # It grows, and smaller things then lie in the larger memory.
  for sizes in ([3], [0, 100_000, 1], [5_000_000], [], [7, 0, 7]):
    parts = [rng.bytes(size) for size in sizes]
    for here, there in ((ours, theirs), (theirs, ours)):
      assert here.lay(parts) == sizes
      assert [view.tobytes() for view in there.views(sizes)] == parts
  assert os.fstat(ours.fd).st_size == 5_000_000
  ours.close()
  theirs.close()


def test_arrays_of_any_order_and_shape() -> None:
  ours = Shared()
  rows = np.arange(6, dtype=np.int16).reshape(2, 3)
  parts = [rows, np.asfortranarray(rows), np.zeros((0, 4))]
  sizes = ours.lay(parts)
  assert sizes == [12, 12, 0]
  one, two, none = ours.views(sizes)
  assert one.view(np.int16).tolist() == [0, 1, 2, 3, 4, 5]
  assert two.view(np.int16).tolist() == [0, 3, 1, 4, 2, 5]
  assert none.size == 0
  ours.close()
