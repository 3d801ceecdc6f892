"""Commands on the pages exist, cases on them evaluate, links lead somewhere.

A command is a line of an indented block, or of a block fenced as console, that begins with diffgdn, make,
python or pip. Words that stand for something of the reader's (N, T, TIME) are given values of their kind.
"""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import click
import pytest

from diffgdn import targets
from diffgdn.cases import case_text, promises_file
from diffgdn.cases.operations import FAMILIES, KINDS
from diffgdn.cases.promises import AXES, EVERYTHING, SAID
from diffgdn.cases.spans import Span
from diffgdn.cli import cli
from diffgdn.pytest_plugin import plugin_options

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "tests" / "corpus" / "README.md"])
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

STANDS_FOR = {"N": "2", "T": "vk", "P": "*", "D": "bfloat16", "TIME": "60s", "SEED": "1"}
STARTS = ("diffgdn ", "make ", "python ", "pip install ")


class Block(NamedTuple):
    """A block of a page. kind: the word behind its fence, or "indented"."""

    page: str
    kind: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """Fenced and indented blocks of a page, in order."""
    name, kind, lines = str(page.relative_to(ROOT)), "", list[str]()
    for line in [*page.read_text().splitlines(), ""]:
        if line.startswith("```"):
            if kind.startswith("```"):
                yield Block(name, kind[3:].strip(), "\n".join(lines))
                kind = ""
            else:
                kind = line
            lines = []
        elif kind.startswith("```"):
            lines.append(line)
        elif line.startswith("    "):
            lines.append(line[4:])
        elif lines:
            yield Block(name, "indented", "\n".join(lines))
            lines = []


EVERY = [block for page in PAGES for block in blocks(page)]


def commands() -> Iterator[tuple[str, str]]:
    """(page, line) of every command, without its prompt."""
    for page, kind, text in EVERY:
        for line in text.splitlines() if kind in ("indented", "console") else ():
            typed = line.strip().removeprefix("$ ")
            if typed.startswith(STARTS):
                yield page, typed


COMMANDS = sorted(set(commands()))


def words(line: str) -> list[str]:
    """The words of a command, comments and the brackets of a synopsis left out, with values put in."""
    plain = re.sub(r"(?<= )\[(-[^|\]]*)(\|[^\]]*)?\]", r"\1", line)  # the first of alternatives
    return [STANDS_FOR.get(word, word) for word in shlex.split(plain, comments=True)]


def parse(command: click.Command, given: list[str]) -> None:
    """Parse the arguments of a command, or of one below a group. Raises click.UsageError; nothing is run."""
    name = command.name or ""
    while isinstance(command, click.Group) and given:
        below = command.get_command(click.Context(command), given[0])
        if below is None:
            break
        name, *given = given
        command = below
    if isinstance(command, click.Group) and given and not given[0].startswith("-"):
        raise click.UsageError(f"no command {given[0]}")
    try:
        command.make_context(name, list(given))
    except click.exceptions.Exit:  # --help, --version
        return


def parse_make(given: list[str]) -> None:
    """Targets and variables of a make line exist; its ARGS are options of the command behind it."""
    makefile = (ROOT / "Makefile").read_text()
    goals = [word for word in given if "=" not in word]
    variables = dict(word.split("=", 1) for word in given if "=" in word)
    for goal in goals:
        assert re.search(rf"^{goal}:", makefile, re.MULTILINE), f"make {goal}"
    for name in variables:
        assert re.search(rf"^{name} \?=", makefile, re.MULTILINE), f"{name}="
    known = PYPROJECT["project"]["optional-dependencies"]
    assert set(variables.get("EXTRAS", "test").split(",")) <= set(known)
    arguments = shlex.split(variables.get("ARGS", ""))
    if "fuzz" in goals:
        parse(cli, ["fuzz", "--max-time", variables.get("TIME", "60s"), *arguments])
    else:
        parse_pytest(arguments)


def plugin() -> argparse.ArgumentParser:
    """The options of pytest that the pages use, ours as the plugin adds them."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    plugin_options.add(SimpleNamespace(getgroup=lambda *_: SimpleNamespace(addoption=parser.add_argument)))  # type: ignore[arg-type]
    parser.add_argument("-n")
    parser.add_argument("-k")
    parser.add_argument("-q", action="store_true")
    parser.add_argument("--hypothesis-profile", choices=plugin_options.EXAMPLES)
    parser.add_argument("paths", nargs="*")
    return parser


def parse_pytest(given: list[str]) -> None:
    """Options are pytest's or ours, and files are there."""
    parsed = plugin().parse_args(given)
    for path in parsed.paths:
        assert path == "FILE" or (ROOT / path).exists(), path


