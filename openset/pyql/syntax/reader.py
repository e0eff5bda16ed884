"""Blocks of lines → raw statements: which construct a line is, its header, and the body below it or after its colon."""

from __future__ import annotations

import re

import pyparsing as pp

from openset.pyql.names import AGGREGATORS
from openset.pyql.syntax import grammar, syntax
from openset.pyql.syntax.diagnose import explain
from openset.pyql.syntax.fold import Entries, Fold, Groups
from openset.pyql.syntax.layout import Block, Group, Line, first_word
from openset.pyql.syntax.messages import quoted
from openset.pyql.syntax.source import Source

# More events than any person has; digits beyond them change nothing.
_LIMIT_DIGITS = 18
_SECTION = re.compile(r"(agg|aggregate|sort)[ \t]*:(?!=)")
_HEADERS = {
    "if": grammar.IF,
    "elif": grammar.IF,
    "else": grammar.ELSE,
    "match": grammar.MATCH,
    "for": grammar.FOR,
    "def": grammar.DEF,
}
_STATEMENTS = {
    "return": grammar.RETURN,
    "del": grammar.DELETE,
    "break": grammar.BREAK,
    "continue": grammar.BARE_WORD,
    "exit": grammar.BARE_WORD,
    "pass": grammar.BARE_WORD,
}


class _LineGroups(dict[int, Entries]):
    """The contents of the brackets of one line, by the offset of the opening bracket.

    They are parsed when the first of them is asked for, all of them, inner ones first: what stands around brackets is
    parsed before what stands in them, so that a line that is wrong as a whole is reported as such.
    """

    def __init__(self, reader: Reader, line: Line):
        super().__init__()
        self._reader = reader
        self._line: Line | None = line

    def __missing__(self, at: int) -> Entries:
        assert self._line is not None, "brackets that the layout did not see"
        line, self._line = self._line, None
        for group in line.groups:
            self[group.start - 1] = self._reader.contents(group, self)
        return self[at]


