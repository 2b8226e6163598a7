"""`maxtext-sparse plan`, `params` and `preflight`: what a run would do and cost, before it is paid for."""

import sys
from typing import Annotated, Any

import typer

from maxtext_sparse.cli.help import add, PLAN
from maxtext_sparse.cli.options import Json, RunArguments, share, whole
from maxtext_sparse.errors import ConfigError, one_line_errors
from maxtext_sparse.terminal import avoid_accelerators, console, print_json

# Options of `plan` that are no keys.
_ONLY_OPTIONS = ("tokens", "flops", "batch", "prunable", "chips", "frequency", "schedule", "topology", "mfu", "price")
# Options may be spelt like the config's keys, with underscores.
_SETTINGS = {"token_normalize_func": lambda name: name.replace("_", "-")}


def _length(text: str) -> Any:
  return typer.Option(help=text, rich_help_panel="Length of the run")


def _size(text: str, **checks: Any) -> Any:
  return typer.Option(help=text, rich_help_panel="Size of the run", **checks)


def _schedule(text: str, *names: str) -> Any:
  return typer.Option(*names, help=text, rich_help_panel="Pruning schedule")


def _price(text: str, **checks: Any) -> Any:
  return typer.Option(help=text, rich_help_panel="Price of the run", **checks)


Steps = Annotated[int | None, whole("Number of training steps, T.", rich_help_panel="Length of the run")]
Tokens = Annotated[str | None, _length("Number of training tokens instead, such as 33.5B. Needs --batch or CONFIG.")]
Flops = Annotated[
  str | None, _length("Effective training FLOPs instead, such as 1e20. Needs --batch and --prunable, or CONFIG.")
]
Batch = Annotated[str | None, _size("Tokens in a step, such as 2097152, if they are not those of CONFIG.")]
Prunable = Annotated[str | None, _size("Number of prunable weights, such as 138M, if there is no CONFIG.")]
Chips = Annotated[
  int | None,
  _size(
    "Number of devices. CONFIG gives the batch of one device. The hidden size of a twin is a multiple of this number.",
    min=1,
  ),
]
Sparsity = Annotated[
  float | None,
  share("S, the share of prunable weights that is removed.", "--sparsity", "-s", rich_help_panel="Pruning schedule"),
]
Frequency = Annotated[int | None, _schedule("P, steps between pruning events.", "--frequency", "--gmp-pruning-frequency")]
DenseFraction = Annotated[
  float | None, _schedule("Share of the run before the first event.", "--dense-fraction", "--gmp-dense-fraction")
]
PruneFraction = Annotated[
  float | None,
  _schedule("Share of the run from the first to the last event.", "--prune-fraction", "--gmp-prune-fraction"),
]
FractionOf = Annotated[
  str | None,
  _schedule(
    "Whether these two are shares of the compute or of the steps: compute or steps.", "--fraction-of", "--gmp-fraction-of"
  ),
]
ScheduleForm = Annotated[
  str | None,
  _schedule("How the density falls: geometric, cubic or linear.", "--schedule", "--pruning-schedule"),
]

Mfu = Annotated[
  float | None,
  typer.Option(
    min=0.001,
    max=1.0,
    help="Measured utilisation of the chips (MFU), such as 0.45. Without it, times are those at peak rates.",
  ),
]
Price = Annotated[float | None, typer.Option(min=0.0, help="Price of one chip for one hour in dollars, such as 1.2.")]
PricedTopology = Annotated[
  str | None, _price("Also show hours and cost on this TPU topology, such as v5p-128. Needs CONFIG.")
]
AssumedMfu = Annotated[
  float | None, _price("Utilisation of the chips (MFU). Without it, 0.4 is assumed.", min=0.001, max=1.0)
]
ChipPrice = Annotated[float | None, _price("Price of one chip for one hour in dollars, such as 1.2.", min=0.0)]
Compared = Annotated[
  tuple[str, str] | None,
  typer.Option(
    metavar="A B",
    help="Compare two configs, such as 1b.yml '1b.yml sparsity=0.5', or folders of two Python environments.",
  ),
]


def register(app: typer.Typer) -> None:
  """Adds the commands of this module."""
  add(app, plan, PLAN, context_settings=_SETTINGS)
  add(app, params, PLAN)
  add(app, preflight, PLAN)


