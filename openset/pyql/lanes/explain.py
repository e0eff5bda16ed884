"""The plan of a script as readable text, for `debug=true`: how each part runs and why."""

from __future__ import annotations

from collections.abc import Iterator

from openset.pyql import tree
from openset.pyql.lanes.analysis import Analysis, Mode


def describe(script: tree.Script, analysis: Analysis) -> str:
    """One line per statement, indented like the script, with how it runs."""
    lines = ["columns: " + (", ".join(sorted(script.columns)) or "none")]
    if script.aggregators:
        lines.append("aggregators: " + ", ".join(_aggregator(a) for a in script.aggregators))
    lines.append("one lane per person")
    lines.extend(_body(script.body, analysis, 1))
    for function in script.functions.values():
        lines.append(f"def {function.name}({', '.join(function.parameters)}), on the lanes that call it")
        lines.extend(_body(function.body, analysis, 1))
    fallback = sum(line.endswith(_FALLBACK) for line in lines)
    lines.append(
        f"fallback: {fallback} statements; the people that reach one are answered by the interpreter"
        if fallback
        else "fallback: none, everything is vectorised"
    )
    return "\n".join(lines)


_FALLBACK = "falls back to the interpreter"
_HOW: dict[Mode, str] = {
    "all": "body once for all iterations",
    "rounds": "body in rounds of 1, 2, 4, … iterations per lane, since one may leave the loop",
    "step": "body in lock-step over the k-th {} of every lane",
}


def _aggregator(aggregator: tree.Aggregator) -> str:
    source = aggregator.column.name if aggregator.column is not None else "expression"
    key = "" if aggregator.key is None else f" with {aggregator.key.name}"
    every = " all" if aggregator.every else ""
    distinct = "" if aggregator.every or aggregator.kind in ("value", "var") else ", distinct"
    return f"{aggregator.kind} {source}{key}{every} as {aggregator.alias}{distinct}"


def _body(body: tree.Body, analysis: Analysis, depth: int) -> Iterator[str]:
    for statement in body:
        yield from _statement(statement, analysis, depth)


def _statement(statement: tree.Statement, analysis: Analysis, depth: int) -> Iterator[str]:
    indent = "  " * depth
    head = f"{indent}line {statement.at.line}: "
    match statement:
        case tree.Match():
            yield from _match(statement, analysis, depth)
        case tree.If():
            for index, (condition, inner) in enumerate(statement.branches):
                word = "if" if index == 0 else "elif"
                yield f"{indent}line {condition.at.line}: {word}, splits the lanes"
                yield from _body(inner, analysis, depth + 1)
            if statement.orelse:
                yield f"{indent}else"
                yield from _body(statement.orelse, analysis, depth + 1)
        case tree.For():
            how = _HOW[analysis.fors[statement]].format("element")
            yield f"{head}for, {how}"
            yield from _body(statement.body, analysis, depth + 1)
        case tree.Log():
            yield f"{head}log, nothing to do, with info=true {_FALLBACK}"
        case _:
            name = type(statement).__name__.lower()
            yield f"{head}{name}, per lane"


def _match(statement: tree.Match, analysis: Analysis, depth: int) -> Iterator[str]:
    facts = analysis.matches[statement]
    indent = "  " * depth
    how = _HOW[facts.mode].format("match")
    if facts.carried:
        how += f" (carried: {', '.join(sorted(facts.carried))})"
    if facts.where_acts:
        how += " (the condition calls functions that act)"
    limit = "" if statement.limit is None else " N"
    yield f"{indent}line {statement.at.line}: match{limit}, {how}"
    if facts.static:
        yield f"{indent}  condition: {_conditions(len(facts.static))} evaluated once per block"
    if facts.dynamic:
        yield f"{indent}  condition: {_conditions(len(facts.dynamic))} tested per candidate row"
    yield from _body(statement.body, analysis, depth + 1)


def _conditions(count: int) -> str:
    return "1 part" if count == 1 else f"{count} parts"
