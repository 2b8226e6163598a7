"""Commands on finished runs: `fit`, `predict`, `recommend`, `plot`, and `convert` for published data."""

from collections.abc import Sequence
import itertools
import math
import os
from typing import Annotated, Any, TYPE_CHECKING

import typer

from maxtext_sparse.cli.help import add, LAWS
from maxtext_sparse.cli.options import amount, Json
from maxtext_sparse.errors import ConfigError, one_line_errors
from maxtext_sparse.runs.files import check_writable
from maxtext_sparse.terminal import print_json

if TYPE_CHECKING:  # needs the analysis extra, which a command imports when it runs
  from maxtext_sparse.laws.advice import Drawing
  from maxtext_sparse.laws.predict import Candidate

_Runs = Annotated[str, typer.Argument(metavar="RUNS.csv", help="Table of finished runs.")]
_Starts = Annotated[str, typer.Option(help="Starts drawn from the grid, or all (4,500).")]
_Seed = Annotated[int, typer.Option(help="Seed of the drawn starts and the resamples.")]
_Resamples = Annotated[int, typer.Option("--bootstrap", help="Resamples of the runs, at least 2.")]
_Keys = Annotated[
  list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", help="Schedule, e.g. pruning_schedule=cubic.")
]
_LAW_NAMES = "Law: average, chinchilla (dense N), chinchilla-final, frantar, multiplier or multiplier-power"
_Law = Annotated[str, typer.Option(help=f"{_LAW_NAMES}.")]
_Size = Annotated[str | None, typer.Option(help="N of the multiplier laws: dense (the default) or final.")]
_LossColumn = Annotated[str, typer.Option(help="Column with the loss, for runs with several evaluations.")]


def register(app: typer.Typer) -> None:
  """Adds the commands of this module."""
  for command in (fit, predict, recommend, plot, convert):
    add(app, command, LAWS)


def fit(
  runs: _Runs,
  law: Annotated[str, typer.Option(help=f"{_LAW_NAMES}; all for a comparison.")] = "average",
  size: _Size = None,
  loss_column: _LossColumn = "loss",
  starts: _Starts = "100",
  bootstrap: Annotated[int | None, typer.Option(help="Resamples of the runs, 200 by default; 0 for none.")] = None,
  held_out: Annotated[bool, typer.Option("--held-out", help="Also show the error on each sparsity left out.")] = False,
  report: Annotated[str | None, typer.Option(help="Folder for a full report: Markdown, HTML, tables, figures.")] = None,
  at: Annotated[str | None, typer.Option(help="Fit nothing, evaluate these coefficients: A=406.4,B=410.7,...")] = None,
  seed: _Seed = 0,
  as_json: Json = False,
) -> None:
  """Fits a scaling law to runs, or shows all laws side by side.

  The objective is the sum over runs of Huber (delta 1e-3) on log loss. L-BFGS minimises it from many starts, as in the
  paper. A column `weight` says how much each run counts. The multiplier laws show what a sparse weight is worth, beside
  what the average law says it is. --at shows the same figures for published coefficients: compare objectives, not
  coefficients.

  Example: maxtext-sparse fit RUNS.csv --law average --bootstrap 1000

  Example: maxtext-sparse fit RUNS.csv --law multiplier --size final

  Example: maxtext-sparse fit RUNS.csv --law frantar --report report
  """
  with one_line_errors():
    from maxtext_sparse.laws.request import FitRequest, summaries_of_all
    from maxtext_sparse.laws.text import comparison

    request = FitRequest(runs, "average" if law == "all" else law, starts, seed, size, loss_column)
    if at is not None and (bootstrap or held_out or report or law == "all"):
      raise ConfigError(f"--at={at}: fits nothing, must go without --bootstrap, --held-out, --report and --law all")
    if report is not None and law == "all":
      raise ConfigError(f"--report={report}: is about one law, must go with --law of one name")
    if report is not None:
      check_writable("--report", report)
    num_resamples = 200 if bootstrap is None else bootstrap
    if law == "all":
      summaries, left_out = summaries_of_all(request)
      content: dict[str, Any] = {"laws": [summary.to_dict() for summary in summaries], "left_out": left_out}
      text = "\n".join([comparison(summaries), *left_out])
    elif report is not None:
      from maxtext_sparse.reports.fit_report import FitReport

      made = FitReport.make(request, num_resamples)
      files = made.write(report)
      content, text = made.to_dict() | {"files": files}, "\n".join([*made.summary.to_text().splitlines()[:2], *files])
    else:
      summary = request.summary(num_resamples, held_out) if at is None else request.summary_at(at)
      content, text = summary.to_dict(), "" if as_json else summary.to_text()
  if as_json:
    print_json(content)
  else:
    print(text)


