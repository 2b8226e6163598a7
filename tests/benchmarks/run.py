"""Runs the benchmarks and writes their tables into this folder's README: `python tests/benchmarks/run.py [NAME ...]`.

Without names it runs all of them. That takes about two hours on two cores, most of it in the TPU compiler. Close other
programs first.
"""

import argparse
import json
import re
import subprocess
import sys
from typing import Any

import measure

BENCHMARKS = ("preflight", "step", "search", "growth", "state", "fit")
_README = measure.ROOT / "tests" / "benchmarks" / "README.md"
# GitHub shows it from here.
_PICTURE = measure.ROOT / ".github" / "search_growth.png"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("names", nargs="*", default=list(BENCHMARKS), help=" ".join(BENCHMARKS))
  for name in parser.parse_args().names:
    print(f"\n{name}", flush=True)
    subprocess.run([sys.executable, measure.ROOT / "tests" / "benchmarks" / f"bench_{name}.py"], check=True)
  text = _README.read_text(encoding="utf-8")
  for name in BENCHMARKS:
    result = measure.OUT / f"{name}.json"
    if result.exists():
      text = with_table(text, name, json.loads(result.read_text(encoding="utf-8")))
  _README.write_text(text, encoding="utf-8")
  if (measure.OUT / "search_growth.png").exists():
    _PICTURE.write_bytes((measure.OUT / "search_growth.png").read_bytes())


def with_table(text: str, name: str, result: dict[str, Any]) -> str:
  """Replaces what is between `<!-- NAME -->` and `<!-- / -->` by the table and the machine that it was made on.

  Args:
    text: the README.
    name: of the benchmark.
    result: what `measure.publish` wrote.
  """
  machine = result["machine"]
  where = f"{machine['cores']} cores, {machine['processor']}, jax {machine['jax']}, load {machine['load']}"
  body = f"<!-- {name} -->\n{result['table']}\n\n<sub>{where}</sub>\n<!-- / -->"
  pattern = re.compile(rf"<!-- {name} -->.*?<!-- / -->", re.DOTALL)
  assert pattern.search(text), f"{_README} has no place for {name}"
  return pattern.sub(lambda _: body, text)


if __name__ == "__main__":
  main()
