"""The commands: JSON and nothing else, tables for people, one line and a non-zero status on bad input."""

import json
import math
from pathlib import Path
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from maxtext_sparse.cli.laws import register
from maxtext_sparse.laws.forms import LAWS
from tests.laws.conftest import public_file

app = typer.Typer(pretty_exceptions_enable=False)
register(app)

LEVELS = {"0", "0.2", "0.4", "0.6", "0.8"}
FIT_KEYS = ["law", "n", "coefficients", "standard_errors", "objective", "mae", "mae_by_sparsity"]


def call(*arguments):
  return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def table(runs, tmp_path):
  path = tmp_path / "RUNS.csv"
  runs.to_csv(path, index=False)
  return path


@pytest.mark.parametrize("law", ["average", "chinchilla", "frantar"])
def test_fit_json_has_the_contract_keys(table, law):
  result = call("fit", table, "--law", law, "--json", "--bootstrap", 20)
  assert result.exit_code == 0 and result.stdout.count("\n") == 1
  content = json.loads(result.stdout)
  assert list(content) == FIT_KEYS and content["law"] == law and content["n"] == 30
  assert content["coefficients"].keys() == content["standard_errors"].keys()
  assert set(content["mae_by_sparsity"]) == LEVELS
  assert all(error is None or math.isfinite(error) for error in content["standard_errors"].values())


def test_fit_all_sets_laws_side_by_side(table):
  content = json.loads(call("fit", table, "--law", "all", "--json", "--bootstrap", 0).stdout)
  assert [law["law"] for law in content["laws"]] == list(LAWS)
  assert all(set(FIT_KEYS) < set(law) and set(law["held_out_mae_by_sparsity"]) == LEVELS for law in content["laws"])
  text = call("fit", table, "--law", "all").stdout
  assert "held out" in text.splitlines()[0] and "S=0.8" in text


def test_fit_text_shows_units_errors_and_held_out(table):
  text = call("fit", table, "--held-out", "--bootstrap", 20).stdout
  for part in ("std. error", "loss x parameters^alpha", "MAE when held out", "sum of Huber", "of 100 starts"):
    assert part in text


def test_as_many_runs_as_parameters_is_said(table, tmp_path):
  lines = table.read_text().splitlines()
  (tmp_path / "five.csv").write_text("\n".join([lines[0], *lines[1:30:6]]))
  assert "as many runs as parameters, 5" in call("fit", tmp_path / "five.csv", "--bootstrap", 0).stdout


def test_the_public_figures_come_out_of_commands(tmp_path):
  """T5: mean Huber 4.880e-6 and MAE 0.0119 for Frantar's form; 0.046 average, 0.079 final, 0.082 dense."""
  out = tmp_path / "t5.csv"
  assert call("convert", public_file("t5"), "--source", "t5", "--out", out).exit_code == 0
  laws = {
    law["law"]: law for law in json.loads(call("fit", out, "--law", "all", "--json", "--bootstrap", 0).stdout)["laws"]
  }
  assert laws["frantar"]["objective"] / 48 == pytest.approx(4.880e-6, abs=5e-10)
  assert laws["average"]["objective"] <= 9.645e-4
  maes = {name: round(law["mae"], 3) for name, law in laws.items()}
  assert maes.items() >= {"average": 0.046, "chinchilla": 0.082, "chinchilla-final": 0.079, "frantar": 0.012}.items()


def test_predict(table):
  arguments = ("predict", table, "--dense-params", 138e6, "--sparsity", 0, "--sparsity", 0.8, "--tokens", 4e10)
  content = json.loads(call(*arguments, "--bootstrap", 20, "--json").stdout)
  dense, sparse = content["predictions"]
  assert dense["loss"] < sparse["loss"] and sparse["final_params"] == pytest.approx(27.6e6)
  assert "90 % interval" in call(*arguments, "--bootstrap", 20).stdout


def test_predict_of_a_config_takes_sparsities_from_the_command_line(table, tmp_path):
  config = Path(__file__).parents[2] / "configs" / "models" / "58m.yml"
  arguments = ("predict", table, "--config", config, "--tokens", 1e10, "--sparsity", 0, "--sparsity", 0.8)
  dense, sparse = json.loads(call(*arguments, "--bootstrap", 20, "--json").stdout)["predictions"]
  assert dense["sparsity"] == 0 and dense["average_params"] == 41_549_824
  assert sparse["sparsity"] == 0.8 and sparse["average_params"] / 41_549_824 == pytest.approx(0.399, abs=2e-3)


def test_equal_runs_have_equal_intervals(table):
  arguments = ("predict", table, "--dense-params", 1e8, "--sparsity", 0.8, "--sparsity", 0.8, "--tokens", 4e10)
  first, second = json.loads(call(*arguments, "--bootstrap", 20, "--json").stdout)["predictions"]
  assert first == second


