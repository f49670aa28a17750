"""YUPENN Dynamic Scenes: 14 scenes, 30 videos each, from a camera at rest."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from p3d_jax.data.builders import lists
from p3d_jax.data.builders.layout import (
  Dataset,
  Entry,
  Layout,
  Tree,
  plainly,
)

CLASSES = (
  "Beach",
  "Elevator",
  "ForestFire",
  "Fountain",
  "Highway",
  "LightningStorm",
  "Ocean",
  "Railway",
  "RushingRiver",
  "Sky-Clouds",
  "Snowing",
  "Street",
  "Waterfall",
  "WindmillFarm",
)
# Videos of a class.
EACH = 30


@lists.of_tree
def layout(tree: Tree) -> Layout:
  """Takes the videos of the release's class folders.

  Raises:
    ValueError: fewer than half of the classes have a folder with videos, or
      two videos of a class have one name.
  """
  return class_folders(tree, CLASSES, EACH)


def class_folders(
  tree: Tree,
  names: Sequence[str],
  each: int,
  spellings: Mapping[str, str] | None = None,
) -> Layout:
  """Takes the videos of class folders that no list names.

  A folder with the name of a class of the release is a class folder, whatever
  folders stand above and below it, and so are the folders beside it.

  Args:
    tree: the folder.
    names: of the release's classes.
    each: the release's videos of a class.
    spellings: other name of a class -> name. Case, spaces and signs do not
      matter in any name.

  Returns:
    A record a video, named CLASS/FILE without the suffix. Videos in no class
    folder are extra. What a class has fewer than the release is missing, and so
    are all of a class of the release, unless other classes are there; other
    classes, and more videos than the release, are noted.

  Raises:
    ValueError: fewer than half of the classes have a folder with videos, or
      two videos of a class have one name.
  """
  known = {plainly(name): name for name in names}
  known |= {plainly(other): name for other, name in (spellings or {}).items()}
  placed = _placed(tree.videos, known)
  counts = collections.Counter(placed.values())
  there = sum(name in counts for name in names)
  if 2 * there < len(names):
    raise ValueError(
      f"{lists.of(tree)}: must have folders of videos for half of the "
      f"{len(names)} classes, such as {names[0]} and {names[1]}, and has "
      f"{there}; build videos of other classes as the dataset folder"
    )
  foreign = sorted(set(counts) - set(names))
  label_names = tuple(sorted(counts)) if foreign else tuple(names)
  entries = _entries(tree, placed, label_names)
  return Layout(
    entries=entries,
    label_names=label_names,
    lists={},
    missing=tuple(
      f"{name}: video {number} of {each}"
      for name in names
      if name in counts or not foreign
      for number in range(counts[name] + 1, each + 1)
    ),
    extra=lists.extra(tree, entries),
    notes=_notes(names, each, counts, foreign),
  )


def _placed(files: Sequence[str], known: Mapping[str, str]) -> dict[str, str]:
  """Returns file -> class, for the files that are in a class folder."""
  placed = {}
  homes = set()
  for file in files:
    folders = PurePosixPath(file).parts[:-1]
    for level in reversed(range(len(folders))):
      if plainly(folders[level]) in known:
        placed[file] = known[plainly(folders[level])]
        homes.add(folders[:level])
        break
  # What stands beside a class folder is one, too, whatever its name is.
  for file in files:
    folders = PurePosixPath(file).parts[:-1]
    for home in homes:
      if len(folders) > len(home) and folders[: len(home)] == home:
        placed.setdefault(file, folders[len(home)])
  return placed


def _entries(
  tree: Tree, placed: Mapping[str, str], label_names: Sequence[str]
) -> tuple[Entry, ...]:
  """Returns the records, class by class."""
  labels = {name: label for label, name in enumerate(label_names)}
  found: dict[str, Entry] = {}
  for file, name in sorted(
    placed.items(), key=lambda item: (labels[item[1]], item[0])
  ):
    video = f"{name}/{lists.stem(file)}"
    # In two folders, such as color/ and gray/, they are two videos.
    if video in found:
      raise ValueError(
        f"{lists.of(tree)}: {found[video].path!r} and {file!r} are two videos "
        "of one name; keep one below the folder"
      )
    found[video] = Entry(id=video, path=file, labels=(labels[name],))
  return tuple(found.values())


def _notes(
  names: Sequence[str],
  each: int,
  counts: Mapping[str, int],
  foreign: Sequence[str],
) -> tuple[str, ...]:
  notes = [
    f"videos of class {name}: {counts[name]}; the release has {each}"
    for name in names
    if counts.get(name, 0) > each
  ]
  if foreign:
    absent = [name for name in names if name not in counts]
    notes.append(f"class folders beside the release's: {', '.join(foreign)}")
    if absent:
      notes.append(
        f"classes of the release without a folder, not counted as missing "
        f"beside other classes: {', '.join(absent)}"
      )
  return tuple(notes)


DATASET = Dataset(
  name="yupenn",
  title="YUPENN Dynamic Scenes, 14 scenes x 30 videos, camera at rest",
  expects="""\
DIR/
  Beach/                 one folder a class, of the release's 14 names
    beach_01.avi         30 videos each; any name and container
  Elevator/
  ForestFire/
  ...
Folders above the classes (avi/Beach/) and below them (Beach/color/) may be
there. Case, spaces and signs in a class's name do not matter. A folder with
another name beside them is a class, too, and a note says so. At least 7 of the
14 must be there; those that are not, and each video below 30 a class, are
missing. Beside other classes only the videos of classes that are there are.""",
  known_from=(
    "The 14 names and CLASS/class_NN, below a folder avi/: the frame lists of "
    "a published training of C3D on this dataset. The release itself was not "
    "seen, and a level such as color/ below a class is assumed."
  ),
  lists="all; the protocol leaves one video out in turn",
  layout=layout,
)