def predict(
  runs: _Runs,
  keys: _Keys = None,
  law: _Law = "average",
  size: _Size = None,
  loss_column: _LossColumn = "loss",
  dense_params: Annotated[
    list[float] | None, amount("dense-params", "Prunable weights before pruning, such as 138M.")
  ] = None,
  sparsity: Annotated[list[float] | None, typer.Option(help="Final share removed; wins over a config's.")] = None,
  tokens: Annotated[list[float] | None, amount("tokens", "Training tokens, such as 33.5B.")] = None,
  config: Annotated[list[str] | None, typer.Option(help="LLaMA-2-shaped MaxText config instead of the size.")] = None,
  devices: Annotated[int, typer.Option(help="Devices, if the token count follows from the config.")] = 1,
  starts: _Starts = "100",
  bootstrap: _Resamples = 500,
  seed: _Seed = 0,
  as_json: Json = False,
) -> None:
  """Predicts the loss of runs, with a 90 % interval.

  Repeated options are combined: every size with every sparsity and every token count. The schedule is the default one
  (geometric, 25 % of the compute dense, 50 % pruning), except for the sparsity keys that are given.

  Example: maxtext-sparse predict RUNS.csv --dense-params 1.139e9 --sparsity 0 --sparsity 0.8 --tokens 151e9
  """
  with one_line_errors():
    from maxtext_sparse.laws.predict import predictions
    from maxtext_sparse.laws.request import FitRequest

    candidates = _candidates(dense_params or [], sparsity or [], tokens or [], config or [], devices, keys or [])
    request = FitRequest(runs, law, starts, seed, size, loss_column)
    rows = predictions(*request.fit_with_resamples(bootstrap), candidates)
  if as_json:
    print_json({"law": law, "predictions": rows})
  else:
    from maxtext_sparse.laws.text import predictions_text

    print(predictions_text(rows))


def recommend(
  runs: _Runs,
  keys: _Keys = None,
  flops: Annotated[float | None, amount("flops", "Effective training compute, 6 x average_params x tokens.")] = None,
  inference_tokens: Annotated[float | None, amount("tokens", "Tokens served over the model's life.")] = None,
  inference_cost: Annotated[
    str, typer.Option(help="What zeros cost: sparse (nothing), dense, a break-even density, or bench's JSON.")
  ] = "sparse",
  training_cost: Annotated[
    str, typer.Option(help="With --inference-tokens: bill effective or hardware training FLOPs.")
  ] = "effective",
  best_sparsity: Annotated[
    bool, typer.Option("--optimal-sparsity", help="Show the best sparsity for each size and budget instead.")
  ] = False,
  max_final_params: Annotated[
    float, amount("dense-params", "Cap on the deployed model's prunable weights, such as 230M.")
  ] = math.inf,
  sparsity: Annotated[float | None, typer.Option(help="The only sparsity to consider, if not all up to the cap.")] = None,
  max_sparsity: Annotated[float | None, typer.Option(help="Cap on the sparsity. Default: the runs' largest.")] = None,
  law: _Law = "average",
  size: _Size = None,
  loss_column: _LossColumn = "loss",
  chips: Annotated[int, typer.Option(help="The runnable hidden size is divisible by this.")] = 1,
  vocab_size: Annotated[int, typer.Option(help="Vocabulary of the runnable shape.")] = 32_000,
  out: Annotated[str | None, typer.Option(help="Folder for the figure of the life or of the best sparsity.")] = None,
  starts: _Starts = "100",
  bootstrap: _Resamples = 500,
  seed: _Seed = 0,
  as_json: Json = False,
) -> None:
  """Recommends dense size, sparsity and tokens for a training budget and a cap on the deployed model.

  Beside it stand the nearest runnable MaxText shape, and the dense run of equal deployed size and effective compute.

  With --inference-tokens the quality is fixed instead: the loss of the best dense run that --flops train. The answer is
  the dense and the sparse run that reach it with the least compute for training and serving, and the number of tokens
  served from which the sparse one wins.

  Example: maxtext-sparse recommend RUNS.csv --flops 4.5e20 --max-final-params 230e6

  Example: maxtext-sparse recommend RUNS.csv --flops 4.5e20 --inference-tokens 1e12 --out figures

  Example: maxtext-sparse recommend RUNS.csv --optimal-sparsity --law frantar
  """
  with one_line_errors():
    from maxtext_sparse.laws.advice import Question
    from maxtext_sparse.laws.predict import one_of, parse_schedule
    from maxtext_sparse.laws.request import FitRequest

    schedule, asked = parse_schedule(keys or [])
    sizes = (flops, max_final_params, max_sparsity, chips, vocab_size)
    serving = (inference_tokens, inference_cost, training_cost)
    question = Question(*sizes, schedule, *serving, sparsity_alone=one_of(sparsity, asked))
    if out and inference_tokens is None and not best_sparsity:
      raise ConfigError(f"--out={out}: only --inference-tokens and --optimal-sparsity have a figure")
    request = FitRequest(runs, law, starts, seed, size, loss_column)
    advice = question.sparsity(request) if best_sparsity else question.answer(request, bootstrap)
    result = advice.content | ({"files": _drawn(advice.drawing, out)} if out else {})
  if as_json:
    print_json(result)
  else:
    print("\n".join([advice.text, *result.get("files", [])]))


