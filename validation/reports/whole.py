"""The rounded whole model beside the variants, in words for the terminal, the page and the card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from validation.reports.figures import Cell, divergence_of
from validation.reports.numbers import NOTHING, figure, megabytes, milliseconds, times
from validation.reports.reading import Json
from validation.reports.speedups import speedups

#: The titles of `speed_cells`: absolute figures, which compare models of different precisions.
SPEED_HEAD = ("tokens/s", "first token")


@dataclass(frozen=True)
class Beaten:
    """A variant that a whole model beats.

    Attributes:
        command: The command that makes the better file; "" if that is there.
    """

    variant: str
    by: str
    words: str
    command: str


def rows(report: Json) -> dict[str, Json]:
    """The whole models that were measured, by name; those that were refused are in the report alone."""
    return {name: row for name, row in (report.get("whole") or {}).items() if not row["refusal"]}


def speed_cells(row: Json) -> tuple[Cell, Cell]:
    """How many tokens a second are decoded, and after which time the first one of an answer is there."""
    decode, prefill = (speedups(row["speed"], kind) for kind in ("decode", "prefill"))
    return (
        Cell(figure(1e3 * decode[0].batch / decode[0].ms)) if decode else Cell(NOTHING),
        Cell(milliseconds(prefill[0].ms)) if prefill else Cell(NOTHING),
    )


def beaten(report: Json) -> list[Beaten]:
    """The variants that a whole model beats."""
    found = []
    for name, variant in report["variants"].items():
        by = variant.get("beaten_by")
        if by is not None:
            row = (report.get("whole") or {}).get(by) or report["variants"][by]
            size = row["bytes"] if isinstance(row["bytes"], int) else row["bytes"][_folder(row)]
            words = [*_compared(variant["bytes"][_folder(variant)], variant, size, row)]
            command = "" if row.get("folder") else row.get("command", "")
            better = f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
            found.append(Beaten(name, by, f"beaten by {_title(by, row)}, which is {better}", command))
    return found


def _title(name: str, row: Json) -> str:
    return f"the whole model in {row['precision']}" if "precision" in row else f"the whole model, {name}"


def _compared(size: int, variant: Json, other_size: int, other: Json) -> Iterator[str]:
    yield f"smaller ({megabytes(other_size)} instead of {megabytes(size)})"
    own, better = (speedups(either["speed"], "decode") for either in (variant, other))
    if own and better:
        faster, slower = times(better[0].value), times(own[0].value)
        yield f"faster ({faster}× the dense model's decode speed instead of {slower}×)"
    divergences = [divergence_of(either["quality"]) for either in (variant, other)]
    if divergences[0] is not None and divergences[1] is not None:
        kl, less = (figure(divergence["mean_kl_nats"]) for divergence in divergences if divergence is not None)
        yield f"nearer to the original (KL {less} instead of {kl})"


def _folder(variant: Json) -> str:
    figures = variant["quality"] or variant["speed"] or {}
    return str(figures.get("folder", next(iter(variant["formats"]), "hf")))
