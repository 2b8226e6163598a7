"""`maxtext-sparse launch xpk`, `launch command` and `sweep submit`: runs as workloads of a TPU cluster."""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from maxtext_sparse.errors import one_line_errors
from maxtext_sparse.terminal import print_json

_FLAGS = "xpk_flags"


class XpkCommand(TyperCommand):
  """A command whose arguments after `--` are xpk's own."""

  def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
    end = args.index("--") if "--" in args else len(args)
    ctx.meta[_FLAGS] = tuple(args[end + 1 :])
    return super().parse_args(ctx, args[:end])


launch_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Training runs as workloads of a TPU cluster.")

# Numbers are read as text: a bad one then is refused in one line, with the others.
_Arguments = Annotated[
  list[str] | None,
  typer.Argument(metavar="CONFIG [CONFIG ...] [key=value ...]", help="As for train; files are sent as key=value."),
]
_Cluster = Annotated[str, typer.Option(help="Name of the GKE cluster.")]
_Project = Annotated[str, typer.Option(help="Project ID.")]
_Zone = Annotated[str, typer.Option(help="Zone of the cluster, such as us-central2-b.")]
_TpuType = Annotated[str, typer.Option("--tpu-type", help="Slice, such as v5litepod-16 or v5p-128.")]
_NumSlices = Annotated[str, typer.Option("--num-slices", help="Slices of that type.")]
_DockerImage = Annotated[str | None, typer.Option("--docker-image", help="Image in a registry, used as it is.")]
_BaseImage = Annotated[
  str | None, typer.Option("--base-docker-image", help="Local image, to which xpk adds this folder and uploads it.")
]
_Priority = Annotated[str, typer.Option(help="very-low, low, medium, high or very-high.")]
_MaxRestarts = Annotated[
  str, typer.Option("--max-restarts", help="Restarts after a preemption or a crash, each from the last checkpoint.")
]
_Env = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Variable of the pod; repeatable.")]
_LibtpuArgs = Annotated[str | None, typer.Option("--libtpu-args", help="LIBTPU_INIT_ARGS: the TPU compiler's flags.")]
_Xpk = Annotated[str | None, typer.Option(help="xpk; by default the variable XPK, or xpk on the PATH.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the JobSet that xpk makes and submit nothing.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@launch_app.command(cls=XpkCommand)
def xpk(
  context: typer.Context,
  arguments: _Arguments = None,
  cluster: _Cluster = "",
  project: _Project = "",
  zone: _Zone = "",
  tpu_type: _TpuType = "",
  num_slices: _NumSlices = "1",
  docker_image: _DockerImage = None,
  base_docker_image: _BaseImage = None,
  priority: _Priority = "medium",
  max_restarts: _MaxRestarts = "10",
  workload: Annotated[str | None, typer.Option(help="Its name; made from run_name by default.")] = None,
  env: _Env = None,
  libtpu_args: _LibtpuArgs = None,
  xpk: _Xpk = None,
  dry_run: _DryRun = False,
  as_json: _Json = False,
) -> None:
  """Submits a training run: launch xpk CONFIG [CONFIG ...] [key=value ...] OPTIONS [-- xpk's own flags]

  The run restarts by itself after a preemption and resumes from its last checkpoint, as its run_name stays. xpk refuses
  a name that the cluster has.

  JSON: workload, run_name, command, manifest (the JobSet, with --dry-run), submitted.

  Example: maxtext-sparse launch xpk configs/models/162m.yml configs/sparsity/s80.yml run_name=s80
  base_output_directory=gs://my-bucket/runs --cluster my-cluster --project my-project --zone us-central2-b
  --tpu-type v5litepod-16 --docker-image gcr.io/my-project/maxtext-sparse:1 --dry-run
  """
  with one_line_errors():
    from maxtext_sparse.cluster.arguments import read_arguments
    from maxtext_sparse.cluster.workload import make_workload
    from maxtext_sparse.cluster.xpk import Xpk

    settings = _settings(context)
    made = make_workload(read_arguments(arguments or []), settings, workload, is_real=not dry_run)
    program = Xpk(xpk)
    manifest = program.dry_run(made)
    if not dry_run:
      program.create(made)
  result = {"workload": made.name, "run_name": made.run_name, "command": made.command, "submitted": not dry_run}
  if as_json:
    print_json(result | ({"manifest": _parsed(manifest)} if dry_run else {}))
  elif dry_run:
    print(manifest.rstrip())
  else:
    print(f"submitted {made.name}, run_name={made.run_name}")


@launch_app.command()
def command(arguments: _Arguments = None, libtpu_args: _LibtpuArgs = None) -> None:
  """The line of bash that a pod runs, for launch/jobset.yaml and other schedulers: launch command CONFIG [key=value ...]

  Example: maxtext-sparse launch command configs/models/162m.yml run_name=s80 base_output_directory=gs://my-bucket/runs
  """
  with one_line_errors():
    from maxtext_sparse.cluster.arguments import read_arguments
    from maxtext_sparse.cluster.command import EXPORTS, training_command
    from maxtext_sparse.cluster.workload import check_sparsity

    given = read_arguments(arguments or [])
    check_sparsity(given.values)
    exports = EXPORTS | ({"LIBTPU_INIT_ARGS": libtpu_args} if libtpu_args else {})
    print(training_command(given.words(), exports))


def submit(
  context: typer.Context,
  directory: Annotated[str, typer.Argument(metavar="DIR", help="Folder of sweep make.")],
  cluster: _Cluster = "",
  project: _Project = "",
  zone: _Zone = "",
  tpu_type: _TpuType = "",
  num_slices: _NumSlices = "1",
  docker_image: _DockerImage = None,
  base_docker_image: _BaseImage = None,
  priority: _Priority = "medium",
  max_restarts: _MaxRestarts = "10",
  env: _Env = None,
  libtpu_args: _LibtpuArgs = None,
  only: Annotated[str, typer.Option(metavar="GLOB", help="Runs of these names only.")] = "*",
  resubmit: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Submit this run again.")] = None,
  xpk: _Xpk = None,
  dry_run: _DryRun = False,
  as_json: _Json = False,
) -> None:
  """Submits what is ready of a sweep, one workload per run: sweep submit DIR OPTIONS [-- xpk's own flags]

  Trunks and runs without one first; a branch once its trunk is finished. Call it again to submit the rest: what was
  submitted is in DIR/submitted.json and never submitted twice.

  JSON: runs[], each with run, workload, state (ready, submitted, already submitted, waiting, finished), waits_for.

  Example: maxtext-sparse sweep submit out/schedules --cluster my-cluster --project my-project --zone us-central2-b
  --tpu-type v5litepod-64 --docker-image gcr.io/my-project/maxtext-sparse:1
  """
  with one_line_errors():
    from maxtext_sparse.cluster.submit import dry_run_sweep, submit_sweep
    from maxtext_sparse.cluster.xpk import Xpk

    settings = _settings(context)
    settings.check()
    program = Xpk(xpk)
    if dry_run:
      steps = dry_run_sweep(directory, settings, program, only)
    else:
      steps = submit_sweep(directory, settings, program, only, resubmit or ())
    entries = [_print_entry(entry, as_json) for entry in steps]
  if as_json:
    print_json({"runs": [entry.to_dict() for entry in entries]})


def register_submit(app: typer.Typer) -> None:
  """Adds `submit` to the `sweep` commands."""
  app.command(cls=XpkCommand)(submit)


def _settings(context: typer.Context) -> Any:
  from maxtext_sparse.cluster.workload import parse_env, parse_whole, Settings

  options = context.params
  given = ("cluster", "project", "zone", "tpu_type", "docker_image", "base_docker_image", "priority", "libtpu_args")
  return Settings(
    **{name: options[name] for name in given},
    num_slices=parse_whole("--num-slices", options["num_slices"]),
    max_restarts=parse_whole("--max-restarts", options["max_restarts"]),
    env=parse_env(options["env"] or ()),
    xpk_flags=context.meta[_FLAGS],
  )


def _print_entry(entry: Any, as_json: bool) -> Any:
  """One line as soon as it is known: a submission takes seconds, a sweep has 80."""
  if not as_json:
    detail = f" for {entry.run.trunk}" if entry.state == "waiting" else ""
    if entry.manifest is not None:
      print(f"---\n{entry.manifest.rstrip()}")
    print(f"# {entry.run.name}: {entry.state}{detail}, workload {entry.workload}", flush=True)
  return entry


def _parsed(manifest: str) -> Any:
  import yaml

  return yaml.safe_load(manifest)
