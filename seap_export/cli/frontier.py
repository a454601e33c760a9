"""The output of `export` with targets: tables of the evaluated candidates, or in a dry run of the first ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seap_export.cli.console import megabytes
from seap_export.cli.window import Table, prose
from validation.reports.frontier import frontier_table, written


def frontier_text(frontier: Mapping[str, Any]) -> str:
    """A table of each task's candidates by size, and lines that explain it."""
    points = [point for task in frontier["tasks"].values() for point in task["points"]]
    table = Table.of(frontier_table(frontier), first=5)
    return "\n".join([table.text, "", *table.legend(_legend(frontier, points))])


def _legend(frontier: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    yield (
        "candidate",
        "Candidates that were evaluated, by size. Beaten: another is no larger, and nearer to the original.",
    )
    if any(point["key"] is None for point in points):
        yield "candidate", "Not made: the dense model, unquantised and too large; its KL counts as 0."
    yield "KL", "KL: distance from the dense model on the held-out texts, nats per token, +- standard error."
    yield "KL - chosen", "KL - chosen: the difference from the chosen one, paired on the same texts."
    over = f"Decode: speed-up over the dense model in {frontier['speedups_over']}"
    yield "decode, ideal", f"{over}; ideal if time were proportional to the bytes read; none if it may be 1."


def candidates_text(candidates: Sequence[Mapping[str, Any]]) -> str:
    """A table of the candidates that a search would try first, for a dry run."""
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
        lines = ["Nothing is predicted to meet the targets; the export tries what comes nearest, and may choose none."]
    beyond = dict.fromkeys(written(candidate) for candidate in candidates if not candidate["fits"])
    if beyond:
        lines.append(f"Measured to predict these, but beyond the target: the whole model in {', '.join(beyond)}.")
    head = ["candidate", "written as", "size, about", "decode, ideal"]
    head += ["first token, about"] if any("first_token_ms_about" in one for one in candidates) else []
    return "\n".join([*([Table(head, rows).text] if rows else []), *map(prose, lines)])
