from __future__ import annotations

from typing import Any

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from validation.reports import html_page
from validation.reports.figures import Cell
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


def test_verdicts_have_a_sign_and_a_word() -> None:
    assert SHARED.pill("passed") == '<span class="pill passed">✓ passed</span>'
    assert SHARED.pill("too noisy") == '<span class="pill too">≈ too noisy</span>'


def test_a_figure_has_what_tables_add_below_it() -> None:
    row = SHARED.row("a", Cell("failed", "why"), Cell("1.5 ± 0.1"))
    pill = '<span class="pill failed">✗ failed</span>'
    assert row == f'<tr><th scope="row">a</th><td>{pill}<small>why</small></td><td>1.5 ± 0.1</td></tr>'


def test_tables_scroll_and_name_their_rows_and_columns() -> None:
    text = SHARED.table("Of <what>", ("Name", "Value"), [("short", "1"), (SHARED.code("long/" * 6), "2")])
    start = '<div class="scroll" tabindex="0" role="region" aria-label="Of &lt;what&gt;"><table>'
    assert text.replace("\n", "").startswith(start)
    assert '<th scope="col">Value</th>' in text
    assert '<th scope="row">short</th><td>1</td>' in text
    assert '<th scope="row" class="long"><code>long/long' in text