def parse_pip(given: list[str]) -> None:
    """An extra of ours that is named exists."""
    for extras in re.findall(r"\[(.*?)\]", " ".join(given)):
        assert set(extras.split(",")) <= set(PYPROJECT["project"]["optional-dependencies"])


def read(line: str) -> None:
    """Raise unless a command line is one that could be typed."""
    program, *given = words(line)
    if program == "diffgdn":
        parse(cli, given)
    elif program == "make":
        parse_make(given)
    elif program == "pip":
        parse_pip(given)
    elif given[:2] == ["-m", "pytest"]:
        parse_pytest(given[2:])
    else:
        assert given[0].endswith(".py"), line


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page}: {line}" for page, line in COMMANDS])
def test_a_command_on_a_page_can_be_typed(page: str, line: str) -> None:
    read(line)


@pytest.mark.parametrize(
    "line",
    [
        "diffgdn fuzz --fast",
        "diffgdn fuzzy",
        "diffgdn fuzz --op",
        "diffgdn resolution [--max-cases few]",
        "make fuzzy",
        "make fuzz SPEED=9",
        "make fuzz ARGS='--fast'",
        "make test EXTRAS=all",
        "python -m pytest tests/nowhere",
        "python -m pytest --hypothesis-profile=slow",
        "diffgdn bench --fast",
        "pip install '.[all]'",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line: str) -> None:
    with pytest.raises((click.UsageError, AssertionError, argparse.ArgumentError, SystemExit)):
        read(line)


def test_every_command_is_on_the_page_of_commands() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert f"`diffgdn {name}`" in page
        for below in command.commands if isinstance(command, click.Group) else ():
            assert f"`{below}`" in page


def test_every_option_of_the_plugin_is_on_the_page_of_pytest() -> None:
    page = (ROOT / "docs" / "pytest.md").read_text()
    ours = [name for action in plugin()._actions for name in action.option_strings if "diffgdn" in name]
    assert ours
    assert [name for name in ours if not re.search(f"`{name}[ `]", page)] == []


def test_every_operation_is_on_the_page_of_operations() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    assert [name for name in (*FAMILIES, *KINDS) if not re.search(rf"\b{name}\b", page)] == []


PYTHON = [(page, text) for page, kind, text in EVERY if kind == "python"]


@pytest.mark.parametrize(("page", "text"), PYTHON, ids=[page for page, _ in PYTHON])
def test_python_on_a_page_compiles(page: str, text: str) -> None:
    compile(text, page, "exec")


VALUE = re.compile(r"\b(?:Case|Trace)\((?:op|family)=[^`\n]*\)(?=`|$)", re.MULTILINE)
NAMES = case_text.RECORDS
SHOWN = sorted({text for page in PAGES for text in VALUE.findall(page.read_text())})


def test_cases_and_traces_on_pages_are_found() -> None:
    assert len(SHOWN) > 30
    assert {text[:5] for text in SHOWN} == {"Case(", "Trace"}


@pytest.mark.parametrize("text", SHOWN)
def test_a_case_on_a_page_evaluates_and_is_printed_so(text: str) -> None:
    """A reader may copy it."""
    assert repr(eval(text, dict(NAMES))) == text


def test_the_tests_of_pytest_md_run_as_they_stand(tmp_path: Path) -> None:
    """conftest.py, the test and the kernel of README, in a folder of their own."""
    shown = {page: list[str]() for page, _ in PYTHON} | {"README.md": list[str]()}
    for page, text in PYTHON:
        shown[page].append(text)
    conftest, test = shown["docs/pytest.md"]
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_it.py").write_text(test)
    (tmp_path / "my_decode.py").write_text(shown["README.md"][0])
    (tmp_path / "corpus").mkdir()
    options = ["-q", "-p", "no:cacheprovider", "--diffgdn-max-time", "1s", "--diffgdn-isolation", "none"]
    command = [sys.executable, "-m", "pytest", *options]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert "1 passed" in ended.stdout


def test_the_promises_of_promises_md_are_the_same_in_python_and_toml(tmp_path: Path) -> None:
    """The target is one, and the table is read for it."""
    page = "docs/promises.md"
    shown, _ = (text for name, text in PYTHON if name == page)  # then one of fewer fields
    (table,) = (text for name, kind, text in EVERY if (name, kind) == (page, "toml"))
    (tmp_path / "my_kernels.py").write_text(shown)
    (tmp_path / "pyproject.toml").write_text(table)
    target = targets.get(f"{tmp_path / 'my_kernels.py'}:decode")
    assert target.operations == ("gdn.decode", "gdn.verify")
    promises = targets.promises_of(target)
    assert promises.of("gdn.decode").length == Span(1, 1)
    assert promises_file.declared("my_kernels:decode", tmp_path) == promises != EVERYTHING


def test_every_field_of_promises_is_on_their_page() -> None:
    page = (ROOT / "docs" / "promises.md").read_text()
    rows = "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", rows)) == {*SAID, *(spec.name for spec in AXES)}


