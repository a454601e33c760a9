"""A report as a few lines of Markdown for the summary of a CI job."""

from __future__ import annotations

import re

from validation.reports import recommended
from validation.reports.figures import Cell
from validation.reports.markdown import markdown_table
from validation.reports.reading import (
    EXIT_WORDS,
    Json,
    advice,
    check_label,
    clean,
    failed_checks,
    headline,
    label,
    remarks,
    status,
)
from validation.reports.variants import cells, head

_TITLES = {"passed": "✅", "failed": "❌ Failed:", "not judged": "❔ Not judged:"}
_SIGNS = {"passed": "✅ passed", "failed": "❌ failed", "not judged": "❔ not judged", "skipped": "⏭ skipped"}
#: Characters that would start HTML or end a cell.
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"})
_PUNCTUATION = re.compile(r"([\\`*_\[\]~#])")
_MOST = 10


def job_summary(report: Json) -> str:
    """The verdict, what to ship, what failed and what to do, the table of variants and remarks.

    This is what $GITHUB_STEP_SUMMARY takes.

    Args:
        report: The JSON object of a validation report.

    Returns:
        Markdown without control characters; equal reports give equal texts.
    """
    code, shipped = report["exit_code"], (report.get("recommended") or {}).items()
    parts = [f"## {_TITLES[report['verdict']]} {_plain(report['name'])}"]
    parts += [f"**{_plain(task)}**: {_plain(of_task['words'])}" for task, of_task in shipped]
    parts.append(f"{_plain(status(report))}. {_plain(headline(report))}. Exit code {code}: {EXIT_WORDS[code]}.")
    failures = [
        f"- **{_plain(label(check['variant']))}: {_plain(check_label(check))}** "
        f"{_plain('; '.join(_first(check['reasons'])))}  \n"
        f"  What to do: {_plain(advice(report, check))}"
        for check in failed_checks(report)
    ]
    if failures:
        parts.append("\n".join(_first(failures, "- ")))
    for task, of_task in shipped:
        files = [(_plain(name), *map(_cell, [result, *of])) for name, result, of in recommended.rows(report, of_task)]
        heads = f"File for {_plain(task)}", "Result", *recommended.head(of_task)
        parts.append(markdown_table(heads, files))
    if report["variants"]:
        rows = [(_plain(name), *map(_cell, cells(report, name))) for name in report["variants"]]
        parts.append(markdown_table(("Variant", *head()), rows))
    told = [f"- {_plain(who)}: {_plain(words)}" for who, words in remarks(report)]
    if told:
        parts.append("\n".join(_first(told, "- ")))
    return "\n\n".join(parts) + "\n"


def _cell(cell: Cell) -> str:
    main = _SIGNS.get(cell.main, _plain(cell.main))
    return f"{main} ({_plain(cell.brief)})" if cell.brief else main


def _first(lines: list[str], sign: str = "") -> list[str]:
    more = len(lines) - _MOST
    return lines if more <= 0 else [*lines[:_MOST], f"{sign}and {more} more"]


def _plain(text: str) -> str:
    """The text on one line, escaped so that nothing in it is read as Markdown or HTML."""
    return _PUNCTUATION.sub(r"\\\1", " ".join(clean(text).split())).translate(_ENTITIES)
