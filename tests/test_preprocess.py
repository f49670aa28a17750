import ast
import json
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import p3d_jax.preprocess
from p3d_jax.preprocess import (
  PREPROCESSINGS,
  Preprocessing,
  resize_frames,
)

NAN, INF = float("nan"), float("inf")
PIXEL = np.array([[[[[10, 20, 30]]]]], np.uint8)


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    # Blue first, minus 104, 117, 123; no division.
    ("released_rgb", [30 - 104, 20 - 117, 10 - 123]),
    ("caffe", [30 - 104, 20 - 117, 10 - 123]),
    (
      "torchvision",
      [
        (10 / 255 - 0.485) / 0.229,
        (20 / 255 - 0.456) / 0.224,
        (30 / 255 - 0.406) / 0.225,
      ],
    ),
  ],
)
def test_a_pixel_by_hand(name: str, expected: list[float]) -> None:
  out = PREPROCESSINGS[name].normalize(PIXEL)
  assert out.dtype == np.float32
  np.testing.assert_allclose(out[0, 0, 0, 0], expected, rtol=1e-6)


def test_port_differs_from_released_in_the_input_only() -> None:
  port = PREPROCESSINGS["port"].to_dict()
  released = PREPROCESSINGS["released_rgb"].to_dict()
  differ = {key for key in port if port[key] != released[key]}
  assert differ == {"channels", "scale", "mean", "std"}


def test_flow_has_two_channels_around_zero() -> None:
  flow = np.array([[[[[0, 128], [255, 129]]]]], np.uint8)
  out = PREPROCESSINGS["released_flow"].normalize(flow)
  assert out.tolist() == [[[[[-128.0, 0.0], [127.0, 1.0]]]]]


def test_normalize_is_the_same_on_the_device() -> None:
  clips = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3), np.uint8)
  for record in (PREPROCESSINGS["released_rgb"], PREPROCESSINGS["torchvision"]):
    on_device = record.normalize(jnp.asarray(clips))
    assert on_device.dtype == jnp.float32
    np.testing.assert_allclose(on_device, record.normalize(clips), rtol=2e-6)


def test_the_paper_s_size() -> None:
  record = PREPROCESSINGS["released_rgb"]
  frames = np.zeros((16, 240, 320, 3), np.uint8)
  assert record.resized(240, 320) == (182, 242)
  assert record.preprocess(frames).shape == (16, 160, 160, 3)


@pytest.mark.parametrize(
  ("resize", "size", "expected"),
  [
    (182, (240, 320), (182, 243)),  # 320 * 182 / 240 = 242.67
    (182, (320, 240), (243, 182)),
    (64, (720, 1280), (64, 114)),  # 113.78
    (64, (64, 64), (64, 64)),
    (100, (200, 201), (100, 101)),  # 100.5 goes up
    ((182, 242), (1080, 1920), (182, 242)),
    (None, (17, 33), (17, 33)),
  ],
)
def test_resized_by_hand(
  resize: Any, size: tuple[int, int], expected: tuple[int, int]
) -> None:
  assert Preprocessing(resize=resize, crop=16).resized(*size) == expected


def test_center_crop_of_an_odd_margin() -> None:
  rows = np.arange(7)[:, None, None] * np.ones((7, 6, 1), int)
  columns = np.arange(6)[None, :, None] * np.ones((7, 6, 1), int)
  record = Preprocessing(resize=None, crop=(4, 3))
  assert record.center_crop(rows)[:, 0, 0].tolist() == [1, 2, 3, 4]
  assert record.center_crop(columns)[0, :, 0].tolist() == [1, 2, 3]


def triangle(size: int, out: int) -> np.ndarray:
  """Weights (out, size) of a triangle filter as wide as the reduction."""
  ratio = size / out
  width = max(ratio, 1.0)
  middle = (np.arange(out) + 0.5) * ratio - 0.5
  far = np.abs(np.arange(size)[None] - middle[:, None]) / width
  weights = np.maximum(1 - far, 0)
  return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(24, 20), (90, 77), (48, 96)])
def test_resize_is_a_triangle_filter_on_each_channel(
  size: tuple[int, int],
) -> None:
  rng = np.random.default_rng(1)
  frames = rng.integers(0, 256, (2, 48, 64, 2)).astype(np.uint8)
  rows, columns = triangle(48, size[0]), triangle(64, size[1])
  expected = np.einsum("ih,thwc,jw->tijc", rows, frames, columns)
  out = resize_frames(frames, size)
  assert out.dtype == np.uint8
  inside = (slice(None), slice(3, -3), slice(3, -3))
  difference = np.abs(out[inside] - expected[inside])
  assert difference.max() < 2.0
  assert difference.mean() < 0.5


def test_resize_keeps_what_needs_no_resize() -> None:
  frames = np.random.default_rng(2).integers(0, 256, (3, 8, 9, 3), np.uint8)
  assert resize_frames(frames, (8, 9)) is frames


def test_json_round_trip() -> None:
  for record in PREPROCESSINGS.values():
    text = json.dumps(record.to_dict())
    assert Preprocessing.from_dict(json.loads(text)) == record


