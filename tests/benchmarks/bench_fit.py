"""Times our fit of a law from 100 starts against a loop of scipy's L-BFGS-B with numeric gradients over the same starts.

  python tests/benchmarks/bench_fit.py [--points 245] [--rounds 5] [--resamples 1000]

They alternate, round by round, on the same runs and with the same objective. The tolerances of scipy are tight enough to
reach the objective that we reach; the table shows both. In a third row scipy gets our gradient.

A second table does the same for a bootstrap of the runs of configs/sweeps/mini-law.csv, in seconds of CPU time, which is
what counts if scipy's resamples are shared out among processes. Both fit the same resamples from the same two starts.
"""

import argparse
from collections.abc import Callable
import functools
import os
import statistics
import time
from typing import Any

# One BLAS thread is scipy's best. On arrays as small as these a second thread only waits, and on a busy machine the fit
# then takes ten times as long.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import measure
import numpy as np
import pandas as pd
import scipy.optimize

from maxtext_sparse.laws.fit import draw_starts, Fit, fit, HUBER_DELTA, NUM_STARTS, Objective
from maxtext_sparse.laws.forms import LAWS
from maxtext_sparse.laws.law import Law
from maxtext_sparse.laws.runs_table import read_runs
from maxtext_sparse.laws.uncertainty import _resample, bootstrap


def study(num_points: int) -> pd.DataFrame:
  """Invented runs that follow the average law with Hoffmann et al.'s coefficients, up to 1 % of scatter."""
  generator = np.random.default_rng(0)
  dense, tokens = np.exp(generator.uniform(np.log([4e7, 5e9]), np.log([2e9, 5e11]), (num_points, 2))).T
  sparsity = generator.choice([0.0, 0.2, 0.4, 0.6, 0.8], num_points)
  average = dense * (1 - 0.7 * sparsity)
  loss = (406.4 / average**0.34 + 410.7 / tokens**0.28 + 1.69) * np.exp(generator.normal(0, 0.01, num_points))
  counts = {"dense_params": dense, "average_params": average, "final_params": dense * (1 - sparsity), "tokens": tokens}
  return pd.DataFrame({"run": range(num_points), "sparsity": sparsity, **counts, "loss": loss})


def numeric(runs: pd.DataFrame) -> Callable[[np.ndarray], float]:
  """The objective as one would write it for scipy, which then estimates the gradient from differences."""
  log_n, log_d, log_loss = (np.log(runs[name].to_numpy()) for name in ("average_params", "tokens", "loss"))

  def objective(theta: np.ndarray) -> float:
    a, b, e, alpha, beta = theta
    predicted = np.logaddexp(np.logaddexp(a - alpha * log_n, b - beta * log_d), e)
    size = np.abs(predicted - log_loss)
    return float(np.sum(np.where(size <= HUBER_DELTA, 0.5 * size**2, HUBER_DELTA * (size - 0.5 * HUBER_DELTA))))

  return objective


