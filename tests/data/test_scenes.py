"""YUPENN and Dynamic Scene: class folders, however they are put."""

import pathlib

import pytest
from etils import epath

from p3d_jax.data.builders import dynamic_scene, yupenn

# The release's folders and the first part of its files' names, as in the
# frame lists of a published training of C3D on it.
YUPENN = {
  "Beach": "beach",
  "Elevator": "elevator",
  "ForestFire": "forest_fire",
  "Fountain": "fountain",
  "Highway": "highway",
  "LightningStorm": "lightning_storm",
  "Ocean": "ocean",
  "Railway": "railway",
  "RushingRiver": "rushing_river",
  "Sky-Clouds": "sky_clouds",
  "Snowing": "snowing",
  "Street": "street",
  "Waterfall": "waterfall",
  "WindmillFarm": "windmill_farm",
}


def put(root: pathlib.Path, *names: str) -> None:
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"a")


def full(above: str = "", below: str = "") -> list[str]:
  return [
    f"{above}{folder}/{below}{stem}_{k:02d}.avi"
    for folder, stem in YUPENN.items()
    for k in range(1, 31)
  ]


@pytest.mark.parametrize(
  ("above", "below"),
  [
    pytest.param("", "", id="plain"),
    pytest.param("avi/", "", id="above"),
    pytest.param("", "color/", id="below"),
    pytest.param("YUPENN/avi/", "color/", id="both"),
  ],
)
def test_the_whole_of_yupenn(tmp_path, above, below):
  put(tmp_path, *full(above, below))
  made = yupenn.layout(epath.Path(tmp_path))
  assert len(made.entries) == 420
  assert made.label_names == tuple(YUPENN)
  assert made.entries[31].id == "Elevator/elevator_02"
  assert made.entries[31].path == f"{above}Elevator/{below}elevator_02.avi"
  assert [entry.labels for entry in made.entries[::30]] == [
    (k,) for k in range(14)
  ]
  assert (made.lists, made.missing, made.extra) == ({}, (), ())
  assert made.notes == ()


def test_missing_and_extra_videos_are_told(tmp_path):
  put(tmp_path, *full("avi/"))
  for number in (7, 9):
    (tmp_path / f"avi/Beach/beach_{number:02d}.avi").unlink()
  put(tmp_path, "loose, été.mp4", "other/x.mp4", "avi/Ocean/ocean_31.avi")
  made = yupenn.layout(epath.Path(tmp_path))
  assert len(made.entries) == 419
  assert made.extra == ("loose, été.mp4", "other/x.mp4")
  # Which ones of a class are gone is not known, but how many.
  assert made.missing == ("Beach: video 29 of 30", "Beach: video 30 of 30")
  assert made.notes == ("videos of class Ocean: 31; the release has 30",)


def test_spelling_of_class_folders(tmp_path):
  put(tmp_path, "sky clouds/a b,c.mov", "LIGHTNING_STORM/ü.avi")
  made = yupenn.layout(epath.Path(tmp_path))
  assert [(entry.id, entry.labels) for entry in made.entries] == [
    ("LightningStorm/ü", (5,)),
    ("Sky-Clouds/a b,c", (9,)),
  ]
  # 29 of two classes and all of the twelve others.
  assert len(made.missing) == 2 * 29 + 12 * 30
  assert made.missing[0] == "Beach: video 1 of 30"
  assert "Sky-Clouds: video 1 of 30" not in made.missing
  assert made.notes == ()


def test_a_class_beside_the_release_s_is_taken_and_told(tmp_path):
  put(tmp_path, *full("avi/"), "avi/Marathon/marathon_01.avi")
  made = yupenn.layout(epath.Path(tmp_path))
  assert len(made.entries) == 421
  assert made.label_names == tuple(sorted([*YUPENN, "Marathon"]))
  assert made.notes == ("class folders beside the release's: Marathon",)
  # A class of the release that is there is still counted; one that is not,
  # is not.
  (tmp_path / "avi/Beach/beach_07.avi").unlink()
  for number in range(1, 31):
    (tmp_path / f"avi/Street/street_{number:02d}.avi").unlink()
  made = yupenn.layout(epath.Path(tmp_path))
  assert made.missing == ("Beach: video 30 of 30",)
  assert made.notes[1].endswith("beside other classes: Street")


@pytest.mark.parametrize(
  ("above", "below"),
  [
    pytest.param("", "", id="plain"),
    pytest.param("data/sets/", "", id="above"),
    pytest.param("data/", "color/", id="both"),
  ],
)
def test_folders_of_other_names_are_classes(tmp_path, above, below):
  put(
    tmp_path,
    f"{above}Mer agitée/{below}1.mp4",
    f"{above}Mer agitée/{below}2.mp4",
    f"{above}Car, red/{below}1.mp4",
    "loose.mp4",
  )
  made = yupenn.layout(epath.Path(tmp_path))
  assert made.label_names == ("Car, red", "Mer agitée")
  assert [(entry.id, entry.labels) for entry in made.entries] == [
    ("Car, red/1", (0,)),
    ("Mer agitée/1", (1,)),
    ("Mer agitée/2", (1,)),
  ]
  assert made.extra == ("loose.mp4",)
  assert made.notes[0] == (
    "class folders beside the release's: Car, red, Mer agitée"
  )
  assert made.missing == ()


def test_one_folder_of_another_name_is_one_class(tmp_path):
  put(tmp_path, "data/Lake/1.mp4", "data/Lake/2.mp4")
  made = yupenn.layout(epath.Path(tmp_path))
  assert made.label_names == ("Lake",)
  assert [entry.id for entry in made.entries] == ["Lake/1", "Lake/2"]


def test_two_videos_with_one_id(tmp_path):
  put(tmp_path, "Beach/color/beach_01.avi", "Beach/gray/beach_01.avi")
  with pytest.raises(
    ValueError,
    match=r"'Beach/color/beach_01\.avi' and 'Beach/gray/beach_01\.avi' are two "
    r"videos of one name; keep one",
  ):
    yupenn.layout(epath.Path(tmp_path))


def test_no_class_folders(tmp_path):
  put(tmp_path, "a.mp4", "Beach/frames/000001.jpg")
  with pytest.raises(
    ValueError,
    match="must have a folder of videos a class, such as Beach and Elevator; "
    "it holds 1 video, none in such a folder",
  ):
    yupenn.layout(epath.Path(tmp_path))
  with pytest.raises(ValueError, match="must be a folder"):
    yupenn.layout(epath.Path(tmp_path / "nowhere"))


def test_dynamic_scene(tmp_path):
  names = dynamic_scene.CLASSES
  assert len(names) == 13
  put(
    tmp_path,
    *(
      f"maryland/{name.replace(' ', '_')}/clip {k}.avi"
      for name in names
      for k in range(10)
    ),
  )
  (tmp_path / "maryland/Volcanic_Eruption").rename(
    tmp_path / "maryland/VolcanoEruption"
  )
  made = dynamic_scene.layout(epath.Path(tmp_path))
  assert len(made.entries) == 130
  assert made.label_names == names
  assert made.notes == ()
  found = {entry.id: entry for entry in made.entries}
  assert found["Volcanic Eruption/clip 3"].labels == (9,)
  assert (
    found["Volcanic Eruption/clip 3"].path
    == "maryland/VolcanoEruption/clip 3.avi"
  )
  (tmp_path / "maryland/Tornado/clip 9.avi").unlink()
  made = dynamic_scene.layout(epath.Path(tmp_path))
  assert (made.missing, made.notes) == (("Tornado: video 10 of 10",), ())
