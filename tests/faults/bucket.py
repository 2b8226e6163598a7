"""A bucket over loopback: an emulator of Google's storage, and a proxy in front of it that is slow and faulty.

Google's own clients, gcsfs and TensorStore reach it through environment variables, so MaxText, Orbax and the plugin run
as they do with a real bucket. What the emulator cannot show is said in `launch/README.md`.
"""

import base64
from collections.abc import Callable, Iterator, Mapping
import contextlib
import hashlib
import http.client
import http.server
import itertools
import json
from pathlib import Path
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

import pytest

NAME = "bucket"
URL = f"gs://{NAME}"
# Headers that belong to one connection, not to the message.
_HOP_HEADERS = {"connection", "transfer-encoding", "content-length", "host", "keep-alive"}

# What the proxy does to a request: "" passes it on, "503" answers in its place, "drop" closes the connection.
Fault = Callable[[int, str, str], str]


def variables(port: int) -> dict[str, str]:
  """The environment in which every client takes this port for Google's storage."""
  endpoint = f"http://localhost:{port}"
  return {
    "STORAGE_EMULATOR_HOST": endpoint,
    "TENSORSTORE_GCS_HTTP_URL": endpoint,
    "GOOGLE_CLOUD_PROJECT": "test",
  }


@contextlib.contextmanager
def emulator(log: Path, data: Path | None = None) -> Iterator[int]:
  """Runs a bucket; its port. It is empty and in memory, or holds what `fill` wrote into the folder `data`."""
  port = _free_port()
  where, memory = (["--data-dir", str(data)], []) if data else ([], ["--in-memory"])
  command = [sys.executable, "-m", "gcp_storage_emulator", *where, "start", "--quiet", *memory]
  with log.open("w") as output:
    server = subprocess.Popen(
      [*command, "--host=localhost", f"--port={port}", f"--default-bucket={NAME}"],
      stdout=output,
      stderr=subprocess.STDOUT,
    )
  try:
    _wait_for(port, log)
    yield port
  finally:
    server.kill()
    server.wait()


def fill(data: Path, contents: Mapping[str, bytes]) -> None:
  """Writes objects into a folder for `emulator`. An upload takes it longer with each object that is there already."""
  from gcp_storage_emulator.storage import Storage
  import google_crc32c

  storage = Storage(data_dir=str(data))
  storage.create_bucket(NAME, {"name": NAME})
  encode = lambda digest: base64.b64encode(digest).decode()
  for name, content in contents.items():
    storage._store.write_bytes(f"{NAME}/{name}", content)
    storage.objects.setdefault(NAME, {})[name] = {
      "kind": "storage#object",
      "name": name,
      "bucket": NAME,
      "generation": "1",
      "metageneration": "1",
      "contentType": "application/octet-stream",
      "timeCreated": "2026-01-01T00:00:00.000000Z",
      "updated": "2026-01-01T00:00:00.000000Z",
      "storageClass": "STANDARD",
      "size": len(content),
      "md5Hash": encode(hashlib.md5(content).digest()),
      "crc32c": encode(google_crc32c.Checksum(content).digest()),
    }
  storage._write_config_to_file()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
  """The port of a bucket for the tests of one module."""
  with emulator(tmp_path_factory.mktemp("emulator") / "log") as port:
    yield port


def objects(port: int, prefix: str = "") -> dict[str, int]:
  """Names and sizes of the objects in the bucket."""
  query = urllib.parse.urlencode({"prefix": prefix, "maxResults": 100_000})
  with urllib.request.urlopen(f"http://localhost:{port}/storage/v1/b/{NAME}/o?{query}") as reply:
    return {item["name"]: int(item["size"]) for item in json.load(reply).get("items", [])}


def content(port: int, name: str) -> bytes:
  """One object."""
  quoted = urllib.parse.quote(name, safe="")
  with urllib.request.urlopen(f"http://localhost:{port}/storage/v1/b/{NAME}/o/{quoted}?alt=media") as reply:
    data: bytes = reply.read()
    return data


