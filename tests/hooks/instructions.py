"""A tiny instruction set, made on the spot: conversations about sums, and the tokenizer of the demo's text for them.

As preferences, the right answer is chosen, and the one that says minus for plus is rejected.
"""

import json
from pathlib import Path

from maxtext_sparse.export.tokenizer import CONFIG_FILE, write_tokenizer

# Each message on a line of its own, after the name of its speaker.
_CHAT_TEMPLATE = (
  "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def conversations() -> list[dict]:
  """Questions and answers about the sums of two numbers up to 20."""
  pairs = [(a, b) for a in range(21) for b in range(21)]
  ask = lambda a, b: {"role": "user", "content": f"What is {a} plus {b}?"}
  reply = lambda a, b: {"role": "assistant", "content": f"{a} plus {b} is {a + b}."}
  return [{"messages": [ask(a, b), reply(a, b)]} for a, b in pairs]


def preferences() -> list[dict]:
  """Questions, each with a chosen and a rejected answer."""
  pairs = [(a, b) for a in range(21) for b in range(21)]
  answer = lambda a, word, b: f"assistant: {a} {word} {b} is {a + b}."
  return [
    {"input": f"user: What is {a} plus {b}?\n", "chosen": answer(a, "plus", b), "rejected": answer(a, "minus", b)}
    for a, b in pairs
  ]


def preference_data(folder: Path, text_data: dict) -> dict:
  """Settings for `train_dpo`, offline; the arguments are those of `instruction_data`."""
  settings = instruction_data(folder, text_data)
  (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, preferences())))
  return settings | {
    "hf_train_files": folder / "pairs.jsonl",
    "train_data_columns": "[input,chosen,rejected]",
    "use_dpo": True,
    "packing": False,
  }


def instruction_data(folder: Path, text_data: dict) -> dict:
  """Settings for `train_sft_native`, offline.

  Args:
    folder: the conversations and the tokenizer are written here.
    text_data: settings of pre-training on text, whose vocabulary the tokenizer has.
  """
  folder.mkdir()
  write_tokenizer(str(folder), text_data | {"vocab_size": 512, "max_target_length": 128})
  config = json.loads((folder / CONFIG_FILE).read_text())
  (folder / CONFIG_FILE).write_text(json.dumps(config | {"chat_template": _CHAT_TEMPLATE}))
  lines = [json.dumps(conversation) for conversation in conversations()]
  (folder / "sums.jsonl").write_text("\n".join(lines))
  return {
    "dataset_type": "hf",
    "hf_path": "json",
    "hf_train_files": folder / "sums.jsonl",
    "train_split": "train",
    "train_data_columns": "[messages]",
    "tokenizer_type": "huggingface",
    "tokenizer_path": folder,
    "num_epoch": 20,
  }
