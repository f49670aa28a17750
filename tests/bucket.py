"""A Google Cloud Storage of one process: buckets in memory, by its JSON API.

It is what a file system of files is not: there are no folders, nothing can be
renamed or appended to, and an object appears whole when its upload ends. It
speaks enough of the API for gcsfs (which etils.epath uses), for TensorStore
(which Orbax uses) and for google-cloud-storage, so that all of them run as they
would run against the service; a rename or a copy is answered 400. See
https://cloud.google.com/storage/docs/json_api/v1.
"""

from __future__ import annotations

import base64
import email
import email.policy
import functools
import hashlib
import itertools
import json
import os
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Buckets:
  """Serves buckets while it is open: `with Buckets() as buckets: ...`.

  Attributes:
    url: of the server, on a free port.
    objects: bytes by "bucket/name".
    log: (method, what, "bucket/name") of each request, in order; `what` is
      "read", "write", "list", "delete", "about", "start" (of an upload in
      parts), "bucket" or "rename".
    refuse: called with method, what and name; an HTTP status from it answers
      the request, as of a full quota; None lets it pass.
  """

  def __init__(self, *names: str) -> None:
    self.names = set(names or ("test",))
    self.objects: dict[str, bytes] = {}
    self.log: list[tuple[str, str, str]] = []
    self.refuse: Callable[[str, str, str], int | None] = lambda *_: None
    self.lock = threading.Lock()
    self._about: dict[str, dict[str, Any]] = {}
    self._generations = itertools.count(time.time_ns() // 1000)
    self._uploads: dict[str, tuple[str, str | None, bytearray]] = {}

    class Handler(_Handler):
      buckets = self

    self._server = _Server(("127.0.0.1", 0), Handler)
    self.url = f"http://127.0.0.1:{self._server.server_port}"

  def __enter__(self) -> Buckets:
    threading.Thread(target=self._server.serve_forever, daemon=True).start()
    return self

  def __exit__(self, *error: object) -> None:
    self._server.shutdown()
    self._server.server_close()

  @property
  def environment(self) -> dict[str, str]:
    """What makes each of the clients come here, and ask for no password."""
    return {
      "STORAGE_EMULATOR_HOST": self.url,  # gcsfs, google-cloud-storage
      "FSSPEC_GCS_TOKEN": "anon",
      # gcsfs would ask what kind of bucket it is, by gRPC.
      "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
      "TENSORSTORE_GCS_HTTP_URL": self.url,
      "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
    }

  def done(self, what: str, name: str = "") -> list[str]:
    """Names of the requests of one kind, in order, that hold `name`."""
    return [n for _, done, n in list(self.log) if done == what and name in n]

  def put(
    self, name: str, content: bytes, only_if: str | None = None
  ) -> dict[str, Any] | None:
    """Stores an object; None: it is not of the generation that it must be."""
    with self.lock:
      if not self.matches(name, only_if):
        return None
      now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
      bucket, _, key = name.partition("/")
      generation = str(next(self._generations))
      self.objects[name] = content
      self._about[name] = {
        "kind": "storage#object",
        "id": f"{name}/{generation}",
        "name": key,
        "bucket": bucket,
        "generation": generation,
        "metageneration": "1",
        "size": str(len(content)),
        "contentType": "application/octet-stream",
        "storageClass": "STANDARD",
        "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
        "etag": generation,
        "timeCreated": now,
        "updated": now,
      }
      return self._about[name]

  def about(self, name: str) -> dict[str, Any]:
    return self._about[name]

  def matches(self, name: str, only_if: str | None) -> bool:
    """Whether an object is of a generation; 0: it is not there."""
    if only_if is None:
      return True
    there = self._about[name]["generation"] if name in self.objects else "0"
    return there == only_if

  def start(self, name: str, only_if: str | None) -> str:
    with self.lock:
      upload = str(next(self._generations))
      self._uploads[upload] = name, only_if, bytearray()
      return upload

  def upload(self, upload: str) -> tuple[str, str | None, bytearray]:
    return self._uploads[upload]

  def end(self, upload: str) -> None:
    del self._uploads[upload]


class _Server(ThreadingHTTPServer):
  daemon_threads = True

  def handle_error(self, request: Any, client_address: Any) -> None:
    # gcsfs asks two things at once, and hangs up on the slower.
    if not isinstance(sys.exception(), ConnectionError):
      super().handle_error(request, client_address)


@functools.cache
def running() -> Buckets:
  """Serves "test" to this process to its end, and to those that it starts.

  There is one, as clients keep the address that they saw first; so tests write
  below names of their own.
  """
  buckets = Buckets().__enter__()
  os.environ.update(buckets.environment)
  return buckets


# An HTTP status, headers and content.
Answer = tuple[int, dict[str, str], bytes]


def _answer(content: bytes = b"", status: int = 200, **headers: str) -> Answer:
  return status, headers, content


def _json(answer: Any, status: int = 200) -> Answer:
  content = json.dumps(answer).encode()
  return _answer(content, status, Content_Type="application/json")


def _error(status: int, message: str) -> Answer:
  return _json({"error": {"code": status, "message": message}}, status)


class _Handler(BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"  # connections stay open
  buckets: Buckets

  def log_message(self, *_: object) -> None:
    pass

  def _do(self) -> None:
    status, headers, content = self._answer()
    self.send_response(status)
    for key, value in headers.items():
      self.send_header(key.replace("_", "-"), value)
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  do_GET = do_POST = do_PUT = do_DELETE = _do  # noqa: N815 - http.server's

  def _answer(self) -> Answer:
    self.content = self._content()
    split = urllib.parse.urlsplit(self.path)
    self.query = dict(urllib.parse.parse_qsl(split.query))
    # .../v1/b/BUCKET/o/NAME, with slashes in names as %2F.
    parts = [urllib.parse.unquote(part) for part in split.path.split("/")]
    parts = parts[parts.index("v1") + 1 :]
    bucket, what = parts[1], self._what(parts, "/upload/" in split.path)
    name = parts[3] if len(parts) > 3 else self._uploaded(what)
    self.buckets.log.append((self.command, what, f"{bucket}/{name}"))
    if status := self.buckets.refuse(self.command, what, f"{bucket}/{name}"):
      return _error(status, "refused")
    if bucket not in self.buckets.names:
      return _error(404, "The specified bucket does not exist.")
    return getattr(self, f"_{what}")(bucket, f"{bucket}/{name}")

  def _what(self, parts: list[str], upload: bool) -> str:
    if upload:
      kind = self.query.get("uploadType")
      first = kind == "resumable" and "upload_id" not in self.query
      return "start" if first else "write"
    if {"rewriteTo", "moveTo", "copyTo", "compose"} & set(parts[4:]):
      return "rename"
    if len(parts) < 4:
      return "list" if parts[2:] == ["o"] else "bucket"
    if self.command == "DELETE":
      return "delete"
    return "read" if self.query.get("alt") == "media" else "about"

  def _content(self) -> bytes:
    if "chunked" not in self.headers.get("Transfer-Encoding", ""):
      return self.rfile.read(int(self.headers.get("Content-Length", 0)))
    content = b""
    while size := int(self.rfile.readline().split(b";")[0], 16):
      content += self.rfile.read(size)
      self.rfile.readline()
    self.rfile.readline()
    return content

  def _uploaded(self, what: str) -> str:
    """The name of the object that an upload is of."""
    if "upload_id" in self.query:
      name = self.buckets.upload(self.query["upload_id"])[0]
      return name.partition("/")[2]
    if what == "start" and "name" not in self.query:
      return json.loads(self.content)["name"]
    if what == "write" and "name" not in self.query:
      return self._parts()[0]["name"]
    return self.query.get("name", "")

  def _bucket(self, bucket: str, name: str) -> Answer:
    return _json({"kind": "storage#bucket", "id": bucket, "name": bucket})

  def _rename(self, bucket: str, name: str) -> Answer:
    return _error(400, f"{name}: nothing is renamed or copied here")

  def _start(self, bucket: str, name: str) -> Answer:
    upload = self.buckets.start(name, self.query.get("ifGenerationMatch"))
    return _answer(
      Location=f"{self.buckets.url}/upload/storage/v1/b/{bucket}/o"
      f"?uploadType=resumable&upload_id={upload}"
    )

  def _write(self, bucket: str, name: str) -> Answer:
    only_if = self.query.get("ifGenerationMatch")
    if "upload_id" in self.query:
      return self._part(self.query["upload_id"])
    content = self.content
    if self.query["uploadType"] == "multipart":
      _, content = self._parts()
    return self._stored(name, content, only_if)

  def _parts(self) -> tuple[dict[str, Any], bytes]:
    boundary = email.message_from_string(
      f"Content-Type: {self.headers['Content-Type']}\n\n",
      policy=email.policy.HTTP,
    ).get_boundary()
    # "--X <head> <blank> {JSON} --X <head> <blank> <content> --X--".
    mark = f"--{boundary}".encode()
    first, second = self.content.split(mark, 2)[1:]
    gap = b"\r\n\r\n" if b"\r\n\r\n" in second else b"\n\n"
    content = second.split(gap, 1)[1]
    end = content.rindex((b"\r\n" if b"\r" in gap else b"\n") + mark)
    return json.loads(first.split(gap, 1)[1]), content[:end]

  def _part(self, upload: str) -> Answer:
    if self.command == "DELETE":
      self.buckets.end(upload)
      return _answer(status=499)
    name, only_if, there = self.buckets.upload(upload)
    # "bytes 0-99/200", "bytes 0-99/*" (more will come) or "bytes */200".
    place = self.headers.get("Content-Range", f"bytes 0-/{len(self.content)}")
    span, _, total = place.removeprefix("bytes ").partition("/")
    if span != "*":
      start = int(span.split("-")[0])
      there[start:] = self.content
    if total != str(len(there)):
      came = {"Range": f"bytes=0-{len(there) - 1}"} if there else {}
      return 308, came, b""
    self.buckets.end(upload)
    return self._stored(name, bytes(there), only_if)

  def _stored(self, name: str, content: bytes, only_if: str | None) -> Answer:
    about = self.buckets.put(name, content, only_if)
    if about is None:
      return _error(412, f"{name}: ifGenerationMatch={only_if}")
    return _json(about)

  def _list(self, bucket: str, name: str) -> Answer:
    prefix = self.query.get("prefix", "")
    delimiter = self.query.get("delimiter", "")
    start, stop = self.query.get("startOffset"), self.query.get("endOffset")
    most = int(self.query.get("maxResults", 1000))
    after = self.query.get("pageToken", "")
    items, prefixes = [], []
    with self.buckets.lock:
      for full in sorted(self.buckets.objects):
        at, _, key = full.partition("/")
        if at != bucket or not key.startswith(prefix):
          continue
        if (start and key < start) or (stop and key >= stop):
          continue
        rest = key[len(prefix) :]
        if delimiter and delimiter in rest:
          key = prefix + rest.split(delimiter)[0] + delimiter
          if key > after and key not in prefixes:
            prefixes.append(key)
        elif key > after:
          items.append(self.buckets.about(full))
    names = sorted([*prefixes, *(item["name"] for item in items)])
    answer: dict[str, Any] = {"kind": "storage#objects"}
    if len(names) > most:
      answer["nextPageToken"] = last = names[most - 1]
      items = [item for item in items if item["name"] <= last]
      prefixes = [key for key in prefixes if key <= last]
    return _json(answer | {"items": items, "prefixes": prefixes})

  def _about(self, bucket: str, name: str) -> Answer:
    if name not in self.buckets.objects:
      return _error(404, f"No such object: {name}")
    return _json(self.buckets.about(name))

  def _delete(self, bucket: str, name: str) -> Answer:
    with self.buckets.lock:
      if name not in self.buckets.objects:
        return _error(404, f"No such object: {name}")
      if not self.buckets.matches(name, self.query.get("ifGenerationMatch")):
        return _error(412, f"{name}: another generation")
      del self.buckets.objects[name]
    return _answer(status=204)

  def _read(self, bucket: str, name: str) -> Answer:
    with self.buckets.lock:
      if name not in self.buckets.objects:
        return _error(404, f"No such object: {name}")
      content = self.buckets.objects[name]
      generation = self.buckets.about(name)["generation"]
    if self.query.get("ifGenerationNotMatch") == generation:
      return _answer(status=304, x_goog_generation=generation)
    if not self.buckets.matches(name, self.query.get("ifGenerationMatch")):
      return _error(412, f"{name}: another generation")
    span, size = self.headers.get("Range"), len(content)
    headers = {"x_goog_generation": generation, "ETag": generation}
    if span is None:
      return _answer(content, **headers)
    first, _, last = span.removeprefix("bytes=").partition("-")
    start = int(first) if first else size - int(last)
    stop = min(int(last) + 1 if first and last else size, size)
    if start >= size:
      return _error(416, f"{name} has {size} bytes")
    headers["Content_Range"] = f"bytes {start}-{stop - 1}/{size}"
    return _answer(content[start:stop], 206, **headers)
