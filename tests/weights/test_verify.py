"""Where a network and another program's numbers part, known beforehand.

Tolerances: two programs of the same float32 arithmetic agree to about 1e-6
here; what differs in the tests differs by 1e-3 and more.
"""

import dataclasses
import functools
import pathlib
import pickle
from typing import Any

import jax
import numpy as np
import pytest

import p3d_jax
from p3d_jax import cli
from p3d_jax.models.p3d import endpoint_names
from p3d_jax.weights.verify import Comparison, Row, verify
from tests import small

# By hand: AABC is AA in res2, BC in res3, A in res4; res5 is S.
FIELDS: dict[str, Any] = {"stages": (2, 2, 1, 1), "schedule": "AABC"}
MODULE = small.network(**FIELDS)
VARIABLES = small.variables(MODULE)
RECORD = dataclasses.replace(
  small.record(MODULE),
  preprocessing=dataclasses.replace(small.PREPROCESSING, resize=None),
)
NAMES = endpoint_names(MODULE.stages, MODULE.num_classes)
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  path = tmp_path_factory.mktemp("verify") / "mine"
  p3d_jax.save(path, VARIABLES, RECORD)
  return path


def clips(batch: int = 2) -> np.ndarray:
  rng = np.random.default_rng(1)
  return rng.standard_normal((batch, 4, 32, 32, 3), np.float32)


def outputs(x: np.ndarray, module: Any = MODULE) -> Arrays:
  """Endpoints with the saved variables, of another network if one is given."""
  return jax.device_get(compiled(module)(x))


@functools.cache
def compiled(module: Any) -> Any:
  return jax.jit(lambda x: module.apply(VARIABLES, x, endpoints=NAMES)[1])


X = clips()
Y = outputs(X)


def check(
  folder: pathlib.Path, tmp_path: pathlib.Path, x: Any, y: Any, **options: Any
) -> Comparison:
  """Verifies arrays by way of files."""
  np.save(tmp_path / "x.npy", x)
  if isinstance(y, dict):
    np.savez(tmp_path / "y.npz", **y)
    return verify(folder, tmp_path / "x.npy", tmp_path / "y.npz", **options)
  np.save(tmp_path / "y.npy", y)
  return verify(folder, tmp_path / "x.npy", tmp_path / "y.npy", **options)


@pytest.mark.parametrize(
  ("fields", "first"),
  [
    ({}, None),
    ({"rule": "paper"}, "res3/block01"),  # the first C
    ({"rule": "port"}, "res3/block00"),  # the first B
    ({"reduce_stride": False}, "res3/block00"),  # the first with a stride
    ({"stem_pool": "padded"}, "stem"),
    ({"norm_epsilon": 1e-2}, "stem"),
  ],
)
def test_they_part_where_the_schedule_says(
  folder: pathlib.Path,
  tmp_path: pathlib.Path,
  fields: dict[str, Any],
  first: str | None,
) -> None:
  """Another network with the same weights: the expected block is by hand."""
  wanted = outputs(X, MODULE.clone(**fields))
  shuffled = {name: wanted[name] for name in sorted(wanted, reverse=True)}
  found = check(folder, tmp_path, X, shuffled)
  assert found.first == first
  assert tuple(row.endpoint for row in found.rows) == NAMES
  at = len(NAMES) if first is None else NAMES.index(first)
  assert all(row.ok and row.error < 1e-5 for row in found.rows[:at])
  # Far from rounding; what follows may agree again, as a saturated prob does.
  assert all(row.error > 1e-3 for row in found.rows[at : at + 1])


