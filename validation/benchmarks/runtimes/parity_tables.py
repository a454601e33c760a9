"""The parity tables as Markdown: one for each runtime, families by precisions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from validation.benchmarks.runtimes.cells import Cell, Outcome
from validation.benchmarks.runtimes.small_models import KINDS

__all__ = ["parity_tables"]


def parity_tables(outcomes: Mapping[Cell, Outcome]) -> str:
    """The tables, the reasons of refusals below each, in the order of the cells."""
    runtimes = dict.fromkeys((cell.runtime, cell.format) for cell in outcomes)
    parts = []
    for runtime, form in runtimes:
        of_runtime = {cell: one for cell, one in outcomes.items() if (cell.runtime, cell.format) == (runtime, form)}
        parts.append(_table(runtime, form, of_runtime))
    return "\n\n".join(parts)


def _table(runtime: str, form: str, outcomes: Mapping[Cell, Outcome]) -> str:
    precisions = list(dict.fromkeys(cell.precision for cell in outcomes))
    notes: dict[str, int] = {}
    lines = [_row(["family", *precisions]), _row(["---"] * (1 + len(precisions)))]
    for family in dict.fromkeys(cell.family for cell in outcomes):
        cells = []
        for precision in precisions:
            pair = [outcomes.get(Cell(runtime, form, precision, family, kind)) for kind in KINDS]
            cells.append(_pair([_text(one, precision, notes) for one in pair]))
        lines.append(_row([f"`{family}`", *cells]))
    versions = dict(pair for one in outcomes.values() for pair in one.versions)
    ran = ", ".join(f"{name} {version}" for name, version in versions.items())
    title = f"### {runtime}, format `{form}`" + (f"\n\nRun with {ran}." if ran else "")
    below = [f"{number}. {reason}" for reason, number in notes.items()]
    return "\n".join([title, "", *lines, *(["", *below] if below else [])])


def _text(outcome: Outcome | None, precision: str, notes: dict[str, int]) -> str:
    if outcome is None or outcome.state == "missing":
        return ""
    if outcome.state == "passed":
        return _figure(outcome, precision)
    number = notes.setdefault(_general(outcome.reason), len(notes) + 1)
    return f"{'refused' if outcome.state == 'refused' else '**FAILED**'} ({number})"


def _figure(outcome: Outcome, precision: str) -> str:
    """The largest difference of a logit if everything is float32, or else the divergence."""
    value = outcome.max_abs if re.fullmatch(r"f(p|)32", precision) else outcome.mean_kl
    return "" if value is None else f"{value:.0e}"


def _pair(texts: Sequence[str]) -> str:
    """One text for both models if it is the same."""
    first, second = texts
    if not first and not second:
        return ""
    return first if first == second else f"{first or '-'} / {second or '-'}"


def _general(reason: str) -> str:
    """A reason without what differs between families and tensors, so that the list below a table stays short."""
    line = " ".join(reason.split()).replace("|", "\\|")
    return re.sub(r"this \w+ model", "the model", line)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
