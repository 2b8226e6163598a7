"""What the messages advise works: whoever follows the advice is not refused again.

`advice.txt` has a refused command line, what the message advises, and the line that follows the advice.
"""

from pathlib import Path

import pytest

from tests.cli.bad_files import write_files
from tests.cli.bad_rows import CLUSTER, run

WHERE = "run_name=x base_output_directory=gs://b/o"
# First word of a line -> what it stands for.
BEGINNINGS = {
  "RUN": f"launch command good.yml {WHERE}",
  "SUBMIT": f"launch xpk good.yml {WHERE} {CLUSTER} --dry-run",
  "PLAN": "plan --sparsity 0.5",
  "FIT": "fit RUNS.csv --starts 1 --bootstrap 2",
  "PREDICT": "predict RUNS.csv --starts 1 --bootstrap 2",
  "RECOMMEND": "recommend RUNS.csv --starts 1 --bootstrap 2",
}
NO_XPK = "xpk on the PATH: no such program"
LINES = (Path(__file__).parent / "advice.txt").read_text(encoding="utf-8").splitlines()
ROWS = [row.split(" | ") for row in LINES if not row.startswith("#")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  made = tmp_path_factory.mktemp("advice")
  write_files(made)
  return made


def whole(line: str) -> str:
  first, _, rest = line.partition(" ")
  return f"{BEGINNINGS.get(first, first)} {rest}".replace("WHERE", WHERE)


@pytest.mark.parametrize(("refused", "advice", "accepted"), ROWS)
def test_the_advice_of_a_message_is_accepted(folder, monkeypatch, refused, advice, accepted):
  monkeypatch.chdir(folder)
  monkeypatch.setenv("PATH", "")  # xpk is looked for when all else is right, and takes half a minute to start
  told = run(whole(refused))
  assert told.exit_code == 2 and advice in told.stderr, told.output
  followed = run(whole(accepted))
  assert followed.exit_code == 0 or NO_XPK in followed.stderr, followed.output