def test_converting_onto_the_published_file_is_refused(tmp_path):
  path = tmp_path / "t5.csv"
  path.write_bytes(Path(public_file("t5")).read_bytes())
  result = call("convert", path, "--source", "t5", "--out", path)
  assert result.exit_code == 2 and "is the published file itself" in result.stderr
  assert path.read_bytes() == Path(public_file("t5")).read_bytes()


def test_predict_takes_another_schedule(table):
  """The public runs' 1 - 0.625 S."""
  size = ("--dense-params", 1e8, "--sparsity", 0.8, "--tokens", 4e10, "--bootstrap", 20, "--json")
  content = json.loads(call("predict", table, "pruning_schedule=cubic", "gmp_fraction_of=steps", *size).stdout)
  assert content["predictions"][0]["average_params"] == pytest.approx(5e7)


def test_recommend(table):
  arguments = ("recommend", table, "--flops", 1e20, "--max-final-params", 5e7, "--bootstrap", 20)
  content = json.loads(call(*arguments, "--json").stdout)
  assert content["best"]["final_params"] <= 5e7 * (1 + 1e-6)
  text = call(*arguments).stdout
  for part in ("effective compute", "hardware FLOPs", "base_emb_dim=", "dense alternative minus best"):
    assert part in text


def test_recommend_for_a_life(table, tmp_path):
  arguments = ("recommend", table, "--flops", 1e20, "--inference-tokens", 1e12, "--bootstrap", 20)
  content = json.loads(call(*arguments, "--out", tmp_path, "--json").stdout)
  assert content["inference_flops"] == pytest.approx(2 * content["best"]["final_params"] * 1e12)
  assert content["total_flops"] == pytest.approx(content["best"]["effective_flops"] + content["inference_flops"])
  assert content["break_even_tokens"] >= 0 and all(Path(path).is_file() for path in content["files"])
  assert "sparse wins from" in call(*arguments).stdout


def test_recommend_the_best_sparsity_everywhere(table, tmp_path):
  content = json.loads(call("recommend", table, "--optimal-sparsity", "--out", tmp_path, "--json").stdout)
  assert [len(row) for row in content["optimal_sparsity"]] == [5] * 5
  assert [Path(path).name for path in content["files"]] == ["contours.png", "contours.svg"]


def test_fit_of_a_multiplier_law_has_its_multipliers(table):
  content = json.loads(call("fit", table, "--law", "multiplier", "--bootstrap", 20, "--json").stdout)
  assert content["multipliers"].keys() == LEVELS and content["multipliers"]["0"] == 1
  assert content["interval_holds_average_law"].keys() == LEVELS - {"0"}


def test_plot(table, tmp_path):
  content = json.loads(call("plot", "accuracy", table, "--out", tmp_path / "figures", "--json").stdout)
  assert content["figure"] == "accuracy" and len(content["files"]) == 2


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("fit", "TABLE", "--law", "kaplan"), "--law=kaplan"),
    (("fit", "TABLE", "--starts", "many"), "--starts=many"),
    (("fit", "TABLE", "--starts", "0"), "--starts=0"),
    (("fit", "TABLE", "--at", "A=1,B=x"), "--at=A=1,B=x: must be NAME=NUMBER"),
    (("fit", "TABLE", "--at", "A=1", "--held-out"), "--at=A=1: fits nothing, must go without"),
    (("fit", "TABLE", "--at", "A=1", "--bootstrap", "20"), "--at=A=1: fits nothing, must go without"),
    (("fit", "TABLE", "--at", "A=1,B=1,E=1,alpha=1,alpha=1"), "must name each coefficient once"),
    (("fit", "TABLE", "--at", "A=nan,B=1,E=1,alpha=1,beta=1"), "--at=A=nan: must be a finite number"),
    (("fit", "TABLE", "--seed", "-1"), "--seed=-1: must be 0 or more"),
    (("fit", "none.csv"), "none.csv: not a readable CSV"),
    (("predict", "TABLE"), "--dense-params: nothing to predict"),
    (("predict", "TABLE", "--dense-params", "1e8"), "--tokens: is missing"),
    (("predict", "TABLE", "--dense-params", "1e8", "--tokens", "1e9", "--sparsity", "2"), "--sparsity=2"),
    (("predict", "TABLE", "--dense-params", "1e8", "--tokens", "1e9", "--sparsity", "80"), "in percent? write 0.8"),
    (("predict", "TABLE", "--dense-params", "1e8", "--tokens", "1e9", "--bootstrap", "0"), "must be at least 2"),
    (("predict", "TABLE", "--dense-params", "1e8", "--tokens", "1e9", "sparsity=2"), "sparsity='2'"),
    (("predict", "TABLE", "--dense-params", "1e8", "--tokens", "1e9", "pruning_method=hold"), "does not prune"),
    (("predict", "TABLE", "--config", "none.yml"), "none.yml: cannot read"),
    (("recommend", "TABLE", "--flops", "1e20", "do_not_prune_kw=mlp"), "must be key=value with one of the keys"),
    (("recommend", "TABLE", "--flops", "1e20", "gmp_start_step=100"), "must be key=value with one of the keys"),
    (("predict", "TABLE", "shape=cubic", "--dense-params", "1e8", "--tokens", "1e9"), "shape=cubic: must be key=value"),
    (("recommend", "TABLE"), "--flops: is missing"),
    (
      ("recommend", "TABLE", "--flops", "1e20", "--inference-tokens", "1e9", "--inference-cost", "2"),
      "--inference-cost=2",
    ),
    (
      ("recommend", "TABLE", "--flops", "1e20", "--inference-tokens", "1e9", "--training-cost", "free"),
      "--training-cost=free: must be effective or",
    ),
    (("recommend", "TABLE", "--flops", "1e20", "--training-cost", "hardware"), "give --inference-tokens too"),
    (("recommend", "TABLE", "--flops", "1e20", "--optimal-sparsity"), "must go without --flops"),
    (("recommend", "TABLE", "--optimal-sparsity", "--law", "chinchilla"), "--law=chinchilla: leaves the sparsity out"),
    (("fit", "TABLE", "--size", "final"), "--size=final: belongs to the multiplier laws"),
    (("fit", "TABLE", "--loss-column", "los"), "--loss-column=los: "),
    (("fit", "TABLE", "--law", "multiplyer"), "did you mean multiplier?"),
    (("plot", "nonsense", "TABLE"), "FIGURE=nonsense"),
    (("convert", "TABLE", "--source", "t5"), "column scale, val-loss, steps is missing"),
  ],
)
def test_bad_input_is_one_line(table, arguments, message):
  result = call(*(table if argument == "TABLE" else argument for argument in arguments))
  assert result.exit_code != 0 and result.stdout == ""
  assert result.stderr.count("\n") == 1 and message in result.stderr


