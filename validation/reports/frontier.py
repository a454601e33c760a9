"""The candidates of an export with targets, in words: what the terminal and the page share."""

from __future__ import annotations

from validation.estimate import is_close
from validation.reports.figures import KL, TOP1, Cell
from validation.reports.numbers import NOTHING, signed_with_error, times
from validation.reports.reading import Json
from validation.reports.speedups import interval_in_words, speedup_in_words

#: The titles of `frontier_cells`.
FRONTIER_HEAD = ("KL", "KL - chosen", "top-1", "decode, ideal", "decode, measured")


def frontier_cells(point: Json) -> tuple[Cell, ...]:
    """A candidate's figures, as in `FRONTIER_HEAD`; its KL is compared with the chosen one's on the same texts."""
    low, high = point.get("decode_speedup_low"), point.get("decode_speedup_high")
    timed = point["decode_speedup"]
    return (
        KL.cell({"quality": point}),
        _beside_chosen(point),
        TOP1.cell({"quality": point}),
        Cell(f"{times(point['decode_ideal_speedup'])}×"),
        Cell(NOTHING) if timed is None else Cell(speedup_in_words(timed, low, high), interval_in_words(low, high)),
    )


def _beside_chosen(point: Json) -> Cell:
    more, error = point.get("kl_difference"), point.get("kl_difference_stderr")
    if more is None:
        return Cell(NOTHING)
    return Cell(signed_with_error(more, error), "too close to tell" if is_close(more, error, 0.0) else "")


def written(point: Json) -> str:
    """The format, the precision and the vocabulary of a candidate, in words."""
    precision = f"{point['format']} {point['precision']}"
    return precision if point["vocabulary"] == "all" else f"{precision}, vocabulary {point['vocabulary']}"


def state(point: Json) -> str:
    """The outcome of a candidate: not made, chosen, beaten, or "" if nothing beats it and it was not chosen."""
    if point["key"] is None:
        return "not made"
    return "chosen" if point["chosen"] else "beaten" if point["beaten"] else ""
