"""ASLAN: 3,697 videos of 432 actions; pairs of them, the same action or not.

The benchmark ("View 2") is 10 folds of 600 pairs. A fold is tested on after
training on the nine others; no action stands in two folds.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from p3d_jax.data.builders import lists
from p3d_jax.data.builders.layout import (
  Dataset,
  Entry,
  Layout,
  Tree,
  match,
  plainly,
)

VIDEOS = 3697
CLASSES = 432
FOLDS = 10
PAIRS = 6000
# Forms of the pair list; the first that is there is read.
PAIR_LISTS = ("pairs.csv", "View2.txt", "View2.mat")
# The matrix of View2.mat, (pairs of a fold, 5 columns, fold).
MATRIX = "action_splits_pairs"
ACTIONS = "Actions_Ids.txt"
SAMPLES = "Samples_Details.txt"
# The ReadMe says that a name ends in the sample's four digits.
_FILE = re.compile(r"(?:.*[-_])?([0-9]{4})")
_ACTION = re.compile(r"\s*([0-9]+)[\s.,:-]+(\S.*?)\s*")
_SAMPLE = re.compile(r"\s*([0-9]+)\s*\t\s*([^\\]*[^\\\s])\s*\\(.*)")
# keyword-URL id-title-start-duration; an id of YouTube is 11 characters.
_FOOTAGE = re.compile(r".*?-\s*([0-9A-Za-z_-]{11})\s*-.*-.*-.*")


@dataclasses.dataclass(frozen=True)
class _Pair:
  """A pair; actions are () where the list does not hold them."""

  where: str
  fold: int
  videos: tuple[str, str]
  same: bool
  actions: tuple[int, ...] = ()

  def document(self) -> dict[str, Any]:
    """Returns what is kept with the set."""
    a, b = self.videos
    return {"fold": self.fold, "a": a, "b": b, "same": self.same}


@dataclasses.dataclass(frozen=True)
class _Sample:
  """What Samples_Details.txt says of a video."""

  action: str
  footage: str


@lists.of_tree
def layout(tree: Tree) -> Layout:
  """Lays the videos against the list of samples and the pairs.

  Args:
    tree: folder with the pair list, the videos and the release's
      information anywhere in it.

  Returns:
    A record a video that Samples_Details.txt names; without that file, one a
    video of the pairs. The pairs of videos that are there are the document
    "pairs".

  Raises:
    ValueError: there is no pair list, a list has a line that is not of its
      form or names a video that the others lack, or none of the videos is
      there.
  """
  found = lists.find(tree, lists.named(*PAIR_LISTS, ACTIONS, SAMPLES))
  pairs_file = lists.need(tree, found, *PAIR_LISTS)
  actions_file = lists.take(found, ACTIONS)
  samples_file = lists.take(found, SAMPLES)
  files = tuple(f for f in (pairs_file, samples_file, actions_file) if f)
  pairs, twice = _once(_read_pairs(tree, pairs_file))
  samples = _samples(tree, samples_file) if samples_file else {}
  names = _actions(tree, actions_file) if actions_file else ()
  if not names:
    names = tuple(sorted({sample.action for sample in samples.values()}))
  labels = _sample_labels(names, samples, samples_file)
  _check_pairs(pairs, samples, samples_file, len(names))
  differ = _label_by_pairs(labels, pairs if names else (), told=bool(samples))
  listed = sorted(samples or {v for pair in pairs for v in pair.videos})
  matches = match(listed, tree.videos, _sample_of, loose=False)
  lists.check_found(tree, matches.found, matches.missing, "0001.avi")
  entries = tuple(
    Entry(
      id=video,
      path=path,
      labels=labels.get(video, ()),
      source_id=samples[video].footage if samples else "",
    )
    for video, path in matches.found.items()
  )
  kept = [p for p in pairs if all(v in matches.found for v in p.videos)]
  notes = lists.unread_notes(found, files)
  notes += _notes(pairs, samples, names)
  notes += _pair_notes(len(pairs), len(kept), twice, differ)
  notes += lists.further_notes(matches.further)
  return Layout(
    entries=entries,
    label_names=names,
    lists=_folds(kept),
    missing=matches.missing,
    extra=lists.extra(tree, entries),
    notes=tuple(notes),
    files=files,
    documents={"pairs": [pair.document() for pair in kept]},
    needs={"pairs": tuple(pair.videos for pair in kept)},
  )


def _sample_of(file: str) -> str | None:
  """Returns the four digits that a file's name is or ends in."""
  found = _FILE.fullmatch(lists.stem(file))
  return found[1] if found else None


