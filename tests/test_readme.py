"""What the READMEs say is true: commands print what is shown, and the files, links and keys that they name exist."""

from collections.abc import Iterator
import os
from pathlib import Path
import re
import shlex
import subprocess
import sys

from _pytest.mark import ParameterSet
import pytest

from maxtext_sparse.config import KEYS, parse_keys
from maxtext_sparse.config_files import parse_yaml
from maxtext_sparse.hooks import SUPPORTED_VERSIONS
from tests.readme_inputs import write_inputs

REPO = Path(__file__).parents[1]
PUBLIC_RUNS = REPO.parent / "shared" / "data"
MAIN = REPO / "README.md"
FOLDERS = ("configs", "launch", "maxtext_sparse", "patches", "tests")
READMES = [MAIN, *sorted(path for folder in FOLDERS for path in (REPO / folder).rglob("README.md"))]
DOCUMENTS = [*READMES, *sorted((REPO / ".github").glob("*.md"))]
BENCHMARKS = sorted((REPO / "tests" / "benchmarks").glob("bench_*.py"))
# What the README of the package calls the core.
CORE = (
  "errors",
  "config",
  "config_files",
  "rules",
  "schedule",
  "amounts",
  "arguments",
  "run_values",
  "maxtext_errors",
  "terminal",
  "pruning",
  "runs",
  "hooks",
  "entry",
)
# Its commands read what the default demo leaves behind: `tests/export/test_readme_blocks.py` runs them.
OF_THE_DEMO = REPO / "maxtext_sparse" / "export" / "README.md"
MAX_LINES = 200

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# A path that begins with a folder of the repository.
_PATH = re.compile(rf"(?<![\w/.-])((?:{'|'.join(FOLDERS)}|\.github|\.ci)/[\w./-]*[\w/])")
# A code span that is a file of a kind that the repository holds, or a folder. What runs write is of other kinds, and a
# reader replaces NAME.
_FILE_SPAN = re.compile(r"`(?![^`]*NAME)([\w./-]+(?:\.(?:py|yml|yaml|sh|txt|patch|md)|/))`")
# Names at the start of a line of a tree: `search.py`, `hooks/`, or several with commas.
_TREE_NAMES = re.compile(r"( *)((?:[\w.]+(?:\.py|/)(?:, )?)+)")
_IMPORT = re.compile(r"^\s*(?:from|import) maxtext_sparse(?:\.| import )(\w+)", re.MULTILINE)
_SETUP = re.compile(r"^(?:python3\.12 -m venv|\.venv/bin/pip install) .*$", re.MULTILINE)

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPO)))


def read(document: Path) -> str:
  return document.read_text(encoding="utf-8")


def shown_commands() -> Iterator[ParameterSet]:
  """(command, output) of the console blocks of every README, without commands that need a shell or a cluster."""
  for readme in (readme for readme in READMES if readme != OF_THE_DEMO):
    for block in (body for language, body in _BLOCK.findall(read(readme)) if language == "console"):
      for entry in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = entry.partition("\n")
        if command.startswith("maxtext-sparse") and not command.endswith("\\") and "|" not in command:
          name = f"{readme.relative_to(REPO)}: {command.removeprefix('maxtext-sparse ')[:60]}"
          yield pytest.param(command, output, id=name)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
  """A folder in which the commands find what they name: the configs, the public runs, and what others left."""
  folder = tmp_path_factory.mktemp("readme")
  (folder / "configs").symlink_to(REPO / "configs")
  write_inputs(folder)
  for name, source, table in (("t5-data.csv", "t5", "t5.csv"), ("vit-data.json", "vit", "vit.csv")):
    if (PUBLIC_RUNS / name).exists():
      (folder / name).symlink_to(PUBLIC_RUNS / name)
      assert run(f"maxtext-sparse convert {name} --source {source} --out {table}", folder).returncode == 0
  return folder


