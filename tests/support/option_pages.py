"""What pages list of the options of an export, made from their fields; `make pages` writes it there."""

from __future__ import annotations

import re
import textwrap
from collections import defaultdict
from pathlib import Path
from typing import Literal, get_args, get_origin

from seap_export.api.export import ExportOptions
from seap_export.common.options import Declared, declared
from seap_export.common.values import members_of

DOCS = Path(__file__).parents[2] / "docs"
#: A list follows this line and ends at the next empty one.
_MARK = "<!-- options of an export; `make pages` writes them -->\n\n"


def _row(each: Declared) -> str:
    default = "none" if each.default in (None, ()) else f"`{str(each.default).lower()}`"
    (hint,) = members_of(each.hint)
    choices = (
        f" One of {', '.join(f'`{choice}`' for choice in get_args(hint))}." if get_origin(hint) is Literal else ""
    )
    return f"| `{each.name}` | {each.about.unset or default} | {each.about.help}{choices} |\n"


def _settings() -> str:
    rows = [_row(each) for each in declared(ExportOptions) if each.is_setting]
    return "".join(["| setting | default | meaning |\n| --- | --- | --- |\n", *rows])


def _arguments() -> str:
    """All arguments, by the titles of the command's help."""
    names = defaultdict[str, list[str]](list)
    for each in declared(ExportOptions):
        names["settings" if each.is_setting else each.about.title.lower() or "of Python alone"].append(
            f"`{each.name}`"
        )
    lines = (f"- {title}: {', '.join(names[title])}" for title in sorted(names, key="settings".__eq__))
    return "".join(textwrap.fill(line, 119, subsequent_indent="  ") + "\n" for line in lines)


def pages() -> dict[Path, str]:
    """The pages that have such a list, as they should be."""
    lists = {DOCS / "reference.md": _settings(), DOCS / "python.md": _arguments()}
    return {page: _with_list(page.read_text("utf-8"), listed) for page, listed in lists.items()}


def _with_list(text: str, listed: str) -> str:
    before, mark, after = text.partition(_MARK)
    assert mark, "the page says nowhere that a list follows"
    return before + mark + listed + after[re.search(r"\n(?=\n)", after).end() :]  # type: ignore[union-attr]


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, "utf-8", newline="\n")
