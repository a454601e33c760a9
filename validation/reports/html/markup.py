"""HTML and SVG as text; everything that is not markup already is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from validation.reports.reading import clean

_WORDS = {"passed": "✓ passed", "failed": "✗ failed", "skipped": "– skipped", "too noisy": "≈ too noisy"}
_TAGS = re.compile("<[^>]*>")
_LONG = 24  # letters


class Markup(str):
    """Text that is HTML; any other string is escaped when it is added to a page."""

    __slots__ = ()


def join(parts: Iterable[str]) -> Markup:
    """Concatenates parts and escapes those that are not markup."""
    return Markup("".join(part if isinstance(part, Markup) else html.escape(clean(part)) for part in parts))


def tag(name: str, *children: str, **attributes: str | float) -> Markup:
    """An element; `class_` means class, other underscores become hyphens, and numbers get at most two decimals."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def pill(verdict: str) -> Markup:
    """A verdict with its sign, word and colour."""
    return tag("span", _WORDS.get(verdict, verdict), class_=f"pill {verdict.split()[0]}")


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, is_prose: bool = False) -> Markup:
    """A table that scrolls if it is wider than the screen; the first column names the rows, and prose wraps."""
    lines = [tag("tr", _row_name(first), *(tag("td", cell) for cell in others)) for first, *others in rows]
    header = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head)))
    kind = {"class_": "prose"} if is_prose else {}
    inner = tag("table", tag("caption", caption), header, tag("tbody", *lines), **kind)
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _row_name(name: str) -> Markup:
    """The first cell of a row; a long name may wrap."""
    words = _TAGS.sub("", name) if isinstance(name, Markup) else name
    return tag("th", name, scope="row", **({"class_": "long"} if len(words) > _LONG else {}))


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return html.escape(clean(value))
    return f"{value:.2f}".rstrip("0").rstrip(".")