def upload(port: int, name: str, content: bytes) -> None:
  """Writes one object."""
  query = urllib.parse.urlencode({"uploadType": "media", "name": name})
  address = f"http://localhost:{port}/upload/storage/v1/b/{NAME}/o?{query}"
  urllib.request.urlopen(urllib.request.Request(address, content, method="POST")).close()


def saved_steps(port: int, run: str) -> list[int]:
  """Steps of the finished checkpoints of a run."""
  marks = (name.split("/") for name in objects(port, f"{run}/checkpoints/") if name.endswith("/commit_success.txt"))
  return sorted(int(parts[-2]) for parts in marks if parts[-2].isdigit())


def events(port: int, run: str) -> list[dict]:
  """The records of a run's pruning events."""
  names = sorted(name for name in objects(port, f"{run}/sparsity/event_"))
  return [json.loads(content(port, name)) for name in names]


class Proxy:
  """Stands between the clients and the emulator. It counts requests, waits before each, and makes some of them fail."""

  def __init__(self, target: int, delay: float = 0.0, fault: Fault = lambda number, method, path: ""):
    self.num_requests = 0
    self.num_faults = 0
    self.fault = fault
    self._delay, self._target = delay, target
    self._numbers = itertools.count(1)
    self._lock = threading.Lock()
    self._server = http.server.ThreadingHTTPServer(("localhost", 0), self._handler())
    self._server.daemon_threads = True
    self.port: int = self._server.server_address[1]
    threading.Thread(target=self._server.serve_forever, daemon=True).start()

  def close(self) -> None:
    self._server.shutdown()
    self._server.server_close()

  def verdict(self, method: str, path: str) -> str:
    """Counts a request; the fault that it meets."""
    time.sleep(self._delay)
    with self._lock:
      self.num_requests = next(self._numbers)
      fault = self.fault(self.num_requests, method, path)
      self.num_faults += bool(fault)
    return fault

  def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    """The emulator's answer: status, headers, body. Addresses in it lead back to the proxy."""
    connection = http.client.HTTPConnection("localhost", self._target, timeout=60)
    try:
      connection.request(method, path, body, headers)
      reply = connection.getresponse()
      kept = {k: v for k, v in reply.getheaders() if k.lower() not in _HOP_HEADERS}
      own, other = f"localhost:{self.port}", f"localhost:{self._target}"
      return reply.status, {k: v.replace(other, own) for k, v in kept.items()}, reply.read()
    finally:
      connection.close()

  def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
    proxy = self

    class Handler(http.server.BaseHTTPRequestHandler):
      """One connection."""

      protocol_version = "HTTP/1.1"

      def _serve(self) -> None:
        body = self._body()
        fault = proxy.verdict(self.command, self.path)
        if fault == "drop":
          self.close_connection = True
          self.connection.shutdown(socket.SHUT_RDWR)
          return
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_HEADERS}
        if fault:
          status, headers, body = int(fault), {}, b"the proxy says no"
        else:
          status, headers, body = proxy.forward(self.command, self.path, headers, body)
        self.send_response(status)
        for name, value in headers.items():
          self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
          self.wfile.write(body)

      def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
          return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
          parts.append(self.rfile.read(size))
          self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

      def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

      do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _serve

    return Handler


def one_in_twenty(number: int, method: str, path: str) -> str:
  """Every twentieth request fails: by turns the answer is 503, or the connection closes before anything is done."""
  return "" if number % 20 else ("503" if number % 40 else "drop")


def _free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port: int = probe.getsockname()[1]
    return port


def _wait_for(port: int, log: Path) -> None:
  for _ in range(300):
    with contextlib.suppress(OSError), socket.create_connection(("localhost", port)):
      return
    time.sleep(0.1)
  raise AssertionError(f"the emulator did not start:\n{log.read_text()[-2000:]}")
