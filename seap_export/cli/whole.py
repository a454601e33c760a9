"""The whole model, merely rounded, in the output of `export`: rows of the table, and the variants that it beats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seap_export.api.results import ExportResult


def speed_heads() -> tuple[str, ...]:
    """The headings of the columns of absolute speeds."""
    from validation.reports.whole import SPEED_HEAD

    return SPEED_HEAD


def speed_cells(row: Mapping[str, Any]) -> list[str]:
    """The absolute speeds of a variant or a whole model; a dash if not measured."""
    from validation.reports.whole import speed_cells

    return [cell.line for cell in speed_cells(row)]


def measured_models(result: ExportResult) -> dict[str, Mapping[str, Any]]:
    """The whole models that were measured, by name; those that were refused are in the JSON alone."""
    from validation.reports.whole import rows

    return dict(rows({"whole": result.whole}))


def whole_legend(names: Iterable[str]) -> str:
    """What the rows of whole models are."""
    return (
        f"{', '.join(names)}: the whole model, merely rounded, measured beside the variants and not kept; for int4 "
        "with few of the calibration tokens."
    )


def beaten(result: ExportResult) -> Iterator[str]:
    """Variants that a whole model beats in all that was measured, with the command that makes the better file."""
    from validation.reports.whole import beaten as beaten_in

    for one in beaten_in({"variants": result.described, "whole": result.whole}):
        where = f"make it with: {result.commands[one.by]}" if one.command else f"use {result.path / one.by}"
        yield f"{one.variant} is {one.words}; {where}"
