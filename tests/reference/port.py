"""The graph of the widely used PyTorch port of P3D, and its files.

Written from a description of what it computes, in plain PyTorch; no code is
shared with `p3d_jax`. Clips are (batch, channels, time, height, width).
"""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the port runs on PyTorch")
nn = torch.nn
F = torch.nn.functional

STAGES = {
  "p3d63": (3, 4, 6, 3),
  "p3d131": (3, 4, 23, 3),
  "p3d199": (3, 8, 36, 3),
}


class Bottleneck(nn.Module):
  """A block of layer1 to layer3; `kind` is its letter."""

  def __init__(self, inputs: int, width: int, stride: int, kind: str):
    super().__init__()
    self.kind = kind
    strides = (1, stride, stride)
    self.conv1 = nn.Conv3d(inputs, width, 1, strides, bias=False)
    self.bn1 = nn.BatchNorm3d(width)
    self.conv2 = nn.Conv3d(
      width, width, (1, 3, 3), padding=(0, 1, 1), bias=False
    )
    self.bn2 = nn.BatchNorm3d(width)
    self.conv3 = nn.Conv3d(
      width, width, (3, 1, 1), padding=(1, 0, 0), bias=False
    )
    self.bn3 = nn.BatchNorm3d(width)
    self.conv4 = nn.Conv3d(width, 4 * width, 1, bias=False)
    self.bn4 = nn.BatchNorm3d(4 * width)
    if inputs != 4 * width:
      self.downsample = nn.Sequential(
        nn.Conv3d(inputs, 4 * width, 1, strides, bias=False),
        nn.BatchNorm3d(4 * width),
      )

  def forward(self, x: Any) -> Any:
    shortcut = self.downsample(x) if hasattr(self, "downsample") else x
    y = self.mix(F.relu(self.bn1(self.conv1(x))))
    return F.relu(self.bn4(self.conv4(y)) + shortcut)

  def mix(self, x: Any) -> Any:
    s = F.relu(self.bn2(self.conv2(x)))
    t = F.relu(self.bn3(self.conv3(x if self.kind == "B" else s)))
    return t if self.kind == "A" else s + t


