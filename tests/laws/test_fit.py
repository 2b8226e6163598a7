"""Fits: known coefficients come back, gradients are right, order does not matter, public optima are reached."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws import forms, lbfgs, multiplier
from maxtext_sparse.laws.fit import draw_starts, evaluate, fit, huber, Objective
from maxtext_sparse.laws.forms import law_named, LAWS
from maxtext_sparse.laws.law import Coefficient, Law
from maxtext_sparse.laws.runs_table import check_runs
from tests.laws.conftest import average_law, runs_of


def test_huber_by_hand():
  np.testing.assert_allclose(huber(np.array([0.0, 5e-4, -1e-3, 2e-3])), [0, 1.25e-7, 5e-7, 1.5e-6], rtol=1e-12)


@pytest.mark.parametrize(("name", "size"), [("average", 4500), ("chinchilla", 4500), ("frantar", 4500)])
def test_start_grid(name, size):
  law = LAWS[name]
  grid = law.start_grid()
  assert grid.shape == (size, len(law.parameters))
  for parameter, column in zip(law.parameters, grid.T):
    assert set(column) == set(parameter.starts or (0, 5, 10, 15, 20, 25))
  drawn = draw_starts(law, 100, seed=1)
  assert len(np.unique(drawn, axis=0)) == 100 and not np.array_equal(drawn, draw_starts(law, 100, seed=2))


@given(
  a=st.floats(50, 2000),
  b=st.floats(50, 5000),
  e=st.floats(0.8, 2.5),
  alpha=st.floats(0.25, 0.5),
  beta=st.floats(0.25, 0.5),
)
@settings(max_examples=8)
def test_recovers_the_coefficients_of_exact_runs(a, b, e, alpha, beta):
  runs = check_runs(runs_of(lambda table: average_law(table, a, b, e, alpha, beta)))
  fitted = fit(LAWS["average"], runs)
  assert fitted.objective < 1e-12 and fitted.mae < 1e-5
  found = [fitted.coefficients[name] for name in ("alpha", "beta", "E")]
  np.testing.assert_allclose(found, [alpha, beta, e], rtol=2e-2)


def test_recovers_frantars_law():
  """Runs of the published T5 form at sizes and lengths that determine it."""
  truth = {"a_S": 16.8, "b_S": 0.722, "c_S": 45.0, "b_N": 0.245, "a_D": 6.9e8, "b_D": 0.203, "c": 0.651}

  def loss(t):
    size = (truth["a_S"] * (1 - t["sparsity"]) ** truth["b_S"] + truth["c_S"]) / t["final_params"] ** truth["b_N"]
    return size + (truth["a_D"] / t["tokens"]) ** truth["b_D"] + truth["c"]

  fitted = fit(LAWS["frantar"], check_runs(runs_of(loss, sizes=(1e6, 1e7, 1e8, 1e9), ratios=(20, 200, 2000))))
  assert fitted.objective < 1e-9
  assert {name: pytest.approx(value, rel=0.05) for name, value in truth.items()} == fitted.coefficients


def literal_objective(law, theta, weights, runs):
  """Huber of the logsumexp of the law's terms, one run's weight after the other, as the paper writes it."""
  terms = law.terms(theta, *law.features(runs))
  residual = jax.nn.logsumexp(jnp.stack([jnp.asarray(row) for row in terms]), axis=0) - jnp.log(runs["loss"].to_numpy())
  size = jnp.abs(residual)
  return jnp.sum(weights * jnp.where(size <= 1e-3, 0.5 * size**2, 1e-3 * (size - 0.5e-3)))


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_objective_and_gradient_agree_with_automatic_differentiation(law, runs, monkeypatch):
  """The law's own terms, traced by JAX, against the closed form."""
  generator = np.random.default_rng(0)
  law = law.for_runs(runs)
  starts = draw_starts(law, 8, seed=3)
  theta = starts + generator.normal(0, 0.1, starts.shape)
  weights = generator.integers(0, 3, (8, len(runs))).astype(np.float64)
  found, gradient = Objective(law, runs, 8, weights)(theta, np.arange(8))
  for module in (forms, multiplier):
    monkeypatch.setattr(module, "np", jnp)
  with jax.enable_x64(True):
    for lane in range(8):
      literal = functools.partial(literal_objective, law, weights=weights[lane], runs=runs)
      expected = jax.value_and_grad(literal)(jnp.asarray(theta[lane]))
      np.testing.assert_allclose(found[lane], expected[0], rtol=1e-12)
      np.testing.assert_allclose(gradient[lane], expected[1], rtol=1e-9, atol=1e-12)


