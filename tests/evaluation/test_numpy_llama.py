"""The numpy model; `tests/export/test_logits.py` compares it with MaxText."""

import numpy as np
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.evaluation.numpy_llama import NumpyLlama
from maxtext_sparse.weights.folder import ModelFolder


@pytest.fixture(scope="module")
def model(readable):
  return NumpyLlama(ModelFolder(str(readable)))


def test_a_token_sees_nothing_behind_it(model):
  tokens = np.arange(20).reshape(2, 10)
  changed = tokens.copy()
  changed[:, 6:] += 50
  one, other = model.logits(tokens), model.logits(changed)
  np.testing.assert_allclose(one[:, :6], other[:, :6], atol=1e-5)
  assert np.abs(one[:, 6:] - other[:, 6:]).max() > 1e-2


def test_rows_of_a_batch_do_not_see_each_other(model):
  tokens = np.arange(20).reshape(2, 10)
  np.testing.assert_allclose(model.logits(tokens)[1], model.logits(tokens[1:])[0], atol=1e-5)


def test_the_order_of_earlier_tokens_matters(model):
  tokens = np.array([[5, 6, 7, 8, 9]])
  swapped = np.array([[6, 5, 7, 8, 9]])
  assert np.abs(model.logits(tokens)[0, -1] - model.logits(swapped)[0, -1]).max() > 1e-3


def test_another_family_is_one_line(tmp_path):
  from safetensors.numpy import save_file

  save_file({"x.weight": np.ones((2, 2), np.float32)}, tmp_path / "model.safetensors")
  (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
  with pytest.raises(ConfigError, match="model_type='gpt2' needs torch"):
    NumpyLlama(ModelFolder(str(tmp_path)))
