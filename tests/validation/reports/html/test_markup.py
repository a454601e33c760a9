from __future__ import annotations

from validation.reports.html.markup import Markup, join, pill, table, tag


def test_everything_but_markup_is_escaped() -> None:
    assert tag("p", "a < b & c", title='"x" <y>') == '<p title="&quot;x&quot; &lt;y&gt;">a &lt; b &amp; c</p>'
    assert tag("p", tag("b", "<i>")) == "<p><b>&lt;i&gt;</b></p>"
    assert join([Markup("<br>"), "<br>"]) == "<br>&lt;br&gt;"


def test_control_characters_and_halves_of_pairs_are_removed() -> None:
    assert tag("p", "a\x00\x1b\ud800\x7fb\n", title="\x01c") == '<p title="c">ab\n</p>'
    assert tag("p", "é 漢 😀") == "<p>é 漢 😀</p>"


def test_names_and_numbers_of_attributes() -> None:
    assert (
        tag("g", class_="a", text_anchor="end", x=1.0, y=2.345) == '<g class="a" text-anchor="end" x="1" y="2.35"></g>'
    )
    assert tag("g", y=200.0, height=0.0) == '<g y="200" height="0"></g>'


def test_verdicts_have_a_sign_and_a_word() -> None:
    assert pill("passed") == '<span class="pill passed">✓ passed</span>'
    assert pill("too noisy") == '<span class="pill too">≈ too noisy</span>'


def test_tables_scroll_and_name_their_rows_and_columns() -> None:
    text = table("Of <what>", ("Name", "Value"), [("short", "1"), (tag("code", "long/" * 6), "2")])
    assert text.startswith('<div class="scroll" tabindex="0" role="region" aria-label="Of &lt;what&gt;"><table>')
    assert '<th scope="col">Value</th>' in text
    assert '<th scope="row">short</th><td>1</td>' in text
    assert '<th scope="row" class="long"><code>long/long' in text
