"""Commands on finished runs: `fit`, `predict`, `recommend`, `plot`, and `convert` for published data."""

from collections.abc import Sequence
import itertools
import math
import os
from typing import Annotated, Any, TYPE_CHECKING

import typer

from maxtext_sparse.cli.help import add, LAWS
from maxtext_sparse.cli.options import amount, Json, share, whole
from maxtext_sparse.errors import ConfigError, one_line_errors
from maxtext_sparse.runs.files import check_writable
from maxtext_sparse.terminal import print_json

if TYPE_CHECKING:  # needs the analysis extra, which a command imports when it runs
  from maxtext_sparse.laws.advice import Drawing
  from maxtext_sparse.laws.predict import Candidate

_Runs = Annotated[str, typer.Argument(metavar="RUNS.csv", help="Table of finished runs, such as sweep collect writes.")]
_Starts = Annotated[str, typer.Option(help="Number of starting points that are drawn from the grid, or all (4,500).")]
_Seed = Annotated[int, typer.Option(help="Seed of the starting points and the resamples.")]
_Resamples = Annotated[
  int, whole("Number of resamples of the runs, at least 2, from which the intervals come.", "--bootstrap")
]
_Keys = Annotated[
  list[str] | None,
  typer.Argument(metavar="[KEY=VALUE ...]", help="Sparsity keys of the schedule, such as pruning_schedule=cubic."),
]
_LAW_NAMES = "Law: average, chinchilla (dense N), chinchilla-final, frantar, multiplier or multiplier-power"
_Law = Annotated[str, typer.Option(help=f"{_LAW_NAMES}.")]
_Size = Annotated[str | None, typer.Option(help="Which size the multiplier laws use: dense (the default) or final.")]
_LossColumn = Annotated[str, typer.Option(help="The column that holds the loss.")]


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
  bootstrap: Annotated[
    int | None,
    whole("Number of resamples of the runs, from which the intervals come; 200 by default, 0 for none."),
  ] = None,
  held_out: Annotated[
    bool, typer.Option("--held-out", help="Also show the error on each sparsity when the law is fitted to the others.")
  ] = False,
  report: Annotated[str | None, typer.Option(help="Folder for a full report: Markdown, HTML, tables, figures.")] = None,
  at: Annotated[
    str | None,
    typer.Option(help="Fit nothing, and show how well these coefficients describe the runs: A=406.4,B=410.7,..."),
  ] = None,
  seed: _Seed = 0,
  as_json: Json = False,
) -> None:
  """Fits a scaling law to runs, or shows all laws side by side.

  The objective is the sum over runs of Huber (delta 1e-3) on log loss. L-BFGS minimises it from many starts, as in the
  paper. If the table has a column `weight`, it says how much each run counts. The multiplier laws show what a sparse
  weight is worth in dense ones, beside what the average law says. With --at, compare the objective and not the
  coefficients, because different coefficients may describe the runs equally well.

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
  sparsity: Annotated[list[float] | None, share("Share removed in the end. It replaces that of a --config.")] = None,
  tokens: Annotated[list[float] | None, amount("tokens", "Training tokens, such as 33.5B.")] = None,
  config: Annotated[
    list[str] | None,
    typer.Option(help="Instead of --dense-params: a MaxText config of a model with the shape of LLaMA 2."),
  ] = None,
  devices: Annotated[
    int, typer.Option(help="Number of devices, where the tokens follow from the batch of --config.")
  ] = 1,
  starts: _Starts = "100",
  bootstrap: _Resamples = 500,
  seed: _Seed = 0,
  as_json: Json = False,
) -> None:
  """Predicts the loss of runs, with a 90 % interval.

  If you repeat options, every size is combined with every sparsity and every number of tokens. The schedule is the
  default one (geometric, 25 % of the compute dense, 50 % pruning), unless you give sparsity keys.

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
  inference_tokens: Annotated[
    float | None, amount("tokens", "Number of tokens that the model serves over its life.")
  ] = None,
  inference_cost: Annotated[
    str,
    typer.Option(
      help="What a zero costs in inference: sparse (nothing), dense (as much as any weight), a break-even density, or "
      "the file of bench --json."
    ),
  ] = "sparse",
  training_cost: Annotated[
    str, typer.Option(help="With --inference-tokens: whether training costs its effective or its hardware FLOPs.")
  ] = "effective",
  best_sparsity: Annotated[
    bool, typer.Option("--optimal-sparsity", help="Instead, show the best sparsity for each size and budget.")
  ] = False,
  max_final_params: Annotated[
    float, amount("dense-params", "Cap on the deployed model's prunable weights, such as 230M.")
  ] = math.inf,
  sparsity: Annotated[float | None, share("Consider only this sparsity, and not all of them up to the cap.")] = None,
  max_sparsity: Annotated[float | None, share("Cap on the sparsity, if not the largest one of the runs.")] = None,
  law: _Law = "average",
  size: _Size = None,
  loss_column: _LossColumn = "loss",
  chips: Annotated[int, typer.Option(help="Number of chips. The hidden size of the shape is a multiple of it.")] = 1,
  vocab_size: Annotated[int, whole("Size of the vocabulary of the shape.")] = 32_000,
  out: Annotated[
    str | None, typer.Option(help="Folder for the figure, with --inference-tokens or --optimal-sparsity.")
  ] = None,
  starts: _Starts = "100",
  bootstrap: _Resamples = 500,
  seed: _Seed = 0,
  as_json: Json = False,
) -> None:
  """Recommends dense size, sparsity and tokens for a training budget and a cap on the deployed model.

  It also shows the nearest MaxText shape that can be trained, and the dense run with the same deployed size and the same
  effective compute.

  With --inference-tokens the quality is fixed instead: the loss of the best dense run that --flops can train. The
  answer is the dense and the sparse run that reach this loss with the least compute for training and serving together,
  and the number of served tokens from which on the sparse run needs less.

  Example: maxtext-sparse recommend RUNS.csv --flops 4.5e20 --max-final-params 230e6

  Example: maxtext-sparse recommend RUNS.csv --flops 4.5e20 --inference-tokens 1e12 --out figures

  Example: maxtext-sparse recommend RUNS.csv --optimal-sparsity --law frantar
  """
  with one_line_errors():
    from maxtext_sparse.laws.advice import Question
    from maxtext_sparse.laws.predict import one_of, parse_schedule
    from maxtext_sparse.laws.request import FitRequest

    schedule, asked = parse_schedule(keys or [], sparsity_asked=0.5)
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
  figure: Annotated[str, typer.Argument(metavar="FIGURE", help="One of the figures above.")],
  inputs: Annotated[
    list[str],
    typer.Argument(metavar="INPUT ...", help="RUNS.csv; for compute metrics files, for density the folder of a run."),
  ],
  out: Annotated[str, typer.Option(help="Folder for FIGURE.png and FIGURE.svg.")] = ".",
  law: Annotated[
    str, typer.Option(help="The law of isoflop and frontier; accuracy takes several, separated by commas, or all.")
  ] = "average",
  as_json: Json = False,
) -> None:
  """Draws a figure from runs, as PNG and SVG.

  Numbers of figures are those of the paper.

  Figures:
    pairs: Size N(t) and loss of sparse and dense runs of equal average size (Figure 1).
    gap: Loss of sparse runs minus that of their dense twins, against tokens for each weight.
    compute: Loss against effective compute, with the bend that pruning makes (Figure 2).
    accuracy: Predicted against actual loss (Figure 3).
    schedules: Loss of each pruning schedule of a sweep, as bars (Figure 4).
    rates: Loss over batch size and learning rate (Figure 5).
    phases: Loss over the start and the duration of pruning (Figure 6).
    density: What is left of each matrix of a run.
    isoflop: Loss against size at equal effective compute, with the optimum.
    frontier: Final size against loss at equal effective compute, dense and sparse.

  Example: maxtext-sparse plot accuracy RUNS.csv --law average --out figures

  Example: maxtext-sparse plot compute out/s80/metrics.jsonl out/s0/metrics.jsonl
  """
  with one_line_errors():
    from maxtext_sparse.plots import draw

    result = draw(figure, inputs, out, law)
  if as_json:
    print_json(result)
  else:
    print("\n".join([*result["files"], *(f"{name}: {value}" for name, value in result["numbers"].items())]))


def convert(
  data: Annotated[str, typer.Argument(metavar="DATA", help="The file, or for tensorboard the folder of the runs.")],
  source: Annotated[str, typer.Option(help="One of the sources above: t5, vit, wandb, tensorboard or chinchilla.")],
  out: Annotated[str, typer.Option(help="The table to write.")] = "RUNS.csv",
  dense_params: Annotated[
    list[str] | None, typer.Option(help="Prunable weights of runs that do not log them: COUNT or RUN=COUNT.")
  ] = None,
  as_json: Json = False,
) -> None:
  """Turns runs that were published or tracked elsewhere into a RUNS.csv.

  Sources:
    t5, vit: The published files of Frantar et al. (2023).
    wandb: A runs table of Weights & Biases, exported as CSV.
    tensorboard: A folder that holds a folder with MaxText's event files for each run.
    chinchilla: A CSV of dense runs with the columns params, tokens and loss.

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
