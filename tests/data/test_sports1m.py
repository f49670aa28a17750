"""Sports-1M: the release's lists against downloaded files, traps included."""

import gzip
import hashlib
import pathlib

import pytest
from etils import epath

from p3d_jax.data.builders import sports1m
from p3d_jax.data.builders.layout import Cut

URL = "https://www.youtube.com/watch?v="
# Ids as YouTube has them: with "-" first, with "_", and one like another but
# for its case.
BOX, YAGLI, DASH, LATER, GONE = (
  "UDqivjS-lpI",
  "-aB_cD3fG5h",
  "--__--__--_",
  "udqivjs-LPI",
  "ZZZZZZZZZZZ",
)
LABELS = "boomerang\nt'ai chi ch'uan\nyağlı güreş\nskittles (sport)\n"
TRAIN = f"{URL}{BOX} 3,1\n{URL}{YAGLI} 2\n{URL}{GONE} 0\n"
TEST = f"{URL}{DASH} 0\n{URL}{LATER} 1\n"


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> epath.Path:
  """The release and four videos; one listed video is missing."""
  release = tmp_path / "sports-1m-dataset"
  (release / "original").mkdir(parents=True)
  (release / "labels.txt").write_text(LABELS, encoding="utf-8")
  (release / "original" / "train_partition.txt").write_text(TRAIN)
  (release / "original" / "test_partition.txt").write_text(TEST)
  for name in (
    f"videos/some, folder é/{BOX}.mkv",
    f"videos/{YAGLI}.mp4",
    f"videos/{DASH}.webm",
    f"{LATER}.mp4",
  ):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"a")
  return epath.Path(tmp_path)


def write(tree: epath.Path, name: str, text: str) -> None:
  next(iter(pathlib.Path(tree).rglob(name))).write_text(text, encoding="utf-8")


def test_shorts_of_training_videos_and_whole_test_videos(tree):
  made = sports1m.layout(tree, shorts=2, short_seconds=4.0, seed=7)
  ids = [e.id for e in made.entries]
  assert ids == [
    f"{BOX}/0",
    f"{BOX}/1",
    f"{YAGLI}/0",
    f"{YAGLI}/1",
    DASH,
    LATER,
  ]
  assert made.lists == {"train": tuple(ids[:4]), "test": tuple(ids[4:])}
  first = made.entries[0]
  assert first.path == f"videos/some, folder é/{BOX}.mkv"
  assert first.labels == (1, 3)
  assert first.source_id == BOX
  # sha256 of the id, its first eight bytes: the same on every machine.
  number = int(hashlib.sha256(BOX.encode()).hexdigest()[:16], 16)
  assert first.cut == Cut(4.0, (7, number, 0))
  assert made.entries[1].cut == Cut(4.0, (7, number, 1))
  assert made.entries[5].cut is None
  assert made.entries[5].path == f"{LATER}.mp4"
  assert made.label_names == LABELS_READ
  assert made.missing == (GONE,)
  assert made.extra == ()
  assert "missing: 1 of train" in made.notes
  assert "classes in the lists: 4; the release has 487" in made.notes
  assert made.files == (
    "sports-1m-dataset/labels.txt",
    "sports-1m-dataset/original/train_partition.txt",
    "sports-1m-dataset/original/test_partition.txt",
  )


LABELS_READ = (
  "boomerang",
  "t'ai chi ch'uan",
  "yağlı güreş",
  "skittles (sport)",
)


def test_default_is_five_shorts_and_none_keeps_whole_videos(tree):
  assert len(sports1m.layout(tree).lists["train"]) == 10
  whole = sports1m.layout(tree, shorts=0)
  assert whole.lists["train"] == (BOX, YAGLI)
  assert all(entry.cut is None for entry in whole.entries)


def test_labels_ascend_and_come_once(tree):
  write(tree, "labels.txt", "".join(f"label {k}\n" for k in range(487)))
  write(tree, "train_partition.txt", f"{URL}{BOX} 64,8,486,8,1\n")
  made = sports1m.layout(tree)
  assert made.entries[0].labels == (1, 8, 64, 486)
  assert made.notes == ()


def test_the_case_of_an_id_is_another_video(tree):
  (pathlib.Path(tree) / f"{LATER}.mp4").unlink()
  made = sports1m.layout(tree)
  # BOX differs from it by case only, and must not stand in for it.
  assert made.missing == (GONE, LATER)
  assert made.lists["test"] == (DASH,)


