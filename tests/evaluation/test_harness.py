"""lm-evaluation-harness on an exported folder, without a network and without torch."""

import importlib.util
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.weights.folder import ModelFolder

pytest.importorskip("lm_eval", reason="the `eval` extra is not installed")

from maxtext_sparse.evaluation.harness import _bits_error, evaluate
from maxtext_sparse.evaluation.numpy_llama import NumpyLlama
from maxtext_sparse.evaluation.numpy_lm import NumpyLM
from maxtext_sparse.export.write import export_checkpoint, ExportOptions


class Request:
  def __init__(self, *args):
    self.args = args


@pytest.fixture(scope="module")
def results(readable):
  text = str(readable.parent / "text.jsonl")
  return evaluate([str(readable)], ["next_line", "held_out"], text=text, backend="numpy", limit=12)[str(readable)]


def test_both_tasks_have_values_and_standard_errors(results):
  assert 0 <= results["next_line"]["acc"] <= 1 and results["next_line"]["acc_stderr"] > 0
  assert results["held_out"]["bits_per_byte"] > 0 and results["held_out"]["bits_per_byte_stderr"] > 0


def test_bits_per_byte_are_those_of_the_model(readable, results):
  lm = NumpyLM(str(readable))
  model = NumpyLlama(ModelFolder(str(readable)))
  with open(readable.parent / "text.jsonl", encoding="utf-8") as file:
    texts = [json.loads(line)["text"] for line in file][:12]
  nats = 0.0
  for text in texts:
    tokens = lm.tok_encode(text, add_special_tokens=False)
    padded = [lm.prefix_token_id, *tokens]
    for start in range(0, len(tokens), 64):  # windows of the model's context; the last one reaches back to fill it
      window = tokens[start : start + 64]
      end = start + len(window)
      inputs = padded[max(0, end - 64) : end]
      logits = model.logits(np.array([inputs]))[0, -len(window) :].astype(np.float64)
      log_sum = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
      nats += float((log_sum - logits[np.arange(len(window)), window]).sum())
  expected = nats / sum(len(text.encode()) for text in texts) / math.log(2)
  assert results["held_out"]["bits_per_byte"] == pytest.approx(expected, rel=1e-5)


def test_scores_do_not_depend_on_the_batch(readable):
  requests = [Request("def function", tail) for tail in ("_1(", "_2(argument_2):\n  return", " x")]
  alone = NumpyLM(str(readable), batch_size=1).loglikelihood(requests, disable_tqdm=True)
  together = NumpyLM(str(readable), batch_size=3).loglikelihood(requests, disable_tqdm=True)
  np.testing.assert_allclose([score for score, _ in alone], [score for score, _ in together], atol=1e-4)


def test_a_continuation_that_is_longer_than_the_context_is_scored_in_windows(readable):
  lm = NumpyLM(str(readable))
  tail = "".join(f"name_{i} = value_{i}\n" for i in range(30))
  context, tokens = lm._encode_pair("def function():\n", tail)
  assert len(tokens) > 2 * lm._max_length
  ((score, _),) = lm.loglikelihood([Request("def function():\n", tail)], disable_tqdm=True)
  model, expected = NumpyLlama(ModelFolder(str(readable))), 0.0
  text = [context[-1], *tokens]
  for start in range(0, len(tokens), 64):  # the last window reaches back to fill the context
    end = min(start + 64, len(tokens))
    logits = model.logits(np.array([text[max(0, end - 64) : end]]))[0, -(end - start) :].astype(np.float64)
    log_sum = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    expected -= float((log_sum - logits[np.arange(end - start), tokens[start:end]]).sum())
  assert score == pytest.approx(expected, rel=1e-5)


def test_greedy_text_is_the_most_likely_one(readable):
  lm = NumpyLM(str(readable))
  (written,) = lm.generate_until([Request("def function_1", {"until": ["\n\n\n"], "max_gen_toks": 8})])
  tokens = lm.tok_encode("def function_1")
  model = NumpyLlama(ModelFolder(str(readable)))
  for _ in range(8):
    tokens.append(int(model.logits(np.array([tokens]))[0, -1].argmax()))
  assert lm._tokenizer.decode(tokens[-8:]).startswith(written)


