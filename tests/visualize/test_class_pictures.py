"""Class pictures raise the logit of their class, and are drawn as they are."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from p3d_jax.checkpoint import model
from p3d_jax.data.flow import flow_color
from p3d_jax.preprocess import Preprocessing
from p3d_jax.visualize.class_pictures import (
  aim,
  blur,
  class_clips,
  class_pictures_png,
  coarse,
  first_clip,
  scores_of,
)
from p3d_jax.visualize.contact_sheet import GAP, LINE, MARGIN
from tests import small
from tests.visualize.drawing import draw, pixels

FLOW = Preprocessing(
  frames=3, resize=None, crop=(32, 40), channels="flow", scale=0.5,
  mean=(64, 60), std=(20, 30),
)  # fmt: skip


def logits(module: Any, variables: Any, record: Any, clips: Any) -> np.ndarray:
  """What the network says of uint8 clips."""
  fed = record.preprocessing.normalize(clips)
  return np.asarray(jax.jit(module.apply)(variables, fed))


def random_network(**fields: Any) -> tuple[Any, Any, Any]:
  module = small.network(**fields)
  return module, small.variables(module), small.record(module)


def fair(module: Any, variables: Any, record: Any) -> Any:
  """Returns variables with which each of three classes can win.

  Each class has a third of the features, and a bias that makes all alike on
  noise. In a network at random one class wins on whatever is put in.
  """
  fc = variables["params"]["head"]["fc"]
  rows, classes = fc["kernel"].shape
  kernel = np.arange(rows)[:, None] % classes == np.arange(classes)
  fc = {"kernel": kernel.astype(np.float32), "bias": np.zeros(classes)}
  params = variables["params"] | {"head": {"fc": fc}}
  variables = variables | {"params": params}
  noise = np.rint(first_clip(record.preprocessing, jax.random.key(9)))
  fc["bias"] = -logits(module, variables, record, np.stack([noise] * 3))[0]
  return variables


def test_the_class_wins_and_its_lead_rises(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  module, variables, record = random_network()
  variables = fair(module, variables, record)
  start = np.stack(
    [
      first_clip(
        record.preprocessing, jax.random.fold_in(jax.random.key(3), label)
      )
      for label in range(3)
    ]
  )
  before = logits(module, variables, record, np.rint(start).astype(np.uint8))
  clips = class_clips(module, variables, record, range(3), steps=30, seed=3)
  assert clips.dtype == np.uint8
  assert clips.shape == (3, 4, 32, 32, 3)
  after = logits(module, variables, record, clips)
  assert after.argmax(1).tolist() == [0, 1, 2]
  # Far above the others, on which softmax's scores depend.
  lead = [
    np.diagonal(said) - np.where(np.eye(3), -np.inf, said).max(1)
    for said in (before, after)
  ]
  assert (lead[1] > lead[0] + 3).all()
  found = scores_of(module, variables, record, clips)
  np.testing.assert_allclose(found, jax.nn.softmax(after), atol=1e-5)
  # A clip depends on its class and the seed, not on the others, nor on how
  # many steps are taken between two signs of life.
  monkeypatch.setattr("p3d_jax.visualize.class_pictures._AT_ONCE", 7)
  again = class_clips(module, variables, record, [1], steps=30, seed=3)
  assert np.array_equal(again[0], clips[1])
  other = class_clips(module, variables, record, [1], steps=30, seed=4)
  assert not np.array_equal(other[0], clips[1])


def test_what_is_raised_by_hand() -> None:
  said = jnp.array([1.0, 2.0, 6.0])
  assert aim(said, 2, "softmax") == 3
  assert aim(said, 2, "sigmoid") == 6


def test_a_trained_checkpoint_by_the_verb(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  out = tmp_path / "classes.png"
  words = ("classes", small.trained(), "--out", out, "--steps", 12)
  assert draw(*words, "--labels", "zoom_in", "pan_up", "--seed", 1) == 0
  module, variables, record = model.load(model.find(small.trained()))
  which = [record.labels.index(name) for name in ("zoom_in", "pan_up")]
  clips = class_clips(module, variables, record, which, steps=12, seed=1)
  assert out.read_bytes() == class_pictures_png(clips, ["zoom_in", "pan_up"])
  told = capsys.readouterr().out.splitlines()
  scores = jax.nn.softmax(logits(module, variables, record, clips))
  for line, name, label, row in zip(
    told[1:3], ("zoom_in", "pan_up"), which, np.asarray(scores), strict=True
  ):
    words = tuple(line.split())
    assert words[0] == name
    own, other = 100 * row[label], 100 * np.delete(row, label).max()
    # One decimal is printed.
    assert abs(float(words[1]) - own) < 0.06
    assert abs(float(words[2]) - other) < 0.06
  for given, rule in (
    (("--labels", "dance"), "--labels has 'dance': the classes are pan_left"),
    (("--steps", 0), "--steps is 0: it must be >= 1"),
    (("--seed", -2), "--seed is -2: it must be in 0"),
  ):
    with pytest.raises(ValueError, match=rule):
      draw("classes", small.trained(), "--out", out, *given)


def test_it_begins_with_what_the_network_takes_for_zero() -> None:
  """By hand: BGR's mean 120, 125, 130 is RGB's 130, 125, 120."""
  clip = first_clip(small.PREPROCESSING, jax.random.key(0))
  assert clip.shape == (4, 32, 32, 3)
  # 4,096 pixels of deviation 20 have a mean to within 4 x 20 / 64.
  means = np.asarray(clip).mean((0, 1, 2))
  np.testing.assert_allclose(means, [130, 125, 120], atol=1.25)
  flow = np.asarray(first_clip(FLOW, jax.random.key(0)))
  assert flow.shape == (3, 32, 40, 2)
  np.testing.assert_allclose(flow.mean((0, 1, 2)), [128, 120], atol=1.3)
  np.testing.assert_allclose(flow.std((0, 1, 2)), 20, rtol=0.05)


def test_flow_climbs_too() -> None:
  module = small.network()
  clips = jnp.zeros((1, 3, 32, 40, 2))
  variables = jax.jit(module.init)(jax.random.key(0), clips)
  record = dataclasses.replace(small.record(module), preprocessing=FLOW)
  variables = fair(module, variables, record)
  found = class_clips(module, variables, record, [0, 1, 2], steps=20)
  assert found.shape == (3, 3, 32, 40, 2)
  said = logits(module, variables, record, found)
  assert said.argmax(1).tolist() == [0, 1, 2]
  shown = pixels(class_pictures_png(found, ["a", "b", "c"]))
  # Enlarged 3 times, to 96 and more; painted with the motion's own scale.
  top, left = MARGIN + 2 * LINE, MARGIN
  frame = shown[top : top + 96 : 3, left : left + 120 : 3]
  motion = (found[0].astype(float) * 2 - 255) / 255 * 20
  scale = np.percentile(np.hypot(motion[..., 0], motion[..., 1]), 99)
  painted = flow_color(found[0, 0], 20, round(scale, 1))
  assert abs(frame.astype(int) - painted).max() <= 1


def test_blur_is_scipys() -> None:
  rng = np.random.default_rng(0)
  clip = rng.uniform(0, 255, (2, 17, 20, 3)).astype(np.float32)
  for deviation in (1.2, 0.4):
    wanted = clip
    for axis in (1, 2):
      wanted = gaussian_filter1d(
        wanted, deviation, axis, mode="nearest", radius=6
      )
    # float32 of numbers up to 255.
    np.testing.assert_allclose(blur(clip, deviation), wanted, atol=1e-3)


def test_waves_are_divided_by_their_frequency() -> None:
  """By hand: waves of 8 and of 4 pixels, one over 4 frames, a constant."""
  t, y, x = np.meshgrid(*map(np.arange, (8, 16, 32)), indexing="ij")
  wave = np.cos(2 * np.pi * x / 8)
  for slope, factor in (
    (wave, 8),
    (np.cos(2 * np.pi * y / 4), 4),
    (np.sin(2 * np.pi * t / 4), 4),
    # Frequencies of two axes add up as the sides of a right angle.
    (np.cos(2 * np.pi * (x / 8 + y / 8)), 8 / np.sqrt(2)),
    (np.ones_like(wave), 32),  # as long as the larger side
  ):
    found = coarse(jnp.asarray(slope[..., None], jnp.float32))
    np.testing.assert_allclose(found[..., 0], factor * slope, atol=1e-4)


def test_the_strips_show_the_pixels() -> None:
  clips = small.pixels(2)  # 4 frames of 32x32
  shown = pixels(class_pictures_png(clips, ["first", "$second$ 打"]))
  # Each pixel 3 times, to 96; under the line of frames and the name.
  for row in range(2):
    top = MARGIN + LINE + row * (LINE + 96 + MARGIN) + LINE
    for column in range(4):
      left = MARGIN + column * (96 + GAP)
      large = shown[top : top + 96, left : left + 96]
      assert np.array_equal(large, clips[row, column].repeat(3, 0).repeat(3, 1))
      if column:
        assert (shown[top : top + 96, left - GAP : left] == 255).all()
    # The name stands above.
    assert (shown[top - LINE : top, :200] < 100).any()
  # Of 16 frames, 8 from the first to the last.
  long = np.concatenate([small.pixels(1, seed=s) for s in range(4)], axis=1)
  shown = pixels(class_pictures_png(long, ["one"]))
  assert shown.shape[1] == 2 * MARGIN + 8 * 96 + 7 * GAP
  top, left = MARGIN + 2 * LINE, MARGIN + 7 * (96 + GAP)
  assert np.array_equal(
    shown[top : top + 96 : 3, left : left + 96 : 3], long[0, 15]
  )


def test_mistakes() -> None:
  module, variables, record = random_network()
  for labels, rule in (
    ([3], r"labels has 3: it must be in 0\.\.2"),
    ([0, -1], "labels has -1"),
    ([], "labels are none"),
  ):
    with pytest.raises(ValueError, match=rule):
      class_clips(module, variables, record, labels, steps=1)
  for name in ("steps", "seed"):
    with pytest.raises(ValueError, match=f"{name} is -1: it must be >="):
      class_clips(module, variables, record, [0], **{name: -1})
  trunk = module.clone(num_classes=None)
  with pytest.raises(ValueError, match="a trunk, without classes"):
    class_clips(trunk, variables, record, [0], steps=1)
  spoilt = jax.tree.map(lambda leaf: leaf * np.nan, variables)
  with pytest.raises(ArithmeticError, match="the logit of class 0 is nan"):
    class_clips(module, spoilt, record, [0], steps=1)
  with pytest.raises(ValueError, match="names are 1: .* 2 clips"):
    class_pictures_png(small.pixels(2), ["a"])