def plan(
  arguments: RunArguments = None,
  steps: Steps = None,
  tokens: Tokens = None,
  flops: Flops = None,
  batch: Batch = None,
  prunable: Prunable = None,
  chips: Chips = None,
  sparsity: Sparsity = None,
  frequency: Frequency = None,
  dense_fraction: DenseFraction = None,
  prune_fraction: PruneFraction = None,
  fraction_of: FractionOf = None,
  schedule: ScheduleForm = None,
  topology: PricedTopology = None,
  mfu: AssumedMfu = None,
  price: ChipPrice = None,
  twin: Annotated[
    bool, typer.Option("--twin", help="Instead, show the dense models that have the average size of this run.")
  ] = False,
  plot: Annotated[
    str | None, typer.Option(metavar="FILE", help="Also draw the active weights over the run into this PNG file.")
  ] = None,
  as_json: Json = False,
) -> None:
  """Shows the pruning schedule of a run with its phases, sizes and costs.

  It is exactly the schedule that train would follow. Give --steps, or --tokens with --batch, or --flops with --batch and
  --prunable. Or give a CONFIG, from which the length, the batch and the size are read. Any sparsity key works as
  key=value too.

  Keys of --json: gmp_start_step, gmp_end_step, num_pruning_events, average_density, final_density, dense_fraction,
  prune_fraction, recovery_fraction, effective_flops (null if batch or size is not known); with --tokens, --flops or
  CONFIG also steps and tokens; with --topology cost (hours, chip_hours, dollars, phases, pace); with --twin twins[], and
  the other keys only for a single sparsity.

  Example: maxtext-sparse plan --steps 72200 --sparsity 0.5

  Example: maxtext-sparse plan configs/models/162m.yml --chips 32 --sparsity 0.8 --plot plan.png

  Example: maxtext-sparse plan configs/models/1b.yml sparsity=0.8 --topology v5p-128 --mfu 0.45 --price 4.2

  Example: maxtext-sparse plan --twin configs/models/162m.yml
  """
  avoid_accelerators()
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
    from maxtext_sparse.arguments import check_arguments
    from maxtext_sparse.plan.request import RunOptions

    _refuse_options_as_keys(arguments or [])
    has_length = steps is None and tokens is None and flops is None
    check_arguments([*(arguments or []), *given], has_length=has_length)
    if topology is not None:
      from maxtext_sparse.plan.prices import num_devices

      chips = num_devices(topology, chips)
    options = RunOptions.parse(steps=steps, tokens=tokens, flops=flops, batch=batch, prunable=prunable, num_chips=chips)
    if twin:
      _print_twins([*(arguments or []), *given], options, plot, as_json)
    else:
      _print_plan([*(arguments or []), *given], options, plot, as_json, topology, mfu, price)


def _refuse_options_as_keys(arguments: list[str]) -> None:
  """Some of what a plan needs is no key of MaxText's, although it stands among keys in a user's mind."""
  for word in arguments:
    name, separator, value = word.partition("=")
    if separator and name in _ONLY_OPTIONS:
      raise ConfigError(f"{word}: MaxText has no such key, this is the option --{name} {value}")


def params(arguments: RunArguments = None, as_json: Json = False) -> None:
  """Counts the total and the prunable parameters of any MaxText config from shapes alone.

  The count is what training with the same arguments would prune. It needs neither an accelerator nor memory for the
  weights.

  Keys of --json: total, prunable, matrices[] (name, shape and size of each prunable matrix, each layer its own),
  left_dense[].

  Example: maxtext-sparse params configs/models/162m.yml

  Example: maxtext-sparse params model_name=deepseek3-671b prune_exclude=self_attention --json
  """
  with one_line_errors():
    avoid_accelerators()
    from maxtext_sparse.arguments import check_arguments
    from maxtext_sparse.plan.models import load_model

    check_arguments(arguments or [])
    model = load_model(arguments or [])
    if as_json:
      print_json(model.to_dict())
      return
    from maxtext_sparse.plan.text import print_model

    print_model(model, console())


