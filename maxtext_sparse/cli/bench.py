"""Whether sparse inference pays on this machine: `bench`."""

import importlib.util
import sys
from typing import Annotated

import typer

from maxtext_sparse.cli.help import add, MODELS
from maxtext_sparse.cli.options import Json
from maxtext_sparse.errors import ConfigError, one_line_errors
from maxtext_sparse.terminal import console, print_json


def register(app: typer.Typer) -> None:
  """Adds the command of this module."""
  add(app, bench, MODELS)


def bench(
  folder: Annotated[
    str, typer.Argument(metavar="FOLDER", help="A Hugging Face folder, dense or bitmask, that export wrote.")
  ],
  cpus: Annotated[str, typer.Option(help="The cores to use, such as 0,1, with one thread on each, if not all.")] = "",
  rounds: Annotated[
    int, typer.Option(min=1, help="How often each variant is timed. Medians and intervals are over these times.")
  ] = 7,
  tokens: Annotated[int, typer.Option(min=1, help="Number of tokens that are generated each time.")] = 24,
  out: Annotated[str | None, typer.Option(help="Folder for inference.png and inference.svg.")] = None,
  as_json: Json = False,
) -> None:
  """Times text generation on this CPU with dense weights, torch's sparse weights and ours.

  The variants are dense in fp32, bf16 and int8, torch's CSR format, and our format with bf16 and int8 values. They take
  turns on the same cores. Close other programs first.

  Example: maxtext-sparse bench exported --out figures
  """
  from maxtext_sparse.inference.comparison import BenchPlan, compare
  from maxtext_sparse.inference.library import allowed_cpus
  from maxtext_sparse.inference.text import print_result

  with one_line_errors():
    _expect_packages()
    if out:
      # Before the measurement: whether matplotlib is here must not be found out after it.
      from maxtext_sparse.plots.inference import save_comparison
    chosen = tuple(allowed_cpus()) if not cpus else _parsed(cpus)
    plan = BenchPlan(folder, chosen, rounds, tokens)
    result = compare(plan, lambda line: print(line, file=sys.stderr, flush=True))
    if out:
      result["files"] = save_comparison(result, out)
  if as_json:
    print_json(result)
  else:
    print_result(result, console(160))


def _parsed(cpus: str) -> tuple[int, ...]:
  try:
    return tuple(int(core) for core in cpus.split(","))
  except ValueError:
    raise ConfigError(f"--cpus={cpus}: must be core numbers separated by commas, such as 0,1") from None


def _expect_packages() -> None:
  missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
  if missing:
    needs = "pip install 'maxtext-sparse[inference]'"
    raise ConfigError(f"bench needs {' and '.join(missing)}, not installed here: {needs}")
