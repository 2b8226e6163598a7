"""`maxtext-sparse train`, `run` and `demo`: training with the plugin."""

import sys
from typing import Annotated, Any

import typer

from maxtext_sparse.cli.help import add, Command, RUN, write_list
from maxtext_sparse.cli.options import Json, share, whole
from maxtext_sparse.errors import ConfigError, one_line_errors
from maxtext_sparse.terminal import print_json

# MaxText reads these arguments itself.
_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}
_TRAIN_ARGUMENTS = "CONFIG [CONFIG ...] [key=value ...]"


_Sparsity = Annotated[str | None, typer.Option("--sparsity", "-s", metavar="S", help="The same as the key sparsity=S.")]
_Progress = Annotated[
  bool | None,
  typer.Option(
    "--progress/--no-progress",
    help="Show a bar, and write MaxText's log into train.log in the run's folder. This is the default on a terminal. "
    "Without a bar the log appears as soon as the run is set up.",
  ),
]
_Traceback = Annotated[
  bool,
  typer.Option(
    "--traceback", help="If MaxText fails, show where it failed, not only why. Its log is then shown from the beginning."
  ),
]


class TrainCommand(Command):
  """`train`, whose help lists the sparsity keys."""

  def format_epilog(self, ctx: Any, formatter: Any) -> None:
    """Writes the keys with their defaults."""
    from maxtext_sparse.key_table import describe_keys

    del ctx
    write_list("Sparsity keys and their defaults", [(key.as_argument, key.meaning) for key in describe_keys()], formatter)


class RunCommand(Command):
  """`run`, which passes on what follows its own argument."""

  def collect_usage_pieces(self, ctx: Any) -> list[str]:
    """Adds the arguments that are passed on."""
    return [*super().collect_usage_pieces(ctx), "[ARGUMENT ...]"]


def register(app: typer.Typer) -> None:
  """Adds the commands of this module."""
  add(app, train, RUN, cls=TrainCommand, context_settings=_PASS_THROUGH, options_metavar=f"[OPTIONS] {_TRAIN_ARGUMENTS}")
  add(app, run, RUN, cls=RunCommand, context_settings=_PASS_THROUGH)
  add(app, demo, RUN)


def train(
  context: typer.Context,
  sparsity: _Sparsity = None,
  progress: _Progress = None,
  traceback: _Traceback = False,
) -> None:
  """Trains a model with MaxText and the plugin.

  The arguments are those of MaxText's own train, and the sparsity keys. Several config files are merged from left to
  right; of two values for a key, the later one counts. On a machine without an accelerator, add hardware=cpu
  skip_jax_distributed_system=True.

  Example: maxtext-sparse train base.yml model.yml run_name=s80 sparsity=0.8
  """
  from maxtext_sparse.entry import run_module

  with one_line_errors():
    for word in context.args:
      if word.startswith("-"):
        name = word.lstrip("-").partition("=")[0].replace("-", "_")
        raise ConfigError(f"{word}: no such option; a key of MaxText is written {name or 'key'}=VALUE")
  words = context.args if sparsity is None else [*context.args, f"sparsity={sparsity}"]
  has_bar = sys.stderr.isatty() if progress is None else progress
  around = _around(has_bar, traceback)
  run_module("maxtext.trainers.pre_train.train", words, has_traceback=traceback, around=around)


def run(
  context: typer.Context,
  module: Annotated[
    str, typer.Argument(metavar="MODULE", help="The dotted name of the entry point, as after python -m.")
  ],
  traceback: _Traceback = False,
) -> None:
  """Runs any other entry point of MaxText with the plugin.

  What follows MODULE is passed to that entry point.

  Example: maxtext-sparse run maxtext.trainers.pre_train.train_compile base.yml compile_topology=v5e-16 sparsity=0.8
  """
  from maxtext_sparse.entry import run_module

  run_module(module, context.args, has_traceback=traceback, around=_around(False, traceback))


def demo(
  out: Annotated[
    str, typer.Option(help="Folder for the corpus, the runs and the results. The next call reuses it.")
  ] = "demo_out",
  steps: Annotated[int | None, whole("Training steps of each run, if not 500.")] = None,
  sparsity: Annotated[float, share("Share of the prunable weights that is removed in the end.")] = 0.4,
  as_json: Json = False,
) -> None:
  """Trains a dense model, a sparse one and its dense twin on real text, offline, in minutes on a laptop's CPU.

  The dense twin is a smaller dense model. It has as many parameters as the sparse model has on average over training.
  The command compares their losses, sizes and training compute.

  Example: maxtext-sparse demo --out demo_out
  """
  from maxtext_sparse.demo import run_demo

  with one_line_errors():
    result = run_demo(out, steps=steps, sparsity=sparsity, as_json=as_json)
  if as_json:
    print_json(result)


def _around(has_bar: bool, has_traceback: bool) -> Any:
  """What surrounds a run: a bar, or its log held back until it is set up, or nothing if all is to be seen."""
  if has_bar:
    from maxtext_sparse.local.foreground import bar_and_log

    return bar_and_log
  if has_traceback:
    return None
  from maxtext_sparse.local.held_log import held_until_set_up

  return held_until_set_up
