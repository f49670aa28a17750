"""HTML by calls: what is not markup already is escaped; and the page around."""

from __future__ import annotations

import base64
import html
import string
from collections.abc import Iterable, Sequence


class Html(str):
  """Markup. Joined to a str by + it is a str again, and would be escaped."""

  __slots__ = ()


def escaped(content: object) -> Html:
  """Returns markup as it is, and everything else as text."""
  if isinstance(content, Html):
    return content
  # What no document may hold, such as NUL in a name, would end it.
  text = "".join(
    c if c.isprintable() or c in "\n " else "�" for c in str(content)
  )
  return Html(html.escape(text))


def joined(parts: Iterable[object]) -> Html:
  """Returns parts one after the other."""
  return Html("".join(escaped(part) for part in parts))


def tag(kind: str, /, *content: object, **attributes: object) -> Html:
  """Returns an element.

  Args:
    kind: its name.
    *content: inside; None is left out.
    **attributes: `class_` is class, `aria_label` aria-label; None is left out,
      and so is False. Values are text, also where they are markup: a quote
      in them ends nothing.
  """
  words = [kind]
  for name, value in attributes.items():
    if value is None or value is False:
      continue
    name = name.rstrip("_").replace("_", "-")
    words.append(name if value is True else f'{name}="{escaped(str(value))}"')
  inside = joined(part for part in content if part is not None)
  end = "" if kind in ("img", "source", "wbr") else f"</{kind}>"
  return Html(f"<{' '.join(words)}>{inside}{end}")


def data_url(content: bytes, kind: str = "png") -> str:
  """Returns a picture as the page holds it."""
  return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def table(
  heads: Sequence[object], rows: Iterable[Sequence[object]], numbers: str = ""
) -> Html:
  """Returns a table that scrolls by itself where the screen is narrow.

  Args:
    heads: of the columns.
    rows: of as many cells.
    numbers: the positions of the columns of numbers: "12".
  """

  def row(cells: Sequence[object], kind: str) -> Html:
    return tag(
      "tr",
      *(
        tag(kind, cell, class_="number" if str(k) in numbers else None)
        for k, cell in enumerate(cells)
      ),
    )

  head = tag("thead", row(heads, "th"))
  return scrolled(
    tag("table", head, tag("tbody", *(row(r, "td") for r in rows)))
  )


def facts(pairs: Iterable[tuple[object, object]]) -> Html:
  """Returns names with what they stand for."""
  return tag(
    "dl",
    *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs),
  )


def scrolled(content: Html, label: str | None = None) -> Html:
  """Returns something wide in a box of its own, which keys can scroll too."""
  return tag(
    "div",
    content,
    class_="scroll",
    tabindex="0",
    role="region" if label else None,
    aria_label=label,
  )


def drawn(
  png: bytes, alt: str, *, photo: bool = False, natural: bool = False
) -> Html:
  """Returns a picture as a figure.

  Args:
    png: a PNG.
    alt: what it shows, in words.
    photo: of pixels of videos, which stay as they are on a dark screen; a
      drawing is turned dark.
    natural: as large as it is, and to be scrolled; else it fits the page.
  """
  kind = ("photo" if photo else "drawing") + " natural" * natural
  picture = tag("img", src=data_url(png), alt=alt, class_=kind)
  return tag("figure", scrolled(picture, alt))


def folded(title: object, *content: object) -> Html:
  """Returns what a click opens."""
  return tag("details", tag("summary", title), *content)


def page(title: str, head: Html, sections: Iterable[tuple[str, Html]]) -> str:
  """Returns the whole page, which asks for nothing from anywhere.

  Args:
    title: of the window.
    head: above the contents.
    sections: a heading and what is under it, each.
  """
  sections = list(sections)
  names = [name.lower().replace(" ", "-") for name, _ in sections]
  links = [
    tag("a", heading, href=f"#{name}")
    for name, (heading, _) in zip(names, sections, strict=True)
  ]
  bodies = [
    tag("section", tag("h2", heading), content, id=name)
    for name, (heading, content) in zip(names, sections, strict=True)
  ]
  return _PAGE.substitute(
    title=escaped(title),
    style=_STYLE,
    head=head,
    contents=tag("nav", *links, aria_label="contents"),
    sections=joined(bodies),
  )


