"""What the demo prints at the end: all figures, what they mean, a collapse by name, and how short the runs were."""

import dataclasses
import io

from rich.console import Console

from maxtext_sparse.demo.results import read_results, sparse_result
from maxtext_sparse.demo.text import conclusion, print_comparison
from tests.demo.conftest import rows, SCHEDULE, SHAPE, STEPS, TITLES, TWIN


def printed(results, steps=STEPS, width=160):
  console = Console(width=width, record=True, file=io.StringIO())
  print_comparison(console, results, TITLES, TWIN, steps)
  return console.export_text()


def test_table_shows_every_figure(runs):
  text = printed(read_results(runs, SCHEDULE, SHAPE, TWIN)[0])
  for figure in ("4.150", "4.450", "4.500", "1,000", "200", "282", "4.92e+08", "2,660", "10.0% query[1]"):
    assert figure in text
  assert "collapsed" not in text
  assert "The twin's figures lie between those of two dense runs, with 232 and 432 parameters." in text
  assert "Each run read 327,680 tokens, 328 for each prunable weight of the sparse one." in text


def test_the_table_fits_into_80_columns(runs):
  results = read_results(runs, SCHEDULE, SHAPE, TWIN)[0]
  assert "20,000,000" in printed(
    results | {"dense": dataclasses.replace(results["dense"], final_params=20_000_000)}, width=80
  )
  assert "10.0% query[1]" in printed(results, width=80) and "dense twin" in printed(results, width=80)


def test_a_short_demo_says_so(runs):
  results, _ = read_results(runs, SCHEDULE, SHAPE, TWIN)
  warning = "That is short: the paper's runs have more than 200, and shorter sparse runs end worse."
  assert warning in printed(results, steps=24) and warning not in printed(results, steps=25)


def test_the_sentence_is_computed_from_the_numbers(runs):
  results, _ = read_results(runs, SCHEDULE, SHAPE, TWIN)
  sparse, twin = results["sparse"], results["twin"]
  said = conclusion(sparse, twin)
  assert "the sparse run ends 0.050 below its dense twin (1.1 % of the loss), and has 1.41 times fewer" in said
  worse = dataclasses.replace(sparse, eval_loss=4.6, final_params=94)
  assert "the sparse run ends 0.100 above its dense twin (2.2 % of the loss), and has 3.00 times fewer" in conclusion(
    worse, twin
  )


def test_a_collapsed_matrix_is_named(runs):
  train, held_out = rows(is_sparse=True)
  train[-1]["pruning/min_matrix_density"] = 0.004
  densities = {"decoder/query/kernel[1]": 0.004, "decoder/out/kernel[0]": 0.3}
  result = sparse_result(train, held_out, densities, SHAPE, 1.0)
  text = printed(read_results(runs, SCHEDULE, SHAPE, TWIN)[0] | {"sparse": result})
  assert "sparse 80 %: decoder/query/kernel[1] has collapsed, 0.40% of its weights are left" in text
