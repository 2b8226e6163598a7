"""A cluster in a folder: a program in the place of xpk that notes what it is asked to create.

The real xpk answers dry runs.
"""

from pathlib import Path

# Bash for `Cluster.behave`: the command that called xpk is killed.
KILL_CALLER = "kill -9 $PPID"


class Cluster:
  """What a cluster knows about its workloads.

  Attributes:
    xpk: the program to give as xpk.
  """

  def __init__(self, folder: Path, xpk_path: str):
    """Makes an empty cluster in a new folder; `xpk_path` is the real xpk."""
    (folder / "workloads").mkdir(parents=True)
    self._folder, self._xpk_path = folder, xpk_path
    self.xpk = folder / "xpk"
    self.behave()

  def behave(self, before: str = "", after: str = "") -> None:
    """Sets two pieces of bash that run before and after the cluster accepts a workload, whose name is in `$name`."""
    script = _SCRIPT.format(xpk=self._xpk_path, folder=self._folder, before=before, after=after)
    self.xpk.write_text(script, encoding="utf-8")
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
{before}
touch "{folder}/workloads/$name.yaml" && echo "$name" >> {folder}/accepted
{after}
"""
