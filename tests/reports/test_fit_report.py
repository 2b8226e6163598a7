"""`fit --report`: every file is there and says what the fit says; the page needs nothing else."""

import csv
import hashlib
import json
from pathlib import Path
import re

import pytest
from typer.testing import CliRunner

from maxtext_sparse.cli import app
from maxtext_sparse.laws.runs_table import check_runs
from tests.laws.conftest import average_law, runs_of

# What the checklist of Li et al. (2025) asks for -> words of the answer.
CHECKLIST = {
  "Which form?": "A / N^alpha + B / D^beta + E",
  "Which parameters are fitted?": "A (loss x parameters^alpha)",
  "How many models, of which sizes, on how much data?": "30 runs",
  "Which points were left out, how are they weighted?": "None was left out",
  "Which loss?": "delta 0.001",
  "Which optimiser?": "at most 1000 iterations",
  "Which starts, and do they agree?": "100 of the grid",
  "Which bounds?": "A, B, E are positive",
  "How sure are the coefficients?": "30 resamples",
  "Does it extrapolate?": "the largest size (4.35e+08)",
  "Can it be repeated?": "seed 3",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
  """The folder of a report, its table, and what the command printed."""
  folder = tmp_path_factory.mktemp("report")
  table = folder / "RUNS.csv"
  check_runs(runs_of(average_law)).assign(loss=lambda t: t["loss"] * (1 + 0.003 * (-1.0) ** t.index)).to_csv(
    table, index=False
  )
  arguments = ["fit", str(table), "--report", str(folder / "out"), "--bootstrap", "30", "--seed", "3", "--json"]
  result = CliRunner().invoke(app, arguments)
  assert result.exit_code == 0, result.output
  return folder / "out", table, json.loads(result.stdout)


def test_the_command_names_files_that_exist(report):
  folder, _, content = report
  assert all(Path(path).is_file() for path in content["files"])
  assert {"report.md", "report.html", "fit.json"} <= {path.name for path in folder.iterdir()}


def test_every_point_of_the_checklist_is_answered(report):
  answers = dict(re.findall(r"^- \*\*(.*?)\*\* (.*)$", (report[0] / "report.md").read_text(), re.MULTILINE))
  for question, words in CHECKLIST.items():
    assert words in answers[question]
  page = (report[0] / "report.html").read_text()
  assert all(f"<dt>{question}</dt>" in page for question in CHECKLIST)


def test_json_holds_what_it_takes_to_repeat_the_fit(report):
  folder, table, content = report
  saved = json.loads((folder / "fit.json").read_text())
  assert saved == {name: value for name, value in content.items() if name != "files"}
  assert saved["provenance"]["sha256"] == hashlib.sha256(table.read_bytes()).hexdigest()
  assert saved["provenance"]["seed"] == 3 and saved["provenance"]["resamples"] == 30


def test_scale_is_held_out_too(report):
  held = json.loads((report[0] / "fit.json").read_text())["held_out_by_scale"]
  assert [entry["n"] for entry in held.values()] == [10, 5]
  assert all(0 < entry["mae"] < 0.05 for entry in held.values())


def test_profiles_have_their_minimum_at_the_fit(report):
  for profile in json.loads((report[0] / "fit.json").read_text())["profiles"].values():
    objective = profile["objective"]
    assert min(objective) == pytest.approx(1.0, abs=1e-6) and objective.index(min(objective)) == len(objective) // 2
    assert objective[0] > 1.01 and objective[-1] > 1.01


def test_tables_are_csv_too(report):
  with open(report[0] / "tables" / "runs.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 30 and list(rows[0])[:2] == ["run", "sparsity"]


def test_the_page_is_self_contained_and_fits_a_phone(report):
  page = (report[0] / "report.html").read_text()
  assert 'name="viewport"' in page and page.count("data:image/png;base64,") == 3
  assert not re.search(r'(?:src|href)="(?!data:)', page) and "http" not in page
  assert page.count("<table>") == page.count('<div class="table">')


def test_text_is_escaped(tmp_path):
  from maxtext_sparse.reports.document import DataTable, Document, Paragraph

  Document("<b>", [Paragraph("a < b & c"), DataTable("t", ("x|y",), [("<i>",)])]).write(str(tmp_path))
  page = (tmp_path / "report.html").read_text()
  assert "a &lt; b &amp; c" in page and "<i>" not in page
  assert "x\\|y" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--law", "all"], "is about one law"),
    (["--bootstrap", "0"], "must be at least 2"),
    (["--at", "A=1"], "fits nothing"),
  ],
)
def test_what_cannot_be_reported_is_one_line(report, tmp_path, options, message):
  result = CliRunner().invoke(app, ["fit", str(report[1]), "--report", str(tmp_path / "out"), *options])
  assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
