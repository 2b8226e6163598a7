"""The help of every command: it reads well at 80 columns, and its examples can be pasted."""

import re

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from maxtext_sparse.cli import app
from maxtext_sparse.config import KEYS
from maxtext_sparse.plots import FIGURES


def all_commands(command, path=()):
  """Yields (path, command) of each command and group, such as ("sweep", "make")."""
  yield path, command
  for name, inner in getattr(command, "commands", {}).items():
    yield from all_commands(inner, (*path, name))


COMMANDS = [
  pytest.param(path, command, id=" ".join(path) or "itself") for path, command in all_commands(get_command(app))
]
LEAVES = [parameter for parameter in COMMANDS if not hasattr(parameter.values[1], "commands")]


def shown(*words, columns="80"):
  result = CliRunner().invoke(app, list(words), prog_name="maxtext-sparse", env={"COLUMNS": columns})
  assert result.exit_code == 0, result.output
  return result.stdout


def test_the_commands_are_shown_in_groups():
  text = shown("--help")
  groups = re.split(r"^(\w+):\n", text, flags=re.MULTILINE)[1:]
  names = {title: re.findall(r"^  ([a-z-]+)\b", body, re.MULTILINE) for title, body in zip(groups[::2], groups[1::2])}
  assert list(names) == ["Run", "Plan", "Study", "Cluster", "Laws", "Models", "Tools", "Options"]
  assert names["Run"] == ["train", "run", "demo"] and names["Plan"] == ["plan", "params", "preflight"]
  assert names["Study"] == ["sweep"] and names["Cluster"] == ["launch"]
  assert names["Laws"] == ["fit", "predict", "recommend", "plot", "convert"]
  assert names["Models"] == ["export", "import", "verify", "inspect", "evaluate", "bench"]
  assert names["Tools"] == ["doctor", "keys", "patch"]


@pytest.mark.parametrize("path, command", COMMANDS)
@pytest.mark.parametrize("columns", ["80", "200"])
def test_help_has_at_most_80_columns_and_two_spellings(path, command, columns):
  text = shown(*path, "-h", columns=columns)
  assert text == shown(*path, "--help", columns=columns)
  assert max(map(len, text.splitlines())) <= 80
  assert text.startswith(f"Usage: {' '.join(['maxtext-sparse', *path])}")


@pytest.mark.parametrize("path, command", COMMANDS)
def test_help_is_whole_sentences(path, command):
  assert command.help.split("\n\n")[0].replace("\n", " ").endswith(".")
  for parameter in command.params:
    text = parameter.help
    assert text and text[0].isupper() and text.endswith((".", "e.g.")), f"{parameter.name}: {text}"


@pytest.mark.parametrize("path, command", COMMANDS)
def test_no_line_ends_within_a_word_or_a_bracket_and_types_are_words(path, command):
  text = shown(*path, "--help")
  assert re.findall(r"\w-$|\[(?:default|at|required)[^\]\n]*$", text, re.MULTILINE) == []
  usage = text.split("\n\n")[0]
  assert "<" not in text and "{" not in usage
  assert text.isascii()


def test_lists_have_a_line_for_each_entry():
  text = shown("plot", "--help")
  figures = text.partition("Figures:\n")[2].partition("\n\n")[0]
  assert re.findall(r"^  (\w+) ", figures, re.MULTILINE) == list(FIGURES)
  assert "  t5, vit      The published files" in shown("convert", "--help")


@pytest.mark.parametrize("path, command", LEAVES)
def test_every_command_has_an_example_that_can_be_pasted(path, command):
  text = shown(*path, "--help")
  examples = re.findall(r"Example: ((?:.*\\\n)*.*)", text)
  told = [" ".join(line.split("Example: ")[1].split()) for line in command.help.split("\n\n") if "Example: " in line]
  assert [re.sub(r"\\\n\s*", "", example) for example in examples] == told
  assert told and all(example.startswith(f"maxtext-sparse {' '.join(path)}") for example in told)


def test_train_lists_the_keys_with_their_defaults():
  text = shown("train", "--help")
  for argument in ("sparsity=0.0", "pruning_method=global_gradual", "gmp_pruning_frequency=100", "prune_include=[]"):
    assert argument in text
  assert all(f"  {key}=" in text for key in KEYS)


def test_options_come_in_groups():
  text = shown("launch", "xpk", "--help")
  assert text.index("Where it runs:") < text.index("  --cluster TEXT") < text.index("How it runs:")
  assert text.index("How it runs:") < text.index("  --docker-image TEXT") < text.index("Options:")


@pytest.mark.parametrize(
  "words, message",
  [
    (["plan", "--stesp", "10"], "No such option: --stesp"),
    (["plan", "--steps"], "Option '--steps' requires an argument; maxtext-sparse plan --help"),
    (["fit"], "Missing argument 'RUNS.csv'"),
    (["trian"], "No such command 'trian'. Did you mean 'train'?"),
    (["patch", "aply", "."], "No such command 'aply'. Did you mean 'apply'"),
  ],
)
def test_what_cannot_be_parsed_is_one_line_that_says_where_help_is(words, message):
  result = CliRunner().invoke(app, words, prog_name="maxtext-sparse")
  assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
  assert result.stderr.startswith(f"maxtext-sparse: error: {message}") and "--help shows what there is" in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete_commands(shell):
  variables = {
    "bash": {"_MAXTEXT_SPARSE_COMPLETE": "complete_bash", "COMP_WORDS": "maxtext-sparse pre", "COMP_CWORD": "1"},
    "zsh": {"_MAXTEXT_SPARSE_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "maxtext-sparse pre"},
    "fish": {
      "_MAXTEXT_SPARSE_COMPLETE": "complete_fish",
      "_TYPER_COMPLETE_ARGS": "maxtext-sparse pre",
      "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    },
  }[shell]
  result = CliRunner().invoke(app, [], prog_name="maxtext-sparse", env=variables)
  assert "preflight" in result.stdout and "predict" in result.stdout and "doctor" not in result.stdout