def test_extra_and_second_files_are_counted(tree):
  for name in (
    f"z/{BOX}.mp4",
    "holiday, 1.mp4",
    f"{GONE}.mp4.part",
    ".x.mp4",
    f"{GONE.lower()}.mp4",
  ):
    path = pathlib.Path(tree) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"b")
  made = sports1m.layout(tree)
  assert made.extra == (
    "holiday, 1.mp4",
    f"z/{BOX}.mp4",
    f"{GONE.lower()}.mp4",
  )
  assert made.missing == (GONE,)
  assert any(
    note.endswith(f"1 file, such as z/{BOX}.mp4 of {BOX}")
    for note in made.notes
  )


def test_repeated_lines_count_once(tree):
  write(tree, "test_partition.txt", TEST + TEST + "\n\n")
  made = sports1m.layout(tree)
  assert made.lists["test"] == (DASH, LATER)
  assert any(
    note.endswith("repeated, and count once: 2") for note in made.notes
  )


def test_of_lines_that_contradict_the_first_counts(tree):
  again = f"{URL}{BOX} 2\n{URL}{YAGLI} 2,0\n{URL}{YAGLI} 2\n"
  write(tree, "train_partition.txt", TRAIN + again + f"{URL}{DASH} 2\n")
  made = sports1m.layout(tree, shorts=0)
  assert made.lists == {"train": (BOX, YAGLI, DASH), "test": (LATER,)}
  labels = {entry.id: entry.labels for entry in made.entries}
  assert labels == {BOX: (1, 3), YAGLI: (2,), DASH: (2,), LATER: (1,)}
  train, test = made.files[1:]
  assert f"{train}: lines" not in " ".join(made.notes)
  assert made.notes[1:4] == (
    "lines that are repeated, and count once: 1",
    "videos in both partitions, and taken for training alone: 1, such as "
    f"{DASH}, {train}:7 and {test}:1",
    "videos with other labels in a later line, which does not count: 2, such "
    f"as {BOX}, {train}:1 and {train}:4",
  )


@pytest.mark.parametrize(
  "name",
  [
    f"t'ai chi, été [{DASH}].mp4",
    f"t'ai chi-{DASH}.mkv",
    f"day 1/[{DASH}].mp4",
    f"a [{BOX}] [{DASH}].webm",
    f"line\nbreak-{DASH}.webm",
  ],
  ids=["yt-dlp", "youtube-dl", "no-title", "another-id", "line-break"],
)
def test_names_of_titles_and_ids(tree, name):
  root = pathlib.Path(tree)
  (root / name).parent.mkdir(exist_ok=True)
  (root / "videos" / f"{DASH}.webm").rename(root / name)
  made = sports1m.layout(tree, shorts=0)
  (entry,) = (entry for entry in made.entries if entry.id == DASH)
  assert entry.path == name
  assert [e.id for e in made.entries] == [BOX, YAGLI, DASH, LATER]
  assert (made.missing, made.extra) == ((GONE,), ())
  assert made.notes[-1] == (
    "taken by the id that ends its name, as in 'TITLE [ID]' or 'TITLE-ID': "
    "1 file"
  )


def test_titles_that_do_not_tell_the_video(tree):
  root = pathlib.Path(tree)
  names = [
    f"a [{BOX}].mp4",  # it has a file of its own name
    f"b-{GONE}.mp4",
    f"c [{GONE}].mp4",  # of another title
    f"d [{GONE.lower()}].mp4",  # of another case
    f"e [{GONE}] (1).mp4",
    f"f{GONE}.mp4",
  ]
  for name in names:
    (root / name).write_bytes(b"a")
  made = sports1m.layout(tree)
  assert made.missing == (GONE,)
  assert made.extra == tuple(names)
  assert made.notes[-1] == (
    "extra because several titles end in one id: 2 files, such as "
    f"b-{GONE}.mp4 and c [{GONE}].mp4"
  )
  # A title in two containers is one video.
  (root / f"c [{GONE}].mp4").rename(root / f"b-{GONE}.webm")
  made = sports1m.layout(tree)
  assert made.missing == ()
  assert f"b-{GONE}.webm" in made.extra
  assert f"b-{GONE}.webm of {GONE}" in made.notes[-1]


def test_packed_lists_and_windows_line_ends(tree):
  folder = pathlib.Path(tree) / "sports-1m-dataset" / "original"
  (folder / "train_partition.txt").unlink()
  packed = TRAIN.replace("\n", "\r\n").encode()
  (folder / "train_partition.txt.gz").write_bytes(gzip.compress(packed))
  made = sports1m.layout(tree, shorts=0)
  assert made.lists["train"] == (BOX, YAGLI)
  (folder / "train_partition.txt.gz").write_bytes(gzip.compress(packed)[:-9])
  with pytest.raises(ValueError, match=r"partition\.txt\.gz: cannot be unpack"):
    sports1m.layout(tree)


