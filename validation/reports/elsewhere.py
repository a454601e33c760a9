"""What was lost elsewhere: the divergence of each variant on the texts of every task and on a general text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from validation.reports.document import Table
from validation.reports.figures import divergence_of
from validation.reports.numbers import NOTHING, figure, with_error

_Cells = Mapping[str, Mapping[str, Any]]
_KL = ("mean_kl_nats", "mean_kl_nats_stderr")


def loss_table(reports: Mapping[str, Mapping[str, Any] | None]) -> Table | None:
    """A row for each variant, and two columns for each set of texts; None if nothing was measured.

    Args:
        reports: By variant its report of quality, or what the manifest repeats of it; None: there is none.
    """
    measured = {name: _cells(report) for name, report in reports.items()}
    measured = {name: cells for name, cells in measured.items() if cells}
    texts = {(name, cell["sha256"]): cell["texts"] for cells in measured.values() for name, cell in cells.items()}
    if not texts:
        return None
    columns = sorted(texts, key=lambda column: (" " in column[0], column))  # the general text, not a task, is last
    caption = (
        f"Lost elsewhere: KL on up to {max(texts.values())} held-out texts of each task and on a general text; * "
        "marks a variant's own tasks; if it has one, its KL there is that on all held-out texts"
    )
    head = ("Variant", *(name for name, _ in columns), *(f"{name}, bits/byte" for name, _ in columns))
    rows = [
        (variant, *(words(cells.get(name), digest) for words in (_kl, _bits) for name, digest in columns))
        for variant, cells in measured.items()
    ]
    return Table(caption, head, rows)


def _kl(cell: Mapping[str, Any] | None, digest: str) -> str:
    if cell is None or cell["sha256"] != digest:
        return NOTHING
    return f"{with_error(cell['mean_kl_nats'], cell.get('mean_kl_nats_stderr'))}{'*' * cell['own']}"


def _bits(cell: Mapping[str, Any] | None, digest: str) -> str:
    if cell is None or cell["sha256"] != digest:
        return NOTHING
    return f"{figure(cell['bits_per_byte'])} (dense {figure(cell['dense_bits_per_byte'])})"


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
