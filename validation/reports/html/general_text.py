"""The section that shows what was lost elsewhere, as a heat map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from validation.reports.html.markup import Markup, join, table, tag
from validation.reports.html.matrix import STEPS, loss_matrix, step_of
from validation.reports.numbers import NOTHING, figure, with_error
from validation.reports.reading import Json

_WORDS = (
    "In colour: mean KL divergence from the dense model, nats per token, ± its standard error. Below it: bits per "
    "byte of text. A frame marks a task that the variant was made for."
)


def elsewhere_section(report: Json) -> Markup:
    """The divergence of every variant on the texts of every task and on a general text; nothing if none has it."""
    matrix = loss_matrix({name: variant["quality"] for name, variant in report["variants"].items()})
    if matrix is None:
        return Markup()
    rows = [("dense model", *(tag("span", _stacked(NOTHING, bits), class_="heat") for bits in matrix.dense))]
    rows += [(name, *map(_cell, cells)) for name, cells in matrix.rows.items()]
    caption = f"On up to {matrix.texts} held-out texts of each task, and on a general text"
    return tag(
        "section",
        tag("h2", "What was lost elsewhere"),
        tag("p", _WORDS, class_="quiet"),
        table(caption, ("Variant", *matrix.columns), rows),
        _legend(),
        id="elsewhere",
    )


def _cell(cell: Mapping[str, Any] | None) -> Markup | str:
    if cell is None:
        return NOTHING
    kl = with_error(cell["mean_kl_nats"], cell.get("mean_kl_nats_stderr"))
    kind = f"heat h{step_of(cell['mean_kl_nats'])}{' own' if cell['own'] else ''}"
    return tag("span", _stacked(kl, cell["bits_per_byte"]), class_=kind)


def _stacked(main: str, bits: float) -> Markup:
    return join([main, tag("small", figure(bits))])


def _legend() -> Markup:
    """The colours, each with the divergences that have it."""
    bounds = [figure(step) for step in STEPS]
    words = [f"below {bounds[0]}", *(f"from {bound}" for bound in bounds)]
    return tag("p", *(tag("span", word, class_=f"heat word h{step}") for step, word in enumerate(words)))
