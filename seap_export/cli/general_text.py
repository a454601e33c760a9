"""A table of how much variants lost on the texts of other tasks and on a general text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seap_export.cli.window import Table, prose
from validation.reports.figures import Cell
from validation.reports.matrix import loss_matrix
from validation.reports.numbers import with_error


def general_text_table(reports: Mapping[str, Mapping[str, Any] | None]) -> str:
    """The table, below a line that explains it; "" if nothing was measured."""
    matrix = loss_matrix(reports)
    if matrix is None:
        return ""
    rows = [[name, *map(_kl, cells), *map(_bits, cells, matrix.dense)] for name, cells in matrix.rows.items()]
    words = (
        f"Lost elsewhere: KL on up to {matrix.texts} held-out texts of each task and on a general text; * marks a "
        "variant's own tasks; if it has one, its KL there is that on all held-out texts."
    )
    table = Table(["", *matrix.columns, *(f"{name}, bits/byte" for name in matrix.columns)], rows, first=1)
    return "\n".join([prose(words), table.text])


def _kl(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "-"
    return f"{Cell(with_error(cell['mean_kl_nats'], cell.get('mean_kl_nats_stderr'))).line}{'*' * cell['own']}"


def _bits(cell: Mapping[str, Any] | None, dense: float) -> str:
    return "-" if cell is None else f"{cell['bits_per_byte']:.3f} (dense {dense:.3f})"
