"""The page of a run in a browser: drawn whole, with nothing from anywhere."""

import http.server
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from p3d_jax.checkpoint import model
from p3d_jax.data.clips import Views
from p3d_jax.evaluate.feature_file import Features, save_features
from p3d_jax.visualize.report import Parts, report
from p3d_jax.visualize.report_html import page, tag
from tests.fast import compiles_fast
from tests.visualize import browser
from tests.visualize.report_runs import random_run

__all__ = ["compiles_fast"]

SIZES = [
  (width, scheme) for width in browser.WIDTHS for scheme in browser.SCHEMES
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
  with browser.opened() as opened:
    yield opened


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """The page of a run with all that can be on it but class pictures."""
  folder = tmp_path_factory.mktemp("report")
  run = random_run(folder / "run")
  record = model.read_record(model.find(run))
  rng = np.random.default_rng(0)
  save_features(
    folder / "features.npz",
    Features(
      ids=tuple(map(str, range(40))),
      arrays={"pool5": rng.standard_normal((40, 8)).astype(np.float32)},
      labels=np.arange(40, dtype=np.int32).reshape(40, 1) % 8,
      label_names=record.labels,
      sources=("",) * 40,
      clip=None,
      about={"sha256": record.sha256},
    ),
  )
  parts = Parts(videos=2, features=folder / "features.npz")
  out = folder / "a page.html"
  return pathlib.Path(report(run, out=out, parts=parts, views=Views(3)))


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_the_page_is_whole(
  whole: pathlib.Path, chromium: Any, width: int, scheme: str
) -> None:
  browser.show(chromium, whole, width, scheme)
  assert browser.faults(chromium, whole, width) == []
  pictures = chromium.execute_script("return document.images.length")
  # Confusion, curves, t-SNE; and of ten videos by a network that knows little
  # two hits and two misses, or fewer hits.
  assert 3 + 2 <= pictures <= 3 + 4
  body = "return getComputedStyle(document.body).backgroundColor"
  shade = chromium.execute_script(body)
  red = int(shade.split("(")[1].split(",")[0])
  assert (red > 200) == (scheme == "light")


def test_links_lead_somewhere(whole: pathlib.Path, chromium: Any) -> None:
  browser.show(chromium, whole, 1200, "light")
  script = """
    return [...document.querySelectorAll('nav a')].map(
      a => document.querySelector(a.hash).querySelector('h2').textContent)
  """
  named = chromium.execute_script(
    "return [...document.querySelectorAll('nav a')].map(a => a.textContent)"
  )
  assert chromium.execute_script(script) == named
  assert len(named) >= 6


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
  """A server on this machine, and the paths that it was asked for."""
  asked: list[str] = []

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # noqa: N802
      asked.append(self.path)
      self.send_error(404)

    def log_message(self, *words: Any) -> None:
      pass

  with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", asked
    running.shutdown()


PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="

# What is put on the page, and what is to be found.
FAULTS = {
  "script": ("<script>document.title = 'run'</script>", "console: "),
  "picture": ('<img alt="a" src="data:image/png;base64,AA">', "not drawn: a"),
  "alt": (f'<img src="{PIXEL}">', "no alt"),
  "wide": ("<div style='width: 1300px'>a</div>", "pixels wide in 1200"),
  "pale": ("<p style='color: #aaa'>pale</p>", "contrast 2."),
  "elsewhere": ('<img alt="far" src="SERVER/far.png">', "console: "),
  "style": ('<link rel="stylesheet" href="SERVER/far.css">', "console: "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(
  fault: str,
  chromium: Any,
  server: tuple[str, list[str]],
  tmp_path: pathlib.Path,
) -> None:
  """The checks above can fail; and the page's policy holds."""
  added, expected = FAULTS[fault]
  file = tmp_path / "page.html"
  plain = page("title", tag("p", "head"), [])
  file.write_text(plain)
  browser.show(chromium, file, 1200, "light")
  assert browser.faults(chromium, file, 1200) == []
  added = added.replace("SERVER", server[0])
  file.write_text(plain.replace("</header>", added + "</header>"))
  browser.show(chromium, file, 1200, "light")
  found = browser.faults(chromium, file, 1200)
  assert any(expected in one for one in found), found
  assert chromium.title == "title"
  assert server[1] == []


def test_without_the_policy_a_request_is_seen(
  chromium: Any, server: tuple[str, list[str]], tmp_path: pathlib.Path
) -> None:
  file = tmp_path / "page.html"
  file.write_text(f'<img alt="far" src="{server[0]}/far.png">')
  browser.show(chromium, file, 1200, "light")
  found = browser.faults(chromium, file, 1200)
  assert f"request: {server[0]}/far.png" in found
  assert f"loaded: {server[0]}/far.png" in found
  assert "/far.png" in server[1]


@pytest.mark.parametrize("required", [False, True], ids=["wished", "required"])
def test_without_a_browser(
  required: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
  monkeypatch.setenv("PATH", str(tmp_path))
  monkeypatch.delenv("P3D_BROWSER", raising=False)
  outcome: Any = pytest.skip.Exception
  if required:
    monkeypatch.setenv("P3D_BROWSER", "required")
    outcome = pytest.fail.Exception
  with pytest.raises(outcome, match="chromium"), browser.opened():
    pass
