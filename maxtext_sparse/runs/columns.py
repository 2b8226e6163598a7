"""The columns of RUNS.csv, the table with one row for each finished run.

`sweep collect` writes the table; `fit` and `plot` read it. All counts are plain numbers of weights or tokens, not
thousands or millions.
"""

# How many prunable weights are active: at the start, as the mean over the run's steps, and at the end; and D, the
# number of training tokens.
COUNTS = ("dense_params", "average_params", "final_params", "tokens")

# Every table has these: the run's name, S (the share of the prunable weights that is zero at the end), the counts, and
# the final evaluation loss in nats per token.
COLUMNS = ("run", "sparsity", *COUNTS, "loss")

# Settings that the figures of schedules, learning rates and batch sizes need. `batch_tokens` is tokens per step.
SETTINGS = ("gmp_dense_fraction", "gmp_prune_fraction", "learning_rate", "batch_tokens")

# A sweep may have an axis with any other name, which becomes a column too. An axis `sparsity` or `tokens` is possible as
# well: both are settings of a run, and the table holds what came of them.
RESULTS = tuple(column for column in COLUMNS if column not in ("sparsity", "tokens"))
