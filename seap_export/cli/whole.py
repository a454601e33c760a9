"""The whole model, merely rounded, in the output of `export`: rows of the table, and the variants that it beats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seap_export.cli.console import quoted

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


def remedies(
    rows: Mapping[str, Mapping[str, Any]], commands: Mapping[str, str], folder: Path, remark: str = ""
) -> dict[str, str]:
    """Where each whole model lies, or how it is made, by its name.

    Args:
        rows: The models, as a report has them.
        commands: The commands that make them, by name.
        folder: The output folder.
        remark: What is to be known before the command is run.
    """
    return {
        name: f"It is in {quoted(folder / name)}" if row.get("folder") else f"Make it with{remark}: {commands[name]}"
        for name, row in rows.items()
    }


def whole_legend(names: Iterable[str]) -> str:
    """What the rows of whole models are."""
    return (
        f"{', '.join(names)}: the whole model, merely rounded, measured beside the variants and kept if it is what to "
        "ship; for int4 with few of the calibration tokens."
    )


def beaten(result: ExportResult) -> Iterator[str]:
    """Variants that a whole model beats in all that was measured, with the command that makes the better file."""
    from validation.reports.whole import beaten as beaten_in

    for one in beaten_in({"variants": result.described, "whole": result.whole}):
        where = f"make it with: {result.commands[one.by]}" if one.command else f"use {result.path / one.by}"
        yield f"{one.variant} is {one.words}; {where}"
