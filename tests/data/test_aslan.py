"""ASLAN: pairs in the three forms, samples and actions, traps included."""

import pathlib

import numpy as np
import pytest
import scipy.io
from etils import epath

from p3d_jax.data.builders import aslan

# Two pairs a fold: (sample, sample, same, action, action), actions from 1.
ROWS = [
  row
  for fold in range(10)
  for row in (
    (2 * fold + 1, 2 * fold + 2, 1, 1, 1),
    (2 * fold + 1, 40, 0, 1, 2),
  )
]
VIDEOS = [*range(1, 21), 40]
ACTIONS = "1\tback flip\n2\tWalk, on hands\n3\tJump\n"


def details(samples: list[int]) -> bytes:
  """Lines as the ReadMe says; the titles are of more than one encoding."""
  lines = []
  for sample in samples:
    action = "Walk, on hands" if sample == 40 else "back flip"
    # Two samples to a video of YouTube.
    url = f"-u_l{sample // 2:07d}"
    line = f"{sample}\t{action}\\back-flip-{url}-\u2028 \x85 1-2-12.5-3"
    lines.append(line.encode() + b" \xfc")
  return b"\n".join(lines)


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
  """Every form of list but pairs.csv and the text; all videos but none."""
  for folder in ("ASLAN_AVI", "Views", "Info"):
    (tmp_path / folder).mkdir()
  for sample in VIDEOS:
    (tmp_path / "ASLAN_AVI" / f"{sample:04d}.avi").write_bytes(b"a")
  (tmp_path / "Info" / "Samples_Details.txt").write_bytes(details(VIDEOS))
  (tmp_path / "Info" / "Actions_Ids.txt").write_text(ACTIONS)
  write_matrix(tmp_path, ROWS)
  return tmp_path


def write_matrix(root: pathlib.Path, rows: list[tuple[int, ...]]) -> None:
  """As MATLAB does: doubles, compressed, (pairs, 5, 10)."""
  values = np.array(rows, np.float64).reshape(10, -1, 5).transpose(1, 2, 0)
  scipy.io.savemat(
    root / "Views" / "View2.mat",
    {"action_splits_pairs": values},
    do_compression=True,
  )


def lay(root: pathlib.Path) -> aslan.Layout:
  return aslan.layout(epath.Path(root))


def as_text(root: pathlib.Path, text: str) -> None:
  (root / "Views" / "View2.mat").unlink(missing_ok=True)
  (root / "Views" / "view2.txt").write_text(text)


def test_the_release(tree):
  made = lay(tree)
  assert made.label_names == ("back flip", "Walk, on hands", "Jump")
  assert [entry.id for entry in made.entries] == [f"{v:04d}" for v in VIDEOS]
  assert made.entries[0].path == "ASLAN_AVI/0001.avi"
  assert made.entries[0].labels == (0,)
  assert made.entries[-1].labels == (1,)
  assert made.entries[1].source_id == "-u_l0000001"
  assert made.entries[2].source_id == "-u_l0000001"
  pairs = made.documents["pairs"]
  assert pairs[:2] == [
    {"fold": 1, "a": "0001", "b": "0002", "same": True},
    {"fold": 1, "a": "0001", "b": "0040", "same": False},
  ]
  assert pairs[-1] == {"fold": 10, "a": "0019", "b": "0040", "same": False}
  assert len(pairs) == 20
  assert list(made.lists) == [f"fold{k:02d}" for k in range(1, 11)]
  assert made.lists["fold02"] == ("0003", "0004", "0040")
  assert (made.missing, made.extra) == ((), ())
  assert made.files == (
    "Views/View2.mat",
    "Info/Samples_Details.txt",
    "Info/Actions_Ids.txt",
  )
  assert made.notes == (
    "pairs in the lists: 20; the release has 6000",
    "samples in the lists: 21; the release has 3697",
    "actions in the lists: 3; the release has 432",
  )


def test_the_three_forms_say_the_same(tree):
  matrix = lay(tree)
  as_text(tree, "\n".join("  ".join(map(str, row)) for row in ROWS))
  text = lay(tree)
  assert (text.documents, text.lists) == (matrix.documents, matrix.lists)
  lines = [f"{1 + k // 2},{r[0]},{r[1]},{r[2]}" for k, r in enumerate(ROWS)]
  (tree / "pairs.csv").write_text("fold,a,b,same\n" + "\n".join(lines))
  csv = lay(tree)
  assert (csv.documents, csv.lists) == (matrix.documents, matrix.lists)
  assert csv.files[0] == "pairs.csv"
  assert csv.notes[0] == "not read, as another list says it: Views/view2.txt"


