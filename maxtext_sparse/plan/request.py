"""From a command line to a planned run: which length was given, and whether MaxText has to be asked."""

from collections.abc import Sequence
import dataclasses
from typing import Any, TYPE_CHECKING

from maxtext_sparse.amounts import parse_amount, parse_count
from maxtext_sparse.arguments import require_model
from maxtext_sparse.config import KEYS, SparsityKeys
from maxtext_sparse.config_files import Loader
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plan.budget import steps_for_flops, steps_for_tokens
from maxtext_sparse.plan.cost import checked_keys, make_plan, RunPlan
from maxtext_sparse.plan.twins import Twin, twin_finder

if TYPE_CHECKING:  # needs jax, which a schedule by itself does not
  from maxtext_sparse.plan.models import Model

# The paper's sparsities (section 4), for twins where none is given.
_PAPER_SPARSITIES = (0.2, 0.4, 0.6, 0.8)
# The length while the config is read and the options decides later. It is long enough for any schedule.
_ANY_STEPS = 1_000_000


@dataclasses.dataclass(frozen=True)
class RunOptions:
  """What the options fix; None for what follows from a CONFIG. At most one of the first three is given.

  Attributes:
    steps: length of the run.
    tokens: length of the run in tokens.
    flops: length of the run in effective FLOPs.
    tokens_per_step: tokens of a global batch.
    num_prunable: prunable weights.
    num_chips: devices of the run.
  """

  steps: int | None = None
  tokens: float | None = None
  flops: float | None = None
  tokens_per_step: int | None = None
  num_prunable: int | None = None
  num_chips: int | None = None

  @classmethod
  def parse(
    cls,
    *,
    steps: int | None,
    tokens: str | None,
    flops: str | None,
    batch: str | None,
    prunable: str | None,
    num_chips: int | None,
  ) -> "RunOptions":
    """Reads the command line's options.

    Raises:
      ConfigError: an amount is not a number, or two lengths are given.
    """
    lengths = {"steps": steps, "tokens": tokens, "flops": flops}
    given = [f"--{name}={value}" for name, value in lengths.items() if value is not None]
    if len(given) > 1:
      raise ConfigError(f"{' '.join(given)}: each gives the length of the run, keep one")
    return cls(
      steps,
      None if tokens is None else parse_amount(tokens, "tokens"),
      None if flops is None else parse_amount(flops, "flops"),
      None if batch is None else parse_count(batch, "batch"),
      None if prunable is None else parse_count(prunable, "prunable"),
      num_chips,
    )

  def length(
    self,
    keys: SparsityKeys,
    num_prunable: int | None,
    tokens_per_step: int | None,
    default: int,
    sizes: Sequence[int] | None = None,
  ) -> int:
    """T, from whichever length was given; `default` if none was. `sizes` as for `build_schedule`."""
    if self.tokens is not None:
      return steps_for_tokens(self.tokens, tokens_per_step)
    if self.flops is not None:
      return steps_for_flops(self.flops, keys, num_prunable, tokens_per_step, sizes)
    return default if self.steps is None else self.steps


@dataclasses.dataclass(frozen=True)
class PlannedRun:
  """A planned run and what to say about it.

  Attributes:
    plan: the run.
    is_length_found: whether its steps follow from a options or a config, and were not given.
    notes: what the user should know.
    model: the config's, None without one.
  """

  plan: RunPlan
  is_length_found: bool
  notes: tuple[str, ...] = ()
  model: "Model | None" = None

  def to_dict(self) -> dict[str, Any]:
    found = {"steps": self.plan.steps, "tokens": self.plan.tokens} if self.is_length_found else {}
    return self.plan.to_dict() | found


@dataclasses.dataclass(frozen=True)
class FoundTwins:
  """Dense twins of one model, and the sparse run that they belong to if it is a single one."""

  num_prunable: int
  twins: tuple[Twin, ...]
  sparse_run: PlannedRun | None = None

  def to_dict(self) -> dict[str, Any]:
    sparse = self.sparse_run.to_dict() if self.sparse_run else {}
    return sparse | {"prunable": self.num_prunable, "twins": [twin.to_dict() for twin in self.twins]}