class Bottleneck2D(nn.Module):
  """A block of layer4."""

  def __init__(self, inputs: int, width: int, stride: int):
    super().__init__()
    self.conv1 = nn.Conv2d(inputs, width, 1, stride, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv_normal = nn.Conv2d(width, width, 3, padding=1, bias=False)
    self.bn_normal = nn.BatchNorm2d(width)
    self.conv4 = nn.Conv2d(width, 4 * width, 1, bias=False)
    self.bn4 = nn.BatchNorm2d(4 * width)
    if inputs != 4 * width:
      self.downsample = nn.Sequential(
        nn.Conv2d(inputs, 4 * width, 1, stride, bias=False),
        nn.BatchNorm2d(4 * width),
      )

  def forward(self, x: Any) -> Any:
    shortcut = self.downsample(x) if hasattr(self, "downsample") else x
    y = F.relu(self.bn1(self.conv1(x)))
    y = F.relu(self.bn_normal(self.conv_normal(y)))
    return F.relu(self.bn4(self.conv4(y)) + shortcut)


class P3D(nn.Module):
  """The port's network: for 16 to 31 frames of 129 to 160 pixels."""

  def __init__(
    self,
    stages: tuple[int, ...] = STAGES["p3d199"],
    width: int = 64,
    classes: int = 400,
    in_channels: int = 3,
    st_struc: str = "ABC",
  ):
    super().__init__()
    self.conv1_custom = nn.Conv3d(
      in_channels, width, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False
    )
    self.bn1 = nn.BatchNorm3d(width)
    self.pool1 = nn.MaxPool3d((2, 3, 3), 2, (0, 1, 1))
    self.pool2 = nn.MaxPool3d((2, 1, 1), (2, 1, 1))
    inputs, place = width, 0
    for stage, blocks in enumerate(stages):
      layer = []
      for i in range(blocks):
        stride = 2 if stage and not i else 1
        if stage < 3:
          kind = st_struc[place % len(st_struc)]
          layer.append(Bottleneck(inputs, width << stage, stride, kind))
        else:
          layer.append(Bottleneck2D(inputs, width << stage, stride))
        inputs, place = 4 * width << stage, place + 1
      self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
    self.avgpool = nn.AvgPool2d(5, 1)
    self.fc = nn.Linear(inputs, classes)
    self.eval()

  def forward(self, clips: Any) -> Any:
    return self.endpoints(clips)["logits"]

  def endpoints(self, clips: Any) -> dict[str, Any]:
    """Returns blobs by name: stem, res2/block00, ..., res2, pool5, logits."""
    found = self.trunk(clips)
    x = self.avgpool(found["res5"])
    found["pool5"] = x = x.view(-1, self.fc.in_features)
    found["logits"] = self.fc(x)
    return found

  def trunk(self, clips: Any) -> dict[str, Any]:
    """Returns the blobs up to res5; a stage is before its temporal pool."""
    x = self.pool1(F.relu(self.bn1(self.conv1_custom(clips))))
    found = {"stem": x}
    for stage in (1, 2, 3, 4):
      if stage == 4:
        _, channels, _, height, width = x.shape
        x = x.contiguous().view(-1, channels, height, width)
      for i, block in enumerate(getattr(self, f"layer{stage}")):
        x = found[f"res{stage + 1}/block{i:02d}"] = block(x)
      found[f"res{stage + 1}"] = x
      if stage < 4:
        x = self.pool2(x)
    return found


def random_(net: P3D, seed: int) -> P3D:
  """Draws weights and statistics in place such that all rules differ.

  Returns the network itself, float32; `net.double()` computes with the same
  numbers.
  """
  shape = (4, net.conv1_custom.in_channels, 16, 64, 64)
  clips = random_images(np.random.default_rng(seed), *shape)
  # Without the last pool, whose window wants larger clips.
  draw_(
    net,
    lambda: net.fc(net.trunk(clips)["res5"].mean((2, 3))),
    seed,
    expand="bn4",
  )
  return net


def random_images(rng: np.random.Generator, *shape: int) -> Any:
  """Draws float64 (batch, channels, [time,] height, width), far from 0 and 1.

  Coarse blobs and fine noise, each image at its own brightness and contrast.
  """
  one = (shape[0],) + (1,) * (len(shape) - 1)
  coarse = torch.from_numpy(
    rng.standard_normal((*shape[:2], *(-(-n // 4) for n in shape[2:])))
  )
  coarse = F.interpolate(coarse, shape[2:])
  fine = torch.from_numpy(rng.standard_normal(shape))
  contrast = torch.from_numpy(rng.uniform(20, 60, one))
  brightness = torch.from_numpy(rng.uniform(-40, 40, one))
  return (contrast * (coarse + fine) + brightness).float().double()


@torch.no_grad()
def draw_(net: Any, run: Callable[[], Any], seed: int, expand: str) -> None:
  """Draws float32 numbers for every layer as `run` reaches it, in float64.

  A kernel is random with a gain of its own. The statistics of a BN are near
  those that its input has, so that activations neither die nor explode over
  the depth, and far from 0 and 1 because each kernel has another gain. BN whose
  name ends in `expand` takes small steps along the shortcut: with larger ones
  deep networks amplify rounding until float32 itself is far off.
  """
  rng = np.random.default_rng(seed)
  batches = int(rng.integers(1_000, 100_000))

  def put(parameter: Any, value: np.ndarray) -> None:
    parameter.copy_(torch.from_numpy(value.astype(np.float32)))

  def centred(shape: tuple[int, ...]) -> np.ndarray:
    """Without it, eight channels are not negative in half their places."""
    value = rng.standard_normal(shape)
    return value - value.mean()

  def draw(name: str, layer: Any, x: Any) -> None:
    if hasattr(layer, "running_mean"):
      axes = [axis for axis in range(x.ndim) if axis != 1]
      mean, std = x.mean(axes).numpy(), x.std(axes).numpy()
      n, small = mean.shape, 0.4 if name.endswith(expand) else 1.0
      put(layer.weight, small * rng.uniform(0.5, 1.5, n))
      put(layer.bias, 0.5 * centred(n))
      put(layer.running_mean, mean + 0.5 * std * centred(n))
      put(layer.running_var, std**2 * rng.uniform(0.5, 2.0, n))
      layer.num_batches_tracked.fill_(batches)
    else:
      shape = tuple(layer.weight.shape)
      gain = np.exp(rng.uniform(-1.5, 1.5)) / np.sqrt(np.prod(shape[1:]))
      put(layer.weight, gain * rng.standard_normal(shape))
      if layer.bias is not None:
        put(layer.bias, rng.standard_normal(shape[0]))

  net.double().eval()
  hooks = [
    layer.register_forward_pre_hook(
      lambda layer, x, name=name: draw(name, layer, x[0])
    )
    for name, layer in net.named_modules()
    if getattr(layer, "weight", None) is not None
  ]
  run()
  for hook in hooks:
    hook.remove()
  net.float()


def old_file(
  path: str | pathlib.Path,
  state: Mapping[str, Any],
  *,
  module_prefix: bool = False,
  batches_tracked: bool = False,
  extra: bool = False,
  optimizer: bool = False,
  bare: bool = False,
  zipped: bool = False,
  protocol: int = 2,
) -> None:
  """Saves a state dict as the port's files occur.

  Args:
    path: of the file.
    state: of a network.
    module_prefix: names start with `module.`, as of a DataParallel.
    batches_tracked: keeps num_batches_tracked, as new files do.
    extra: the epoch, the name and a NumPy scalar stand beside the state dict.
    optimizer: SGD's state stands beside it.
    bare: the file is the state dict itself.
    zipped: the format since PyTorch 1.6.
    protocol: of the pickle.
  """
  prefix = "module." if module_prefix else ""
  named = collections.OrderedDict(
    (prefix + name, value)
    for name, value in state.items()
    if batches_tracked or not name.endswith("num_batches_tracked")
  )
  content: dict[str, Any] = {"state_dict": named}
  if extra:
    content = {"epoch": 90, "arch": "P3D199", **content}
    content["best_prec1"] = np.float64(72.125)
  if optimizer:
    momentum = {
      i: {"momentum_buffer": torch.full_like(value, 7.0)}
      for i, value in enumerate(list(state.values())[:2])
    }
    group = {"lr": 0.001, "momentum": 0.9, "params": list(momentum)}
    content["optimizer"] = {"state": momentum, "param_groups": [group]}
  torch.save(
    named if bare else content,
    path,
    pickle_protocol=protocol,
    _use_new_zipfile_serialization=zipped,
  )
  if extra and not zipped and protocol == 2:  # as NumPy 1 called it
    path = pathlib.Path(path)
    new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    data = path.read_bytes()
    assert data.count(new) == 1
    path.write_bytes(data.replace(new, old))