# The policy forbids the browser what the page does not do: load anything that
# is not in it, and run scripts. The empty icon keeps it from asking for one.
_PAGE = string.Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<link rel="icon" href="data:,">
<style>$style</style>
</head>
<body>
<header>$head</header>
$contents
<main>$sections</main>
</body>
</html>
""")

_STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #fff; --text: #1b1f26; --soft: #5a6372;
  --line: #dfe3e9; --true: #1f66c9; --wrong: #b4500b; --other: #9aa4b2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12151a; --card: #1b1f26; --text: #e8ebf0; --soft: #a3adbb;
    --line: #323945; --true: #6aa9ff; --wrong: #f0944d; --other: #6b7686;
  }
  /* Drawings are dark on white: turned over, with the hues as they were, and
     their black is what is behind them. */
  img.drawing { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem;
  background: var(--page); color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
    "DejaVu Sans", sans-serif;
  overflow-wrap: anywhere;
}
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 .8rem; }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .6rem; }
p { margin: .4rem 0 .8rem; max-width: 46rem; }
a { color: var(--true); }
code, pre { font: .86em/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono",
  monospace; }
pre { margin: .6rem 0; white-space: pre-wrap; }
.soft { color: var(--soft); }
header p { color: var(--soft); }
.tiles {
  display: grid; gap: .75rem; margin: 1.25rem 0;
  grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr));
}
.tile, section {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
}
.tile { padding: .8rem 1rem; color: var(--soft); font-size: .88rem; }
.tile b {
  display: block; color: var(--text); font-size: 1.75rem; line-height: 1.2;
  font-weight: 650; font-variant-numeric: tabular-nums;
}
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin: 1.25rem 0; }
section { padding: 1.25rem 1.4rem; margin: 1.25rem 0; }
.scroll { overflow-x: auto; max-width: 100%; }
figure { margin: .5rem 0; }
.scroll > img { display: block; max-width: 100%; min-width: 34rem; }
.scroll > img.natural { max-width: none; }
img.photo { border-radius: 6px; }
table { border-collapse: collapse; font-size: .92rem; min-width: 60%; }
th, td { padding: .3rem 1rem .3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: break-word; }
th { color: var(--soft); font-weight: 600; }
td code { overflow-wrap: anywhere; }
td:first-child code { overflow-wrap: normal; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
dl { margin: 0; }
dl > div { display: grid; grid-template-columns: 9.5rem 1fr; gap: .8rem;
  padding: .3rem 0; border-bottom: 1px solid var(--line); }
dt { color: var(--soft); }
dd { margin: 0; min-width: 0; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--true); }
.bars { display: grid; gap: .15rem .8rem; align-items: center;
  font-size: .92rem;
  grid-template-columns: minmax(0, max-content) minmax(3rem, 1fr) auto auto; }
.bars > span:nth-child(4n) { color: var(--soft); }
.bars .value { text-align: right; font-variant-numeric: tabular-nums; }
.bar { height: .7rem; border-radius: 3px; background: var(--line); }
.bar i { display: block; height: 100%; min-width: 1px; border-radius: 3px;
  background: var(--true); }
.bar i.wrong { background: var(--wrong); }
.bar i.other { background: var(--other); }
.cards { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
.card { border: 1px solid var(--line); border-radius: 10px; padding: .9rem;
  min-width: 0; }
.card h4 { margin: .7rem 0 .1rem; font-size: 1rem; }
.card p { margin: 0 0 .6rem; font-size: .84rem; }
.card img { display: block; margin: 0 auto; width: 100%; max-width: 15rem;
  height: auto; border-radius: 6px; }
.card .bars { grid-template-columns: fit-content(62%) minmax(2rem, 1fr) auto;
  font-size: .86rem; }
.card .bars > span { color: inherit; }
.card .bars .true { color: var(--true); font-weight: 600; }
.card .bars .wrong { color: var(--wrong); }
svg { display: block; width: 100%; height: auto; margin-top: .6rem; }
svg text { fill: var(--soft); font-size: 11px; }
svg .axis { stroke: var(--line); }
svg .true { stroke: var(--true); fill: var(--true); }
svg .wrong { stroke: var(--wrong); fill: var(--wrong); }
svg .other { stroke: var(--other); fill: var(--other); }
svg polyline { fill: none !important; stroke-width: 2; }
svg .other { opacity: .7; }
@media (max-width: 34rem) {
  body { padding: 1.25rem .8rem 3rem; }
  section { padding: 1rem; }
  dl > div { grid-template-columns: 7.5rem 1fr; }
  /* A name stands over its bar. */
  section > .bars, details > .bars { grid-template-columns: 1fr auto auto; }
  section > .bars > span:nth-child(4n + 1),
  details > .bars > span:nth-child(4n + 1) { grid-column: 1 / -1; }
}
@media print { nav { display: none; } section { break-inside: avoid; } }
"""
