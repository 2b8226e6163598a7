"""What the demo prints at the end: all figures, a collapse by name, and how short the runs were."""

from rich.console import Console

from maxtext_sparse.demo.results import read_results, sparse_result
from maxtext_sparse.demo.text import print_comparison
from tests.demo.conftest import rows, SCHEDULE, STEPS, TITLES


def printed(results):
  console = Console(width=120, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
  print_comparison(console, results, TITLES, STEPS)
  return console.export_text()


def test_table_shows_every_figure(specs):
  text = printed(read_results(specs["dense"], specs["sparse"], SCHEDULE)[0])
  for figure in ("4.150", "1,000", "200", "4.92e+08", "100.0%", "20.0%", "10.0% query[1]"):
    assert figure in text
  assert "collapsed" not in text
  assert "These runs are short: 81,920 tokens, 82 for each prunable weight. The paper's runs have more than 200." in text


def test_a_collapsed_matrix_is_named(specs):
  train, held_out = rows(is_sparse=True)
  train[-1]["pruning/min_matrix_density"] = 0.004
  result = sparse_result(train, held_out, {"decoder/query/kernel[1]": 0.004, "decoder/out/kernel[0]": 0.3}, 1.0)
  text = printed({"sparse": result})
  assert "sparse 80 %: decoder/query/kernel[1] has collapsed, 0.40% of its weights are left" in text
