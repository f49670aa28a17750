"""Maryland Dynamic Scene, "in the wild": 13 scenes, 10 videos each."""

from __future__ import annotations

from p3d_jax.data.builders import lists
from p3d_jax.data.builders.layout import Dataset, Layout, Tree
from p3d_jax.data.builders.yupenn import class_folders

CLASSES = (
  "Avalanche",
  "Boiling Water",
  "Chaotic Traffic",
  "Forest Fire",
  "Fountain",
  "Iceberg Collapse",
  "Landslide",
  "Smooth Traffic",
  "Tornado",
  "Volcanic Eruption",
  "Waterfall",
  "Waves",
  "Whirlpool",
)
# Papers write some of the names in another way.
SPELLINGS = {
  "Volcano Eruption": "Volcanic Eruption",
  "Volcano": "Volcanic Eruption",
  "Waterfalls": "Waterfall",
  "Forest Fires": "Forest Fire",
}
# Videos of a class.
EACH = 10


@lists.of_tree
def layout(tree: Tree) -> Layout:
  """Takes the videos of the release's class folders.

  Raises:
    ValueError: fewer than half of the classes have a folder with videos, or
      two videos of a class have one name.
  """
  return class_folders(tree, CLASSES, EACH, SPELLINGS)


DATASET = Dataset(
  name="dynamic_scene",
  title="Maryland Dynamic Scene in the wild, 13 scenes x 10 videos",
  expects="""\
DIR/
  Avalanche/             one folder a class, of the release's 13 names
    any name.avi         10 videos each; any name and container
  Boiling Water/         Boiling_Water and BoilingWater do as well
  Chaotic Traffic/
  ...
Folders above the classes and below them may be there. Case, spaces and signs
in a class's name do not matter. A folder with another name beside them is a
class, too, and a note says so. At least 7 of the 13 must be there; those that
are not, and each video below 10 a class, are missing. Beside other classes only
the videos of classes that are there are.""",
  known_from=(
    "13 scenes and 10 videos each: the papers that use the dataset. Assumed, "
    "as the release was not seen: a folder a class, and the names of the "
    "folders, which are those of the papers."
  ),
  lists="all; the protocol leaves one video out in turn",
  layout=layout,
)
