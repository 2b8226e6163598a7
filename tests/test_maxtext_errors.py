"""MaxText's own errors in one line: its reason first, then the hint that helps, then how to see the rest."""

import pytest

from maxtext_sparse.config import SparsityKeys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.maxtext_errors import describe, in_one_line


def ended(capsys, error: BaseException) -> tuple[int, str]:
  """Exit status and line of a process in which MaxText raises an error."""
  with pytest.raises(SystemExit) as ending, in_one_line():
    raise error
  line = capsys.readouterr().err
  assert line.startswith("maxtext-sparse: error: ") and line.count("\n") == 1
  return ending.value.code, line.removeprefix("maxtext-sparse: error: ").rstrip("\n")


@pytest.mark.parametrize(
  ("error", "line"),
  [
    (ValueError("3 heads\n  on 2"), "MaxText: 3 heads on 2; --traceback shows where"),
    (AssertionError(), "MaxText: AssertionError; --traceback shows where"),
    (
      ValueError("coordinator_address should be defined."),
      "MaxText: coordinator_address should be defined.; on a machine without an accelerator add hardware=cpu "
      "skip_jax_distributed_system=True; --traceback shows where",
    ),
    (
      RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes"),
      "MaxText: RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes; lower per_device_batch_size, or use more devices; "
      "--traceback shows where",
    ),
  ],
)
def test_the_reason_comes_first_and_then_what_helps(capsys, error, line):
  assert ended(capsys, error) == (1, line)


def test_a_bad_value_is_named_with_its_key():
  with pytest.raises(ValueError) as caught:
    SparsityKeys(sparsity=2)
  assert describe(caught.value) == "MaxText: sparsity=2: Input should be less than 1"


def test_thousands_of_lines_become_one_that_can_be_read():
  assert len(describe(ValueError("no such key among\n" * 3000))) < 450


def test_ctrl_c_says_how_to_go_on(capsys):
  assert ended(capsys, KeyboardInterrupt()) == (130, "interrupted; the same command goes on from the last checkpoint")


def test_our_own_errors_and_with_a_traceback_all_errors_pass_through():
  with pytest.raises(ConfigError), in_one_line():
    raise ConfigError("sparsity=2: must be less than 1")
  with pytest.raises(ValueError, match="reason"), in_one_line(has_traceback=True):
    raise ValueError("reason")