def test_from_dict_is_strict() -> None:
  fields = PREPROCESSINGS["caffe"].to_dict()
  with pytest.raises(ValueError, match=r"unknown keys \['gamma'\]"):
    Preprocessing.from_dict({**fields, "gamma": 2})
  del fields["mean"]
  with pytest.raises(ValueError, match=r"missing keys \['mean'\]"):
    Preprocessing.from_dict(fields)
  none: Any
  for none in ([], "released_rgb", 5, None):
    name = type(none).__name__
    with pytest.raises(ValueError, match=f"^preprocessing.* {name}, not an"):
      Preprocessing.from_dict(none)


def test_whole_numbers_and_arrays_will_do() -> None:
  record = Preprocessing(mean=(104, 117, 123), std=np.ones(3), fps=25)  # type: ignore[arg-type]
  assert record.to_dict()["mean"] == [104.0, 117.0, 123.0]
  assert record.std == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"frames": 0}, "frames=0"),
    ({"stride": 0}, "stride=0"),
    ({"fps": 0.0}, "fps=0.0"),
    ({"channels": "rgb"}, "channels='rgb'.*RGB, BGR, flow"),
    ({"scale": 0.0}, "scale=0.0"),
    ({"mean": (0.0, 0.0)}, "mean=.*3 finite numbers"),
    ({"channels": "flow"}, "mean=.*2 finite numbers"),
    ({"std": (1.0, 1.0, 0.0)}, "std="),
    ({"crop": 200}, "crop=200.*at most the resize"),
    ({"crop": None}, "crop=None"),
    ({"resize": (182, 242, 3)}, "resize="),
    ({"resize": -5}, "resize=-5"),
    ({"frames": 2.5}, "^frames=2.5: must be a whole number >= 1$"),
    ({"frames": True}, "^frames=True: must be a whole"),
    ({"frames": "16"}, "^frames='16': must be a whole"),
    ({"stride": 1.5}, "^stride=1.5: must be a whole"),
    ({"stride": None}, "^stride=None: must be a whole"),
    ({"crop": 20.5}, "^crop=20.5: must be a side"),
    ({"crop": True}, "^crop=True: must be a side"),
    ({"crop": (160,)}, r"^crop=\(160,\): must be a side"),
    ({"resize": (182, 242.5)}, "^resize=.*must be a side"),
    ({"fps": NAN}, "^fps=nan: must be a finite number > 0 or None$"),
    ({"fps": INF}, "^fps=inf: must be a finite"),
    ({"fps": "25"}, "^fps='25': must be a finite"),
    ({"scale": INF}, "^scale=inf: must be a finite number > 0$"),
    ({"scale": None}, "^scale=None: must be a finite"),
    ({"mean": (NAN, 0.0, 0.0)}, r"^mean=\(nan, .*must be 3 finite numbers"),
    ({"mean": (0.0, -INF, 0.0)}, "^mean=.*must be 3 finite numbers"),
    # A float32, which pixels are, would make it infinite.
    ({"mean": (0, 0, 10**39)}, "^mean=.*must be 3 finite numbers"),
    ({"mean": (0, 0, True)}, "^mean=.*must be 3 finite numbers"),
    ({"mean": "abc"}, "^mean='abc': must be 3 finite numbers"),
    ({"mean": 5}, "^mean=5: must be 3 finite numbers"),
    ({"std": (1.0, 1.0, NAN)}, "^std=.*must be 3 finite numbers"),
    ({"std": (1.0, INF, 1.0)}, "^std=.*must be 3 finite numbers"),
    ({"channels": {}}, r"^channels=\{\}: must be one of"),
  ],
)
def test_errors_name_the_field(fields: dict[str, Any], message: str) -> None:
  with pytest.raises(ValueError, match=message) as caught:
    Preprocessing(**fields)
  assert "\n" not in str(caught.value)


def test_preprocess_refuses_floats_and_small_frames() -> None:
  record = Preprocessing(resize=None, crop=16)
  with pytest.raises(ValueError, match="float32.*uint8"):
    record.preprocess(np.zeros((1, 32, 32, 3), np.float32))
  with pytest.raises(ValueError, match="8x32 pixels.*16x16"):
    record.preprocess(np.zeros((1, 8, 32, 3), np.uint8))
  with pytest.raises(ValueError, match="2 channels; RGB needs 3"):
    record.preprocess(np.zeros((1, 32, 32, 2), np.uint8))


@pytest.mark.parametrize(
  "name",
  [
    "preprocess",
    "data/clips",
    "data/decode",
    "data/mp4",
    "data/pipeline",
    "data/sets",
  ],
)
def test_imports_no_jax(name: str) -> None:
  package = pathlib.Path(p3d_jax.preprocess.__file__).parent
  for node in ast.walk(ast.parse((package / f"{name}.py").read_text())):
    names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
    if isinstance(node, ast.ImportFrom):
      names = [node.module or ""]
    assert not [n for n in names if n.split(".")[0] in ("jax", "flax")]
