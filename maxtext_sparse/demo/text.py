"""What the demo prints about its data, its length and its results."""

from collections.abc import Callable, Mapping
import platform

from rich.console import Console

from maxtext_sparse.demo.results import RunResult
from maxtext_sparse.demo.training import tokens_per_step
from maxtext_sparse.local.corpus import Corpus
from maxtext_sparse.terminal import new_table, say

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


def print_comparison(console: Console, results: Mapping[str, RunResult], titles: Mapping[str, str], steps: int) -> None:
  """Prints the figures of both runs, and what to keep in mind about them: a collapsed matrix, and the short training.

  Args:
    console: where to.
    results: name of each run -> its figures.
    titles: name of each run -> what it is called.
    steps: number of steps of each run.
  """
  table = new_table(
    ["", *(titles[name] for name in results)], title="A dense and a sparse run on Python's own source text"
  )
  for label, shown in _LINES.items():
    table.add_row(label, *(shown(result) for result in results.values()))
  console.print(table)
  for name, result in results.items():
    if result.thinnest_density < COLLAPSED:
      left = f"{result.thinnest_density:.2%} of its weights are left"
      say(console, f"{titles[name]}: {result.thinnest_matrix} has collapsed, {left}")
  tokens = steps * tokens_per_step()
  prunable = max(result.final_params for result in results.values())
  ratio = f"{tokens / prunable:.2g} for each prunable weight"
  say(console, f"These runs are short: {tokens:,} tokens, {ratio}. The paper's runs have more than 200.")


def _thinnest(result: RunResult) -> str:
  if result.thinnest_matrix is None:
    return "-"
  name = result.thinnest_matrix.removeprefix("decoder/").removeprefix("layers/").replace("/kernel", "")
  return f"{result.thinnest_density:.1%} {name}"


# Line of the table -> its text for a run.
_LINES: dict[str, Callable[[RunResult], str]] = {
  "eval loss (nats per token)": lambda result: f"{result.eval_loss:.3f}",
  "parameters at the end": lambda result: f"{result.final_params:,}",
  "average parameters": lambda result: f"{result.average_params:,.0f}",
  "effective FLOPs": lambda result: f"{result.effective_flops:.3g}",
  "density at the end": lambda result: f"{result.density:.1%}",
  "thinnest matrix": _thinnest,
  "wall time (s)": lambda result: f"{result.seconds:.0f}",
}