def _read_pairs(tree: Tree, path: str) -> list[_Pair]:
  suffix = PurePosixPath(path).suffix.lower()
  if suffix == ".csv":
    pairs = _csv_pairs(tree, path)
  else:
    rows = (
      _text_rows(tree, path) if suffix == ".txt" else _matrix_rows(tree, path)
    )
    pairs = [_pair(*row) for row in rows]
  if not pairs:  # a matrix of none, or a line of names alone
    raise ValueError(f"{path}: must hold pairs of videos; it is empty")
  return pairs


def _csv_pairs(tree: Tree, path: str) -> list[_Pair]:
  """Reads lines of fold, video, video, same; a line of names may be first."""
  pairs: list[_Pair] = []
  for where, row in lists.rows(tree, path):
    cells = [cell.strip() for cell in row]
    if not pairs and cells == ["fold", "a", "b", "same"]:
      continue
    if len(cells) != 4 or not all(c.isascii() and c.isdigit() for c in cells):
      raise ValueError(
        f"{where}: must be four numbers, fold,a,b,same, such as 1,17,2054,0, "
        f"and is {','.join(cells)!r}"
      )
    fold, a, b, same = map(int, cells)
    pairs.append(_pair(where, fold, (a, b, same)))
  return pairs


def _text_rows(tree: Tree, path: str) -> list[tuple[str, int, Sequence[int]]]:
  """Reads five numbers a line, fold after fold, each as long as the others."""
  rows = []
  for number, line in lists.lines(tree, path):
    cells = line.replace(",", " ").split()
    if len(cells) != 5 or not all(c.isascii() and c.isdigit() for c in cells):
      raise ValueError(
        f"{path}:{number}: must be five numbers, the two samples, 0 or 1 for "
        f"same, and their two actions, and is {line!r}"
      )
    rows.append((f"{path}:{number}", [int(cell) for cell in cells]))
  if len(rows) % FOLDS:
    raise ValueError(
      f"{path}: must hold {FOLDS} folds of equally many pairs one after the "
      f"other, and has {len(rows)} lines"
    )
  return [
    (where, 1 + k * FOLDS // len(rows), row)
    for k, (where, row) in enumerate(rows)
  ]


def _matrix_rows(tree: Tree, path: str) -> list[tuple[str, int, Sequence[int]]]:
  """Reads the release's own file; scipy comes with jax."""
  try:
    from scipy import io as scipy_io
  except ImportError:
    raise ValueError(
      f"{path}: reading it needs scipy (pip install scipy); or write its rows "
      f"to {PAIR_LISTS[1]}, five numbers a line, fold after fold"
    ) from None
  data = (tree.source / path).read_bytes()
  try:
    held = [name for name, *_ in scipy_io.whosmat(io.BytesIO(data))]
    document: dict[str, Any] = scipy_io.loadmat(
      io.BytesIO(data), variable_names=[MATRIX]
    )
  # What scipy 1.17 raises for what is no such file, or a newer one (HDF5).
  except (
    ValueError,
    TypeError,
    LookupError,
    OSError,
    NotImplementedError,
    zlib.error,
    scipy_io.matlab.MatReadError,
  ) as error:
    reason = str(error).splitlines()[0] if str(error) else "it ends early"
    raise ValueError(f"{path}: is no file of MATLAB 5 to 7: {reason}") from None
  if MATRIX not in held:
    raise ValueError(
      f"{path}: must hold {MATRIX}, and holds {', '.join(held) or 'nothing'}"
    )
  import numpy  # not before: `p3d --help` lists the datasets

  values = numpy.asarray(document[MATRIX])
  if not (
    values.ndim == 3
    and values.shape[1:] == (5, FOLDS)
    and values.dtype.kind in "iuf"
    and numpy.all(values == numpy.floor(values))
  ):
    raise ValueError(
      f"{path}: must hold whole numbers {MATRIX} of shape (pairs, 5, {FOLDS}), "
      f"and has shape {values.shape}"
    )
  return [
    (f"{path}: pair {k + 1} of fold {fold + 1}", fold + 1, row.tolist())
    for fold in range(FOLDS)
    for k, row in enumerate(values[:, :, fold].astype(numpy.int64))
  ]


def _pair(where: str, fold: int, row: Sequence[int]) -> _Pair:
  """Checks (sample, sample, same), and two actions if there are, of a fold."""
  a, b, same, *actions = row
  if not 1 <= fold <= FOLDS:
    raise ValueError(f"{where}: fold {fold} must be 1 to {FOLDS}")
  for sample in (a, b):
    if not 1 <= sample <= 9999:
      raise ValueError(f"{where}: sample {sample} must be 1 to 9999")
  if a == b:
    raise ValueError(f"{where}: sample {a} is paired with itself")
  if same not in (0, 1):
    raise ValueError(f"{where}: same must be 0 or 1, and is {same}")
  if min(actions, default=1) < 1:
    raise ValueError(f"{where}: action {min(actions)} must be >= 1")
  videos = (f"{a:04d}", f"{b:04d}")
  return _Pair(where, fold, videos, bool(same), tuple(actions))


def _once(pairs: Sequence[_Pair]) -> tuple[list[_Pair], int]:
  """Drops pairs that their fold has already; returns how many, too."""
  seen: dict[tuple[int, frozenset[str]], _Pair] = {}
  for pair in pairs:
    before = seen.setdefault((pair.fold, frozenset(pair.videos)), pair)
    if before.same != pair.same:
      raise ValueError(
        f"{pair.where}: {pair.videos[0]} and {pair.videos[1]} are "
        f"{'the same' if pair.same else 'not the same'} here, and not so in "
        f"{before.where}"
      )
  return list(seen.values()), len(pairs) - len(seen)


def _actions(tree: Tree, path: str) -> tuple[str, ...]:
  """Reads the actions: a line holds its own number and a name."""
  names: list[str] = []
  for number, line in lists.lines(tree, path):
    parts = _ACTION.fullmatch(line)
    if parts is None or int(parts[1]) != len(names) + 1:
      raise ValueError(
        f"{path}:{number}: must be '{len(names) + 1} NAME OF THE ACTION', and "
        f"is {line!r}"
      )
    names.append(parts[2])
  return tuple(names)


def _samples(tree: Tree, path: str) -> dict[str, _Sample]:
  """Reads the details: sample -> its action and the footage it is from."""
  samples: dict[str, _Sample] = {}
  # The titles are of the web of 2010, in whatever encoding; none is read.
  for number, line in lists.lines(tree, path, errors="replace"):
    parts = _SAMPLE.fullmatch(line)
    if parts is None or not 1 <= int(parts[1]) <= 9999:
      raise ValueError(
        f"{path}:{number}: must be 'ID<tab>ACTION\\KEYWORD-URL-...', and is "
        f"{line!r}"
      )
    video = f"{int(parts[1]):04d}"
    if video in samples:
      raise ValueError(f"{path}:{number}: sample {video} stands there before")
    footage = _FOOTAGE.fullmatch(parts[3])
    samples[video] = _Sample(parts[2], footage[1] if footage else "")
  return samples


def _check_pairs(
  pairs: Sequence[_Pair],
  samples: Mapping[str, _Sample],
  samples_file: str,
  actions: int,
) -> None:
  """Fails if the pairs have a sample or an action that the others lack.

  Args:
    pairs: to check.
    samples: all there are; none: they are not known.
    samples_file: the list of them.
    actions: how many there are; 0: they are not known.
  """
  for pair in pairs:
    for video in pair.videos:
      if samples and video not in samples:
        raise ValueError(f"{pair.where}: {samples_file} has no sample {video}")
    if actions and max(pair.actions, default=0) > actions:
      raise ValueError(
        f"{pair.where}: action {max(pair.actions)} must be <= {actions}, the "
        "number of actions"
      )


def _sample_labels(
  names: Sequence[str], samples: Mapping[str, _Sample], samples_file: str
) -> dict[str, tuple[int, ...]]:
  """Returns video -> labels, by the samples' own actions."""
  index = {
    plainly(name): label for label, name in reversed([*enumerate(names)])
  }
  index |= {name: label for label, name in enumerate(names)}
  labels: dict[str, tuple[int, ...]] = {}
  for video, sample in samples.items():
    label = index.get(sample.action, index.get(plainly(sample.action)))
    if label is None:
      raise ValueError(
        f"{samples_file}: action {sample.action!r} of sample {video} is none "
        f"of the {len(names)} of {ACTIONS}"
      )
    labels[video] = (label,)
  return labels


def _label_by_pairs(
  labels: dict[str, tuple[int, ...]], pairs: Sequence[_Pair], *, told: bool
) -> int:
  """Gives videos without labels those of their pairs.

  Args:
    labels: video -> labels; videos are added.
    pairs: with actions, or without.
    told: whether the samples have told the labels; then pairs may differ.

  Returns:
    How many pairs have other actions.
  """
  differ = 0
  for pair in pairs:
    own = [(action - 1,) for action in pair.actions]
    known = [
      labels.setdefault(v, o) for v, o in zip(pair.videos, own, strict=False)
    ]
    if known != own and not told:
      raise ValueError(
        f"{pair.where}: a video of the pair has another action before"
      )
    differ += known != own
  return differ


def _folds(pairs: Sequence[_Pair]) -> dict[str, tuple[str, ...]]:
  """Returns fold01, fold02, ... -> the videos of its pairs, sorted."""
  videos: collections.defaultdict[int, set[str]] = collections.defaultdict(set)
  for pair in pairs:
    videos[pair.fold].update(pair.videos)
  return {
    f"fold{fold:02d}": tuple(sorted(videos[fold])) for fold in sorted(videos)
  }


def _pair_notes(pairs: int, kept: int, twice: int, differ: int) -> list[str]:
  """Returns lines on the pairs that are not as they are listed."""
  return [
    f"pairs {text}: {count} of {pairs + twice}"
    for text, count in (
      ("repeated in their fold, and left out", twice),
      (f"with other actions than in {SAMPLES}", differ),
      ("left out, as a video of them is missing", pairs - kept),
    )
    if count
  ]


def _notes(
  pairs: Sequence[_Pair],
  samples: Mapping[str, _Sample],
  names: Sequence[str],
) -> list[str]:
  """Returns what differs from the release, and what it costs."""
  notes = []
  if not samples:
    notes.append(
      f"no {SAMPLES}: only videos of the pairs are taken, and what footage "
      "they share is not known"
    )
  elif unknown := sum(not sample.footage for sample in samples.values()):
    notes.append(f"samples whose footage {SAMPLES} does not tell: {unknown}")
  if not names:
    notes.append(f"no {ACTIONS} and no {SAMPLES}: the videos have no labels")
  for what, count, released in (
    ("pairs", len(pairs), PAIRS),
    ("samples", len(samples), VIDEOS),
    ("actions", len(names), CLASSES),
  ):
    if count and count != released:
      notes.append(f"{what} in the lists: {count}; the release has {released}")
  return notes


DATASET = Dataset(
  name="aslan",
  title="ASLAN, 3,697 videos, 6,000 pairs: the same action or not (PAMI 2012)",
  expects="""\
DIR/
  ASLAN_AVI/                 or ASLAN_MP4/
    0001.avi                 four digits, 0001 to 3697; a name that ends in
    0002.avi                 -0001 or _0001 does as well
  Views/
    View2.mat                600 pairs x 5 columns x 10 folds: the two samples,
                             1 for same or 0, their two actions
  Info/
    Samples_Details.txt      ID<tab>ACTION\\KEYWORD-URL-TITLE-START-SECONDS
    Actions_Ids.txt          ID ACTION, 432 lines
In place of View2.mat:
  View2.txt                  its rows, five numbers a line, fold after fold
  pairs.csv                  fold,a,b,same a line, such as 1,17,2054,0
Without Info/ the videos have no labels; the protocol needs none. View 1 is not
read. Of several files of one video the first by path is taken, and the others
are counted as extra.""",
  known_from=(
    "The folders, the files, the matrix and its columns: the release's ReadMe "
    "and download page. View2.txt, fold after fold: a published program that "
    "reads it. Assumed: that nothing but a prefix with - or _ stands before a "
    "file's four digits, that 1 means same, how a line of Actions_Ids.txt is "
    "parted, and pairs.csv, which is this project's own. View2.mat is read "
    "with scipy, which jax brings."
  ),
  lists="fold01 to fold10: the videos of each fold's test pairs",
  layout=layout,
)