def test_the_head_against_numpy(
  folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  """Mean, linear layer and softmax in float64, from res5 on."""
  head = VARIABLES["params"]["head"]["fc"]
  pool5 = Y["res5"].astype(np.float64).mean((1, 2, 3))
  logits = pool5 @ np.float64(head["kernel"]) + np.float64(head["bias"])
  odds = np.exp(logits)
  wanted = {
    "pool5": pool5,
    "logits": logits,
    "prob": odds / odds.sum(1, keepdims=True),
  }
  assert check(folder, tmp_path, X, wanted, tolerance=1e-5).first is None
  wanted["logits"] = logits + 1e-3 * np.abs(logits).max()
  assert check(folder, tmp_path, X, wanted).first == "logits"


def test_the_error_is_over_all_clips(
  folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  """max|a - b| / max|b|: the largest distance over the largest expected.

  Both in other clips, of ten, so that neither is seen in one batch alone.
  """
  x = clips(10)
  ours = outputs(x)["logits"].astype(np.float64)
  wanted = ours.copy()
  wanted[0, 1] -= 200 * np.sign(ours[0, 1])  # the farthest
  wanted[9, 2] += 199 * np.sign(ours[9, 2])  # the largest
  assert np.abs(wanted).max() == np.abs(wanted[9, 2])
  (row,) = check(folder, tmp_path, x, wanted).rows
  # float32 rounds ours by 1e-7.
  np.testing.assert_allclose(row.error, 200 / np.abs(wanted[9, 2]), rtol=1e-6)
  assert not row.ok
  ours[9, 0] += 200  # now the last clip alone
  assert check(folder, tmp_path, x, ours).first == "logits"


def test_channels_first(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
  def first(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, -1, 1) if array.ndim == 5 else array

  turned = {name: first(array) for name, array in Y.items()}
  found = check(folder, tmp_path, first(X), turned, channels_first=True)
  assert found == check(folder, tmp_path, X, Y)
  assert found.first is None
  with pytest.raises(ValueError, match="first: add --channels-first"):
    check(folder, tmp_path, first(X), turned)
  with pytest.raises(ValueError, match="last: leave out --channels-first"):
    check(folder, tmp_path, X, Y, channels_first=True)
  with pytest.raises(ValueError, match="stem is .* seem to stand first"):
    check(folder, tmp_path, X, turned)
  frames = np.zeros((1, 3, 4, 32, 32), np.uint8)  # RGB, whatever weights read
  with pytest.raises(ValueError, match=r"the 3 channels \(RGB\); they seem"):
    check(folder, tmp_path, frames, Y)


def test_input_that_the_weights_do_not_expect_is_noted(
  folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  assert check(folder, tmp_path, X, Y).notes == ()
  longer = np.concatenate([X, X], axis=1)
  found = check(folder, tmp_path, longer, outputs(longer))
  assert found.notes == (
    "the clips are of 8x32x32, those of the weights of 4x32x32 (frames, "
    "height, width)",
  )
  raw = 100 * np.abs(X)
  (note,) = check(folder, tmp_path, raw, outputs(raw)).notes
  assert "floating input is taken as preprocessed" in note
  assert f"note: {note}" in check(folder, tmp_path, raw, outputs(raw)).text()


def test_one_step_need_not_be_an_axis(
  folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  """res5 of 2D code is (batch, channels, height, width)."""
  flat = Y["res5"][:, 0]
  assert check(folder, tmp_path, X, {"res5": flat}).first is None
  x, y = np.moveaxis(X, -1, 1), {"res5": np.moveaxis(flat, -1, 1)}
  assert check(folder, tmp_path, x, y, channels_first=True).first is None
  with pytest.raises(ValueError, match="expected res2 is"):
    check(folder, tmp_path, X, {"res2": Y["res2"][:, 0]})


@pytest.mark.parametrize("channels_first", [False, True])
def test_frames_get_the_preprocessing(
  folder: pathlib.Path, tmp_path: pathlib.Path, channels_first: bool
) -> None:
  """BGR, mean, std and the centre, in numpy by hand."""
  rng = np.random.default_rng(2)
  frames = rng.integers(0, 256, (2, 4, 36, 40, 3)).astype(np.uint8)
  pixels = RECORD.preprocessing
  middle = frames[:, :, 2:34, 4:36, ::-1].astype(np.float64)
  x = ((middle - pixels.mean) / pixels.std).astype(np.float32)
  wanted = outputs(x)["logits"]
  if channels_first:
    frames = np.moveaxis(frames, -1, 1)
  found = check(folder, tmp_path, frames, wanted, channels_first=channels_first)
  assert found.first is None
  other = outputs(x[..., ::-1])["logits"]  # RGB
  assert check(
    folder, tmp_path, frames, other, channels_first=channels_first
  ).first


def test_types_and_steps(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
  """float64 files, one endpoint by name, and clips of another length."""
  x = clips(1)[:, :3]
  wanted = outputs(x)["res3"]
  options = {"endpoint": "res3", "tolerance": 1e-5}
  for kind in (np.float32, np.float64):
    found = check(
      folder, tmp_path, x.astype(kind), wanted.astype(kind), **options
    )
    assert [row.endpoint for row in found.rows] == ["res3"]
    assert found.first is None


def test_a_bfloat16_network_is_compared_in_float32(
  tmp_path: pathlib.Path,
) -> None:
  """It rounds to 4e-3 when it runs; its weights are the same numbers."""
  module = MODULE.clone(dtype=jax.numpy.bfloat16)
  record = dataclasses.replace(
    RECORD, model=p3d_jax.models.zoo.to_fields(module)
  )
  p3d_jax.save(tmp_path / "half", VARIABLES, record)
  rough = outputs(X, module)["logits"]
  assert np.abs(rough - Y["logits"]).max() > 1e-3 * np.abs(Y["logits"]).max()
  found = check(tmp_path / "half", tmp_path, X, Y["logits"], tolerance=1e-5)
  assert found.first is None


def test_nothing_but_zeros(
  folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  """There is no largest number to divide by."""
  (row,) = check(folder, tmp_path, X, 0 * Y["logits"]).rows
  assert row.error == np.inf


def test_text() -> None:
  rows = (
    Row("stem", 2e-7, True),
    Row("res3/block01", 2e-6, True),
    Row("res3/block02", 3.1e-2, False),
    Row("logits", 1e-5, True),
  )
  found = Comparison(rows, 1e-4)
  assert found.first == "res3/block02"
  assert found.text().splitlines() == [
    "endpoint      max|a - b| / max|b|",
    "stem          2.0e-07",
    "res3/block01  2.0e-06",
    "res3/block02  3.1e-02  beyond the tolerance",
    "logits        1.0e-05",
    "they first part at res3/block02: 3.1e-02 (tolerance 1.0e-04); "
    "res3/block01, the last before it, is at 2.0e-06",
  ]
  last = Comparison(rows[:2], 1e-4).text().splitlines()[-1]
  assert last == "all 2 endpoints agree to 1.0e-04"
  last = Comparison(rows[2:], 1e-4).text().splitlines()[-1]
  assert last.startswith("they part from the first one compared, res3/block02")
  *_, line, hint = Comparison(rows[2:3], 1e-4).text().splitlines()
  assert line == "res3/block02 does not agree: 3.1e-02 (tolerance 1.0e-04)"
  for word in ("rule", "stem_pool", "preprocessing"):
    assert word in hint


def test_the_command(
  folder: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  x, y = tmp_path / "x.npy", tmp_path / "y.npz"
  np.save(x, X)
  np.savez(y, **Y)
  words = ["verify", str(folder), f"--input={x}", f"--expected={y}"]
  assert cli.main(words) == 0
  said = capsys.readouterr()
  assert said.err == ""
  last = said.out.splitlines()[-1]
  assert last == f"all {len(NAMES)} endpoints agree to 1.0e-04"
  np.savez(y, **Y | {"res4": 1.01 * Y["res4"]})
  assert cli.main(words) == 1
  last = capsys.readouterr().out.splitlines()[-1]
  assert "first part at res4: 9.9e-03" in last  # 0.01 / 1.01
  assert cli.main([*words, "--tolerance=0.02"]) == 0


def unpicklable() -> Any:
  return np.array([{"a": 1}], dtype=object)


def changed(value: float) -> np.ndarray:
  return np.where(np.arange(Y["logits"].size).reshape(2, -1) == 4, value, 1.0)


# name of a file, content, what the one line says
BAD: list[tuple[str, Any, str]] = [
  ("x.npy", None, "input is {x}: there is no such file"),
  ("y.npy", None, "expected is {y}: there is no such file"),
  ("x.npy", X[0], "input is float32 (4, 32, 32, 3): it must be 5-D"),
  ("x.npy", X.astype(np.int64), "input is int64"),
  ("x.npy", X.astype(np.complex64), "input is complex64"),
  ("x.npy", X[..., :2], "axis 4 must be the 3 channels (BGR)"),
  ("x.npy", X[:0], "at least one clip"),
  ("x.npy", X[:, :, :16], "at least 1 step and 32x32 pixels"),
  ("x.npy", np.where(X > 3, np.nan, X), "input: "),
  ("x.npy", np.zeros((1, 4, 20, 20, 3), np.uint8), "smaller than the crop"),
  ("x.npy", unpicklable(), "input is {x}: it holds Python objects"),
  ("x.npy", b"", "it is neither an .npy nor an .npz file"),
  ("x.npy", b"hello, world", "it is neither an .npy nor an .npz file"),
  ("x.npy", pickle.dumps([1]), "it is neither an .npy nor an .npz file"),
  ("x.npy", b"\x93NUMPY\x01\x00", "input is {x}: "),
  ("x.npy", {"a": X}, "input is {x}: it must be one array"),
  ("y.npy", b"PK\x03\x04 and so on", "expected is {y}: "),
  ("y.npy", {}, "expected is {y}: it holds no array"),
  ("y.npy", {"res3": unpicklable()}, "it holds Python objects"),
  ("y.npy", {"res3/blok01": Y["res3"]}, "near are res3/block01"),
  ("y.npy", {"layer1": Y["res3"]}, "there are stem, res2 to res5"),
  ("y.npy", Y["logits"][0], "expected logits is (3,): the network's is (2, 3)"),
  ("y.npy", Y["logits"][:1], "expected logits is (1, 3)"),
  ("y.npy", Y["res3"], "expected logits is (2, 1, 4, 4, 32)"),
  ("y.npy", Y["logits"].argmax(1), "expected logits is int64"),
  ("y.npy", changed(np.nan), "expected logits: 1 of 6 numbers are not finite"),
  ("y.npy", changed(np.inf), "expected logits: 1 of 6 numbers are not finite"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_bad_files(
  folder: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
  name: str,
  content: Any,
  message: str,
) -> None:
  x, y = tmp_path / "x.npy", tmp_path / "y.npy"
  np.save(x, X)
  np.save(y, Y["logits"])
  write(tmp_path / name, content)
  words = ["verify", str(folder), f"--input={x}", f"--expected={y}"]
  assert cli.main(words) == 2
  said = capsys.readouterr()
  assert said.out == ""
  (line,) = said.err.splitlines()
  assert line.startswith("p3d verify: ")
  assert message.format(x=x, y=y) in line


def write(path: pathlib.Path, content: Any) -> None:
  """Leaves out a file, or writes bytes, several arrays or one."""
  if content is None:
    path.unlink()
  elif isinstance(content, bytes):
    path.write_bytes(content)
  elif isinstance(content, dict):
    with path.open("wb") as file:
      np.savez(file, **content)
  else:
    np.save(path, content, allow_pickle=True)


def test_damaged_files(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
  """Cut anywhere, or with a byte changed: an error or a reading, no crash."""
  x, y = tmp_path / "x.npy", tmp_path / "y.npz"
  np.save(x, X)
  np.savez_compressed(y, logits=Y["logits"], pool5=Y["pool5"])
  whole = y.read_bytes()
  rng = np.random.default_rng(3)
  for length in rng.integers(0, len(whole), 20):
    y.write_bytes(whole[:length])
    with pytest.raises(ValueError, match="expected is"):
      verify(folder, x, y)
  one = x.read_bytes()
  for length in (7, 9, 40, 128, 130, len(one) - 1):
    x.write_bytes(one[:length])
    with pytest.raises(ValueError, match="input is"):
      verify(folder, x, y)


def test_options(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
  for bad in (0.0, -1.0, np.inf, np.nan):
    with pytest.raises(ValueError, match="tolerance is"):
      check(folder, tmp_path, X, Y, tolerance=bad)
  with pytest.raises(ValueError, match=r"endpoint is 'res3': .* an \.npz"):
    check(folder, tmp_path, X, Y, endpoint="res3")
  with pytest.raises(ValueError, match="no endpoint 'res6'"):
    check(folder, tmp_path, X, Y["res3"], endpoint="res6")
  with pytest.raises(ValueError, match="that is a folder"):
    verify(folder, tmp_path, tmp_path / "y.npy")
