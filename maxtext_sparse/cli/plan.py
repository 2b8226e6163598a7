"""`maxtext-sparse plan` and `maxtext-sparse params`: what a run would do and cost, before it is paid for."""

from typing import Annotated, Any

import typer

from maxtext_sparse.entry import one_line_errors
from maxtext_sparse.terminal import avoid_accelerators, console, print_json

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
_Arguments = Annotated[
  list[str] | None,
  typer.Argument(metavar="[CONFIG ...] [key=value ...]", help="As for train; several files merge left to right."),
]
# Options may be spelt like the config's keys, with underscores.
_SETTINGS = {"token_normalize_func": lambda name: name.replace("_", "-")}


def register(app: typer.Typer) -> None:
  """Adds the commands of this module."""
  app.command(context_settings=_SETTINGS)(plan)
  app.command()(params)


def plan(
  arguments: _Arguments = None,
  steps: Annotated[int | None, typer.Option(help="Length of the run, T.")] = None,
  tokens: Annotated[str | None, typer.Option(help="Or its tokens, such as 33.5B; with --batch or CONFIG.")] = None,
  flops: Annotated[str | None, typer.Option(help="Or its effective FLOPs, such as 1e20.")] = None,
  batch: Annotated[str | None, typer.Option(help="Tokens a step, such as 2097152; CONFIG's by default.")] = None,
  prunable: Annotated[str | None, typer.Option(help="Prunable weights, such as 138M; CONFIG's by default.")] = None,
  chips: Annotated[int | None, typer.Option(min=1, help="Devices: for CONFIG's batch, and to divide twins.")] = None,
  sparsity: Annotated[float | None, typer.Option("--sparsity", "-s", help="S, share of weights removed.")] = None,
  frequency: Annotated[
    int | None, typer.Option("--frequency", "--gmp-pruning-frequency", help="P, steps between events.")
  ] = None,
  dense_fraction: Annotated[
    float | None, typer.Option("--dense-fraction", "--gmp-dense-fraction", help="Share before the first event.")
  ] = None,
  prune_fraction: Annotated[
    float | None, typer.Option("--prune-fraction", "--gmp-prune-fraction", help="Share from first to last event.")
  ] = None,
  fraction_of: Annotated[
    str | None, typer.Option("--fraction-of", "--gmp-fraction-of", help="The shares are of compute or steps.")
  ] = None,
  schedule: Annotated[
    str | None, typer.Option("--schedule", "--pruning-schedule", help="geometric, cubic or linear.")
  ] = None,
  twin: Annotated[bool, typer.Option("--twin", help="The dense models of CONFIG's average size instead.")] = False,
  plot: Annotated[str | None, typer.Option(help="Also draw N(t) into this PNG file.")] = None,
  as_json: _Json = False,
) -> None:
  """The pruning schedule of a run, its phases, sizes and costs; exactly what train would do.

  Give --steps, --tokens with --batch, --flops with --batch and --prunable, or a CONFIG, whose steps, batch, length and
  size are read. Any sparsity key of the config works as key=value too.

  JSON holds gmp_start_step gmp_end_step num_pruning_events average_density final_density dense_fraction prune_fraction
  recovery_fraction effective_flops (null where batch or size is not known); with --tokens, --flops or CONFIG steps and
  tokens too; with --twin twins[], and the other keys only for a single sparsity.

  Example: maxtext-sparse plan --steps 72200 --sparsity 0.5

  Example: maxtext-sparse plan configs/models/162m.yml --chips 32 --sparsity 0.8 --plot plan.png

  Example: maxtext-sparse plan --twin configs/models/162m.yml
  """
  avoid_accelerators()
  from maxtext_sparse.plan.request import RunOptions

  keys = {
    "sparsity": sparsity,
    "gmp_pruning_frequency": frequency,
    "gmp_dense_fraction": dense_fraction,
    "gmp_prune_fraction": prune_fraction,
    "gmp_fraction_of": fraction_of,
    "pruning_schedule": schedule,
  }
  given = [f"{key}={value}" for key, value in keys.items() if value is not None]
  with one_line_errors():
    budget = RunOptions.parse(steps=steps, tokens=tokens, flops=flops, batch=batch, prunable=prunable, num_chips=chips)
    command = _print_twins if twin else _print_plan
    command([*(arguments or []), *given], budget, plot, as_json)


def params(arguments: _Arguments = None, as_json: _Json = False) -> None:
  """Total and prunable parameters of any MaxText config, from shapes alone: params CONFIG [CONFIG ...] [key=value ...]

  Counts what training with the same arguments would prune. Needs no accelerator and no memory for the weights.

  JSON: total, prunable, matrices[] (name, shape, size of each prunable matrix, layers unfolded), left_dense[].

  Example: maxtext-sparse params configs/models/162m.yml

  Example: maxtext-sparse params model_name=deepseek3-671b prune_exclude=self_attention --json
  """
  with one_line_errors():
    avoid_accelerators()
    from maxtext_sparse.plan.models import load_model

    model = load_model(arguments or [])
    if as_json:
      print_json(model.to_dict())
      return
    from maxtext_sparse.plan.text import print_model

    print_model(model, console())


def _print_plan(arguments: list[str], budget: Any, plot: str | None, as_json: bool) -> None:
  from maxtext_sparse.plan.request import plan_run

  planned = plan_run(arguments, budget)
  if plot:
    from maxtext_sparse.plots.plan import save_figure

    save_figure(planned.report, plot)
  if as_json:
    print_json(planned.to_dict())
    return
  from maxtext_sparse.plan.text import print_report

  print_report(planned.report, console(), planned.notes)


def _print_twins(arguments: list[str], budget: Any, plot: str | None, as_json: bool) -> None:
  from maxtext_sparse.config import ConfigError
  from maxtext_sparse.plan.request import plan_twins

  if plot:
    raise ConfigError(f"--plot={plot}: shows one run, leave out --twin")
  found = plan_twins(arguments, budget)
  if as_json:
    print_json(found.to_dict())
    return
  from maxtext_sparse.plan.text import print_twins

  print_twins(found.twins, found.num_prunable, console())
