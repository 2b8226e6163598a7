"""`maxtext-sparse launch xpk`, `launch command` and `sweep submit`: training on a TPU cluster."""

from typing import Annotated, Any

import typer

from maxtext_sparse.cli.help import add, CLUSTER, Command, new_group
from maxtext_sparse.cli.options import Json, RunArguments
from maxtext_sparse.errors import one_line_errors
from maxtext_sparse.terminal import print_json

_FLAGS = "xpk_flags"
_WHERE, _HOW = "Where it runs", "How it runs"


class XpkCommand(Command):
  """A command whose arguments after `--` are xpk's own."""

  def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
    """Keeps the arguments after `--` apart from ours."""
    end = args.index("--") if "--" in args else len(args)
    ctx.meta[_FLAGS] = tuple(args[end + 1 :])
    rest: list[str] = super().parse_args(ctx, args[:end])
    return rest


def register(app: typer.Typer) -> None:
  """Adds the commands of this module, except `submit`, which belongs to `sweep`."""
  launch = new_group("Trains on a TPU cluster: submits a run with xpk, or prints the command of its pods.")
  add(launch, xpk, cls=XpkCommand)
  add(launch, command)
  app.add_typer(launch, name="launch", rich_help_panel=CLUSTER)


# Numbers are read as text, so that a bad one is refused by the same check as the other options.
_Cluster = Annotated[str, typer.Option(help="Name of the GKE cluster.", rich_help_panel=_WHERE)]
_Project = Annotated[str, typer.Option(help="ID of the Google Cloud project.", rich_help_panel=_WHERE)]
_Zone = Annotated[str, typer.Option(help="Zone of the cluster, such as us-central2-b.", rich_help_panel=_WHERE)]
_TpuType = Annotated[
  str, typer.Option("--tpu-type", help="Type of a slice, such as v5litepod-16 or v5p-128.", rich_help_panel=_WHERE)
]
_NumSlices = Annotated[str, typer.Option("--num-slices", help="Number of slices of that type.", rich_help_panel=_WHERE)]
_DockerImage = Annotated[
  str | None,
  typer.Option("--docker-image", help="An image in a registry, which is used as it is.", rich_help_panel=_HOW),
]
_BaseImage = Annotated[
  str | None,
  typer.Option(
    "--base-docker-image",
    help="A local image. xpk adds the working folder to it and uploads the result.",
    rich_help_panel=_HOW,
  ),
]
_Priority = Annotated[str, typer.Option(help="Priority: very-low, low, medium, high or very-high.", rich_help_panel=_HOW)]
_MaxRestarts = Annotated[
  str,
  typer.Option(
    "--max-restarts",
    help="How many times the run restarts after a preemption or a crash, each time from the last checkpoint.",
    rich_help_panel=_HOW,
  ),
]
_Env = Annotated[
  list[str] | None,
  typer.Option(
    metavar="NAME=VALUE", help="An environment variable of the pod. Repeat the option for more.", rich_help_panel=_HOW
  ),
]
_LibtpuArgs = Annotated[
  str | None,
  typer.Option("--libtpu-args", help="Flags of the TPU compiler, which go into LIBTPU_INIT_ARGS.", rich_help_panel=_HOW),
]
_Xpk = Annotated[
  str | None, typer.Option(help="Path of xpk. The default is that in the variable XPK, or else the xpk on the PATH.")
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the JobSet that xpk makes and submit nothing.")]


def xpk(
  context: typer.Context,
  arguments: RunArguments = None,
  cluster: _Cluster = "",
  project: _Project = "",
  zone: _Zone = "",
  tpu_type: _TpuType = "",
  num_slices: _NumSlices = "1",
  docker_image: _DockerImage = None,
  base_docker_image: _BaseImage = None,
  priority: _Priority = "medium",
  max_restarts: _MaxRestarts = "10",
  workload: Annotated[
    str | None, typer.Option(help="Name of the workload, if not the one made from run_name.", rich_help_panel=_WHERE)
  ] = None,
  env: _Env = None,
  libtpu_args: _LibtpuArgs = None,
  xpk: _Xpk = None,
  dry_run: _DryRun = False,
  as_json: Json = False,
) -> None:
  """Submits a training run to a cluster with xpk.

  The run restarts by itself after a preemption and resumes from its last checkpoint. xpk refuses a name that another
  workload has. Arguments after -- are passed to xpk.

  Keys of --json: workload, run_name, command, submitted, and with --dry-run manifest, which is the JobSet.

  Example: maxtext-sparse launch xpk configs/models/162m.yml configs/sparsity/s80.yml run_name=s80
  base_output_directory=gs://my-bucket/runs --cluster my-cluster --project my-project --zone us-central2-b
  --tpu-type v5litepod-16 --docker-image gcr.io/my-project/maxtext-sparse:1 --dry-run
  """
  with one_line_errors():
    from maxtext_sparse.cluster.command import read_arguments
    from maxtext_sparse.cluster.text import print_submission
    from maxtext_sparse.cluster.workload import make_workload
    from maxtext_sparse.cluster.xpk import Xpk

    placement = _placement(context)
    made = make_workload(read_arguments(arguments or []), placement, workload)
    program = Xpk(xpk)
    manifest = program.dry_run(made)
    if not dry_run:
      program.create(made)
  print_submission(made, manifest if dry_run else None, as_json)


def command(arguments: RunArguments = None, libtpu_args: _LibtpuArgs = None) -> None:
  """Prints the line of bash that trains in a pod, for launch/jobset.yaml and other schedulers.

  Example: maxtext-sparse launch command configs/models/162m.yml run_name=s80 base_output_directory=gs://my-bucket/runs
  """
  with one_line_errors():
    from maxtext_sparse.cluster.command import EXPORTS, read_arguments, training_command
    from maxtext_sparse.cluster.workload import require_output

    given = read_arguments(arguments or [])
    require_output(given.values)
    exports = EXPORTS | ({"LIBTPU_INIT_ARGS": libtpu_args} if libtpu_args else {})
    print(training_command(given.words(), exports))


def submit(
  context: typer.Context,
  directory: Annotated[str, typer.Argument(metavar="DIR", help="The folder that `sweep make` wrote.")],
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
  only: Annotated[str, typer.Option(metavar="GLOB", help="Submit only the runs whose name matches.")] = "*",
  resubmit: Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Submit this run again. Repeat the option for more.")
  ] = None,
  xpk: _Xpk = None,
  dry_run: _DryRun = False,
  as_json: Json = False,
) -> None:
  """Submits the runs of a sweep that are ready, each as one workload.

  A trunk is the dense beginning that several runs share, and these are its branches. A branch waits until its trunk is
  finished. Call the command again to submit the rest: DIR/submitted.json lists what was submitted, and nothing is
  submitted twice. Arguments after -- are passed to xpk.

  Keys of --json: runs[], each with run, workload, state (ready, submitted, already submitted, waiting or finished) and
  waits_for.

  Example: maxtext-sparse sweep submit out/schedules --cluster my-cluster --project my-project --zone us-central2-b
  --tpu-type v5litepod-64 --docker-image gcr.io/my-project/maxtext-sparse:1
  """
  with one_line_errors():
    from maxtext_sparse.cluster.submit import dry_run_sweep, submit_sweep
    from maxtext_sparse.cluster.text import entry_text
    from maxtext_sparse.cluster.xpk import Xpk

    placement = _placement(context)
    placement.check()
    program = Xpk(xpk)
    if dry_run:
      steps = dry_run_sweep(directory, placement, program, only)
    else:
      steps = submit_sweep(directory, placement, program, only, resubmit or ())
    entries = []
    for entry in steps:  # a submission takes seconds and a sweep has 80, so each is printed at once
      entries.append(entry)
      if not as_json:
        print(entry_text(entry), flush=True)
  if as_json:
    print_json({"runs": [entry.to_dict() for entry in entries]})


def _placement(context: typer.Context) -> Any:
  from maxtext_sparse.cluster.placement import parse_env, parse_whole, Placement

  options = context.params
  given = ("cluster", "project", "zone", "tpu_type", "docker_image", "base_docker_image", "priority", "libtpu_args")
  return Placement(
    **{name: options[name] for name in given},
    num_slices=parse_whole("--num-slices", options["num_slices"]),
    max_restarts=parse_whole("--max-restarts", options["max_restarts"]),
    env=parse_env(options["env"] or ()),
    xpk_flags=context.meta[_FLAGS],
  )
