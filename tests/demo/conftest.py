"""The finished runs of a demo: as the files that they leave behind, and as a short demo that really ran."""

import json

import pytest

from maxtext_sparse.config import parse_keys
from maxtext_sparse.demo.training import Runs, RunSpec
from maxtext_sparse.laws.shapes import Shape
from maxtext_sparse.plan.twins import Neighbour, Twin
from maxtext_sparse.runs.record import RunRecord
from maxtext_sparse.schedule import build_schedule
from tests.demo.short_demo import finished

__all__ = ["finished"]

# 1,000 prunable weights: 4 x 10 x 10 for attention, 3 x 10 x 10 for the feed-forward layer, and 10 x 30 for the head.
SHAPE = Shape(layers=1, emb=10, mlp=10, heads=1, head_dim=10, kv_heads=1, vocab=30)
STEPS, TOKENS, PRUNABLE = 40, 2048, 1000
SCHEDULE = build_schedule(parse_keys({"sparsity": 0.8, "gmp_pruning_frequency": 2}), STEPS)
TITLES = {"dense": "dense", "sparse": "sparse 80 %", "twin": "dense twin"}


def neighbour(emb_dim, num_prunable, weight):
  sizes = (f"base_emb_dim={emb_dim}", f"base_mlp_dim={emb_dim}", f"head_dim={emb_dim}", "sparsity=0")
  return Neighbour(emb_dim, num_prunable, weight, sizes)


# 7 e e + 30 e weights are prunable. A quarter of the way from 232 to 432 is 282.
TWIN = Twin(0.8, 282.0, (neighbour(4, 232, 0.75), neighbour(6, 432, 0.25)))


def rows(is_sparse, above=0.0):
  """Train and eval rows of a run whose losses lie so much above those of the dense run."""
  train, held_out = [], []
  for step in range(STEPS):
    row = {"step": float(step), "learning/loss": 8.0 + above - 0.1 * step, "perf/per_device_tokens": float(TOKENS)}
    if is_sparse:
      active_sum = SCHEDULE.active_sum(step + 1, PRUNABLE, 0, None)
      density = SCHEDULE.target_density(step)
      row |= {
        "pruning/prunable": float(PRUNABLE),
        "pruning/nonzero_prunable": round(density * PRUNABLE),
        "pruning/density": density,
        "pruning/average_params": active_sum / (step + 1),
        "pruning/effective_flops": 6.0 * TOKENS * active_sum,
        "pruning/min_matrix_density": density / 2,
      }
    train.append(row)
    if step in (20, STEPS - 1):
      held_out.append({"step": float(step), "eval/avg_loss": row["learning/loss"] + 0.05})
  return train, held_out


@pytest.fixture
def runs(tmp_path):
  """The folders of all runs with the files that the report reads."""

  def spec(name, above=0.0):
    made = RunSpec(name, name, str(tmp_path / name), STEPS, (), "fingerprint")
    (tmp_path / name).mkdir()
    train, held_out = rows(name == "sparse", above)
    with open(made.metrics_file, "w", encoding="utf-8") as file:
      file.writelines(json.dumps(row) + "\n" for row in sorted(train + held_out, key=lambda row: row["step"]))
    return made

  made = Runs(spec("dense"), spec("sparse", 0.3), (spec("small", 0.4), spec("large", 0.2)))
  matrices = {"decoder/mlp/wi_0/kernel[0]": 0.3, "decoder/query/kernel[1]": 0.1}
  event = {"nonzero_prunable": 200, "density": 0.2, "threshold": 0.1, "matrices": matrices}
  RunRecord(str(tmp_path / "sparse")).write_event(SCHEDULE.end, event)
  return made
