"""The settings file that repeats an export holds any text."""

from __future__ import annotations

import tomllib

import pytest

from seap_export.pipeline.card.recipe import _toml


@pytest.mark.parametrize(
    "text", ["plain", 'a "b" \\ c', "\t\n\r", "\x00\x1f", "\x7f", "Übung 😀", "a.b = c", ""], ids=repr
)
def test_every_text_is_read_back(text: str) -> None:
    values = {"model": text, "format": [text, text], "task": {text: text}, "mix": {text: {text: 2.0}}}
    assert tomllib.loads(_toml(values)) == values