def test_the_standard_error_of_a_ratio():
  # Two documents of 10 bytes: -20 and -30 nats. Mean 2.5 a byte, deviations of 5 nats.
  samples = [{"bits_per_byte": (-20.0, 10)}, {"bits_per_byte": (-30.0, 10)}]
  expected = math.sqrt(2 / 1 * (5**2 + 5**2)) / 20 / math.log(2)
  assert _bits_error(samples)["bits_per_byte_stderr"] == pytest.approx(expected)
  assert _bits_error(samples[:1]) == {}


OWN_TASK = """task: vowels
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{word}}"
doc_to_target: answer
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def test_a_task_of_ones_own_needs_a_folder_and_no_network(readable, tmp_path):
  rows = [{"word": word, "choices": [" a", " b"], "answer": answer} for word, answer in (("import", 0), ("def", 1))]
  (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  (tmp_path / "vowels.yaml").write_text(OWN_TASK.replace("FILE", str(tmp_path / "rows.jsonl")))
  found = evaluate([str(readable)], ["vowels"], task_folder=str(tmp_path), backend="numpy")[str(readable)]["vowels"]
  # The model's own order of the two choices decides each question.
  lm = NumpyLM(str(readable))
  scores = [lm.loglikelihood([Request(row["word"], choice) for choice in row["choices"]]) for row in rows]
  right = [max((0, 1), key=lambda i: pair[i][0]) == row["answer"] for pair, row in zip(scores, rows)]
  assert found["acc"] == sum(right) / 2 and found["acc_stderr"] >= 0


@pytest.mark.parametrize("shard_bytes", [10**9, 40_000])
def test_a_bitmask_folder_scores_like_the_dense_one(readable, results, tmp_path, shard_bytes):
  options = ExportOptions(weights_format="bitmask", is_compressed=True, shard_bytes=shard_bytes)
  export_checkpoint(str(readable.parent / "run" / "checkpoints" / "9"), str(tmp_path / "bits"), [], options)
  text = str(readable.parent / "text.jsonl")
  found = evaluate([str(tmp_path / "bits")], ["held_out"], text=text, limit=12)[str(tmp_path / "bits")]
  assert found["held_out"] == pytest.approx(results["held_out"], rel=1e-6)


@pytest.mark.parametrize(
  ("options", "expected"),
  [
    ({"tasks": ["held_out"], "backend": "torch"}, r"--backend=torch: peft is missing here: pip install 'lm_eval\[hf\]'"),
    ({"tasks": ["held_out"], "task_folder": "/nowhere"}, "--task-folder=/nowhere: no such folder"),
    ({"tasks": ["next_lime"]}, "--tasks=next_lime: the harness has no such task"),
    ({"tasks": ["held_out"], "backend": "jax"}, "--backend=jax: must be auto"),
  ],
)
def test_bad_input_is_one_line(readable, options, expected, monkeypatch):
  found = importlib.util.find_spec
  there = {"torch", "transformers", "accelerate"}
  monkeypatch.setattr(
    "importlib.util.find_spec", lambda name: None if name == "peft" else True if name in there else found(name)
  )
  with pytest.raises(ConfigError, match=expected):
    evaluate([str(readable)], **options)


def test_a_folder_without_a_config_is_one_line(tmp_path):
  with pytest.raises(ConfigError, match=r"has no config\.json, not a model folder"):
    evaluate([str(tmp_path)], ["held_out"])


def test_the_command_prints_one_json_object(readable):
  command = [
    sys.executable,
    "-m",
    "maxtext_sparse",
    "evaluate",
    readable,
    "--tasks",
    "held_out",
    "--limit",
    "4",
    "--json",
  ]
  command += ["--backend", "numpy", "--text", readable.parent / "text.jsonl"]
  process = subprocess.run(command, capture_output=True, text=True, check=False)
  assert process.returncode == 0, process.stderr[-2000:]
  assert json.loads(process.stdout)["results"][str(readable)]["held_out"]["bits_per_byte"] > 0
