"""A table of how much variants lost on the texts of other tasks and on a general text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seap_export.cli.console import table


def general_text_table(reports: Mapping[str, Mapping[str, Any] | None]) -> str:
    """The table, below a line that explains it; "" if nothing was measured.

    Args:
        reports: For each variant its quality report, or the part in the manifest; None: there is none.
    """
    from validation.reports.matrix import loss_matrix

    matrix = loss_matrix(reports)
    if matrix is None:
        return ""
    rows = [["dense model", *(f"({bits:.3f})" for bits in matrix.dense)]]
    rows += [[name, *map(_cell, cells)] for name, cells in matrix.rows.items()]
    words = (
        "Lost elsewhere: KL (nats per token, +- its standard error) and in brackets bits per byte, on up to "
        f"{matrix.texts} held-out texts of each task and on a general text; * marks a variant's own tasks; if it "
        "has one, its KL there is that on all held-out texts."
    )
    return f"{words}\n{table(['', *matrix.columns], rows)}"


def _cell(cell: Mapping[str, Any] | None) -> str:
    from validation.reports.figures import Cell
    from validation.reports.numbers import with_error

    if cell is None:
        return "-"
    kl = Cell(with_error(cell["mean_kl_nats"], cell.get("mean_kl_nats_stderr"))).line
    return f"{kl}{'*' if cell['own'] else ''} ({cell['bits_per_byte']:.3f})"
