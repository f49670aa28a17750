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
  put(tmp_path, *(f"{name}/1.avi" for name in tuple(YUPENN)[10:]))
  put(tmp_path, "FOREST fire/1.avi")
  made = yupenn.layout(epath.Path(tmp_path))
  assert [(entry.id, entry.labels) for entry in made.entries[:3]] == [
    ("ForestFire/1", (2,)),
    ("LightningStorm/ü", (5,)),
    ("Sky-Clouds/a b,c", (9,)),
  ]
  # 29 of seven classes and all of the seven others.
  assert len(made.missing) == 7 * 29 + 7 * 30
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
  ("dataset", "there"),
  [
    pytest.param(yupenn, 6, id="yupenn"),  # of 14
    pytest.param(dynamic_scene, 6, id="dynamic-scene"),  # of 13
  ],
)
def test_fewer_than_half_of_the_classes_are_another_dataset(
  tmp_path, dataset, there
):
  classes = dataset.CLASSES
  put(tmp_path, *(f"x/{name}/1.mp4" for name in classes[:there]))
  put(tmp_path, "x/running/1.mp4", "x/jumping/1.mp4", "x/lying/1.mp4")
  with pytest.raises(
    ValueError,
    match=rf"for half of the {len(classes)} classes, such as .*, and has "
    r"6; build videos of other classes as the dataset folder$",
  ) as error:
    dataset.layout(epath.Path(tmp_path))
  assert "\n" not in str(error.value)
  put(tmp_path, f"x/{classes[-1]}/1.mp4")
  assert len(dataset.layout(epath.Path(tmp_path)).label_names) == there + 4


def test_two_videos_with_one_id(tmp_path):
  put(tmp_path, *full())
  put(tmp_path, "Beach/color/b_01.avi", "Beach/gray/b_01.avi")
  with pytest.raises(
    ValueError,
    match=r"'Beach/color/b_01\.avi' and 'Beach/gray/b_01\.avi' are two "
    r"videos of one name; keep one",
  ):
    yupenn.layout(epath.Path(tmp_path))


def test_no_class_folders(tmp_path):
  put(tmp_path, "a.mp4", "Beach/frames/000001.jpg")
  with pytest.raises(
    ValueError,
    match="must have folders of videos for half of the 14 classes, such as "
    "Beach and Elevator, and has 0; build",
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
