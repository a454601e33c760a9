"""The table of variants as cells of text, one row per variant."""

from __future__ import annotations

from validation.reports.figures import Cell, main_figures
from validation.reports.numbers import NOTHING, count, figure, percent
from validation.reports.reading import Json, worst


def verdict_of(report: Json, variant: str | None) -> str:
    """The verdict of a variant or of the folder: failed if one check failed, skipped if all were."""
    return worst({check["verdict"] for check in report["checks"] if check["variant"] == variant})


def head() -> tuple[str, ...]:
    """The titles of the table's columns, without the one for the variant's name."""
    return ("Result", *(figure.head for figure in main_figures()), "Parity", "Removed", "Task")


def cells(report: Json, name: str) -> list[Cell]:
    """The cells of a variant's row, in the order of `head`."""
    variant = report["variants"][name]
    requested, parameters = variant["requested_ratio"], parameters_in_words(variant)
    removed = percent(variant["achieved_ratio"])
    asked = None if requested is None or percent(requested) == removed else f"{percent(requested)} asked"
    return [
        Cell(verdict_of(report, name)),
        *(figure.cell(variant) for figure in main_figures()),
        parity_cell(list(variant["parity"].values())),
        Cell(removed, ", ".join(part for part in (asked, parameters) if part)),
        Cell(variant["task"] or NOTHING, variant["method"] or ""),
    ]


def removed_in_words(variant: Json) -> str:
    """The share of weights that was removed and the number of parameters left, as far as these are known."""
    ratio = variant["achieved_ratio"]
    removed = None if ratio is None else f"{percent(ratio)} of weights removed"
    return ", ".join(part for part in (removed, parameters_in_words(variant)) if part)


def parameters_in_words(variant: Json) -> str | None:
    """The number of parameters that are left, in words; None if that is not known."""
    left, dense = variant["num_parameters"], variant["dense_parameters"]
    if left is None:
        return None
    return f"{count(left)} parameters" if dense is None else f"{count(left)} of {count(dense)} parameters"


def parity_cell(parities: list[Json]) -> Cell:
    """The verdict and the largest error of the only comparison; of several, the verdict of all and of each."""
    if not parities:
        return Cell(NOTHING)
    if len(parities) > 1:
        return Cell(
            worst([comparison["verdict"] for comparison in parities]),
            ", ".join(f"{comparison['runtime']} {comparison['verdict']}" for comparison in parities),
        )
    (parity,) = parities
    return Cell(parity["verdict"], f"max abs {figure(parity['max_abs'])}")
