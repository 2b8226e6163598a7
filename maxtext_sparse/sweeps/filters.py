"""Conditions of a sweep file, such as `gmp_dense_fraction + gmp_prune_fraction <= 1`.

A condition is parsed as a Python expression and evaluated here, node by node. Only the few kinds of nodes that `_value`
knows are allowed, so that a sweep file cannot run code.
"""

import ast
from collections.abc import Callable, Mapping
import math
import operator
from typing import Any

from maxtext_sparse.errors import ConfigError, did_you_mean

_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
}


def _same(a: Any, b: Any) -> bool:
  """Whether two values are equal. Numbers may differ by rounding: 0.1 + 0.2 is 0.3 here."""
  if isinstance(a, int | float) and isinstance(b, int | float):
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
  return bool(a == b)


_COMPARISONS: dict[type, Callable[[Any, Any], bool]] = {
  ast.Eq: _same,
  ast.NotEq: lambda a, b: not _same(a, b),
  ast.Lt: lambda a, b: a < b and not _same(a, b),
  ast.LtE: lambda a, b: a < b or _same(a, b),
  ast.Gt: lambda a, b: a > b and not _same(a, b),
  ast.GtE: lambda a, b: a > b or _same(a, b),
  ast.In: lambda a, b: any(_same(a, item) for item in b),
  ast.NotIn: lambda a, b: not any(_same(a, item) for item in b),
}


def holds(condition: str, values: Mapping[str, Any]) -> bool:
  """Whether a condition is true for these values.

  Args:
    condition: comparisons of numbers, texts and names, with + - * /, and, or, not, in.
    values: the value of each name.

  Raises:
    ConfigError: the text is not such a condition, or it has an unknown name.
  """
  try:
    result = _value(ast.parse(condition, mode="eval").body, values)
  except ConfigError as error:
    raise ConfigError(f"where: {condition}: {error}") from None
  except (SyntaxError, ValueError, TypeError, ZeroDivisionError, RecursionError) as error:
    reason = error.msg if isinstance(error, SyntaxError) else str(error)
    raise ConfigError(f"where: {condition}: not a condition ({reason})") from None
  if not isinstance(result, bool):
    raise ConfigError(f"where: {condition}: is {result}, must be true or false, such as a <= 1")
  return result


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
  """The value of an expression: a number, a text, a list or a truth value."""
  match node:
    case ast.Constant(value=bool() | int() | float() | str() as constant):
      return constant
    case ast.Name(id=name):
      return _lookup(name, values)
    case ast.List(elts=items) | ast.Tuple(elts=items):
      return [_value(item, values) for item in items]
    case ast.UnaryOp(op=ast.Not(), operand=operand):
      return not _value(operand, values)
    case ast.UnaryOp(op=ast.USub(), operand=operand):
      return -_value(operand, values)
    case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
      return _ARITHMETIC[type(op)](_value(left, values), _value(right, values))
    case ast.BoolOp(op=op, values=operands):
      results = [_value(operand, values) for operand in operands]
      return all(results) if isinstance(op, ast.And) else any(results)
    case ast.Compare(left=left, ops=ops, comparators=comparators) if all(type(op) in _COMPARISONS for op in ops):
      terms = [_value(term, values) for term in (left, *comparators)]
      return all(_COMPARISONS[type(op)](a, b) for op, a, b in zip(ops, terms, terms[1:]))
  raise ConfigError(f"{ast.unparse(node)} is not allowed, use numbers, names, + - * /, comparisons, and, or, not, in")


def _lookup(name: str, values: Mapping[str, Any]) -> Any:
  if name not in values:
    hint = did_you_mean(name, values) or ", use an axis or a key that the sweep sets"
    raise ConfigError(f"unknown name {name}{hint}")
  return values[name]
