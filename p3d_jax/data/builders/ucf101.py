"""UCF101: 13,320 videos, 101 classes, three official splits."""

import collections
import dataclasses
import re
from pathlib import PurePosixPath

from p3d_jax.data.builders import lists
from p3d_jax.data.builders.layout import (
  Dataset,
  Entry,
  Layout,
  Tree,
  loosely,
  match,
)

CLASSES = 101
CLASS_LIST = "classInd.txt"
SPLITS = tuple(
  f"{split}{fold}" for fold in "123" for split in ("train", "test")
)


@dataclasses.dataclass(frozen=True)
class Named:
  """A line of a list.

  Attributes:
    where: FILE:LINE, for messages.
    list: the split, such as "train1".
    video: as the line has it, Class/v_Class_g01_c01.avi.
    number: of the class, from 1 on; None in a list for testing.
  """

  where: str
  list: str
  video: str
  number: int | None

  @property
  def folder(self) -> str:
    """Name of the folder that the video is in, which is its class."""
    return PurePosixPath(self.video).parent.name

  @property
  def stem(self) -> str:
    """Name of the video without the suffix."""
    return lists.stem(self.video)


@lists.of_tree
def layout(tree: Tree) -> Layout:
  """Lays a folder of UCF101 against the official lists below it.

  Videos are known by the name of their file, which tells the class, the group
  and the clip, wherever below the folder and in whatever container they are.
  """
  files = _find_lists(tree)
  classes = _read_classes(tree, files[CLASS_LIST])
  named = [
    line
    for name, path in files.items()
    if name != CLASS_LIST
    for line in _read_list(tree, name, path)
  ]
  labels = _labels(named, classes)
  first = _first_lines(named, labels)
  listed = {line.stem: key for key, line in first.items()}
  matches = match(listed, tree.videos, lists.stem)
  path = {listed[stem]: file for stem, file in matches.found.items()}
  missing = tuple(first[listed[stem]].video for stem in matches.missing)
  lists.check_found(tree, path, missing)
  ids = {key: lists.stem(file) for key, file in path.items()}
  entries = tuple(
    Entry(
      id=ids[key],
      path=path[key],
      labels=(labels[line.folder],),
      source_id=_group(ids[key]),
    )
    for key, line in first.items()
    if key in path
  )
  splits: dict[str, list[str]] = {line.list: [] for line in named}
  for line in named:
    if loosely(line.stem) in ids:
      splits[line.list].append(ids[loosely(line.stem)])
  notes = lists.class_notes(tree, len(classes), CLASSES)
  notes += lists.absent_notes(SPLITS, splits)
  notes += _respelled(named, classes, path)
  notes += lists.further_notes(matches.further)
  return Layout(
    entries=entries,
    label_names=tuple(classes),
    lists={name: tuple(of) for name, of in splits.items()},
    missing=missing,
    extra=lists.extra(tree, entries),
    notes=tuple(notes),
    files=tuple(files.values()),
  )


def _find_lists(tree: Tree) -> dict[str, str]:
  found = lists.find(tree, r"classInd\.txt|(train|test)list0[123]\.txt")
  if CLASS_LIST.lower() not in found or len(found) == 1:
    raise ValueError(
      f"{lists.of(tree)}: no {CLASS_LIST} with trainlist01.txt to "
      "testlist03.txt in it; unpack UCF101TrainTestSplits-RecognitionTask.zip "
      f"there{lists.beside(tree, CLASS_LIST)}"
    )
  ordered = {CLASS_LIST: found[CLASS_LIST.lower()].path}
  for split in SPLITS:
    if (name := f"{split[:-1]}list0{split[-1]}.txt") in found:
      ordered[split] = found[name].path
  return ordered


def _read_classes(tree: Tree, path: str) -> list[str]:
  """Reads "NUMBER Class" lines; returns the names in order."""
  names: dict[int, str] = {}
  for at, line in lists.lines(tree, path):
    where, text = f"{path}:{at}", line.strip()
    parts = re.fullmatch(r"(\d+)\s+(\S.*)", text)
    if not parts:
      raise ValueError(f"{where}: {text!r} must be NUMBER CLASS")
    number, name = int(parts[1]), parts[2]
    if number in names or name in names.values():
      raise ValueError(f"{where}: {text!r}: the number or class comes twice")
    names[number] = name
  if sorted(names) != list(range(1, len(names) + 1)):
    gap = min(set(range(1, len(names) + 1)) - set(names))
    raise ValueError(
      f"{path}: its {len(names)} classes must have the numbers 1 to "
      f"{len(names)}; {gap} is not there"
    )
  return [names[number] for number in sorted(names)]


