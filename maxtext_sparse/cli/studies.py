"""`maxtext-sparse sweep`: studies of many runs, from a sweep file to the table that `fit` reads."""

import sys
from typing import Annotated

import typer

from maxtext_sparse.cli.cluster import submit, XpkCommand
from maxtext_sparse.cli.help import add, new_group, STUDY
from maxtext_sparse.cli.options import Json
from maxtext_sparse.errors import one_line_errors, print_aside
from maxtext_sparse.terminal import avoid_accelerators, console, print_json

_Folder = Annotated[str, typer.Argument(metavar="DIR", help="The folder that `sweep make` wrote.")]
_INTERRUPTED_STATUS = 130


def register(app: typer.Typer) -> None:
  """Adds the commands of this module, and `submit` of the cluster's."""
  sweeps = new_group("Makes a study of many runs, trains it here or on a cluster, and collects the results.")
  for command in (make, run, status, collect, report):
    add(sweeps, command)
  add(sweeps, submit, cls=XpkCommand)
  app.add_typer(sweeps, name="sweep", rich_help_panel=STUDY)


def make(
  spec: Annotated[str, typer.Argument(metavar="SPEC", help="A sweep file, such as configs/sweeps/law.yml.")],
  out: Annotated[str, typer.Option(help="Folder to write. A folder that exists is brought up to date.")],
  topology: Annotated[
    str | None, typer.Option(help="Also show what the study costs on this TPU topology, such as v5e-32.")
  ] = None,
  mfu: Annotated[
    float | None, typer.Option(min=0.001, max=1.0, help="Utilisation of its chips (MFU). Without it, 0.4 is assumed.")
  ] = None,
  price: Annotated[
    float | None, typer.Option(min=0.0, help="Price of one chip for one hour in dollars, such as 1.2.")
  ] = None,
  as_json: Json = False,
) -> None:
  """Writes the folder of a sweep: manifest.json, and one complete config runs/NAME.yml for each run.

  This trains nothing. The same sweep file always gives the same files. If the sweep file has changed in a way that would
  change a run that has begun, it is refused.

  Example: maxtext-sparse sweep make configs/sweeps/schedules.yml --out schedules --topology v5e-32 --price 1.2
  """
  avoid_accelerators()
  with one_line_errors():
    from maxtext_sparse.sweeps.make import make as make_sweep
    from maxtext_sparse.sweeps.price import price_study

    made = make_sweep(spec, out)
    cost = price_study(made, int(made.spec["devices"]), topology, mfu, price) if topology else None
    if as_json:
      counts = {name: getattr(made, name) for name in ("name", "num_runs", "num_trunks", "steps", "steps_alone")}
      runs = [run.to_dict() for run in made.runs]
      costs = {"cost": cost.to_dict()} if cost else {}
      print_json({"out": out} | counts | {"saved_fraction": round(made.saved, 6), "runs": runs} | costs)
      return
    from maxtext_sparse.sweeps.text import print_made, print_study_cost

    print_made(made, console(width=140))
    if cost:
      print_study_cost(cost, console())


def run(
  directory: _Folder,
  jobs: Annotated[
    int, typer.Option(min=1, help="Number of runs at a time. Each keeps to its share of the CPU cores.")
  ] = 1,
  only: Annotated[
    str | None, typer.Option(metavar="GLOB", help="Train only the runs whose name matches, such as '*-s80-*'.")
  ] = None,
  as_json: Json = False,
) -> None:
  """Trains every unfinished run on this machine, each in its own process with a log in DIR/logs.

  If it stops, for whatever reason, call it again: each run goes on from its last checkpoint. The exit status is 1 if a
  run failed. The other runs are trained all the same.

  Example: maxtext-sparse sweep run mini-law --jobs 2
  """
  with one_line_errors():
    from rich.console import Console

    from maxtext_sparse.sweeps.run import run_sweep

    try:
      states = run_sweep(directory, jobs, only, Console(stderr=as_json, highlight=False))
    except KeyboardInterrupt:
      print(file=sys.stderr)  # the terminal shows ^C at the end of a line
      print_aside(f"interrupted; the same command goes on from the last checkpoints in {directory}")
      raise SystemExit(_INTERRUPTED_STATUS) from None
  if as_json:
    print_json({name: state.to_dict() for name, state in states.items()})
  if any(state.state != "done" for state in states.values()):
    raise SystemExit(1)


def status(directory: _Folder, as_json: Json = False) -> None:
  """Shows whether each run is waiting, running, stopped, failed or done, with its steps, loss and density.

  The loss of a finished run is that of its final eval. The loss of the others is their latest training loss.

  Example: maxtext-sparse sweep status mini-law
  """
  with one_line_errors():
    from maxtext_sparse.runs.files import is_locked
    from maxtext_sparse.sweeps.manifest import read_manifest
    from maxtext_sparse.sweeps.state import all_statuses

    manifest = read_manifest(directory)
    rows = all_statuses(manifest, manifest.runs, is_active=is_locked(directory))
    if as_json:
      entries = [{"run": run.name, "kind": run.kind, "steps": run.steps} | state.to_dict() for run, state in rows]
      print_json({"name": manifest.name, "runs": entries})
      return
    from maxtext_sparse.sweeps.text import print_states

    print_states(rows, console(width=140))


def collect(
  directory: _Folder,
  out: Annotated[str | None, typer.Option(help="The table to write, if not RUNS.csv in DIR.")] = None,
  allow_unfinished: Annotated[
    bool, typer.Option("--allow-unfinished", help="Leave out the runs that are not finished.")
  ] = False,
  as_json: Json = False,
) -> None:
  """Writes the table that `fit` and `plot` read, with one row for each run.

  It does so only when all runs are finished, or with --allow-unfinished.

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


def report(
  directory: _Folder,
  out: Annotated[str | None, typer.Option(help="The folder to write, if not report in DIR.")] = None,
  law: Annotated[str, typer.Option(help="Law that is fitted to the runs.")] = "average",
  allow_unfinished: Annotated[
    bool, typer.Option("--allow-unfinished", help="Leave out the runs that are not finished.")
  ] = False,
  as_json: Json = False,
) -> None:
  """Writes a report of the study: its runs, their curves and sizes, a law and the best sizes.

  The folder holds report.md with its tables and figures, and report.html, which has the same in one file.

  Example: maxtext-sparse sweep report mini-law --out report
  """
  import os

  with one_line_errors():
    from maxtext_sparse.reports.study_report import write_study_report

    result = write_study_report(directory, out or os.path.join(directory, "report"), allow_unfinished, law)
  if as_json:
    print_json(result)
  else:
    print("\n".join([*result["files"], *(f"left out: {line}" for line in result["left_out"])]))
