"""A report as a few lines of Markdown for the summary of a CI job."""

from __future__ import annotations

import re
from collections.abc import Sequence

from validation.reports.contents import failures, file_tables, lead, told, verdict_table
from validation.reports.document import Block, Cell, Items, Section, Table, Words
from validation.reports.markdown import markdown_table
from validation.reports.reading import Json, clean

_TITLES = {"passed": "✅", "failed": "❌ Failed:", "not judged": "❔ Not judged:"}
_SIGNS = {"passed": "✅ passed", "failed": "❌ failed", "not judged": "❔ not judged", "skipped": "⏭ skipped"}
#: Characters that would start HTML or end a cell.
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"})
_PUNCTUATION = re.compile(r"([\\`*_\[\]~#])")
_MOST = 10


def job_summary(report: Json) -> str:
    """The verdict, what to ship, what failed and what to do, the table of files and remarks.

    This is what $GITHUB_STEP_SUMMARY takes.

    Args:
        report: The JSON object of a validation report.

    Returns:
        Markdown without control characters; equal reports give equal texts.
    """
    failed = failures(report)
    blocks: list[Block] = [*lead(report), *failed[:_MOST]]
    blocks += [Words(f"and {len(failed) - _MOST} more")] if len(failed) > _MOST else []
    blocks += [verdict_table(report, {}), *file_tables(report), Items(told(report))]
    parts = [f"## {_TITLES[report['verdict']]} {_plain(report['name'])}", *map(_block, blocks)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _block(block: Block) -> str:
    match block:
        case Table():
            shown = block.shown
            return markdown_table(list(map(_plain, shown.head)), [list(map(_cell, row)) for row in shown.rows])
        case Items():
            return "\n".join(f"- {line}" for line in _first(block.lines))
        case Section():
            return "\n\n".join([f"**{_plain(block.title)}**", *map(_block, block.blocks)])
        case Words():
            return _plain(f"{block.text} {block.command}")


def _cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return _plain(cell)
    main = _SIGNS.get(cell.main, _plain(cell.main))
    return f"{main} ({_plain(cell.brief)})" if cell.brief else main


def _first(lines: Sequence[str]) -> list[str]:
    more = len(lines) - _MOST
    return [*map(_plain, lines[:_MOST]), *([f"and {more} more"] if more > 0 else [])]


def _plain(text: str) -> str:
    """The text on one line, escaped so that nothing in it is read as Markdown or HTML."""
    return _PUNCTUATION.sub(r"\\\1", " ".join(clean(text).split())).translate(_ENTITIES)