def plot(
  figure: Annotated[str, typer.Argument(help="One of the names below.")],
  inputs: Annotated[list[str], typer.Argument(help="RUNS.csv, metrics files or run folders.")],
  out: Annotated[str, typer.Option(help="Folder for FIGURE.png and FIGURE.svg.")] = ".",
  law: Annotated[str, typer.Option(help="A law for isoflop and frontier; several or all for accuracy.")] = "average",
  as_json: Json = False,
) -> None:
  """Draws a figure from runs, as PNG and SVG.

  pairs: N(t) and loss of sparse and dense runs of equal average size (Figure 1). gap: loss of sparse runs minus that of
  their dense twins, against tokens for each weight. compute: loss against effective compute with its knee (Figure 2).
  accuracy: predicted against actual loss (Figure 3). schedules: bars of a schedule sweep (Figure 4). rates: batch size
  against learning rate (Figure 5). phases: start and duration of pruning (Figure 6). density: what is left of each
  matrix of a run. isoflop: loss against size at equal effective compute, with the optimum. frontier: final size against
  loss at equal effective compute, dense and sparse.

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
  data: Annotated[str, typer.Argument(help="File, or for tensorboard the folder of the runs.")],
  source: Annotated[str, typer.Option(help="Where the runs are from: t5, vit, wandb, tensorboard or chinchilla.")],
  out: Annotated[str, typer.Option(help="Where to write the table.")] = "RUNS.csv",
  dense_params: Annotated[
    list[str] | None, typer.Option(help="Prunable weights of runs that do not log them: COUNT or RUN=COUNT.")
  ] = None,
  as_json: Json = False,
) -> None:
  """Turns runs that were published or tracked elsewhere into a RUNS.csv.

  t5 and vit: the published files of Frantar et al. (2023). wandb: a runs table of Weights & Biases, exported as CSV.
  tensorboard: a folder with MaxText's event files, a folder for each run. chinchilla: a CSV of dense runs with params,
  tokens and loss.

  Example: maxtext-sparse convert t5-data.csv --source t5 --out t5.csv

  Example: maxtext-sparse convert runs --source tensorboard --dense-params dense=1.38e8
  """
  with one_line_errors():
    from maxtext_sparse.laws.public_data import convert as converted
    from maxtext_sparse.laws.tracking import parse_dense_params

    table = converted(data, source, parse_dense_params(dense_params or []))
    if os.path.exists(out) and os.path.samefile(data, out):
      raise ConfigError(f"--out={out}: is the published file itself, must be another file")
    try:
      table.to_csv(out, index=False)
    except OSError as error:
      raise ConfigError(f"--out={out}: cannot write ({error.strerror or error})") from error
  if as_json:
    print_json({"out": out, "n": len(table)})
  else:
    print(f"{out}: {len(table)} runs")


def _drawn(drawing: "Drawing | None", out: str) -> list[str]:
  """The files of the figure of an answer."""
  assert drawing is not None
  from maxtext_sparse.plots import decide, style

  with style.in_style():
    return style.save(getattr(decide, f"draw_{drawing.name}")(drawing.data), os.path.join(out, drawing.name))


def _candidates(
  sizes: Sequence[float],
  sparsities: Sequence[float],
  tokens: Sequence[float],
  configs: Sequence[str],
  devices: int,
  keys: Sequence[str],
) -> list["Candidate"]:
  from maxtext_sparse.laws.predict import candidate, candidate_of_config, one_of, parse_schedule

  if not sizes and not configs:
    raise ConfigError("--dense-params: nothing to predict, give sizes and --tokens, or --config")
  if sizes and not tokens:
    raise ConfigError("--tokens: is missing, give the training tokens")
  schedule, asked = parse_schedule(keys)
  one_of(sparsities[0] if sparsities else None, asked)
  if asked is not None:
    sparsities = [asked]
  overrides: list[dict[str, Any]] = [{**schedule, "sparsity": value} for value in sparsities] or [{**schedule}]
  counts: list[float | None] = [*tokens] or [None]
  described = [
    candidate_of_config(path, count, devices, override)
    for path, override, count in itertools.product(configs, overrides, counts)
  ]
  return described + [candidate(*values, schedule) for values in itertools.product(sizes, sparsities or [0.0], tokens)]
