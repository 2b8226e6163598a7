"""Runs the benchmarks and writes their tables into the READMEs: `python tests/benchmarks/run.py [NAME ...]`.

Without names it runs all of them, `inference` only where torch is installed. That takes about two hours on two cores,
most of it in the TPU compiler. Close other programs first.
"""

import argparse
import importlib.util
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import measure

BENCHMARKS = ("preflight", "published", "step", "search", "growth", "state", "fit", "many_runs", "inference")
_README = measure.ROOT / "tests" / "benchmarks" / "README.md"
# Of the benchmarks that have their table elsewhere.
_READMES = {"inference": measure.ROOT / "maxtext_sparse" / "inference" / "README.md"}
# What the TPU compiler tells depends on its version and MaxText's, and not on this machine.
_COMPILED = ("preflight", "published")
_PICTURES = ("search_growth.png", "many_runs.png")
# GitHub shows them from here.
_SHOWN = measure.ROOT / ".github"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  usual = [name for name in BENCHMARKS if name != "inference" or importlib.util.find_spec("torch")]
  parser.add_argument("names", nargs="*", default=usual, help=" ".join(BENCHMARKS))
  for name in parser.parse_args().names:
    print(f"\n{name}", flush=True)
    subprocess.run([sys.executable, measure.ROOT / "tests" / "benchmarks" / f"bench_{name}.py"], check=True)
  for name in BENCHMARKS:
    result = measure.OUT / f"{name}.json"
    if result.exists():
      write_table(_READMES.get(name, _README), name, json.loads(result.read_text(encoding="utf-8")))
  for picture in _PICTURES:
    if (measure.OUT / picture).exists():
      (_SHOWN / picture).write_bytes((measure.OUT / picture).read_bytes())


def write_table(readme: pathlib.Path, name: str, result: dict[str, Any]) -> None:
  """Replaces what is between `<!-- NAME -->` and `<!-- / -->` by the table and what it was made with.

  Args:
    readme: is rewritten.
    name: of the benchmark.
    result: what `measure.publish` wrote.
  """
  machine = result["machine"]
  if name in _COMPILED:
    where = ", ".join(f"{package} {machine[package]}" for package in ("maxtext", "jax", "libtpu"))
  else:
    library = "torch" if name == "inference" else "jax"
    where = f"{machine['cores']} cores, {machine['processor']}, {library} {machine[library]}, load {machine['load']}"
  body = f"<!-- {name} -->\n{result['table']}\n\n<sub>{where}</sub>\n<!-- / -->"
  pattern = re.compile(rf"<!-- {name} -->.*?<!-- / -->", re.DOTALL)
  text = readme.read_text(encoding="utf-8")
  assert pattern.search(text), f"{readme} has no place for {name}"
  readme.write_text(pattern.sub(lambda _: body, text), encoding="utf-8")


if __name__ == "__main__":
  main()
