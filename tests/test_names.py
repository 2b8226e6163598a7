"""A name means one thing: no public class of the analysis side has the name of a class elsewhere in the package."""

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "maxtext_sparse"
ANALYSIS = ("laws", "plan", "plots", "reports")


def test_no_public_class_name_is_used_twice():
  modules = defaultdict(list)
  for path in PACKAGE.rglob("*.py"):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
      if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        modules[node.name].append(path.relative_to(PACKAGE))
  twice = {name: paths for name, paths in modules.items() if len(paths) > 1}
  assert {name: paths for name, paths in twice.items() if any(p.parts[0] in ANALYSIS for p in paths)} == {}
