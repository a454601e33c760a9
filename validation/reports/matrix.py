"""The loss matrix: the divergence of each variant on the texts of every task and on a general text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from validation.reports.figures import divergence_of

#: Mean KL, in nats per token, from which a cell of a heat map gets the next darker colour.
STEPS = (0.03, 0.1, 0.3, 1.0, 3.0)
_Cells = Mapping[str, Mapping[str, Any]]
_KL = ("mean_kl_nats", "mean_kl_nats_stderr")


@dataclass(frozen=True)
class LossMatrix:
    """The divergence of each variant on each set of texts."""

    columns: tuple[str, ...]
    dense: tuple[float, ...]
    rows: Mapping[str, tuple[Mapping[str, Any] | None, ...]]
    texts: int


def step_of(mean_kl: float) -> int:
    """How many of `STEPS` a divergence has reached."""
    return sum(mean_kl >= step for step in STEPS)


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
