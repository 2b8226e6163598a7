"""MaxText's own decode, without the plugin, writes from a sparse checkpoint what the export of it writes.

It needs JetStream, which MaxText's package does not bring: clone github.com/AI-Hypercomputer/JetStream and put the clone
on PYTHONPATH, beside `seqio`.
"""

import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece

from maxtext_sparse.evaluation.numpy_llama import NumpyLlama
from maxtext_sparse.export.write import export_checkpoint
from maxtext_sparse.weights.folder import ModelFolder
from tests.export.test_logits import data, models, TRAINING, VARIANTS
from tests.hooks.harness import arguments, environment

__all__ = ["data", "models"]
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not importlib.util.find_spec("jetstream"), reason="JetStream is not on PYTHONPATH"),
]
PROMPT = "def test_"
DECODING = {
  "max_prefill_predict_length": 16,
  "max_target_length": 32,
  "per_device_batch_size": 1,
  "attention": "dot_product",
}


def test_decode_writes_what_the_export_writes(tmp_path, models, data):
  items = models / "grouped" / "checkpoints" / "11" / "items"
  settings = TRAINING | data[0] | VARIANTS["grouped"] | DECODING
  args = arguments(
    tmp_path, "decode", **settings, load_parameters_path=items, prompt=PROMPT, autoregressive_decode_assert=""
  )
  command = [sys.executable, "-m", "maxtext.inference.decode", *args]
  process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
  assert process.returncode == 0, process.stderr[-3000:]
  (written,) = re.findall(rf"Input `{PROMPT}` -> `(.*?)`$", process.stdout, re.DOTALL | re.MULTILINE)
  export_checkpoint(str(models / "grouped"), str(tmp_path / "hf"), [])
  model = NumpyLlama(ModelFolder(str(tmp_path / "hf")))
  processor = sentencepiece.SentencePieceProcessor(model_file=data[0]["tokenizer_path"])
  tokens = [processor.bos_id(), *processor.encode(PROMPT)]
  start = len(tokens)
  while len(tokens) < start + 8:
    tokens.append(int(model.logits(np.array([tokens]))[0, -1].argmax()))
  assert processor.decode(tokens[start:]) in written, (written, tokens)