def analytic(
  runs: pd.DataFrame, law: Law = LAWS["average"], weights: np.ndarray | None = None
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
  """Our objective with its gradient, for one point at a time."""
  weights = np.ones(len(runs)) if weights is None else weights
  objective, first = Objective(law, runs, 1, weights[None]), np.array([0])

  def both(theta: np.ndarray) -> tuple[float, np.ndarray]:
    value, gradient = objective(theta[None], first)
    return value[0], gradient[0]

  return both


def scipy_loop(objective: Callable, jac: bool | None, starts: np.ndarray) -> tuple[float, int]:
  """The least objective over the starts, and how many starts reach it within a relative 1e-6."""
  options = {"maxiter": 1000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-10}
  minimise = functools.partial(scipy.optimize.minimize, objective, jac=jac, method="L-BFGS-B", options=options)
  found = np.array([minimise(start).fun for start in starts])
  return float(found.min()), int(np.sum(found <= found.min() * (1 + 1e-6)))


def scipy_bootstrap(fitted: Fit, counts: np.ndarray) -> np.ndarray:
  """The objective of each resample that scipy finds with our gradient; `counts` is how often each run is drawn."""
  starts = np.stack([fitted.theta, fitted.good_starts[0]])
  return np.array([scipy_loop(analytic(fitted.runs, fitted.law, row), True, starts)[0] for row in counts])


def our_bootstrap(fitted: Fit, counts: np.ndarray) -> np.ndarray:
  """The same with the fit in lockstep; it draws the resamples again, from the same seed."""
  thetas = bootstrap(fitted, len(counts)).thetas
  return np.array([analytic(fitted.runs, fitted.law, row)(theta)[0] for row, theta in zip(counts, thetas)])


def run_bootstrap(law: str, num_resamples: int) -> dict[str, Any]:
  """CPU seconds of both, and in which share of the resamples each ends lower by more than a relative 1e-6."""
  fitted = fit(LAWS[law], read_runs(str(measure.ROOT / "configs" / "sweeps" / "mini-law.csv")))
  generator = np.random.default_rng(0)
  counts = np.stack([_resample(fitted, generator) for _ in range(num_resamples)])
  our_seconds, ours = timed(lambda: our_bootstrap(fitted, counts), time.process_time)
  scipy_seconds, theirs = timed(lambda: scipy_bootstrap(fitted, counts), time.process_time)
  return {
    "law": law,
    "resamples": num_resamples,
    "cpu_seconds": {"ours": our_seconds, "scipy loop, our gradient": scipy_seconds},
    "times_ours": scipy_seconds / our_seconds,
    "ours_is_lower": float(np.mean(ours < theirs * (1 - 1e-6))),
    "scipy_is_lower": float(np.mean(theirs < ours * (1 - 1e-6))),
  }


def our_fit(runs: pd.DataFrame) -> tuple[float, int]:
  """The least objective, and how many starts reach it within a relative 1e-9."""
  fitted = fit(LAWS["average"], runs)
  return fitted.objective, fitted.num_agreeing


def timed[Result](function: Callable[[], Result], clock: Callable[[], float] = time.perf_counter) -> tuple[float, Result]:
  """(seconds, result) of one call."""
  begin = clock()
  result = function()
  return clock() - begin, result


def run(num_points: int, num_rounds: int) -> dict[str, Any]:
  """Times every contender in every round; see the keys of the result."""
  runs = study(num_points)
  starts = draw_starts(LAWS["average"], NUM_STARTS)
  contenders = {
    "ours": lambda: our_fit(runs),
    "scipy loop, numeric gradients": lambda: scipy_loop(numeric(runs), None, starts),
    "scipy loop, our gradient": lambda: scipy_loop(analytic(runs), True, starts),
  }
  seconds: dict[str, list[float]] = {name: [] for name in contenders}
  found = {}
  for _ in range(num_rounds):
    for name, contender in contenders.items():
      duration, found[name] = timed(contender)
      seconds[name].append(duration)
  median = {name: statistics.median(values) for name, values in seconds.items()}
  return {
    "points": num_points,
    "starts": len(starts),
    "seconds": seconds,
    "median_seconds": median,
    "times_ours": {name: value / median["ours"] for name, value in median.items()},
    "objective": {name: objective for name, (objective, _) in found.items()},
    "starts_at_optimum": {name: agreeing for name, (_, agreeing) in found.items()},
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--points", type=int, default=245)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--resamples", type=int, default=1000)
  arguments = parser.parse_args()
  result = run(arguments.points, arguments.rounds)
  result["bootstrap"] = [run_bootstrap(law, arguments.resamples) for law in ("average", "frantar", "multiplier")]
  measure.publish("fit", result, f"{starts_table(result)}\n\n{bootstrap_table(result['bootstrap'])}")


def starts_table(result: dict[str, Any]) -> str:
  """Time and end points of the contenders."""
  rows = [
    (name, f"{median:.2f}", f"{result['times_ours'][name]:.1f}x", f"{result['objective'][name]:.10g}", f"{agreeing}")
    for (name, median), agreeing in zip(result["median_seconds"].items(), result["starts_at_optimum"].values())
  ]
  case = f"{result['starts']} starts, {result['points']} runs"
  return measure.markdown([case, "seconds", "time", "sum of Huber", "starts at the optimum"], rows)


def bootstrap_table(results: list[dict[str, Any]]) -> str:
  """CPU time of a bootstrap, and who ends lower how often."""
  rows = [
    (
      result["law"],
      *(f"{seconds:.1f}" for seconds in result["cpu_seconds"].values()),
      f"{result['times_ours']:.1f}x",
      f"{result['ours_is_lower']:.1%}",
      f"{result['scipy_is_lower']:.1%}",
    )
    for result in results
  ]
  case = f"{results[0]['resamples']} resamples of 30 runs, CPU s"
  return measure.markdown([case, "ours", "scipy, our gradient", "time", "ours is lower", "scipy is lower"], rows)


if __name__ == "__main__":
  main()
