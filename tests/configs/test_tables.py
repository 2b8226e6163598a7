"""The tables of runs beside the sweep files, and what `configs/README.md` makes of them."""

from pathlib import Path
import re

import numpy as np
import pandas as pd
import pytest

CONFIGS = Path(__file__).parents[2] / "configs"
README = (CONFIGS / "README.md").read_text(encoding="utf-8")
# Prunable weights of the dense model, of which a run with a dense head or query prunes fewer.
DENSE = 20_000
# A row's first cell -> the run without its seed, in mini-causes and mini-remedies.
CHANGES = {
  "none": "plain",
  "`pruning_score: magnitude_rms`": "rms",
  "`pruning_scope: per_matrix`": "per-matrix",
  "`pruning_scope: erk`": "erk",
  "`min_matrix_density: 0.1`": "floor",
  "`gmp_pruning_frequency` four times larger": "events",
  "`gmp_pruning_frequency` four times smaller": "often",
  "`adam_weight_decay: 0`": "decay",
  "`pruning_schedule: cubic`": "cubic",
  "`learning_rate_final_fraction: 0.3` (twin at 0.1)": "rate",
  "output head dense": "head-dense",
  "query kernels dense": "query-dense",
  "output head and query kernels dense": "query-head-dense",
}


def table(name):
  return pd.read_csv(CONFIGS / "sweeps" / f"{name}.csv")


def with_seeds(*names):
  """The runs of the tables, with their seed, and with a size that counts what is left dense."""
  runs = pd.concat([table(name) for name in names], ignore_index=True)
  runs["seed"] = runs.run.str.extract(r"seed(\d)")[0].fillna(0).astype(int)
  runs["kind"] = runs.run.str.replace(r"^mini-[a-z]+-|-?seed\d-?", "", regex=True)
  runs["size"] = runs.average_params + DENSE - runs.dense_params
  return runs


def gap(runs, run):
  """Loss of a run minus that of the dense runs of its seed, interpolated at its size on the logarithm."""
  dense = runs[(runs.sparsity == 0) & (runs.seed == run.seed)].sort_values("dense_params")
  return run.loss - np.interp(np.log(run["size"]), np.log(dense.dense_params), dense.loss)


def expected_cells(runs, kind):
  """Average size, loss and gap of the first seed, and mean and standard error of the gaps of three."""
  found = runs[(runs.sparsity > 0) & (runs.kind == kind)].sort_values("seed")
  if found.empty:
    return None, ["", "", ""]
  gaps = [gap(runs, run) for _, run in found.iterrows()]
  error = np.std(gaps, ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else None
  mean = "" if error is None else f"{np.mean(gaps):+.3f} ({error:.3f})"
  return f"{found['size'].iloc[0]:,.0f}", [f"{found.loss.iloc[0]:.3f}", f"{gaps[0]:+.3f}", mean]


def readme_rows(title):
  section = README.split(f"### {title}\n")[1].split("\n### ")[0]
  rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in re.findall(r"^\|.*\|$", section, re.MULTILINE)]
  return rows[2:]


def test_the_table_of_all_lengths_holds_the_pairs_and_the_lengths():
  parts = [table("mini-pairs").assign(tokens_per_weight=205), table("mini-lengths")]
  expected = pd.concat(parts, ignore_index=True)
  pd.testing.assert_frame_equal(table("mini-all-lengths"), expected)


def test_one_config_gives_one_loss_in_two_studies():
  lengths, causes = with_seeds("mini-lengths"), with_seeds("mini-causes")
  lengths = lengths[lengths.tokens_per_weight == 51].set_index("run").loss
  causes = causes.set_index("run").loss
  for seed in range(3):
    end = f"-seed{seed}" if seed else ""
    for name, other in (("s80", "plain"), ("dense-e10", "dense-e10")):
      loss = lengths[f"mini-lengths-51-seed{seed}-{name}"]
      assert causes[f"mini-causes-{other}{end}"] == pytest.approx(loss, rel=1e-6)


def test_the_table_of_changes_is_that_of_the_runs():
  short = with_seeds("mini-causes")
  long = with_seeds("mini-pairs", "mini-remedies")
  long.loc[(long.kind == "s80"), "kind"] = "plain"
  long.loc[(long.kind == "seldom"), "kind"] = "events"
  rows = readme_rows("What changes the gap at 80 %")
  assert [row[0] for row in rows] == list(CHANGES)
  for label, average, _, *cells in rows:
    size, at_51 = expected_cells(short, CHANGES[label])
    size_of_long, at_205 = expected_cells(long, CHANGES[label])
    assert average == (size or size_of_long), label
    assert cells == at_51 + at_205, label