def test_terms_that_are_not_linear_are_refused(runs):
  class Kinked(type(LAWS["average"])):
    @staticmethod
    def terms(theta, log_n, log_d, log_density):
      return np.stack([theta[0] - theta[3] ** 2 * log_n, theta[1] - theta[4] * log_d])

  with pytest.raises(ConfigError, match="--law=kinked: the logs of its terms must be linear"):
    fit(Kinked("kinked", "dense_params"), runs)


@given(seed=st.integers(0, 1000))
@settings(max_examples=4)
def test_order_of_the_runs_does_not_matter(seed):
  scatter = np.exp(np.random.default_rng(0).normal(0, 0.005, 30))
  runs = check_runs(runs_of(lambda table: average_law(table) * scatter))
  straight = fit(LAWS["average"], runs)
  shuffled = fit(LAWS["average"], runs.sample(frac=1, random_state=seed).reset_index(drop=True))
  np.testing.assert_allclose(shuffled.objective, straight.objective, rtol=1e-9)
  np.testing.assert_allclose(shuffled.theta, straight.theta, rtol=1e-4, atol=1e-4)


def rosenbrock(x, lanes):
  del lanes
  a, b = x[:, 0], x[:, 1]
  gradient = np.stack([-400 * a * (b - a**2) - 2 * (1 - a), 200 * (b - a**2)], axis=1)
  return 100 * (b - a**2) ** 2 + (1 - a) ** 2, gradient


def test_minimises_rosenbrock_to_rounding():
  found, least = lbfgs.minimise(rosenbrock, np.random.default_rng(0).uniform(-2, 2, (16, 2)))
  np.testing.assert_allclose(found, np.ones((16, 2)), atol=1e-7)
  assert least.max() < 1e-15


def test_lanes_do_not_disturb_each_other():
  starts = np.random.default_rng(0).uniform(-2, 2, (16, 2))
  together, _ = lbfgs.minimise(rosenbrock, starts)
  alone = np.concatenate([lbfgs.minimise(rosenbrock, start[None])[0] for start in starts])
  np.testing.assert_array_equal(together, alone)


def test_stops_at_the_iteration_limit_and_at_points_without_a_value():
  walked, least = lbfgs.minimise(rosenbrock, np.array([[-1.5, 2.0], [np.nan, 0.0]]), max_iterations=3)
  assert 1e-3 < least[0] < rosenbrock(np.array([[-1.5, 2.0]]), None)[0][0]
  assert least[1] == np.inf and np.isnan(walked[1, 0])


@pytest.mark.parametrize(
  ("law", "objective", "mae"),
  [
    ("average", 9.63557e-4, 0.0459),
    ("chinchilla-final", 1.610800e-3, 0.0788),
    ("chinchilla", 1.782975e-3, 0.0815),
    ("frantar", 48 * 4.880117e-6, 0.0119),
  ],
)
def test_optimum_on_t5(t5, law, objective, mae):
  fitted = fit(LAWS[law], t5)
  np.testing.assert_allclose(fitted.objective, objective, rtol=1e-6)
  np.testing.assert_allclose(fitted.mae, mae, atol=6e-5)
  assert fitted.num_agreeing >= 30


@pytest.mark.parametrize(("law", "mae"), [("average", 0.1269), ("chinchilla", 0.2311), ("frantar", 0.0541)])
def test_optimum_on_vit(vit, law, mae):
  np.testing.assert_allclose(fit(LAWS[law], vit).mae, mae, atol=6e-5)


# Frantar et al. (2023), T5/C4, to the digits printed there.
PUBLISHED_T5 = {"a_S": 16.8, "b_S": 0.722, "c_S": 45.0, "b_N": 0.245, "a_D": 6.9e8, "b_D": 0.203, "c": 0.651}


def test_published_frantar_coefficients_are_not_the_optimum(t5):
  published = evaluate(LAWS["frantar"], t5, PUBLISHED_T5)
  assert 7.5e-6 < published.objective / len(t5) < 7.7e-6
  assert fit(LAWS["frantar"], t5).objective / len(t5) < 4.9e-6


