"""HMDB51: 6,766 videos, 51 classes, three official splits."""

import dataclasses
import re
from pathlib import PurePosixPath

from p3d_jax.data.builders import lists
from p3d_jax.data.builders.layout import (
  SUFFIXES,
  Dataset,
  Entry,
  Layout,
  Matches,
  Tree,
  match,
)

CLASSES = 51
SPLITS = tuple(
  f"{split}{fold}" for fold in "123" for split in ("train", "test")
)
# What the number after a name means, from the release's readme.
USES = {"0": None, "1": "train", "2": "test"}
# The stabilised videos of the release, hmdb51_sta, have the others' names.
STABILISED = re.compile(r"(?i)(^|[/_-])sta(b[a-z]*)?([/_-][^/]*)?/")
LIST = r"(.+)_test_split([123])\.txt"


@dataclasses.dataclass(frozen=True)
class ClassList:
  """One class in one split.

  Attributes:
    path: of the list, for messages.
    name: of the class.
    fold: "1", "2" or "3".
    uses: CLASS/STEM of each video -> "train", "test" or None.
    videos: CLASS/STEM -> CLASS/NAME, with the suffix that the list has.
  """

  path: str
  name: str
  fold: str
  uses: dict[str, str | None]
  videos: dict[str, str]


@lists.of_tree
def layout(tree: Tree) -> Layout:
  """Lays a folder of HMDB51 against the official lists below it.

  A video is known by its folder and its name, in whatever container. All that
  the lists name are records, those that a split leaves out too.
  """
  files = lists.find(tree, LIST).values()
  if not files:
    raise ValueError(
      f"{lists.of(tree)}: no CLASS_test_split1.txt to "
      "CLASS_test_split3.txt in it; unpack test_train_splits.rar there"
      f"{lists.beside(tree, '*_test_split1.txt')}"
    )
  read = [_read_list(tree, found) for found in files]
  classes = _check_lists(read)
  listed = {key: name for of in read for key, name in of.videos.items()}
  matches = match(listed, tree.videos, _key)
  missing = tuple(listed[key] for key in matches.missing)
  lists.check_found(tree, matches.found, missing)
  _check_kind(tree, matches)
  entries = tuple(_entry(k, f, classes) for k, f in matches.found.items())
  splits: dict[str, tuple[str, ...]] = {}
  for fold in sorted({of.fold for of in read}):
    for split in ("train", "test"):
      splits[split + fold] = tuple(
        key
        for of in read
        for key, use in of.uses.items()
        if of.fold == fold and use == split and key in matches.found
      )
  notes = lists.class_notes(tree, len(classes), CLASSES)
  notes += lists.absent_notes(SPLITS, splits)
  notes += lists.respelled_notes(matches.respelled)
  notes += lists.further_notes(matches.further)
  return Layout(
    entries=entries,
    label_names=tuple(classes),
    lists=splits,
    missing=missing,
    extra=lists.extra(tree, entries),
    notes=tuple(notes),
    files=tuple(found.path for found in files),
  )


def _read_list(tree: Tree, found: lists.Found) -> ClassList:
  """Reads "NAME.avi 0|1|2" lines; the name may hold blanks."""
  path, parts = found
  of = ClassList(path, parts[1], parts[2], {}, {})
  for at, whole in lists.lines(tree, path):
    where, text = f"{path}:{at}", whole.strip()
    line = re.fullmatch(r"([^/]*[^/\s])\s+([012])", text)
    if not line or PurePosixPath(line[1]).suffix.lower() not in SUFFIXES:
      raise ValueError(
        f"{where}: {text!r} must be NAME.avi and 1 (train), 2 (test) or 0"
      )
    key = f"{of.name}/{lists.stem(line[1])}"
    if key in of.uses:
      raise ValueError(
        f"{where}: {line[1]} comes twice; two records would have one id"
      )
    of.uses[key] = USES[line[2]]
    of.videos[key] = f"{of.name}/{line[1]}"
  return of


def _check_lists(read: list[ClassList]) -> list[str]:
  """Refuses lists that were cut short; returns the classes, sorted."""
  by_class: dict[str, dict[str, ClassList]] = {}
  for of in read:
    by_class.setdefault(of.name, {})[of.fold] = of
  folds = sorted({of.fold for of in read})
  for name, folds_of in by_class.items():
    for fold in folds:
      if fold not in folds_of:
        raise ValueError(
          f"{name}_test_split{fold}.txt is not there; other classes have one"
        )
    # In the release each of the three names every video of the class.
    everything = {key for of in folds_of.values() for key in of.uses}
    for of in folds_of.values():
      if left := sorted(everything - set(of.uses)):
        raise ValueError(
          f"{of.path}: it lists {len(of.uses)} of the {len(everything)} "
          f"videos of its class, and not {left[0]}; each list names all, with "
          "0 for neither"
        )
  return sorted(by_class)


def _key(video: str) -> str:
  """Returns CLASS/STEM, as the lists have it without the suffix."""
  return f"{PurePosixPath(video).parent.name}/{lists.stem(video)}"


def _check_kind(tree: Tree, matches: Matches) -> None:
  """Refuses two videos under one name: as filmed, and stabilised."""
  for name, others in matches.further.items():
    first = matches.found[name]
    for other in others:
      if bool(STABILISED.search(first)) != bool(STABILISED.search(other)):
        raise ValueError(
          f"{lists.of(tree)}: {first!r} and {other!r} are two videos of one "
          "name, one of them stabilised; keep one below the folder"
        )


def _entry(key: str, file: str, classes: list[str]) -> Entry:
  name, _, stem = key.partition("/")
  # FILM_CLASS_BODY_CAMERA_PEOPLE_VIEW_QUALITY_CLIP, as the readme has it;
  # clips of one film share footage.
  film = stem.rpartition(f"_{name}_")[0]
  return Entry(id=key, path=file, labels=(classes.index(name),), source_id=film)


DATASET = Dataset(
  name="hmdb51",
  title="HMDB51: 6,766 videos, 51 classes, three official splits",
  expects="""\
DIR/
  hmdb51_org/                   hmdb51_org.rar and the .rar in it, unpacked
    brush_hair/
      April_09_brush_hair_u_nm_np1_ba_goo_0.avi
  testTrainMulti_7030_splits/   test_train_splits.rar, unpacked
    brush_hair_test_split1.txt  NAME.avi 1 (train), 2 (test) or 0 (neither)
    brush_hair_test_split2.txt
    brush_hair_test_split3.txt
The folders above the classes may have other names and lie in one another. The
container may differ. Labels are the classes in alphabetical order. Of several
files of one video the first by path is taken, and the others are counted as
extra; the stabilised videos (hmdb51_sta) beside the others are an error.""",
  known_from=(
    "The names and the lists are those of the dataset's own release, as public "
    "code and notes that read it describe them; the release has no order of "
    "classes, the alphabetical one is assumed."
  ),
  lists=", ".join(SPLITS),
  layout=layout,
)
