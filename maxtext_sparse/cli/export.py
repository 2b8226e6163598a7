"""Commands on models: `export`, `import`, `verify`, `inspect` and `evaluate`."""

from collections.abc import Iterator
import contextlib
import os
import re
import sys
from typing import Annotated, Any

import typer

from maxtext_sparse.cli.help import add, MODELS
from maxtext_sparse.cli.options import Json
from maxtext_sparse.errors import ConfigError, one_line_errors
from maxtext_sparse.terminal import avoid_accelerators, print_json

_Dtype = Annotated[
  str | None, typer.Option(help="Data type of the weights: float32, bfloat16 or float16, if not that of the checkpoint.")
]
_Force = Annotated[bool, typer.Option("--force", help="Replace OUT if it holds a model.")]
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def register(app: typer.Typer) -> None:
  """Adds the commands of this module."""
  add(app, export, MODELS)
  add(app, import_model, MODELS, name="import")
  add(app, verify, MODELS)
  add(app, inspect, MODELS)
  add(app, evaluate, MODELS)


def export(
  checkpoint: Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="The folder of a step or of a run, here or in a bucket (gs://).")
  ],
  out: Annotated[str, typer.Argument(metavar="OUT", help="The folder to write.")],
  config: Annotated[
    list[str] | None, typer.Argument(metavar="[CONFIG ...] [KEY=VALUE ...]", help="What the run was trained with.")
  ] = None,
  dtype: _Dtype = None,
  weights_format: Annotated[
    str,
    typer.Option(
      "--format",
      help="Format of the weights: dense, or bitmask, which stores a bit for each weight and the values that are not 0.",
    ),
  ] = "dense",
  compress: Annotated[
    bool, typer.Option("--compress", help="With --format bitmask: compress the values with zstd.")
  ] = False,
  shard_size: Annotated[str, typer.Option(help="Size of the largest file of weights, such as 500M or 5G.")] = "5G",
  force: _Force = False,
  as_json: Json = False,
) -> None:
  """Writes the model of a checkpoint as a Hugging Face folder, with a certificate of its sparsity.

  A sparse run has recorded its config beside its checkpoints. For another checkpoint, give CONFIG files and keys as for
  `train`. Without them, the sizes are read from the checkpoint, and everything else is as in MaxText's defaults.

  Example: maxtext-sparse export runs/s80/checkpoints/26799 s80-hf --dtype bfloat16
  """
  avoid_accelerators()
  with one_line_errors():
    from maxtext_sparse.export.write import export_checkpoint, ExportOptions

    options = ExportOptions(dtype, weights_format, compress, _bytes(shard_size), force)
    with _progress("exporting") as report:
      result = export_checkpoint(checkpoint, out, config or [], options, report)
  if as_json:
    print_json({"out": out, **result.to_dict()})
  else:
    from maxtext_sparse.export.text import print_export

    print_export(out, result)


def import_model(
  folder: Annotated[
    str,
    typer.Argument(metavar="FOLDER|HUB_PATH", help="A model folder of the llama family, or owner/name on the Hub."),
  ],
  out: Annotated[str, typer.Argument(metavar="OUT", help="The folder to write.")],
  dtype: Annotated[str | None, typer.Option(help="Type of the weights: float32 (default) or bfloat16.")] = None,
  force: _Force = False,
  as_json: Json = False,
) -> None:
  """Writes a Hugging Face llama folder as a MaxText checkpoint, with a config to train it further.

  The config is OUT/model.yml. Train with it and pruning_method=hold, and the zeros of the model stay.

  Example: maxtext-sparse import tjingrant/sparsellm-1b-80p s80
  """
  avoid_accelerators()
  with one_line_errors():
    from maxtext_sparse.export.read_back import import_folder
    from maxtext_sparse.inspection.hub import local_folder

    with _progress("importing") as report:
      result = import_folder(local_folder(folder), out, dtype, force, report)
  if as_json:
    print_json(result.to_dict())
  else:
    print(f"{result.nonzero:,} of {result.prunable:,} prunable weights are not zero ({result.density:.4%})")
    print(f"checkpoint: {os.path.join(out, os.path.relpath(result.checkpoint, out))}")
    print(f"next: maxtext-sparse train {result.config} pruning_method=hold ...")


