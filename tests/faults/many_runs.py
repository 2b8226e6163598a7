"""A study of many finished runs in a bucket that answers a listing in pages, as Google's does."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import json
from pathlib import Path
import urllib.parse

import yaml

from maxtext_sparse.runs.record import Plan
from maxtext_sparse.schedule import Schedule
from maxtext_sparse.sweeps.make import make
from maxtext_sparse.sweeps.manifest import Manifest, read_manifest, Run
from tests.faults import bucket
from tests.sweeps.conftest import TINY

# The most that Google's storage tells in one answer.
PAGE = 1000
OUTPUT = f"{bucket.URL}/study"
_CHECKPOINT = (
  "commit_success.txt",
  "items/manifest.ocdbt",
  "items/_METADATA",
  "items/d/0a1b",
  "iter/process_0-of-1.json",
)


class PagedProxy(bucket.Proxy):
  """A proxy that cuts the emulator's listings, which have no pages. It keeps them, because nothing is written here."""

  def __init__(self, target: int, delay: float):
    super().__init__(target, delay)
    self._listings: dict[str, list[dict]] = {}

  def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    parts = urllib.parse.urlsplit(path)
    if method != "GET" or not parts.path.endswith("/o"):
      return super().forward(method, path, headers, body)
    query = dict(urllib.parse.parse_qsl(parts.query))
    assert "delimiter" not in query, "a listing with folders is not kept here"
    prefix, start = query.get("prefix", ""), int(query.get("pageToken", 0))
    if prefix not in self._listings:
      asked = f"{parts.path}?{urllib.parse.urlencode({'prefix': prefix})}"
      self._listings[prefix] = json.loads(super().forward(method, asked, headers, body)[2]).get("items", [])
    items = self._listings[prefix]
    end = start + min(PAGE, int(query.get("maxResults", PAGE)))
    page = {"kind": "storage#objects", "items": items[start:end]} | (
      {"nextPageToken": str(end)} if end < len(items) else {}
    )
    return 200, {"Content-Type": "application/json"}, json.dumps(page).encode()


def write_spec(folder: Path, num_runs: int) -> Path:
  """A sweep file over a tiny model: 100 schedules for each sparsity, and a trunk."""
  assert num_runs % 100 == 0
  tenths = [round(0.05 * number, 2) for number in range(1, 11)]
  sparsities = [round(0.95 - 0.02 * number, 2) for number in range(num_runs // 100)]
  axes = {"sparsity": sparsities, "gmp_dense_fraction": tenths, "gmp_prune_fraction": tenths}
  (folder / "tiny.yml").write_text(yaml.safe_dump(TINY))
  spec = {"name": "many", "base": "tiny.yml", "trunk": True, "output_directory": OUTPUT, "axes": axes}
  (folder / "many.yml").write_text(yaml.safe_dump(spec))
  return folder / "many.yml"


@contextlib.contextmanager
def finished_study(folder: Path, num_runs: int, delay: float) -> Iterator[tuple[Manifest, PagedProxy]]:
  """A study of so many runs, all of them finished, and the proxy before their bucket."""
  manifest = make(str(write_spec(folder, num_runs)), str(folder / "study"))
  bucket.fill(folder / "data", objects_of(manifest))
  with bucket.emulator(folder / "emulator.log", folder / "data") as port:
    proxy = PagedProxy(port, delay)
    try:
      yield read_manifest(manifest.directory), proxy
    finally:
      proxy.close()


def objects_of(manifest: Manifest) -> dict[str, bytes]:
  """What all runs of a sweep leave in the bucket when they are finished, by object name."""
  top = manifest.output_path.removeprefix(f"{bucket.URL}/")
  return {f"{top}/{run.name}/{name}": text.encode() for run in manifest.runs for name, text in _files_of(run).items()}


def loss_of(run: Run) -> float:
  """A loss by which the run is recognised."""
  return 2.0 + int(run.digest[:6], 16) / 1e8


def _files_of(run: Run) -> Mapping[str, str]:
  """Two checkpoints, two files of metrics, and a record with three events."""
  last = run.steps - 1
  saved = {f"checkpoints/{step}/{name}": "x" for step in (0, last) for name in _CHECKPOINT}
  rows = [{"step": float(step), "learning/loss": 4.0, "pruning/density": 0.25} for step in (last - 1, last)]
  rows.append({"step": float(last), "eval/avg_loss": loss_of(run)})
  metrics = {
    "metrics/metrics_step_000000_to_step_000000.txt": json.dumps({"step": 0.0, "learning/loss": 6.0}) + "\n",
    f"metrics/metrics_step_000001_to_step_{last:06}.txt": "".join(json.dumps(row) + "\n" for row in rows),
  }
  events = (4, 8, 12)
  plan = Plan(Schedule(run.steps, events, (0.75, 0.5, 0.25)), ("a",), run.num_prunable)
  record = {"sparsity/schedule.json": json.dumps(dataclasses.asdict(plan)), "sparsity/config.json": "{}"}
  for step, kept in zip(events, plan.schedule.keep_counts(run.num_prunable), strict=True):
    event = {"step": step, "density": 0.5, "nonzero_prunable": kept, "threshold": 0.1, "matrices": {}, "active_sum": step}
    record[f"sparsity/event_{step:08d}.json"] = json.dumps(event)
  return saved | metrics | record
