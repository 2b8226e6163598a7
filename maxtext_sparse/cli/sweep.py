"""`maxtext-sparse sweep`: a study of many runs, from a sweep file to the table that `fit` reads."""

import sys
from typing import Annotated

import typer

from maxtext_sparse.errors import one_line_errors
from maxtext_sparse.terminal import avoid_accelerators, console, print_json

sweep_app = typer.Typer(
  no_args_is_help=True,
  rich_markup_mode=None,
  pretty_exceptions_enable=False,
  help="A study of many runs: make its folder, run it here or on a cluster, collect what came out.",
)

_Folder = Annotated[str, typer.Argument(metavar="DIR", help="Folder that `sweep make` wrote.")]
_INTERRUPTED_STATUS = 130
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@sweep_app.command()
def make(
  spec: Annotated[str, typer.Argument(metavar="SPEC", help="Sweep file, such as configs/sweeps/law.yml.")],
  out: Annotated[str, typer.Option(help="Folder to write; one that is there is brought up to date.")],
  as_json: _Json = False,
) -> None:
  """Writes manifest.json and one complete config per run, runs/NAME.yml; trains nothing.

  The same sweep file gives the same bytes. Runs that have begun are never changed: a sweep file that would is refused.

  Example: maxtext-sparse sweep make configs/sweeps/schedules.yml --out schedules
  """
  avoid_accelerators()
  with one_line_errors():
    from maxtext_sparse.sweeps.make import make as make_sweep

    made = make_sweep(spec, out)
    if as_json:
      counts = {name: getattr(made, name) for name in ("name", "num_runs", "num_trunks", "steps", "steps_alone")}
      runs = [run.to_dict() for run in made.runs]
      print_json({"out": out} | counts | {"saved_fraction": round(made.saved, 6), "runs": runs})
      return
    from maxtext_sparse.sweeps.text import print_made

    print_made(made, console(width=140))


@sweep_app.command()
def run(
  directory: _Folder,
  jobs: Annotated[int, typer.Option(min=1, help="Runs at a time; each keeps to its share of the CPU cores.")] = 1,
  only: Annotated[str | None, typer.Option(help="Only runs whose name matches, such as '*-s80-*'.")] = None,
  as_json: _Json = False,
) -> None:
  """Trains every run that is not finished, here, each in a process of its own with a log in DIR/logs.

  Stop it in any way and call it again: each run goes on from its last checkpoint. Exits with 1 if a run failed; the
  others are trained all the same.

  Example: maxtext-sparse sweep run mini-law --jobs 2
  """
  with one_line_errors():
    from rich.console import Console

    from maxtext_sparse.sweeps.run import run_sweep

    try:
      states = run_sweep(directory, jobs, only, Console(stderr=as_json, highlight=False))
    except KeyboardInterrupt:
      print(f"\ninterrupted; the same command goes on from the last checkpoints in {directory}", file=sys.stderr)
      raise SystemExit(_INTERRUPTED_STATUS) from None
  if as_json:
    print_json({name: state.to_dict() for name, state in states.items()})
  if any(state.state != "done" for state in states.values()):
    raise SystemExit(1)


@sweep_app.command()
def status(directory: _Folder, as_json: _Json = False) -> None:
  """Where every run stands: waiting, running, stopped, failed or done; steps, loss, density.

  The loss of a run that is done is its final eval's, of the others the latest training loss.

  Example: maxtext-sparse sweep status mini-law
  """
  with one_line_errors():
    from maxtext_sparse.runs.files import is_locked
    from maxtext_sparse.sweeps.manifest import read_manifest
    from maxtext_sparse.sweeps.state import read_notes, run_status

    manifest = read_manifest(directory)
    notes, at_work = read_notes(directory), is_locked(directory)
    rows = [(run, run_status(manifest, run, notes, at_work)) for run in manifest.runs]
    if as_json:
      entries = [{"run": run.name, "kind": run.kind, "steps": run.steps} | state.to_dict() for run, state in rows]
      print_json({"name": manifest.name, "runs": entries})
      return
    from maxtext_sparse.sweeps.text import print_states

    print_states(rows, console(width=140))


@sweep_app.command()
def collect(
  directory: _Folder,
  out: Annotated[str | None, typer.Option(help="Table to write; RUNS.csv in DIR by default.")] = None,
  allow_unfinished: Annotated[bool, typer.Option("--allow-unfinished", help="Leave out runs that are not done.")] = False,
  as_json: _Json = False,
) -> None:
  """Writes the table that `fit` and `plot` read, a row for each run; refuses while runs are not finished.

  Columns: run, sparsity, dense_params, average_params, final_params, tokens, loss (final eval), gmp_dense_fraction,
  gmp_prune_fraction, learning_rate, batch_tokens, and the sweep's axes.

  Example: maxtext-sparse sweep collect mini-law --out runs.csv
  """
  import os

  with one_line_errors():
    from maxtext_sparse.sweeps.collect import collect as collect_rows
    from maxtext_sparse.sweeps.collect import table_text, write_table

    rows = collect_rows(directory, allow_unfinished)
    path = out or os.path.join(directory, "RUNS.csv")
    write_table(path, rows)
  if as_json:
    print_json({"out": path, "runs": rows})
    return
  print(table_text(rows), end="")
  print(f"table: {path}", file=sys.stderr)
