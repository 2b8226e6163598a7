"""A Hugging Face Hub over loopback, with the few endpoints that `huggingface_hub` asks to download a model."""

from collections.abc import Iterator
import contextlib
import hashlib
import http.server
import json
from pathlib import Path
import re
import threading
import urllib.parse

# Every model has one commit.
COMMIT = hashlib.sha1(b"the only commit").hexdigest()
BRANCH = "main"
_INFO = re.compile(r"/api/models/([^/]+/[^/]+)/revision/(.+)$")
_TREE = re.compile(rf"/api/models/([^/]+/[^/]+)/tree/{COMMIT}(?:/.*)?$")
_FILE = re.compile(rf"/([^/]+/[^/]+)/resolve/{COMMIT}/(.+)$")


class Hub:
  """The server. `models` maps `owner/name` to a folder; `downloads` are the files that were asked for."""

  def __init__(self) -> None:
    self.models: dict[str, Path] = {}
    self.downloads: list[str] = []
    self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
    self._server.daemon_threads = True
    threading.Thread(target=self._server.serve_forever, daemon=True).start()

  @property
  def url(self) -> str:
    return f"http://127.0.0.1:{self._server.server_address[1]}"

  def close(self) -> None:
    self._server.shutdown()
    self._server.server_close()

  def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of what is at a path."""
    for pattern, reply in ((_INFO, self._info), (_TREE, self._tree), (_FILE, self._file)):
      match = pattern.match(path)
      if match:
        if match[1] not in self.models:
          return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "no such model"}, b""
        return reply(*match.groups())
    return 404, {}, b""

  def _info(self, name: str, revision: str) -> tuple[int, dict[str, str], bytes]:
    if revision not in (BRANCH, COMMIT):
      return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no such revision"}, b""
    siblings = [{"rfilename": path.name} for path in sorted(self.models[name].iterdir())]
    return _json({"_id": "1", "id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})

  def _tree(self, name: str) -> tuple[int, dict[str, str], bytes]:
    paths = sorted(self.models[name].iterdir())
    rows = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": _digest(p.read_bytes())} for p in paths]
    return _json(rows)

  def _file(self, name: str, file: str) -> tuple[int, dict[str, str], bytes]:
    path = self.models[name] / file
    if not path.is_file():
      return 404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "no such file"}, b""
    self.downloads.append(file)
    content = path.read_bytes()
    return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{_digest(content)}"'}, content

  def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
    hub = self

    class Handler(http.server.BaseHTTPRequestHandler):
      """One request."""

      def _serve(self) -> None:
        status, headers, body = hub.answer(urllib.parse.unquote(urllib.parse.urlparse(self.path).path))
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
          self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
          self.wfile.write(body)

      def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

      do_GET = do_HEAD = _serve

    return Handler


@contextlib.contextmanager
def running() -> Iterator[Hub]:
  hub = Hub()
  try:
    yield hub
  finally:
    hub.close()


def variables(hub: Hub, cache: Path) -> dict[str, str]:
  """The environment in which `huggingface_hub` takes this server for the Hub."""
  return {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}


def _json(content: object) -> tuple[int, dict[str, str], bytes]:
  return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _digest(content: bytes) -> str:
  return hashlib.sha1(content).hexdigest()
