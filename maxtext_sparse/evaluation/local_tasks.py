"""Two tasks on a text of the user's, for evaluation without a network.

`next_line`: four lines, one of which follows the text before it; the others are lines of other documents and of about the
same length. `held_out`: bits per byte and perplexity of whole documents.

The text is the demo's held-out one unless another is given: files of Python's standard library that the demo does not
train on. Both tasks are the same on every machine with the same text: nothing is drawn at random.
"""

from collections.abc import Sequence
import hashlib
import json
import os
from typing import Any

from maxtext_sparse.errors import ConfigError

NAMES = ("next_line", "held_out")
_NUM_QUESTIONS = 200
_NUM_CHOICES = 4
_CONTEXT_LINES = 12
# Shorter lines, such as `else:`, tell nothing.
_SMALLEST_LINE = 12
# Longer ones may not fit into a context of 64 tokens, which the demo's models have.
_LARGEST_LINE = 60
_SUFFIXES = (".parquet", ".txt", ".jsonl")

_NEXT_LINE = """task: next_line
dataset_path: json
dataset_kwargs:
  data_files: {{test: {path}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_target: answer
doc_to_choice: "{{{{choices}}}}"
target_delimiter: ""
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""

_HELD_OUT = """task: held_out
dataset_path: json
dataset_kwargs:
  data_files: {{test: {path}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - {{metric: bits_per_byte}}
  - {{metric: byte_perplexity}}
metadata: {{version: 1.0}}
"""


def write_tasks(folder: str, documents: Sequence[str]) -> None:
  """Writes both tasks and their data into a folder that the harness searches.

  Raises:
    ConfigError: too little text for questions.
  """
  _write_lines(os.path.join(folder, "next_line.jsonl"), questions(documents))
  _write_lines(os.path.join(folder, "held_out.jsonl"), [{"text": document} for document in documents])
  for name, template in (("next_line", _NEXT_LINE), ("held_out", _HELD_OUT)):
    with open(os.path.join(folder, f"{name}.yaml"), "w", encoding="utf-8") as file:
      file.write(template.format(path=json.dumps(os.path.join(os.path.abspath(folder), f"{name}.jsonl"))))


def questions(documents: Sequence[str]) -> list[dict[str, Any]]:
  """Multiple-choice questions: `context`, `choices`, and the place of the right one, `answer`."""
  lines = [document.splitlines(keepends=True) for document in documents]
  places = [
    (index, number)
    for index, document in enumerate(lines)
    for number in range(_CONTEXT_LINES, len(document))
    if len(document[number].strip()) >= _SMALLEST_LINE and len(document[number]) <= _LARGEST_LINE
  ]
  places.sort(key=lambda place: _digest(lines[place[0]][place[1]], str(place)))
  if len(places) < 2 * _NUM_CHOICES:
    raise ConfigError(f"--text: {len(places)} lines to ask for, next_line needs more text")
  return [_question(lines, places, place) for place in places[:_NUM_QUESTIONS]]


def read_documents(path: str | None) -> list[str]:
  """The documents of a text: rows of a .parquet or .jsonl file with a column `text`, or a .txt file as one document.

  Args:
    path: the file; None for the demo's held-out text.

  Raises:
    ConfigError: the file cannot be read.
  """
  if path is None:
    import sysconfig

    from maxtext_sparse.local.corpus import CorpusSettings, split_files
    from maxtext_sparse.local.sources import read_files

    return split_files(read_files(sysconfig.get_path("stdlib")), CorpusSettings())[1]
  try:
    if path.endswith(".parquet"):
      import pyarrow.parquet

      return [str(text) for text in pyarrow.parquet.read_table(path)["text"].to_pylist()]
    with open(path, encoding="utf-8") as file:
      return [json.loads(line)["text"] for line in file] if path.endswith(".jsonl") else [file.read()]
  except (OSError, ValueError, KeyError, TypeError) as error:
    suffixes = " or ".join(_SUFFIXES)
    raise ConfigError(f"--text={path}: cannot be read as {suffixes} with a column `text` ({error})") from error


def _question(lines: list[list[str]], places: Sequence[tuple[int, int]], place: tuple[int, int]) -> dict[str, Any]:
  index, number = place
  right = lines[index][number]
  others = {lines[i][n] for i, n in places if i != index} - {right}
  # Of about the same length, so that length tells nothing; ties are broken by the digest.
  nearest = sorted(others, key=lambda line: (abs(len(line) - len(right)), _digest(line, right)))[: _NUM_CHOICES - 1]
  # Another digest than the one that chose the place, or the right line would tend to come first.
  choices = sorted([right, *nearest], key=lambda line: _digest("order", line, str(place)))
  context = "".join(lines[index][number - _CONTEXT_LINES : number])
  return {"context": context, "choices": choices, "answer": choices.index(right)}


def _digest(*texts: str) -> str:
  return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _write_lines(path: str, rows: Sequence[dict[str, Any]]) -> None:
  with open(path, "w", encoding="utf-8") as file:
    file.writelines(json.dumps(row) + "\n" for row in rows)
