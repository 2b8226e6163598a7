"""Commands on finished runs: `fit`, `predict`, `recommend`, `plot`, and `convert` for published data."""

from collections.abc import Sequence
import dataclasses
import itertools
import math
import os
from typing import Annotated, Any

import typer

from maxtext_sparse.cli.help import add, LAWS
from maxtext_sparse.errors import ConfigError, one_line_errors
from maxtext_sparse.terminal import print_json

_Runs = Annotated[str, typer.Argument(metavar="RUNS.csv", help="Table of finished runs.")]
_Starts = Annotated[str, typer.Option(help="Number of starts drawn from the grid, or all for its 4,500.")]
_Seed = Annotated[int, typer.Option(help="Seed of the drawn starts and the resamples.")]
_Resamples = Annotated[int, typer.Option("--bootstrap", help="Resamples of the runs, at least 2.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
_Keys = Annotated[
  list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", help="Sparsity keys, such as pruning_schedule=cubic.")
]
_Law = Annotated[str, typer.Option(help="Law: average, chinchilla (dense N), chinchilla-final or frantar.")]


def register(app: typer.Typer) -> None:
  """Adds the commands of this module."""
  for command in (fit, predict, recommend, plot, convert):
    add(app, command, LAWS)


def fit(
  runs: _Runs,
  law: Annotated[
    str, typer.Option(help="Law: average, chinchilla (dense N), chinchilla-final, frantar or all.")
  ] = "average",
  starts: _Starts = "100",
  bootstrap: Annotated[int | None, typer.Option(help="Resamples of the runs, 200 unless given; 0 for none.")] = None,
  held_out: Annotated[bool, typer.Option("--held-out", help="Also the error on each sparsity left out.")] = False,
  at: Annotated[str | None, typer.Option(help="Coefficients to evaluate without a fit: A=406.4,B=410.7,... .")] = None,
  seed: _Seed = 0,
  as_json: _Json = False,
) -> None:
  """Fits a scaling law to runs, or all laws side by side.

  Huber (delta 1e-3) on log loss, L-BFGS from many starts, as in the paper. The objective is the sum over runs. With --at
  the same figures for coefficients that were published, say: compare objectives, not coefficients.

  Example: maxtext-sparse fit RUNS.csv --law average --bootstrap 1000
  """
  with one_line_errors():
    from maxtext_sparse.laws.forms import LAWS
    from maxtext_sparse.laws.text import comparison

    names = list(LAWS) if law == "all" else [law]
    # The table of all laws has no room for standard errors.
    num_resamples = (200 if bootstrap is None else bootstrap) if as_json or law != "all" else 0
    if at is not None:
      if bootstrap or held_out:
        raise ConfigError(f"--at={at}: fits nothing, must go without --bootstrap and --held-out")
      reports = [_report_at(runs, law, at)]
    else:
      reports = [_report(runs, name, starts, num_resamples, held_out or law == "all", seed) for name in names]
  if as_json:
    objects = [report.to_json() for report in reports]
    print_json({"laws": objects} if law == "all" else objects[0])
  else:
    print("\n\n".join(report.to_text() for report in reports) if law != "all" else comparison(reports))


def predict(
  runs: _Runs,
  keys: _Keys = None,
  law: _Law = "average",
  dense_params: Annotated[list[float] | None, typer.Option(help="Prunable weights before pruning.")] = None,
  sparsity: Annotated[list[float] | None, typer.Option(help="Final share removed; wins over a config's.")] = None,
  tokens: Annotated[list[float] | None, typer.Option(help="Training tokens.")] = None,
  config: Annotated[list[str] | None, typer.Option(help="LLaMA-2-shaped MaxText config instead of the size.")] = None,
  devices: Annotated[int, typer.Option(help="Devices, where the token count follows from the config.")] = 1,
  starts: _Starts = "100",
  bootstrap: _Resamples = 500,
  seed: _Seed = 0,
  as_json: _Json = False,
) -> None:
  """Predicts the loss of runs, with a 90 % interval.

  Options that repeat are combined, every size with every sparsity and token count. The schedule is the default one
  (geometric, 25 % of the compute dense, 50 % pruning) but for the sparsity keys given.

  Example: maxtext-sparse predict RUNS.csv --dense-params 1.139e9 --sparsity 0 --sparsity 0.8 --tokens 151e9
  """
  with one_line_errors():
    from maxtext_sparse.laws.predict import predictions

    points = _points(dense_params or [], sparsity or [], tokens or [], config or [], devices, keys or [])
    fitted, resamples = _fit_with_resamples(runs, law, starts, bootstrap, seed)
    rows = predictions(fitted, resamples, points)
  if as_json:
    print_json({"law": law, "predictions": rows})
  else:
    _print_predictions(rows)


def recommend(
  runs: _Runs,
  flops: Annotated[float, typer.Option(help="Effective training compute, 6 x average_params x tokens.")],
  keys: _Keys = None,
  max_final_params: Annotated[float, typer.Option(help="Cap on the deployed model's prunable weights.")] = math.inf,
  max_sparsity: Annotated[float | None, typer.Option(help="Cap on the sparsity; default: the runs' largest.")] = None,
  law: _Law = "average",
  chips: Annotated[int, typer.Option(help="The runnable hidden size is divisible by it.")] = 1,
  vocab_size: Annotated[int, typer.Option(help="Vocabulary of the runnable shape.")] = 32_000,
  starts: _Starts = "100",
  bootstrap: _Resamples = 500,
  seed: _Seed = 0,
  as_json: _Json = False,
) -> None:
  """Recommends dense size, sparsity and tokens for a training budget and a cap on the deployed model.

  Beside it the nearest runnable MaxText shape and a dense run of equal deployed size and equal effective compute.

  Example: maxtext-sparse recommend RUNS.csv --flops 4.5e20 --max-final-params 230e6
  """
  with one_line_errors():
    from maxtext_sparse.laws.predict import parse_schedule
    from maxtext_sparse.laws.recommend import Budget
    from maxtext_sparse.laws.recommend import recommend as best_runs

    limit = 0.0 if max_sparsity is None else max_sparsity
    budget = Budget(flops, max_final_params, limit, chips, vocab_size, parse_schedule(keys or []))
    fitted, resamples = _fit_with_resamples(runs, law, starts, bootstrap, seed)
    if max_sparsity is None:
      budget = dataclasses.replace(budget, max_sparsity=float(fitted.runs["sparsity"].max()))
    result = best_runs(fitted, resamples, budget)
  if as_json:
    print_json(result)
  else:
    _print_recommendation(result)


def plot(
  figure: Annotated[str, typer.Argument(help="One of pairs, compute, accuracy, schedules, rates, phases and density.")],
  inputs: Annotated[list[str], typer.Argument(help="RUNS.csv, metrics files or run folders.")],
  out: Annotated[str, typer.Option(help="Folder for FIGURE.png and FIGURE.svg.")] = ".",
  law: Annotated[str, typer.Option(help="For accuracy: a law, several separated by commas, or all.")] = "average",
  as_json: _Json = False,
) -> None:
  """Draws one of the paper's figures from runs, as PNG and SVG.

  pairs: N(t) and loss of sparse and dense runs of equal average size (Figure 1). compute: loss against effective
  compute with its knee (Figure 2). accuracy: predicted against actual loss (Figure 3). schedules: bars of a schedule
  sweep (Figure 4). rates: batch size against learning rate (Figure 5). phases: start and duration of pruning
  (Figure 6). density: what is left of each matrix of a run.

  Example: maxtext-sparse plot accuracy RUNS.csv --law average --out figures
  """
  with one_line_errors():
    from maxtext_sparse.plots import draw

    result = draw(figure, inputs, out, law)
  if as_json:
    print_json(result)
  else:
    print("\n".join([*result["files"], *(f"{name}: {value}" for name, value in result["numbers"].items())]))


def convert(
  data: Annotated[str, typer.Argument(help="A published file: t5-data.csv or vit-data.json.")],
  source: Annotated[str, typer.Option(help="Which runs of Frantar et al. (2023): t5 or vit.")],
  out: Annotated[str, typer.Option(help="Where to write the table.")] = "RUNS.csv",
  as_json: _Json = False,
) -> None:
  """Turns published runs into a RUNS.csv.

  Example: maxtext-sparse convert t5-data.csv --source t5 --out t5.csv
  """
  with one_line_errors():
    from maxtext_sparse.laws.public_data import convert as converted

    table = converted(data, source)
    if os.path.exists(out) and os.path.samefile(data, out):
      raise ConfigError(f"--out={out}: is the published file itself, write elsewhere")
    try:
      table.to_csv(out, index=False)
    except OSError as error:
      raise ConfigError(f"--out={out}: cannot write ({error.strerror or error})") from error
  if as_json:
    print_json({"out": out, "n": len(table)})
  else:
    print(f"{out}: {len(table)} runs")


def _report_at(path: str, name: str, at: str) -> Any:
  from maxtext_sparse.laws.fit import evaluate
  from maxtext_sparse.laws.forms import law_named
  from maxtext_sparse.laws.runs_table import read_runs
  from maxtext_sparse.laws.text import Report

  pairs = [item.partition("=") for item in at.split(",")]
  try:
    coefficients = {key.strip(): float(value) for key, _, value in pairs}
  except ValueError:
    raise ConfigError(f"--at={at}: must be NAME=NUMBER,NAME=NUMBER,...") from None
  if len(coefficients) < len(pairs):
    raise ConfigError(f"--at={at}: must name each coefficient once")
  return Report(evaluate(law_named(name), read_runs(path), coefficients))


def _report(runs: str, law: str, starts: str, num_resamples: int, is_held_out: bool, seed: int):
  from maxtext_sparse.laws.text import Report
  from maxtext_sparse.laws.uncertainty import bootstrap, leave_one_sparsity_out

  fitted = _fitted(runs, law, starts, seed)
  errors = bootstrap(fitted, num_resamples, seed).standard_errors() if num_resamples else None
  return Report(fitted, errors, leave_one_sparsity_out(fitted) if is_held_out else None)


def _fit_with_resamples(runs: str, law: str, starts: str, num_resamples: int, seed: int):
  from maxtext_sparse.laws.uncertainty import bootstrap

  fitted = _fitted(runs, law, starts, seed)
  return fitted, bootstrap(fitted, num_resamples, seed)


def _fitted(runs: str, law: str, starts: str, seed: int):
  from maxtext_sparse.laws.fit import fit as fitted
  from maxtext_sparse.laws.forms import law_named
  from maxtext_sparse.laws.runs_table import read_runs

  if not (starts == "all" or starts.isdigit()):
    raise ConfigError(f"--starts={starts}: must be a positive number or all")
  if seed < 0:
    raise ConfigError(f"--seed={seed}: must be 0 or more")
  return fitted(law_named(law), read_runs(runs), None if starts == "all" else int(starts), seed)


def _points(
  sizes: Sequence[float],
  sparsities: Sequence[float],
  tokens: Sequence[float],
  configs: Sequence[str],
  devices: int,
  keys: Sequence[str],
):
  from maxtext_sparse.laws.predict import parse_schedule, point, point_of_config

  if not sizes and not configs:
    raise ConfigError("--dense-params: nothing to predict, give sizes and --tokens, or --config")
  if sizes and not tokens:
    raise ConfigError("--tokens: is missing, give the training tokens")
  schedule = parse_schedule(keys)
  overrides: list[dict[str, Any]] = [{**schedule, "sparsity": value} for value in sparsities] or [{**schedule}]
  counts: list[float | None] = [*tokens] or [None]
  described = [
    point_of_config(path, count, devices, override)
    for path, override, count in itertools.product(configs, overrides, counts)
  ]
  return described + [point(*values, schedule) for values in itertools.product(sizes, sparsities or [0.0], tokens)]


def _print_predictions(rows: Sequence[dict[str, Any]]) -> None:
  from maxtext_sparse.laws.text import text_table

  header = ("dense params", "sparsity", "average params", "tokens", "loss", "90 % interval")
  print(text_table(header, map(_prediction_cells, rows)))
  for place, row in enumerate(rows, 1):
    for text in row["extrapolates"]:
      print(f"extrapolation: row {place}: {text}")


def _prediction_cells(row: dict[str, Any]) -> tuple[str, ...]:
  counts = [f"{row[name]:.4g}" for name in ("dense_params", "sparsity", "average_params", "tokens")]
  low, high = row["interval"]
  return *counts, f"{row['loss']:.4f}", f"{low:.4f} to {high:.4f}"


def _print_recommendation(result: dict[str, Any]) -> None:
  from maxtext_sparse.laws.text import text_table

  header = ("", "dense params", "sparsity", "average", "final", "tokens", "loss", "90 % interval", "hardware FLOPs")
  rows = []
  for name in ("best", "runnable", "dense_alternative"):
    row = result[name]
    if row is None:
      continue
    dense, sparsity, average, tokens, loss, ends = _prediction_cells(row)
    final, flops = f"{row['final_params']:.4g}", f"{row['hardware_flops']:.3g}"
    rows.append((name.replace("_", " "), dense, sparsity, average, final, tokens, loss, ends, flops))
  print(f"law {result['law']}, effective compute 6 x average params x tokens = {result['budget_flops']:.3g} FLOPs\n")
  print(text_table(header, rows))
  if result["runnable"]:
    print("\nrunnable: " + " ".join(f"{name}={value}" for name, value in result["runnable"]["shape"].items()))
  low, high = result["difference"]["interval"]
  print(f"dense alternative minus best: {result['difference']['loss']:+.4f} ({low:+.4f} to {high:+.4f}); ", end="")
  print(result["difference"]["verdict"])
  for warning in result["warnings"]:
    print(warning)