class Reader:
    """Reads the blocks of one script. Raises ParseError for everything the grammar does not allow."""

    def __init__(self, source: Source):
        self._source = source

    def script(self, blocks: list[Block]) -> syntax.Script:
        """The whole script: sections, functions, statements."""
        script = syntax.Script()
        statements: list[Block] = []
        for index, block in enumerate(blocks):
            line = block.line
            section = _SECTION.match(line.text)
            if section is not None:
                following = blocks[index + 1] if index + 1 < len(blocks) else None
                self._section(script, section.group(1), block, following)
            elif first_word(line.text) == "def":
                script.functions.append(self._function(block))
            else:
                statements.append(block)
        script.body = self.statements(statements)
        return script

    # -------------------------------------------------- agg: and sort:

    def _section(self, script: syntax.Script, word: str, block: Block, following: Block | None) -> None:
        line = block.line
        groups = _LineGroups(self, line)
        assert line.colon is not None
        pieces = [(line, groups, *piece) for piece in self._pieces(line, line.colon + 1)]
        for child in block.body:
            if child.body:
                raise self._source.error(
                    child.body[0].line.start, f"Lines below {word}: may not be indented further; align them."
                )
            child_groups = _LineGroups(self, child.line)
            pieces += [(child.line, child_groups, *piece) for piece in self._pieces(child.line, child.line.start)]
        if word == "sort":
            if script.sort is not None:
                raise self._source.error(line.start, "sort: stands here twice; remove one.")
            if len(pieces) != 1:
                raise self._source.error(line.start, "sort: takes one name, that of an aggregator; write it below.")
            script.sort = self._fold(grammar.SORT, *pieces[0], "sort").name()
            return
        if script.aggregators is not None:
            raise self._source.error(line.start, "agg: stands here twice; put all aggregators under one.")
        if not pieces and following is not None and first_word(following.line.text) in (*AGGREGATORS, "people"):
            raise self._source.error(following.line.start, "The aggregators below agg: are not indented; indent them.")
        script.aggregators = [self._aggregator(self._fold(grammar.AGGREGATOR, *piece, "agg")) for piece in pieces]

    def _aggregator(self, fold: Fold) -> syntax.Aggregator:
        token = fold.take()
        at = fold.at(token)
        word = token.group()
        if token.lastgroup == "people":
            return syntax.Aggregator(at, "count", syntax.Name(at, word), None, None, False, None)
        found = syntax.Aggregator(at, word, fold.name(), None, None, False, None)
        if fold.take_if("shift"):
            found.expression = fold.expression()
        seen: set[str | None] = set()
        while (kind := fold.kind()) is not None:
            option = fold.take()
            if kind in seen:
                raise self._source.error(
                    fold.at(option), f"`{option.group().split()[0]}` stands here twice; remove one."
                )
            seen.add(kind)
            if word == "var" and kind != "as":
                raise self._source.error(
                    fold.at(option), f"`var` adds up what each tally gives and takes no `{kind}`; remove it."
                )
            if kind == "all":
                found.every = True
            elif kind == "as":
                found.alias = fold.name()
            else:
                found.key = fold.name()
        return found

    # -------------------------------------------------- statements

    def statements(self, blocks: list[Block]) -> list[syntax.Statement]:
        """A body: the statements of lines of one indentation."""
        found: list[syntax.Statement] = []
        index = 0
        while index < len(blocks):
            block = blocks[index]
            index += 1
            word = first_word(block.line.text)
            if word in _HEADERS:
                statement = self._compound(block, word)
                while isinstance(statement, syntax.If) and index < len(blocks):
                    if not self._branch(statement, blocks[index]):
                        break
                    index += 1
                found.append(statement)
            else:
                found += self._simple_line(block)
        return found

    def _compound(self, block: Block, word: str) -> syntax.Statement:
        line = block.line
        if word == "def":
            raise self._source.error(
                line.start, "Functions are defined at the top level; move this def out of the block."
            )
        if word in ("elif", "else"):
            raise self._source.error(line.start, f"This `{word}` follows no `if`; align it with its if.")
        groups, fold = self._header(line, word)
        fold.take()
        if word == "if":
            condition = fold.expression()
            fold.end()
            return syntax.If(line.start, [(condition, self._body(block, groups))], [])
        if word == "match":
            limit = self._limit(fold)
            where = fold.expression() if fold.take_if("where") else None
            fold.end()
            return syntax.Match(line.start, limit, where, self._body(block, groups))
        names = [fold.name()]
        while fold.take_if("comma"):
            names.append(fold.name())
        fold.take()
        iterable = fold.expression()
        fold.end()
        return syntax.For(line.start, names, iterable, self._body(block, groups))

    def _limit(self, fold: Fold) -> syntax.Constant | syntax.Placeholder | None:
        if fold.kind() == "parameter":
            token = fold.take()
            return syntax.Placeholder(fold.at(token), token.group()[2:-2].strip())
        if fold.kind() != "limit":
            return None
        token = fold.take()
        digits = token.group().replace("_", "")
        number = int(digits[:_LIMIT_DIGITS])
        if number < 1:
            raise self._source.error(fold.at(token), "The number after `match` counts events; write 1 or more.")
        return syntax.Constant(fold.at(token), number)

    def _branch(self, statement: syntax.If, block: Block) -> bool:
        """Adds an elif or else line to its if; False where the line is neither."""
        word = first_word(block.line.text)
        if word not in ("elif", "else"):
            return False
        if statement.orelse:
            raise self._source.error(block.line.start, f"This `{word}` follows an `else`; put it before the else.")
        groups, fold = self._header(block.line, word)
        fold.take()
        if word == "elif":
            condition = fold.expression()
            fold.end()
            statement.branches.append((condition, self._body(block, groups)))
        else:
            statement.orelse = self._body(block, groups)
        return True

    def _function(self, block: Block) -> syntax.Def:
        groups, fold = self._header(block.line, "def")
        fold.take()
        name = fold.name()
        parameters: list[syntax.Name] = []
        for item in fold.items(fold.group(fold.take())):
            if not isinstance(item, syntax.Name):
                raise self._source.error(item.at, "A parameter is a plain name; write def name(a, b):")
            parameters.append(item)
        return syntax.Def(block.line.start, name, parameters, self._body(block, groups))

    def _body(self, block: Block, groups: Groups) -> list[syntax.Statement]:
        line = block.line
        assert line.colon is not None
        found: list[syntax.Statement] = []
        for start, stop in self._pieces(line, line.colon + 1):
            word = first_word(line.text[start - line.start :])
            if word in _HEADERS:
                raise self._source.error(
                    start,
                    f"Only simple statements may follow a colon; put this `{word}` on a line of its own, indented.",
                )
            found.append(self._simple(line, groups, start, stop))
        found += self.statements(block.body)
        if not found:
            raise self._source.error(line.end, "This block has no statement; write pass in it.")
        return found

    def _simple_line(self, block: Block) -> list[syntax.Statement]:
        line = block.line
        section = _SECTION.match(line.text)
        if section is not None:
            raise self._source.error(
                line.start, f"{section.group(1)}: belongs at the top level; move it out of the block."
            )
        groups = _LineGroups(self, line)
        found = []
        for start, stop in self._pieces(line, line.start):
            word = first_word(line.text[start - line.start :])
            if word in _HEADERS and start > line.start:
                raise self._source.error(start, f"Put this `{word}` on a line of its own.")
            found.append(self._simple(line, groups, start, stop))
        return found

    def _simple(self, line: Line, groups: Groups, start: int, stop: int) -> syntax.Statement:
        word = first_word(line.text[start - line.start :])
        fold = self._fold(_STATEMENTS.get(word, grammar.SIMPLE), line, groups, start, stop, "statement")
        statement = self._keyword_statement(fold, word, start) if word in _STATEMENTS else self._line(fold, start)
        fold.end()
        return statement

    def _line(self, fold: Fold, start: int) -> syntax.Statement:
        """An assignment, or an expression on its own."""
        expression = fold.expression()
        if fold.kind() != "assignment":
            return syntax.Evaluate(start, expression)
        token = fold.take()
        operator = token.group()[:-1] or None
        return syntax.Assign(start, expression, operator, fold.at(token), fold.expression())

    def _keyword_statement(self, fold: Fold, word: str, start: int) -> syntax.Statement:
        fold.take()
        if word == "return":
            return syntax.Return(start, fold.expression() if fold.kind() is not None else None)
        if word == "del":
            return syntax.Delete(start, fold.expression())
        if word == "break":
            levels = fold.take_if("levels")
            return syntax.Break(start, levels.group() if levels else "", fold.at(levels) if levels else start)
        brackets = fold.take_if("call")
        if brackets is not None and (word != "exit" or fold.group(brackets).entries):
            raise self._source.error(fold.at(brackets), f"{quoted(word)} stands alone; remove the brackets.")
        return syntax.Bare(start, word)

    # -------------------------------------------------- text → tokens

    def _header(self, line: Line, word: str) -> tuple[Groups, Fold]:
        """The part of a line before its colon, which there must be."""
        groups = _LineGroups(self, line)
        for at in line.breaks:
            if line.colon is None or at < line.colon:
                raise self._source.error(at, f"A ; cannot stand here; end the {quoted(word)} line with a colon.")
        fold = self._fold(_HEADERS[word], line, groups, line.start, line.colon or line.end, word)
        if line.colon is None:
            raise self._source.error(
                line.end, f"A colon is missing at the end of the {quoted(word)} line; write : there."
            )
        return groups, fold

    def _pieces(self, line: Line, start: int) -> list[tuple[int, int]]:
        """The statements of a line from an offset on: what stands between semicolons, without the blank around it."""
        pieces = []
        for stop in (*(at for at in line.breaks if at >= start), line.end):
            text = line.text[start - line.start : stop - line.start]
            stripped = text.lstrip(" ")
            if stripped:
                start += len(text) - len(stripped)
                pieces.append((start, start + len(stripped.rstrip(" "))))
            start = stop + 1
        return pieces

    def contents(self, group: Group, groups: Groups) -> Entries:
        """The folded contents of a pair of brackets; those of the brackets inside it are in `groups`."""
        text = group.text.rstrip(" ")
        if not text:
            return Entries(group.opener, [])
        if text.endswith(","):
            text = text[:-1]
        rules = grammar.ENTRIES if ":" in text else grammar.ITEMS
        return self._tokens(rules, text, group.start, groups, "brackets").entries(group.opener)

    def _fold(self, rules: pp.ParserElement, line: Line, groups: Groups, start: int, stop: int, place: str) -> Fold:
        return self._tokens(rules, line.text[start - line.start : stop - line.start], start, groups, place)

    def _tokens(self, rules: pp.ParserElement, text: str, start: int, groups: Groups, place: str) -> Fold:
        try:
            tokens = grammar.tokens(rules, text)
        except pp.ParseBaseException as error:
            at = error.loc
        else:
            return Fold(self._source, tokens, start, groups)
        raise explain(self._source, text, start, at, place)
