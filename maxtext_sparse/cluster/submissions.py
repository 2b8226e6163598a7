"""Remembers what a sweep has submitted, in `DIR/submitted.json`, so that nothing is submitted twice."""

import datetime
import json
import os
from typing import Any

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.runs.files import replace_json

FORMAT = 1
SUBMITTING, SUBMITTED = "submitting", "submitted"
_FILE = "submitted.json"


class Submissions:
  """Maps workload names to the runs that were submitted under them. Each change is on disk before the next step."""

  def __init__(self, directory: str):
    """Reads the state of a sweep's folder.

    Raises:
      ConfigError: the file is not one of ours.
    """
    self._path = os.path.join(directory, _FILE)
    self.workloads: dict[str, dict[str, Any]] = _read(self._path)

  def status(self, workload: str) -> str | None:
    """Returns `submitted`, or `submitting` if the submission never reported back, or None if there was none."""
    return self.workloads[workload]["status"] if workload in self.workloads else None

  def has(self, workload: str, digest: str) -> bool:
    """Whether this config was submitted under the name, and not an earlier or later one of the same run."""
    return workload in self.workloads and bool(self.workloads[workload]["digest"] == digest)

  def begin(self, workload: str, **details: Any) -> None:
    """Notes that a submission starts. A crash from here on leaves it in doubt."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    self.workloads[workload] = {**details, "status": SUBMITTING, "time": now}
    self._write()

  def finish(self, workload: str) -> None:
    """Notes that the submission succeeded."""
    self.workloads[workload]["status"] = SUBMITTED
    self._write()

  def forget(self, workload: str) -> None:
    """Removes the entry: the submission failed or is to be repeated."""
    del self.workloads[workload]
    self._write()

  def _write(self) -> None:
    replace_json(self._path, {"format": FORMAT, "workloads": self.workloads}, indent=2, sort_keys=True)


def _read(path: str) -> dict[str, dict[str, Any]]:
  try:
    with open(path, encoding="utf-8") as file:
      content = json.load(file)
    written_format, workloads = content["format"], dict(content["workloads"])
  except FileNotFoundError:
    return {}
  except (OSError, KeyError, TypeError, ValueError) as error:  # ValueError: not UTF-8, not JSON, not pairs
    raise ConfigError(f"{path}: is not a list of submissions ({error}), look at it before you submit anything") from error
  if written_format != FORMAT:
    raise ConfigError(f"{path}: has format {written_format}, this version reads format {FORMAT}")
  return workloads
