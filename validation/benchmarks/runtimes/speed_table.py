"""The table of one model in every runtime as Markdown, dense beside pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from validation.benchmarks.runtimes.contest import Entry, Figures

__all__ = ["speed_table"]

_HEAD = ("runtime", "format", "model", "MB", "first token, ms", "tokens a second", "KL to dense, nats")


def speed_table(entries: Mapping[Entry, Figures]) -> str:
    """A row for each entry; those without figures say why."""
    lines = [_row(_HEAD), _row(["---"] * len(_HEAD))]
    for entry, figures in entries.items():
        model = entry.model if not entry.maker else f"{entry.model}, {entry.maker}"
        start = (entry.runtime, f"`{entry.format}:{entry.precision}`", model)
        if figures.reason:
            lines.append(_row([*start, figures.reason.replace("|", "\\|"), "", "", ""]))
            continue
        size = _text(figures.size, 1e-6, ".1f")
        times = (_text(figures.first_s, 1e3, ".1f"), _text(figures.tokens_per_s, 1.0, ".1f"))
        lines.append(_row([*start, size, *times, _text(figures.mean_kl, 1.0, ".4f")]))
    return "\n".join(lines)


def _text(value: float | None, factor: float, form: str) -> str:
    return "" if value is None else format(value * factor, form)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
