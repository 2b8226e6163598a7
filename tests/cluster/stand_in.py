"""A cluster in a folder: a program in the place of xpk that notes what it is asked to create.

The real xpk answers dry runs. It also makes the JobSets of the workloads that are created, so what a test executes is
what xpk would hand to Kubernetes.
"""

from pathlib import Path
from typing import Any

import yaml

# For both pieces of bash that `Cluster.behave` takes: this xpk, or the command that called it, is killed.
KILL_XPK, KILL_CALLER = "kill -9 $$", "kill -9 $PPID"


class Cluster:
  """What a cluster knows about its workloads.

  Attributes:
    xpk: the program to give as xpk.
  """

  def __init__(self, folder: Path, xpk_path: str, with_jobsets: bool = False):
    """Makes an empty cluster.

    Args:
      folder: a new folder for it.
      xpk_path: the real xpk.
      with_jobsets: whether to keep the JobSet of each workload, which takes the real xpk seconds to make.
    """
    (folder / "workloads").mkdir(parents=True)
    self._folder, self._xpk_path, self._with_jobsets = folder, xpk_path, with_jobsets
    self.xpk = folder / "xpk"
    self.behave()

  def behave(self, before: str = "", after: str = "") -> None:
    """Sets two pieces of bash that run before and after the cluster accepts a workload, whose name is in `$name`."""
    self.xpk.write_text(
      _SCRIPT.format(xpk=self._xpk_path, folder=self._folder, make=self._make, before=before, after=after)
    )
    self.xpk.chmod(0o755)

  @property
  def accepted(self) -> list[str]:
    """All workloads that were ever created, in order; one that was deleted and created again comes twice."""
    log = self._folder / "accepted"
    return log.read_text(encoding="utf-8").split() if log.exists() else []

  def accept(self, name: str) -> None:
    """Somebody else creates a workload."""
    self._workload(name).touch()

  def delete(self, name: str) -> None:
    """`xpk workload delete`."""
    self._workload(name).unlink()

  def jobset(self, name: str) -> dict[str, Any]:
    """The JobSet of a workload."""
    jobset: dict[str, Any] = yaml.safe_load(self._workload(name).read_text(encoding="utf-8"))
    return jobset

  @property
  def _make(self) -> str:
    """Bash that writes the JobSet of the workload into the file `$new`."""
    if not self._with_jobsets:
      return 'touch "$new"'
    dry_run = "--dry-run --skip-validation"
    return f'HOME={self._folder} {self._xpk_path} "$@" {dry_run} --output-manifest-file="$new" > /dev/null || exit 1'

  def _workload(self, name: str) -> Path:
    return self._folder / "workloads" / f"{name}.yaml"


_SCRIPT = """#!/bin/bash
for word in "$@"; do
  case "$word" in
    --dry-run) exec {xpk} "$@" ;;
    --workload=*) name="${{word#*=}}" ;;
  esac
done
if [ -e "{folder}/workloads/$name.yaml" ]; then
  echo "[XPK] $name already exists, do you want to overwrite it? (y/N):"
  exit 1
fi
new="{folder}/$name.new"
{make}
{before}
mv "$new" "{folder}/workloads/$name.yaml" && echo "$name" >> {folder}/accepted
{after}
exit 0
"""
