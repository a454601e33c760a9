from __future__ import annotations

from pathlib import Path

import pytest
from support.models import micro_source
from support.product import GgufFormat, OnnxForm, OnnxFormat, write_onnx

from seap_export.errors import ArtifactError
from seap_export.pipeline.evaluation.memory import memory_of
from validation.session_memory import Calls, session_memory


def test_it_is_that_of_a_session_with_a_prompt_as_exports_time_it(tmp_path: Path) -> None:
    micro_source(tmp_path / "dense")
    (folder := tmp_path / "written").mkdir()
    write_onnx(tmp_path / "dense", folder, OnnxForm())
    expected = session_memory(folder / "model.onnx", [Calls(1, 128, 144)]).total
    assert memory_of(folder, OnnxFormat("fp32")) == expected
    assert memory_of(folder, GgufFormat("q8_0")) is None
    assert memory_of(folder, None) is None
    (folder / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        memory_of(folder, OnnxFormat("fp32"))
