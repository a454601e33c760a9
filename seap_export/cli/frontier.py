"""The output of `export` with targets: tables of the evaluated candidates, or in a dry run of the first ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seap_export.cli.console import megabytes, table


def frontier_text(frontier: Mapping[str, Any]) -> str:
    """A table of each task's candidates by size, and lines that explain it."""
    from validation.reports.frontier import frontier_cells, frontier_head, state, written

    targets = frontier["targets"]
    rows = [
        [
            point["variant"],
            written(point),
            megabytes(point["bytes"]),
            *(cell.line for cell in frontier_cells(point, targets)),
            state(point),
        ]
        for task in frontier["tasks"].values()
        for point in task["points"]
    ]
    head = ["candidate", "written as", "size", *frontier_head(targets), ""]
    return f"{table(head, rows)}\n\n" + "\n".join(_legend(frontier))


def _legend(frontier: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "Candidates that were evaluated, by size. KL (nats per token, +- its standard error) and top-1: against the "
        "dense model, on the held-out texts,"
    )
    yield "on which the choice is based. KL - chosen: the difference from the chosen one, paired on the same texts."
    yield "Beaten: another is no larger, and nearer to the dense model."
    if any(point["key"] is None for task in frontier["tasks"].values() for point in task["points"]):
        yield "Not made: the dense model, unquantised and too large; its KL counts as 0."
    yield (
        f"Decode: speed-up over the dense model in {frontier['speedups_over']}; ideal if time were proportional to "
        "the bytes that are read. If the interval in brackets contains 1, there is no speed-up."
    )


def candidates_text(candidates: Sequence[Mapping[str, Any]]) -> str:
    """A table of the candidates that a search would try first, for a dry run."""
    from validation.reports.frontier import written

    rows = [
        [
            candidate["variant"],
            written(candidate),
            megabytes(candidate["bytes_about"]),
            f"{candidate['decode_ideal_speedup']:.2f}x",
            *([f"{candidate['first_token_ms_about']:.0f} ms"] if "first_token_ms_about" in candidate else []),
        ]
        for candidate in candidates
        if candidate["fits"]
    ]
    lines = ["Tried first; what is measured decides about further ones, and --max-kl about all their ratios."]
    if not rows:
        lines = [
            "Nothing is predicted to meet the targets; the export tries what comes nearest, and may choose nothing."
        ]
    beyond = dict.fromkeys(written(candidate) for candidate in candidates if not candidate["fits"])
    if beyond:
        lines.append(f"Measured to predict these, but beyond the target: the whole model in {', '.join(beyond)}.")
    head = ["candidate", "written as", "size, about", "decode, ideal"]
    head += ["first token, about"] if any("first_token_ms_about" in one for one in candidates) else []
    return "\n".join([table(head, rows), *lines])
