"""The loss matrix: the divergence of each variant on the texts of every task and on a general text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from validation.reports.document import Table
from validation.reports.figures import divergence_of
from validation.reports.numbers import NOTHING, with_error

_Cells = Mapping[str, Mapping[str, Any]]
_KL = ("mean_kl_nats", "mean_kl_nats_stderr")


@dataclass(frozen=True)
class LossMatrix:
    """The divergence of each variant on each set of texts."""

    columns: tuple[str, ...]
    dense: tuple[float, ...]
    rows: Mapping[str, tuple[Mapping[str, Any] | None, ...]]
    texts: int


def loss_table(reports: Mapping[str, Mapping[str, Any] | None]) -> Table | None:
    """The table of all variants; None if nothing was measured. See `loss_matrix`."""
    matrix = loss_matrix(reports)
    if matrix is None:
        return None
    caption = (
        f"Lost elsewhere: KL on up to {matrix.texts} held-out texts of each task and on a general text; * marks a "
        "variant's own tasks; if it has one, its KL there is that on all held-out texts"
    )
    head = ("Variant", *matrix.columns, *(f"{name}, bits/byte" for name in matrix.columns))
    rows = [(name, *map(_kl, cells), *map(_bits, cells, matrix.dense)) for name, cells in matrix.rows.items()]
    return Table(caption, head, rows)


def _kl(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return NOTHING
    return f"{with_error(cell['mean_kl_nats'], cell.get('mean_kl_nats_stderr'))}{'*' * cell['own']}"


def _bits(cell: Mapping[str, Any] | None, dense: float) -> str:
    return NOTHING if cell is None else f"{cell['bits_per_byte']:.3f} (dense {dense:.3f})"


def loss_matrix(reports: Mapping[str, Mapping[str, Any] | None]) -> LossMatrix | None:
    """Makes the matrix from reports of quality; None if none of them has such figures.

    Args:
        reports: By variant its report, or what the manifest repeats of it; None: there is none.
    """
    measured = {name: _cells(report) for name, report in reports.items()}
    measured = {name: cells for name, cells in measured.items() if cells}
    if not measured:
        return None
    columns: dict[tuple[str, str], Mapping[str, Any]] = {}
    for cells in measured.values():
        for name, cell in cells.items():
            columns.setdefault((name, cell["sha256"]), cell)
    ordered = sorted(
        columns, key=lambda column: (" " in column[0], column[0])
    )  # the general text, not a task, is last
    return LossMatrix(
        columns=tuple(name for name, _ in ordered),
        dense=tuple(columns[column]["dense_bits_per_byte"] for column in ordered),
        rows={
            variant: tuple(_in_column(cells, name, digest) for name, digest in ordered)
            for variant, cells in measured.items()
        },
        texts=max(cell["texts"] for cell in columns.values()),
    )


def _cells(report: Mapping[str, Any] | None) -> _Cells:
    """The figures by set of texts, of the form that was measured.

    The KL on a variant's only task is that on all its held-out texts, which other tables show too.
    """
    cells: _Cells = next(iter((report or {}).get("elsewhere", {}).values()), {})
    own, divergence = [name for name, cell in cells.items() if cell["own"]], divergence_of(report)
    if len(own) == 1 and divergence is not None:
        of_all = {key: divergence[key] for key in _KL if key in divergence}
        cells = {**cells, own[0]: {**cells[own[0]], **of_all}}
    return cells


def _in_column(cells: _Cells, name: str, digest: str) -> Mapping[str, Any] | None:
    cell = cells.get(name)
    return None if cell is None or cell["sha256"] != digest else cell
