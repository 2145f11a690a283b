"""Methods that a student has still to write: ``pass``, ``return NotImplemented``, ``Z = None  # TODO``."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

_MARKS = ("NotImplemented", "NotImplementedError")


def unwritten(method: Any) -> bool:
    """Whether a method's source shows that it computes nothing yet. False where there is no source."""
    try:
        # A notebook's cells and the like are found by their line cache; a compiled method has none.
        tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return False
    function = tree.body[0] if tree.body else None
    if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return False
    if any(map(_says_so, function.body)):
        return True
    values = _assigned(function)
    returned = [node.value for node in _own_nodes(function) if isinstance(node, ast.Return)]
    return all(_is_nothing(value, values) for value in returned) and not any(
        isinstance(node, (ast.Yield, ast.YieldFrom, ast.Raise)) for node in _own_nodes(function)
    )


def _says_so(statement: ast.stmt) -> bool:
    """``raise NotImplementedError``, ``return NotImplemented``: unconditionally."""
    value: Any = None
    if isinstance(statement, ast.Raise):
        value = statement.exc
    elif isinstance(statement, ast.Return):
        value = statement.value
    if isinstance(value, ast.Call):
        value = value.func
    return isinstance(value, ast.Name) and value.id in _MARKS


def _assigned(function: ast.AST) -> dict[str, list[ast.expr]]:
    """What is assigned to each name or attribute, by its text."""
    found: dict[str, list[ast.expr]] = {}
    for node in _own_nodes(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                for part in target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]:
                    found.setdefault(_text(part), []).append(node.value)
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)) and node.value is not None:
            found.setdefault(_text(node.target), []).append(node.value)
    return found


def _text(target: ast.expr) -> str:
    """``Z[:, :, i] = x`` assigns to Z."""
    while isinstance(target, (ast.Subscript, ast.Starred)):
        target = target.value
    return ast.unparse(target)


def _is_nothing(value: ast.expr | None, assigned: dict[str, list[ast.expr]]) -> bool:
    if value is None or isinstance(value, ast.Constant):
        return value is None or value.value is None
    if isinstance(value, ast.Name) and value.id in _MARKS:
        return True
    if isinstance(value, (ast.Name, ast.Attribute)):
        given = assigned.get(ast.unparse(value), [])
        return bool(given) and all(_is_nothing(v, {}) for v in given)
    return False


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a function, without those of functions inside."""
    for child in ast.iter_child_nodes(function):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            yield from _own_nodes(child)