def without(modules, *arguments):
  """The command in an environment that lacks these modules."""
  program = (
    f"import sys; sys.modules |= dict.fromkeys({modules!r}); sys.argv = ['maxtext-sparse', *{[*map(str, arguments)]!r}]; "
    "from maxtext_sparse.cli import main; main()"
  )
  return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
  "arguments",
  [
    ("fit", "TABLE", "--law", "all"),
    ("recommend", "TABLE", "--flops", "1e20", "--bootstrap", "20"),
    ("plot", "accuracy", "TABLE", "--out", "OUT"),
    ("plan", "--steps", "1000", "--sparsity", "0.5"),
  ],
)
def test_analysis_needs_neither_jax_nor_maxtext(table, tmp_path, arguments):
  places = {"TABLE": table, "OUT": tmp_path}
  done = without(["jax", "maxtext"], *(places.get(argument, argument) for argument in arguments))
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
  ("module", "arguments", "remedy"),
  [("jax", ("params", "base.yml"), "maxtext[tpu]=="), ("pandas", ("fit", "TABLE"), "maxtext-sparse[analysis]")],
)
def test_a_missing_package_is_one_line(table, module, arguments, remedy):
  done = without([module], *(table if argument == "TABLE" else argument for argument in arguments))
  assert done.returncode == 2 and done.stderr.count("\n") == 1
  assert f"{module}: not installed here" in done.stderr and remedy in done.stderr


@pytest.mark.parametrize("command", ["fit", "predict", "recommend", "plot", "convert"])
def test_help_has_an_example(command):
  result = call(command, "--help")
  assert result.exit_code == 0 and f"Example: maxtext-sparse {command}" in " ".join(result.stdout.split())


def test_a_dense_run_ignores_the_keys_of_the_schedule(table):
  """With gmp_dense_fraction=0.9 and the default prune fraction the formula's average was 0.71 of the size."""
  words = ("predict", table, "--dense-params", "138M", "--tokens", "1B", "--starts", "1", "--bootstrap", "2", "--json")
  (row,) = json.loads(call(*words, "gmp_dense_fraction=0.9").stdout)["predictions"]
  assert row["average_params"] == row["dense_params"] == 1.38e8 and row["tokens"] == 1e9


def test_the_sparsity_has_two_spellings(table):
  words = ("predict", table, "--dense-params", "138M", "--tokens", "1B", "--starts", "1", "--bootstrap", "2", "--json")
  assert call(*words, "--sparsity", "0.8").stdout == call(*words, "sparsity=0.8").stdout


def test_recommend_keeps_to_the_one_sparsity_that_is_asked_for(table):
  words = ("recommend", table, "--flops", "1e20", "--starts", "1", "--bootstrap", "2", "--json")
  for spelling in (("--sparsity", "0.5"), ("sparsity=0.5",)):
    assert json.loads(call(*words, *spelling).stdout)["best"]["sparsity"] == 0.5
