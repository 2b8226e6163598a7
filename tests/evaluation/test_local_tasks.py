"""The two shipped tasks: the same questions everywhere, and answers that follow their context."""

import json

import pytest
import yaml

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.evaluation.local_tasks import questions, read_documents, write_tasks


def documents(count=12, lines=20):
  return ["".join(f"document {i} has line {n:02d} of {lines}\n" for n in range(lines)) for i in range(count)]


def test_the_right_choice_is_the_line_behind_the_context():
  texts = documents()
  for question in questions(texts):
    right = question["choices"][question["answer"]]
    assert any(question["context"] + right in text for text in texts)
    assert len(set(question["choices"])) == 4
    assert not any(
      question["context"] + wrong in text for text in texts for wrong in question["choices"] if wrong != right
    )


def test_questions_are_the_same_every_time_and_answers_are_spread():
  found = questions(documents(40))
  assert found == questions(documents(40)) and len(found) == 200
  counts = [sum(question["answer"] == place for question in found) for place in range(4)]
  assert min(counts) > 30


def test_every_choice_fits_into_a_short_context():
  texts = [text.replace("line 07", "line 07, which is longer than a context of 64 tokens holds,") for text in documents()]
  found = questions(texts)
  assert max(len(choice) for question in found for choice in question["choices"]) <= 60
  assert any("line 07, which" in question["context"] for question in found), "they are asked about other lines"


def test_too_little_text_is_one_line():
  with pytest.raises(ConfigError, match="needs more text"):
    questions(["one line\n"])


def test_the_task_files_are_what_the_harness_reads(tmp_path):
  write_tasks(str(tmp_path), documents())
  for name, kind in (("next_line", "multiple_choice"), ("held_out", "loglikelihood_rolling")):
    task = yaml.safe_load((tmp_path / f"{name}.yaml").read_text())
    assert (task["task"], task["output_type"]) == (name, kind)
    with open(task["dataset_kwargs"]["data_files"]["test"], encoding="utf-8") as file:
      assert all(isinstance(json.loads(line), dict) for line in file)


def test_texts_of_every_kind(tmp_path):
  import pyarrow
  import pyarrow.parquet

  pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"]}), tmp_path / "x.parquet")
  (tmp_path / "x.txt").write_text("a\nb")
  (tmp_path / "x.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
  assert read_documents(str(tmp_path / "x.parquet")) == ["a", "b"] == read_documents(str(tmp_path / "x.jsonl"))
  assert read_documents(str(tmp_path / "x.txt")) == ["a\nb"]
  for name in ("none.txt", "none.parquet"):
    with pytest.raises(ConfigError, match="--text=") as error:
      read_documents(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_without_a_file_the_text_is_what_the_demo_holds_out():
  assert sum(map(len, read_documents(None))) > 400_000