def test_our_frantar_law_has_the_published_objective_on_the_vit_runs(vit):
  """jaxpruner's sparsity-scaling notebook: N in millions, D in billions, mean Huber of the loss itself, delta 0.01."""
  a, b, c, d, e, f, g = 1.30485411, 0.82101251, 2.07506343, 0.39222675, 0.27818217, 0.88979104, 4.51669257
  data = {"a_D": (e * 1e9**f) ** (1 / f), "b_D": f}
  law = evaluate(LAWS["frantar"], vit, {"a_S": a * 1e6**d, "b_S": b, "c_S": c * 1e6**d, "b_N": d, "c": g} | data)
  residual = law.predict(vit) - vit["loss"].to_numpy()
  np.testing.assert_allclose(huber(residual, 0.01).mean(), 0.0004929087939147767, rtol=1e-4)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_coefficients_lead_back_to_the_optimised_values(law, runs):
  fitted = fit(law, runs)
  np.testing.assert_allclose(fitted.law.theta(fitted.coefficients), fitted.theta, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
  ("coefficients", "message"),
  [
    ({"A": 1.0}, "has the coefficients A, B, E, alpha, beta"),
    ({**dict.fromkeys("ABE", -1.0), "alpha": 0, "beta": 0}, "A=-1"),
  ],
)
def test_coefficients_that_are_none_of_the_laws(coefficients, message, runs):
  with pytest.raises(ConfigError, match=message):
    evaluate(LAWS["average"], runs, coefficients)


def test_all_starts_reach_no_better_optimum_on_t5(t5):
  few = fit(LAWS["frantar"], t5)
  more = fit(LAWS["frantar"], t5, num_starts=1000, seed=1)
  np.testing.assert_allclose(more.objective, few.objective, rtol=1e-9)


def test_final_parameters_leave_coefficients_undetermined_on_t5(t5):
  """Starts agree on the objective to 1e-9 and not on beta: three token counts, and residuals beyond delta."""
  fitted, average = fit(LAWS["chinchilla-final"], t5), fit(LAWS["average"], t5)
  assert "beta" in fitted.undetermined and fitted.spread > 0.01
  assert average.undetermined == () and average.spread < 1e-6


def test_too_few_runs(runs):
  with pytest.raises(ConfigError, match=r"4 runs for 5 parameters \(A, B, E, alpha, beta\)"):
    fit(LAWS["average"], runs.head(4))


@pytest.mark.parametrize(
  ("law", "grid", "values", "message"),
  [
    ("chinchilla", {"sizes": (42e6,)}, {}, "A and alpha cannot be told apart .* dense_params is the same"),
    ("average", {}, {"tokens": 8.4e9}, "B and beta cannot be told apart .* tokens is the same"),
    ("frantar", {"sparsities": (0.4,), "ratios": (20, 200, 400)}, {}, "a_S and b_S cannot .* sparsity is the same"),
  ],
)
def test_unidentifiable_parameters_are_named(law, grid, values, message):
  table = runs_of(average_law, **grid).assign(**values)
  with pytest.raises(ConfigError, match=message):
    fit(LAWS[law], check_runs(table))


def test_two_token_counts_are_fitted_and_reported_as_undetermined():
  table = runs_of(average_law)
  fitted = fit(LAWS["average"], check_runs(table.assign(tokens=np.where(table["tokens"] > 3e10, 9e10, 2e10))))
  assert {"B", "beta"} <= set(fitted.undetermined)


def test_a_weight_of_two_is_the_run_twice(runs):
  """Objective, mean error and bootstrap all count the weight."""
  weighted = fit(LAWS["average"], runs.assign(weight=np.where(runs.index < 5, 2.0, 1.0)))
  repeated = fit(LAWS["average"], check_runs(pd.concat([runs, runs.head(5)])))
  np.testing.assert_allclose(weighted.objective, repeated.objective, rtol=1e-9)
  np.testing.assert_allclose(weighted.mae, repeated.mae, rtol=1e-5)
  assert weighted.objective > fit(LAWS["average"], runs).objective


def test_unknown_law():
  with pytest.raises(ConfigError, match="--law=kaplan: must be average, chinchilla"):
    law_named("kaplan")


def test_a_new_law_is_one_class(runs):
  """A law of the data alone, declared here."""

  class DataOnly(Law):
    equation = "L = B / D^beta"
    parameters = (Coefficient("B", (0.0, 5.0, 10.0), is_log=True), Coefficient("beta", (0.0, 0.5), varies_with="tokens"))

    @staticmethod
    def terms(theta, log_n, log_d, log_density):
      del log_n, log_density
      return (theta[0] - theta[1] * log_d)[None]

  fitted = fit(DataOnly("data-only", "dense_params"), runs)
  assert fitted.num_starts == 6 and set(fitted.coefficients) == {"B", "beta"}
