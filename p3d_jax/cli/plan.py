"""`p3d plan`: what a run needs and can reach, before anything is rented."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from p3d_jax.cli import verb

if TYPE_CHECKING:
  from ml_collections import ConfigDict

  from p3d_jax.pods.compiled import TooBigError
  from p3d_jax.pods.topology import Topology


def _arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--config", required=True, help="a Python config file")
  parser.add_argument(
    "--topology",
    required=True,
    help="v5e:16x16, v6e:4x4, v4:2x2x4, v5p:4x4x8 ...; cpu or cpu:N for N "
    "devices of this machine",
  )
  parser.add_argument(
    "--classes",
    type=int,
    help="of the data; needed where config.data.dir cannot be opened",
  )
  parser.add_argument(
    "--batch", type=int, help="in place of config.train.batch"
  )
  parser.add_argument(
    "--decode-ms",
    type=float,
    help="CPU time of a clip on a core of the hosts (default: as measured for "
    "16x160x160 of 320x240, see the README)",
  )
  parser.add_argument(
    "--no-search",
    action="store_true",
    help="of a config that does not fit, do not try what would: each try takes "
    "as long as the first compilation",
  )
  parser.add_argument(
    "--json", metavar="FILE", help="write the same numbers there; - prints them"
  )
  parser.epilog = (
    "Any field of the config can follow, as --config.mesh.fsdp=4. It compiles "
    "the training step with the TPU's own compiler (p3d_jax[tpu]) and needs no "
    "TPU; status 1: it does not fit."
  )


def _run(args: argparse.Namespace) -> int:
  _check(args)
  from p3d_jax.pods import topology as topologies
  from p3d_jax.train import config_file

  config = config_file.load(args.config, args.rest)
  if args.batch:
    config.train.batch = args.batch
  # Before anything of jax is used: it is told which devices there are.
  topology = topologies.find(args.topology)
  return _plan(args, config, topology)


def _check(args: argparse.Namespace) -> None:
  for name in ("classes", "batch"):
    if getattr(args, name) is not None:
      verb.at_least_one(args, name)
  if args.decode_ms is not None and not args.decode_ms > 0:
    raise ValueError(f"--decode-ms is {args.decode_ms}: it must be > 0")
  if args.json not in (None, "-"):
    from p3d_jax.files import check_out

    check_out(args.json, "--json")


def _plan(
  args: argparse.Namespace, config: ConfigDict, topology: Topology
) -> int:
  from p3d_jax.pods import fit, plan, plan_report
  from p3d_jax.pods.compiled import TooBigError, compile_step

  labels = plan.labels(config, args.classes)
  config, note = plan.resolved(config, labels)
  if note:
    print(f"p3d plan: {note}", file=sys.stderr)
  if sys.stderr.isatty():
    print(
      f"compiling for {topology.name}: a large network takes minutes",
      file=sys.stderr,
    )
  began = time.monotonic()
  try:
    step = fit.check(compile_step(config, topology, len(labels)), topology)
  except TooBigError as error:
    seconds = time.monotonic() - began
    return _too_big(args, config, topology, len(labels), error, seconds)
  decode = args.decode_ms or plan.decode_ms(config)
  numbers = plan.numbers(config, topology, step, decode)
  _told(args, {"fits": True, **numbers}, plan_report.report(numbers))
  return 0


def _too_big(
  args: argparse.Namespace,
  config: ConfigDict,
  topology: Topology,
  num_classes: int,
  error: TooBigError,
  seconds: float,
) -> int:
  from p3d_jax.pods import fit, plan_report

  told = plan_report.too_big(error.needs, error.has)
  print(f"p3d plan: {told}", file=sys.stderr)
  found: dict[str, Any] = {
    "fits": False,
    "needs": error.needs,
    "has": error.has,
    "tried": [],
  }
  if args.no_search:
    _told(args, found, "")
    return 1
  print(
    "trying what would fit; each compilation takes as long as that one, "
    f"{seconds:.0f} s (--no-search leaves it)",
    file=sys.stderr,
  )
  tries = fit.search(config, topology, num_classes, error)
  found["tried"] = [
    {"changes": one.changes, "fits": one.step is not None, "needs": one.needs}
    for one in tries
  ]
  _told(args, found, plan_report.tried(tries))
  return 1


def _told(args: argparse.Namespace, numbers: dict[str, Any], text: str) -> None:
  """Prints a text, and writes the numbers if that is asked for."""
  if args.json == "-":
    print(json.dumps(numbers, indent=2))
    return
  if text:
    print(text)
  if args.json:
    from p3d_jax.files import write_json

    write_json(args.json, numbers)


PLAN = verb.Verb(
  "what a run on a TPU pod needs and can reach, without the TPU",
  _arguments,
  _run,
)