def _read_list(tree: Tree, name: str, path: str) -> list[Named]:
  """Reads "Class/video.avi" lines, with the class's number for training."""
  found = []
  for at, line in lists.lines(tree, path):
    where, text = f"{path}:{at}", line.strip()
    if name.startswith("train"):
      parts = re.fullmatch(r"(\S.*)/(\S.*\.\w+)\s+(\d+)", text)
      rule = "CLASS/VIDEO.avi NUMBER"
    else:
      parts = re.fullmatch(r"(\S.*)/(\S.*\.\w+)", text)
      rule = "CLASS/VIDEO.avi"
    if not parts:
      raise ValueError(f"{where}: {text!r} must be {rule}")
    number = int(parts[3]) if name.startswith("train") else None
    found.append(Named(where, name, f"{parts[1]}/{parts[2]}", number))
  return found


def _labels(named: list[Named], classes: list[str]) -> dict[str, int]:
  """Returns the label of each folder of the lists."""
  index = {name: label for label, name in enumerate(classes)}
  # A spelling at a time: several of them may mean one class.
  labels: dict[str, int] = {}
  for line in named:
    if line.folder not in labels:
      found = match([line.folder], classes).found
      if not found:
        raise ValueError(
          f"{line.where}: {line.folder!r} is no class of {CLASS_LIST}"
        )
      labels[line.folder] = index[found[line.folder]]
    if line.number not in (None, labels[line.folder] + 1):
      raise ValueError(
        f"{line.where}: {line.folder} has the number {line.number}, and "
        f"{labels[line.folder] + 1} in {CLASS_LIST}"
      )
  return labels


def _first_lines(
  named: list[Named], labels: dict[str, int]
) -> dict[str, Named]:
  """Returns the first line of each video, by its name in small letters."""
  first: dict[str, Named] = {}
  seen: dict[tuple[str, str], Named] = {}
  for line in named:
    key = loosely(line.stem)
    before = first.setdefault(key, line)
    if labels[before.folder] != labels[line.folder]:
      raise ValueError(
        f"{line.where}: {line.video} and {before.video} ({before.where}) have "
        "one name and two classes"
      )
    # A video is once in the two lists of a fold: in the one or in the other.
    again = seen.setdefault((line.list[-1], key), line)
    if again is not line:
      raise ValueError(
        f"{line.where}: {line.video} is in {again.list} already ({again.where})"
      )
  return first


def _respelled(
  named: list[Named], classes: list[str], path: dict[str, str]
) -> list[str]:
  """Tells how many videos, and which classes, have several spellings."""
  spellings = {loosely(name): {name} for name in classes}
  names: dict[str, set[str]] = collections.defaultdict(set)
  folders: dict[str, set[str]] = collections.defaultdict(set)
  for line in named:
    key = loosely(line.stem)
    if key not in path:
      continue
    disk = PurePosixPath(path[key])
    of_class = spellings[loosely(line.folder)]
    names[key] |= {line.stem, disk.stem}
    folders[key] |= {line.folder} | set(of_class)
    # A folder may also be no class's: all videos in one.
    if loosely(disk.parent.name) == loosely(line.folder):
      folders[key].add(disk.parent.name)
  differ = [k for k in names if len(names[k]) > 1 or len(folders[k]) > 1]
  if not differ:
    return []
  key = differ[0]
  several = names[key] if len(names[key]) > 1 else folders[key]
  return [
    "spelled in several ways by the lists and on disk: "
    f"{lists.counted(len(differ), 'video')}, such as "
    f"{' and '.join(sorted(several))}; case was not looked at"
  ]


def _group(stem: str) -> str:
  """Returns v_Class_g01 of v_Class_g01_c02: clips of a group share footage."""
  parts = re.fullmatch(r"(.+_g\d+)_c\d+", stem)
  return parts[1] if parts else ""


DATASET = Dataset(
  name="ucf101",
  title="UCF101: 13,320 videos, 101 classes, three official splits",
  expects="""\
DIR/
  UCF-101/                      UCF101.rar, or a ZIP of it, unpacked
    ApplyEyeMakeup/
      v_ApplyEyeMakeup_g01_c01.avi
  ucfTrainTestlist/             UCF101TrainTestSplits-RecognitionTask.zip
    classInd.txt                1 ApplyEyeMakeup
    trainlist01.txt ... 03      ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
    testlist01.txt ... 03       ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi
The folders may have other names and lie in one another. A video is known by
the name of its file; case and container may differ. Of several files of one
video the first by path is taken, and the others are counted as extra.""",
  known_from=(
    "The names and the lists are those of the dataset's own release, as public "
    "copies of its lists have them."
  ),
  lists=", ".join(SPLITS),
  layout=layout,
)