def verify(
  folder: Annotated[
    str, typer.Argument(metavar="FOLDER|HUB_PATH", help="A model folder, or owner/name on the Hugging Face Hub.")
  ],
  as_json: Json = False,
) -> None:
  """Recounts a model folder and says whether it is what its certificate claims.

  It reads every file of weights, and compares the counts, the digest of each mask, n:m and block structures, and the
  digests of the files. The exit status is 0 if all agree, and 1 otherwise.

  Example: maxtext-sparse verify s80-hf
  """
  with one_line_errors():
    from maxtext_sparse.inspection.hub import local_folder
    from maxtext_sparse.inspection.verify import verify as verified

    verdict = verified(local_folder(folder))
  if as_json:
    print_json(verdict.to_dict())
  else:
    from maxtext_sparse.inspection.text import print_verdict

    print_verdict(folder, verdict)
  if not verdict.is_ok:
    raise typer.Exit(1)


def inspect(
  model: Annotated[
    str,
    typer.Argument(
      metavar="CHECKPOINT|FOLDER|HUB_PATH", help="A checkpoint, a model folder, or owner/name on the Hugging Face Hub."
    ),
  ],
  out: Annotated[str | None, typer.Option(help="Folder for density.png and magnitudes.png.")] = None,
  compare: Annotated[
    str | None, typer.Option(help="Another checkpoint or folder, to show how much the masks overlap.")
  ] = None,
  structure: Annotated[
    list[str] | None, typer.Option(help="Also test for this structure, n:m or block:RxC. Repeat the option for more.")
  ] = None,
  as_json: Json = False,
) -> None:
  """Shows what is left of each matrix of a model: density, dead rows, columns and heads, structures, collapsed matrices.

  Example: maxtext-sparse inspect runs/s80/checkpoints/26799 --out figures --compare runs/s60/checkpoints/26799
  """
  avoid_accelerators()
  with one_line_errors():
    from maxtext_sparse.inspection import survey

    result, figures = survey.survey(model, structure or [])
    comparison = survey.compare(model, compare) if compare else None
    files = survey.draw(result, figures, out) if out else []
  if as_json:
    print_json({**result, "files": files, **({"compare": comparison} if comparison else {})})
  else:
    from maxtext_sparse.inspection.text import print_survey

    print_survey(result, comparison, files)


def evaluate(
  folders: Annotated[list[str], typer.Argument(metavar="FOLDER ...", help="Model folders, or names on the Hub.")],
  tasks: Annotated[
    str, typer.Option(help="Names of tasks, separated by commas: those of the harness, and our next_line and held_out.")
  ],
  text: Annotated[str | None, typer.Option(help="The text of next_line and held_out, if not that of the demo.")] = None,
  task_folder: Annotated[str | None, typer.Option(help="A folder with more task files for the harness.")] = None,
  backend: Annotated[
    str,
    typer.Option(
      help="What computes the model: torch, numpy (for small models), or auto: torch if `lm_eval[hf]` is installed."
    ),
  ] = "auto",
  limit: Annotated[int | None, typer.Option(min=1, help="The largest number of documents of each task.")] = None,
  fewshot: Annotated[int | None, typer.Option(min=0, help="Number of examples before each question.")] = None,
  batch_size: Annotated[int, typer.Option(min=1, help="Number of sequences that are computed at once.")] = 16,
  as_json: Json = False,
) -> None:
  """Evaluates model folders side by side with lm-evaluation-harness.

  Example: maxtext-sparse evaluate s80-hf dense-hf twin-hf --tasks next_line,held_out
  """
  with one_line_errors():
    from maxtext_sparse.evaluation.harness import evaluate as evaluated

    names = [task.strip() for task in tasks.split(",") if task.strip()]
    results = evaluated(
      folders,
      names,
      text=text,
      task_folder=task_folder,
      backend=backend,
      limit=limit,
      num_fewshot=fewshot,
      batch_size=batch_size,
    )
  if as_json:
    print_json({"results": results})
  else:
    from maxtext_sparse.evaluation.text import print_results

    print_results(results)


@contextlib.contextmanager
def _progress(title: str) -> Iterator[Any]:
  """A bar on stderr, for people only; yields `report(done, total)`."""
  if not sys.stderr.isatty():
    yield lambda done, total: None
    return
  from rich.console import Console
  from rich.progress import Progress

  with Progress(console=Console(stderr=True), transient=True) as bar:
    task = bar.add_task(title, total=None)
    yield lambda done, total: bar.update(task, completed=done, total=total)


def _bytes(text: str) -> int:
  """500M -> 500,000,000."""
  match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
  if not match or float(match[1]) == 0:
    raise ConfigError(f"--shard-size={text}: must be a size such as 500M or 5G")
  return int(float(match[1]) * _UNITS[match[2].upper()])