def test_validation_is_a_share_that_only_the_id_decides(tree):
  # 400 ids: 0.25 of them is 100, and 5 standard deviations are 43.
  ids = [f"id{k:09d}" for k in range(400)]
  write(tree, "train_partition.txt", "".join(f"{URL}{i} 0\n" for i in ids))
  for i in ids:
    (pathlib.Path(tree) / f"{i}.mp4").write_bytes(b"a")
  made = sports1m.layout(tree, validation_share=0.25, seed=3, shorts=2)
  held = made.lists["validation"]
  assert 57 <= len(held) <= 143
  trained = {name.split("/")[0] for name in made.lists["train"]}
  assert trained.isdisjoint(held)
  assert trained | set(held) == set(ids)
  assert len(made.lists["train"]) == 2 * len(trained)
  write(
    tree, "train_partition.txt", "".join(f"{URL}{i} 0\n" for i in ids[::-2])
  )
  again = sports1m.layout(tree, validation_share=0.25, seed=9)
  assert set(again.lists["validation"]) == set(held) & set(ids[::-2])
  assert "validation" not in sports1m.layout(tree).lists


@pytest.mark.parametrize(
  ("text", "message"),
  [
    pytest.param(
      f"{URL}{BOX} 1\n{URL}{YAGLI} 1, 2\n",
      r"train_partition\.txt:2: must be 'https.*', .* and is",
      id="space-in-labels",
    ),
    pytest.param(f"{BOX} 1\n", r"txt:1: must be 'https", id="no-address"),
    pytest.param(f"{URL}{BOX}\n", r"txt:1: must be 'https", id="no-label"),
    pytest.param(
      f"{URL}{BOX} 1,4\n", r"txt:1: label 4 must be < 4", id="out-of-range"
    ),
    pytest.param("", r"train_partition\.txt: the list is empty", id="empty"),
  ],
)
def test_bad_lists_are_one_line(tree, text, message):
  write(tree, "train_partition.txt", text)
  with pytest.raises(ValueError, match=message) as error:
    sports1m.layout(tree)
  assert "\n" not in str(error.value)


def test_a_blank_label_would_shift_those_below(tree):
  write(tree, "labels.txt", "boomerang\n\nboxing\n")
  with pytest.raises(
    ValueError, match=r"labels\.txt:2: must be the name of lab"
  ):
    sports1m.layout(tree)


def test_labels_that_are_not_utf8(tree):
  path = pathlib.Path(tree) / "sports-1m-dataset" / "labels.txt"
  path.write_bytes("yağlı güreş\n".encode("iso8859-9"))
  with pytest.raises(ValueError, match=r"labels\.txt:1: must be UTF-8"):
    sports1m.layout(tree)


def test_links_to_folders_are_followed(tree, tmp_path_factory):
  root = pathlib.Path(tree)
  expected = sports1m.layout(tree)
  away = tmp_path_factory.mktemp("away")
  for name in ("sports-1m-dataset", "videos"):
    (root / name).rename(away / name)
    (root / name).symlink_to(away / name)
  assert sports1m.layout(tree) == expected


def test_lists_that_are_not_there_or_twice(tree):
  root = pathlib.Path(tree)
  (root / "labels.txt").write_text(LABELS, encoding="utf-8")
  with pytest.raises(
    ValueError, match=r"/labels\.txt are two lists of one name"
  ):
    sports1m.layout(tree)
  (root / "labels.txt").unlink()
  next(root.rglob("test_partition.txt")).unlink()
  with pytest.raises(
    ValueError, match=r"no test_partition\.txt or test_partition\.txt\.gz in it"
  ):
    sports1m.layout(tree)
  with pytest.raises(ValueError, match="must be a folder"):
    sports1m.layout(tree / "nowhere")


def test_a_folder_with_none_of_the_videos(tree):
  for path in pathlib.Path(tree).rglob("*"):
    if path.suffix in (".mp4", ".mkv", ".webm"):
      path.rename(path.with_name("a " + path.name))
  with pytest.raises(
    ValueError,
    match=r"none of the videos .* is ID\.mp4, .* lists: 5, of the folder: 4",
  ):
    sports1m.layout(tree)


@pytest.mark.parametrize(
  ("option", "value"),
  [
    pytest.param("shorts", -1, id="shorts"),
    pytest.param("short_seconds", 0.0, id="no-length"),
    pytest.param("short_seconds", float("inf"), id="endless"),
    pytest.param("seed", -1, id="seed"),
    pytest.param("validation_share", 1.0, id="all-held-out"),
  ],
)
def test_options_out_of_range(tree, option, value):
  with pytest.raises(ValueError, match=f"^{option}={value}: must be"):
    sports1m.layout(tree, **{option: value})


def test_options_of_the_row_are_those_of_the_function(tree):
  defaults = {o.name: o.default for o in sports1m.DATASET.options}
  assert sports1m.DATASET.layout(tree, **defaults) == sports1m.layout(tree)
