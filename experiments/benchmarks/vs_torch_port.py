"""PyTorch's side of `vs_torch`: the port's graph, channels last."""

from __future__ import annotations

import pathlib
import sys
import time
from typing import Any

import numpy as np
import safetensors.torch
import torch

from experiments.benchmarks.vs_torch import Case, serve
from tests.reference import port

FORMATS = {
  torch.nn.Conv3d: torch.channels_last_3d,
  torch.nn.Conv2d: torch.channels_last,
}
LEARNING_RATE = 1e-9  # the numbers stay what they are, round after round


class Port:
  """Holds one network at a time."""

  def __init__(self, folder: str, compiled: bool) -> None:
    self.folder = pathlib.Path(folder)
    self.compiled = compiled
    self._run: Any = None

  def begin(self, case: Case) -> np.ndarray:
    """Builds a case, runs it once and returns the logits of inference."""
    net = self._network(case.model)
    kind = getattr(torch, case.dtype)
    clips = torch.from_numpy(case.clips().transpose(0, 4, 1, 2, 3))
    clips = clips.to(kind).to(memory_format=torch.channels_last_3d)
    if case.what == "folded":
      fold_(net)
    for layer in net.modules():
      if type(layer) in FORMATS:
        layer.to(memory_format=FORMATS[type(layer)])
    net = net.to(kind)
    with torch.inference_mode():
      logits = net(clips).float().numpy()
    if case.trains:
      self._run = _step(net, clips, case.what == "frozen", self.compiled)
    else:
      self._run = _forward(net, clips, self.compiled)
    for _ in range(3):  # its allocator learns the sizes
      self.round()
    return logits

  def round(self) -> float:
    """Returns the seconds of one run."""
    start = time.perf_counter()
    self._run()
    return time.perf_counter() - start

  def end(self) -> None:
    """Frees the case."""
    self._run = None
    torch.compiler.reset()

  def _network(self, model: str) -> Any:
    """The twin with random weights, the same in all processes and rounds."""
    net = port.P3D(port.STAGES[model], classes=101)
    file = self.folder / f"{model}.safetensors"
    if not file.exists():
      safetensors.torch.save_file(port.random_(net, 0).state_dict(), file)
    net.load_state_dict(safetensors.torch.load_file(file))
    return net.eval()


def fold_(net: Any) -> None:
  """Folds each batch norm into its convolution, in place, as PyTorch does."""
  fuse = torch.nn.utils.fusion.fuse_conv_bn_eval
  for block in net.modules():
    names = dict(block.named_children())
    for name, layer in names.items():
      if not isinstance(layer, torch.nn.Conv2d | torch.nn.Conv3d):
        continue
      norm = {"conv1_custom": "bn1", "conv_normal": "bn_normal", "0": "1"}.get(
        name, name.replace("conv", "bn")
      )
      setattr(block, name, fuse(layer, names[norm]))
      setattr(block, norm, torch.nn.Identity())


def _forward(net: Any, clips: Any, compiled: bool) -> Any:
  call = torch.compile(net) if compiled else net

  def run() -> None:
    with torch.inference_mode():
      call(clips)

  return run


def _step(net: Any, clips: Any, frozen: bool, compiled: bool) -> Any:
  net.train()
  if frozen:
    for layer in net.modules():
      if hasattr(layer, "running_mean") and layer is not net.bn1:
        layer.eval()
        layer.requires_grad_(False)
  learning = [p for p in net.parameters() if p.requires_grad]
  optimizer = torch.optim.SGD(learning, lr=LEARNING_RATE)
  labels = torch.zeros(len(clips), dtype=torch.long)
  call = torch.compile(net) if compiled else net

  def run() -> None:
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(call(clips).float(), labels)
    loss.backward()
    optimizer.step()

  return run


if __name__ == "__main__":
  name, folder, threads = sys.argv[1:]
  torch.set_num_threads(int(threads))
  serve(Port(folder, compiled=name == "torch.compile"))