def preflight(
  arguments: RunArguments = None,
  topology: Annotated[str, typer.Option(help="A TPU topology whose name MaxText knows, such as v5p-128.")] = ...,  # type: ignore[assignment]  # required, although a default comes before it
  slices: Annotated[int, typer.Option(min=1, help="Number of slices of that topology.")] = 1,
  mfu: Mfu = None,
  price: Price = None,
  compare: Compared = None,
  jobs: Annotated[int, typer.Option(min=1, help="Number of compilations at a time. Each takes a core and a few GB.")] = 2,
  as_json: Json = False,
) -> None:
  """Compiles the real train step for a TPU topology on this machine, dense and sparse, and compares what they need.

  It needs no TPU, only the libtpu that MaxText brings, and takes minutes. It counts FLOPs, bytes and collectives with
  every loop, and gives the time of a step, of the gradient mask and of an event, and the hours of the run. The exit
  status is 1 if the sparse step does not fit into the memory of the chips.

  Keys of --json: dense and sparse, each with argument_bytes, temp_bytes, output_bytes, flops, accessed_bytes, hbm_bytes,
  event_bytes and collectives; added_collectives[], fits, bars, peak_seconds, pace (seconds of a dense step, the mask, an
  event), run (steps, hours, chip_hours, dollars). With --compare: A, B (each as above) and ratios of B over A.

  Example: maxtext-sparse preflight configs/models/1b.yml --topology v5p-128 sparsity=0.8 --mfu 0.45 --price 4.2

  Example: maxtext-sparse preflight --topology v5e-16 sparsity=0.8 --compare model_name=llama2-7b model_name=mistral-7b

  Example: maxtext-sparse preflight configs/models/1b.yml --topology v5p-128 sparsity=0.8 --compare .venv-0.2.4 .venv
  """
  if compare is not None:
    given = {"--mfu": mfu, "--price": price, "--slices": slices, "--jobs": jobs, "--topology": topology}
    options = [f"{name}={value}" for name, value in given.items() if value is not None]
    _print_both(arguments or [], compare, options, as_json)
    return
  with one_line_errors():
    from maxtext_sparse.preflight.compare import compare as compare_steps
    from maxtext_sparse.preflight.text import Options, print_comparison, to_dict

    comparison = compare_steps(arguments or [], topology, slices, jobs, _tell)
    known = Options(mfu, price)
  if as_json:
    print_json(to_dict(comparison, known))
  else:
    print_comparison(comparison, known, console())
  if not comparison.fits:
    raise typer.Exit(1)


def _tell(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def _print_both(arguments: list[str], compared: tuple[str, str], options: list[str], as_json: bool) -> None:
  """Runs the preflights of both sides, one after the other, and prints them."""
  with one_line_errors():
    from maxtext_sparse.preflight.side_by_side import print_both, ratios, run_side, Side

    sides = [Side.parse(text) for text in compared]
    told = [run_side(side, arguments, options, _tell) for side in sides]
  if as_json:
    print_json(dict(zip("AB", told)) | {"ratios": ratios(*told)})
  else:
    print_both(sides, told, console())
  if not all(content["fits"] for content in told):
    raise typer.Exit(1)


def _print_plan(
  arguments: list[str],
  options: Any,
  plot: str | None,
  as_json: bool,
  topology: str | None,
  mfu: float | None,
  price: float | None,
) -> None:
  from maxtext_sparse.plan.prices import price_run
  from maxtext_sparse.plan.request import plan_run

  planned = plan_run(arguments, options)
  priced = None if topology is None else price_run(planned, topology, mfu, price)
  if plot is not None:
    from maxtext_sparse.plots.plan import save_figure

    save_figure(planned.plan, plot)
  if as_json:
    print_json(planned.to_dict() | ({"cost": priced.to_dict()} if priced else {}))
    return
  from maxtext_sparse.plan.text import print_plan, print_price

  print_plan(planned.plan, console(), planned.notes)
  if priced:
    print_price(priced, console())


def _print_twins(arguments: list[str], options: Any, plot: str | None, as_json: bool) -> None:
  from maxtext_sparse.plan.request import plan_twins

  if plot is not None:
    raise ConfigError(f"--plot={plot}: draws one run, leave out --twin")
  found = plan_twins(arguments, options)
  if as_json:
    print_json(found.to_dict())
    return
  from maxtext_sparse.plan.text import print_twins

  print_twins(found.twins, found.num_prunable, console())
