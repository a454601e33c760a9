from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from seap_export.common.templates import check_path, check_template, is_index, look_up, render
from seap_export.errors import InputError

RECORD: dict[str, Any] = {
    "goal": "boil {water}",
    "n": 3,
    "share": 0.5,
    "ok": False,
    "none": None,
    "my field": "spaced",
    "flat.name": "dot",
    "flat[0]": "bracket",
    "choices": {"text": ["pot", "pan"], "a.b": "dotted", "0": "zero"},
}


def _error(call: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain\n", "plain\n"),
        ("Question: {goal}\nAnswer:", "Question: boil {water}\nAnswer:"),
        ("{n}{share}{ok}", "30.5False"),
        ("{my field}", "spaced"),
        ("{choices.text[1]} {choices[text][0]} {choices.text.0}", "pan pot pot"),
        ("{flat.name}{flat[0]}", "dotbracket"),
        ("{choices[a.b]}{choices[0]}{choices.0}", "dottedzerozero"),
        ("{{goal}} {{{goal}}}", "{goal} {boil {water}}"),
    ],
)
def test_fields_are_replaced_by_their_values(template: str, text: str) -> None:
    assert render(template, RECORD) == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{sol}", "field 'sol' is missing; fields there: 'a', 'b', 'c', 'd', 'e'"),
        ("{b.x}", "field 'b.x' is missing; fields there: 'y'"),
        ("{b.y[2]}", "field 'b.y[2]' is missing; the list there has 2 items, numbered from 0"),
        ("{b.y[²]}", "field 'b.y[²]' is missing; the list there has 2 items, numbered from 0"),
        ("{a.__class__}", "field 'a.__class__' is missing; the value there is 'text', which has no fields"),
        ("{c}", "field 'c' is null; drop the record or give it a value"),
        ("{b}", "field 'b' is neither a text nor a number; choose one of its items or another field"),
        ("{d}", "field 'd' is nan; drop the record or give it a value"),
        ("{e}", "field 'e' is -inf; drop the record or give it a value"),
    ],
)
def test_field_without_a_usable_value_is_named(template: str, message: str) -> None:
    record = {"a": "text", "b": {"y": [1, 2]}, "c": None, "d": math.nan, "e": -math.inf}
    assert _error(render, template, record) == message


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{a", "template '{a': expected '}' before end of string; write {{ and }} for literal braces"),
        ("{a:>9}", "template '{a:>9}': formats and conversions are not supported; write {a}"),
        *(
            (f"{{{field}}}", f"field '{field}' is malformed; write it as field, a.b, a[0] or a[key]")
            for field in ("", "a..b", "a[0]b")
        ),
    ],
)
def test_malformed_template_is_refused_with_and_without_a_record(template: str, message: str) -> None:
    assert _error(check_template, template) == message
    assert _error(render, template, {"a": [{"b": 1}]}) == message


def test_paths_give_values_of_any_type() -> None:
    assert look_up("choices.text", RECORD) == ["pot", "pan"]
    assert look_up("none", RECORD) is None
    check_path("a.b[0][key].c")
    assert _error(check_path, "{a}").startswith("field '{a}' is malformed")
    assert _error(render, "{a}", {}) == "field 'a' is missing; fields there: none"
    assert _error(render, "{a}", {"x\ny": 1}).endswith(r"'x\ny'")
    assert [is_index(text) for text in ("0", "12", "", "-1", "²", "1" * 10)] == [True, True, *[False] * 4]
