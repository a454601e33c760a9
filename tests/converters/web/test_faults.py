"""Each planted fault is found, by the check that should find it, and named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.web_faults import FAULTS, QUANTISED, Edit

from seap_export.errors import ArtifactError


def said(own: Any, check: str) -> list[str]:
    try:
        return list(getattr(own.format, check)(own.source, own.folder))
    except ArtifactError as error:
        return [str(error)]


@pytest.mark.parametrize(("edit", "check", "word"), [fault[1:] for fault in FAULTS], ids=[name for name, *_ in FAULTS])
def test_fault_is_found(webbed: Callable[..., Any], edit: Edit, check: str, word: str) -> None:
    own = webbed()
    assert [*said(own, "damages"), *said(own, "differences")] == []
    edit(own)
    lines = said(own, check)
    assert any(word in line for line in lines), lines
    assert all("\n" not in line for line in lines)


@pytest.mark.parametrize("precision", ["q8", "q4"])
@pytest.mark.parametrize(
    ("edit", "check", "word"), [fault[1:] for fault in QUANTISED], ids=[name for name, *_ in QUANTISED]
)
def test_fault_in_blocks_is_found(
    webbed: Callable[..., Any], edit: Edit, check: str, word: str, precision: str
) -> None:
    own = webbed(precision=precision)
    edit(own)
    assert any(word in line for line in said(own, check))


def test_folder_of_another_precision_is_found(webbed: Callable[..., Any]) -> None:
    own = webbed(precision="q8")
    own.graph.rename(own.graph.with_name("model_q4.onnx"))
    lines = list(type(own.format)("q4").damages(own.source, own.folder))
    assert any("model_quantized.onnx_data" in line for line in lines)
    assert any("transformers.js_config" in line for line in lines)
