"""Two finished runs of the demo, as the files that they leave behind."""

import json

import pytest

from maxtext_sparse.config import parse_keys
from maxtext_sparse.demo.training import RunSpec
from maxtext_sparse.runs.record import RunRecord
from maxtext_sparse.schedule import build_schedule

STEPS, TOKENS, PRUNABLE = 40, 2048, 1000
SCHEDULE = build_schedule(parse_keys({"sparsity": 0.8, "gmp_pruning_frequency": 2}), STEPS)
TITLES = {"dense": "dense", "sparse": "sparse 80 %"}


def rows(is_sparse):
  train, held_out = [], []
  for step in range(STEPS):
    row = {"step": float(step), "learning/loss": 8.0 - 0.1 * step, "perf/per_device_tokens": float(TOKENS)}
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
def specs(tmp_path):
  """Two finished runs' folders with the files that the report reads."""
  made = {}
  for name in TITLES:
    spec = RunSpec(name, TITLES[name], str(tmp_path / name), STEPS, (), "fingerprint")
    (tmp_path / name).mkdir()
    train, held_out = rows(name == "sparse")
    with open(spec.metrics_file, "w", encoding="utf-8") as file:
      file.writelines(json.dumps(row) + "\n" for row in sorted(train + held_out, key=lambda row: row["step"]))
    made[name] = spec
  matrices = {"decoder/mlp/wi_0/kernel[0]": 0.3, "decoder/query/kernel[1]": 0.1}
  event = {"nonzero_prunable": 200, "density": 0.2, "threshold": 0.1, "matrices": matrices}
  RunRecord(str(tmp_path / "sparse")).write_event(SCHEDULE.end, event)
  return made
