"""The rows of the tables in `bad_input/`, and what a command does with each. Run as a program, it prints the totals.

`python -m tests.cli.bad_rows` runs every row and counts the verdicts for each command.
"""

from collections import Counter
from collections.abc import Callable, Iterator
import os
from pathlib import Path
import re
import shlex
import tempfile
import time

from typer.testing import CliRunner

from maxtext_sparse.cli import app
from tests.cli.bad_files import write_files

TABLES = sorted((Path(__file__).parent / "bad_input").glob("*.txt"))
CLUSTER = "--cluster=c --project=my-project --zone=us-central2-b --tpu-type=v5p-8 --docker-image=a/b:1"
# The commands that take the arguments of a run and see the variables of this machine.
LOCAL = (
  "train",
  "run maxtext.trainers.pre_train.train_compile",
  "preflight --topology v5e-16",
  "params",
  "plan",
  "plan --twin",
)
REMOTE = ("launch command", f"launch xpk {CLUSTER}", f"launch xpk {CLUSTER} --dry-run")
# A word of the tables -> the commands that it stands for. Values are checked in one place, which four commands show.
COMMANDS = {"RUN": (*LOCAL, *REMOTE), "LOCAL": LOCAL, "VALUES": ("train", REMOTE[-1], "params", "plan")}
MOST_SECONDS = 2.0

# Verdicts.
REFUSED = "refused in one line that names it"
UNCLEAR = "refused otherwise"
TRACEBACK = "traceback"
ACCEPTED = "accepted"
WROTE = "wrote something"
SLOW = "slow"
VERDICTS = (REFUSED, UNCLEAR, TRACEBACK, ACCEPTED, WROTE, SLOW)


def all_rows() -> list[tuple[int, str, str]]:
  """(exit status, command line, what the line says) of each row, and of a row for several commands once for each."""
  return [row for path in TABLES for row in _read_table(path)]


def _read_table(path: Path) -> Iterator[tuple[int, str, str]]:
  for row in path.read_text(encoding="utf-8").splitlines():
    if row and not row.startswith("#"):
      status, line, says = row.split(" | ", 2)
      word = next((word for word in COMMANDS if word in line.split()), "")
      for one in [line.replace(word, command, 1) for command in COMMANDS[word]] if word else [line]:
        yield int(status), one, says


def run(line: str):
  """Runs a command line in this process."""
  words = shlex.split(line.replace("CLUSTER", CLUSTER))
  variables = [word for word in words if re.match(r"[A-Z_]+=", word) and words.index(word) == 0]
  environment = dict(word.split("=", 1) for word in variables)
  return CliRunner().invoke(app, words[len(variables) :], prog_name="maxtext-sparse", env=environment)


def verdict_on(status: int, says: str, result) -> str:
  """What a command did with a bad input that it should refuse with this exit status and this text."""
  if result.exception is not None and not isinstance(result.exception, SystemExit):
    return TRACEBACK
  if result.exit_code == 0:
    return ACCEPTED
  is_one_line = result.stdout == "" and result.stderr.count("\n") == 1
  names_it = re.search(".*".join(map(re.escape, says.split("..."))), result.stderr)
  begins_well = result.stderr.startswith("maxtext-sparse: error: ")
  return REFUSED if result.exit_code == status and is_one_line and names_it and begins_well else UNCLEAR


def judge(status: int, line: str, says: str, run_line: Callable = run) -> tuple[str, object]:
  """The verdict on a row in the working folder, and the result of the command."""
  before, began = contents(Path.cwd()), time.process_time()
  result = run_line(line)
  seconds = time.process_time() - began
  verdict = verdict_on(status, says, result)
  if verdict == REFUSED and contents(Path.cwd()) != before:
    verdict = WROTE
  return (SLOW if verdict == REFUSED and seconds > MOST_SECONDS else verdict), result


def contents(folder: Path) -> dict[Path, int]:
  """Every file with the time of its last change."""
  return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def command_of(line: str) -> str:
  """`train` of `M_STEPS=5 train steps=10`."""
  return next((word for word in shlex.split(line) if re.fullmatch(r"[a-z]+", word)), "(the group itself)")


def main() -> None:
  """Prints the totals."""
  totals: Counter[tuple[str, str]] = Counter()
  with tempfile.TemporaryDirectory() as folder:
    write_files(Path(folder))
    os.chdir(folder)
    for status, line, says in all_rows():
      totals[command_of(line), judge(status, line, says)[0]] += 1
    os.chdir("/")
  for command in sorted({command for command, _ in totals}):
    counts = [f"{totals[command, verdict]} {verdict}" for verdict in VERDICTS if totals[command, verdict]]
    print(f"{command}: {', '.join(counts)}")
  print("total: " + ", ".join(f"{sum(totals[key] for key in totals if key[1] == v)} {v}" for v in VERDICTS))


if __name__ == "__main__":
  main()
