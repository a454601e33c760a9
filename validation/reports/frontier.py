"""The candidates of an export with targets, in words: what the terminal and the page share."""

from __future__ import annotations

from validation.estimate import is_close
from validation.reports.document import Cell, Table
from validation.reports.figures import TOP1
from validation.reports.numbers import NOTHING, figure, megabytes, milliseconds, signed_with_error, times, with_error
from validation.reports.reading import Json
from validation.reports.speedups import interval_in_words, speedup_in_words

_HEAD = (
    "Candidate", "Written as", "Size", "KL", "Result", "KL - chosen", "Top-1", "Decode, ideal", "Decode, measured",
)  # fmt: skip


def frontier_table(frontier: Json) -> Table:
    """The candidates that were evaluated, by size; its KL is compared with the chosen one's on the same texts."""
    asked = frontier["targets"].get("first_token")
    points = [point for task in frontier["tasks"].values() for point in task["points"]]
    head = _HEAD if asked is None else (*_HEAD, f"First of {asked['tokens']}")
    return Table("Candidates, by size", head, [_row(point, is_timed=asked is not None) for point in points])


def _row(point: Json, *, is_timed: bool) -> list[str | Cell]:
    low, high = point.get("decode_speedup_low"), point.get("decode_speedup_high")
    timed = point["decode_speedup"]
    return [
        point["variant"],
        written(point),
        megabytes(point["bytes"]),
        kl_cell(point),
        Cell(state(point)),
        _beside_chosen(point),
        TOP1.cell({"quality": point}),
        Cell(f"{times(point['decode_ideal_speedup'])}×"),
        Cell(NOTHING) if timed is None else Cell(speedup_in_words(timed, low, high), interval_in_words(low, high)),
        *([_first_token(point)] if is_timed else []),
    ]


def kl_cell(point: Json) -> Cell:
    """The KL of a candidate or a file, and in brackets the part of it that stands for dropped tokens."""
    lost = point.get("lost_kl_nats")
    words = f"{figure(lost)} of it for dropped tokens" if lost else ""
    return Cell(with_error(point["mean_kl_nats"], point.get("mean_kl_nats_stderr")), words)


def _first_token(point: Json) -> Cell:
    ms, speedup = point.get("first_token_ms"), point.get("first_token_speedup")
    return Cell(NOTHING) if ms is None or speedup is None else Cell(milliseconds(ms), f"{times(speedup)}×")


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
