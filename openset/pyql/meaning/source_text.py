"""Expressions of a checked script as text again, for people who want to know which part of a condition was meant."""

from __future__ import annotations

from openset.pyql import tree

_LOOSE = frozenset({"and", "or"})


def source_text(expression: tree.Expression) -> str:
    """The expression in canonical form."""
    match expression:
        case tree.Literal_():
            return repr(expression.value)
        case tree.Parameter():
            return "{{" + expression.name + "}}"
        case tree.ColumnRead() | tree.Variable():
            return expression.name
        case tree.Unary():
            return (
                f"{expression.operator} {_operand(expression.operand)}"
                if expression.operator == "not"
                else (f"{expression.operator}{_operand(expression.operand)}")
            )
        case tree.Binary():
            return _binary(expression)
        case tree.ListDisplay():
            return f"[{_all(expression.items)}]"
        case tree.DictDisplay():
            return "{" + ", ".join(f"{source_text(key)}: {source_text(value)}" for key, value in expression.pairs) + "}"
        case tree.Index():
            return f"{_operand(expression.container)}[{source_text(expression.index)}]"
        case tree.Slice():
            start = "" if expression.start is None else source_text(expression.start)
            stop = "" if expression.stop is None else source_text(expression.stop)
            return f"{_operand(expression.container)}[{start}:{stop}]"
        case tree.Call() | tree.UserCall():
            return f"{expression.function}({_all(expression.arguments)})"
        case tree.MethodCall():
            return f"{_operand(expression.target)}.{expression.method}({_all(expression.arguments)})"
        case tree.Inline():
            return _inline(expression)
    raise AssertionError(f"no rule for {type(expression).__name__}")


def _binary(expression: tree.Binary) -> str:
    operator = expression.operator
    sides = [
        source_text(side) if isinstance(side, tree.Binary) and side.operator == operator in _LOOSE else _operand(side)
        for side in (expression.left, expression.right)
    ]
    return f"{sides[0]} {operator} {sides[1]}"


def _operand(expression: tree.Expression) -> str:
    text = source_text(expression)
    return f"({text})" if isinstance(expression, tree.Binary) and expression.operator in _LOOSE else text


def _all(expressions: tuple[tree.Expression, ...]) -> str:
    return ", ".join(source_text(each) for each in expressions)


def _inline(expression: tree.Inline) -> str:
    words = [expression.kind.upper(), expression.column.name]
    if expression.key is not None:
        words += ["with", expression.key.name]
    if expression.every:
        words.append("all")
    if expression.where is not None:
        words += ["where", source_text(expression.where)]
    return " ".join(words)
