from __future__ import annotations

from typing import Any

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from validation.reports import html_page
from validation.reports.html.page import templates

SHARED: Any = templates().get_template("shared.html.jinja").module


def test_everything_but_markup_is_escaped() -> None:
    assert SHARED.link("a < b & c", '"x" <y>') == '<a href="#&#34;x&#34; &lt;y&gt;">a &lt; b &amp; c</a>'
    assert SHARED.code(SHARED.code("<i>")) == "<code><code>&lt;i&gt;</code></code>"
    assert SHARED.stacked(Markup("<br>"), "<br>") == "<br><small>&lt;br&gt;</small>"


def test_control_characters_and_halves_of_pairs_are_removed(passing: dict[str, Any]) -> None:
    page = html_page({**passing, "name": "a\x00\x1b\ud800\x7fb\n", "versions": {"\x01c": "é 漢 😀"}})
    assert "<h1>ab\n</h1>" in page
    assert '<tr><th scope="row">c</th><td>é 漢 😀</td></tr>' in page


def test_what_a_report_lacks_is_no_empty_text(passing: dict[str, Any]) -> None:
    del passing["variants"]["arithmetic-0.2"]["layers"][0]["kept"]
    with pytest.raises((KeyError, UndefinedError), match="kept"):
        html_page(passing)
