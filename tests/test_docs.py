"""Links of the documentation lead somewhere, its commands have these options, and its files are the repository's."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from benchmarks.__main__ import benchmarks
from support.product import families

from seap_export.cli import main
from seap_export.corpus import JoinedTurns, parse_task

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "samples").glob("*/README.md")])


def _prose(page: Path) -> str:
    """The page without its fenced and indented code, whose brackets and `#` mean something else."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.+)$", _prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in _anchors(linked), target


def test_pages_that_code_names_exist() -> None:
    """In messages, help, comments and samples, with their anchors; a page of another project has its address."""
    folders = ("seap_export", "converters", "validation", "samples", "tests")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.suffix in {".py", ".toml"}]
    named = {
        (path, anchor)
        for file in [*files, ROOT / "Makefile"]
        for path, anchor in re.findall(r"(?<!/)\b(docs/[\w/-]+\.md)(?:#([\w-]+))?", file.read_text("utf-8"))
    }
    assert len(named) >= 10
    assert {path for path, _ in named if not (ROOT / path).is_file()} == set()
    assert {each for each in named if each[1] and each[1] not in _anchors(ROOT / each[0])} == set()


#: Options of other programs that the pages name.
FOREIGN = {"--head", "--ignore-scripts", "--max-model-len", "--trust-remote-code"}
PROGRAMS = {"seap-export": main, "python tests/benchmarks": benchmarks}


def _commands(page: Path) -> Iterator[tuple[click.Command, list[str]]]:
    """The command of each `seap-export COMMAND ...` or benchmark in a block, and its words."""
    text = re.sub(r"\\\n *", " ", page.read_text("utf-8"))
    blocks = re.findall(r"^```sh\n(.*?)^```|^((?: {4}[^\n]*\n)+)", text, flags=re.MULTILINE | re.DOTALL)
    for line in "".join(fenced + indented for fenced, indented in blocks).splitlines():
        shown = re.match(r"[ \w./-]*\b(seap-export|python tests/benchmarks) ([a-z_]+ .*?)(?: [|>] .*|\s+# .*)?$", line)
        if shown and shown[2].count('"') % 2 == 0:
            name, *words = shlex.split(shown[2])
            command = PROGRAMS[shown[1]].get_command(_context(main), name)
            assert command is not None, line
            yield command, words


def _context(command: click.Command) -> click.Context:
    """With the settings of the command, which keeps the help option that its first context asks for."""
    return click.Context(command, **command.context_settings)


def test_commands_have_the_options_that_are_shown() -> None:
    """`make_parser` refuses options that a command lacks; the values of choices are compared here."""
    shown = [pair for page in PAGES for pair in _commands(page)]
    assert len(shown) >= 80
    for command, words in shown:
        values, _, _ = command.make_parser(_context(command)).parse_args(words)
        for parameter in command.params:
            if isinstance(parameter.type, click.Choice) and parameter.name in values:
                given = values[parameter.name]
                assert {given} if isinstance(given, str) else set(given) <= set(parameter.type.choices), words


@pytest.mark.parametrize("page", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda page: page.name)
def test_options_in_sentences_exist(page: Path) -> None:
    shown = [one for command in main.commands.values() for one in command.get_params(_context(command))]
    known = {option for one in shown for option in (*one.opts, *one.secondary_opts)}
    codes = re.findall(r"`([^`]*)`", _prose(page))
    named = {option for code in codes for option in re.findall(r"--[a-z][\w-]*", code)}
    assert named - known - FOREIGN == set()


def test_the_guide_shows_records_that_are_read(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "guide.md").read_text("utf-8")
    records = re.findall(r"^ {4}(\{.*\})$", page, re.MULTILINE)
    (tmp_path / "shown.jsonl").write_text("\n".join(records), "utf-8")
    texts = [sample.text for sample in parse_task(f"a={tmp_path / 'shown.jsonl'}").texts()]
    assert len(texts) == len(records) == 3
    assert texts[0] == texts[1] == texts[2].removeprefix(json.loads(records[2])["instruction"]).strip()
    [description] = re.findall(r"^```toml\n([^`]*bookshop.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "own.toml").write_text(description, "utf-8")
    (tmp_path / "tickets.csv").write_text("question,reply\nWhere is it?,In the post.\n", "utf-8")
    [sample] = parse_task(f"a={tmp_path / 'own.toml'}").texts(JoinedTurns())
    assert (sample.prompt[-25:], sample.completion) == ("bookshop.\n\nWhere is it?\n\n", "In the post.")


def test_the_page_of_the_families_lists_each() -> None:
    """`tests/families_table.py` writes it, which takes too long for a test."""
    page = (ROOT / "docs" / "families.md").read_text("utf-8")
    listed = [name for row in re.findall(r"^\| yes \|.*", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(family.model_type for family in families())
    assert f"[{len(listed)} families](docs/families.md)" in (ROOT / "README.md").read_text("utf-8")
