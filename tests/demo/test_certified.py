"""The demo's models as folders: exported with their certificates, verified, and evaluated side by side."""

import json
import subprocess

import pytest

from maxtext_sparse import __version__
from maxtext_sparse.demo.training import recipe_file, tokens_per_step
from maxtext_sparse.export.write import export_checkpoint
from maxtext_sparse.hooks import maxtext_version
from maxtext_sparse.inspection.verify import verify
from tests.demo.short_demo import result_of, STEPS
from tests.evaluation.environment import harness_python, REPO


@pytest.fixture(scope="module")
def folders(finished, tmp_path_factory):
  """Name of each model -> its exported folder: sparse, dense, and the two dense neighbours of the sparse run's size."""
  out, process = finished
  recipe = [recipe_file(), f"tokenizer_path={out}/corpus/vocabulary.model"]
  runs = {f"sparse40_{STEPS}": [], f"dense_{STEPS}": recipe}
  for twin in result_of(process)["neighbours"]:
    runs[f"twin{twin['num_prunable']}_{STEPS}"] = [*recipe, *twin["overrides"]]
  made = tmp_path_factory.mktemp("folders")
  for run, arguments in runs.items():
    export_checkpoint(str(out / "runs" / run), str(made / run.partition("_")[0]), arguments)
  return {folder.name: folder for folder in sorted(made.iterdir())}


def claims_of(folder):
  return json.loads((folder / "sparsity.json").read_text())


def test_every_folder_is_what_it_claims_to_be(folders):
  assert len(folders) == 4
  for folder in folders.values():
    assert verify(str(folder)).is_ok
  # The demo's table says the same.
  assert claims_of(folders["sparse40"])["nonzero"] == 12_000
  assert claims_of(folders["dense"])["nonzero"] == claims_of(folders["dense"])["prunable"] == 20_000


def test_the_certificate_has_the_runs_own_figures(finished, folders):
  claims = claims_of(folders["sparse40"])
  training, figures = claims["training"], result_of(finished[1])["runs"]["sparse"]
  for key in ("average_params", "effective_flops", "eval_loss"):
    assert training[key] == pytest.approx(figures[key], rel=1e-9), key
  assert (training["step"], training["eval_step"]) == (STEPS - 1, STEPS - 1)
  assert training["tokens"] == STEPS * tokens_per_step()
  assert training["events"][-1]["density"] == pytest.approx(claims["density"])
  assert training["versions"]["maxtext"] == maxtext_version()
  assert training["versions"]["maxtext_sparse"] == __version__
  assert training["sparsity_keys"]["sparsity"] == 0.4
  assert len(training["config_sha256"]) == 64 and "events" in training["schedule"]


def test_without_metrics_tokens_and_flops_are_those_that_the_run_counted(finished, folders, tmp_path):
  out, _ = finished
  metrics = out / "runs" / f"sparse40_{STEPS}" / "metrics.jsonl"
  metrics.rename(tmp_path / "metrics.jsonl")
  try:
    again = export_checkpoint(str(metrics.parent), str(tmp_path / "hf"), []).certificate["training"]
  finally:
    (tmp_path / "metrics.jsonl").rename(metrics)
  before = claims_of(folders["sparse40"])["training"]
  assert again["tokens"] == before["tokens"] and "eval_loss" not in again
  assert again["effective_flops"] == pytest.approx(before["effective_flops"], rel=1e-9)


def test_sparse_dense_and_twins_stand_side_by_side_with_standard_errors(folders):
  command = [harness_python(), "-m", "maxtext_sparse", "evaluate", *folders.values(), "--tasks", "next_line,held_out"]
  done = subprocess.run(
    [*command, "--backend", "numpy", "--limit", "16"], capture_output=True, text=True, check=False, cwd=REPO
  )
  assert done.returncode == 0, done.stderr[-3000:]
  header, _, *rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
  assert header[2:] == list(folders)
  values = {row[1]: [float(word) for word in row[2:] if word != "\u00b1"] for row in rows}
  # Value and standard error of each of the four models; the harness has no error for a perplexity.
  counts = {metric: len(found) for metric, found in values.items()}
  assert counts == {"acc": 8, "acc_norm": 8, "bits_per_byte": 8, "byte_perplexity": 4}
  assert all(0 <= error < 0.2 for error in values["acc"][1::2])
  bits, errors = values["bits_per_byte"][::2], values["bits_per_byte"][1::2]
  # After a few steps a token of several bytes costs nearly the 8.6 bits of one among 400 that are equally likely.
  assert all(1 < value < 8.6 for value in bits) and all(0 < error < 1 for error in errors)
  assert len(set(bits)) == 4, "four models"
