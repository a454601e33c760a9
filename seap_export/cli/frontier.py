"""What `export` prints of the candidates that it evaluated to meet targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seap_export.cli.console import megabytes, table

__all__ = ["candidates_text", "frontier_text"]

_HEAD = ("candidate", "written as", "size", "KL", "top-1", "decode, ideal", "measured", "")


def frontier_text(frontier: Mapping[str, Any]) -> str:
    """A table of each task's points by size, and what it says."""
    rows = [_row(point) for task in frontier["tasks"].values() for point in task["points"]]
    return f"{table(_HEAD, rows)}\n\n" + "\n".join(_legend(frontier))


def _row(point: Mapping[str, Any]) -> list[str]:
    from validation.reports.figures import KL, TOP1

    timed = point["decode_speedup"]
    return [
        point["variant"],
        _written(point),
        megabytes(point["bytes"]),
        *(figure.cell({"quality": point}).line for figure in (KL, TOP1)),
        f"{point['decode_ideal_speedup']:.2f}x",
        "-" if timed is None else f"{timed:.2f}x",
        _state(point),
    ]


def _written(point: Mapping[str, Any]) -> str:
    precision = f"{point['format']} {point['precision']}"
    return precision if point["vocabulary"] == "all" else f"{precision}, vocabulary {point['vocabulary']}"


def _state(point: Mapping[str, Any]) -> str:
    if point["key"] is None:
        return "not made"
    return "chosen" if point["chosen"] else "beaten" if point["beaten"] else ""


def _legend(frontier: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "Candidates that were evaluated, by size. KL (nats per token) and top-1: against the dense model, on the "
        "held-out texts,"
    )
    yield "which the choice was made on. Beaten: another is no larger, and nearer to the dense model."
    if any(point["key"] is None for task in frontier["tasks"].values() for point in task["points"]):
        yield "Not made: the dense model, unquantised and too large; its KL counts as 0."
    yield (
        f"Decode: speed-up over the dense model in {frontier['speedups_over']}; ideal if time were proportional to "
        "the bytes that are read."
    )


def candidates_text(candidates: Sequence[Mapping[str, Any]]) -> str:
    """What a search would try first."""
    rows = [
        [
            candidate["variant"],
            _written(candidate),
            megabytes(candidate["bytes_about"]),
            f"{candidate['decode_ideal_speedup']:.2f}x",
        ]
        for candidate in candidates
    ]
    remark = "Tried first; what is measured decides about further ones, and --max-kl about all their ratios."
    return f"{table(['candidate', 'written as', 'size, about', 'decode, ideal'], rows)}\n{remark}"
