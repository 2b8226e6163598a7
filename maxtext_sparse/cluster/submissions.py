"""What a sweep has submitted, `DIR/submitted.json`, so that nothing is submitted twice."""

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
  """Workload names and the runs that they are. Each change is on disk before the next step."""

  def __init__(self, directory: str):
    """Reads the state of a sweep's folder.

    Raises:
      ConfigError: the file is not one of ours.
    """
    self._path = os.path.join(directory, _FILE)
    self.workloads: dict[str, dict[str, Any]] = _read(self._path)

  def status(self, workload: str) -> str | None:
    """`submitted`, `submitting` where a submission did not come back, None where there was none."""
    return self.workloads[workload]["status"] if workload in self.workloads else None

  def begin(self, workload: str, **details: Any) -> None:
    """Before the submission: from here on, a crash leaves it in doubt."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    self.workloads[workload] = {**details, "status": SUBMITTING, "time": now}
    self._write()

  def finish(self, workload: str) -> None:
    """After it."""
    self.workloads[workload]["status"] = SUBMITTED
    self._write()

  def forget(self, workload: str) -> None:
    """It did not happen, or shall happen again."""
    del self.workloads[workload]
    self._write()

  def _write(self) -> None:
    replace_json(self._path, {"format": FORMAT, "workloads": self.workloads}, indent=2, sort_keys=True)


def _read(path: str) -> dict[str, dict[str, Any]]:
  try:
    with open(path, encoding="utf-8") as file:
      content = json.load(file)
    if content["format"] != FORMAT:
      raise ConfigError(f"{path}: format {content['format']}, this version reads format {FORMAT}")
    return dict(content["workloads"])
  except FileNotFoundError:
    return {}
  except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
    raise ConfigError(f"{path}: not a list of submissions ({error}), look at it before you submit anything") from error