def test_pairs_of_a_missing_video_are_counted_and_left_out(tree):
  (tree / "ASLAN_AVI" / "0040.avi").unlink()
  (tree / "ASLAN_AVI" / "0003.avi").unlink()
  made = lay(tree)
  assert made.missing == ("0003", "0040")
  # 0040 is in ten pairs, one of which is of 0003, which is in another one.
  assert len(made.documents["pairs"]) == 9
  assert "pairs left out, as a video of them is missing: 11 of 20" in (
    made.notes
  )
  assert "fold02" not in made.lists
  assert made.lists["fold01"] == ("0001", "0002")


def test_names_of_files(tree):
  folder = tree / "ASLAN_AVI"
  (folder / "0001.avi").rename(folder / "sample-0001.AVI")
  (folder / "0002.avi").rename(folder / "2.avi")
  for name in ("9999.avi", "holiday 0003.avi", "été, 0004 .avi", "0003.mp4"):
    (folder / name).write_bytes(b"a")
  made = lay(tree)
  assert made.entries[0].path == "ASLAN_AVI/sample-0001.AVI"
  assert made.missing == ("0002",)
  assert made.extra == (
    "ASLAN_AVI/0003.mp4",
    "ASLAN_AVI/2.avi",
    "ASLAN_AVI/9999.avi",
    "ASLAN_AVI/holiday 0003.avi",
    "ASLAN_AVI/été, 0004 .avi",
  )
  assert any(
    note.endswith(": 1 file, such as ASLAN_AVI/0003.mp4 of 0003")
    for note in made.notes
  )


def test_without_information_the_pairs_have_the_labels(tree):
  (tree / "Info" / "Samples_Details.txt").unlink()
  (tree / "ASLAN_AVI" / "0041.avi").write_bytes(b"a")
  made = lay(tree)
  assert made.entries[-1].labels == (1,)
  assert made.extra == ("ASLAN_AVI/0041.avi",)
  assert made.notes[0].startswith("no Samples_Details.txt: only videos of")
  (tree / "Info" / "Actions_Ids.txt").unlink()
  bare = lay(tree)
  assert bare.label_names == ()
  assert {entry.labels for entry in bare.entries} == {()}
  assert any("the videos have no labels" in note for note in bare.notes)


def test_without_the_names_of_actions_those_of_the_samples_count(tree):
  (tree / "Info" / "Actions_Ids.txt").unlink()
  made = lay(tree)
  # Sorted, "W" before "b": the columns of the pairs are of another order.
  assert made.label_names == ("Walk, on hands", "back flip")
  assert made.entries[0].labels == (1,)
  assert "pairs with other actions than in Samples_Details.txt: 20 of 20" in (
    made.notes
  )


def test_actions_of_pairs_that_differ_are_counted(tree):
  rows = [ROWS[0][:3] + (1, 3), *ROWS[1:]]
  write_matrix(tree, rows)
  made = lay(tree)
  assert made.entries[1].labels == (0,)
  assert any(
    note.startswith("pairs with other") and note.endswith(": 1 of 20")
    for note in made.notes
  )


def test_repeated_pairs_count_once_and_contradictions_fail(tree):
  lines = ["1,1,2,1", "1,2,1,1", "2,1,2,1", "1,1,2,1"]
  (tree / "pairs.csv").write_text("\n".join(lines) + "\n\n")
  made = lay(tree)
  assert [pair["fold"] for pair in made.documents["pairs"]] == [1, 2]
  assert "pairs repeated in their fold, and left out: 2 of 4" in (made.notes)
  (tree / "pairs.csv").write_text("1,1,2,1\n1,2,1,0\n")
  with pytest.raises(
    ValueError,
    match=r"pairs\.csv:2: 0002 and 0001 are not the same here, .*csv:1",
  ):
    lay(tree)


