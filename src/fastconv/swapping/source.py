"""What can be read off the source of a user's methods, where there is one."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

# On a method that a recording has put in the place of another, to note its calls: the other is wrapped.
NOTING = "_notes_for"
_MARKS = ("NotImplemented", "NotImplementedError")


def plain(method: Any) -> Any:
    """A method as it is while nothing is recorded."""
    while hasattr(method, NOTING):
        method = method.__wrapped__
    return method


def unwritten(method: Any) -> bool:
    """Whether it is still to be written: ``pass``, ``return NotImplemented``, ``Z = None  # TODO``."""
    function = _function(method)
    if function is None:
        return False
    if any(map(_says_so, function.body)):
        return True
    values = _assigned(function)
    returned = [node.value for node in _own_nodes(function) if isinstance(node, ast.Return)]
    return all(_is_nothing(value, values) for value in returned) and not any(
        isinstance(node, (ast.Yield, ast.YieldFrom, ast.Raise)) for node in _own_nodes(function)
    )


def gradients_kept(backward: Any) -> dict[str, str]:
    """Which gradients a backward does not set anew, and what it does with the arrays that are there.

    Some revisions "add" to them: their programs sum over calls, and zero the gradients themselves.
    Others "fill" them: whoever has got hold of the array sees each new gradient in it.
    """
    function = _function(backward)
    owner = next((a.arg for a in function.args.args), None) if function is not None else None
    if function is None or owner is None:
        return {}
    uses: dict[str, set[str]] = {}
    for node in _own_nodes(function):
        target: Any = None
        if isinstance(node, ast.AugAssign):
            target, use = node.target, "add" if isinstance(node.op, (ast.Add, ast.Sub)) else "fill"
        elif isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, use = node.targets[0], "set"
            if _text(target) in ast.unparse(node.value):
                use = "add"
            elif isinstance(target, ast.Subscript):
                use = "fill"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "fill":
            target, use = node.func.value, "fill"
        if target is not None:
            uses.setdefault(_text(target), set()).add(use)
    found = {}
    for name in ("dLdW", "dLdb", "dW", "db"):
        use_of = uses.get(f"{owner}.{name}", {"set"})
        if "set" not in use_of:
            found[name] = "fill" if "fill" in use_of else "add"
    return found


def draws_otherwise(forward: Any) -> bool:
    """Whether a written forward has no draw from NumPy's global binomial in it."""
    function = _function(forward)
    if function is None or unwritten(forward):
        return False
    return not any(
        isinstance(node, ast.Attribute) and ast.unparse(node).endswith("random.binomial")
        for node in _own_nodes(function)
    )


def _function(method: Any) -> ast.FunctionDef | None:
    try:
        # A notebook's cells and the like are found by their line cache; a compiled method has none.
        tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    function = tree.body[0] if tree.body else None
    return function if isinstance(function, ast.FunctionDef) else None


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