def run(command: str, folder: Path, python: str = sys.executable) -> subprocess.CompletedProcess:
  variables = os.environ | {"COLUMNS": "120", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPO)}
  arguments = [python, "-m", "maxtext_sparse", *shlex.split(command)[1:]]
  return subprocess.run(arguments, cwd=folder, env=variables, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("command, output", list(shown_commands()))
def test_a_console_block_shows_what_the_command_prints(command, output, workspace):
  if re.search(r"\b(t5|vit)\b", command) and not PUBLIC_RUNS.exists():
    pytest.skip("the public runs are not here")
  done = run(command, workspace)
  assert done.returncode == 0, done.stderr
  # The rounding of another processor changes which starts arrive at the optimum, and so bootstraps and intervals.
  # tests/laws holds the fits themselves to 1e-6.
  rel = 0.1 if command.split()[1] in ("fit", "predict", "recommend") else 0.02
  assert len(done.stdout.split()) == len(output.split()), done.stdout
  for printed, shown in zip(done.stdout.split(), output.split()):
    assert printed == shown or numbers(printed) == pytest.approx(numbers(shown), rel=rel, abs=2e-4), done.stdout


def numbers(word: str) -> list[float]:
  """The numbers in a word; a word without numbers equals no other word."""
  return [float(n) for n in re.findall(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?", word)] or [float("nan")]


PACKAGE_README = REPO / "maxtext_sparse" / "README.md"


def blocks(document: Path, language: str) -> list[str]:
  return [body for found, body in _BLOCK.findall(read(document)) if found == language]


def test_the_example_of_groups_means_what_the_text_says():
  (groups,) = [block for block in blocks(PACKAGE_README, "yaml") if "prune_groups" in block]
  keys = parse_keys(parse_yaml(groups) | {"steps": 1000})
  assert [(pattern, rule.describe()) for pattern, rule in keys.rules] == [
    ("/mlp/", "50 % per_matrix 2:4"),
    ("logits_dense", "0 % per_matrix"),
    (None, "60 % per_matrix"),
  ]


def test_the_example_of_a_score_prunes(tmp_path, monkeypatch):
  import jax.numpy as jnp
  import numpy as np
  import optax

  from maxtext_sparse import prune, Schedule
  from maxtext_sparse.rules import PruningRule

  (example,) = blocks(PACKAGE_README, "python")
  (tmp_path / "my_scores.py").write_text(example)
  monkeypatch.syspath_prepend(tmp_path)
  tx = prune(optax.sgd(0.0), Schedule(9, (0,), (0.5,)), ["w"], rule=PruningRule(0.5, score="my_scores:saliency"))
  weight, gradient = {"w": jnp.array([[1.0, 2.0], [3.0, 4.0]])}, {"w": jnp.array([[9.0, 1.0], [1.0, 1.0]])}
  update, _ = tx.update(gradient, tx.init(weight), weight, step=0)
  np.testing.assert_array_equal(weight["w"] + update["w"], [[1.0, 0.0], [0.0, 4.0]])


def test_at_least_three_commands_are_shown():
  assert len(list(shown_commands())) >= 3


def test_the_main_readme_is_short():
  assert len(read(MAIN).splitlines()) <= MAX_LINES


@pytest.mark.parametrize("document", [MAIN, REPO / ".github" / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_the_set_up_commands_are_those_of_ci(document):
  in_ci = [command.replace("install --quiet", "install") for command in _SETUP.findall(read(REPO / ".ci" / "run"))]
  assert len(in_ci) == 2
  assert _SETUP.findall(read(document)) == in_ci


def test_the_test_command_is_that_of_ci():
  command = ".venv/bin/python -m pytest"
  assert f"\n{command}\n" in read(MAIN)
  assert f"\n{command}" in read(REPO / ".ci" / "run")


@pytest.mark.parametrize("key", KEYS)
def test_the_main_readme_documents_every_key(key):
  assert f"`{key}`" in read(MAIN)


@pytest.mark.parametrize("release", SUPPORTED_VERSIONS)
def test_the_readme_of_the_patches_documents_every_release(release):
  assert f"| {release} |" in read(REPO / "patches" / "README.md")
  assert f"`patches/maxtext-{release}.patch`" in read(REPO / "patches" / "README.md")


@pytest.mark.parametrize("readme", [MAIN, REPO / "maxtext_sparse" / "README.md"], ids=("main", "package"))
def test_a_tree_names_every_package_and_nothing_else(readme):
  entries = tree_entries(read(readme))
  missing = [str(path.relative_to(REPO)) for path in entries if not path.exists()]
  assert not missing
  packages = {path.parent for path in (REPO / "maxtext_sparse").glob("*/__init__.py")}
  assert packages <= set(entries), packages - set(entries)


def test_the_core_imports_no_other_package():
  """Data flows one way, as the README of the package says."""
  package = REPO / "maxtext_sparse"
  files = [path for name in CORE for path in (package / f"{name}.py", *(package / name).glob("*.py")) if path.exists()]
  others = {
    path.relative_to(package).as_posix(): set(_IMPORT.findall(read(path))) - {*CORE, "__version__"} for path in files
  }
  assert len(files) > 20
  assert {path: names for path, names in others.items() if names} == {"hooks/diagnosis.py": {"patching"}}


def tree_entries(text: str) -> list[Path]:
  """The files and folders of the trees in a README; a line belongs to the last line that is indented less."""
  entries = []
  for block in (body for language, body in _BLOCK.findall(text) if not language and body.startswith("maxtext_sparse/")):
    folders = {-1: REPO}
    for line in block.splitlines():
      match = _TREE_NAMES.match(line)
      assert match, f"not a line of a tree: {line}"
      depth = len(match[1])
      parent = folders[max(above for above in folders if above < depth)]
      names = match[2].rstrip(", ").split(", ")
      entries += [parent / name for name in names]
      folders = {above: folder for above, folder in folders.items() if above < depth} | {depth: parent / names[0]}
  return entries


@every_document
def test_every_file_and_folder_that_a_document_names_exists(document):
  text = read(document)
  for path in set(_PATH.findall(text)):
    assert (REPO / path).exists(), path
  for name in set(_FILE_SPAN.findall(text)):
    places = [document.parent, REPO, REPO / "maxtext_sparse"]
    assert any((place / name).exists() for place in places) or is_tail_of_a_path(name), name


def is_tail_of_a_path(name: str) -> bool:
  """Whether some file or folder of the repository has this name, such as `table.py` or `sweeps/`."""
  return any(path.match(f"*/{name.rstrip('/')}") for folder in FOLDERS for path in (REPO / folder).rglob("*"))


@every_document
def test_every_relative_link_of_a_document_resolves(document):
  for target in _LINK.findall(read(document)):
    if "://" in target:
      continue
    path, _, anchor = target.partition("#")
    linked = (document.parent / path).resolve() if path else document
    assert linked.exists(), target
    if anchor:
      assert anchor in anchors(read(linked)), target


def anchors(text: str) -> set[str]:
  """GitHub's names of a document's headings."""
  headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", text), re.MULTILINE)
  return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda path: path.stem)
def test_one_readme_has_the_table_of_a_benchmark(benchmark):
  place = rf"<!-- {benchmark.stem.removeprefix('bench_')} -->\n\|.*?<!-- / -->"
  assert sum(len(re.findall(place, read(readme), re.DOTALL)) for readme in READMES) == 1
