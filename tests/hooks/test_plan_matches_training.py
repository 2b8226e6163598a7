"""What plan prints is what train does: the planner's figures against a real run's metrics file and event records."""

import json

import pytest
import typer
from typer.testing import CliRunner

from maxtext_sparse.cli.plan import register
from maxtext_sparse.plan.models import load_model
from maxtext_sparse.plan.request import plan_run, RunOptions
from tests.hooks.harness import arguments

app = typer.Typer()
register(app)
# Timing from fractions, no explicit steps.
RUNS = {
  "compute": {"sparsity": 0.8, "gmp_pruning_frequency": 2, "steps": 40},
  "steps": {
    "sparsity": 0.5,
    "gmp_pruning_frequency": 3,
    "gmp_fraction_of": "steps",
    "gmp_prune_fraction": 0.75,
    "pruning_schedule": "cubic",
    "prune_exclude": "logits",
    "steps": 30,
  },
}


@pytest.fixture(scope="module", params=RUNS)
def planned_and_trained(request, worker, out):
  name = f"planned_{request.param}"
  command = arguments(out, name, **RUNS[request.param], per_device_batch_size=8)
  output = CliRunner().invoke(app, ["plan", *command, "--chips", "1", "--json"])
  report = plan_run(command, RunOptions(num_chips=1)).plan
  return json.loads(output.stdout), report, command, worker.train(out, name, **RUNS[request.param])


def test_the_events_are_those_of_the_plan(planned_and_trained):
  plan, report, _, run = planned_and_trained
  events = [event["step"] for event in run.event_files()]
  assert events == list(report.schedule.event_steps)
  assert (events[0], events[-1], len(events)) == (
    plan["gmp_start_step"],
    plan["gmp_end_step"],
    plan["num_pruning_events"],
  )


def test_active_weights_are_those_of_the_plan_at_every_step(planned_and_trained):
  _, report, _, run = planned_and_trained
  # Row t is counted after the update of step t, which the forward pass of t+1 sees.
  assert run.column("pruning/nonzero_prunable")[:-1] == [report.active(step) for step in range(1, report.steps)]
  assert run.column("pruning/target_density") == [report.schedule.target_density(t) for t in range(report.steps)]


def test_averages_and_flops_are_those_of_the_plan(planned_and_trained):
  plan, report, _, run = planned_and_trained
  last = run.train_rows[-1]
  assert last["pruning/effective_flops"] == plan["effective_flops"]
  assert last["pruning/average_params"] == report.average_params
  assert last["pruning/prunable"] == report.num_prunable
  # The nominal densities against whole weights.
  assert last["pruning/density"] == pytest.approx(plan["final_density"], abs=1 / report.num_prunable)
  average = last["pruning/average_params"] / last["pruning/prunable"]
  assert average == pytest.approx(plan["average_density"], abs=1 / report.num_prunable)


def test_tokens_are_those_of_the_plan(planned_and_trained):
  plan, report, _, run = planned_and_trained
  assert plan["tokens"] == report.steps * 8 * 32
  assert sum(run.column("learning/total_weights")) == plan["tokens"]


def test_params_lists_the_matrices_that_training_prunes(planned_and_trained):
  _, _, command, run = planned_and_trained
  listed = {matrix["name"] for matrix in load_model(command).to_dict()["matrices"]}
  assert listed == run.event_files()[0]["matrices"].keys()
