"""A syntax tree as indented text, for golden files: one line per node, children below, positions left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from openset.pyql import tree

_HIDDEN = {"at", "text"}


def show(node: Any) -> str:
    """The text of a node, of a script, or of sections."""
    nodes = node if isinstance(node, tuple) else (node,)
    return "\n".join(line for each in nodes for line in _lines("", each, 0))


def _lines(label: str, value: Any, depth: int) -> Iterator[str]:
    margin = "  " * depth
    prefix = f"{label}: " if label else ""
    if isinstance(value, tree.Expression):
        yield f"{margin}{prefix}{expression(value)}"
    elif isinstance(value, tree.Node):
        simple = {}
        nested = {}
        for field in fields(value):  # type: ignore[arg-type]
            if field.name in _HIDDEN:
                continue
            content = getattr(value, field.name)
            if _is_simple(content):
                simple[field.name] = content
            else:
                nested[field.name] = content
        words = " ".join(f"{name}={_plain(content)}" for name, content in simple.items() if not _is_empty(content))
        yield f"{margin}{prefix}{type(value).__name__}{' ' + words if words else ''}"
        for name, content in nested.items():
            if not _is_empty(content):
                yield from _lines(name, content, depth + 1)
    elif isinstance(value, dict):
        yield f"{margin}{label}:"
        for content in value.values():
            yield from _lines("", content, depth + 1)
    elif isinstance(value, tuple):
        yield f"{margin}{label}:"
        for content in value:
            if isinstance(content, tuple):
                condition, body = content
                yield f"{margin}  when {expression(condition)}"
                for statement in body:
                    yield from _lines("", statement, depth + 2)
            else:
                yield from _lines("", content, depth + 1)
    else:
        yield f"{margin}{prefix}{_plain(value)}"


def _is_simple(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(isinstance(item, str) for item in value)
    return value is None or isinstance(value, (str, int, float, bool, frozenset))


def _is_empty(value: Any) -> bool:
    return value is None or value is False or value == () or value == frozenset() or value == {}


def _plain(value: Any) -> str:
    if isinstance(value, frozenset):
        return ",".join(sorted(value))
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    return str(value)


def expression(node: tree.Expression) -> str:
    """An expression as prefix text in round brackets, with a letter for what a name is."""
    match node:
        case tree.Literal_():
            return repr(node.value)
        case tree.Parameter():
            return "{{" + node.name + "}}"
        case tree.ColumnRead():
            return f"column.{node.name}"
        case tree.Variable():
            return f"${node.name}"
        case tree.Unary():
            return f"({node.operator} {expression(node.operand)})"
        case tree.Binary():
            return f"({node.operator} {expression(node.left)} {expression(node.right)})"
        case tree.ListDisplay():
            return f"[{_all(node.items)}]"
        case tree.DictDisplay():
            return "{" + ", ".join(f"{expression(key)}: {expression(value)}" for key, value in node.pairs) + "}"
        case tree.Index():
            return f"{expression(node.container)}[{expression(node.index)}]"
        case tree.Slice():
            ends = ":".join("" if end is None else expression(end) for end in (node.start, node.stop))
            return f"{expression(node.container)}[{ends}]"
        case tree.Call():
            return f"{node.function}({_all(node.arguments)})"
        case tree.UserCall():
            return f"def.{node.function}({_all(node.arguments)})"
        case tree.MethodCall():
            return f"{expression(node.target)}.{node.method}({_all(node.arguments)})"
        case tree.Inline():
            key = f" with {node.key.name}" if node.key else ""
            every = " all" if node.every else ""
            where = f" where {expression(node.where)}" if node.where else ""
            return f"<{node.kind} {node.column.name}{key}{every}{where}>"
    raise AssertionError(f"{type(node).__name__} is not shown")


def _all(nodes: tuple[tree.Expression, ...]) -> str:
    return ", ".join(expression(node) for node in nodes)
