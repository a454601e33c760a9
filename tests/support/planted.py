"""The table of docs/contributing/checks.md: what was planted in good artifacts, and how much of it the checks stop.

A test that plants something says `@pytest.mark.planted("gguf")`, with the row that it counts in. It passes if that is
stopped; with `missed=True`, or where it is an expected failure, it is known that it is not. `pytest --planted PATHS`
runs the tests and prints the table.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

_KEY = "planted"
_STOPPED, _MISSED = "stopped", "missed"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--planted", action="store_true", help="print the table of what was planted, in Markdown")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Notes the row and what is expected, which reports of other processes bring along."""
    marker = item.get_closest_marker(_KEY)
    if marker is not None:
        (row,) = marker.args
        item.user_properties.append((_KEY, (row, _MISSED if marker.kwargs.get("missed") else _STOPPED)))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not config.getoption("--planted"):
        return
    counts: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "xfailed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for key, value in report.user_properties:
                if key == _KEY:
                    row, expected = value
                    ends = {"passed": expected, "failed": outcome, "xfailed": _MISSED}
                    counts.setdefault(row, Counter())[ends[outcome]] += 1
    terminalreporter.write_line("\n".join(table(counts)))


def table(counts: dict[str, Counter[str]]) -> list[str]:
    """The lines of the table, a row for each name."""
    return [
        "| format | faults planted | stopped | known to pass |",
        "| --- | --- | --- | --- |",
        *(f"| {row} | {of.total()} | {of[_STOPPED]} | {of[_MISSED]} |" for row, of in sorted(counts.items())),
    ]
