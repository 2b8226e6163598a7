"""A name means one thing: no two modules of the package define a public class of the same name."""

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "maxtext_sparse"


def test_no_public_class_name_is_used_twice():
  modules = defaultdict(list)
  for path in PACKAGE.rglob("*.py"):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
      if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        modules[node.name].append(str(path.relative_to(PACKAGE)))
  assert {name: paths for name, paths in modules.items() if len(paths) > 1} == {}
