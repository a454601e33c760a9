"""The rounded whole model beside the variants, in words for the terminal, the page and the card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from validation.reports.figures import divergence_of
from validation.reports.numbers import figure, megabytes, times
from validation.reports.reading import Json
from validation.reports.speedups import speedups


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
