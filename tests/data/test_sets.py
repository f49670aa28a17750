import json
import pathlib
import pickle
import re
import shutil
from typing import Any

import numpy as np
import pytest
from etils import epath

from p3d_jax.data.sets import VideoSet, _listed, open_set

KINDS = {
  "video": bytes,
  "labels": np.ndarray,
  "segments": np.ndarray,
  "segment_labels": np.ndarray,
  "id": str,
  "source_id": str,
  "num_frames": int,
}


def test_a_record(train_set: VideoSet) -> None:
  record = train_set[0]
  assert {key: type(value) for key, value in record.items()} == KINDS
  assert record["labels"].dtype == np.int64
  assert record["segments"].shape == (1, 2)
  assert train_set.max_labels == 1


def test_ids_choose_and_order(built: Any, train_set: VideoSet) -> None:
  names = [train_set[k]["id"] for k in (5, 2, 9)]
  chosen = open_set(built, "train", names)
  assert len(chosen) == 3
  assert [chosen[k]["id"] for k in range(3)] == names
  assert chosen[1]["video"] == train_set[2]["video"]
  with pytest.raises(ValueError, match="1 of 2 are not in split 'train'.*'x'"):
    open_set(built, "train", [names[0], "x"])


def test_splits_as_tfds_reads_them(built: Any) -> None:
  assert len(open_set(built, "train+test")) == 40
  assert len(open_set(built, "train[:50%]")) == 12
  assert (
    open_set(built, "train[3:4]")[0]["id"]
    == (open_set(built, "train")[3]["id"])
  )


def test_a_folder_above_will_do(built: Any) -> None:
  for folder in (built.parent, built.parent.parent, built.parent.parent.parent):
    assert open_set(folder, "test").directory == built


def test_a_relative_folder_is_known_elsewhere(
  built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
  """What a checkpoint, an evaluation or features note of a set is absolute."""
  monkeypatch.chdir(built.parent)
  assert open_set(built.name, "test").directory == epath.Path(built).absolute()


def test_pickling_does_not_carry_open_files(
  built: Any, train_set: VideoSet
) -> None:
  train_set[0]  # Opens them.
  data = pickle.dumps(train_set)
  assert len(data) < 2000
  again = pickle.loads(data)
  assert again[7]["video"] == train_set[7]["video"]
  assert again.label_names == train_set.label_names
  chosen = open_set(built, "train", [train_set[4]["id"]])
  assert pickle.loads(pickle.dumps(chosen))[0]["id"] == chosen[0]["id"]


def test_index_out_of_range(train_set: VideoSet) -> None:
  for index in (-1, 24):
    with pytest.raises(IndexError, match="has 24 records"):
      train_set[index]
  assert train_set[np.int64(3)]["id"] == train_set[3]["id"]


@pytest.mark.parametrize("flip", [[0] * 7, [0] * 9, [0] * 7 + [8], [-1] * 8])
def test_a_mirror_of_other_labels_is_refused(
  flip: list[int], built: Any, tmp_path: pathlib.Path
) -> None:
  folder = tmp_path / "set" / "1.0.0"
  shutil.copytree(built, folder)
  file = folder / "metadata.json"
  metadata = json.loads(file.read_text())
  file.write_text(json.dumps({**metadata, "flip_labels": flip}))
  with pytest.raises(ValueError, match=r"flip_labels=.*one label, 0\.\.7, for"):
    open_set(folder, "train")


def test_errors(built: Any, tmp_path: pathlib.Path) -> None:
  with pytest.raises(ValueError, match="no built set is there"):
    open_set(tmp_path, "train")
  with pytest.raises(ValueError, match="split='validation'.*test, train"):
    open_set(built, "validation")


def test_the_digest_is_of_what_is_in_a_split(
  built: Any, tmp_path: pathlib.Path
) -> None:
  found = open_set(built, "train")
  digest = found.digest()
  assert re.fullmatch("[0-9a-f]{64}", digest)
  shutil.copytree(found.directory, tmp_path / "copy")
  assert open_set(tmp_path / "copy", "train").digest() == digest
  assert open_set(built, "train[:50%]").digest() != digest
  assert open_set(built, "test").digest() != digest
  file = tmp_path / "copy" / "metadata.json"
  metadata = json.loads(file.read_text())
  metadata["label_names"].reverse()
  file.write_text(json.dumps(metadata))
  assert open_set(tmp_path / "copy", "train").digest() != digest


def test_slices_of_lists(tmp_path: pathlib.Path) -> None:
  ids = [f"v{k}" for k in range(20)]
  (tmp_path / "lists").mkdir()
  for name, content in (("ids", ids), ("lists/odd", ids[1::2])):
    (tmp_path / f"{name}.json").write_text(json.dumps(content))

  def found(split: str) -> list[int]:
    return _listed(epath.Path(tmp_path), split).tolist()

  assert found("all") == list(range(20))
  assert found("odd[2:4]") == [5, 7]
  assert found("odd[-2:]+all[:1]") == [17, 19, 0]
  assert found("all[:10%]") == [0, 1]
  assert found("all[90%:]") == [18, 19]
  assert found("all[-10%:]") == [18, 19]
  assert found("all[-1%:]") == []  # a hundredth of 20 is none, and not all
  assert found("all[5:2]") == []
  with pytest.raises(ValueError, match="200% must be within"):
    found("all[:200%]")
  for split in ("even", "all[1:2:3]", "all[a:]", "../ids", "", "all,odd"):
    with pytest.raises(ValueError, match="split=.* has all, odd; a part"):
      found(split)
