"""Writes a sweep's folder and leaves the runs that have begun as they are."""

from collections.abc import Mapping, Sequence
import os
from typing import Any

from maxtext_sparse.config_files import parse_yaml
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.runs.files import check_writable, replace_text
from maxtext_sparse.sweeps.manifest import Manifest, manifest_path, read_manifest, Run
from maxtext_sparse.sweeps.state import as_of_now, has_begun, is_finished, is_local


def check_folder(directory: str) -> None:
  """Checks, before a sweep is made, that its folder can be written.

  Raises:
    ConfigError: it cannot, or it holds other files.
  """
  if not is_local(directory):
    raise ConfigError(f"--out={directory}: must be a folder of this machine; output_directory can be in a bucket")
  check_writable("--out", directory)
  if os.path.isdir(directory) and os.listdir(directory) and not os.path.exists(manifest_path(directory)):
    raise ConfigError(f"--out={directory}: has files that are not a sweep's, give another folder")


def replace_folder(manifest: Manifest, texts: Mapping[str, str]) -> None:
  """Writes the configs and the manifest. Files whose content stays the same are not touched.

  Args:
    manifest: what the folder is to hold.
    texts: name of each run -> content of its config file.

  Raises:
    ConfigError: a run that has begun would change, or the folder is not a sweep's. Then nothing is written.
  """
  directory = manifest.directory
  try:
    if os.path.exists(manifest_path(directory)):
      old = read_manifest(directory)
      changed, dropped = _changed(old, manifest), _dropped(old, manifest)
      # A bucket is asked only if something is to change.
      old = as_of_now(old) if changed or dropped else old
      _refuse_changes(old, manifest, texts, changed)
      _remove_leftovers(old, dropped)
    os.makedirs(os.path.join(directory, "runs"), exist_ok=True)
    for run in manifest.runs:
      _write(manifest.config_path(run), texts[run.name])
    # The manifest comes last, so that every run that it names has its config.
    _write(manifest_path(directory), manifest.as_text())
  except OSError as error:
    raise ConfigError(f"--out={directory}: cannot write there ({error.strerror}), choose another folder") from error


def _changed(old: Manifest, new: Manifest) -> list[Run]:
  """The runs that would get another config, another corpus or another folder."""
  after = {run.name: run.digest for run in new.runs}
  are_same_places = new.spec.get("corpus") == old.spec.get("corpus") and new.output_path == old.output_path
  return [run for run in old.runs if run.name in after and not (are_same_places and after[run.name] == run.digest)]


def _dropped(old: Manifest, new: Manifest) -> list[Run]:
  """The runs that the sweep file no longer has."""
  kept = {run.name for run in new.runs}
  return [run for run in old.runs if run.name not in kept]


def _refuse_changes(old: Manifest, new: Manifest, texts: Mapping[str, str], changed: Sequence[Run]) -> None:
  """Raises ConfigError if a run that has begun is among those that would change."""
  for run in changed:
    if not has_begun(old, run):
      continue
    state = "is finished" if is_finished(old, run) else "has begun"
    change = _difference(old, run, new, texts)
    raise ConfigError(f"run {run.name}: {state}, the sweep file now gives it {change}; restore it or give another --out")


def _difference(old: Manifest, run: Run, new: Manifest, texts: Mapping[str, str]) -> str:
  """The first thing that differs for a run, in words."""
  before, after = old.load_config(run), parse_yaml(texts[run.name])
  for key in sorted({*before, *after}):
    if before.get(key) != after.get(key):
      return f"{key}={_shown(after, key)} instead of {_shown(before, key)}"
  return "another corpus" if new.spec.get("corpus") != old.spec.get("corpus") else "another folder"


def _shown(config: Mapping[str, Any], key: str) -> str:
  return str(config[key]) if key in config else "(unset)"


def _remove_leftovers(old: Manifest, dropped: Sequence[Run]) -> None:
  """Removes the configs of runs that the sweep file no longer has. Runs that have begun keep theirs."""
  for run in dropped:
    if not has_begun(old, run) and os.path.exists(old.config_path(run)):
      os.remove(old.config_path(run))


def _write(path: str, text: str) -> None:
  """Replaces a file unless it has this content already."""
  if os.path.exists(path):
    with open(path, encoding="utf-8") as file:
      if file.read() == text:
        return
  replace_text(path, text)
