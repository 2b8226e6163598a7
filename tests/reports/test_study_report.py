"""`sweep report`: a study's runs, curves, law and frontier on one page; what it cannot give is said."""

import json
from pathlib import Path
import re

import pytest
from typer.testing import CliRunner

from maxtext_sparse.cli import app
from maxtext_sparse.laws.runs_table import read_runs
from maxtext_sparse.sweeps.make import make
from tests.sweeps.conftest import write_spec  # noqa: F401 (a fixture)


def pruning_metrics(num_prunable, density):
  counts = {"prunable": num_prunable, "nonzero_prunable": density * num_prunable}
  return {f"pruning/{name}": value for name, value in (counts | {"target_density": density, "density": density}).items()}


def train(manifest):
  """What runs leave behind whose loss follows the average law: metrics of every step, and the last checkpoint."""
  for run in manifest.runs:
    folder = Path(manifest.run_directory(run))
    (folder / "checkpoints" / str(run.steps - 1)).mkdir(parents=True)
    sparsity = manifest.load_config(run).get("sparsity", 0.0)
    kept = [1.0 if step < run.steps // 2 else 1.0 - sparsity for step in range(run.steps)]
    rows = [
      {"step": step, "learning/loss": 5.0 - step / run.steps, "learning/total_weights": run.batch_tokens}
      | (
        {"pruning/prunable": run.num_prunable, "pruning/nonzero_prunable": kept[step] * run.num_prunable}
        if sparsity
        else {}
      )
      | ({"pruning/target_density": kept[step], "pruning/density": kept[step]} if sparsity else {})
      for step in range(run.steps)
    ]
    loss = 40 / run.num_prunable**0.3 + 90 / (run.steps * run.batch_tokens) ** 0.3 + 1.7 + 0.1 * sparsity
    rows.append({"step": run.steps - 1, "eval/avg_loss": loss})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def study(write_spec, tmp_path):  # noqa: F811
  """3 sizes, 2 lengths and 3 sparsities, all trained."""
  sizes = {"s": {}, "m": {"base_num_decoder_layers": 2}, "l": {"base_num_decoder_layers": 4}}
  spec = write_spec(axes={"size": sizes, "steps": [100, 200], "sparsity": [0.0, 0.4, 0.8]})
  manifest = make(spec, str(tmp_path / "sweep"))
  train(manifest)
  return manifest


def report(manifest, *options):
  return CliRunner().invoke(app, ["sweep", "report", manifest.directory, "--json", *options])


def test_a_finished_study_has_every_part(study, tmp_path):
  result = report(study, "--out", str(tmp_path / "report"))
  assert result.exit_code == 0, result.output
  content = json.loads(result.stdout)
  assert content["n"] == 18 and content["left_out"] == []
  assert all(Path(path).is_file() for path in content["files"])
  names = {Path(path).name for path in content["files"]}
  assert {"report.html", "report.md", "RUNS.csv", "curves.png", "accuracy.png", "isoflop.png", "frontier.png"} <= names
  assert len(read_runs(str(tmp_path / "report" / "RUNS.csv"))) == 18
  assert (tmp_path / "report" / "report.html").read_text().count("data:image/png;base64,") == 4


def test_what_the_runs_cannot_give_is_said(write_spec, tmp_path):  # noqa: F811
  manifest = make(write_spec(axes={"sparsity": [0.0, 0.5]}), str(tmp_path / "sweep"))
  train(manifest)
  content = json.loads(report(manifest).stdout)
  assert [line.partition(":")[0] for line in content["left_out"]] == ["law", "accuracy", "isoflop", "frontier"]
  page = (tmp_path / "sweep" / "report" / "report.md").read_text()
  assert "## Left out" in page and "2 runs for 5 parameters" in page
  assert re.findall(r"^## .*\n\n(?=##|\Z)", page, re.MULTILINE) == [], "a heading with nothing below it"
  assert "## Law" not in page


def test_an_unfinished_study_is_refused_in_one_line(write_spec, tmp_path):  # noqa: F811
  manifest = make(write_spec(), str(tmp_path / "sweep"))
  result = report(manifest)
  assert result.exit_code == 2 and "not finished" in result.stderr and result.stderr.count("\n") == 1
