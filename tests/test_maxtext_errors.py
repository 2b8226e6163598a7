"""MaxText's own errors in one line: its reason first, then the hint that helps, then how to see the rest."""

from typing import Literal

import pydantic
import pytest

from maxtext_sparse.config import SparsityKeys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.maxtext_errors import as_config_errors, describe, in_one_line


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
      "MaxText: coordinator_address should be defined; on a machine without an accelerator add hardware=cpu "
      "skip_jax_distributed_system=True; --traceback shows where",
    ),
    (
      RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes"),
      "MaxText: RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes; lower per_device_batch_size, or use more devices; "
      "--traceback shows where",
    ),
    (
      type("HttpError", (Exception,), {})("service unavailable, 503"),
      "MaxText: service unavailable, 503; the bucket does not answer; start the run again later, it goes on from its "
      "last checkpoint; --traceback shows where",
    ),
  ],
)
def test_the_reason_comes_first_and_then_what_helps(capsys, error, line):
  assert ended(capsys, error) == (1, line)


def test_a_bad_value_is_named_with_its_key():
  with pytest.raises(ValueError) as caught:
    SparsityKeys(sparsity=2)
  assert describe(caught.value) == "MaxText: sparsity=2: Input should be less than 1"


class Choices(pydantic.BaseModel):
  decoder_block: Literal["llama2", "gemma"]


def test_a_value_that_is_not_allowed_is_followed_by_the_nearest():
  with pytest.raises(ValueError) as caught:
    Choices(decoder_block="lama2")
  assert describe(caught.value) == "MaxText: decoder_block=lama2: unknown, did you mean llama2?"


def test_an_unknown_key_is_named_without_the_thousand_that_there_are():
  error = ValueError("'stesp' not in " + str([f"key_{number}" for number in range(1000)] + ["steps"]))
  assert describe(error) == "MaxText: stesp: MaxText has no such key, did you mean steps?"


def test_what_only_the_model_reveals_becomes_a_config_error():
  with pytest.raises(ConfigError) as caught, as_config_errors():
    raise ValueError("Invalid num_kv_heads for GQA.")
  assert str(caught.value).startswith("Invalid num_kv_heads for GQA; base_num_query_heads must be a multiple of ")
  with pytest.raises(RuntimeError), as_config_errors():
    raise RuntimeError("not the config's fault")


def test_thousands_of_lines_become_one_that_can_be_read():
  assert len(describe(ValueError("no such key among\n" * 3000))) < 450


def test_ctrl_c_says_how_to_go_on(capsys):
  assert ended(capsys, KeyboardInterrupt()) == (130, "interrupted; the same command goes on from the last checkpoint")


def test_our_own_errors_and_with_a_traceback_all_errors_pass_through():
  with pytest.raises(ConfigError), in_one_line():
    raise ConfigError("sparsity=2: must be less than 1")
  with pytest.raises(ValueError, match="reason"), in_one_line(has_traceback=True):
    raise ValueError("reason")
