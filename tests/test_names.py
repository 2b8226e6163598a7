"""A name means one thing: no two public classes, and no two modules of different roles, have one name."""

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "maxtext_sparse"
# Modules that play the same role in each package: tables for people, runs trained in child processes, command lines read,
# and the commands, figures and plans that belong to one command.
SAME_ROLE = {"__init__.py", "text.py", "training.py", "request.py", "plan.py", "study.py"}


def test_no_public_class_name_is_used_twice():
  modules = defaultdict(list)
  for path in PACKAGE.rglob("*.py"):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
      if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        modules[node.name].append(str(path.relative_to(PACKAGE)))
  assert {name: paths for name, paths in modules.items() if len(paths) > 1} == {}


def test_no_two_modules_of_different_roles_have_one_name():
  modules = defaultdict(list)
  for path in PACKAGE.rglob("*.py"):
    if path.name not in SAME_ROLE and path.parent.name != "cli":
      modules[path.name].append(str(path.relative_to(PACKAGE)))
  assert {name: paths for name, paths in modules.items() if len(paths) > 1} == {}
