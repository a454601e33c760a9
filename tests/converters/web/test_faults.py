"""Each planted fault is found, by the check that should find it, and named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.formats.web_faults import FAULTS, QUANTISED, Edit

from seap_export.errors import ArtifactError


def said(model: Any, check: str) -> list[str]:
    try:
        return list(getattr(model.format, check)(model.source, model.folder))
    except ArtifactError as error:
        return [str(error)]


@pytest.mark.planted("web")
@pytest.mark.parametrize(("edit", "check", "word"), [fault[1:] for fault in FAULTS], ids=[name for name, *_ in FAULTS])
def test_fault_is_found(webbed: Callable[..., Any], edit: Edit, check: str, word: str) -> None:
    model = webbed()
    edit(model)
    lines = said(model, check)
    assert any(word in line for line in lines), lines
    assert all("\n" not in line for line in lines)


@pytest.mark.planted("web")
@pytest.mark.parametrize(
    ("edit", "check", "word", "precision"),
    [(*fault[1:], precision) for fault, precision in zip(QUANTISED, ("q8", "q4", "q4", "q8"), strict=True)],
    ids=[name for name, *_ in QUANTISED],
)
def test_fault_in_blocks_is_found(
    webbed: Callable[..., Any], edit: Edit, check: str, word: str, precision: str
) -> None:
    model = webbed(precision=precision)
    edit(model)
    assert any(word in line for line in said(model, check))


def test_folder_of_another_precision_is_found(webbed: Callable[..., Any]) -> None:
    model = webbed(precision="q8")
    model.graph.rename(model.graph.with_name("model_q4.onnx"))
    lines = list(type(model.format)("q4").damages(model.source, model.folder))
    assert any("it was written as int8 and not as q4" in line for line in lines)
    assert any("transformers.js_config" in line for line in lines)
