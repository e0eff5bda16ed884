"""What the program offers is documented: routes, parameters, commands, settings, the language, errors, make targets."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from support.reference import PROJECT, reference_examples

import openset.client.connection
import openset.http.envelope  # noqa: F401
from openset.cli import main
from openset.errors import OpenSetError
from openset.http.app import ROUTES
from openset.http.resource import METHODS
from openset.pyql import names

README = (PROJECT / "README.md").read_text(encoding="utf-8")
REST = (PROJECT / "docs" / "rest.md").read_text(encoding="utf-8")
LANGUAGE = (PROJECT / "spec" / "pyql.md").read_text(encoding="utf-8")
PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), *PROJECT.glob("spec/*.md")])

_READS_PARAMETER = re.compile(r'parameters\.(?:text|flag|integer|choice)\(\s*"(\w+)"')
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def routes() -> list[str]:
    """Every method and path, `GET /v1/table/{table}`."""
    found = []
    for pattern, handler in ROUTES:
        path = re.sub(r"\(\?P<(\w+)>[^)]*\)", r"{\1}", pattern).removesuffix("/?")
        # Of two names of an address the first is the one that is documented.
        path = re.sub(r"\(\?:(\w+)\|\w+\)", r"\1", path.replace("events?", "events"))
        methods = [method for method in METHODS if method.lower() in vars(handler)]
        assert methods, f"{handler.__name__} answers to no method"
        found += [f"{method} {path}" for method in methods]
    return found


def request_parameters() -> list[str]:
    sources = (PROJECT / "openset" / "http").glob("*.py")
    return sorted({name for source in sources for name in _READS_PARAMETER.findall(source.read_text())})


def commands() -> dict[str, click.Command]:
    return dict(main.commands)


def options() -> list[str]:
    return sorted(
        {
            option
            for command in commands().values()
            for parameter in command.params
            if isinstance(parameter, click.Option)
            for option in parameter.opts
        }
    )


def settings() -> list[str]:
    return sorted(
        {
            str(parameter.envvar)
            for command in commands().values()
            for parameter in command.params
            if parameter.envvar is not None
        }
    )


def make_targets() -> list[str]:
    text = (PROJECT / "Makefile").read_text(encoding="utf-8")
    (benchmarks,) = re.findall(r"^BENCHMARKS := (.+)$", text, re.MULTILINE)
    return [*re.findall(r"^([a-z-]+):", text, re.MULTILINE), *(f"bench-{name}" for name in benchmarks.split())]


def error_classes(kind: type[OpenSetError] = OpenSetError) -> set[str]:
    below = [error_classes(inner) for inner in kind.__subclasses__()]
    return {kind.error_class}.union(*below)


@pytest.mark.parametrize("route", routes())
def test_every_route_is_in_the_readme_and_in_the_rest_page(route: str) -> None:
    assert f"`{route}`" in README
    assert f"`{route}`" in REST
    assert f"\n## {route}\n" in REST


def test_the_documents_name_no_route_that_is_not_there() -> None:
    documented = set(re.findall(r"`((?:GET|POST|PUT|DELETE) /[^`]*)`", README + REST))
    assert documented == set(routes())


@pytest.mark.parametrize("parameter", request_parameters())
def test_every_request_parameter_is_in_the_rest_page(parameter: str) -> None:
    assert f"`{parameter}=`" in REST


@pytest.mark.parametrize("prefix", ["str_", "int_", "dbl_", "bool_"])
def test_every_kind_of_script_parameter_is_documented(prefix: str) -> None:
    assert f"`{prefix}{{name}}=`" in REST
    assert f"`{prefix}name=`" in LANGUAGE


def test_request_parameters_are_found_in_the_sources() -> None:
    assert {"sort", "order", "trim", "debug", "partitions", "sid", "on_error"} <= set(request_parameters())


@pytest.mark.parametrize("name", list(commands()))
def test_every_command_is_in_the_readme(name: str) -> None:
    assert f"`openset {name}" in README


@pytest.mark.parametrize("option", options())
def test_every_option_is_in_the_readme(option: str) -> None:
    assert re.search(rf"`{re.escape(option)}[ `]", README), option


@pytest.mark.parametrize("setting", settings())
def test_every_setting_is_in_the_readme(setting: str) -> None:
    assert f"| `{setting}` |" in README


def test_every_error_class_is_in_the_rest_page() -> None:
    on_the_client_only = {"connection"}
    for name in error_classes() - on_the_client_only:
        assert f"| `{name}` |" in REST, name


@pytest.mark.parametrize("name", sorted({**names.FUNCTIONS, **names.MOVES, **names.STATEMENT_CALLS}))
def test_every_function_of_the_language_has_an_example(name: str) -> None:
    scripts = "\n".join(example.script for example in reference_examples())
    assert re.search(rf"\b{name}\b", scripts), f"no example in spec/pyql.md calls {name}"
    assert re.search(rf"`{name}\b", LANGUAGE), f"spec/pyql.md does not explain {name}"


@pytest.mark.parametrize(
    "word",
    sorted(
        {
            *names.KEYWORDS,
            *names.AGGREGATORS,
            *names.INLINE_AGGREGATIONS,
            *names.BUILTIN_COLUMNS,
            *names.COLUMN_SYNONYMS,
            *names.FUNCTION_SYNONYMS,
            *names.TRIGGER_NAMES,
            *names.SEGMENT_NAMES,
            *names.DURATION_UNITS_MS,
        }
    ),
)
def test_every_word_of_the_language_is_in_its_reference(word: str) -> None:
    assert re.search(rf"(?<![\w.]){word}\b", LANGUAGE), f"spec/pyql.md does not mention {word}"


@pytest.mark.parametrize("method", sorted(names.METHODS))
def test_every_method_is_explained_and_has_an_example(method: str) -> None:
    assert f".{method}(" in re.sub(r"^```.*?^```$", "", LANGUAGE, flags=re.DOTALL | re.MULTILINE)
    scripts = "\n".join(example.script for example in reference_examples())
    assert f".{method}(" in scripts


@pytest.mark.parametrize("target", make_targets())
def test_every_make_target_is_in_the_readme(target: str) -> None:
    assert target == "help" or f"`make {target}`" in README or f"\nmake {target}\n" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in _LINK.findall(text):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        linked = page if not target else page.parent / target
        assert linked.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in headings(linked.read_text(encoding="utf-8")), f"{page.name} links to {link}"


def headings(text: str) -> set[str]:
    """The anchors that a page's headings get."""
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}
