"""What the pictures share: colours, and a figure's bytes."""

from __future__ import annotations

import colorsys
import io

import matplotlib
from matplotlib.figure import Figure

from p3d_jax.visualize.contact_sheet import drawable

# Of so many classes or runs at most the colours can be told apart at a glance.
CLEAR = 10
MARKERS = "os^D"
LONGEST = 40  # characters of a name that are shown

Color = tuple[float, float, float]


def colors(count: int) -> list[Color]:
  """Returns as many colours, neighbours far apart; RGB, each in 0..1."""
  if count <= 2 * CLEAR:
    table = matplotlib.colormaps["tab10" if count <= CLEAR else "tab20"]
    return [table(k)[:3] for k in range(count)]
  # Steps of the golden section never come back to a hue, and part neighbours.
  hues = [(k * 0.618034) % 1 for k in range(count)]
  return [
    colorsys.hls_to_rgb(hue, (0.35, 0.5, 0.65)[k % 3], 0.75)
    for k, hue in enumerate(hues)
  ]


def markers(count: int) -> list[str]:
  """Returns as many marks: dots, and other shapes where colours are close."""
  shapes = MARKERS if count > 2 * CLEAR else MARKERS[:1]
  return [shapes[k % len(shapes)] for k in range(count)]


def plain(text: str) -> str:
  """Returns a name as a figure can show it: no formula, at most a line."""
  text = drawable(text)
  text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "\u2026"
  return text.replace("$", r"\$")


def png(figure: Figure, *, tight: bool = False) -> bytes:
  """Returns a figure as a PNG.

  Args:
    figure: what is drawn.
    tight: cut, or enlarge, the picture to what is drawn.
  """
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", bbox_inches="tight" if tight else None)
  return buffer.getvalue()
