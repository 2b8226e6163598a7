"""The figures that are shown while a run trains."""

from maxtext_sparse.local.progress import figures, num_done


def test_progress_figures():
  train, held_out = {"step": 39.0, "learning/loss": 4.1, "pruning/density": 0.2}, {"step": 39.0, "eval/avg_loss": 4.15}
  assert figures({}, {}) == "starting MaxText" and num_done({}) == 0
  assert figures(train, held_out) == "loss 4.100, density 0.200, eval 4.150"
  assert figures({"step": 0.0, "learning/loss": 8.0}, {}) == "loss 8.000, density 1.000"
  assert num_done(train) == 40
