"""The class is imported when it is asked for, and its absence is one line."""

from __future__ import annotations

import sys

import pytest

from seap_export import optimum_onnx
from seap_export.errors import EnvironmentFailure


def test_without_optimum_onnx_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "seap_export.optimum_onnx.model", raising=False)
    monkeypatch.setitem(sys.modules, "optimum.onnxruntime", None)
    with pytest.raises(EnvironmentFailure) as caught:
        from seap_export.optimum_onnx import SeapORTModelForCausalLM  # noqa: F401
    message = str(caught.value)
    assert message.startswith("optimum-onnx cannot be imported (")
    assert "the extra 'optimum-onnx'" in message
    assert "\n" not in message


def test_other_names_are_unknown() -> None:
    assert not hasattr(optimum_onnx, "ORTModelForCausalLM")
