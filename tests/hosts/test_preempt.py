"""Notices: signals, and a metadata server that is asked as Google's is."""

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from p3d_jax.hosts import preempt

ANSWERS = {"preempted": "FALSE", "maintenance-event": "NONE"}
ASKED = [0]


class Metadata(http.server.BaseHTTPRequestHandler):
  """Answers as the metadata server does, which refuses what has no header."""

  def do_GET(self) -> None:  # noqa: N802
    name = self.path.removeprefix("/computeMetadata/v1/instance/")
    known = self.headers["Metadata-Flavor"] == "Google" and name in ANSWERS
    self.send_response(200 if known else 403)
    self.end_headers()
    self.wfile.write(ANSWERS.get(name, "").encode())
    ASKED[0] += 1

  def log_message(self, *words: object) -> None:
    pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
  with http.server.ThreadingHTTPServer(("localhost", 0), Metadata) as found:
    threading.Thread(target=found.serve_forever, daemon=True).start()
    name = f"localhost:{found.server_port}"
    monkeypatch.setenv("GCE_METADATA_HOST", name)
    yield name
    found.shutdown()


def asked(times: int) -> None:
  """Waits until the server has been asked so often."""
  before, until = ASKED[0], time.monotonic() + 10
  while ASKED[0] < before + 2 * times:  # it is asked two things
    assert time.monotonic() < until
    time.sleep(0.01)


def test_sigterm_is_a_notice_and_a_later_one_ends() -> None:
  before = signal.getsignal(signal.SIGTERM)
  with preempt.Notice() as notice:
    assert not notice.given
    os.kill(os.getpid(), signal.SIGTERM)
    assert notice.given
    os.kill(os.getpid(), signal.SIGTERM)  # at once: the same notice
  assert signal.getsignal(signal.SIGTERM) is before
  script = (
    "import os, signal, time\n"
    "from p3d_jax.hosts import preempt\n"
    "preempt.SAME = 0.2\n"
    "with preempt.Notice() as notice:\n"
    "  os.kill(os.getpid(), signal.SIGTERM)\n"
    "  os.kill(os.getpid(), signal.SIGTERM)\n"
    "  print('twice', notice.given, flush=True)\n"
    "  time.sleep(0.3)\n"
    "  os.kill(os.getpid(), signal.SIGTERM)\n"
    "  time.sleep(10)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True
  )
  assert done.stdout == "twice True\n"
  assert done.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
  ("name", "answer", "goes"),
  [
    ("preempted", "FALSE", False),
    ("preempted", "TRUE", True),
    ("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE", False),
    ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", True),
  ],
)
def test_what_the_metadata_server_says(
  name: str,
  answer: str,
  goes: bool,
  server: str,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(preempt, "SECONDS", 0.01)
  with preempt.Notice() as notice:
    asked(2)
    assert not notice.given
    monkeypatch.setitem(ANSWERS, name, answer)
    assert preempt.going(server) is goes
    until = time.monotonic() + (10 if goes else 0.2)
    while not notice.given and time.monotonic() < until:
      time.sleep(0.01)
    assert notice.given is goes


def test_what_was_announced_before_is_no_notice(
  server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  """A run that was started again would save and end for an hour."""
  name = "maintenance-event"
  monkeypatch.setattr(preempt, "SECONDS", 0.01)
  monkeypatch.setitem(ANSWERS, name, "TERMINATE_ON_HOST_MAINTENANCE")
  with preempt.Notice() as notice:
    asked(4)
    assert not notice.given
    monkeypatch.setitem(ANSWERS, name, "NONE")
    asked(4)
    monkeypatch.setitem(ANSWERS, name, "TERMINATE_ON_HOST_MAINTENANCE")
    until = time.monotonic() + 10
    while not notice.given and time.monotonic() < until:
      time.sleep(0.01)
    assert notice.given


def test_a_proxy_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
  """It would answer with a page of its own, which is no notice."""
  with http.server.ThreadingHTTPServer(("localhost", 0), Metadata) as proxy:
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    for name in ("http_proxy", "HTTP_PROXY"):
      monkeypatch.setenv(name, f"http://localhost:{proxy.server_port}")
    monkeypatch.setattr(Metadata, "do_GET", _page)
    # Where nobody listens: what is heard comes of the proxy.
    assert preempt.going("127.0.0.2:1") is False
    proxy.shutdown()


def _page(self: http.server.BaseHTTPRequestHandler) -> None:
  self.send_response(200)
  self.end_headers()
  self.wfile.write(b"<html>Who are you?</html>")


def test_a_server_that_says_nothing_of_http_says_nothing() -> None:
  with socket.create_server(("localhost", 0)) as server:
    port = server.getsockname()[1]

    def answer() -> None:
      for _ in ANSWERS:
        link, _ = server.accept()
        with link:
          link.recv(4096)
          link.sendall(b"what?\r\n")

    threading.Thread(target=answer, daemon=True).start()
    assert preempt.going(f"localhost:{port}") is False


def test_a_server_that_is_not_there_says_nothing() -> None:
  assert preempt.going("localhost:1") is False


def test_elsewhere_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.delenv("GCE_METADATA_HOST", raising=False)
  monkeypatch.setattr(preempt, "_MAKER", preempt.pathlib.Path("/no/such/file"))
  assert preempt.metadata_server() is None
