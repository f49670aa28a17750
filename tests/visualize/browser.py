"""Opens a page in headless Chromium, and says what is wrong with it."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

# Pixels across: a desk, and a phone.
WIDTHS = (1200, 400)
SCHEMES = ("light", "dark")
# The least contrast of text with what is behind it, WCAG 2.1's level AA.
CONTRAST = 4.5
# Seconds in which what a page logs must be here.
LOGS = 20.0
_LAST = "the last line of the log"

_FLAGS = (
  "--headless=new",
  "--no-sandbox",  # which root, as in a container, cannot have
  "--disable-gpu",
  "--disable-dev-shm-usage",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-quic",
  "--hide-scrollbars",
)


@contextlib.contextmanager
def opened() -> Iterator[Any]:
  """Starts Chromium, with an empty profile; ends it in the end.

  Without one the test is skipped, or fails where P3D_BROWSER is "required".
  """
  chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
  if not chromium or not driver:
    if os.environ.get("P3D_BROWSER") == "required":
      pytest.fail("chromium and chromedriver are not on the PATH")
    pytest.skip("needs chromium and chromedriver (Debian: chromium-driver)")
  from selenium import webdriver

  options = webdriver.ChromeOptions()
  options.binary_location = chromium
  options.set_capability(
    "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
  )
  for flag in _FLAGS:
    options.add_argument(flag)
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    options.add_argument(f"--user-data-dir={profile}")
    service = webdriver.ChromeService(executable_path=driver)
    browser = webdriver.Chrome(options=options, service=service)
    try:
      yield browser
    finally:
      browser.quit()


def show(browser: Any, page: pathlib.Path, width: int, scheme: str) -> None:
  """Opens a page at a width, as a user of a colour scheme sees it."""
  feature = {"name": "prefers-color-scheme", "value": scheme}
  browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
  size = {"width": width, "height": 900, "deviceScaleFactor": 1}
  browser.execute_cdp_cmd(
    "Emulation.setDeviceMetricsOverride", {**size, "mobile": width < 600}
  )
  for kind in ("browser", "performance"):
    browser.get_log(kind)  # of the page before
  browser.get(page.absolute().as_uri())


def faults(browser: Any, page: pathlib.Path, width: int) -> list[str]:
  """Returns what is wrong with the page that is shown.

  Args:
    browser: that shows it.
    page: its file.
    width: that it is shown at.
  """
  found = [f"console: {text}" for text in _console(browser)]
  found += [
    f"request: {url[:80]}"
    for url in _requests(browser, page.absolute().as_uri())
  ]
  loaded = browser.execute_script(
    "return performance.getEntriesByType('resource').map(e => e.name)"
  )
  found += [f"loaded: {name}" for name in loaded if name[:5] != "data:"]
  found += browser.execute_script(_FAULTS, width, CONTRAST)
  return found


def _console(browser: Any) -> list[str]:
  """Warnings and errors so far.

  They come a moment after what they warn of, in their order: all are there
  when a last one has come.
  """
  browser.execute_script("console.warn(arguments[0])", _LAST)
  end = time.monotonic() + LOGS
  found: list[str] = []
  while not (found and _LAST in found[-1]):
    assert time.monotonic() < end, f"no log after {LOGS} s: {found}"
    found += [
      line["message"]
      for line in browser.get_log("browser")
      if line["level"] in ("SEVERE", "WARNING")
    ]
    time.sleep(0.01)
  return found[:-1]


def _requests(browser: Any, page: str) -> list[str]:
  """Addresses that the page asked for, beside itself and what is in it.

  Chromium's own pages ask for some too.
  """
  events = [
    json.loads(line["message"])["message"]
    for line in browser.get_log("performance")
  ]
  asked = [
    event["params"]["request"]["url"]
    for event in events
    if event["method"] == "Network.requestWillBeSent"
    and event["params"]["documentURL"] == page
  ]
  return [url for url in asked if url != page and url[:5] != "data:"]


# Pictures that are not drawn or not described, what is wider than the window,
# and text that is hard to read. Text on a card stands on the card's colour.
_FAULTS = """
const [width, contrast] = arguments, found = [];
for (const img of document.images) {
  if (!(img.complete && img.naturalWidth > 0))
    found.push('not drawn: ' + img.alt);
  if (!img.alt) found.push('no alt: ' + img.src.slice(0, 40));
}
const across = document.documentElement.scrollWidth;
if (across > width) found.push(`${across} pixels wide in ${width}`);
const numbers = color => color.match(/[\\d.]+/g).map(Number);
const light = color => {
  const [r, g, b] = numbers(color).map(c => c / 255).map(
    c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = element => {
  for (; element; element = element.parentElement) {
    const color = getComputedStyle(element).backgroundColor;
    const [, , , alpha = 1] = numbers(color);
    if (alpha > 0) return color;
  }
  return 'rgb(255, 255, 255)';
};
const weak = new Set();
for (const element of document.body.querySelectorAll('*')) {
  const words = [...element.childNodes].some(
    node => node.nodeType == 3 && node.data.trim());
  if (!words || element.closest('title')) continue;
  const style = getComputedStyle(element);
  const color = element.closest('svg') ? style.fill : style.color;
  const [a, b] = [light(color), light(behind(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < contrast)
    weak.add(`contrast ${ratio.toFixed(1)}: ${element.tagName} ${color}`);
}
return [...found, ...weak];
"""
