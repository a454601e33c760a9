"""The whole model, merely rounded, in a model card: what a variant has to compete with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from validation.reports.figures import QUALITY
from validation.reports.markdown import markdown_table
from validation.reports.numbers import megabytes


def whole_lines(models: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A table of the models' sizes and quality, on the held-out texts of the variant; nothing if none was measured."""
    rows = [row for row in models if row["quality"] is not None and not row["refusal"]]
    if not rows:
        return
    yield ""
    yield "The whole model, merely rounded, on the same texts:"
    yield ""
    figures = [row for row in QUALITY if row.is_main]
    yield markdown_table(
        ["precision", "size", *(one.head for one in figures)],
        [[row["precision"], megabytes(row["bytes"]), *(one.cell(row).main for one in figures)] for row in rows],
    )
