"""What the demo prints about its data, its length and its results."""

from collections.abc import Callable, Mapping
import platform

from rich.console import Console

from maxtext_sparse.demo.results import RunResult
from maxtext_sparse.demo.training import tokens_per_step
from maxtext_sparse.local.corpus import Corpus
from maxtext_sparse.plan.twins import Twin
from maxtext_sparse.terminal import new_table, print_table, say

# Tokens for each prunable weight in the paper's runs.
_ENOUGH = 200
# A matrix with a smaller density than this hardly does anything any more.
COLLAPSED = 0.01


def data_source() -> str:
  """What the demo trains on, in a few words."""
  return f"the .py and .txt files of the standard library of Python {platform.python_version()}"


def print_data(console: Console, corpus: Corpus, steps: int) -> None:
  """Prints what the runs train on and for how long."""
  say(console, f"data: {data_source()}, {corpus.train_chars:,} characters to train on, {corpus.eval_chars:,} held out")
  tokens = tokens_per_step()
  say(console, f"length: {steps:,} steps of {tokens:,} tokens for each run, {steps * tokens:,} tokens")


def print_comparison(
  console: Console, results: Mapping[str, RunResult], titles: Mapping[str, str], twin: Twin, steps: int
) -> None:
  """Prints the figures of all runs, what they mean, and what to keep in mind about them.

  Args:
    console: where to.
    results: `dense`, `sparse` and `twin` -> its figures.
    titles: name of each run -> what it is called.
    twin: the dense runs of which the twin's figures are made.
    steps: number of steps of each run.
  """
  table = new_table(
    ["", *(titles[name] for name in results)],
    title="Dense, sparse, and dense with its average size: the same tokens",
  )
  for label, shown in _LINES.items():
    table.add_row(label, *(shown(result) for result in results.values()))
  print_table(console, table)
  say(console, conclusion(results["sparse"], results["twin"]))
  if len(twin.neighbours) > 1:
    sizes = " and ".join(f"{neighbour.num_prunable:,}" for neighbour in twin.neighbours)
    say(console, f"The twin's figures lie between those of two dense runs, with {sizes} parameters.")
  for name, result in results.items():
    if result.thinnest_density < COLLAPSED:
      left = f"{result.thinnest_density:.2%} of its weights are left"
      say(console, f"{titles[name]}: {result.thinnest_matrix} has collapsed, {left}")
  tokens = steps * tokens_per_step()
  ratio = tokens / results["dense"].final_params
  say(console, f"Each run read {tokens:,} tokens, {ratio:.3g} for each prunable weight of the sparse one.")
  if ratio < _ENOUGH:
    say(console, f"That is short: the paper's runs have more than {_ENOUGH}, and shorter sparse runs end worse.")


def conclusion(sparse: RunResult, twin: RunResult) -> str:
  """What the numbers say about the claim of the paper, in one sentence."""
  gap = sparse.eval_loss - twin.eval_loss
  side = "above" if gap > 0 else "below"
  return (
    f"With the same tokens and about the same training compute, the sparse run ends {abs(gap):.3f} {side} its dense twin "
    f"({100 * abs(gap) / twin.eval_loss:.1f} % of the loss), and has {twin.final_params / sparse.final_params:.2f} times "
    "fewer parameters at the end."
  )


def _thinnest(result: RunResult) -> str:
  if result.thinnest_matrix is None:
    return "-"
  # Only the end of the path, so that the table fits into 80 columns.
  name = result.thinnest_matrix.replace("/kernel", "").rpartition("/")[2]
  return f"{result.thinnest_density:.1%} {name}"


# Line of the table -> its text for a run.
_LINES: dict[str, Callable[[RunResult], str]] = {
  "eval loss (nats per token)": lambda result: f"{result.eval_loss:.3f}",
  "parameters at the end": lambda result: f"{result.final_params:,}",
  "average parameters": lambda result: f"{result.average_params:,.0f}",
  "effective FLOPs": lambda result: f"{result.effective_flops:.3g}",
  "exported bytes (bf16)": lambda result: f"{result.export_bytes:,}",
  "thinnest matrix": _thinnest,
  "wall time (s)": lambda result: f"{result.seconds:.0f}",
}