def plan_run(arguments: Sequence[str], options: RunOptions) -> PlannedRun:
  """Plans the run that `train` with these arguments would be.

  Args:
    arguments: `CONFIG ... key=value ...`. If they are only sparsity keys and `steps`, MaxText is not needed.
    options: what the options fix.

  Raises:
    ConfigError: such a run cannot work.
  """
  raw = dict(_pair(argument) for argument in arguments if "=" in argument)
  if len(raw) == len(arguments) and raw.keys() <= {*KEYS, "steps"}:
    return _plan_without_model(raw, options)
  require_model(arguments)
  return plan_model(_load(arguments, options), options)


def plan_model(model: "Model", options: RunOptions) -> PlannedRun:
  """Plans the run of a config that has already been read."""
  keys = checked_keys(model.flat)
  tokens_per_step = options.tokens_per_step or model.tokens_per_step(options.num_chips)
  sizes = model.rule_sizes(keys)
  steps = options.length(keys, sum(sizes), tokens_per_step, model.steps, sizes)
  plan = RunPlan(keys, model.plan(keys, steps).schedule, sum(sizes), tokens_per_step)
  return PlannedRun(plan, options.steps is None, _batch_notes(model, options), model)


def plan_twins(arguments: Sequence[str], options: RunOptions) -> FoundTwins:
  """Dense twins of the run that `train` with these arguments would be, or of the paper's four sparsities.

  Raises:
    ConfigError: such a run cannot work.
  """
  require_model(arguments)
  model = _load(arguments, options)
  finder = twin_finder(arguments, model.flat, options.num_chips or 1)
  sparsities = (model.keys.sparsity,) if model.keys.sparsity else _PAPER_SPARSITIES
  runs = [plan_model(_with_sparsity(model, sparsity), options) for sparsity in sparsities]
  twins = tuple(finder.find(run.plan.keys.sparsity, run.plan.average_params or 0.0) for run in runs)
  return FoundTwins(model.num_prunable, twins, runs[0] if len(runs) == 1 else None)


def _plan_without_model(raw: dict[str, Any], options: RunOptions) -> PlannedRun:
  if "steps" in raw:
    options = dataclasses.replace(options, steps=parse_count(str(raw.pop("steps")), "steps"))
  if options.steps is None and options.tokens is None and options.flops is None:
    raise ConfigError("steps: the length of the run is missing, give --steps, --tokens, --flops or a CONFIG")
  keys = checked_keys(raw)
  steps = options.length(keys, options.num_prunable, options.tokens_per_step, default=0)
  plan = make_plan(keys, steps, options.num_prunable, options.tokens_per_step)
  return PlannedRun(plan, options.steps is None)


def _load(arguments: Sequence[str], options: RunOptions) -> "Model":
  if options.num_prunable is not None:
    raise ConfigError(f"--prunable={options.num_prunable}: CONFIG has its own count, leave the option out")
  if options.steps is not None:
    arguments = _with_steps(arguments, options.steps)
  elif options.tokens is not None or options.flops is not None:
    arguments = _with_steps(arguments, _ANY_STEPS)
  from maxtext_sparse.plan.models import load_model

  return load_model(arguments)


def _with_steps(arguments: Sequence[str], steps: int) -> list[str]:
  """Replaces the length in the arguments, since no key may be given twice."""
  return [*(argument for argument in arguments if not argument.startswith("steps=")), f"steps={steps}"]


def _with_sparsity(model: "Model", sparsity: float) -> "Model":
  return dataclasses.replace(model, flat=model.flat | {"sparsity": sparsity})


def _batch_notes(model: "Model", options: RunOptions) -> tuple[str, ...]:
  if options.tokens_per_step is not None or options.num_chips is not None or model.flat["compile_topology"]:
    return ()
  if model.flat["enable_rampup_batch_size"]:
    return ("the batch ramps up, so tokens and FLOPs are not known",)
  return (f"the batch is that of {model.flat['num_target_devices']} device(s), give --chips for those of the run",)


def _pair(argument: str) -> tuple[str, Any]:
  """`key=value` with the value read as YAML, as MaxText does."""
  import yaml

  key, _, value = argument.partition("=")
  return key, yaml.load(value, Loader=Loader)
