"""The `maxtext-sparse` command. One module per group of commands; each imports what it needs when it runs."""

import sys
from typing import Annotated

import typer

from maxtext_sparse import __version__
from maxtext_sparse.cli import export, laws, plan
from maxtext_sparse.cli.doctor import doctor
from maxtext_sparse.cli.launch import launch_app, register_submit
from maxtext_sparse.cli.patch import patch_app
from maxtext_sparse.cli.preflight import preflight
from maxtext_sparse.cli.sweep import sweep_app
from maxtext_sparse.entry import run_module
from maxtext_sparse.errors import one_line_errors
from maxtext_sparse.hooks import SUPPORTED_VERSIONS
from maxtext_sparse.terminal import print_json

# The names of rich markup would swallow the brackets in `[key=value ...]`.
app = typer.Typer(
  add_completion=False,
  no_args_is_help=True,
  rich_markup_mode=None,
  pretty_exceptions_enable=False,
  help="Sparse pre-training in MaxText, by gradual magnitude pruning.",
)

# What commands import when they run -> what installs it.
_BROUGHT_BY = {
  **dict.fromkeys(
    ("jax", "jaxlib", "flax", "optax", "orbax", "etils", "maxtext"),
    f"uv pip install 'maxtext[tpu]=={SUPPORTED_VERSIONS[-1]}' --resolution=lowest",
  ),
  **dict.fromkeys(("numpy", "pandas", "matplotlib"), "pip install 'maxtext-sparse[analysis]'"),
}
_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}


def _version(is_asked: bool) -> None:
  if is_asked:
    print(f"maxtext-sparse {__version__}")
    raise typer.Exit()


@app.callback()
def common(
  version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
  del version


@app.command(context_settings=_PASS_THROUGH)
def train(context: typer.Context) -> None:
  """MaxText's pre-training with the plugin: train CONFIG [CONFIG ...] [key=value ...]

  Takes exactly what MaxText's own train takes; several config files merge left to right.

  Example: maxtext-sparse train base.yml model.yml run_name=s80 sparsity=0.8
  """
  run_module("maxtext.trainers.pre_train.train", context.args)


@app.command(context_settings=_PASS_THROUGH)
def run(context: typer.Context, module: Annotated[str, typer.Argument(help="Dotted name of the entry point.")]) -> None:
  """Any other MaxText entry point with the plugin: run MODULE [arguments ...]

  Example: maxtext-sparse run maxtext.trainers.pre_train.train_compile base.yml compile_topology=v5e-16 sparsity=0.8
  """
  run_module(module, context.args)


@app.command()
def demo(
  out: Annotated[str, typer.Option(help="Folder for corpus, runs and results; reused by the next call.")] = "demo_out",
  steps: Annotated[int | None, typer.Option(help="Training steps of each run; the recipe's own by default.")] = None,
  sparsity: Annotated[float, typer.Option(help="Final fraction of prunable weights removed.")] = 0.8,
  as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
  """Trains a dense and a sparse model on real text, offline, on a laptop CPU, in minutes.

  Example: maxtext-sparse demo --out demo_out
  """
  from maxtext_sparse.demo import run_demo

  with one_line_errors():
    result = run_demo(out, steps=steps, sparsity=sparsity, as_json=as_json)
  if as_json:
    print_json(result)


app.command()(doctor)
app.command()(preflight)
plan.register(app)
laws.register(app)
export.register(app)
register_submit(sweep_app)
app.add_typer(sweep_app, name="sweep")
app.add_typer(launch_app, name="launch")
app.add_typer(patch_app, name="patch")


def main() -> None:
  """The console script."""
  try:
    app()
  except ModuleNotFoundError as error:
    name = (error.name or "").partition(".")[0]
    if name not in _BROUGHT_BY:
      raise
    print(f"maxtext-sparse: error: {name}: not installed here, needed for this: {_BROUGHT_BY[name]}", file=sys.stderr)
    sys.exit(2)
