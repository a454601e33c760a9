"""Three tiles for each variant: how much smaller, faster and worse it is than the dense model."""

from __future__ import annotations

from collections.abc import Mapping

from validation.reports.figures import Cell, Figure, Tile, main_figures
from validation.reports.html.markup import Markup, join, pill, table, tag
from validation.reports.numbers import NOTHING, percent
from validation.reports.reading import Json, written_answers
from validation.reports.variants import cells, head, parameters_in_words, verdict_of

#: The tiles in order, and the check that says why one is empty.
_TILES: Mapping[Tile, str | None] = {"smaller": None, "faster": "speed", "worse": "quality"}
_SPEED_NOTE = (
    "The interval of a speed-up contains the true median in at least 15 of 16 cases. If it contains 1, no speed-up "
    "has been shown. "
)
_QUALITY_NOTE = (
    "KL says how far the variant's predictions are from the dense model's on held-out texts: 0 if they are the same. "
    "± is its standard error over these texts. The quantisations of llama.cpp are a yardstick, measured on another "
    "model and on other texts."
)


def variants_section(report: Json, anchors: Mapping[str, str]) -> Markup:
    """The tiles, what they mean, and a table to compare variants; empty if there are none."""
    if not anchors:
        return Markup()
    variants = report["variants"].values()
    notes = _SPEED_NOTE if any(variant["speed"] for variant in variants) else ""
    notes += _QUALITY_NOTE if any(variant["quality"] for variant in variants) else ""
    notes = f"{notes} {written_answers(report['tasks'])}".strip()
    parts: list[Markup] = [_variant(report, name, anchor) for name, anchor in anchors.items()]
    if notes:
        parts.append(tag("p", notes, class_="quiet note"))
    if len(anchors) > 1:
        rows = [
            (tag("a", name, href=f"#{anchor}"), *map(_cell, cells(report, name))) for name, anchor in anchors.items()
        ]
        parts.append(table("All variants, compared with the dense model", ("Variant", *head()), rows))
    return tag("section", tag("h2", "Compared with the dense model"), *parts, id="variants")


def _variant(report: Json, name: str, anchor: str) -> Markup:
    """The name and the verdict of a variant, what was removed, and the tiles."""
    variant = report["variants"][name]
    removed = None if variant["achieved_ratio"] is None else f"{percent(variant['achieved_ratio'])} of weights removed"
    words = [part for part in (removed, parameters_in_words(variant)) if part]
    title = tag("h3", tag("a", name, href=f"#{anchor}"), " ", pill(verdict_of(report, name)))
    tiles = [_tile(report, name, tile, check) for tile, check in _TILES.items()]
    return tag("article", title, tag("p", ", ".join(words), class_="quiet"), tag("div", *tiles, class_="tiles"))


def _tile(report: Json, name: str, tile: Tile, check: str | None) -> Markup:
    """The figures of a tile, the first one large; why there are none, if there are none."""
    shown = [(figure, figure.cell(report["variants"][name])) for figure in main_figures(tile)]
    measured = [(figure, cell) for figure, cell in shown if cell.main != NOTHING]
    parts = [_figure(figure, cell) for figure, cell in measured]
    if not parts:
        notes = [
            note
            for skipped in report["checks"]
            if (skipped["variant"], skipped["check"], skipped["verdict"]) == (name, check, "skipped")
            for note in skipped["notes"]
        ]
        told = [tag("p", note) for note in notes]
        parts = [tag("div", tag("p", tag("b", "not measured"), class_="value none"), *told)]
    return tag("div", tag("h4", tile.capitalize()), *parts, class_=f"tile {tile}")


def _figure(figure: Figure, cell: Cell) -> Markup:
    """A figure, what it is, and its details."""
    kind = "value" if any(letter.isdigit() for letter in cell.main) else "value none"
    number, sign, error = cell.main.partition(" ±")
    value = tag("p", tag("b", number), tag("span", f"{sign}{error} {figure.words}"), class_=kind)
    return tag("div", value, *(tag("p", line) for line in cell.details))


def _cell(cell: Cell) -> Markup:
    """The main text of a cell, and below it what it adds."""
    main = pill(cell.main) if cell.main in ("passed", "failed", "skipped") else tag("span", cell.main)
    return join([main, tag("small", cell.brief)])