def anchors(page: Path) -> set[str]:
    """Headings of a page as GitHub and the site spell them in links."""
    found = set()
    for heading in re.findall(r"^#{1,3} (.*)$", page.read_text(), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(plain.replace(" ", "-"))
    return found


LINK = re.compile(r"\]\(([^)\s]+)\)")
LINKS = [(page, link) for page in PAGES for link in LINK.findall(page.read_text()) if ":" not in link]


@pytest.mark.parametrize(
    ("page", "link"), LINKS, ids=[f"{page.relative_to(ROOT)}: {link}" for page, link in LINKS]
)
def test_a_link_leads_to_a_page_and_a_heading(page: Path, link: str) -> None:
    file, _, anchor = link.partition("#")
    leads_to = (page.parent / file).resolve() if file else page
    assert leads_to.exists()
    assert not anchor or anchor in anchors(leads_to)


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = set()
    for index in ("docs/index.md", "docs/guides/index.md"):
        for page, kind, text in EVERY:
            if page == index and kind == "{toctree}":
                names = [line for line in text.splitlines() if line and not line.startswith(":")]
                listed |= {(ROOT / index).parent / f"{name}.md" for name in names}
    pages = set((ROOT / "docs").rglob("*.md")) - {ROOT / "docs" / "index.md"}
    assert {path for path in pages if "_build" not in path.parts} == listed


def explained() -> set[str]:
    """Words of the glossary: its headings, and what it has in bold, in small letters."""
    text = (ROOT / "docs" / "glossary.md").read_text()
    found = re.findall(r"^### (.*)$", text, re.MULTILINE) + re.findall(r"\*\*(.+?)\*\*", text)
    return {word.lower() for word in found}


def test_the_glossary_has_every_bold_word_of_the_architecture() -> None:
    bold = re.findall(r"\*\*(.+?)\*\*", (ROOT / "ARCHITECTURE.md").read_text())
    assert len(bold) >= 10
    assert [word for word in bold if not {word.lower(), word.lower().removesuffix("s")} & explained()] == []


def test_the_glossary_has_every_folder_of_the_framework() -> None:
    folders = [path.parent.name for path in sorted((ROOT / "diffgdn").glob("*/__init__.py"))]
    assert len(folders) > 10
    assert [name for name in folders if name not in explained()] == []


def test_the_glossary_explains_a_word_once() -> None:
    headings = re.findall(r"^### (.*)$", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert sorted({heading.lower() for heading in headings}) == sorted(
        heading.lower() for heading in headings
    )


def named_files() -> list[tuple[str, str]]:
    """(page, path) of every file and folder of ours that a page names in backquotes, from the root."""
    found = set()
    for page in [*(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "README.md"]:
        if page.name == "scoreboard.md":  # which names files of other projects
            continue
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for path in re.findall(r"`((?:diffgdn|strategies|kernels|tests|tools|docs)/[\w./-]*)`", prose):
            found.add((str(page.relative_to(ROOT)), path))
    return sorted(found)


FROM_THE_GUIDES = {"diffgdn/targets/loop.py"}  # made by who follows them


def test_every_file_that_a_page_names_is_there() -> None:
    named = named_files()
    assert len(named) > 60
    assert [one for one in named if not (ROOT / one[1]).exists() and one[1] not in FROM_THE_GUIDES] == []


def test_readme_names_every_page_of_docs() -> None:
    """Its table of contents is the way in for who reads no site."""
    readme = (ROOT / "README.md").read_text()
    stubs = {"index", "architecture", "changelog", "contributing", "security", "api"}
    pages = [path for path in (ROOT / "docs").glob("*.md") if path.stem not in stubs]
    assert [path.name for path in pages if f"(docs/{path.name})" not in readme] == []
    assert len(readme.splitlines()) <= 150


def test_the_version_is_stated_once() -> None:
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    module = ast.parse((ROOT / "diffgdn" / "__init__.py").read_text())
    stated: list[Any] = [
        node.value.value
        for node in module.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "__version__"
        and isinstance(node.value, ast.Constant)
    ]
    assert len(stated) == 1
    assert f"\n## [{stated[0]}]" in (ROOT / "CHANGELOG.md").read_text()
