"""Names of workloads."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from maxtext_sparse.cluster.names import check_name, is_valid, workload_name
from maxtext_sparse.errors import ConfigError


@given(st.text(min_size=1))
def test_any_text_gives_a_valid_name_and_always_the_same(text):
  assert is_valid(workload_name(text))
  assert workload_name(text) == workload_name(text)


def test_a_valid_name_stays():
  assert workload_name("law-58m-s80-20x") == "law-58m-s80-20x"


def test_names_that_would_fall_together_stay_distinct():
  texts = ["a-b", "a_b", "a b", "A-b", "a-b-", "x" * 41, "x" * 42, "80", "run-80", "?", "!"]
  assert len({workload_name(text) for text in texts}) == len(texts)


def test_a_repaired_name_can_still_be_read():
  assert workload_name("Law 58M, S=0.8").startswith("law-58m-s-0-8-")


@pytest.mark.parametrize("name, near", [("Foo_Bar", "foo-bar"), ("8x", "run-8x"), ("a" * 41, "a" * 40), ("a-", "a")])
def test_a_bad_name_is_refused_with_the_nearest_right_one(name, near):
  with pytest.raises(ConfigError, match=rf"--workload={name}: .* such as {near}$"):
    check_name("--workload", name)


def test_a_run_needs_a_name_to_resume_by():
  with pytest.raises(ConfigError, match="run_name: missing"):
    workload_name("")