@pytest.mark.parametrize(
  ("line", "message"),
  [
    pytest.param("1,1,2", r"csv:2: must be four numbers", id="too-few"),
    pytest.param("1,a,2,0", r"csv:2: must be four numbers", id="a-name"),
    pytest.param("11,1,2,0", r"csv:2: fold 11 must be 1 to 10", id="fold"),
    pytest.param("1,1,2,2", r"csv:2: same must be 0 or 1", id="same"),
    pytest.param("1,0,2,0", r"csv:2: sample 0 must be 1", id="sample"),
    pytest.param("1,5,5,1", r"csv:2: sample 5 is paired with it", id="itself"),
    pytest.param(
      "1,5,77,1", r"csv:2: .*Details\.txt has no sample 0077", id="unknown"
    ),
  ],
)
def test_bad_lines_of_pairs(tree, line, message):
  (tree / "pairs.csv").write_text(f"1,1,2,1\n{line}\n")
  with pytest.raises(ValueError, match=message) as error:
    lay(tree)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    pytest.param("1 2 1 1\n", r"view2\.txt:1: must be five num", id="four"),
    pytest.param("1 2 1 1 1\n" * 11, r"equally many .* 11 lines", id="folds"),
    pytest.param("1 2 1 1 0\n" * 10, r"txt:1: action 0 must be", id="action-0"),
    pytest.param("1 2 1 1 4\n" * 10, r"action 4 must be <= 3", id="action-4"),
    pytest.param("", r"view2\.txt: the list is empty", id="empty"),
  ],
)
def test_bad_text(tree, text, message):
  as_text(tree, text)
  with pytest.raises(ValueError, match=message):
    lay(tree)


@pytest.mark.parametrize(
  ("data", "message"),
  [
    pytest.param(b"", r"is no file of MATLAB 5 to 7", id="empty"),
    pytest.param(b"no matrix" * 50, r"is no file of MATLAB", id="not-a-mat"),
    pytest.param(
      b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF" * 99,
      r"is no file of MATLAB 5 to 7: Please use HDF",
      id="hdf5",
    ),
  ],
)
def test_bad_matrix_files(tree, data, message):
  (tree / "Views" / "View2.mat").write_bytes(data)
  with pytest.raises(ValueError, match=message) as error:
    lay(tree)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_truncated_matrix_file(tree, share):
  path = tree / "Views" / "View2.mat"
  data = path.read_bytes()
  path.write_bytes(data[: int(share * len(data))])
  with pytest.raises(ValueError, match=r"View2\.mat: is no file of MATLAB"):
    lay(tree)


def test_a_matrix_of_another_shape_or_name(tree):
  path = tree / "Views" / "View2.mat"
  for content, message in (
    ({"action_splits_pairs": np.ones((4, 5))}, r"has shape \(4, 5\)"),
    (
      {"other": np.ones((4, 5, 10)), "more": 1},
      r"mat: must hold action_splits_pairs, and holds other, more$",
    ),
    ({"action_splits_pairs": np.full((1, 5, 10), 1.5)}, "must hold whole num"),
    ({"action_splits_pairs": np.full((1, 5, 10), np.nan)}, "must hold whole"),
  ):
    scipy.io.savemat(path, content)
    with pytest.raises(ValueError, match=message):
      lay(tree)


@pytest.mark.parametrize(
  ("name", "text", "message"),
  [
    pytest.param(
      "Samples_Details.txt",
      "1 back flip\\x\n",
      r"Details\.txt:1: must be 'ID<tab>ACTION",
      id="no-tab",
    ),
    pytest.param(
      "Samples_Details.txt",
      "1\tback flip\\x\n01\tback flip\\x\n",
      r"Details\.txt:2: sample 0001 stands there before",
      id="one-id-two-records",
    ),
    pytest.param(
      "Samples_Details.txt",
      "1\tDance\\x\n",
      r"action 'Dance' of sample 0001 is none of the 3 of Actions_Ids",
      id="unknown-action",
    ),
    pytest.param(
      "Actions_Ids.txt",
      "1\ta\n3\tb\n",
      r"Actions_Ids\.txt:2: must be '2 NAME OF THE ACTION'",
      id="action-skipped",
    ),
  ],
)
def test_bad_information(tree, name, text, message):
  (tree / "Info" / name).write_text(text)
  with pytest.raises(ValueError, match=message):
    lay(tree)


def test_footage_that_cannot_be_read_is_counted(tree):
  data = details(VIDEOS).replace(b"-u_l0000000", b"too-short")
  (tree / "Info" / "Samples_Details.txt").write_bytes(data)
  made = lay(tree)
  assert made.entries[0].source_id == ""
  assert any(
    note == "samples whose footage Samples_Details.txt does not tell: 1"
    for note in made.notes
  )


def test_no_lists_and_no_videos(tree):
  for path in (tree / "ASLAN_AVI").iterdir():
    path.rename(path.with_suffix(".txt"))
  with pytest.raises(
    ValueError,
    match=r"none of the videos .* is 0001.* the lists: 21, of the folder: 0",
  ):
    lay(tree)
  (tree / "Views" / "View2.mat").unlink()
  with pytest.raises(
    ValueError, match=r"no pairs\.csv or View2\.txt or View2\.mat in it"
  ):
    lay(tree)
