"""A study of many finished runs in a bucket that answers a listing in pages, as Google's does."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import hashlib
import itertools
import json
from pathlib import Path
import urllib.parse

import yaml

from maxtext_sparse.runs.record import Plan
from maxtext_sparse.schedule import Schedule
from maxtext_sparse.sweeps.manifest import config_text, Manifest, Run
from maxtext_sparse.sweeps.writing import replace_folder
from tests.faults import bucket
from tests.sweeps.conftest import TINY

# The most that Google's storage tells in one answer.
PAGE = 1000
OUTPUT = f"{bucket.URL}/study"
# So long that the shortest pruning phase has an event.
LENGTH = {"steps": 1000}
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
  (folder / "tiny.yml").write_text(yaml.safe_dump(TINY))
  spec = {
    "name": "many",
    "base": "tiny.yml",
    "trunk": True,
    "output_directory": OUTPUT,
    "set": LENGTH,
    "axes": _axes(num_runs),
  }
  (folder / "many.yml").write_text(yaml.safe_dump(spec))
  return folder / "many.yml"


@contextlib.contextmanager
def finished_study(folder: Path, num_runs: int, delay: float) -> Iterator[tuple[Manifest, PagedProxy]]:
  """A study of so many runs, all of them finished, and the proxy before their bucket."""
  manifest = write_study(str(folder / "study"), num_runs)
  bucket.fill(folder / "data", objects_of(manifest))
  with bucket.emulator(folder / "emulator.log", folder / "data") as port:
    proxy = PagedProxy(port, delay)
    try:
      yield manifest, proxy
    finally:
      proxy.close()


def write_study(directory: str, num_runs: int) -> Manifest:
  """The folder of the sweep as `sweep make` writes it, but with sizes of a model that nobody has built."""
  runs, texts = [], {}
  sizes = LENGTH | {"num_prunable": 10_000, "batch_tokens": 512, "flops_per_token": 6e4, "num_events": 3}
  for values in itertools.product(*_axes(num_runs).values()):
    axes = dict(zip(_axes(num_runs), values, strict=True))
    name = "many-s{:02.0f}-d{:02.0f}-p{:02.0f}".format(*(100 * value for value in values))
    texts[name] = config_text(
      TINY | LENGTH | axes | {"run_name": name, "base_output_directory": OUTPUT, "gcs_metrics": True}
    )
    digest = hashlib.sha256(texts[name].encode()).hexdigest()
    runs.append(Run(name, "run", f"runs/{name}.yml", trunk=None, branch_step=None, digest=digest, axes=axes, **sizes))
  manifest = Manifest(directory, "many", OUTPUT, tuple(runs), {"devices": 1})
  replace_folder(manifest, texts)
  return manifest


def _axes(num_runs: int) -> dict[str, list[float]]:
  assert num_runs % 100 == 0
  twentieths = [round(0.05 * number, 2) for number in range(1, 11)]
  sparsities = [round(0.95 - 0.02 * number, 2) for number in range(num_runs // 100)]
  return {"sparsity": sparsities, "gmp_dense_fraction": twentieths, "gmp_prune_fraction": twentieths}


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
